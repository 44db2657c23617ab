"""The limited bucket on virtual time: limits are never passed, the urgent go first, places are never lost."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from bucketry.bucket.interface import NO_ATTRIBUTES, Attributes, ByteRange, Condition
from bucketry.bucket.limited import Limited
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority
from bucketry.core.rate import SAVED_SECONDS_MAX
from bucketry.errors import NotFound
from bucketry.settings import LimitSettings
from bucketry.testing.faulty_bucket import Delay, FaultRates, FaultyBucket
from bucketry.testing.virtual_time import on_virtual_time

NOTHING = {"requests_in_flight": 0, "bytes_in_flight": 0, "waiting": 0}


def figures(bucket: Limited) -> dict[str, int]:
    found = bucket.statistics()["limited"]
    assert isinstance(found, dict)
    return found


class Watched(FaultyBucket):
    """A bucket that knows how much is under way in it."""

    def __init__(self, rates: FaultRates) -> None:
        super().__init__(MemoryBucket(), rates=rates, seed=1)
        self.sizes: list[int] = []
        self.most = 0

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        self.sizes.append(len(data))
        self.most = max(self.most, len(self.sizes))
        bodies = [size for size in self.sizes if size]
        assert sum(bodies) <= 1000 or len(bodies) == 1
        try:
            return await super().put(key, data, attributes=attributes, condition=condition, priority=priority)
        finally:
            self.sizes.remove(len(data))


@on_virtual_time
async def test_never_more_requests_and_bytes_than_allowed_are_under_way() -> None:
    """Of many requests at once, of many sizes and some cancelled, no more than the limits are in the bucket
    below."""
    below = Watched(FaultRates(fail=0.2, delay_min_seconds=0.1, delay_max_seconds=2))
    bucket = Limited(below, LimitSettings(requests_max=4, bytes_max=1000))
    random = Random(2)
    puts = [
        asyncio.create_task(bucket.put("k", bytes(random.choice([0, 1, 300, 999, 1000, 5000]))))
        for _ in range(300)
    ]
    for put in random.sample(puts, 60):
        await asyncio.sleep(0.2)
        put.cancel()
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(outcome, str) for outcome in outcomes) > 100
    assert below.most == 4
    assert figures(bucket) == NOTHING


@on_virtual_time
async def test_the_urgent_go_first_and_equals_in_order() -> None:
    """Requests of all kinds and priorities that wait behind one are served by priority, then by arrival."""
    below = FaultyBucket(MemoryBucket())
    bucket = Limited(below, LimitSettings(requests_max=1))
    await below.put("k", b"x")
    hold = below.hold(operation="head", key="k")

    async def list_first(priority: Priority) -> None:
        async for _ in bucket.list(priority=priority):
            return

    requests: list[Coroutine[Any, Any, object]] = [bucket.head("k")]
    for priority in (*reversed(Priority), *reversed(Priority)):
        requests += [
            bucket.put("k", b"x", priority=priority),
            bucket.get("k", priority=priority),
            bucket.delete_many(["none"], priority=priority),
            list_first(priority),
        ]
    tasks = [asyncio.create_task(request) for request in requests]
    await hold.wait_arrived()
    assert figures(bucket) == {"requests_in_flight": 1, "bytes_in_flight": 0, "waiting": len(tasks) - 1}
    hold.release()
    await asyncio.gather(*tasks)
    served = [(request.priority, request.operation) for request in below.requests[2:]]
    kinds = ["put", "get", "delete_many", "list"]
    assert served == [(priority, kind) for priority in Priority for kind in kinds * 2]


@on_virtual_time
async def test_a_body_beyond_the_limit_passes_alone() -> None:
    """Larger than all that may be under way, a put still succeeds, when no other body is under way."""
    below = FaultyBucket(MemoryBucket())
    bucket = Limited(below, LimitSettings(requests_max=8, bytes_max=10))
    hold = below.hold(operation="put", key="small")
    small = asyncio.create_task(bucket.put("small", b"x"))
    large = asyncio.create_task(bucket.put("large", bytes(100)))
    await hold.wait_arrived()
    await asyncio.sleep(1)
    assert [request.key for request in below.requests] == ["small"]
    hold.release()
    await asyncio.gather(small, large)
    assert (await bucket.head("large")).size_bytes == 100


@on_virtual_time
async def test_parts_count_as_puts() -> None:
    """Parts of an upload keep within the limits of requests and bytes, and go by their priority."""
    below = FaultyBucket(MemoryBucket(), rates=FaultRates(delay_min_seconds=1, delay_max_seconds=1))
    bucket = Limited(below, LimitSettings(requests_max=8, bytes_max=100))
    upload_id = await bucket.create_upload("k", part_size_bytes=50)
    loop = asyncio.get_running_loop()
    started = loop.time()
    parts = await asyncio.gather(
        *(bucket.put_part("k", upload_id, number, bytes(50)) for number in range(1, 7))
    )
    assert loop.time() - started == 3
    await bucket.complete_upload("k", upload_id, parts)
    assert [len(page) async for page in bucket.list_uploads()] == []
    assert figures(bucket) == NOTHING


@on_virtual_time
async def test_a_range_counts_as_its_bytes() -> None:
    """Two ranges that do not fit together are fetched one after the other."""
    below = FaultyBucket(MemoryBucket(), rates=FaultRates(delay_min_seconds=1, delay_max_seconds=1))
    bucket = Limited(below, LimitSettings(requests_max=8, bytes_max=10))
    await bucket.put("k", b"0123456789")
    loop = asyncio.get_running_loop()
    for end, seconds in ((5, 1), (6, 2)):
        started = loop.time()
        await asyncio.gather(*(bucket.get("k", byte_range=ByteRange(0, end)) for _ in range(2)))
        assert loop.time() - started == pytest.approx(seconds)


@on_virtual_time
async def test_cancelling_frees_the_place_of_who_waits_and_of_who_is_served() -> None:
    """Neither keeps anybody out: one who waits steps out of the queue, one who is served makes way."""
    below = FaultyBucket(MemoryBucket())
    bucket = Limited(below, LimitSettings(requests_max=1))
    below.hold(key="held")
    served = asyncio.create_task(bucket.put("held", b"x"))
    waits = asyncio.create_task(bucket.put("never", b"x"))
    follows = asyncio.create_task(bucket.put("k", b"x"))
    await asyncio.sleep(1)
    waits.cancel()
    await asyncio.sleep(1)
    assert figures(bucket)["waiting"] == 1
    served.cancel()
    await follows
    assert figures(bucket) == NOTHING
    assert [request.key for request in below.requests] == ["held", "k"]
    outcomes = await asyncio.gather(served, waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


@on_virtual_time
async def test_cancelling_in_the_moment_of_admission_passes_the_place_on() -> None:
    """Who is cancelled after it was his turn, but before he could run, hands the slot to the next."""
    for cancel_first in (True, False):
        below = FaultyBucket(MemoryBucket())
        bucket = Limited(below, LimitSettings(requests_max=1))
        hold = below.hold(key="held")
        served = asyncio.create_task(bucket.put("held", b"x"))
        waits = asyncio.create_task(bucket.put("never", b"x"))
        follows = asyncio.create_task(bucket.put("k", b"x"))
        await hold.wait_arrived()
        await asyncio.sleep(1)
        if cancel_first:
            waits.cancel()
            hold.release()
            await served
        else:
            hold.release()
            await served  # its last step admitted the one that waits
            waits.cancel()
        await follows
        assert figures(bucket) == NOTHING
        await asyncio.wait([waits])


@on_virtual_time
async def test_a_listing_holds_nothing_while_its_pages_are_looked_at() -> None:
    """Between two pages others are served, and a listing left in the middle leaves nothing behind."""
    store = MemoryStore()
    for number in range(2500):
        await MemoryBucket(store).put(f"{number:04}", b"")
    bucket = Limited(MemoryBucket(store), LimitSettings(requests_max=1))
    pages = bucket.list()
    page_count = 0
    async for page in pages:
        page_count += 1
        assert (await bucket.head(page[0].key)).size_bytes == 0
        assert figures(bucket) == NOTHING
    assert page_count == 3
    async for _ in bucket.list():
        break
    assert figures(bucket) == NOTHING


@on_virtual_time
async def test_a_request_that_fails_frees_its_place() -> None:
    """Errors of every verb leave nothing occupied."""
    bucket = Limited(MemoryBucket(), LimitSettings(requests_max=1))
    for request in (bucket.get("none"), bucket.head("none")):
        with pytest.raises(NotFound):
            await request
    assert figures(bucket) == NOTHING


@on_virtual_time
async def test_uploads_and_downloads_keep_to_their_bandwidth() -> None:
    """Twenty bodies each way, all at once, take the time that their bytes need at the rate, no more and no
    less."""
    for upload, download in ((1000, None), (None, 2000), (1000, 2000)):
        settings = LimitSettings(upload_bytes_per_second=upload, download_bytes_per_second=download)
        bucket = Limited(MemoryBucket(), settings)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.gather(*(bucket.put(f"{number}", bytes(500)) for number in range(20)))
        # A body may start when all before it are paid for; the savings pay for some at the beginning.
        expected = 19 * 500 / upload - SAVED_SECONDS_MAX if upload else 0
        assert loop.time() - started == pytest.approx(expected, abs=0.002)
        started = loop.time()
        for number in range(20):
            await bucket.get(f"{number}")
        expected = 19 * 500 / download - SAVED_SECONDS_MAX if download else 0
        assert loop.time() - started == pytest.approx(expected, abs=0.002)


@on_virtual_time
async def test_the_urgent_have_the_bandwidth_first() -> None:
    """A reader goes before all read-ahead that waits for the line, but for the one whose turn it is."""
    below = FaultyBucket(MemoryBucket())
    bucket = Limited(below, LimitSettings(download_bytes_per_second=1000))
    await bucket.put("k", bytes(1000))
    await bucket.get("k")
    ahead = [asyncio.create_task(bucket.get("k", priority=Priority.READ_AHEAD)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await bucket.get("k", priority=Priority.READ)
    await asyncio.gather(*ahead)
    order = [request.priority for request in below.requests if request.operation == "get"][1:]
    assert order == [Priority.READ_AHEAD, Priority.READ, Priority.READ_AHEAD, Priority.READ_AHEAD]


@on_virtual_time
async def test_a_throttled_upload_keeps_no_reader_out() -> None:
    """Uploads that wait for bandwidth hold no slot."""
    bucket = Limited(MemoryBucket(), LimitSettings(requests_max=1, upload_bytes_per_second=10))
    uploads = [asyncio.create_task(bucket.put("k", bytes(100))) for _ in range(3)]
    await asyncio.sleep(1)
    assert len((await bucket.get("k")).data) == 100
    assert asyncio.get_running_loop().time() == 1
    await asyncio.gather(*uploads)


@on_virtual_time
async def test_who_is_cancelled_while_waiting_for_bandwidth_makes_way() -> None:
    """The one whose turn it is, and one behind him, are cancelled: those that follow go at their time."""
    bucket = Limited(MemoryBucket(), LimitSettings(upload_bytes_per_second=100))
    puts = [asyncio.create_task(bucket.put(f"{number}", bytes(100))) for number in range(5)]
    await asyncio.sleep(0.1)
    puts[1].cancel()
    puts[2].cancel()
    await asyncio.wait(puts)
    assert asyncio.get_running_loop().time() == pytest.approx(2 - SAVED_SECONDS_MAX, abs=0.02)
    assert [put.cancelled() for put in puts] == [False, True, True, False, False]


@on_virtual_time
async def test_a_slow_request_is_cancelled_at_once() -> None:
    """Cancellation reaches the bucket below without delay."""
    below = FaultyBucket(MemoryBucket())
    below.plan(Delay(100))
    bucket = Limited(below, LimitSettings())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bucket.put("k", b"x"), 1)
    assert asyncio.get_running_loop().time() == 1
