"""The bucket with faults: each fault does what it says, and a seed is one course of events."""

import asyncio

import pytest

from bucketry.bucket.interface import ByteRange, IfAbsent
from bucketry.bucket.memory import MemoryBucket
from bucketry.core.priority import Priority
from bucketry.errors import BucketryError, Denied, NotFound, Throttled, Unavailable
from bucketry.testing.faulty_bucket import (
    Delay,
    Fail,
    FaultRates,
    FaultyBucket,
    FlipBit,
    LoseAnswer,
    Request,
    Throttle,
    Truncate,
)
from bucketry.testing.virtual_time import on_virtual_time, run_virtual


def faulty() -> FaultyBucket:
    return FaultyBucket(MemoryBucket())


async def keys(bucket: FaultyBucket) -> list[str]:
    return [entry.key async for page in bucket.list() for entry in page]


@on_virtual_time
async def test_failing_applies_nothing_and_losing_the_answer_applies_all() -> None:
    """After Fail and Throttle the bucket is as before; after LoseAnswer it is as after."""
    bucket = faulty()
    bucket.plan(Fail(Denied), key="a")
    bucket.plan(Throttle(3.0), key="b")
    bucket.plan(LoseAnswer(), key="c")
    with pytest.raises(Denied):
        await bucket.put("a", b"x")
    with pytest.raises(Throttled) as caught:
        await bucket.put("b", b"x")
    assert caught.value.retry_after_seconds == 3.0
    with pytest.raises(Unavailable, match="answer lost"):
        await bucket.put("c", b"x")
    assert await keys(bucket) == ["c"]
    assert bucket.statistics()["faulty"] == {
        "requests": 5,
        "faults": {"Fail": 1, "Throttle": 1, "LoseAnswer": 1},
    }


@on_virtual_time
async def test_an_answer_that_says_no_gets_lost_as_well() -> None:
    """A conflict, or an absent object, whose answer got lost is Unavailable."""
    bucket = faulty()
    await bucket.put("k", b"x")
    bucket.plan(LoseAnswer(), times=2)
    with pytest.raises(Unavailable):
        await bucket.put("k", b"y", condition=IfAbsent())
    with pytest.raises(Unavailable):
        await bucket.get("none")
    with pytest.raises(NotFound):
        await bucket.get("none")


@on_virtual_time
async def test_plans_count_only_what_matches() -> None:
    """A plan skips and takes requests of its operation and key, in order, the earliest plan first."""
    bucket = faulty()
    bucket.plan(Fail(Denied), operation="head", key="k", skip=1, times=2)
    bucket.plan(Fail(Unavailable), key="k", times=2)
    outcomes: list[str] = []
    for operation in (bucket.head, bucket.get, bucket.head, bucket.head, bucket.head):
        for key in ("other", "k"):
            try:
                await operation(key)
            except BucketryError as error:
                outcomes.append(f"{key} {type(error).__name__}")
    assert [outcome for outcome in outcomes if outcome.startswith("k")] == [
        "k Unavailable",
        "k Unavailable",
        "k Denied",
        "k Denied",
        "k NotFound",
    ]
    assert {outcome for outcome in outcomes if outcome.startswith("other")} == {"other NotFound"}


