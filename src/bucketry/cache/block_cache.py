"""Blocks in memory between a disk and its layout: reads are answered, writes are taken at once and uploaded
in the background.

The decisions are ``core.block_table``'s. This module waits: for loads (one per block at a time, whoever
asks), for room, for uploads. A write never waits for a load: what arrives from the bucket goes under what was
written meanwhile.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from bucketry.cache.journal import Journal
from bucketry.cache.left_journal import RecoveredEpoch
from bucketry.core.block_table import BlockTable, Version
from bucketry.core.bytes_like import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.core.geometry import Extent, Geometry, Span
from bucketry.core.journal import Kept, Passed, Progress
from bucketry.core.parts import parts_max
from bucketry.core.priority import Priority
from bucketry.core.read_ahead import ReadAhead
from bucketry.core.zero_map import ZeroMap
from bucketry.errors import BucketryError, Closed, Corrupt, Invalid, Unavailable
from bucketry.layout.interface import Change, Layout, Part, Write, Zero
from bucketry.settings import CacheSettings

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: After an upload failed (having spent its own retries) the next one waits so long, doubling up to the second
#: figure: an outage costs few requests, and its end is noticed soon.
_FAILURE_PAUSE_SECONDS = 1.0
_FAILURE_PAUSE_MAX_SECONDS = 15.0
#: A block that was damaged when it was read is read again so much later: what was damaged on its way is
#: readable then; what is damaged in the bucket costs a request a minute.
_ASIDE_PAUSE_SECONDS = 60.0
#: From here on, the fuller of dirty blocks the cache is, the less it waits for more writes to come; when it
#: is full, not at all.
_PRESSURE_RATIO = 0.5
#: A block that is begun again within so many write delays is rewritten: it waits for more writes, as many
#: delays, also when it is written from its first byte to its last. With the default delay that is two
#: seconds, less than what file systems leave between their own commits (five and more).
_REST_DELAYS = 8
#: Who sets a longer write delay wants few requests: then every block waits, and none longer than that.
_LONG_DELAY_SECONDS = 1.0
#: Zeroing a range of more blocks waits for the survey first: what does not exist then needs no slot and no
#: request.
_ZERO_WITHOUT_SURVEY_MAX = 1024
#: Blocks zeroed between two turns of the event loop: about half a millisecond.
_ZERO_STRIDE = 256
#: What the kernel asks for at once when it reads ahead of a sequential reader.
_LARGE_BYTES = 512 << 10
#: Reads so close to each other are of one area: some directories of small files.
_NEAR_BYTES = 2 << 20
#: What of the memory may be fetched for being near, and not be asked for yet.
_AREA_SHARE = 1 / 4
#: Damaged blocks in one message: a line that can still be read.
_NAMED_MAX = 200
#: Who wants more than so many parts of a block at once reads on, most likely: it is read whole.
_PARTS_AT_ONCE = 2


class JournalOwner(Protocol):
    """What says in the bucket whose a journal is."""

    @property
    def told(self) -> Progress:
        """How far the journal has got, as the bucket knows."""
        ...

    async def tell(self) -> None:
        """Let the bucket know how far the journal has got. Raises what a put raises."""
        ...

    async def disown(self) -> None:
        """Make the bucket say that the journal is not this volume's any more. Raises what a put raises."""
        ...

    async def note_passed(self, passed: Passed) -> None:
        """Make the bucket say what it has of the journal. Raises Invalid when that is too much to say, and
        what a put raises."""
        ...


@dataclass(slots=True)
class _Flush:
    """Somebody who waits until the bucket has everything up to an epoch."""

    epoch: int
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _PartLoad:
    """A part of a block that is being read, bytes ``start`` to ``end`` at least. ``done`` has what came, or
    None: look again at the block, and load it whole if need be. ``overtaken``: an upload of the block ended
    meanwhile."""

    start: int
    end: int
    done: asyncio.Future[Part | None]
    overtaken: bool = False


@dataclass(slots=True)
class _Counts:
    """``read_…`` count blocks, not requests; a hit needed no waiting. ``part_loads`` are reads of parts of
    blocks; ``part_saved_bytes`` are what was not read of their blocks, ``part_repaid_bytes`` what was read of
    these later all the same (with what was there already, when that was the whole block): the difference is
    what they are good for. ``incomplete_loads`` are reads of what was around small writes, when their blocks
    were to be uploaded."""

    read_hits: int = 0
    read_misses: int = 0
    part_loads: int = 0
    part_saved_bytes: int = 0
    part_repaid_bytes: int = 0
    incomplete_loads: int = 0
    uploads: int = 0
    upload_failures: int = 0
    room_waits: int = 0
    flushes: int = 0
    flush_failures: int = 0
    epochs_not_journaled: int = 0


def _joined(epochs: Sequence[RecoveredEpoch]) -> list[list[RecoveredEpoch]]:
    """The epochs to replay, those together that go together. What is kept of epochs that the bucket has may
    be in it as well, under changes of the next epoch that were on their way when the process ended: by itself
    it would go over them."""
    passed = [epoch for epoch in epochs if epoch.is_passed]
    groups = [[epoch] for epoch in epochs[len(passed) :]]
    if groups:
        groups[0] = passed + groups[0]
    elif passed:
        groups = [passed]
    return groups


