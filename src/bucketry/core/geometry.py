"""The arithmetic of blocks: the size of a volume, the size of its blocks, and which parts of which blocks a
range of bytes touches. The only place where offsets are divided by block sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bucketry.core.units import exact_size, format_size
from bucketry.errors import Invalid

#: Block numbers are 32-bit in s3backer's object names; the reference says "blocks < 2^32 in number".
BLOCK_COUNT_MAX = (1 << 32) - 1
#: A sector: nothing that sits on a disk asks for less.
BLOCK_SIZE_MIN = 512
#: Whole blocks are held in memory and sent in one request. s3backer goes to 2 GiB; 64 MiB is where a block
#: takes longer to upload than the usual time-out of a request.
BLOCK_SIZE_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of bytes, ``offset`` to ``offset + length``."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Span:
    """The part of one block that a range of bytes covers: bytes ``start`` to ``end`` of block number
    ``block``."""

    block: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """A volume of ``size_bytes`` in blocks of ``block_size_bytes``; part of the volume's format, never
    changed lightly."""

    size_bytes: int
    block_size_bytes: int

    def __post_init__(self) -> None:
        block_size = self.block_size_bytes
        if block_size & (block_size - 1) or not BLOCK_SIZE_MIN <= block_size <= BLOCK_SIZE_MAX:
            raise Invalid(
                f"a block size of {exact_size(block_size)} is not a power of two from "
                f"{exact_size(BLOCK_SIZE_MIN)} to {exact_size(BLOCK_SIZE_MAX)}"
            )
        if self.size_bytes <= 0 or self.size_bytes % block_size:
            raise Invalid(
                f"a size of {exact_size(self.size_bytes)} is not a positive multiple of the block size, "
                f"{exact_size(block_size)}"
            )
        if self.block_count > BLOCK_COUNT_MAX:
            limit = format_size((BLOCK_COUNT_MAX + 1) * block_size)
            raise Invalid(
                f"{format_size(self.size_bytes)} is too large for blocks of {exact_size(block_size)} "
                f"(their limit is {limit}); use larger blocks"
            )

    def __str__(self) -> str:
        return f"{exact_size(self.size_bytes)} in blocks of {exact_size(self.block_size_bytes)}"

    @property
    def block_count(self) -> int:
        return self.size_bytes // self.block_size_bytes

    def check(self, offset: int, length: int) -> None:
        """Raise Invalid unless ``offset`` and ``length`` lie within the volume."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise Invalid(f"{length} bytes at {offset} are not within the {self.size_bytes} of the volume")

    def extent(self, block: int) -> Extent:
        """The bytes of one block."""
        return Extent(block * self.block_size_bytes, self.block_size_bytes)

    def spans(self, offset: int, length: int) -> Iterator[Span]:
        """The parts of blocks that ``length`` bytes at ``offset`` cover, in order; none when length is 0."""
        size = self.block_size_bytes
        end = offset + length
        while offset < end:
            block, start = divmod(offset, size)
            stop = min(size, start + end - offset)
            yield Span(block, start, stop)
            offset += stop - start

    def within_block(self, extent: Extent) -> Span:
        """An extent that lies in one block, as its part. Raises Invalid when it is empty, goes beyond the
        block, or the volume."""
        self.check(extent.offset, extent.length)
        block, start = divmod(extent.offset, self.block_size_bytes)
        end = start + extent.length
        if not start < end <= self.block_size_bytes:
            raise Invalid(f"{extent.length} bytes at {extent.offset} are not a part of one block")
        return Span(block, start, end)

    def whole_blocks(self, offset: int, length: int) -> range:
        """The numbers of the blocks that ``length`` bytes at ``offset`` cover wholly."""
        size = self.block_size_bytes
        first = -(-offset // size)
        return range(first, max(first, (offset + length) // size))
