"""The cache directory: objects of buckets, kept on local disk within a limit, by any number of processes.

::

    <directory>/NAME                    a whole file, read-only: a link to its data below
    <directory>/.bucketry/              (or another place on the same file system)
        lock                            locked by bytes: the account, those who store, who evicts, keys
        account                         how many bytes are taken
        entries/ab/ab12….map            which object, which blocks, checksums (core.cache_map)
        entries/ab/ab12….data           its bytes
        tmp/                            what is not finished, locked by who makes it

Nothing that is found here is believed: a read compares with checksums, a map that does not fit is nobody's,
and a failure of the local disk is a miss. Nothing that we did not make is ever replaced or removed: a file of
another origin that has a name of ours keeps it, and ours stays below.

Who stores takes room first, in the account, under a shared lock until the blocks are in the map; who evicts
has that lock alone, counts anew what is there, and drops. So the limit holds among all processes, whatever
was killed when.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import google_crc32c

from bucketry.core.bytes_like import BytesLike
from bucketry.core.cache_map import (
    BLOCK_BYTES,
    HEADER_BYTES,
    CachedObject,
    Records,
    decode_header,
    encode_header,
)
from bucketry.core.cache_room import Candidate, leave_in_order, target_bytes
from bucketry.core.pieces import Pieces, decode
from bucketry.core.ranges import runs
from bucketry.errors import BucketryError, Closed, Corrupt
from bucketry.files.byte_locks import lock, locked, try_lock, unlock
from bucketry.files.cache_counts import CacheCounts
from bucketry.files.cache_entry import CacheEntry

_log = logging.getLogger(__name__)

#: What other programs on that file system need. A cache that leaves nothing does more harm than good.
KEEP_FREE_BYTES = 256 << 20
STATE_NAME = ".bucketry"

#: What is in the bucket may not be for everybody, and whoever comes there can read the plain files.
_MODE = 0o700
_PARENT_MODE = 0o755
_FILE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Of the account: who changes it.
_ACCOUNT_BYTE = 0
#: Of the lock file: who stores (shared) or evicts, and the way to that lock (those who evict would never have
#: their turn while others come and go).
_STORE_BYTE = 1
_TURN_BYTE = 2
#: And from here on one for each key.
_KEY_BYTES = 1 << 20
#: The byte of a map that everybody locks, shared, who has it open.
_OPEN_BYTE = 0
_ACCOUNT = struct.Struct("<8sQ")
_ACCOUNT_MAGIC = b"bkry-sum"
#: After the local disk failed, or nothing could be evicted, nothing is kept for so long: it costs a scan, and
#: a line in the log.
_PAUSE_SECONDS = 1.0
_LOCK_PAUSE_SECONDS = 60.0
_crc32c = google_crc32c.value


@dataclass(slots=True)
class ScrubReport:
    """What a scrub has found so far."""

    entries: int = 0
    entries_total: int = 0
    blocks: int = 0
    bytes: int = 0
    #: Blocks that did not have their checksums; they are dropped.
    bad_blocks: int = 0
    #: Files whose content is not what was uploaded, by the checksums kept with the object; dropped.
    bad_files: int = 0
    #: Maps that are none, data without a map, what killed processes left; removed.
    alien: int = 0
    stale_temporary: int = 0
    #: Compared with the bucket: the object has gone or is another one; removed.
    outdated: int = 0
    #: What could not be looked at, one line each.
    problems: list[str] = field(default_factory=list)


#: Tells the ETag of an object in its bucket (``ObjectReader.current_etag``, waited for), None when there is
#: no such object; raises LookupError when that is not known here. Arguments: the store as entries name it,
#: and the key.
Compare = Callable[[str, str], str | None]


class KeyLock:
    """The right to make the entry of one key, until it is closed."""

    def __init__(self, file: int) -> None:
        self._file = file

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class ObjectCache:
    """A cache of at most ``size_bytes`` in ``directory``; None is a temporary directory of its own, which
    ``close`` removes. Thread safe.

    One level of ``directory`` is made if it is missing. ``state_directory`` is where everything but the plain
    files lies, on the same file system; None is ``.bucketry`` in the directory. Raises OSError: ENOENT when
    the parent is missing, EINVAL when it is no directory, EACCES when others could write there.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        size_bytes: int,
        keep_free_bytes: int = KEEP_FREE_BYTES,
        state_directory: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._is_private = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="bucketry-")) if directory is None else directory
        self._state = state_directory or self.directory / STATE_NAME
        # As text: a path costs more to build than what is done with it, once for each block stored.
        self._lock_path = os.fspath(self._state / "lock")
        self._state_path = os.fspath(self._state)
        self._size_bytes = size_bytes
        self._keep_free_bytes = keep_free_bytes
        self._now = now
        self.counts = CacheCounts()
        self._account_lock = threading.Lock()
        self._evicting = threading.Lock()
        self._pause_until = 0.0
        self._is_closed = False
        self._account_file = -1
        try:
            if directory is not None:
                _make_directory(directory)
            _make_directory(self._state)
            for part in ("entries", "tmp"):
                _make_directory(self._state / part)
            os.close(self._open_lock())
            self._account_file = os.open(self._state / "account", _FILE_FLAGS | os.O_CREAT, 0o600)
        except BaseException:
            if self._is_private:
                shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self._remove_stale()

    @property
    def size_bytes(self) -> int:
        """The limit."""
        return self._size_bytes

    def now(self) -> float:
        """Seconds since 1970."""
        return self._now()

    def now_seconds(self) -> int:
        """Whole seconds since 1970."""
        return int(self._now())

    def close(self) -> None:
        """Closing twice is fine. Entries that are open stay so."""
        if self._is_closed:
            return
        self._is_closed = True
        os.close(self._account_file)
        if self._is_private:
            shutil.rmtree(self.directory, ignore_errors=True)

    def statistics(self) -> dict[str, object]:
        """The counts of this process; what is taken, of how much, by all together."""
        used_bytes = self._read_account() or 0
        return {
            **self.counts.statistics(),
            "used_bytes": used_bytes,
            "size_bytes": self._size_bytes,
            "directory": str(self.directory),
        }

    # -- entries ---------------------------------------------------------------------------------------------

    def entry_id(self, store: str, key: str) -> str:
        return hashlib.sha256(f"{store}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def _paths(self, entry_id: str) -> tuple[Path, Path]:
        stem = self._state / "entries" / entry_id[:2] / entry_id
        return stem.with_suffix(".map"), stem.with_suffix(".data")

    def try_lock_key(self, entry_id: str) -> KeyLock | None:
        """The right to make that entry; None while another has it, in whatever process. Raises OSError."""
        file = self._open_lock()
        try:
            if try_lock(file, _KEY_BYTES + int(entry_id[:15], 16)):
                return KeyLock(file)
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def find(self, store: str, key: str, *, again: bool = False) -> CacheEntry | None:
        """The entry of an object, open; None when there is none that can be used. Never fails.

        ``again``: what is no use has been counted and logged before."""
        entry_id = self.entry_id(store, key)
        map_path, data_path = self._paths(entry_id)
        try:
            return self._open_entry(map_path, data_path, store, key)
        except FileNotFoundError:
            return None
        except (OSError, Corrupt) as error:
            if again:
                return None
            self.counts.alien += 1
            _log.warning("object %s is fetched again, for what is cached of it is no use: %s", key, error)
            return None

    def _open_entry(self, map_path: Path, data_path: Path, store: str, key: str) -> CacheEntry | None:
        map_file = _open_own(map_path, _FILE_FLAGS)
        try:
            lock(map_file, _OPEN_BYTE, shared=True)
            status = os.fstat(map_file)
            if not status.st_nlink:
                os.close(map_file)
                return None
            about, sealed = decode_header(os.pread(map_file, HEADER_BYTES, 0), _crc32c)
            if (about.store, about.key) != (store, key) or status.st_size < about.map_bytes:
                raise Corrupt("its map is that of another object, or cut short")
            data_file = _open_data(data_path)
        except BaseException:
            os.close(map_file)
            raise
        entry = CacheEntry(about, map_file, data_file, sealed=sealed, counts=self.counts)
        if sealed:
            self._restore_name(entry)
        return entry

    def create(self, about: CachedObject) -> CacheEntry | None:
        """A new, empty entry in place of what was there; under the lock of its key. None when there is no
        room, or the local disk fails."""
        header = encode_header(about, _crc32c)
        if header is None or about.map_cost_bytes > self._size_bytes or self._pauses:
            self.counts.not_stored_blocks += 1
            return None
        try:
            for attempt in range(2):
                with self._storing():
                    if self._take(about.map_cost_bytes):
                        return self._create(about, header)
                if attempt or not self._make_room(about.map_cost_bytes):
                    break
        except OSError as error:
            self._local_failure("make an entry", error)
        else:
            self.counts.not_stored_blocks += 1
        return None

    def _create(self, about: CachedObject, header: bytes) -> CacheEntry:
        map_path, data_path = self._paths(self.entry_id(about.store, about.key))
        with contextlib.suppress(FileExistsError):
            map_path.parent.mkdir(mode=_MODE)
        self._give(self._unlink(map_path, data_path))
        temporary = self._state / "tmp" / f"{map_path.name}.{os.getpid()}.{threading.get_ident()}"
        temporary.unlink(missing_ok=True)
        map_file = os.open(temporary, _FILE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        data_file = -1
        try:
            lock(map_file, _OPEN_BYTE, shared=True)
            os.pwrite(map_file, header, 0)
            os.ftruncate(map_file, about.map_bytes)
            data_file = os.open(data_path, _FILE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            os.ftruncate(data_file, about.size_bytes)
            temporary.replace(map_path)
        except BaseException:
            os.close(map_file)
            if data_file >= 0:
                os.close(data_file)
            temporary.unlink(missing_ok=True)
            raise
        return CacheEntry(about, map_file, data_file, sealed=False, counts=self.counts)

    def remove(self, store: str, key: str) -> None:
        """Forget an object. Readers that have it open keep what they have. Never fails."""
        try:
            with self._evicting_alone():
                self._give(self._unlink(*self._paths(self.entry_id(store, key))))
        except OSError as error:
            self._local_failure("remove an entry", error)

    def _unlink(self, map_path: Path, data_path: Path) -> int:
        """Remove an entry and the plain file, if that is the same file. Returns what it counted. Raises
        OSError."""
        counted_bytes = 0
        try:
            found = _read_map(map_path)
            counted_bytes = found.cost_bytes
            name = self._name_path(found.about)
            if name is not None and _is_same_file(name, data_path):
                name.unlink(missing_ok=True)
                _remove_empty(name.parent, self.directory)
        except FileNotFoundError:
            pass
        except (OSError, Corrupt):
            pass  # an alien map says nothing about names
        # The map first: without it the data is nobody's.
        for path in (map_path, data_path):
            try:
                path.unlink(missing_ok=True)
            except IsADirectoryError:
                shutil.rmtree(path)
        return counted_bytes

    # -- storing ---------------------------------------------------------------------------------------------

    def store(
        self, entry: CacheEntry, first: int, data: BytesLike, *, source: tuple[int, int] | None = None
    ) -> bool:
        """Keep whole blocks in a row, from block ``first`` on. False when they are not kept: no room, a full
        or failing disk, an entry that was removed. Never fails otherwise."""
        about = entry.about
        stop = first + -(-len(data) // BLOCK_BYTES)
        try:
            if entry.is_linked and not self._pauses:
                for attempt in range(2):
                    with self._storing():
                        missing = entry.records(first, stop).missing()
                        new_bytes = sum(about.cost_of(first + index) for index in missing)
                        if self._take(new_bytes):
                            all_new = len(missing) == stop - first
                            self._write(entry, first, data, new_bytes, source, all_new=all_new)
                            self.counts.stored_blocks += stop - first
                            self.counts.stored_bytes += len(data)
                            return True
                    if attempt or not self._make_room(new_bytes):
                        break
        except OSError as error:
            self._local_failure(f"keep blocks of object {about.key}", error)
        self.counts.not_stored_blocks += stop - first
        return False

    def _write(
        self,
        entry: CacheEntry,
        first: int,
        data: BytesLike,
        new_bytes: int,
        source: tuple[int, int] | None,
        *,
        all_new: bool,
    ) -> None:
        try:
            entry.write_blocks(first, data, self.now_seconds(), source=source)
        except BaseException:
            # Blocks that were here before are still good, unless they were damaged anyway.
            if all_new:
                with contextlib.suppress(Closed):
                    entry.give_back(first, len(data))
            self._give(new_bytes)
            raise

    def seal(self, entry: CacheEntry) -> bool:
        """All of an object is here: make it a plain file that goes as a whole. False when not all of it is
        here, or the local disk fails. Under the lock of its key."""
        try:
            # The long part, without keeping out those who evict.
            entry.sync()
            with self._storing():
                if not entry.is_linked or entry.records().missing():
                    return False
                entry.seal()
                self._link_name(entry)
            map_path, _ = self._paths(self.entry_id(entry.about.store, entry.about.key))
            _sync_directory(map_path.parent)
        except OSError as error:
            self._local_failure(f"seal object {entry.about.key}", error)
            return False
        return True

    def drop_pieces(self, entry: CacheEntry, pieces: Pieces, bad: list[int]) -> None:
        """Forget the blocks of these pieces. Never fails."""
        try:
            with self._evicting_alone():
                for piece in bad:
                    start, end = pieces.range_of(piece, entry.about.size_bytes)
                    for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
                        if entry.has(block):
                            entry.drop_block(block)
                            self._give(entry.about.cost_of(block))
        except OSError as error:
            self._local_failure("drop blocks", error)

    def _name_path(self, about: CachedObject) -> Path | None:
        """Where the plain file of an object is; None when its name is no path below the directory."""
        parts = about.name.split("/")
        for part in parts:
            if part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255:
                return None
        if parts[0] == STATE_NAME:
            return None
        return self.directory.joinpath(PurePosixPath(*parts))

    def _link_name(self, entry: CacheEntry) -> None:
        """Let the plain file be there, unless something else has its name. Nobody evicts or makes that entry
        meanwhile. Never fails."""
        path = self._name_path(entry.about)
        if path is None:
            return
        try:
            path.parent.mkdir(mode=_PARENT_MODE, parents=True, exist_ok=True)
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                entry.link_data(directory, path.name)
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError:
            pass
        except OSError as error:
            # A file system without links, a name that is a directory: the data is there all the same.
            _log.debug("%s is not linked: %s", path, error)

    def _restore_name(self, entry: CacheEntry) -> None:
        """Make the plain file anew that somebody has removed. Never fails."""
        path = self._name_path(entry.about)
        if path is None or os.path.lexists(path):
            return
        try:
            key_lock = self.try_lock_key(self.entry_id(entry.about.store, entry.about.key))
            if key_lock is None:
                return  # he who has it does so
            with contextlib.closing(key_lock), self._storing():
                if entry.is_linked:
                    self._link_name(entry)
        except OSError as error:
            self._local_failure("link a file", error)

    # -- the account -----------------------------------------------------------------------------------------

    def _open_lock(self) -> int:
        return os.open(self._lock_path, _FILE_FLAGS | os.O_CREAT, 0o600)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Nobody evicts meanwhile. A descriptor for each use: those of one description share their locks."""
        if self._is_closed:
            raise Closed(f"the cache in {self.directory} is closed")
        file = self._open_lock()
        try:
            lock(file, _TURN_BYTE, shared=True)
            lock(file, _STORE_BYTE, shared=True)
            unlock(file, _TURN_BYTE)
            yield
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _evicting_alone(self) -> Iterator[None]:
        """Nobody stores or evicts meanwhile."""
        file = self._open_lock()
        try:
            lock(file, _TURN_BYTE)
            lock(file, _STORE_BYTE)
            yield
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _account(self) -> Iterator[None]:
        with self._account_lock, locked(self._account_file, _ACCOUNT_BYTE):
            yield

    def _read_account(self) -> int | None:
        """None when there is none, or it is damaged."""
        if self._is_closed:
            return None
        content = os.pread(self._account_file, _ACCOUNT.size, 0)
        if len(content) < _ACCOUNT.size:
            return None
        magic, used_bytes = _ACCOUNT.unpack(content)
        return int(used_bytes) if magic == _ACCOUNT_MAGIC else None

    def _write_account(self, used_bytes: int) -> None:
        os.pwrite(self._account_file, _ACCOUNT.pack(_ACCOUNT_MAGIC, max(0, used_bytes)), 0)

    def _take(self, size_bytes: int) -> bool:
        """Take room, within the limit. False when there is none now."""
        if not size_bytes:
            return True
        if self._free_bytes() - size_bytes < self._keep_free_bytes:
            return False
        with self._account():
            used_bytes = self._read_account()
            if used_bytes is None or used_bytes + size_bytes > self._size_bytes:
                return False  # an account that is lost is made by who makes room
            self._write_account(used_bytes + size_bytes)
            return True

    def _give(self, size_bytes: int) -> None:
        """Give back what was taken."""
        if not size_bytes:
            return
        with self._account():
            used_bytes = self._read_account()
            if used_bytes is not None:
                self._write_account(used_bytes - size_bytes)

    @property
    def _pauses(self) -> bool:
        """Nothing is kept for a moment, for that has just failed."""
        return time.monotonic() < self._pause_until

    def _free_bytes(self) -> int:
        status = os.statvfs(self._state_path)
        return status.f_bavail * status.f_frsize

    def _local_failure(self, what: str, error: OSError) -> None:
        self.counts.local_errors += 1
        # Who waited for a lock in vain has lost enough time.
        pause_seconds = _LOCK_PAUSE_SECONDS if isinstance(error, TimeoutError) else _PAUSE_SECONDS
        self._pause_until = time.monotonic() + pause_seconds
        _log.warning("cache %s: could not %s: %s", self.directory, what, error)

    # -- eviction --------------------------------------------------------------------------------------------

    def _make_room(self, needed_bytes: int) -> bool:
        """Evict until so many bytes fit. False when they do not. Raises OSError."""
        if needed_bytes > self._size_bytes:
            return False
        with self._evicting, self._evicting_alone():
            used_bytes = self._read_account()
            lack = self._keep_free_bytes + needed_bytes - self._free_bytes()
            if used_bytes is not None and used_bytes + needed_bytes <= self._size_bytes and lack <= 0:
                return True  # somebody else has made room meanwhile
            self._remove_orphans()
            entries = list(self._survey())
            used_bytes = sum(entry.cost_bytes for entry in entries)
            # Where others fill the disk, we shrink.
            goal = target_bytes(self._size_bytes, needed_bytes)
            if lack > 0:
                goal = min(goal, used_bytes - lack)
            if used_bytes > goal:
                used_bytes -= self._evict(entries, used_bytes - goal)
            self._write_account(used_bytes)
            fits = (
                used_bytes + needed_bytes <= self._size_bytes
                and self._free_bytes() - needed_bytes >= self._keep_free_bytes
            )
        if not fits:
            self._pause_until = time.monotonic() + _PAUSE_SECONDS
        return fits

    def _survey(self) -> Iterator["_Surveyed"]:
        """Every entry, as its map says. What is no entry is removed: nobody can use it. Alone."""
        for map_path in (self._state / "entries").glob("*/*.map"):
            data_path = map_path.with_suffix(".data")
            try:
                found = _read_map(map_path)
                status = _status_of(data_path)
            except FileNotFoundError:
                continue
            except OSError as error:
                # It is there, and cannot be looked at now.
                self._local_failure(f"read {map_path.name}", error)
                continue
            except Corrupt as error:
                self.counts.alien += 1
                _log.warning("cache %s: %s is removed: %s", self.directory, map_path.name, error)
                self._unlink(map_path, data_path)
                continue
            if status.st_blocks * 512 > found.cost_bytes + BLOCK_BYTES and not found.is_sealed:
                self._free_unnoted(found)
            yield found

    def _free_unnoted(self, entry: "_Surveyed") -> None:
        """Give back what somebody had written who was killed before he could note it. Alone."""
        try:
            with contextlib.closing(self._open_surveyed(entry)) as opened:
                for first, stop in runs(entry.records.missing()):
                    start, end = first * BLOCK_BYTES, min(stop * BLOCK_BYTES, entry.about.size_bytes)
                    opened.give_back(first, end - start)
        except (OSError, Corrupt) as error:
            _log.warning("cache %s: %s: %s", self.directory, entry.map_path.name, error)

    def _evict(self, entries: list["_Surveyed"], needed_bytes: int) -> int:
        """Drop as much as that, if so much may go; returns how much went. Alone."""
        candidates = [
            candidate for index, entry in enumerate(entries) for candidate in entry.candidates(index)
        ]
        freed_bytes = 0
        busy: set[int] = set()
        for candidate in leave_in_order(candidates):
            if freed_bytes >= needed_bytes:
                break
            entry = entries[candidate.entry]
            if candidate.entry in busy:
                continue
            if candidate.block is None:
                if not self._drop_whole(entry):
                    busy.add(candidate.entry)
                    continue
                self.counts.evicted_files += 1
                self.counts.evicted_blocks += len(entry.records.present())
            else:
                with contextlib.closing(self._open_surveyed(entry)) as opened:
                    opened.drop_block(candidate.block)
                self.counts.evicted_blocks += 1
            freed_bytes += candidate.size_bytes
        self.counts.evicted_bytes += freed_bytes
        return freed_bytes

    def _open_surveyed(self, entry: "_Surveyed") -> CacheEntry:
        map_file = _open_own(entry.map_path, _FILE_FLAGS)
        try:
            data_file = _open_data(entry.data_path)
        except BaseException:
            os.close(map_file)
            raise
        return CacheEntry(entry.about, map_file, data_file, sealed=entry.is_sealed, counts=self.counts)

    def _drop_whole(self, entry: "_Surveyed") -> bool:
        """Remove an entry that nobody has open. Alone."""
        try:
            map_file = _open_own(entry.map_path, _FILE_FLAGS)
        except OSError:
            return False
        try:
            if not try_lock(map_file, _OPEN_BYTE):
                return False
            self._unlink(entry.map_path, entry.data_path)
        finally:
            os.close(map_file)
        return True

    # -- scrub -----------------------------------------------------------------------------------------------

    def scrub(self, compare: Compare | None = None) -> Iterator[ScrubReport]:
        """Verify everything that is cached, drop what is bad, remove what is left over. Yields the report as
        it grows, after each 16 blocks or so; the last one is complete. Others may work meanwhile. ``compare``
        asks the bucket whether an object is still the one that is cached."""
        report = ScrubReport()
        report.stale_temporary = self._remove_stale()
        with self._evicting_alone():
            before = self.counts.alien
            entries = list(self._survey())
            report.alien = self.counts.alien - before + self._remove_orphans()
        report.entries_total = len(entries)
        yield report
        for entry in entries:
            try:
                yield from self._scrub_entry(entry, report, compare)
            except FileNotFoundError:
                pass  # evicted meanwhile
            except (OSError, BucketryError) as error:
                report.problems.append(f"{entry.about.key}: {error}")
            report.entries += 1
            yield report
        with self._evicting_alone():
            self._write_account(sum(entry.cost_bytes for entry in self._survey()))

    def _scrub_entry(
        self, entry: "_Surveyed", report: ScrubReport, compare: Compare | None
    ) -> Iterator[ScrubReport]:
        about = entry.about
        if compare is not None:
            try:
                found = compare(about.store, about.key)
            except LookupError:
                found = about.etag
            if found != about.etag:
                report.outdated += 1
                self.remove(about.store, about.key)
                return
        opened = self._open_entry(entry.map_path, entry.data_path, about.store, about.key)
        if opened is None:
            return
        with contextlib.closing(opened):
            for count, block in enumerate(opened.records().present(), start=1):
                report.blocks += 1
                report.bytes += about.length_of(block)
                if opened.damaged(block):
                    with self._evicting_alone():
                        # Again: others may have repaired it.
                        if opened.damaged(block):
                            report.bad_blocks += 1
                            self.counts.corrupt += 1
                            opened.drop_block(block)
                if not count % 16:
                    yield report
            if about.pieces is not None and not opened.records().missing():
                pieces = decode(about.pieces, about.size_bytes)
                bad = opened.bad_pieces(pieces)
                if bad:
                    report.bad_files += 1
                    self.counts.corrupt += len(bad)
                    self.drop_pieces(opened, pieces, bad)

    def _remove_stale(self) -> int:
        """What processes that were killed had begun. Returns how many files."""
        count = 0
        for path in (self._state / "tmp").iterdir():
            try:
                file = _open_own(path, _FILE_FLAGS)
            except OSError:
                continue
            try:
                if try_lock(file, _OPEN_BYTE):
                    path.unlink(missing_ok=True)
                    count += 1
            except OSError as error:
                self._local_failure("remove what was left", error)
            finally:
                os.close(file)
        return count

    def _remove_orphans(self) -> int:
        """Data without a map: it is nobody's. Alone, so that nobody is about to make one."""
        count = 0
        for data_path in (self._state / "entries").glob("*/*.data"):
            if not data_path.with_suffix(".map").exists():
                data_path.unlink(missing_ok=True)
                count += 1
        return count


@dataclass(slots=True)
class _Surveyed:
    """An entry as its map says."""

    map_path: Path
    about: CachedObject
    is_sealed: bool
    records: Records

    @property
    def data_path(self) -> Path:
        return self.map_path.with_suffix(".data")

    @property
    def cost_bytes(self) -> int:
        blocks = self.records.present()
        return self.about.map_cost_bytes + sum(self.about.cost_of(block) for block in blocks)

    def candidates(self, index: int) -> Iterator[Candidate]:
        """What of it may go. The first block, which every open needs, stays as long as any other."""
        blocks = self.records.present()
        used = max((self.records.used_seconds(block) for block in blocks), default=0)
        filled = max((self.records.filled_seconds(block) for block in blocks), default=0)
        if self.is_sealed or not blocks:
            yield Candidate(index, None, self.cost_bytes, used, filled)
            return
        for block in blocks:
            yield Candidate(
                index,
                block,
                self.about.cost_of(block),
                self.records.used_seconds(block) if block else used,
                self.records.filled_seconds(block),
            )


def _make_directory(path: Path) -> None:
    """One level of it, if it is missing. Raises OSError as ``ObjectCache`` says."""
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=_MODE)
        status = path.stat()
    except NotADirectoryError as error:
        raise OSError(errno.EINVAL, f"cache directory {path}: its parent is not a directory") from error
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, f"cache directory {path}: it is not a directory")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(
            errno.EACCES,
            f"cache directory {path}: it must belong to this user, and nobody else may write there",
        )


def _open_own(path: Path, flags: int) -> int:
    """Open a file of ours. Raises OSError; Corrupt when it is not one: a link, a pipe, somebody else's."""
    try:
        file = os.open(path, flags)
    except IsADirectoryError as error:
        raise Corrupt(f"{path.name} is a directory") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Corrupt(f"{path.name} is a symbolic link") from error
        raise
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(file)
        raise Corrupt(f"{path.name} is not a file of this user")
    return file


def _open_data(path: Path) -> int:
    try:
        return _open_own(path, _FILE_FLAGS)
    except PermissionError:
        # Sealed: it is read-only, unless for root.
        return _open_own(path, _FILE_FLAGS & ~os.O_RDWR | os.O_RDONLY)


def _read_map(path: Path) -> _Surveyed:
    """A map, and no more of the file than belongs to it. Raises OSError, Corrupt."""
    file = _open_own(path, _FILE_FLAGS)
    try:
        about, sealed = decode_header(os.pread(file, HEADER_BYTES, 0), _crc32c)
        if os.fstat(file).st_size < about.map_bytes:
            raise Corrupt("its map is cut short")
        records = Records(os.pread(file, about.map_bytes - HEADER_BYTES, HEADER_BYTES))
        return _Surveyed(path, about, sealed, records)
    finally:
        os.close(file)


def _status_of(data_path: Path) -> os.stat_result:
    """Raises Corrupt when it is not the data of an entry."""
    try:
        status = data_path.lstat()
    except FileNotFoundError:
        raise Corrupt("it has no data") from None
    if not stat.S_ISREG(status.st_mode):
        raise Corrupt("its data is no file")
    return status


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        first, second = one.lstat(), other.lstat()
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _remove_empty(directory: Path, root: Path) -> None:
    """Remove directories below ``root`` in which nothing is left."""
    while directory != root:
        try:
            directory.rmdir()
        except OSError:
            return
        directory = directory.parent


def _sync_directory(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
