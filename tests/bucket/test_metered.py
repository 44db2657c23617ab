"""The metered bucket against a plain count of what was done."""

import asyncio
from collections import Counter

import pytest

from bucketry.bucket.interface import IfAbsent
from bucketry.bucket.memory import MemoryBucket
from bucketry.bucket.metered import OPERATIONS, Metered
from bucketry.bucket.retrying import Retrying
from bucketry.errors import AlreadyExists, BucketryError, NotFound, Throttled, Unavailable
from bucketry.settings import RetrySettings
from bucketry.testing.faulty_bucket import Delay, Fail, FaultRates, FaultyBucket, LoseAnswer, Throttle
from bucketry.testing.virtual_time import on_virtual_time


def metered(below: FaultyBucket) -> Metered:
    return Metered(below, now=asyncio.get_running_loop().time)


def figures(bucket: Metered | Retrying) -> dict[str, object]:
    found = bucket.statistics()["metered"]
    assert isinstance(found, dict)
    return found


def operation(bucket: Metered | Retrying, name: str) -> dict[str, object]:
    operations = figures(bucket)["operations"]
    assert isinstance(operations, dict)
    found = operations[name]
    assert isinstance(found, dict)
    return found


@on_virtual_time
async def test_every_verb_is_counted_once_with_its_bytes() -> None:
    """Counts, bytes and errors of a walk through all verbs are exact, and nothing is in flight after it."""
    bucket = metered(FaultyBucket(MemoryBucket()))
    for number in range(3):
        await bucket.put(f"{number}", bytes(100))
    await bucket.get("0")
    await bucket.head("0")
    await bucket.delete("0")
    await bucket.delete_many(["1"])
    assert [len(page) async for page in bucket.list()] == [1]
    with pytest.raises(NotFound):
        await bucket.get("0")
    with pytest.raises(AlreadyExists):
        await bucket.put("2", bytes(7), condition=IfAbsent())
    upload_id = await bucket.create_upload("up", part_size_bytes=50)
    parts = [await bucket.put_part("up", upload_id, number, bytes(50)) for number in (1, 2)]
    assert [len(page) async for page in bucket.list_uploads()] == [1]
    assert [len(page) async for page in bucket.list_parts("up", upload_id)] == [2]
    await bucket.complete_upload("up", upload_id, parts)
    await bucket.abort_upload("up", upload_id)
    seen = {name: operation(bucket, name) for name in OPERATIONS}
    assert {name: meter["count"] for name, meter in seen.items()} == {
        "head": 1,
        "get": 2,
        "put": 4,
        "delete": 1,
        "delete_many": 1,
        "list": 2,  # the page, and the answer that there are no more
        "create_upload": 1,
        "put_part": 2,
        "complete_upload": 1,
        "abort_upload": 1,
        "list_uploads": 2,
        "list_parts": 2,
    }
    assert {name: meter["bytes"] for name, meter in seen.items() if meter["bytes"]} == {
        "get": 100,
        "put": 300,
        "put_part": 100,
    }
    assert {name: meter["errors"] for name, meter in seen.items() if meter["errors"]} == {
        "get": {"NotFound": 1},
        "put": {"AlreadyExists": 1},
    }
    assert figures(bucket)["in_flight"] == 0
    assert figures(bucket)["in_flight_peak"] == 1


@on_virtual_time
async def test_counts_are_exact_under_faults_and_cancellation() -> None:
    """Of many requests that succeed, fail or are cancelled in any order, each is counted where it belongs."""
    rates = FaultRates(fail=0.1, throttle=0.1, lose_answer=0.1, delay_min_seconds=0.5, delay_max_seconds=5)
    below = FaultyBucket(MemoryBucket(), rates=rates, seed=3)
    bucket = metered(below)
    tasks = [asyncio.create_task(bucket.put(f"{number}", bytes(10))) for number in range(300)]
    await asyncio.sleep(2)
    assert figures(bucket)["in_flight"] == sum(not task.done() for task in tasks)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.wait(tasks)
    errors = Counter(
        type(error).__name__ for task in tasks if not task.cancelled() and (error := task.exception())
    )
    cancelled = sum(task.cancelled() for task in tasks)
    seen = operation(bucket, "put")
    assert len(errors) == 2
    assert cancelled > 0
    assert seen["errors"] == dict(errors)
    assert seen["cancelled"] == cancelled
    assert seen["succeeded"] == 300 - cancelled - errors.total()
    assert seen["count"] == 300
    assert seen["bytes"] == 10 * (300 - cancelled - errors.total())
    latency = seen["latency"]
    assert isinstance(latency, dict)
    assert latency["count"] == 300 - cancelled
    assert 0.5 <= latency["p50_seconds"] <= latency["p99_seconds"] <= latency["max_seconds"] <= 5
    assert figures(bucket)["in_flight"] == 0


@on_virtual_time
async def test_the_peak_stays_when_the_requests_have_gone() -> None:
    """Five requests of two kinds at once are seen as five, then and later."""
    below = FaultyBucket(MemoryBucket())
    hold = below.hold()
    bucket = metered(below)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(bucket.put(f"{number}", b"x"))
        for number in range(2):
            group.create_task(bucket.delete(f"{number}"))
        await hold.wait_arrived(5)
        assert (figures(bucket)["in_flight"], figures(bucket)["in_flight_peak"]) == (5, 5)
        hold.release()
    await bucket.put("k", b"x")
    assert (figures(bucket)["in_flight"], figures(bucket)["in_flight_peak"]) == (0, 5)


@pytest.mark.logs("trying again in")
@on_virtual_time
async def test_below_the_retrying_one_attempts_are_counted() -> None:
    """A request that is tried three times is three requests, two of them errors."""
    below = FaultyBucket(MemoryBucket())
    below.plan(LoseAnswer(), operation="put")
    below.plan(Throttle(1.0), operation="put")
    bucket = Retrying(metered(below), RetrySettings())
    await bucket.put("k", bytes(10))
    seen = operation(bucket, "put")
    assert seen["count"] == 3
    assert seen["errors"] == {Unavailable.__name__: 1, Throttled.__name__: 1}
    assert seen["bytes"] == 10


@on_virtual_time
async def test_latency_is_the_time_of_the_request() -> None:
    """A request that took 3 s is seen as 3 s, whether it failed or not."""
    below = FaultyBucket(MemoryBucket())
    below.plan(Delay(3.0), operation="head")
    bucket = metered(below)
    with pytest.raises(NotFound):
        await bucket.head("k")
    latency = operation(bucket, "head")["latency"]
    assert isinstance(latency, dict)
    assert (latency["count"], latency["max_seconds"], latency["p50_seconds"]) == (1, 3.0, 3.0)


@on_virtual_time
async def test_what_lies_below_keeps_its_figures() -> None:
    """Statistics of the bucket below are still there, under their own names."""
    bucket = metered(FaultyBucket(MemoryBucket()))
    assert set(bucket.statistics()) > {"metered", "faulty"}


@pytest.mark.parametrize("error", [Unavailable, NotFound])
@on_virtual_time
async def test_a_listing_that_fails_is_one_failed_request(error: type[BucketryError]) -> None:
    """The error of a page is counted and passed on."""
    below = FaultyBucket(MemoryBucket())
    below.plan(Fail(error))
    bucket = metered(below)
    with pytest.raises(error):
        await anext(aiter(bucket.list()))
    assert operation(bucket, "list")["errors"] == {error.__name__: 1}
