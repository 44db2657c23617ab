"""What was done to a disk while one holder had it, and what follows for its content.

The model is a cell's list of versions. Writes that overlap in time never touch the same cell (users see to
that), so that the versions of a cell come one after the other; those of a block's cells may overlap freely.

**Epochs.** A flush ends one, at the moment it is called. A version belongs to one of the epochs between the
call of its write and its return; while the write has not returned, or when it failed, it may belong to any
later one, or never have been made.

**The rule of order**, checked for the content of the bucket at every moment: there is an epoch F such that
the content has everything up to F and, of what came later, only versions of F + 1. F is at least the last
epoch whose flush has returned.

**The rule of blocks**: what is seen of a block was its content at some moment. Who sees a write in one cell
sees in all the others of that block at least what was there when that write was called.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from bucketry.testing.simulation.cells import Numbers, show

#: An epoch after all others.
_NEVER = 1 << 60


class Violation(Exception):
    """A promise was broken. The message says which, and what was seen."""


@dataclass(slots=True, eq=False)
class Write:
    """One write (or zeroing) of neighbouring cells of one block. ``floor``: for each cell of the block, the
    index of the version that was there for certain when it was called; for its own cells its own."""

    number: int
    block: int
    first: int
    stop: int
    first_epoch: int
    last_epoch: int = _NEVER
    floor: list[int] = field(default_factory=list)


class _Cell:
    """The versions of one cell, oldest first. ``done``: the index of the last one whose write has
    returned."""

    __slots__ = ("done", "versions")

    def __init__(self, version: Write) -> None:
        self.versions = [version]
        self.done = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A read that has begun: which version of each cell it must see at least."""

    block: int
    first: int
    floor: list[int]


