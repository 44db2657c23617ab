"""One cached object, open: its data file and its map (``core.cache_map``).

Synchronous, for any thread. Reads are verified each time, and whatever does not pass is a miss. Nothing here
knows of limits: who stores has made room, and who drops holds the lock that keeps those who store out
(``files.object_cache``).
"""

import os
import struct
import threading

import google_crc32c

from bucketry.core.bytes_like import BytesLike
from bucketry.core.cache_map import (
    BLOCK_BYTES,
    HEADER_BYTES,
    PRESENT,
    RECORD,
    RECORD_BYTES,
    SEALED,
    SEALED_OFFSET,
    UNIT_BYTES,
    CachedObject,
    Records,
    encode_record,
    record_offset,
)
from bucketry.core.cache_room import was_used
from bucketry.core.crc32c import combine
from bucketry.core.pieces import Pieces
from bucketry.errors import Closed
from bucketry.files.byte_locks import try_lock, unlock
from bucketry.files.cache_counts import CacheCounts
from bucketry.files.holes import punch_hole

_WORD = struct.Struct("<I")
_USED_OFFSET = 4
#: Words of a record before those of its units.
_UNIT_WORD = 4
_READ_ONLY_MODE = 0o444
_WRITABLE_MODE = 0o600
_crc32c = google_crc32c.value


