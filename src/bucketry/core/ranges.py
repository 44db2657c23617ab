"""Which parts of a block are known: sets of byte ranges, kept sorted and merged."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of numbers, as disjoint ranges ``(start, end)`` in ascending order that do not touch.

    Meant for a few ranges: adding costs the number of ranges it meets.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add the numbers from ``start`` to before ``end``."""
        if start >= end:
            return
        # Those that overlap the new range or touch it become one with it.
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def covers(self, start: int, end: int) -> bool:
        """Whether every number from ``start`` to before ``end`` is in the set."""
        index = bisect_right(self._starts, start) - 1
        return start >= end or (index >= 0 and end <= self._ends[index])

    def gaps(self, size: int) -> Iterator[tuple[int, int]]:
        """The ranges below ``size`` that are not in the set."""
        start = 0
        for begin, end in self:
            if start < begin:
                yield start, begin
            start = end
        if start < size:
            yield start, size

    def copy(self) -> "Ranges":
        twin = Ranges()
        twin._starts = self._starts.copy()
        twin._ends = self._ends.copy()
        return twin

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"


def runs(numbers: Iterable[int], count_max: int | None = None) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges without gaps, ``(start, end)``, none longer than ``count_max``."""
    start = end = -1
    for number in numbers:
        if number != end or end - start == count_max:
            if end > start:
                yield start, end
            start = number
        end = number + 1
    if end > start:
        yield start, end
