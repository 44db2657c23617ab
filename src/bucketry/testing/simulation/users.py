"""Those who work on a disk: random operations, each checked against what the disk promises."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from bucketry.core.geometry import Geometry
from bucketry.disk.interface import Device
from bucketry.errors import BucketryError, Closed, Fenced
from bucketry.testing.simulation.cells import Cells, Numbers, Torn, show
from bucketry.testing.simulation.course import Users
from bucketry.testing.simulation.history import Reading, Violation, Write
from bucketry.testing.simulation.machines import Process
from bucketry.testing.simulation.witness import Session, Witness

_T = TypeVar("_T")

#: How long an operation may take, from when it was called or from when what holds it up (a pause of the
#: machine, a line that is cut) was over: retries (60 s at most), two attempts (30 s each), and its turn
#: behind the other requests; a flush has a whole cache to upload, and a write waits for room in it.
READ_SECONDS_MAX = 600.0
CHANGE_SECONDS_MAX = 1800.0


@dataclass(slots=True, eq=False)
class Operation:
    """Something that a user waits for."""

    what: str
    began: float
    seconds_max: float


@dataclass(slots=True)
class Attachment:
    """A disk that is attached, and what is known about it."""

    process: Process
    disk: Device
    session: Session
    #: What errors may be told of. Empty: none.
    may_fail: bool
    #: Cells that somebody is writing just now.
    busy: set[tuple[int, int]] = field(default_factory=set)


class Waits:
    """What is being waited for at this moment, so that nothing hangs unnoticed."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.under_way: dict[Operation, Process] = {}
        #: When the last disturbance of the line ended; infinite while there is one.
        self.line_whole_since = 0.0

    async def limited(
        self, process: Process, what: str, seconds_max: float, work: Coroutine[Any, Any, _T]
    ) -> _T:
        operation = Operation(what, self._now(), seconds_max)
        self.under_way[operation] = process
        try:
            return await work
        finally:
            del self.under_way[operation]

    def check(self) -> None:
        """Raises Violation when something takes longer than it may."""
        now = self._now()
        for operation, process in self.under_way.items():
            if process.paused or not process.is_alive:
                continue
            since = max(operation.began, process.resumed_at)
            if operation.seconds_max >= CHANGE_SECONDS_MAX:
                since = max(since, self.line_whole_since)
            if now - since > operation.seconds_max:
                raise Violation(
                    f"{process.name}: {operation.what} hangs since {operation.began:.0f} "
                    f"(now {now:.0f}, more than {operation.seconds_max:.0f} s)"
                )