class History:
    """The writes of one holder to a disk whose content was ``base`` (block → numbers; other blocks zero)."""

    def __init__(self, block_count: int, cell_count: int, base: Mapping[int, Numbers]) -> None:
        self.block_count = block_count
        self.cell_count = cell_count
        self.base = dict(base)
        self.epoch = 1
        #: The last epoch whose flush has returned well.
        self.flushed = 0
        self.writes_begun = 0
        self.writes_under_way = 0
        #: Of the blocks that were touched.
        self.cells_of: dict[int, list[_Cell]] = {}
        #: Blocks of which content and history say the same as when they were looked at: which F they allow.
        self._allowed: dict[int, tuple[Numbers, list[tuple[int, int]]]] = {}

    def _cells(self, block: int) -> list[_Cell]:
        cells = self.cells_of.get(block)
        if cells is None:
            numbers = self.base.get(block) or (0,) * self.cell_count
            cells = self.cells_of[block] = [
                _Cell(Write(number, block, cell, cell + 1, 0, 0, [0] * self.cell_count))
                for cell, number in enumerate(numbers)
            ]
        return cells

    def recovered(self, seen: Mapping[int, Numbers]) -> "History":
        """That of a holder who has taken over a journal of these writes and reads ``seen``: it goes on where
        this one ended. What is not seen is lost, and never reaches the bucket; what is seen will, in its old
        order, before what comes now."""
        after = deepcopy(self)
        after.flushed = self.epoch
        after.epoch = self.epoch + 1
        after.writes_under_way = 0
        after._allowed.clear()  # noqa: SLF001 - it is one of us
        for block, cells in after.cells_of.items():
            for cell, number in zip(cells, seen.get(block) or (0,) * self.cell_count, strict=True):
                while cell.versions[-1].number != number:
                    cell.versions.pop()
                cell.done = len(cell.versions) - 1
                for version in cell.versions:
                    version.last_epoch = min(version.last_epoch, self.epoch)
        return after

    # -- what is done ----------------------------------------------------------------------------------------

    def begin_write(self, block: int, first: int, stop: int, number: int) -> Write:
        """A write of cells ``first`` to before ``stop`` is called."""
        cells = self._cells(block)
        write = Write(number, block, first, stop, self.epoch)
        for cell in cells[first:stop]:
            cell.versions.append(write)
        write.floor = [
            len(cell.versions) - 1 if first <= index < stop else cell.done for index, cell in enumerate(cells)
        ]
        self._allowed.pop(block, None)
        self.writes_begun += 1
        self.writes_under_way += 1
        return write

    def end_write(self, write: Write, *, ok: bool) -> None:
        """It has returned; not ``ok``: with an error, and may have been made or not."""
        self.writes_under_way -= 1
        self._allowed.pop(write.block, None)
        if ok:
            write.last_epoch = self.epoch
            for index in range(write.first, write.stop):
                self.cells_of[write.block][index].done = write.floor[index]

    def begin_flush(self) -> int:
        """A flush is called: the number of the epoch that it ends."""
        self.epoch += 1
        return self.epoch - 1

    def end_flush(self, epoch: int) -> None:
        """The flush of this epoch has returned well."""
        self.flushed = max(self.flushed, epoch)

    # -- what is read ----------------------------------------------------------------------------------------

    def begin_read(self, block: int, first: int, stop: int) -> Reading:
        cells = self._cells(block)
        return Reading(block, first, [cell.done for cell in cells[first:stop]])

    def check_read(self, reading: Reading, numbers: Sequence[int]) -> None:
        """What was read is, in each cell, the last write that had returned before, or a later one."""
        cells = self._cells(reading.block)
        for index, (number, floor) in enumerate(zip(numbers, reading.floor, strict=True), reading.first):
            versions = cells[index].versions
            if all(versions[at].number != number for at in range(floor, len(versions))):
                expected = [version.number for version in versions[floor:]]
                raise Violation(
                    f"block {reading.block}: cell {index} was read as {number}, expected {show(expected)}"
                )

    # -- what the bucket holds -------------------------------------------------------------------------------

    def check_order(
        self, content: Mapping[int, Numbers], *, flushed: int | None = None, aside: Collection[int] = ()
    ) -> None:
        """The rule of order, for the whole content. Blocks that may have been set ``aside``, because they
        were damaged when they were read, hold up no other: of them only that they have what was flushed.
        ``flushed``: up to which epoch, where not all that was flushed must be there."""
        at_least = [(self.flushed if flushed is None else flushed, _NEVER)]
        allowed, narrowest = at_least, -1
        for block in self.cells_of:
            of_block = self._allowed_by(block, content.get(block) or (0,) * self.cell_count)
            is_aside = block in aside
            narrowed = _intersect(at_least if is_aside else allowed, of_block)
            if not narrowed:
                raise Violation(
                    f"order: block {block} ({show(content.get(block) or (0,))}) fits epochs "
                    f"{_show(of_block)}, block {narrowest} {_show(allowed)}; epoch now {self.epoch}, "
                    f"flushed {self.flushed}"
                )
            if not is_aside and narrowed != allowed:
                allowed, narrowest = narrowed, block

    def check_block(self, block: int, numbers: Numbers) -> None:
        """The rule of blocks."""
        cells = self._cells(block)
        latest = [
            max((at for at, version in enumerate(cell.versions) if version.number == number), default=-1)
            for cell, number in zip(cells, numbers, strict=True)
        ]
        for index, number in enumerate(numbers):
            if latest[index] < 0:
                raise Violation(
                    f"block {block}: {show(numbers)}: nobody has written {number} in cell {index}"
                )
            if number == 0:
                continue  # zeros do not tell which zeros they are
            seen = cells[index].versions[latest[index]]
            for other, floor in enumerate(seen.floor):
                if latest[other] < floor:
                    raise Violation(
                        f"block {block}: {show(numbers)} is a mixture: cell {index} has write {number}, "
                        f"cell {other} has not what was there before it"
                    )

    def check_not_older(self, block: int, numbers: Numbers, before: Numbers) -> None:
        """No cell of a block is older than ``before``, as far as they tell."""
        for index, (cell, number, earlier) in enumerate(
            zip(self._cells(block), numbers, before, strict=True)
        ):
            versions = [version.number for version in cell.versions]
            if number not in versions[versions.index(earlier) :]:
                raise Violation(
                    f"block {block}: cell {index} went back from {earlier}, as the bucket had it, to {number}"
                )

    def _allowed_by(self, block: int, numbers: Numbers) -> list[tuple[int, int]]:
        known = self._allowed.get(block)
        if known is not None and known[0] == numbers:
            return known[1]
        allowed = [(0, _NEVER)]
        for cell, number in zip(self.cells_of[block], numbers, strict=True):
            allowed = _intersect(allowed, _allowed_by(cell, number))
        self._allowed[block] = numbers, allowed
        return allowed

    def check_complete(self, content: Mapping[int, Numbers]) -> None:
        """The content has every write that has returned."""
        for block, cells in self.cells_of.items():
            numbers = content.get(block) or (0,) * self.cell_count
            for index, (cell, number) in enumerate(zip(cells, numbers, strict=True)):
                wanted = [version.number for version in cell.versions[cell.done :]]
                if number not in wanted:
                    raise Violation(
                        f"block {block}: cell {index} is {number} in the bucket, expected {show(wanted)}"
                    )


def _allowed_by(cell: _Cell, number: int) -> list[tuple[int, int]]:
    """The epochs F that the content of one cell allows, as ranges, both ends included."""
    ranges = []
    end = _NEVER
    for version in reversed(cell.versions):
        if version.number == number and version.first_epoch - 1 <= end:
            ranges.append((version.first_epoch - 1, end))
        if version.last_epoch != _NEVER:
            end = min(end, version.last_epoch - 1)
    return ranges[::-1]


def _intersect(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(one) == 1 == len(other):
        (start, end), (start_2, end_2) = one[0], other[0]
        if start_2 <= start and end <= end_2:
            return one
        start, end = max(start, start_2), min(end, end_2)
        return [(start, end)] if start <= end else []
    found = {
        (max(start, start_2), min(end, end_2))
        for start, end in one
        for start_2, end_2 in other
        if max(start, start_2) <= min(end, end_2)
    }
    return sorted(found)


def _show(ranges: list[tuple[int, int]]) -> str:
    texts = [f"{start}…" if end == _NEVER else f"{start}…{end}" for start, end in ranges]
    return ", ".join(texts) or "none"