@on_virtual_time
async def test_damaged_bodies_are_damaged_in_the_answer_only() -> None:
    """Half of the body, or one bit of it, is wrong once, in a range as in the whole; the object is as it
    was."""
    bucket = faulty()
    await bucket.put("k", bytes(100))
    for byte_range, size_bytes in ((None, 100), (ByteRange(0, 10), 10)):
        bucket.plan(Truncate(), operation="get")
        assert (await bucket.get("k", byte_range=byte_range)).data == bytes(size_bytes // 2)
        bucket.plan(FlipBit(), operation="get")
        data = (await bucket.get("k", byte_range=byte_range)).data
        assert len(data) == size_bytes
        assert int.from_bytes(data, "big").bit_count() == 1
        assert (await bucket.get("k", byte_range=byte_range)).data == bytes(size_bytes)


@on_virtual_time
async def test_an_outage_takes_the_answers_of_what_is_under_way() -> None:
    """A put that is under way when the outage begins may be applied, but its answer does not come."""
    bucket = faulty()
    bucket.plan(Delay(10), key="k")
    put = asyncio.create_task(bucket.put("k", b"x"))
    await asyncio.sleep(7)
    bucket.outage = True
    with pytest.raises(Unavailable):
        await bucket.head("k")
    with pytest.raises(Unavailable):
        await put
    bucket.outage = False
    assert await keys(bucket) == ["k"]


@on_virtual_time
async def test_a_cancelled_request_is_applied_or_not_by_its_time() -> None:
    """Half of a delay comes before, half after: cancelled early nothing is applied, cancelled late all is."""
    for seconds, expected in ((4, []), (6, ["k"])):
        bucket = faulty()
        bucket.plan(Delay(10))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bucket.put("k", b"x"), seconds)
        assert await keys(bucket) == expected


@pytest.mark.parametrize("applied", [False, True])
@on_virtual_time
async def test_a_hold_keeps_what_matches_until_it_is_released(applied: bool) -> None:
    """A put that is held is not finished until the test says so; whether it is applied by then is the
    test's choice."""
    bucket = faulty()
    hold = bucket.hold(operation="put", key="k", applied=applied)
    put = asyncio.create_task(bucket.put("k", b"x"))
    await bucket.put("other", b"x")
    await hold.wait_arrived()
    await asyncio.sleep(100)
    assert not put.done()
    assert await keys(bucket) == (["k", "other"] if applied else ["other"])
    hold.release()
    await put
    await bucket.put("k", b"x")
    assert hold.arrived_count == 2
    assert bucket.requests[0] == Request("put", "other", Priority.UPLOAD)


def test_a_seed_is_one_course_of_events() -> None:
    """The same seed gives the same outcomes at the same times, another seed gives others."""
    rates = FaultRates(
        fail=0.2, throttle=0.1, lose_answer=0.2, truncate=0.1, flip_bit=0.1, delay_max_seconds=3
    )

    async def course(seed: int) -> list[str]:
        bucket = FaultyBucket(MemoryBucket(), rates=rates, seed=seed)
        events: list[str] = []

        async def work(number: int) -> None:
            key = f"{number % 5}"
            for _ in range(10):
                try:
                    await bucket.put(key, bytes([number]) * 10)
                    event = bytes((await bucket.get(key)).data).hex()
                except BucketryError as error:
                    event = str(error)
                events.append(f"{asyncio.get_running_loop().time():.9f} {number} {event}")

        await asyncio.gather(*(work(number) for number in range(10)))
        return events

    assert run_virtual(course(1)) == run_virtual(course(1))
    assert run_virtual(course(1)) != run_virtual(course(2))


@on_virtual_time
async def test_a_stale_listing_shows_the_store_as_it_was_when_it_began() -> None:
    """What is put and deleted while a stale listing is under way is not seen in it; a usual one sees it."""
    for stale, expected in ((1.0, ["a", "b"]), (0.0, ["b", "c"])):
        bucket = FaultyBucket(
            MemoryBucket(), rates=FaultRates(stale_list=stale, delay_min_seconds=2.0, delay_max_seconds=2.0)
        )
        async with asyncio.TaskGroup() as group:
            for key in "ab":
                group.create_task(bucket.put(key, b"x"))
        listing = asyncio.create_task(keys(bucket))
        await asyncio.sleep(0.5)
        bucket.rates = FaultRates()
        await bucket.put("c", b"x")
        await bucket.delete("a")
        assert await listing == expected


@on_virtual_time
async def test_a_stall_is_a_delay_on_top() -> None:
    """With ``stall`` 1 every request takes longer than the usual delay, by up to the time given."""
    rates = FaultRates(delay_min_seconds=1.0, delay_max_seconds=1.0, stall=1.0, stall_max_seconds=8.0)
    bucket = FaultyBucket(MemoryBucket(), rates=rates)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bucket.put("a", b"x")
    assert 1.0 < loop.time() - began <= 9.0