class User:
    """One task. ``next_number`` numbers the writes of all."""

    def __init__(
        self,
        name: str,
        random: Random,
        users: Users,
        geometry: Geometry,
        cells: Cells,
        witness: Witness,
        waits: Waits,
        *,
        next_number: Callable[[], int],
        trace: Callable[[str, str], None],
    ) -> None:
        self._name = name
        self._random = random
        self._users = users
        self._geometry = geometry
        self._cells = cells
        self._witness = witness
        self._waits = waits
        self._next_number = next_number
        self._trace = trace

    async def work(self, attachment: Attachment) -> None:
        """All its operations; ends early when the disk is not ours any more."""
        kinds = [self._write, self._zero, self._trim, self._read, self._flush, self._extents]
        for _ in range(self._users.operations):
            kind = self._random.choices(kinds, weights=self._users.weights)[0]
            if self._random.random() < 0.7:
                await asyncio.sleep(self._random.uniform(0, self._users.pause_max_seconds))
            try:
                await kind(attachment)
            except (Fenced, Closed) as error:
                if not attachment.may_fail:
                    raise Violation(f"{self._name}: failed without a cause: {error}") from error
                self._trace(self._name, f"{type(error).__name__}: {error}")
                if isinstance(error, Closed) or attachment.session.is_over:
                    return
            except BucketryError as error:
                if not attachment.may_fail:
                    raise Violation(f"{self._name}: failed without a cause: {error}") from error
                self._trace(self._name, f"{type(error).__name__}: {error}")

    # -- changes ---------------------------------------------------------------------------------------------

    async def _write(self, at: Attachment) -> None:
        number = 0 if self._random.random() < 0.1 else self._next_number()
        ranges = self._claim(at)
        if not ranges:
            return
        data = b"".join(self._cells.content(first, stop, number) for _, first, stop in ranges)
        offset = self._offset(ranges[0])
        self._trace(self._name, f"write {number} over {_show(ranges)}")
        is_immediate = self._random.random() < 0.5

        async def write() -> None:
            if not (is_immediate and at.disk.write_nowait(offset, data)):
                await at.disk.write(offset, data)

        await self._change(at, ranges, number, "write", write())

    async def _zero(self, at: Attachment) -> None:
        await self._clear(at, "zero", at.disk.zero)

    async def _trim(self, at: Attachment) -> None:
        await self._clear(at, "trim", at.disk.trim)

    async def _clear(
        self, at: Attachment, what: str, clear: Callable[[int, int], Coroutine[Any, Any, None]]
    ) -> None:
        ranges = self._claim(at)
        if not ranges:
            return
        offset, end = self._offset(ranges[0]), self._end(ranges[-1])
        self._trace(self._name, f"{what} {_show(ranges)}")
        await self._change(at, ranges, 0, what, clear(offset, end - offset))

    async def _change(
        self,
        at: Attachment,
        ranges: list[tuple[int, int, int]],
        number: int,
        what: str,
        change: Coroutine[Any, Any, None],
    ) -> None:
        history = at.session.history
        writes: list[Write] = [history.begin_write(*place, number) for place in ranges]
        ok = False
        try:
            await self._waits.limited(
                at.process, f"{what} {number} over {_show(ranges)}", CHANGE_SECONDS_MAX, change
            )
            ok = True
        finally:
            for write in writes:
                history.end_write(write, ok=ok)
            at.busy -= _cells(ranges)
        self._trace(self._name, f"{what} {number} is done")

    def _claim(self, at: Attachment) -> list[tuple[int, int, int]]:
        """Cells to write that nobody else is writing: (block, first, stop) for each block, neighbours; now
        busy. Empty when what was drawn is taken."""
        ranges = self._draw_range()
        cells = _cells(ranges)
        if cells & at.busy:
            return []
        at.busy |= cells
        return ranges

    def _draw_range(self) -> list[tuple[int, int, int]]:
        random, cells = self._random, self._cells
        block_count = self._geometry.block_count
        # Some blocks are more popular than others.
        block = min(random.randrange(block_count), random.randrange(block_count))
        count = min(random.randint(1, self._users.blocks_max), block_count - block)
        if random.random() < 0.3:
            return [(each, 0, cells.count) for each in range(block, block + count)]
        first, stop = random.randrange(cells.count), random.randint(1, cells.count)
        if count == 1:
            first, stop = min(first, stop - 1), max(first + 1, stop)
        ranges = [(each, 0, cells.count) for each in range(block, block + count)]
        ranges[0] = (block, first, ranges[0][2])
        ranges[-1] = (block + count - 1, ranges[-1][1], stop)
        return ranges

    def _offset(self, place: tuple[int, int, int]) -> int:
        return place[0] * self._geometry.block_size_bytes + self._cells.bounds[place[1]]

    def _end(self, place: tuple[int, int, int]) -> int:
        return place[0] * self._geometry.block_size_bytes + self._cells.bounds[place[2]]

    async def _flush(self, at: Attachment) -> None:
        history = at.session.history
        self._trace(self._name, f"flush of epoch {history.epoch}")
        begun, under_way = history.writes_begun, history.writes_under_way
        epoch = history.begin_flush()
        await self._waits.limited(at.process, f"flush of epoch {epoch}", CHANGE_SECONDS_MAX, at.disk.flush())
        self._trace(self._name, f"flush of epoch {epoch} is done")
        self._witness.flushed(at.session, epoch)
        is_quiet = not under_way and begun == history.writes_begun and not at.session.journal
        check_statistics(at.disk, is_flushed=is_quiet)

    # -- looks -----------------------------------------------------------------------------------------------

    async def _read(self, at: Attachment) -> None:
        ranges = self._draw_range()
        offset = self._offset(ranges[0])
        length = self._end(ranges[-1]) - offset
        history = at.session.history
        readings = [history.begin_read(*place) for place in ranges]
        data = at.disk.read_nowait(offset, length) if self._random.random() < 0.3 else None
        if data is None:
            what = f"read of {_show(ranges)}"
            data = await self._waits.limited(at.process, what, READ_SECONDS_MAX, at.disk.read(offset, length))
            if self._random.random() < 0.3:
                # What was returned is the caller's: it does not change any more.
                before = bytes(data)
                await asyncio.sleep(self._random.uniform(0, self._users.pause_max_seconds))
                if bytes(data) != before:
                    raise Violation(f"{self._name}: {what} changed after it had been returned")
        self._check_read(at, readings, bytes(data), length)

    def _check_read(self, at: Attachment, readings: list[Reading], data: bytes, length: int) -> None:
        if len(data) != length:
            raise Violation(f"{self._name}: {len(data)} bytes were read instead of {length}")
        position = 0
        seen: list[Numbers] = []
        for reading in readings:
            bounds = self._cells.bounds
            size = bounds[reading.first + len(reading.floor)] - bounds[reading.first]
            try:
                numbers = self._cells.numbers(reading.first, data[position : position + size])
            except Torn as error:
                raise Violation(f"{self._name}: block {reading.block}: {error}") from error
            position += size
            seen.append(numbers)
            # Who has lost the lease and does not know it yet reads what he can get.
            if self._witness.is_certain(at.session) and not at.session.is_over:
                at.session.history.check_read(reading, numbers)
        self._trace(
            self._name,
            "read "
            + ", ".join(
                f"{reading.block}: {show(numbers)}" for reading, numbers in zip(readings, seen, strict=True)
            ),
        )

    async def _extents(self, at: Attachment) -> None:
        ranges = self._draw_range()
        offset = self._offset(ranges[0])
        length = self._end(ranges[-1]) - offset
        history = at.session.history
        everything = [
            history.begin_read(block, 0, self._cells.count) for block in range(self._geometry.block_count)
        ]
        found = await self._waits.limited(
            at.process, "extents", READ_SECONDS_MAX, at.disk.extents(offset, length)
        )
        end = offset
        for extent in found:
            if extent.offset != end:
                raise Violation(f"{self._name}: extents with a gap at {end}")
            end += extent.length
            if extent.is_hole and self._witness.is_certain(at.session) and not at.session.is_over:
                size = self._geometry.block_size_bytes
                for block in range(extent.offset // size, end // size):
                    history.check_read(everything[block], self._cells.zeros)


def check_statistics(disk: Device, *, is_flushed: bool) -> None:
    """The figures of a disk agree with each other. Raises Violation."""
    figures = disk.statistics()
    cache: Any = figures["cache"]
    bucket: Any = figures["bucket"]
    wrong = [
        name
        for name, value in {**cache, **bucket["limited"]}.items()
        if isinstance(value, int | float) and value < 0
    ]
    if wrong:
        raise Violation(f"statistics: negative: {', '.join(wrong)}")
    if (cache["dirty_count"] == 0) != (cache["dirty_bytes"] == 0):
        raise Violation(f"statistics: {cache['dirty_count']} versions of {cache['dirty_bytes']} bytes")
    if cache["uploading_count"] > cache["dirty_count"]:
        raise Violation("statistics: more on their way than dirty")
    if is_flushed and cache["dirty_count"]:
        raise Violation(f"statistics: {cache['dirty_bytes']} bytes dirty after a flush")
    if cache["held_bytes"] > max(cache["held_bytes_max"], cache["dirty_bytes"]):
        raise Violation(f"statistics: {cache['held_bytes']} bytes held of {cache['held_bytes_max']}")


def _cells(ranges: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    return {(block, cell) for block, first, stop in ranges for cell in range(first, stop)}


def _show(ranges: list[tuple[int, int, int]]) -> str:
    (block, first, _), (last, _, stop) = ranges[0], ranges[-1]
    return f"{block}.{first} to {last}.{stop}"
