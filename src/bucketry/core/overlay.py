"""Which bytes of a volume a journal has newer ones of: ranges, each with where its bytes are.

Later ranges replace what they cover of earlier ones. Nothing is read here.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class Piece(Generic[Source]):
    """``length`` bytes at ``offset`` of the volume are those of ``source`` from its byte ``start`` on; zeros
    where ``source`` is None."""

    offset: int
    length: int
    source: Source | None
    start: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.length

    def part(self, offset: int, end: int) -> "Piece[Source]":
        """The part of it between two offsets of the volume."""
        first, last = max(self.offset, offset), min(self.end, end)
        return replace(self, offset=first, length=last - first, start=self.start + first - self.offset)


class Overlay(Generic[Source]):
    """Ranges that do not overlap, in the order of their offsets."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._pieces: list[Piece[Source]] = []

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def size_bytes(self) -> int:
        """How many bytes of the volume it covers."""
        return sum(piece.length for piece in self._pieces)

    def add(self, piece: Piece[Source]) -> None:
        """``piece`` replaces what it covers."""
        if piece.length == 0:
            return
        first, stop = self._touched(piece.offset, piece.end)
        new = [piece]
        if first < stop:
            left, right = self._pieces[first], self._pieces[stop - 1]
            if left.offset < piece.offset:
                new.insert(0, left.part(left.offset, piece.offset))
            if right.end > piece.end:
                new.append(right.part(piece.end, right.end))
        self._pieces[first:stop] = new
        self._offsets[first:stop] = [each.offset for each in new]

    def pieces(self, offset: int, length: int) -> Iterator[Piece[Source]]:
        """The parts of pieces that lie within a range, in order."""
        first, stop = self._touched(offset, offset + length)
        for piece in self._pieces[first:stop]:
            yield piece.part(offset, offset + length)

    def touches(self, offset: int, length: int) -> bool:
        """Whether any byte of a range is covered."""
        first, stop = self._touched(offset, offset + length)
        return first < stop

    def _touched(self, offset: int, end: int) -> tuple[int, int]:
        """The indexes of the pieces that share a byte with a range."""
        first = bisect_right(self._offsets, offset)
        if first and self._pieces[first - 1].end > offset:
            first -= 1
        stop = first
        while stop < len(self._pieces) and self._pieces[stop].offset < end:
            stop += 1
        return first, stop