class CacheEntry:
    """The files of the object ``about``; closes them when nobody is within them any more."""

    def __init__(
        self, about: CachedObject, map_file: int, data_file: int, *, sealed: bool, counts: CacheCounts
    ) -> None:
        self.about = about
        self.is_sealed = sealed
        self._map = map_file
        self._data = data_file
        self._counts = counts
        self._lock = threading.Lock()
        self._user_count = 0
        self._is_closed = False

    # A descriptor that is closed under somebody's hands may be another file's a moment later. So whoever uses
    # one is counted.

    def _enter(self) -> None:
        with self._lock:
            if self._is_closed:
                raise Closed(f"object {self.about.key} is closed")
            self._user_count += 1

    def _leave(self) -> None:
        with self._lock:
            self._user_count -= 1
            if not self._is_closed or self._user_count:
                return
        self._close_files()

    def close(self) -> None:
        """Close the files, after the last read that is under way. Closing twice is fine."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._user_count:
                return
        self._close_files()

    def _close_files(self) -> None:
        os.close(self._map)
        os.close(self._data)

    # -- reading ---------------------------------------------------------------------------------------------

    def read_into(self, offset: int, view: memoryview, now_seconds: int) -> bool:
        """Fill ``view`` with the bytes from ``offset`` on, all of which the object has; False when not all of
        them are here and sound, and then what is in ``view`` means nothing."""
        self._enter()
        try:
            end = offset + len(view)
            block = offset // BLOCK_BYTES
            start = offset - block * BLOCK_BYTES
            if start + len(view) <= BLOCK_BYTES:
                return self._read_part(block, start, view, now_seconds)
            while offset < end:
                block = offset // BLOCK_BYTES
                start = offset - block * BLOCK_BYTES
                length = min(BLOCK_BYTES - start, end - offset)
                if not self._read_part(block, start, view[:length], now_seconds):
                    return False
                view = view[length:]
                offset += length
            return True
        except OSError:
            self._counts.local_errors += 1
            return False
        finally:
            self._leave()

    def read_block(self, block: int, now_seconds: int) -> bytes | None:
        """A whole block; None when it is not here, or not sound."""
        content = bytearray(self.about.length_of(block))
        if self.read_into(block * BLOCK_BYTES, memoryview(content), now_seconds):
            return bytes(content)
        return None

    def _read_part(self, block: int, start: int, view: memoryview, now_seconds: int) -> bool:
        end = start + len(view)
        first, stop = start // UNIT_BYTES, -(-end // UNIT_BYTES)
        low = first * UNIT_BYTES
        block_length = min(BLOCK_BYTES, self.about.size_bytes - block * BLOCK_BYTES)
        high = min(stop * UNIT_BYTES, block_length)
        record_at = HEADER_BYTES + block * RECORD_BYTES
        # Twice: somebody may be filling or evicting the block just now.
        for _ in range(2):
            record = os.pread(self._map, RECORD.size, record_at)
            if len(record) < RECORD.size:
                return False
            words = RECORD.unpack(record)
            if words[0] != PRESENT:
                return False
            data = os.pread(self._data, high - low, block * BLOCK_BYTES + low)
            if len(data) == high - low and (
                _crc32c(data) == words[3]
                if low == 0 and high == block_length
                else _units_fit(data, words, first, stop)
            ):
                if not was_used(words[1], now_seconds):
                    os.pwrite(self._map, _WORD.pack(now_seconds & 0xFFFFFFFF), record_at + _USED_OFFSET)
                view[:] = memoryview(data)[start - low : end - low]
                return True
        self._counts.corrupt += 1
        return False

    def records(self, first: int = 0, stop: int | None = None) -> Records:
        """What the map says of the blocks, unverified. Raises OSError."""
        self._enter()
        try:
            count = (self.about.block_count if stop is None else stop) - first
            content = os.pread(self._map, count * RECORD_BYTES, record_offset(first))
        finally:
            self._leave()
        return Records(content.ljust(count * RECORD_BYTES, b"\0"))

    def has(self, block: int) -> bool:
        """Whether the map says that a block is here."""
        try:
            return bool(self.records(block, block + 1).present())
        except OSError:
            self._counts.local_errors += 1
            return False

    def missing(self) -> list[int]:
        """The blocks that are not here, as far as the map says. None is here that the disk does not tell."""
        try:
            return self.records().missing()
        except OSError:
            self._counts.local_errors += 1
            return list(range(self.about.block_count))

    def damaged(self, block: int) -> bool:
        """Whether a block that is here differs from its checksum. Does not count as a use."""
        self._enter()
        try:
            for _ in range(2):
                record = os.pread(self._map, RECORD.size, record_offset(block))
                words = RECORD.unpack(record.ljust(RECORD.size, b"\0"))
                length = self.about.length_of(block)
                data = os.pread(self._data, length, block * BLOCK_BYTES)
                if words[0] != PRESENT:
                    return False
                units = -(-length // UNIT_BYTES)
                if len(data) == length and _crc32c(data) == words[3] and _units_fit(data, words, 0, units):
                    return False
            return True
        except OSError:
            self._counts.local_errors += 1
            return True
        finally:
            self._leave()

    def bad_pieces(self, pieces: Pieces) -> list[int]:
        """Of a file whose blocks are all here: which pieces are not what was uploaded, by the checksums of
        their blocks."""
        records = self.records()
        bad = []
        blocks_per_piece = pieces.piece_size_bytes // BLOCK_BYTES
        for index, wanted in enumerate(pieces.checksums):
            first = index * blocks_per_piece
            found = records.checksum(first)
            for block in range(first + 1, min(first + blocks_per_piece, self.about.block_count)):
                found = combine(found, records.checksum(block), self.about.length_of(block))
            if found != wanted:
                bad.append(index)
        return bad

    # -- changing --------------------------------------------------------------------------------------------

    def write_blocks(
        self, first: int, data: BytesLike, now_seconds: int, *, source: tuple[int, int] | None = None
    ) -> None:
        """Store whole blocks in a row. ``source`` is a file that has the very same bytes, and where: the file
        system may share them instead of copying. Raises OSError; then the blocks are not here, but may take
        space."""
        view = memoryview(data)
        records = b"".join(
            encode_record(view[at : at + BLOCK_BYTES], now_seconds, _crc32c)
            for at in range(0, len(view), BLOCK_BYTES)
        )
        self._enter()
        try:
            # First the data: a record speaks of what is there.
            file = self._writable_data()
            try:
                if source is None or not _copy_range(source, file, first * BLOCK_BYTES, len(view)):
                    _write_all(file, view, first * BLOCK_BYTES)
            finally:
                if file != self._data:
                    os.close(file)
                    os.fchmod(self._data, _READ_ONLY_MODE)
            _write_all(self._map, memoryview(records), record_offset(first))
        finally:
            self._leave()

    def _writable_data(self) -> int:
        """The data file, open for writing: that of a sealed entry is not, and its mode says so."""
        if not self.is_sealed:
            return self._data
        os.fchmod(self._data, _WRITABLE_MODE)
        return os.open(f"/proc/self/fd/{self._data}", os.O_RDWR | os.O_CLOEXEC)

    def give_back(self, first: int, length: int) -> None:
        """Free what a failed ``write_blocks`` of blocks that were not here may have taken. Never fails."""
        self._enter()
        try:
            punch_hole(self._data, first * BLOCK_BYTES, length)
        except OSError:
            self._counts.local_errors += 1
        finally:
            self._leave()

    def drop_block(self, block: int) -> None:
        """Forget a block and give its space back. Under the lock against those who store. Raises OSError."""
        self._enter()
        try:
            os.pwrite(self._map, bytes(RECORD_BYTES), record_offset(block))
            if not self.is_sealed:
                punch_hole(self._data, block * BLOCK_BYTES, self.about.length_of(block))
        finally:
            self._leave()

    def sync(self) -> None:
        """Make the data durable. Raises OSError."""
        self._enter()
        try:
            os.fsync(self._data)
        finally:
            self._leave()

    def link_data(self, directory: int, name: str) -> None:
        """Give the data file another name. Raises OSError; FileExistsError when it is taken."""
        self._enter()
        try:
            # By the descriptor: at its own name may be another file meanwhile.
            os.link(f"/proc/self/fd/{self._data}", name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            self._leave()

    def seal(self) -> None:
        """All blocks are here and durable: make the data read-only, and say so in the map. Raises OSError."""
        self._enter()
        try:
            os.fchmod(self._data, _READ_ONLY_MODE)
            os.pwrite(self._map, _WORD.pack(SEALED), SEALED_OFFSET)
            os.fsync(self._map)
        finally:
            self._leave()
        self.is_sealed = True

    # -- locks and identity ----------------------------------------------------------------------------------

    def try_claim(self, first: int, stop: int) -> bool:
        """Have the blocks from ``first`` to before ``stop`` for oneself, among all who have the object open
        elsewhere. Those who share this entry must agree by other means. True when locks are out of order:
        then everybody fetches for himself."""
        self._enter()
        try:
            return try_lock(self._map, record_offset(first), (stop - first) * RECORD_BYTES)
        except OSError:
            self._counts.local_errors += 1
            return True
        finally:
            self._leave()

    def release(self, first: int, stop: int) -> None:
        """Let others have the blocks."""
        self._enter()
        try:
            unlock(self._map, record_offset(first), (stop - first) * RECORD_BYTES)
        except OSError:
            self._counts.local_errors += 1
        finally:
            self._leave()

    def changed_at(self) -> int:
        """A number that changes when somebody stores a block."""
        self._enter()
        try:
            return os.fstat(self._map).st_mtime_ns
        finally:
            self._leave()

    @property
    def is_linked(self) -> bool:
        """Whether anybody could still find it. What is stored otherwise is lost when it is closed."""
        self._enter()
        try:
            return os.fstat(self._map).st_nlink > 0
        finally:
            self._leave()

    def data_status(self) -> os.stat_result:
        """Of the data file."""
        self._enter()
        try:
            return os.fstat(self._data)
        finally:
            self._leave()


def _units_fit(data: bytes, words: tuple[int, ...], first: int, stop: int) -> bool:
    if stop - first == 1:
        return bool(_crc32c(data) == words[_UNIT_WORD + first])
    return all(
        _crc32c(data[at : at + UNIT_BYTES]) == words[_UNIT_WORD + first + index]
        for index, at in enumerate(range(0, len(data), UNIT_BYTES))
    )


def _write_all(file: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(file, view, offset)
        view = view[count:]
        offset += count


def _copy_range(source: tuple[int, int], target: int, offset: int, length: int) -> bool:
    """Copy within the kernel, which shares the blocks where the file system can. False when it cannot."""
    file, source_offset = source
    while length:
        try:
            count = os.copy_file_range(file, target, length, source_offset, offset)
        except OSError:
            return False
        if not count:
            return False
        source_offset += count
        offset += count
        length -= count
    return True
