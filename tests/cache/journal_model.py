"""A disk in miniature over a journal: what the block cache does with one, with the values of a few cells for
its content, so that after a crash every cell can be asked whether it is one that it may be.

Each write gives a cell a new version. What was acknowledged by a flush must be there after a crash, in the
bucket or in the journal, or something later; nothing older may ever come back. And however far a replay gets,
the bucket holds everything up to some epoch and, of what came later, only something of the next. Cells that
were set aside once may miss their place in that order, and nothing else.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from bucketry.cache.journal import JOURNAL_BYTES_MIN, Journal
from bucketry.cache.left_journal import RecoveredEpoch
from bucketry.core.geometry import Extent
from bucketry.core.journal import JournalIdentity, Kept, Passed
from bucketry.errors import Unavailable
from bucketry.layout.interface import Change, Write, Zero
from bucketry.testing.memory_files import MemoryFiles

T = TypeVar("T")
#: Odd on purpose: nothing in a journal is aligned. The large ones are split over segments.
CELL_SIZES = (1001, 7, 1001, 7007, 700, 1001, 4095, 70, 1001, 13999, 1001, 21)
OFFSETS = tuple(sum(CELL_SIZES[:cell]) for cell in range(len(CELL_SIZES)))
IDENTITY = JournalIdentity("volume-a", "generation-1", 64 << 10, 4096)


async def with_turns(work: Callable[[], T], /) -> T:
    """Runs it in the loop, after others had a turn."""
    await asyncio.sleep(0)
    return work()


def bytes_of(cell: int, version: int) -> bytes:
    """Every fifth version is zeros but for its number."""
    if version % 5 == 0:
        return version.to_bytes(7, "big").ljust(CELL_SIZES[cell], b"\0")
    return (version.to_bytes(7, "big") * -(-CELL_SIZES[cell] // 7))[: CELL_SIZES[cell]]


def changes_of(cell: int, version: int) -> list[Change]:
    data = memoryview(bytearray(bytes_of(cell, version)))
    if version % 5 == 0:
        return [Zero(Extent(OFFSETS[cell], CELL_SIZES[cell])), Write(OFFSETS[cell], data[:7])]
    return [Write(OFFSETS[cell], data)]


def versions_in(content: bytes) -> dict[int, int]:
    """The version of each cell; fails when one is a mixture."""
    versions = {}
    for cell, offset in enumerate(OFFSETS):
        data = content[offset : offset + CELL_SIZES[cell]]
        versions[cell] = int.from_bytes(data[:7], "big")
        assert data == bytes_of(cell, versions[cell]), f"cell {cell} is a mixture"
    return versions


@dataclass
class Moment:
    """What was true when the files had ``count`` changes."""

    count: int
    bucket: dict[int, int]
    promised: dict[int, int]
    latest: dict[int, int]
    #: The versions that each cell had, with the epochs in which they were written, counted over all lives.
    past: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    #: The cells that were ever set aside.
    late: frozenset[int] = frozenset()


@dataclass
class Epoch:
    number: int
    cells: dict[int, int] = field(default_factory=dict)
    closed: bool = False


class MiniatureDisk:
    def __init__(self, files: MemoryFiles, random: Random, moment: Moment) -> None:
        self.files = files
        self.random = random
        self.bucket = dict(moment.bucket)
        self.promised = dict(moment.promised)
        self.latest = dict(moment.latest)
        self.past = dict(moment.past)
        self.late = moment.late
        #: What cannot be uploaded: the version of each cell, and the epoch that tells of it in the journal.
        self.aside: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.set_aside_count = 0
        self.unreadable = frozenset(random.sample(range(len(CELL_SIZES)), random.choice([0, 0, 3, 6])))
        self.aside_share = random.choice([0.2, 0.6])
        self.version = max(self.latest.values(), default=0)
        self.moments: list[Moment] = []
        self.journal: Journal
        self.epochs: list[Epoch] = []
        self.refused_count = 0
        #: A bucket that is slow fills the journal; one that is fast empties it.
        self.upload_share = random.choice([0.0, 0.02, 0.1, 0.4])

    def note(self) -> None:
        self.moments.append(
            Moment(
                len(self.files.history),
                dict(self.bucket),
                dict(self.promised),
                dict(self.latest),
                dict(self.past),
                self.late,
            )
        )

    async def open(self, size_bytes_max: int = JOURNAL_BYTES_MIN) -> None:
        self.note()
        self.journal, recovered = await Journal.open(
            self.files,
            IDENTITY,
            size_bytes_max=size_bytes_max,
            offload=with_turns,
            random_bytes=self.random.randbytes,
        )
        self.recovered_count = len(recovered)
        after = self.bucket
        self.check_order(after)
        for epoch in recovered:
            before, after = after, await replay(after, epoch)
            missing = {cell: new for cell, new in after.items() if new != before.get(cell, 0)}
            self.check_order(
                {**before, **dict(self.random.sample(sorted(missing.items()), len(missing) // 2))}
            )
            self.check_order(after)
            self.epochs.append(Epoch(epoch.number, missing, closed=True))
        check(after, self.moments[-1])
        # What a reader may have seen must not go away again, and what is lost is no version any more.
        self.promised, self.latest = dict(after), dict(after)
        for cell, versions in self.past.items():
            self.past[cell] = tuple(version for version in versions if version[0] <= after.get(cell, 0))
        #: Numbers may begin anew with a life.
        self.epochs_before = max((epoch for past in self.past.values() for _, epoch in past), default=0)
        self.epochs.append(Epoch(self.journal.next_epoch))
        self.note()

    def check_order(self, bucket: dict[int, int]) -> None:
        epochs = {
            cell: epoch
            for cell, past in self.past.items()
            for version, epoch in past
            if version == bucket.get(cell) and cell not in self.late
        }
        complete = max(epochs.values(), default=0) - 1
        for cell, past in self.past.items():
            if cell in self.late:
                continue
            late = [epoch for version, epoch in past if version > bucket.get(cell, 0) and epoch <= complete]
            assert not late, f"cell {cell} is older than epoch {late[-1]}, others are of {complete + 1}"

    async def step(self) -> None:
        choice = self.random.random()
        if choice < self.upload_share:
            await self.upload()
        elif choice < 0.65:
            self.write()
        elif choice < 0.95:
            await self.flush()
        else:
            flushes = []
            for _ in range(self.random.randint(2, 5)):
                self.write()
                flushes.append(asyncio.ensure_future(self.flush()))
                await asyncio.sleep(0)
                if self.random.random() < self.upload_share:
                    await self.upload()
            await asyncio.gather(*flushes)
        self.note()

    def write(self) -> None:
        often = sorted(self.unreadable) if self.random.random() < 0.5 else []
        cell = self.random.choice(often or range(len(CELL_SIZES)))
        self.version += 1
        self.epochs[-1].cells[cell] = self.latest[cell] = self.version
        self.past[cell] = (
            *self.past.get(cell, ()),
            (self.version, self.epochs_before + self.epochs[-1].number),
        )
        self.note()

    async def upload(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.retire()
            while not self.journal.is_settled(self.passed()):
                await self.journal.settle(self.passed())
                self.retire()
            while self.aside and self.random.random() < 0.3:
                self.take_back(self.random.choice(sorted(self.aside)))
            cells = self.epochs[0].cells
            if cells:
                cell = self.random.choice(sorted(cells))
                if cell in self.unreadable and self.random.random() < self.aside_share:
                    self.set_aside(cell)
                else:
                    self.bucket[cell] = cells.pop(cell)
                    self.aside.pop(cell, None)
                    self.held.pop(cell, None)
                self.note()
        self.retire()
        self.note()

    def set_aside(self, cell: int) -> None:
        self.aside[cell] = self.epochs[0].cells.pop(cell)
        self.held.setdefault(cell, self.epochs[0].number)
        self.late |= {cell}
        self.set_aside_count += 1

    def take_back(self, cell: int) -> None:
        version = self.aside.pop(cell)
        self.epochs[0].cells.setdefault(cell, version)

    def passed(self) -> Passed:
        kept = (Kept(epoch, OFFSETS[cell], CELL_SIZES[cell]) for cell, epoch in self.held.items())
        return Passed(self.epochs[0].number - 1, frozenset(kept))

    def retire(self) -> None:
        while self.epochs[0].closed and not self.epochs[0].cells:
            self.epochs.pop(0)
        self.journal.note_drained(min(self.epochs[0].number, *self.held.values(), 1 << 60) - 1)

    async def flush(self) -> None:
        epoch = self.epochs[-1]
        epoch.closed = True
        self.epochs.append(Epoch(epoch.number + 1))
        promise = dict(self.latest)
        had_aside, set_aside_count, held = bool(self.aside), self.set_aside_count, list(self.held)
        changes = [change for cell in held for change in self.changes_held(cell, epoch.number)]
        changes += [change for cell, version in epoch.cells.items() for change in changes_of(cell, version)]
        self.retire()
        self.note()
        try:
            is_in = await self.journal.append(epoch.number, changes)
        except Unavailable:
            is_in = False
        if is_in:
            while self.journal.brings_back(self.passed()):
                self.retire()
                await self.journal.settle(self.passed())
            for cell in held:
                if cell in self.held:
                    self.held[cell] = max(self.held[cell], epoch.number)
        else:
            self.refused_count += 1
            while self.epochs[0].number <= epoch.number:
                await self.upload()
                await asyncio.sleep(0)
            self.note()
        if had_aside or set_aside_count != self.set_aside_count:
            return  # an error: not all of it is safe
        if not is_in:
            await self.journal.skip(epoch.number)
        for cell, version in promise.items():
            self.promised[cell] = max(version, self.promised.get(cell, 0))
        self.note()

    def changes_held(self, cell: int, number: int) -> list[Change]:
        """What was set aside, and what the cell became since."""
        versions = [self.aside[cell]] if cell in self.aside else []
        versions += [
            epoch.cells[cell] for epoch in self.epochs if epoch.number <= number and cell in epoch.cells
        ]
        return [change for version in versions for change in changes_of(cell, version)]


async def replay(bucket: dict[int, int], epoch: RecoveredEpoch) -> dict[int, int]:
    """What the bucket holds when it has an epoch, too."""
    content = bytearray(IDENTITY.size_bytes)
    for cell, version in bucket.items():
        content[OFFSETS[cell] : OFFSETS[cell] + CELL_SIZES[cell]] = bytes_of(cell, version)
    async for change in epoch.changes():
        if isinstance(change, Zero):
            content[change.extent.offset : change.extent.end] = bytes(change.extent.length)
        else:
            content[change.offset : change.offset + len(change.data)] = change.data
    return versions_in(bytes(content))


def check(after: dict[int, int], moment: Moment) -> None:
    """Compare every cell with what it may be after a crash."""
    for cell, found in after.items():
        promised, latest = moment.promised.get(cell, 0), moment.latest.get(cell, 0)
        assert promised <= found <= latest, f"cell {cell}: {promised} <= {found} <= {latest}"