def _mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Its exception has been reported to whoever still waited; asyncio need not complain when nobody did."""
    if not future.cancelled():
        future.exception()


class BlockCache:
    """The cache of one disk, owned by one event loop. ``start`` it before use, ``close`` it after.

    Blocks are given by number; ``start`` and ``end`` are bytes within one block. Errors are those of the
    layout.
    """

    def __init__(
        self,
        layout: Layout,
        settings: CacheSettings,
        *,
        read_only: bool = False,
        journal: Journal | None = None,
        journal_owner: JournalOwner | None = None,
        zeros: ZeroMap | None = None,
    ) -> None:
        """``journal``: a flush waits for it and not for the bucket; ``journal_owner`` helps where it breaks.
        ``zeros``: what is known to be zero already; the survey adds to it."""
        geometry = layout.geometry
        self._layout = layout
        self._geometry = geometry
        self._shape = layout.batch_shape
        self._settings = settings
        self._read_only = read_only
        self._block_size = geometry.block_size_bytes
        self.zeros = ZeroMap(geometry.block_count) if zeros is None else zeros
        self._journal = journal
        self._journal_owner = journal_owner
        #: Epochs that are being appended to the journal, or that it had no room for.
        self._appends: dict[int, asyncio.Task[bool]] = {}
        self._settling: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        #: The journal cannot be made to say what the bucket has, so the bucket does.
        self._is_settled_in_bucket = False
        #: Nor can that: uploads do not wait for it.
        self._is_unsettled = False
        self._is_recovering = False
        is_long = settings.write_delay_seconds > _LONG_DELAY_SECONDS
        self._table = BlockTable(
            self._block_size,
            self.zeros,
            settings.memory_bytes,
            settings.dirty_max_bytes,
            keep_changes=journal is not None,
            rest_seconds=math.inf if is_long else _REST_DELAYS * settings.write_delay_seconds,
            rewritten_delays=1.0 if is_long else _REST_DELAYS,
        )
        self._read_ahead = ReadAhead(
            geometry.block_count,
            settings.read_ahead_bytes // self._block_size,
            self._is_known_or_coming,
            large_blocks=max(2, _LARGE_BYTES // self._block_size),
            near_blocks=min(ReadAhead.NEAR_BLOCKS, _NEAR_BYTES // self._block_size),
            area_blocks_max=int(settings.memory_bytes * _AREA_SHARE) // self._block_size,
            next_stored=self.zeros.next_nonzero,
        )
        self._last_read = -1
        self._zero_view = memoryview(bytes(self._block_size))
        self._loads: dict[int, asyncio.Future[BytesLike | None]] = {}
        #: By block.
        self._part_loads: dict[int, list[_PartLoad]] = {}
        self._part_bytes = layout.part_bytes
        #: What is read at once is a part only if it is no larger.
        self._part_bytes_max = 0
        if self._part_bytes < self._block_size:
            self._part_bytes_max = min(_PARTS_AT_ONCE * self._part_bytes, self._block_size // 4)
        #: Blocks of which an upload ended while they were being loaded.
        self._overtaken: set[int] = set()
        #: Blocks that are being loaded so that they can be uploaded.
        self._incomplete: set[int] = set()
        self._flushes: list[_Flush] = []
        #: Who waits for room, in line; and how many were let in and have not come yet.
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._let_in_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._upload_count = 0
        self._timer: asyncio.Handle | None = None
        #: When it comes; without end: there is none.
        self._timer_at = math.inf
        #: Set while a turn of the event loop is awaited, for uploads that need not wait any longer.
        self._soon: asyncio.Handle | None = None
        self._pause_seconds = 0.0
        self._paused_until = 0.0
        self._last_error: BucketryError | None = None
        self._surveyed = asyncio.Event()
        self._counts = _Counts()
        #: Why nothing can be uploaded any more, if not None.
        self._failure: BucketryError | None = None
        self._aside_timer: asyncio.Handle | None = None
        #: How many of the writes that were set aside somebody has been told of.
        self._told = 0
        self._closed = False

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the background work: the survey of what exists."""
        self._loop = asyncio.get_running_loop()
        if self.zeros.surveyed:
            self._surveyed.set()
        self._survey_task = self._spawn(self._survey())

    async def refresh(self) -> None:
        """Forget what was read: another attachment may have changed it since. Raises Invalid unless the cache
        is read-only."""
        self._check_open()
        if not self._read_only:
            raise Invalid("only a read-only disk is refreshed: nobody else writes to this one")
        self._survey_task.cancel()
        await asyncio.gather(self._survey_task, return_exceptions=True)
        self._layout.doubt()
        self._table.forget_clean()
        self.zeros.forget()
        # What is on its way may be of before.
        self._overtaken.update(self._loads)
        for loads in self._part_loads.values():
            for load in loads:
                load.overtaken = True
        self._surveyed.clear()
        self._survey_task = self._spawn(self._survey())

    def grow(self, geometry: Geometry, *, zero: bool) -> None:
        """The volume is larger from now on, of the same blocks; the new ones are known to be ``zero``, or
        not."""
        assert geometry.block_size_bytes == self._block_size, "blocks stay as they are"
        self._layout.grow(geometry)
        self._geometry = geometry
        self._read_ahead.grow(geometry.block_count)
        self.zeros.grow(geometry.block_count, zero=zero)

    async def rewrite(self, block: int) -> None:
        """Upload a block once more, as it is; returns when that is in the bucket. Nothing is done for one
        that is zero."""
        self._check_open()
        while not self.zeros.is_zero(block):
            view = self._peek(block, 0, self._block_size)
            if view is None:
                await self.read([Span(block, 0, self._block_size)])
            # From the look to the write nothing waits, or an older content might go over a newer one.
            elif self.write_nowait(block, 0, bytes(view)):
                self._make_way()
                await self.drain()
                return
            else:
                await self._wait_for_room()

    async def close(self) -> None:
        """Flush, then stop. When the flush raises, nothing is stopped and nothing lost: try again, or
        ``abandon``."""
        if self._closed:
            return
        if not self._read_only:
            await self.drain()
            if self._journal is not None:
                self._journal.note_drained(self._table.journal_epoch)
        await self.abandon()

    async def is_in_journal(self) -> bool:
        """Whether all that the bucket lacks is in the journal."""
        if self._closed or self._journal is None:
            return False
        return await self._journaled(self._table.begin_flush()) and not self._table.aside_blocks()

    async def unsaved(self) -> tuple[int, str | None]:
        """How many bytes the bucket lacks, and the directory of the journal that has all of them, if one
        has."""
        in_journal = await self.is_in_journal()
        place = self._journal.place if in_journal and self._journal is not None else None
        return self._table.dirty_bytes, place

    async def abandon(self) -> int:
        """Stop without flushing; returns how many dirty bytes are lost by it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost = self._table.dirty_bytes
        if self._aside_timer is not None:
            self._aside_timer.cancel()
            self._aside_timer = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._let_in(everybody=True)
        self._fail_flushes(Closed("the disk was closed"))
        return lost

    def fail(self, error: BucketryError) -> None:
        """Nothing will be uploaded any more: whoever waits for that hears ``error``, now and from now on."""
        self._failure = error
        self._let_in(everybody=True)
        self._fail_flushes(error)

    def _fail_flushes(self, error: BucketryError) -> None:
        for flush in self._flushes:
            if not flush.done.done():
                flush.done.set_exception(error)

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the disk is closed")

    # -- reading ---------------------------------------------------------------------------------------------

    def read_nowait(self, block: int, start: int, end: int) -> BytesLike | None:
        """Bytes of a block if they are in memory, else None. Valid until the caller next gives way to the
        event loop."""
        view = self._peek(block, start, end)
        if view is not None:
            self._counts.read_hits += 1
            if block != self._last_read and not self._table.part_count(block):
                self._note_read(block, block + 1)
        return view

    def _peek(self, block: int, start: int, end: int) -> BytesLike | None:
        slot = self._table.peek(block)
        if slot is None:
            if self.zeros.is_zero(block):
                return self._zero_view[: end - start]
            return self._table.peek_part(block, start, end)
        base = slot.base
        if base and not slot.pages and slot.known is None:
            return base if end - start == self._block_size else memoryview(base)[start:end]
        return self._table.view(slot, start, end)

    async def read(self, spans: Sequence[Span]) -> list[BytesLike]:
        """The bytes of neighbouring spans, fetched together where they are not in memory. What is returned
        does not change any more."""
        self._check_open()
        parts: list[bytes | asyncio.Future[BytesLike | None] | _PartLoad] = []
        for span in spans:
            view = self._peek(span.block, span.start, span.end)
            if view is not None:
                self._counts.read_hits += 1
                parts.append(bytes(view))
            else:
                self._counts.read_misses += 1
                parts.append(self._find_part(span) or self._load(span.block, Priority.READ))
        # Who reads in parts jumps about, as far as anybody knows.
        if spans and not any(isinstance(part, _PartLoad) for part in parts):
            waits = not all(isinstance(part, bytes) for part in parts)
            self._note_read(spans[0].block, spans[-1].block + 1, waits=waits)
        return [
            part if isinstance(part, bytes) else await self._arrived(part, span)
            for part, span in zip(parts, spans, strict=True)
        ]

    def _find_part(self, span: Span) -> _PartLoad | None:
        """The load of a part of a block that will bring a span, one under way or a new one; None when all of
        the block is to be loaded: when much of it is wanted, or has been, when somebody comes to it in
        passing, or when more than a part is here or coming anyway."""
        block = span.block
        if span.end - span.start > self._part_bytes_max or block in self._loads:
            return None
        if self._table.peek(block) is not None or self._read_ahead.expects(block):
            return None
        loads = self._part_loads.get(block, [])
        for load in loads:
            if load.start <= span.start and span.end <= load.end:
                return load
        under_way = len(self._part_loads) + len(self._loads)
        if self._table.part_count(block) + len(loads) >= parts_max(
            self._block_size, self._part_bytes, under_way
        ):
            return None
        load = _PartLoad(span.start, span.end, self._loop.create_future())
        load.done.add_done_callback(_mark_retrieved)
        self._part_loads[block] = [*loads, load]
        self._counts.part_loads += 1
        self._spawn(self._run_part_load(block, load))
        return load

    async def _run_part_load(self, block: int, load: _PartLoad) -> None:
        extent = Extent(block * self._block_size + load.start, load.end - load.start)
        part, error = await self._outcome(block, self._layout.read_part(extent))
        # From here to the end nothing waits, as in _run_load.
        loads = self._part_loads[block]
        loads.remove(load)
        if not loads:
            del self._part_loads[block]
        if error is not None:
            load.done.set_exception(error)
        elif self._closed:
            load.done.set_exception(Closed("the disk was closed"))
        elif load.overtaken or self._table.peek(block) is not None:
            # It may be from before an upload that ended meanwhile, or lack what was written since.
            load.done.set_result(None)
        else:
            self._take_part(block, part)
            load.done.set_result(part)

    def _take_part(self, block: int, part: Part | None) -> None:
        size = self._block_size
        if part is None or len(part.data) == size:
            self._table.insert(block, None if part is None else part.data)
            return
        if block in self._loads or self._table.part_count(block):
            self._counts.part_repaid_bytes += len(part.data)
        else:
            self._counts.part_saved_bytes += size - len(part.data)
        self._table.insert_part(block, part.offset - block * size, part.data, part.tag)

    async def _part_arrived(self, load: _PartLoad, span: Span) -> BytesLike:
        part = await asyncio.shield(load.done)
        view = self._peek(span.block, span.start, span.end)
        if view is not None:
            return bytes(view)
        if part is None:
            return await self._arrived(self._load(span.block, Priority.READ), span)
        # It is gone again: then what was loaded is still what it was when we asked.
        before = part.offset - span.block * self._block_size
        return memoryview(part.data)[span.start - before : span.end - before]

    async def _arrived(self, load: asyncio.Future[BytesLike | None] | _PartLoad, span: Span) -> BytesLike:
        if isinstance(load, _PartLoad):
            return await self._part_arrived(load, span)
        content = await asyncio.shield(load)
        view = self._peek(span.block, span.start, span.end)
        if view is not None:
            return bytes(view)
        # It was not kept, or is gone again: then what was loaded is still what it was when we asked.
        if content is None:
            return bytes(span.end - span.start)
        return memoryview(content)[span.start : span.end]

    def _note_read(self, first: int, stop: int, *, waits: bool = False) -> None:
        self._last_read = stop - 1
        for block in self._read_ahead.note_read(first, stop, waits=waits):
            self._load(block, Priority.READ_AHEAD)

    def _is_known_or_coming(self, block: int) -> bool:
        return self._table.is_known(block) or block in self._loads

    def _load(self, block: int, priority: Priority) -> asyncio.Future[BytesLike | None]:
        """The load of a block that is under way, or a new one."""
        load = self._loads.get(block)
        if load is None:
            if self._table.part_count(block):
                self._counts.part_repaid_bytes += self._block_size
            load = self._loads[block] = self._loop.create_future()
            load.add_done_callback(_mark_retrieved)
            self._spawn(self._run_load(block, load, priority))
        return load

    async def _run_load(self, block: int, load: asyncio.Future[BytesLike | None], priority: Priority) -> None:
        content, error = await self._outcome(block, self._read_current(block, priority))
        # From here to the end nothing waits: nobody sees the load gone and its content not yet there.
        del self._loads[block]
        if error is not None:
            load.set_exception(error)
            if block in self._incomplete:
                self._incomplete.discard(block)
                self._incomplete_failed(block, error)
            return
        if not self._closed:
            # Whoever waits gets the block as it is now, with what was written during the load: it may be gone
            # again before he looks.
            is_needed = block in self._incomplete or self._table.is_aside(block)
            content = self._table.insert(block, content, for_upload=is_needed)
        slot = self._table.peek(block)
        if slot is not None and slot.versions:
            self._arm()  # it may go now, and nobody else may know
        load.set_result(content)
        if block in self._incomplete:
            self._incomplete.discard(block)
            self._pump()

    async def _outcome(self, block: int, reading: Awaitable[_T]) -> tuple[_T | None, BucketryError | None]:
        """What reading brings, or the error to tell whoever waits."""
        try:
            return await reading, None
        except BucketryError as failure:
            return None, failure
        except asyncio.CancelledError:
            return None, Closed("the disk was closed")
        except Exception as failure:  # noqa: BLE001 - whoever waits must hear of a bug below, not wait for ever
            _log.exception("reading block %d failed", block)
            return None, Unavailable(f"reading block {block} failed: {failure!r}")

    async def _read_current(self, block: int, priority: Priority) -> BytesLike | None:
        """What the bucket holds of a block. When an upload of the block ended meanwhile, what was read may be
        from before it, and the block may not be in memory any more to cover that up: then it is read
        again."""
        while True:
            self._overtaken.discard(block)
            content = await self._layout.read(self._geometry.extent(block), priority=priority)
            if block not in self._overtaken:
                return content

    # -- writing ---------------------------------------------------------------------------------------------

    def write_nowait(self, block: int, start: int, data: BytesLike) -> bool:
        """Put bytes into a block if that needs no waiting; False: nothing was done."""
        if not self._table.can_write(block, start, start + len(data)):
            return False
        now = self._loop.time()
        ready = self._table.write(block, start, data, now)
        if ready and self._soon is None and self._upload_count < self._shape.in_flight_max:
            self._soon = self._loop.call_soon(self._on_soon)
        if now + self._settings.write_delay_seconds < self._timer_at or (
            now < self._timer_at and self._table.dirty_ratio > _PRESSURE_RATIO
        ):
            self._arm()
        return True

    def has_room(self, spans: Sequence[Span]) -> bool:
        """Whether ``write_nowait`` would take writes of all of these, one after the other."""
        return self._table.has_room(spans)

    async def write(self, block: int, start: int, data: BytesLike) -> None:
        """Put bytes into a block, waiting for room where needed."""
        self._check_open()
        waited = False
        while not self.write_nowait(block, start, data):
            await self._wait_for_room(again=waited)
            waited = True
        if waited:
            self._make_way()

    async def zero(self, block: int) -> None:
        """Zero a whole block, waiting for room where needed."""
        self._check_open()
        waited = False
        while not self._table.can_write(block, 0, 0):
            await self._wait_for_room(again=waited)
            waited = True
        self._table.zero(block, self._loop.time())
        self._arm()
        if waited:
            self._make_way()

    async def zero_blocks(self, first: int, stop: int) -> None:
        """Whole blocks become zeros. Those known to be zero cost nothing, the others a slot each until they
        are deleted."""
        if stop - first > _ZERO_WITHOUT_SURVEY_MAX:
            await self.wait_surveyed()
        done = 0
        block = self.zeros.next_nonzero(first, stop)
        while block < stop:
            await self.zero(block)
            done += 1
            if done % _ZERO_STRIDE == 0:
                await asyncio.sleep(0)
            block = self.zeros.next_nonzero(block + 1, stop)

    async def _wait_for_room(self, *, again: bool = False) -> None:
        """Wait in line until there may be room; ``again``: at its head, for who was let in and came too late.
        Who has taken less than there was lets others in."""
        self._check_may_upload()
        self._counts.room_waits += 1
        waiter = self._loop.create_future()
        if again:
            self._room_waiters.appendleft(waiter)
        else:
            self._room_waiters.append(waiter)
        self._pump()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._let_in_count -= 1
                self._let_in()  # it was our turn
            raise
        self._let_in_count -= 1
        self._check_may_upload()
        self._check_open()

    def _check_may_upload(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))

    def _let_in(self, *, everybody: bool = False) -> None:
        """Wake as many of those who wait for room as there is room for: to wake all of them each time would
        take longer than an upload where many wait. A replay, which nobody else waits beside, looks for
        itself."""
        everybody = everybody or self._is_recovering
        room = len(self._room_waiters) if everybody else self._table.room_blocks - self._let_in_count
        while room > 0 and self._room_waiters:
            waiter = self._room_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._let_in_count += 1
                room -= 1

    def _make_way(self) -> None:
        """Who had waited has taken his room: there may be some for others, or they wait for uploads that
        nobody has begun yet."""
        self._let_in()
        if self._room_waiters:
            self._pump()

    # -- uploading -------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Something became dirty: see to it that it is uploaded in time."""
        self._pump_at(self._loop.time() + self._delay())

    def _delay(self) -> float:
        """How long a dirty block waits now."""
        delay = self._settings.write_delay_seconds
        if self._room_waiters:
            return 0.0
        ratio = self._table.dirty_ratio
        if ratio <= _PRESSURE_RATIO:
            return delay
        return min(delay, _LONG_DELAY_SECONDS) * max(0.0, (1 - ratio) / (1 - _PRESSURE_RATIO))

    def _pump_at(self, when: float) -> None:
        """See to it then, or earlier."""
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._pump()

    def _on_soon(self) -> None:
        self._soon = None
        self._pump()

    def _pump(self) -> None:
        """Start the uploads that are due and have a place, and set the timer for the next ones."""
        if self._closed:
            return
        now = self._loop.time()
        # No block of an epoch that is being replayed goes before all of its changes are known.
        delay = math.inf if self._is_recovering else self._delay()
        shape = self._shape
        while now >= self._paused_until and self._upload_count < shape.in_flight_max:
            if self._journal is not None and not self._may_upload(self._journal, now, delay):
                return  # it pumps when it may
            work = self._table.next_work(now, delay, shape.data_bytes, shape.zeros_max, shape.in_flight_max)
            for block in work.incomplete:
                if block not in self._incomplete:
                    self._incomplete.add(block)
                    self._counts.incomplete_loads += 1
                    self._load(block, Priority.UPLOAD)
            if not work.uploads:
                break
            self._upload_count += 1
            # The changes are made up here, with the bytes that the versions hold now: a block whose content
            # turns out zero later has none.
            self._spawn(self._upload(work.uploads, [self._change(version) for version in work.uploads]))
        due = self._table.due_at(delay)
        if due is not None and self._upload_count < shape.in_flight_max:
            due = max(due, self._paused_until)
            # Else the blocks that are being completed are waited for, and pump when they are.
            if now < due:
                self._pump_at(due)

    def _may_upload(self, journal: Journal, now: float, delay: float) -> bool:
        """Whether the oldest epoch may be uploaded from: as long as a crash would bring back an older one
        from the journal, nothing that is newer may be in the bucket. If not, it is being seen to."""
        journal.note_drained(self._table.journal_epoch)
        due = self._table.due_at(delay)
        if due is None or due > now:
            return True
        if self._table.held and not self._is_recovering and not self._is_told_with_held(journal):
            return False
        if not journal.is_settled(self._passed()) and not self._is_unsettled:
            if self._settling is None:
                self._settling = self._spawn(self._settle(journal))
            return False
        return self._is_known_to_bucket(journal)

    def _is_known_to_bucket(self, journal: Journal) -> bool:
        """Whether the bucket knows so much of the journal that no older copy of it could be replayed over
        what is uploaded next: that it has the oldest epoch or, if it does not have that yet, that the bucket
        has everything before it."""
        owner = self._journal_owner
        if owner is None:
            return True
        oldest = self._table.drained_epoch + 1
        progress, told = journal.progress, owner.told
        if oldest <= told.epoch or (oldest > progress.epoch and progress.drained <= told.drained):
            return True
        if self._telling is None:
            self._telling = self._spawn(self._tell(owner))
        return False

    async def _tell(self, owner: JournalOwner) -> None:
        try:
            await owner.tell()
        except BucketryError as error:
            self._failed(error)
            return
        finally:
            self._telling = None
        self._pump()

    def _is_told_with_held(self, journal: Journal) -> bool:
        """Whether the oldest epoch is in the journal, or was refused. While the journal keeps small writes
        into blocks that cannot be read, nothing else goes: one of these blocks may have been written whole,
        and after a crash the small write would go over that, and not the other way round."""
        append = self._begin_append(journal, self._table.close_oldest())
        return append is None or append.done()

    def _passed(self) -> Passed:
        """What the bucket has of what the journal has, too."""
        extent = self._geometry.extent
        return Passed(
            self._table.drained_epoch,
            frozenset(
                Kept(epoch, extent(block).offset, extent(block).length)
                for block, epoch in self._table.held.items()
            ),
        )

    async def _settle(self, journal: Journal) -> None:
        try:
            await self._mark(journal)
        except Closed:
            return
        except Unavailable as error:
            await self._settle_in_bucket(journal, error)
        finally:
            self._settling = None
        self._pump()

    async def _settle_in_bucket(self, journal: Journal, cause: BucketryError) -> None:
        passed = self._passed()
        if not self._is_settled_in_bucket:
            _log.error("the journal cannot say any more what the bucket has, so the bucket does: %s", cause)
            self._is_settled_in_bucket = True
        try:
            if self._journal_owner is not None:
                await self._journal_owner.note_passed(passed)
                journal.note_told(passed)
                return
        except Invalid as error:
            _log.error("nor can the bucket, until what it lacks is there: %s", error)
        except BucketryError as error:
            self._failed(error)
            return
        self._is_unsettled = True

    async def _upload(self, batch: list[Version], changes: list[Change]) -> None:
        error: BucketryError | None = None
        try:
            await self._layout.commit(changes)
        except BucketryError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - a bug below must not lose the data: it stays dirty, and is reported
            _log.exception("an upload failed unexpectedly")
            error = Unavailable(f"an upload failed: {failure!r}")
        finally:
            self._upload_count -= 1
        now = self._loop.time()
        for version in batch:
            self._table.finish(version, ok=error is None, now=now)
            if version.block in self._loads:
                self._overtaken.add(version.block)
            for load in self._part_loads.get(version.block, ()):
                load.overtaken = True
        if error is None:
            self._counts.uploads += 1
            self._pause_seconds = self._paused_until = 0.0
            if not self._table.aside_blocks():
                self._last_error = None
            if self._journal is not None:
                self._journal.note_drained(self._table.journal_epoch)
            self._settle_flushes()
        else:
            self._failed(error)
        self._let_in()
        self._pump()

    def _failed(self, error: BucketryError) -> None:
        """An upload failed, or the read that it needed: nothing is lost, whoever waits hears of it, and it is
        tried again after a pause."""
        self._counts.upload_failures += 1
        self._last_error = error
        self._pause_seconds = min(
            max(2 * self._pause_seconds, _FAILURE_PAUSE_SECONDS), _FAILURE_PAUSE_MAX_SECONDS
        )
        self._paused_until = self._loop.time() + self._pause_seconds
        _log.error("%d bytes are not in the bucket yet, trying again: %s", self._table.dirty_bytes, error)
        # Whatever failed belongs to the oldest epoch, which every flush waits for.
        self._fail_flushes(error)
        self._pump_at(self._paused_until)

    def _incomplete_failed(self, block: int, error: BucketryError) -> None:
        """What is around a small write could not be read, so it cannot be uploaded."""
        if isinstance(error, Corrupt):
            # Trying again will hardly help, and must not keep everything else from the bucket.
            self._last_error = error
            _log.error(
                "a write into a damaged block is kept in memory until the block is written whole: %s", error
            )
            self._table.set_aside(block)
            self._settle_flushes()
            self._let_in()  # a replay waits for older epochs, of which this may have been the last
            self._pump()
            if self._aside_timer is None and not self._closed:
                self._aside_timer = self._loop.call_later(_ASIDE_PAUSE_SECONDS, self._on_aside_timer)
        else:
            self._failed(error)

    def _on_aside_timer(self) -> None:
        """What was damaged on its way, and not in the bucket, is readable later."""
        self._aside_timer = None
        for block in self._table.aside_blocks():
            if block not in self._incomplete:
                self._incomplete.add(block)
                self._load(block, Priority.BACKGROUND)
            self._aside_timer = self._aside_timer or self._loop.call_later(
                _ASIDE_PAUSE_SECONDS, self._on_aside_timer
            )

    def _change(self, version: Version) -> Change:
        extent = self._geometry.extent(version.block)
        return Zero(extent) if version.data is None else Write(extent.offset, version.data)

    # -- flushing --------------------------------------------------------------------------------------------

    def error_cursor(self) -> ErrorCursor:
        """For somebody who comes now: what others have been told before is not told to him."""
        return ErrorCursor(self._told)

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        """Wait until every write acknowledged before this call is durable: in the bucket, whether it was
        waiting or on its way, or in the journal where there is one. Raises when one of them could not be made
        so; it stays dirty.

        ``cursor``: whose flush it is. Of a write into a damaged block he is told once, so that his next flush
        speaks of the writes after it."""
        self._check_open()
        self._counts.flushes += 1
        told = -1 if cursor is None else cursor.told
        had_aside, set_aside_count = self._table.has_aside_since(told), self._table.set_aside_count
        try:
            epoch = self._table.begin_flush()
            journaled = await self._journaled(epoch)
            if not journaled:
                await self._drain(epoch)
            if not journaled and self._journal is not None:
                # What is older must not be skipped in the journal while something of it is aside.
                had_aside = had_aside or bool(self._table.aside_blocks())
            if had_aside or set_aside_count != self._table.set_aside_count:
                await self._drain_all()
            if not journaled:
                await self._skip_in_journal(epoch)
        except BucketryError as error:
            self._counts.flush_failures += 1
            if cursor is not None and isinstance(error, Corrupt):
                cursor.told = self._told = self._table.set_aside_count
            raise

    async def drain(self) -> None:
        """Wait until every write acknowledged before this call is in the bucket, journal or not."""
        self._check_open()
        await self.flush()
        await self._drain_all()

    async def _drain_all(self) -> None:
        """Wait until the bucket has everything. What was set aside is asked for once more, and the error told
        again if it cannot be read; what is not aside any more has joined a later epoch than its own."""
        while True:
            set_aside_count = self._table.set_aside_count
            for block in self._table.aside_blocks():
                try:
                    await asyncio.shield(self._load(block, Priority.UPLOAD))
                except Corrupt as error:
                    raise self._all_damaged(error) from error
            epoch = self._table.begin_flush()
            await self._journaled(epoch)  # or a later one would be there without it
            await self._drain(epoch)
            if set_aside_count == self._table.set_aside_count and not self._table.aside_blocks():
                return

    def _all_damaged(self, error: Corrupt) -> Corrupt:
        """What is wrong with one of the blocks that are aside, and which others are."""
        blocks = sorted(self._table.aside_blocks())
        if len(blocks) < 2:
            return Corrupt(f"a block that was written in part cannot be read: {error}")
        names = ", ".join(map(str, blocks[:_NAMED_MAX]))
        more = f" and {len(blocks) - _NAMED_MAX} more" if len(blocks) > _NAMED_MAX else ""
        return Corrupt(f"blocks that were written in part cannot be read: {names}{more}; {error}")

    async def zero_unreadable(self, block: int) -> None:
        """What is stored of a block is damaged, and was kept elsewhere: what of it is not in memory becomes
        zero. Then it is uploaded like any change."""
        self._check_open()
        while True:
            slot = self._table.peek(block)
            if slot is None:
                await self.zero(block)
                return
            if slot.known is not None or any(version.known is not None for version in slot.versions):
                self._table.insert(block, None)
                self._pump()
                return
            view = self._peek(block, 0, self._block_size)
            if slot.versions or view is None or self.write_nowait(block, 0, bytes(view)):
                return  # it is replaced as it is here
            await self._wait_for_room()

    async def _journaled(self, epoch: int) -> bool:
        """Whether an epoch, closed just now or before, is safe in the journal; waits until it is known."""
        journal = self._journal
        if journal is None:
            return False
        try:
            append = self._begin_append(journal, epoch)
            if append is not None and not await asyncio.shield(append):
                return False
            if journal.brings_back(self._passed()):
                # The epoch lacks what was in the bucket before it ended; an older one may not.
                await self._mark(journal)
        except Unavailable as error:
            self._last_error = error
            return False
        return True

    async def _mark(self, journal: Journal) -> None:
        """Let the journal say durably what the bucket has."""
        journal.note_drained(self._table.journal_epoch)
        await journal.settle(self._passed())

    def _begin_append(self, journal: Journal, epoch: int) -> asyncio.Task[bool] | None:
        """The append of a closed epoch that is under way or was refused, or a new one; None: so long ago that
        nothing is known of it any more, it was appended, or skipped."""
        append = self._appends.get(epoch)
        if append is None and epoch >= journal.next_epoch:
            # Nothing waits from the end of the epoch to here, so that epochs are appended in their order.
            journal.note_drained(self._table.journal_epoch)
            held = list(self._table.held)
            append = self._loop.create_task(journal.append(epoch, self._epoch_changes(epoch)))
            self._appends[epoch] = append
            append.add_done_callback(lambda done: self._append_ended(epoch, held, done))
        return append

    def _append_ended(self, epoch: int, held: list[int], append: asyncio.Task[bool]) -> None:
        _mark_retrieved(append)
        if append.cancelled() or append.exception() is not None or not append.result():
            self._counts.epochs_not_journaled += 1
        else:
            self._appends.pop(epoch, None)
            self._table.hold_since(held, epoch)
        if self._settling is not None or self._table.held:
            self._pump()  # it may have said what was waited for

    def _epoch_changes(self, epoch: int) -> list[Change]:
        """What the journal is to keep of an epoch."""
        changes: list[Change] = []
        for block, start, data in self._table.changes_of_epoch(epoch):
            extent = self._geometry.extent(block)
            changes.append(Zero(extent) if data is None else Write(extent.offset + start, data))
        return changes

    async def _skip_in_journal(self, epoch: int) -> None:
        """The bucket has an epoch that the journal has not: older ones must never be replayed over it."""
        journal = self._journal
        if journal is None:
            return
        try:
            if epoch in self._appends:  # else a later one was skipped meanwhile
                await journal.skip(epoch)
                self._is_unsettled = False
            elif journal.brings_back(self._passed()):
                await self._mark(journal)
                return
            else:
                return
        except Unavailable as error:
            _log.error("the journal is given up, flushes wait for the bucket from now on: %s", error)
            if self._journal_owner is not None:
                await self._journal_owner.disown()
            self._journal = None
        for skipped in [each for each in self._appends if each <= epoch]:
            del self._appends[skipped]

    async def recover(self, epochs: Sequence[RecoveredEpoch]) -> int:
        """Take over what a journal had that the bucket may lack; how many bytes that was. With a journal this
        is to be called once, before anything is written. The epochs go to the bucket one after the other, as
        they would have: it may have some of the first one already, and nothing of the later ones."""
        assert self._journal is not None
        self._is_recovering = True
        for group in _joined(epochs):
            self._table.number_from(group[-1].number)
            for epoch in group:
                async for change in epoch.changes():
                    await self._apply(change)
                for kept in epoch.passed.kept:
                    self._table.hold(kept.offset // self._block_size, kept.epoch)
            self._table.begin_flush()
            self._pump()
        self._table.number_from(self._journal.next_epoch)
        self._is_recovering = self._is_unsettled = False
        return sum(epoch.data_bytes for epoch in epochs)

    async def _apply(self, change: Change) -> None:
        extent = change.extent
        if isinstance(change, Zero):
            whole = self._geometry.whole_blocks(extent.offset, extent.length)
            assert len(whole) * self._block_size == extent.length, "blocks are zeroed whole"
            for block in whole:
                await self._wait_for_older(block, 0, 0)
                self._table.zero(block, self._loop.time())
            return
        view = memoryview(change.data)
        for span in self._geometry.spans(extent.offset, extent.length):
            length = span.end - span.start
            await self._wait_for_older(span.block, span.start, span.end)
            self._table.write(span.block, span.start, view[:length], self._loop.time())
            view = view[length:]

    async def _wait_for_older(self, block: int, start: int, end: int) -> None:
        """Wait for room to replay a change, as long as older epochs give some. One epoch alone is taken
        whole, as it was in memory before the crash."""
        while not self._table.can_write(block, start, end) and not self._table.is_drained_but_open:
            await self._wait_for_room()

    async def _drain(self, epoch: int) -> None:
        if self._table.is_drained(epoch):
            return
        self._check_may_upload()
        flush = _Flush(epoch, self._loop.create_future())
        flush.done.add_done_callback(_mark_retrieved)
        self._flushes.append(flush)
        self._paused_until = 0.0  # somebody waits: try now
        self._pump()
        try:
            await flush.done
        finally:
            self._flushes.remove(flush)

    def _settle_flushes(self) -> None:
        for flush in self._flushes:
            if not flush.done.done() and self._table.is_drained(flush.epoch):
                flush.done.set_result(None)

    # -- what exists -----------------------------------------------------------------------------------------

    async def wait_surveyed(self) -> None:
        """Wait until the survey has ended, well or not."""
        await self._surveyed.wait()

    async def _survey(self) -> None:
        size = self._block_size
        try:
            self.zeros.begin_survey()
            for block in self._table.dirty_blocks():
                self.zeros.note_found(block, block + 1)
            async for page in self._layout.survey():
                for extent in page:
                    self.zeros.note_found(extent.offset // size, -(-extent.end // size))
            self.zeros.finish_survey()
        except BucketryError as error:
            self.zeros.abandon_survey()
            _log.warning(
                "the blocks that exist could not be listed, each is asked for when it is read: %s", error
            )
        finally:
            self._surveyed.set()

    def statistics(self) -> Mapping[str, object]:
        oldest = self._table.oldest_written()
        figures = {
            **asdict(self._table.statistics()),
            "oldest_dirty_seconds": 0.0 if oldest is None else round(self._loop.time() - oldest, 3),
            **asdict(self._counts),
            "loading_count": len(self._loads),
            "waiting_for_room_count": sum(not waiter.done() for waiter in self._room_waiters),
            "surveyed": self.zeros.surveyed,
            "last_error": "" if self._last_error is None else str(self._last_error),
        }
        read_ahead = asdict(self._read_ahead.statistics())
        beside = {} if self._journal is None else {"journal": self._journal.statistics()}
        return {"cache": figures, "read_ahead": read_ahead, **beside, **self._layout.statistics()}
