"""A bucket with faults: planned one by one for unit tests, or drawn from a seed for simulations.

Every request takes this way, and a page of a listing is a request::

arrive → hold? → outage? → fault before → wait → APPLY → wait → outage? → answer lost? → body damaged? →
answer

Half of a delay comes before the request is applied and half after, so that a cancellation meets both kinds.
Requests draw from the seed in the order in which they arrive: on virtual time one seed is one course of
events.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
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
from bucketry.bucket.wrapper import BucketWrapper, close_pages
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority
from bucketry.errors import BucketryError, Throttled, Unavailable

_T = TypeVar("_T")
#: Named here, because within a bucket ``list`` is the method.
_Pages: TypeAlias = AsyncIterator[list[_T]]


@dataclass(frozen=True, slots=True)
class Fail:
    """Nothing is applied; ``error`` is raised."""

    error: type[BucketryError] = Unavailable


@dataclass(frozen=True, slots=True)
class Throttle:
    """Nothing is applied; the store asks to come back after some time, or just later."""

    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The request is applied, and ends as Unavailable."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The request takes so long, half before it is applied and half after."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Truncate:
    """A get gives the first half of its bytes and says that this is all: an object cut in the store."""


@dataclass(frozen=True, slots=True)
class FlipBit:
    """A get gives its bytes with one bit wrong."""


Fault: TypeAlias = Fail | Throttle | LoseAnswer | Delay | Truncate | FlipBit


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """How often faults come by chance, each from 0 to 1 (of all requests; damaged bodies: of all gets; stale
    listings: of all listings), and how long a request takes: between the two, evenly; ``stall`` of them up to
    ``stall_max_seconds`` longer.

    A stale listing shows the store as it was when the listing began, whatever happens until its last page:
    the worst that a consistent store may do."""

    fail: float = 0.0
    throttle: float = 0.0
    lose_answer: float = 0.0
    truncate: float = 0.0
    flip_bit: float = 0.0
    delay_min_seconds: float = 0.0
    delay_max_seconds: float = 0.0
    stall: float = 0.0
    stall_max_seconds: float = 0.0
    stale_list: float = 0.0


NO_FAULTS = FaultRates()


@dataclass(frozen=True, slots=True)
class Request:
    """One request that arrived. ``key`` is the prefix of a listing; of many keys, the first."""

    operation: str
    key: str
    priority: Priority


class Hold:
    """A gate: requests that match wait here, before they are applied or with their answer, until it is
    released."""

    def __init__(self, operation: str | None, key: str | None, *, applied: bool) -> None:
        self._operation = operation
        self._key = key
        self._applied = applied
        self._arrival = asyncio.Event()
        self._released = asyncio.Event()
        #: How many have come here so far.
        self.arrived_count = 0

    async def wait_arrived(self, count: int = 1) -> None:
        """Wait until ``count`` requests have come here."""
        while self.arrived_count < count:
            self._arrival.clear()
            await self._arrival.wait()

    def release(self) -> None:
        """Let go those that wait, and all that come after them."""
        self._released.set()

    async def pass_through(self, request: Request, *, applied: bool) -> None:
        """Called by the bucket with every request, before and after it is applied."""
        if applied is self._applied and _matches(request, self._operation, self._key):
            self.arrived_count += 1
            self._arrival.set()
            await self._released.wait()


@dataclass(slots=True)
class _Plan:
    fault: Fault
    operation: str | None
    key: str | None
    skip_count: int
    times: int


class FaultyBucket(BucketWrapper):
    """``below`` with faults: none until they are planned, switched on or given as ``rates``.

    ``requests`` are those that arrived, in order. While ``outage`` is True every request is Unavailable;
    one that is under way when it begins may have been applied. ``statistics()["faulty"]`` counts faults by
    kind.
    """

    def __init__(
        self,
        below: Bucket,
        *,
        rates: FaultRates = NO_FAULTS,
        seed: int = 0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(below)
        self.rates = rates
        self.outage = False
        self.requests: list[Request] = []
        #: How often each object was damaged on its way.
        self.damaged: Counter[str] = Counter()
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._sleep = sleep
        self._plans: list[_Plan] = []
        self._holds: list[Hold] = []
        self._fault_counts: Counter[str] = Counter()

    def plan(
        self,
        fault: Fault,
        *,
        operation: str | None = None,
        key: str | None = None,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """The next ``times`` requests that match (None: any) after the next ``skip`` of them have this
        fault. A request has at most one planned fault: that of the earliest plan."""
        self._plans.append(_Plan(fault, operation, key, skip, times))

    def hold(self, *, operation: str | None = None, key: str | None = None, applied: bool = False) -> Hold:
        """Hold requests that match before they are applied, or their answers when ``applied``."""
        hold = Hold(operation, key, applied=applied)
        self._holds.append(hold)
        return hold

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        request, faults = self._arrive("head", key, priority)
        return await self._run(request, faults, lambda: self._below.head(key, priority=priority))

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        request, faults = self._arrive("get", key, priority)
        found = await self._run(
            request, faults, lambda: self._below.get(key, byte_range=byte_range, priority=priority)
        )
        for fault in faults:
            found = self._damaged(found, fault)
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
        request, faults = self._arrive("put", key, priority)
        return await self._run(
            request,
            faults,
            lambda: self._below.put(key, data, attributes=attributes, condition=condition, priority=priority),
        )

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        request, faults = self._arrive("delete", key, priority)
        await self._run(request, faults, lambda: self._below.delete(key, priority=priority))

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        batch = list(keys)
        request, faults = self._arrive("delete_many", batch[0] if batch else "", priority)
        await self._run(request, faults, lambda: self._below.delete_many(batch, priority=priority))

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        pages = self._below.list(prefix=prefix, after=after, priority=priority)
        if self.rates.stale_list and self._random.random() < self.rates.stale_list:
            self._fault_counts["StaleList"] += 1
            pages = _again([page async for page in pages])
        pages = self._pages("list", prefix, pages, priority)
        try:
            async for page in pages:
                yield page
        finally:
            await close_pages(pages)

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        request, faults = self._arrive("create_upload", key, priority)
        return await self._run(
            request,
            faults,
            lambda: self._below.create_upload(
                key, part_size_bytes=part_size_bytes, attributes=attributes, priority=priority
            ),
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
        request, faults = self._arrive("put_part", key, priority)
        return await self._run(
            request,
            faults,
            lambda: self._below.put_part(key, upload_id, number, data, priority=priority),
        )

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        request, faults = self._arrive("complete_upload", key, priority)
        return await self._run(
            request,
            faults,
            lambda: self._below.complete_upload(
                key, upload_id, parts, condition=condition, priority=priority
            ),
        )

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        request, faults = self._arrive("abort_upload", key, priority)
        await self._run(request, faults, lambda: self._below.abort_upload(key, upload_id, priority=priority))

    def list_uploads(self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND) -> UploadPages:
        pages = self._below.list_uploads(prefix=prefix, priority=priority)
        return self._pages("list_uploads", prefix, pages, priority)

    def list_parts(self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD) -> PartPages:
        pages = self._below.list_parts(key, upload_id, priority=priority)
        return self._pages("list_parts", key, pages, priority)

    async def _pages(self, operation: str, key: str, pages: _Pages[_T], priority: Priority) -> _Pages[_T]:
        """The same pages, each of which is a request."""

        async def next_page() -> list[_T] | None:
            return await anext(pages, None)

        try:
            while True:
                request, faults = self._arrive(operation, key, priority)
                page = await self._run(request, faults, next_page)
                if page is None:
                    return
                yield page
        finally:
            await close_pages(pages)

    def statistics(self) -> Mapping[str, object]:
        figures = {"requests": len(self.requests), "faults": dict(self._fault_counts)}
        return {**self._below.statistics(), "faulty": figures}

    def _arrive(self, operation: str, key: str, priority: Priority) -> tuple[Request, tuple[Fault, ...]]:
        """Note a request and decide its faults."""
        request = Request(operation, key, priority)
        self.requests.append(request)
        faults = (*self._planned(request), *self._drawn(request))
        self._fault_counts.update(type(fault).__name__ for fault in faults)
        return request, faults

    def _planned(self, request: Request) -> Iterator[Fault]:
        is_taken = False
        for plan in self._plans:
            if not _matches(request, plan.operation, plan.key):
                continue
            if plan.skip_count:
                plan.skip_count -= 1
            elif plan.times and not is_taken:
                plan.times -= 1
                is_taken = True
                yield plan.fault

    def _drawn(self, request: Request) -> Iterator[Fault]:
        rates, random = self.rates, self._random
        if rates.delay_max_seconds:
            yield Delay(random.uniform(rates.delay_min_seconds, rates.delay_max_seconds))
        if rates.stall and random.random() < rates.stall:
            yield Delay(random.uniform(0.0, rates.stall_max_seconds))
        if random.random() < rates.fail:
            yield Fail()
        if random.random() < rates.throttle:
            yield Throttle(retry_after_seconds=random.choice([None, 1.0]))
        if random.random() < rates.lose_answer:
            yield LoseAnswer()
        if request.operation == "get":
            if random.random() < rates.truncate:
                yield Truncate()
            if random.random() < rates.flip_bit:
                yield FlipBit()

    async def _run(
        self, request: Request, faults: tuple[Fault, ...], apply: Callable[[], Awaitable[_T]]
    ) -> _T:
        what = f"{request.operation} {request.key!r}"
        delay_seconds = sum(fault.seconds for fault in faults if isinstance(fault, Delay))
        await self._pass_holds(request, applied=False)
        self._check_outage(what)
        for fault in faults:
            if isinstance(fault, Fail):
                raise fault.error(f"{what}: failed on purpose")
            if isinstance(fault, Throttle):
                raise Throttled(
                    f"{what}: throttled on purpose", retry_after_seconds=fault.retry_after_seconds
                )
        await self._wait(delay_seconds / 2)
        try:
            result = await apply()
        except BucketryError:
            # An answer that says no gets lost as easily as one that says yes.
            await self._answer(request, what, faults, delay_seconds / 2)
            raise
        await self._answer(request, what, faults, delay_seconds / 2)
        return result

    async def _answer(
        self, request: Request, what: str, faults: tuple[Fault, ...], delay_seconds: float
    ) -> None:
        """The way back of an answer: returns when it arrives, raises Unavailable when it does not."""
        await self._wait(delay_seconds)
        await self._pass_holds(request, applied=True)
        self._check_outage(what)
        if any(isinstance(fault, LoseAnswer) for fault in faults):
            raise Unavailable(f"{what}: answer lost on purpose")

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await self._sleep(seconds)

    async def _pass_holds(self, request: Request, *, applied: bool) -> None:
        for hold in self._holds:
            await hold.pass_through(request, applied=applied)

    def _check_outage(self, what: str) -> None:
        if self.outage:
            raise Unavailable(f"{what}: outage on purpose")

    def _damaged(self, found: Object, fault: Fault) -> Object:
        if isinstance(fault, Truncate | FlipBit):
            self.damaged[found.info.key] += 1
        size_bytes = len(found.data)
        if isinstance(fault, Truncate):
            cut = bytes(found.data[: size_bytes // 2])
            return replace(found, data=cut, info=replace(found.info, size_bytes=len(cut)))
        if isinstance(fault, FlipBit) and size_bytes:
            flipped = bytearray(found.data)
            bit = self._random.randrange(8 * size_bytes)
            flipped[bit // 8] ^= 1 << bit % 8
            return replace(found, data=bytes(flipped))
        return found


async def _again(pages: list[list[Entry]]) -> AsyncIterator[list[Entry]]:
    for page in pages:
        yield page


def _matches(request: Request, operation: str | None, key: str | None) -> bool:
    return (operation is None or request.operation == operation) and (key is None or request.key == key)
