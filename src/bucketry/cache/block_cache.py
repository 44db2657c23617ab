"""Blocks in memory between a disk and its layout: reads are answered, writes are taken at once and uploaded
in the background.

The decisions are ``core.block_table``'s. This module waits: for loads (one per block at a time, whoever
asks), for room, for uploads. A write that needs the rest of a block that is still being loaded is queued on
that load and applied the moment the block arrives, so there is no instant at which stale bytes could be
merged.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bucketry.core.block_table import BlockTable, Slot
from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import Extent
from bucketry.core.priority import Priority
from bucketry.core.read_ahead import ReadAhead
from bucketry.core.zero_map import ZeroMap
from bucketry.errors import BucketryError, Closed, Unavailable
from bucketry.layout.interface import Change, Layout, Write, Zero
from bucketry.settings import CacheSettings

_log = logging.getLogger(__name__)

#: After an upload failed (having spent its own retries) the next one waits so long, doubling up to the second
#: figure: an outage costs few requests, and its end is noticed soon.
_FAILURE_PAUSE_SECONDS = 1.0
_FAILURE_PAUSE_MAX_SECONDS = 15.0
#: A dirty cache this full stops waiting for more writes to come and uploads what it has.
_PRESSURE_RATIO = 0.5
#: Zeroing a range of more blocks waits for the survey first: what does not exist then needs no slot and no
#: request.
_ZERO_WITHOUT_SURVEY_MAX = 1024
#: Blocks zeroed between two turns of the event loop: about half a millisecond.
_ZERO_STRIDE = 256


@dataclass(slots=True)
class _Pending:
    """A write that waits for its block to be loaded; ``data`` None zeroes the whole block."""

    start: int
    data: bytes | None
    done: asyncio.Future[None]


class _Load:
    """A block on its way from the bucket, and the writes to apply when it arrives."""

    __slots__ = ("future", "pending")

    def __init__(self, future: asyncio.Future[BytesLike | None]) -> None:
        self.future = future
        self.pending: list[_Pending] = []


@dataclass(slots=True)
class _Flush:
    """Blocks and the generations of them that somebody waits for."""

    awaited: dict[int, int]
    done: asyncio.Future[None]


@dataclass(slots=True)
class _Counts:
    """``read_…`` count blocks, not requests; a hit needed no waiting."""

    read_hits: int = 0
    read_misses: int = 0
    read_ahead_blocks: int = 0
    writes_merged_after_load: int = 0
    uploads: int = 0
    upload_failures: int = 0
    room_waits: int = 0
    flushes: int = 0
    flush_failures: int = 0


def _mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Its exception has been reported to whoever still waited; asyncio need not complain when nobody did."""
    if not future.cancelled():
        future.exception()


