"""A bucket that counts and times every request that passes.

Below the retrying one it counts attempts, which is what a store counts and bills.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

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
from bucketry.bucket.wrapper import BucketWrapper, close_pages
from bucketry.core.bytes_like import BytesLike
from bucketry.core.histogram import LatencyHistogram
from bucketry.core.priority import Priority

#: As they are named in the statistics. A page of a listing is one request.
OPERATIONS = (
    "head",
    "get",
    "put",
    "delete",
    "delete_many",
    "list",
    "create_upload",
    "put_part",
    "complete_upload",
    "abort_upload",
    "list_uploads",
    "list_parts",
)

_T = TypeVar("_T")


class Metered(BucketWrapper):
    """``statistics()["metered"]``:

    ``in_flight``, ``in_flight_peak``: requests under way now, and the most there ever were; ``operations``:
    for each of OPERATIONS ``count``: requests that ended: ``succeeded`` + ``failed`` + ``cancelled``;
    ``errors``: how many failed, by the error's name (NotFound and conflicts are errors here, though they
    are answers); ``bytes``: of bodies of requests that succeeded: uploaded by ``put``, downloaded by
    ``get``; ``latency``: of requests that succeeded or failed, see LatencyHistogram.statistics.

    ``now`` is a clock in seconds. The event loop's own is too coarse for microseconds where it is cached
    for each turn.
    """

    def __init__(self, below: Bucket, *, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(below)
        self._gauge = _Gauge()
        self._meters = {operation: _Meter(self._gauge, now) for operation in OPERATIONS}
        self._head, self._get, self._put, self._delete, self._delete_many, self._list = (
            self._meters[operation] for operation in OPERATIONS[:6]
        )

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        with _Timing(self._head):
            return await self._below.head(key, priority=priority)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        with _Timing(self._get):
            found = await self._below.get(key, byte_range=byte_range, priority=priority)
            self._get.size_bytes += len(found.data)
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
        with _Timing(self._put):
            etag = await self._below.put(
                key, data, attributes=attributes, condition=condition, priority=priority
            )
            self._put.size_bytes += len(data)
            return etag

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        with _Timing(self._delete):
            await self._below.delete(key, priority=priority)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        with _Timing(self._delete_many):
            await self._below.delete_many(keys, priority=priority)

    def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        return _pages(self._below.list(prefix=prefix, after=after, priority=priority), self._list)

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        with _Timing(self._meters["create_upload"]):
            return await self._below.create_upload(
                key, part_size_bytes=part_size_bytes, attributes=attributes, priority=priority
            )

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        meter = self._meters["put_part"]
        with _Timing(meter):
            part = await self._below.put_part(key, upload_id, number, data, priority=priority)
            meter.size_bytes += len(data)
            return part

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        with _Timing(self._meters["complete_upload"]):
            return await self._below.complete_upload(
                key, upload_id, parts, condition=condition, priority=priority
            )

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        with _Timing(self._meters["abort_upload"]):
            await self._below.abort_upload(key, upload_id, priority=priority)

    def list_uploads(self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND) -> UploadPages:
        pages = self._below.list_uploads(prefix=prefix, priority=priority)
        return _pages(pages, self._meters["list_uploads"])

    def list_parts(self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD) -> PartPages:
        pages = self._below.list_parts(key, upload_id, priority=priority)
        return _pages(pages, self._meters["list_parts"])

    def statistics(self) -> Mapping[str, object]:
        figures = {
            "in_flight": self._gauge.in_flight,
            "in_flight_peak": self._gauge.in_flight_peak,
            "operations": {operation: meter.statistics() for operation, meter in self._meters.items()},
        }
        return {**self._below.statistics(), "metered": figures}


async def _pages(pages: AsyncIterator[list[_T]], meter: "_Meter") -> AsyncIterator[list[_T]]:
    """The same pages, each of them counted."""
    try:
        while True:
            with _Timing(meter):
                page = await anext(pages, None)
            if page is None:
                return
            yield page
    finally:
        await close_pages(pages)


class _Gauge:
    """How many requests of all kinds are under way."""

    __slots__ = ("in_flight", "in_flight_peak")

    def __init__(self) -> None:
        self.in_flight = 0
        self.in_flight_peak = 0


class _Meter:
    """What is known of one operation."""

    __slots__ = ("cancelled_count", "errors", "gauge", "latency", "now", "size_bytes", "succeeded_count")

    def __init__(self, gauge: _Gauge, now: Callable[[], float]) -> None:
        self.gauge = gauge
        self.now = now
        self.succeeded_count = 0
        self.cancelled_count = 0
        self.errors: Counter[str] = Counter()
        self.size_bytes = 0
        self.latency = LatencyHistogram()

    def statistics(self) -> dict[str, object]:
        failed_count = self.errors.total()
        return {
            "count": self.succeeded_count + failed_count + self.cancelled_count,
            "succeeded": self.succeeded_count,
            "failed": failed_count,
            "cancelled": self.cancelled_count,
            "errors": dict(self.errors),
            "bytes": self.size_bytes,
            "latency": self.latency.statistics(),
        }


class _Timing:
    """One request, from entering to leaving. A class: a generator-based context manager costs three times
    as much."""

    __slots__ = ("_meter", "_started")

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter
        gauge = meter.gauge
        gauge.in_flight += 1
        if gauge.in_flight > gauge.in_flight_peak:
            gauge.in_flight_peak = gauge.in_flight
        self._started = meter.now()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        meter = self._meter
        meter.gauge.in_flight -= 1
        if kind is None:
            meter.succeeded_count += 1
        elif issubclass(kind, Exception):
            meter.errors[kind.__name__] += 1
        else:  # CancelledError, and what else ends a task from outside, say nothing about the store
            meter.cancelled_count += 1
            return
        meter.latency.add(meter.now() - self._started)
