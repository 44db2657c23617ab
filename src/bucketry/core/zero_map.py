"""Which blocks of a volume are known to be zero, so that nothing is asked of the bucket for them.

One bit a block. A bit that is set is knowledge ("reads as zeros"), a bit that is not is only the lack of it.
Knowledge comes from zeroing a block, from reading it and finding nothing, and wholesale from a *survey*, a
listing of what exists:

* ``begin_survey`` starts a second map in which every block is a candidate for zero;
* what the listing finds (``note_found``) and what is written meanwhile (``clear``) stop being candidates;
* ``finish_survey`` adds the remaining candidates to what is known, ``abandon_survey`` drops them.

``encode`` and ``decode`` are for keeping what is known from one attachment to the next.

A write that was acknowledged *before* the survey began but is not yet in the bucket escapes the listing;
whoever has such blocks names them with ``note_found`` after beginning.
"""

import struct
import zlib

from bucketry.errors import Corrupt

#: Blocks per chunk. A chunk that is all the same costs one list slot, any other 8 KiB: 2^32 blocks begin
#: with 65,536 slots instead of 512 MiB, and no operation within a chunk touches more than those 8 KiB.
_CHUNK_BITS = 1 << 16


class _Bits:
    """A set of numbers below ``size``, as bits in chunks that exist only where they are mixed."""

    __slots__ = ("chunks", "counts", "size")

    def __init__(self, size: int, *, value: bool) -> None:
        self.size = size
        chunk_count = -(-size // _CHUNK_BITS)
        #: None: the chunk is uniform, and its count tells which way.
        self.chunks: list[bytearray | None] = [None] * chunk_count
        #: Set bits per chunk.
        self.counts = [_CHUNK_BITS if value else 0] * chunk_count
        if value and chunk_count:
            self.counts[-1] = self._chunk_size(chunk_count - 1)

    def _chunk_size(self, index: int) -> int:
        return min(_CHUNK_BITS, self.size - index * _CHUNK_BITS)

    def test(self, number: int) -> bool:
        index, bit = divmod(number, _CHUNK_BITS)
        chunk = self.chunks[index]
        if chunk is None:
            return self.counts[index] != 0
        return bool(chunk[bit >> 3] >> (bit & 7) & 1)

    def count(self) -> int:
        return sum(self.counts)

    def fill(self, first: int, stop: int, *, value: bool) -> None:
        """Set, or clear, the numbers from ``first`` to before ``stop``."""
        while first < stop:
            index, start = divmod(first, _CHUNK_BITS)
            end = min(self._chunk_size(index), start + stop - first)
            self._fill_chunk(index, start, end, value=value)
            first += end - start

    def _fill_chunk(self, index: int, start: int, end: int, *, value: bool) -> None:
        size = self._chunk_size(index)
        count = self.counts[index]
        if count == (size if value else 0):
            return
        if end - start == size:
            count = size if value else 0
        else:
            chunk = self._mixed_chunk(index)
            low, high = start >> 3, (end + 7) >> 3
            bits = int.from_bytes(chunk[low:high], "little")
            mask = ((1 << (end - start)) - 1) << (start & 7)
            before = (bits & mask).bit_count()
            bits = bits | mask if value else bits & ~mask
            chunk[low:high] = bits.to_bytes(high - low, "little")
            count += (end - start if value else 0) - before
        self.counts[index] = count
        if count in (0, size):
            self.chunks[index] = None

    def grow(self, size: int, *, value: bool) -> None:
        """More numbers, set or not."""
        before, last = self.size, len(self.chunks) - 1
        if last >= 0 and (used := self._chunk_size(last)) < _CHUNK_BITS:
            # Beyond the end a chunk may have any bits, and a uniform one is not any more when it gets larger.
            bits = int.from_bytes(self._mixed_chunk(last), "little") & ((1 << used) - 1)
            self.chunks[last] = bytearray(bits.to_bytes(_CHUNK_BYTES, "little"))
        more = -(-size // _CHUNK_BITS) - len(self.chunks)
        self.chunks += [None] * more
        self.counts += [0] * more
        self.size = size
        self.fill(before, size, value=value)
        if last >= 0 and self.counts[last] in (0, self._chunk_size(last)):
            self.chunks[last] = None

    def _mixed_chunk(self, index: int) -> bytearray:
        chunk = self.chunks[index]
        if chunk is None:
            chunk = bytearray((b"\xff" if self.counts[index] else b"\0") * (_CHUNK_BITS // 8))
            self.chunks[index] = chunk
        return chunk

    def next(self, first: int, stop: int, *, value: bool) -> int:
        """The least number from ``first`` to before ``stop`` that is set, or not, as ``value`` says;
        ``stop`` if none."""
        while first < stop:
            index, start = divmod(first, _CHUNK_BITS)
            end = min(self._chunk_size(index), start + stop - first)
            chunk = self.chunks[index]
            if chunk is None:
                if bool(self.counts[index]) == value:
                    return first
            else:
                bits = int.from_bytes(chunk[start >> 3 : (end + 7) >> 3], "little") >> (start & 7)
                if not value:
                    bits = ~bits
                bits &= (1 << (end - start)) - 1
                if bits:
                    return first + (bits & -bits).bit_length() - 1
            first += end - start
        return stop

    def restore(self, body: bytes) -> None:
        """Take over what ``ZeroMap.encode`` says of each chunk. Raises Corrupt."""
        unpacker = zlib.decompressobj()
        kinds_and_bits = len(self.chunks) * (1 + _CHUNK_BYTES)
        try:
            parts = unpacker.decompress(body, kinds_and_bits + 1)
        except zlib.error as error:
            raise Corrupt(f"a damaged zero map: {error}") from error
        position = 0
        for index in range(len(self.chunks)):
            kind = parts[position : position + 1]
            position += 1
            size = self._chunk_size(index)
            if kind == bytes([_MIXED]):
                chunk = bytearray(parts[position : position + _CHUNK_BYTES])
                position += _CHUNK_BYTES
                # Beyond the end of the volume a chunk may have any bits.
                bits = int.from_bytes(chunk, "little") & ((1 << size) - 1)
                if len(chunk) != _CHUNK_BYTES or not 0 < bits.bit_count() < size:
                    raise Corrupt("a zero map with a chunk that cannot be")
                self.chunks[index], self.counts[index] = chunk, bits.bit_count()
            elif kind == bytes([_ALL]):
                self.counts[index] = size
            elif kind != bytes([_NONE]):
                raise Corrupt("a zero map with a chunk of no kind")
        if position != len(parts) or not unpacker.eof:
            raise Corrupt("a zero map of another length")

    def add(self, other: "_Bits") -> None:
        """Set whatever is set in ``other``, a set of the same size."""
        for index, chunk in enumerate(other.chunks):
            count = other.counts[index]
            if count == 0:
                continue
            size = self._chunk_size(index)
            if chunk is None:
                self._fill_chunk(index, 0, size, value=True)
                continue
            mine = self._mixed_chunk(index)
            bits = int.from_bytes(mine, "little") | int.from_bytes(chunk, "little")
            bits &= (1 << size) - 1
            mine[:] = bits.to_bytes(len(mine), "little")
            self.counts[index] = bits.bit_count()
            if self.counts[index] == size:
                self.chunks[index] = None


#: Magic, number of blocks, whether a survey was finished; then, compressed by zlib, for each chunk one byte
#: of _NONE, _ALL or _MIXED, and for a mixed one its bits; at the end the CRC-32 of all of it.
_HEADER = struct.Struct("<8sQ?")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"zeromap1"
_NONE, _ALL, _MIXED = 0, 1, 2
_CHUNK_BYTES = _CHUNK_BITS // 8
#: Most maps are uniform for long stretches; higher levels gain little.
_LEVEL = 1


class ZeroMap:
    """What is known to be zero among ``block_count`` blocks; at first nothing is.

    Ranges are ``first`` to before ``stop``, within the volume, and may be empty.
    """

    def __init__(self, block_count: int) -> None:
        self._known = _Bits(block_count, value=False)
        self._candidates: _Bits | None = None
        self._surveyed = False

    @property
    def block_count(self) -> int:
        return self._known.size

    @property
    def surveyed(self) -> bool:
        """Whether a survey has been finished: then every block that is not known zero was stored or
        written."""
        return self._surveyed

    def is_zero(self, block: int) -> bool:
        return self._known.test(block)

    def all_zero(self, first: int, stop: int) -> bool:
        """Whether every block of the range is known to be zero."""
        return self._known.next(first, stop, value=False) == stop

    def next_zero(self, first: int, stop: int) -> int:
        """The first block of the range that is known to be zero; ``stop`` if none is."""
        return self._known.next(first, stop, value=True)

    def next_nonzero(self, first: int, stop: int) -> int:
        """The first block of the range that is not known to be zero; ``stop`` if all are."""
        return self._known.next(first, stop, value=False)

    def nonzero_count(self) -> int:
        """How many blocks are not known to be zero."""
        return self.block_count - self._known.count()

    def set_zero(self, first: int, stop: int) -> None:
        """The blocks are zero now."""
        self._known.fill(first, stop, value=True)

    def clear(self, block: int) -> None:
        """The block is being written: it is not known to be zero, whatever a survey under way says."""
        self._known.fill(block, block + 1, value=False)
        if self._candidates is not None:
            self._candidates.fill(block, block + 1, value=False)

    def grow(self, block_count: int, *, zero: bool) -> None:
        """The volume has more blocks from now on, known to be ``zero`` or not."""
        assert block_count >= self.block_count, "it only grows"
        self._known.grow(block_count, value=zero)
        if self._candidates is not None:
            self._candidates.grow(block_count, value=False)
        if not zero:
            self._surveyed = False

    def forget(self) -> None:
        """Nothing is known any more, and no survey is under way."""
        self._known = _Bits(self.block_count, value=False)
        self._candidates = None
        self._surveyed = False

    def begin_survey(self) -> None:
        """Begin to compare with a listing that starts now; one that was under way is forgotten."""
        self._candidates = _Bits(self.block_count, value=True)

    def note_found(self, first: int, stop: int) -> None:
        """The survey found these blocks stored. They lose nothing that was known otherwise (a block zeroed
        after it was listed stays zero). Nothing happens when no survey is under way."""
        if self._candidates is not None:
            self._candidates.fill(first, stop, value=False)

    def finish_survey(self) -> None:
        """What the survey did not find is zero. Call only after a complete listing."""
        assert self._candidates is not None, "no survey is under way"
        self._known.add(self._candidates)
        self._candidates = None
        self._surveyed = True

    def abandon_survey(self) -> None:
        """Forget the survey under way, if any; what is known stays as it was."""
        self._candidates = None

    def encode(self) -> bytes:
        """What is known, for ``decode``."""
        parts = []
        for count, chunk in zip(self._known.counts, self._known.chunks, strict=True):
            if chunk is None:
                parts.append(bytes([_ALL if count else _NONE]))
            else:
                parts += [bytes([_MIXED]), bytes(chunk)]
        header = _HEADER.pack(_MAGIC, self.block_count, self._surveyed)
        data = header + zlib.compress(b"".join(parts), _LEVEL)
        return data + _CHECKSUM.pack(zlib.crc32(data))

    @classmethod
    def decode(cls, data: bytes, block_count: int) -> "ZeroMap":
        """The map of ``block_count`` blocks that ``encode`` made ``data`` of. Raises Corrupt when it is
        none."""
        content, end = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
        if len(content) < _HEADER.size or _CHECKSUM.pack(zlib.crc32(content)) != end:
            raise Corrupt("not a zero map, or a damaged one")
        magic, found_count, surveyed = _HEADER.unpack_from(content)
        if magic != _MAGIC:
            raise Corrupt("not a zero map of this version")
        if found_count != block_count:
            raise Corrupt(f"a zero map of {found_count} blocks instead of {block_count}")
        zeros = cls(block_count)
        zeros._surveyed = surveyed
        zeros._known.restore(content[_HEADER.size :])
        return zeros
