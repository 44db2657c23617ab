"""What is written to a simulated disk, so that every byte read back tells which write it is from.

A block is cut into cells at odd places. Every write has a number, and fills whole cells with bytes made from
it; number 0 is zeros.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from hashlib import shake_128
from typing import TypeAlias

from bucketry.core.bytes_like import BytesLike

#: The numbers of the writes that the cells of one block are from.
Numbers: TypeAlias = tuple[int, ...]


class Torn(Exception):
    """Bytes that no write has written: a mixture, or damage."""


class Cells:
    """How the blocks of a disk are cut."""

    def __init__(self, block_size_bytes: int) -> None:
        size = block_size_bytes
        #: Where cells begin, and the last one's end. None is shorter than the four bytes of a number.
        self.bounds = (0, 4, size // 5, size // 4, size // 2, size // 2 + 44, size - 4, size)

    @property
    def count(self) -> int:
        """Of one block."""
        return len(self.bounds) - 1

    @cached_property
    def zeros(self) -> Numbers:
        """The numbers of a block of zeros."""
        return (0,) * self.count

    def content(self, first: int, stop: int, number: int) -> bytes:
        """The bytes of cells ``first`` to before ``stop`` of one block, written by ``number``."""
        return b"".join(
            _fill(number, self.bounds[cell + 1] - self.bounds[cell]) for cell in range(first, stop)
        )

    def numbers(self, first: int, data: BytesLike) -> Numbers:
        """Which writes the bytes of whole cells of one block, from ``first`` on, are from. Raises Torn."""
        whole = bytes(data)
        found = []
        start = self.bounds[first]
        for cell in range(first, self.count):
            if self.bounds[cell] - start >= len(whole):
                break
            found.append(_number(whole[self.bounds[cell] - start : self.bounds[cell + 1] - start]))
        return tuple(found)

    def block_numbers(self, data: BytesLike | None) -> Numbers:
        """Of a whole block; None is zeros."""
        return self.zeros if data is None else self.numbers(0, data)


@cache
def _fill(number: int, length: int) -> bytes:
    head = number.to_bytes(4, "big")
    if number % 3 or not number:
        return (head * (length // 4 + 1))[:length]
    return head + shake_128(head).digest(length - 4)  # does not compress


@cache
def _number(data: bytes) -> int:
    number = int.from_bytes(data[:4], "big")
    if _fill(number, len(data)) != data:
        raise Torn(f"bytes that no write has written: {data[:16].hex()}…")
    return number


def show(numbers: Sequence[int]) -> str:
    """For people: ``12 12 0 7``."""
    return " ".join(str(number) for number in numbers)
