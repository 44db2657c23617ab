"""The map of a cached object: whose bytes a data file holds, which of its blocks are there, and their
checksums.

An object is cached in two files of its own. The data file has the object's bytes at their own offsets, with
holes where nothing was fetched yet. The map file is::

    header    8 KiB   magic, version, length and crc32c of a text; the text: JSON, which object this is
              in its last 64 bytes a word that is SEALED or not: all of it is there, and goes as a whole
    records   64 bytes for each block of 128 KiB: sixteen words, little-endian, 32 bits each
              0 PRESENT or anything else · 1 last used · 2 filled (both in seconds since 1970)
              3 crc32c of the block · 4 to 11 crc32c of its units of 16 KiB · 12 to 15 nothing

The header is written once, before the file has its name. Records change at any time and under everybody's
eyes, without a lock against readers: what is read is compared with its checksum each time, so a record that
is torn, old or forged is a miss. A map that does not fit its object to the letter is nobody's.
"""

import json
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Corrupt

#: What is fetched and evicted at once: large enough that a request is worth it, as for disks.
BLOCK_BYTES = 128 << 10
#: What is read and verified at once. Half of what a storage engine reads at most as a rule; verifying it
#: takes some two microseconds.
UNIT_BYTES = 16 << 10
UNITS = BLOCK_BYTES // UNIT_BYTES

#: A name (1 KiB), a key (1 KiB), the checksums of pieces (1.4 KiB) and a URL, escaped where they must be.
HEADER_BYTES = 8192
RECORD_BYTES = 64
RECORD_WORDS = RECORD_BYTES // 4
#: The words of a record that mean something.
RECORD = struct.Struct(f"<{4 + UNITS}I")
#: Nothing that a damaged file would have by chance.
PRESENT = 0x6B42_5072
SEALED = 0x6B42_5365
SEALED_OFFSET = HEADER_BYTES - 64
#: More than any store takes in one object; so that a damaged number does not make us read for hours.
SIZE_MAX_BYTES = 1 << 50

_MAGIC = b"bkry-map"
_VERSION = 1
_PREFIX = struct.Struct("<8sIII")
_TEXT_MAX = SEALED_OFFSET - _PREFIX.size
#: What file systems allocate by.
_PAGE_BYTES = 4096

Checksum = Callable[[bytes], int]


@dataclass(frozen=True, slots=True)
class CachedObject:
    """Which version of which object is cached. ``store`` tells buckets apart; ``name`` is that of the plain
    file in the cache directory; ``pieces`` the text of its checksums (core.pieces) or None."""

    store: str
    key: str
    name: str
    etag: str
    size_bytes: int
    pieces: str | None
    created_seconds: float

    @property
    def block_count(self) -> int:
        return -(-self.size_bytes // BLOCK_BYTES)

    @property
    def map_bytes(self) -> int:
        """How long the map file is."""
        return HEADER_BYTES + self.block_count * RECORD_BYTES

    @property
    def map_cost_bytes(self) -> int:
        """What the map counts against the limit on the cache."""
        return _pages(self.map_bytes)

    def length_of(self, block: int) -> int:
        """How many bytes a block has: the last one may have fewer."""
        return min(BLOCK_BYTES, self.size_bytes - block * BLOCK_BYTES)

    def cost_of(self, block: int) -> int:
        """What a block counts against the limit on the cache."""
        return _pages(self.length_of(block))


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES


def record_offset(block: int) -> int:
    """Where the record of a block is in the map."""
    return HEADER_BYTES + block * RECORD_BYTES


def encode_header(about: CachedObject, checksum: Checksum) -> bytes | None:
    """The header, not sealed. None when the names are too long for it."""
    text = json.dumps(
        [
            about.store,
            about.key,
            about.name,
            about.etag,
            about.size_bytes,
            about.pieces,
            about.created_seconds,
        ],
        ensure_ascii=False,
    ).encode("utf-8", "surrogatepass")
    if len(text) > _TEXT_MAX:
        return None
    return (_PREFIX.pack(_MAGIC, _VERSION, len(text), checksum(text)) + text).ljust(HEADER_BYTES, b"\0")


def decode_header(content: bytes, checksum: Checksum) -> tuple[CachedObject, bool]:
    """The object, and whether it is sealed. Raises Corrupt for what ``encode_header`` does not write."""
    if len(content) < HEADER_BYTES:
        raise Corrupt("its map is cut short")
    magic, version, length, crc = _PREFIX.unpack_from(content)
    if magic != _MAGIC or version != _VERSION or length > _TEXT_MAX:
        raise Corrupt("its map is not one, or of another version")
    text = content[_PREFIX.size : _PREFIX.size + length]
    if checksum(text) != crc:
        raise Corrupt("its map is damaged")
    try:
        fields = json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise Corrupt("its map is damaged") from None
    kinds = (str, str, str, str, int, str | None, float)
    if not (isinstance(fields, list) and len(fields) == len(kinds)):
        raise Corrupt("its map is damaged")
    for field, kind in zip(fields, kinds, strict=True):
        if not isinstance(field, kind) or isinstance(field, bool):
            raise Corrupt("its map is damaged")
    about = CachedObject(*fields)
    if not 0 <= about.size_bytes <= SIZE_MAX_BYTES:
        raise Corrupt("its map is damaged")
    (sealed,) = struct.unpack_from("<I", content, SEALED_OFFSET)
    return about, sealed == SEALED


def encode_record(block: BytesLike, now_seconds: int, checksum: Checksum) -> bytes:
    """The record of a block that is there."""
    content = bytes(block)
    units = [checksum(content[at : at + UNIT_BYTES]) for at in range(0, len(content), UNIT_BYTES)]
    units += [0] * (UNITS - len(units))
    return RECORD.pack(PRESENT, now_seconds, now_seconds, checksum(content), *units).ljust(
        RECORD_BYTES, b"\0"
    )


class Records:
    """The records of all blocks of an object, or of some in a row, as they were when they were read."""

    __slots__ = ("_words", "count")

    def __init__(self, content: bytes) -> None:
        self.count = len(content) // RECORD_BYTES
        self._words = array("I")
        if self._words.itemsize != 4:
            raise NotImplementedError("an unsigned int has 4 bytes on every system that this runs on")
        self._words.frombytes(content[: self.count * RECORD_BYTES])
        if array("I", [1]).tobytes()[0] != 1:
            self._words.byteswap()  # records are little-endian, and this machine is not

    def present(self) -> list[int]:
        """Indexes of the blocks that are there."""
        return [index for index, state in enumerate(self._words[::RECORD_WORDS]) if state == PRESENT]

    def missing(self) -> list[int]:
        """Indexes of the blocks that are not."""
        return [index for index, state in enumerate(self._words[::RECORD_WORDS]) if state != PRESENT]

    def used_seconds(self, index: int) -> int:
        return self._words[index * RECORD_WORDS + 1]

    def filled_seconds(self, index: int) -> int:
        return self._words[index * RECORD_WORDS + 2]

    def checksum(self, index: int) -> int:
        return self._words[index * RECORD_WORDS + 3]
