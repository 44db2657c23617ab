"""A bucket that keeps requests, bytes and bandwidth within limits, and lets the urgent go first.

A request first waits for bandwidth in its direction (where that is limited), then for a slot: those who
wait for bandwidth hold no slot, so a throttled upload keeps no reader out. Both queues are ordered by
priority.

The size of a body counts against the limit on bytes in flight where it is known beforehand: that of a put,
and that of a get with a range. A get of a whole object is known only when it ends; it counts as nothing in
flight, so what may be in memory is ``bytes_max`` and ``requests_max`` whole objects.

The bandwidth is charged for an upload when it may start, for a download when it has arrived: a debt, which
those after it wait for. So the average is right, though as many downloads as there are slots may start at
once on an idle line.

A page of a listing is a request; nothing is held while the caller looks at a page. Deletes of many keys are
one request here; a part of an upload counts as a put.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    ByteRange,
    Condition,
    Entry,
    Object,
    ObjectInfo,
    Part,
    PartPages,
    UploadPages,
)
from bucketry.bucket.wrapper import BucketWrapper, close_pages, loop_seconds
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority
from bucketry.core.rate import Rate
from bucketry.core.slots import Slot, SlotTable
from bucketry.settings import LimitSettings

_T = TypeVar("_T")
#: Named here, because within a bucket ``list`` is the method.
_Pages: TypeAlias = AsyncIterator[list[_T]]


class Limited(BucketWrapper):
    """Never more at once than ``settings`` say. ``statistics()["limited"]`` tells ``requests_in_flight``,
    ``bytes_in_flight`` and ``waiting`` (requests that wait for a slot), as of now.

    A request that is cancelled, waiting or under way, frees its place at once. ``now`` and ``sleep`` are
    the clock.
    """

    def __init__(
        self,
        below: Bucket,
        settings: LimitSettings,
        *,
        now: Callable[[], float] = loop_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(below)
        self._turns = _Turns(SlotTable(settings.requests_max, settings.bytes_max))
        upload, download = settings.upload_bytes_per_second, settings.download_bytes_per_second
        self._upload = None if upload is None else _Bandwidth(upload, now, sleep)
        self._download = None if download is None else _Bandwidth(download, now, sleep)

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        slot = await self._turns.enter(priority, 0)
        try:
            return await self._below.head(key, priority=priority)
        finally:
            self._turns.leave(slot)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        if self._download is not None:
            await self._download.wait(priority, 0)
        known_bytes = 0 if byte_range is None else max(0, byte_range.end - byte_range.start)
        slot = await self._turns.enter(priority, known_bytes)
        try:
            found = await self._below.get(key, byte_range=byte_range, priority=priority)
        finally:
            self._turns.leave(slot)
        if self._download is not None:
            self._download.charge(len(found.data))
        return found

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        size_bytes = len(data)
        if self._upload is not None:
            await self._upload.wait(priority, size_bytes)
        slot = await self._turns.enter(priority, size_bytes)
        try:
            return await self._below.put(
                key, data, attributes=attributes, condition=condition, priority=priority
            )
        finally:
            self._turns.leave(slot)

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        slot = await self._turns.enter(priority, 0)
        try:
            await self._below.delete(key, priority=priority)
        finally:
            self._turns.leave(slot)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        slot = await self._turns.enter(priority, 0)
        try:
            await self._below.delete_many(keys, priority=priority)
        finally:
            self._turns.leave(slot)

    def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        return self._pages(self._below.list(prefix=prefix, after=after, priority=priority), priority)

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        slot = await self._turns.enter(priority, 0)
        try:
            return await self._below.create_upload(
                key, part_size_bytes=part_size_bytes, attributes=attributes, priority=priority
            )
        finally:
            self._turns.leave(slot)

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        size_bytes = len(data)
        if self._upload is not None:
            await self._upload.wait(priority, size_bytes)
        slot = await self._turns.enter(priority, size_bytes)
        try:
            return await self._below.put_part(key, upload_id, number, data, priority=priority)
        finally:
            self._turns.leave(slot)

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        slot = await self._turns.enter(priority, 0)
        try:
            return await self._below.complete_upload(
                key, upload_id, parts, condition=condition, priority=priority
            )
        finally:
            self._turns.leave(slot)

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        slot = await self._turns.enter(priority, 0)
        try:
            await self._below.abort_upload(key, upload_id, priority=priority)
        finally:
            self._turns.leave(slot)

    def list_uploads(self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND) -> UploadPages:
        return self._pages(self._below.list_uploads(prefix=prefix, priority=priority), priority)

    def list_parts(self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD) -> PartPages:
        return self._pages(self._below.list_parts(key, upload_id, priority=priority), priority)

    async def _pages(self, pages: _Pages[_T], priority: Priority) -> _Pages[_T]:
        """The same pages, each of which needs a slot."""
        try:
            while True:
                slot = await self._turns.enter(priority, 0)
                try:
                    page = await anext(pages, None)
                finally:
                    self._turns.leave(slot)
                if page is None:
                    return
                yield page
        finally:
            await close_pages(pages)

    def statistics(self) -> Mapping[str, object]:
        slots = self._turns.slots
        figures = {
            "requests_in_flight": slots.requests_inside,
            "bytes_in_flight": slots.bytes_inside,
            "waiting": slots.waiting_count,
        }
        return {**self._below.statistics(), "limited": figures}


class _Turns:
    """Waiting for slots: the table decides, a future wakes."""

    def __init__(self, slots: SlotTable) -> None:
        self.slots = slots
        self._waiting: dict[Slot, asyncio.Future[None]] = {}

    async def enter(self, priority: Priority, size_bytes: int) -> Slot:
        slot = self.slots.enter(priority, size_bytes)
        if not slot.inside:
            self._waiting[slot] = asyncio.get_running_loop().create_future()
            try:
                await self._waiting[slot]
            except BaseException:
                # Cancelled while waiting, or just after it was our turn: the next one goes instead.
                self.leave(slot)
                raise
            finally:
                del self._waiting[slot]
        return slot

    def leave(self, slot: Slot) -> None:
        for admitted in self.slots.leave(slot):
            future = self._waiting[admitted]
            if not future.done():  # else cancelled in this very moment; its task will leave
                future.set_result(None)


class _Bandwidth:
    """Waiting for one direction of the line: one at a time waits for the debt, the others for him."""

    def __init__(
        self, bytes_per_second: int, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._rate = Rate(bytes_per_second)
        self._now = now
        self._sleep = sleep
        self._turns = _Turns(SlotTable(requests_max=1, bytes_max=1))

    async def wait(self, priority: Priority, size_bytes: int) -> None:
        """Return when a body of ``size_bytes`` may start; it is charged then."""
        slot = await self._turns.enter(priority, 0)
        try:
            # Others may be charged meanwhile, for what they received.
            while (debt_seconds := self._rate.wait_seconds(self._now())) > 0:
                await self._sleep(debt_seconds)
            self._rate.charge(size_bytes, self._now())
        finally:
            self._turns.leave(slot)

    def charge(self, size_bytes: int) -> None:
        self._rate.charge(size_bytes, self._now())