class BlockCache:
    """The cache of one disk, owned by one event loop. ``start`` it before use, ``close`` it after.

    Blocks are given by number; ``start`` and ``end`` are bytes within one block. Errors are those of the
    layout.
    """

    def __init__(self, layout: Layout, settings: CacheSettings, *, read_only: bool = False) -> None:
        geometry = layout.geometry
        self._layout = layout
        self._geometry = geometry
        self._shape = layout.batch_shape
        self._settings = settings
        self._read_only = read_only
        self._block_size = geometry.block_size_bytes
        self.zeros = ZeroMap(geometry.block_count)
        self._table = BlockTable(
            self._block_size, self.zeros, settings.memory_bytes, settings.dirty_max_bytes
        )
        self._read_ahead = ReadAhead(geometry.block_count, settings.read_ahead_bytes // self._block_size)
        self._last_read = -1
        self._zero_view = memoryview(bytes(self._block_size))
        self._loads: dict[int, _Load] = {}
        self._flushes: list[_Flush] = []
        self._room_waiters: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._upload_count = 0
        self._timer: asyncio.Handle | None = None
        self._pause_seconds = 0.0
        self._paused_until = 0.0
        self._last_error: BucketryError | None = None
        self._surveyed = asyncio.Event()
        self._counts = _Counts()
        self._closed = False

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the background work: the survey of what exists."""
        self._loop = asyncio.get_running_loop()
        self._spawn(self._survey())

    async def close(self) -> None:
        """Flush, then stop. When the flush raises, nothing is stopped and nothing lost: try again, or
        ``abandon``."""
        if self._closed:
            return
        if not self._read_only:
            await self.flush()
        await self.abandon()

    async def abandon(self) -> int:
        """Stop without flushing; returns how many dirty bytes are lost by it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost = self._table.dirty_bytes
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake_room_waiters()
        return lost

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the disk is closed")

    # -- reading ---------------------------------------------------------------------------------------------

    def read_nowait(self, block: int, start: int, end: int) -> BytesLike | None:
        """Bytes of a block if they are in memory, else None. Valid until the caller next gives way to the
        event loop."""
        slot = self._table.peek(block)
        if slot is not None and slot.data is not None:
            data = slot.data
            view: BytesLike = data if end - start == self._block_size else memoryview(data)[start:end]
        elif slot is not None or self.zeros.is_zero(block):
            view = self._zero_view[: end - start]
        else:
            return None
        self._counts.read_hits += 1
        if block != self._last_read:
            self._note_read(block, block + 1)
        return view

    async def read_blocks(self, first: int, stop: int) -> list[BytesLike | None]:
        """The content of whole blocks (None: zeros), fetched together where they are not in memory. What is
        returned does not change any more."""
        self._check_open()
        parts: list[BytesLike | _Load | None] = []
        for block in range(first, stop):
            slot = self._table.peek(block)
            if slot is not None:
                self._counts.read_hits += 1
                parts.append(bytes(slot.data) if isinstance(slot.data, bytearray) else slot.data)
            elif self.zeros.is_zero(block):
                self._counts.read_hits += 1
                parts.append(None)
            else:
                self._counts.read_misses += 1
                parts.append(self._load(block, Priority.READ))
        self._note_read(first, stop)
        return [await asyncio.shield(part.future) if isinstance(part, _Load) else part for part in parts]

    def _note_read(self, first: int, stop: int) -> None:
        self._last_read = stop - 1
        for block in self._read_ahead.note_read(first, stop):
            if not self._table.is_known(block) and block not in self._loads:
                self._counts.read_ahead_blocks += 1
                self._load(block, Priority.READ_AHEAD)

    def _load(self, block: int, priority: Priority) -> _Load:
        """The load of a block that is under way, or a new one."""
        load = self._loads.get(block)
        if load is None:
            load = self._loads[block] = _Load(self._loop.create_future())
            load.future.add_done_callback(_mark_retrieved)
            self._spawn(self._run_load(block, load, priority))
        return load

    async def _run_load(self, block: int, load: _Load, priority: Priority) -> None:
        content: BytesLike | None = None
        error: BucketryError | None = None
        try:
            content = await self._layout.read(self._geometry.extent(block), priority=priority)
        except BucketryError as failure:
            error = failure
        except asyncio.CancelledError:
            error = Closed("the disk was closed")
        except Exception as failure:  # noqa: BLE001 - whoever waits must hear of a bug below, not wait for ever
            _log.exception("reading block %d failed", block)
            error = Unavailable(f"reading block {block} failed: {failure!r}")
        # From here on nothing waits: the block is in the table, with its queued writes, before anybody else
        # looks.
        del self._loads[block]
        if load.pending:
            self._merge(block, content, load.pending, error)
        elif error is None and not self._closed:
            self._table.insert(block, content)
        if error is None:
            load.future.set_result(content)
        else:
            load.future.set_exception(error)

    def _merge(
        self, block: int, content: BytesLike | None, pending: list[_Pending], error: BucketryError | None
    ) -> None:
        """Apply the writes that waited for ``block``, in their order. When the block could not be read, those
        from the last one on that replaces it whole still can be applied."""
        merged = None if error is not None else bytearray(content or self._block_size)
        for write in pending:
            if write.data is None:
                merged = bytearray(self._block_size)
            elif len(write.data) == self._block_size:
                merged = bytearray(write.data)
            elif merged is not None:
                merged[write.start : write.start + len(write.data)] = write.data
        if merged is not None:
            self._table.write(block, 0, merged, self._loop.time())
            self._counts.writes_merged_after_load += len(pending)
            self._arm()
        for write in pending:
            if write.done.done():
                continue
            if merged is not None:
                write.done.set_result(None)
            else:
                assert error is not None
                write.done.set_exception(error)

    # -- writing ---------------------------------------------------------------------------------------------

    def can_write_now(self, block: int, length: int) -> bool:
        """Whether ``length`` bytes can be put into ``block`` without waiting."""
        return (
            block not in self._loads
            and self._table.has_room(block)
            and (length == self._block_size or self._table.is_known(block))
        )

    def write_nowait(self, block: int, start: int, data: BytesLike) -> None:
        """Put bytes into a block that ``can_write_now``."""
        self._table.write(block, start, data, self._loop.time())
        self._arm()

    async def write(self, block: int, start: int, data: BytesLike | None) -> None:
        """Put bytes into a block, waiting for room and for the rest of the block where needed. None zeroes
        all of it."""
        while True:
            self._check_open()
            length = self._block_size if data is None else len(data)
            if self.can_write_now(block, length):
                if data is None:
                    self._table.zero(block, self._loop.time())
                    self._arm()
                else:
                    self.write_nowait(block, start, data)
                return
            if not self._table.has_room(block):
                await self._wait_for_room()
                continue
            load = self._load(block, Priority.READ)
            pending = _Pending(start, None if data is None else bytes(data), self._loop.create_future())
            pending.done.add_done_callback(_mark_retrieved)
            load.pending.append(pending)
            await pending.done
            return

    async def zero_blocks(self, first: int, stop: int) -> None:
        """Whole blocks become zeros. Those known to be zero cost nothing, the others a slot each until they
        are deleted."""
        if stop - first > _ZERO_WITHOUT_SURVEY_MAX:
            await self.wait_surveyed()
        done = 0
        block = self.zeros.next_nonzero(first, stop)
        while block < stop:
            await self.write(block, 0, None)
            done += 1
            if done % _ZERO_STRIDE == 0:
                await asyncio.sleep(0)
            block = self.zeros.next_nonzero(block + 1, stop)

    async def _wait_for_room(self) -> None:
        self._counts.room_waits += 1
        waiter = self._loop.create_future()
        self._room_waiters.append(waiter)
        self._pump()
        await waiter

    def _wake_room_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- uploading -------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Something became dirty: see to it that it is uploaded in time."""
        if self._timer is None:
            delay = 0.0 if self._table.dirty_ratio > _PRESSURE_RATIO else self._settings.write_delay_seconds
            self._timer = self._loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        """Start the uploads that are due and have a place, and set the timer for the next ones."""
        if self._closed:
            return
        now = self._loop.time()
        if now >= self._paused_until:
            pressure = self._table.dirty_ratio > _PRESSURE_RATIO
            dirty_before = now if pressure else now - self._settings.write_delay_seconds
            while self._upload_count < self._shape.in_flight_max:
                batch = self._table.take_due(dirty_before, self._shape.data_bytes, self._shape.zeros_max)
                if not batch:
                    break
                self._upload_count += 1
                # The changes are made up here, with the bytes that the slots hold now: by the time the task
                # runs, a write may have given a slot newer ones, which are not this upload's to read.
                self._spawn(self._upload(batch, [self._change(slot) for slot in batch]))
        if self._timer is None and self._upload_count < self._shape.in_flight_max:
            oldest = now if self._table.has_urgent else self._table.oldest_dirty_since()
            if oldest is not None:
                due = max(oldest + self._settings.write_delay_seconds, self._paused_until)
                self._timer = self._loop.call_at(due, self._on_timer)

    async def _upload(self, batch: list[Slot], changes: list[Change]) -> None:
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
        for slot in batch:
            self._table.finish(slot, ok=error is None, now=now)
        if error is None:
            self._counts.uploads += 1
            self._pause_seconds = self._paused_until = 0.0
            self._last_error = None
            self._settle_flushes(batch)
        else:
            self._counts.upload_failures += 1
            self._last_error = error
            self._pause_seconds = min(
                max(2 * self._pause_seconds, _FAILURE_PAUSE_SECONDS), _FAILURE_PAUSE_MAX_SECONDS
            )
            self._paused_until = now + self._pause_seconds
            _log.error("%d bytes are not in the bucket yet, trying again: %s", self._table.dirty_bytes, error)
            self._fail_flushes(batch, error)
        self._wake_room_waiters()
        self._pump()

    def _change(self, slot: Slot) -> Change:
        extent: Extent = self._geometry.extent(slot.block)
        return Zero(extent) if slot.data is None else Write(extent.offset, slot.data)

    # -- flushing --------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until every write acknowledged before this call is in the bucket, whether it was waiting or on
        its way. Raises when one of them could not be uploaded; it stays dirty."""
        self._check_open()
        self._counts.flushes += 1
        awaited = self._table.begin_flush()
        if not awaited:
            return
        flush = _Flush(awaited, self._loop.create_future())
        self._flushes.append(flush)
        self._paused_until = 0.0  # somebody waits: try now
        self._pump()
        try:
            await flush.done
        except BucketryError:
            self._counts.flush_failures += 1
            raise
        finally:
            self._flushes.remove(flush)

    def _settle_flushes(self, batch: list[Slot]) -> None:
        for flush in self._flushes:
            for slot in batch:
                if flush.awaited.get(slot.block, slot.uploaded + 1) <= slot.uploaded:
                    del flush.awaited[slot.block]
            if not flush.awaited and not flush.done.done():
                flush.done.set_result(None)

    def _fail_flushes(self, batch: list[Slot], error: BucketryError) -> None:
        for flush in self._flushes:
            if not flush.done.done() and any(slot.block in flush.awaited for slot in batch):
                flush.done.set_exception(error)

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
        figures = {
            **asdict(self._table.statistics()),
            **asdict(self._counts),
            "loading_count": len(self._loads),
            "waiting_for_room_count": sum(not waiter.done() for waiter in self._room_waiters),
            "surveyed": self.zeros.surveyed,
            "last_error": "" if self._last_error is None else str(self._last_error),
        }
        return {"cache": figures, **self._layout.statistics()}
