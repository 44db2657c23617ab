"""The retrying bucket over a faulty one, on virtual time."""

import asyncio
import logging
from random import Random

import pytest

from bucketry.bucket.interface import Attributes, ByteRange, Condition, IfAbsent, IfMatch
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.retrying import PUT_ID, Retrying
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Closed,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unsupported,
    UploadGone,
)
from bucketry.settings import RetrySettings
from bucketry.testing.faulty_bucket import Fail, Fault, FaultyBucket, LoseAnswer, Throttle
from bucketry.testing.virtual_time import on_virtual_time

SETTINGS = RetrySettings(initial_pause_seconds=1, pause_max_seconds=10, budget_seconds=60)
RETRIED: list[Fault] = [Fail(Unavailable), Fail(Throttled), Fail(Corrupt), Throttle(2.0), LoseAnswer()]

pytestmark = pytest.mark.logs("trying again in", required=False)


def faulty(store: MemoryStore | None = None) -> FaultyBucket:
    return FaultyBucket(MemoryBucket(store))


def retrying(below: FaultyBucket, settings: RetrySettings = SETTINGS) -> Retrying:
    return Retrying(below, settings, random=Random(1))


async def walk(bucket: Retrying) -> None:
    """Every verb once or more, with what it must answer."""
    first = await bucket.put("a", b"one", attributes=Attributes(metadata={"m": "1"}), condition=IfAbsent())
    with pytest.raises(AlreadyExists):
        await bucket.put("a", b"other", condition=IfAbsent())
    second = await bucket.put("a", b"two", condition=IfMatch(first))
    assert second != first
    with pytest.raises(PreconditionFailed):
        await bucket.put("a", b"other", condition=IfMatch(first))
    await bucket.put("b", b"12345", attributes=Attributes(content_encoding="deflate"))
    assert (await bucket.head("b")).attributes.content_encoding == "deflate"
    assert (await bucket.get("a")).data == b"two"
    assert (await bucket.get("b", byte_range=ByteRange(1, 3))).data == b"23"
    assert [entry.key async for page in bucket.list() for entry in page] == ["a", "b"]
    upload_id = await bucket.create_upload("up", part_size_bytes=2)
    parts = [await bucket.put_part("up", upload_id, number, data) for number, data in ((1, b"12"), (2, b"3"))]
    assert [part async for page in bucket.list_parts("up", upload_id) for part in page] == parts
    known = [u async for page in bucket.list_uploads() for u in page if u.upload_id == upload_id]
    assert [upload.key for upload in known] == ["up"]
    third = await bucket.complete_upload("up", upload_id, parts, condition=IfAbsent())
    assert (await bucket.head("up")).etag == third
    await bucket.abort_upload("up", upload_id)
    await bucket.delete("a")
    await bucket.delete_many(iter(["b", "c", "up"]))
    assert [page async for page in bucket.list() if page] == []
    with pytest.raises(NotFound):
        await bucket.get("a")


@pytest.mark.parametrize("fault", RETRIED, ids=repr)
def test_a_single_fault_anywhere_changes_nothing_for_the_caller(fault: Fault) -> None:
    """Whichever request of a walk through all verbs fails once, the walk goes as if nothing had happened."""

    @on_virtual_time
    async def requests_of_walk(skip: int) -> tuple[int, int]:
        below = faulty()
        below.plan(fault, skip=skip)
        bucket = retrying(below)
        await walk(bucket)
        retries = bucket.statistics()["retrying"]
        assert isinstance(retries, dict)
        return len(below.requests), retries["retries"]

    without_fault, none = requests_of_walk(10_000)
    assert none == 0
    for position in range(without_fault):
        requests, retries = requests_of_walk(position)
        assert retries == 1
        assert requests > without_fault


@on_virtual_time
async def test_two_lost_answers_in_a_row_do_not_hide_our_own_success() -> None:
    """The answer of the put gets lost, then that of the read-back: the put still succeeds with the object's
    ETag."""
    below = faulty()
    below.plan(LoseAnswer(), operation="put")
    below.plan(LoseAnswer(), operation="head")
    etag = await retrying(below).put("k", b"ours", condition=IfAbsent())
    assert [request.operation for request in below.requests] == ["put", "put", "head", "head"]
    assert etag == (await below.head("k")).etag


@pytest.mark.parametrize("lost_count", [1, 2, 3])
@on_virtual_time
async def test_lost_answers_do_not_hide_a_completed_upload(lost_count: int) -> None:
    """The upload was completed and nobody told us: the next attempt finds it gone, reads back, and
    succeeds."""
    below = faulty()
    bucket = retrying(below)
    upload_id = await bucket.create_upload("k", part_size_bytes=4)
    part = await bucket.put_part("k", upload_id, 1, b"ours")
    below.plan(LoseAnswer(), operation="complete_upload", times=lost_count)
    etag = await bucket.complete_upload("k", upload_id, [part], condition=IfAbsent())
    assert etag == (await below.head("k")).etag
    assert PUT_ID not in (await bucket.head("k")).attributes.metadata


@on_virtual_time
async def test_an_upload_that_somebody_ended_is_not_taken_for_ours() -> None:
    """The answer got lost, and the object that is there is somebody else's: the upload is gone. So it is when
    nothing is there, and when this program did not begin the upload."""
    for theirs in (True, False):
        store = MemoryStore()
        below = faulty(store)
        bucket = retrying(below)
        upload_id = await bucket.create_upload("k", part_size_bytes=4)
        part = await bucket.put_part("k", upload_id, 1, b"ours")
        hold = below.hold(operation="complete_upload")
        below.plan(Fail(), operation="complete_upload")
        completion = asyncio.create_task(bucket.complete_upload("k", upload_id, [part]))
        await hold.wait_arrived()
        await MemoryBucket(store).abort_upload("k", upload_id)
        if theirs:
            await MemoryBucket(store).put("k", b"theirs")
        hold.release()
        with pytest.raises(UploadGone):
            await completion
    below = faulty()
    begun = retrying(below)
    upload_id = await begun.create_upload("k", part_size_bytes=4)
    part = await begun.put_part("k", upload_id, 1, b"ours")
    below.plan(LoseAnswer(), operation="complete_upload")
    with pytest.raises(UploadGone):
        await retrying(below).complete_upload("k", upload_id, [part], condition=IfAbsent())
    assert (await below.get("k")).data == b"ours"


@on_virtual_time
async def test_a_conflict_whose_answer_got_lost_stays_a_conflict() -> None:
    """The first attempt met a competitor's object, its answer got lost, and the second says so."""
    for condition, conflict in ((IfAbsent(), AlreadyExists), (IfMatch('"none"'), PreconditionFailed)):
        below = faulty()
        await below.put("k", b"theirs", attributes=Attributes(metadata={PUT_ID: "theirs"}))
        below.plan(LoseAnswer(), operation="put")
        with pytest.raises(conflict):
            await retrying(below).put("k", b"ours", condition=condition)
        assert (await below.get("k")).data == b"theirs"


@pytest.mark.parametrize("condition_is_absent", [True, False])
def test_of_two_competitors_with_lost_answers_exactly_one_wins(condition_is_absent: bool) -> None:
    """Two conditional puts race, and either's answer gets lost at any attempt: the winner is the one whose
    bytes are there."""

    @on_virtual_time
    async def race(lost_by_ours: int, lost_by_theirs: int) -> None:
        store = MemoryStore()
        condition: Condition = IfAbsent()
        if not condition_is_absent:
            condition = IfMatch(await MemoryBucket(store).put("k", b"before"))
        sides = {b"ours": faulty(store), b"theirs": faulty(store)}
        sides[b"ours"].plan(LoseAnswer(), operation="put", times=lost_by_ours)
        sides[b"theirs"].plan(LoseAnswer(), operation="put", times=lost_by_theirs)
        outcomes = await asyncio.gather(
            *(
                Retrying(side, SETTINGS, random=Random(seed)).put("k", data, condition=condition)
                for seed, (data, side) in enumerate(sides.items())
            ),
            return_exceptions=True,
        )
        won = [data for data, outcome in zip(sides, outcomes, strict=True) if isinstance(outcome, str)]
        assert won == [(await MemoryBucket(store).get("k")).data]
        lost = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        assert [type(error) for error in lost] == [
            AlreadyExists if condition_is_absent else PreconditionFailed
        ]

    for lost_by_ours in range(3):
        for lost_by_theirs in range(3):
            race(lost_by_ours, lost_by_theirs)


@on_virtual_time
async def test_a_conflict_is_not_read_back_when_no_answer_got_lost() -> None:
    """A conflict on the first attempt is the answer, and costs no further request."""
    below = faulty()
    await below.put("k", b"theirs")
    with pytest.raises(AlreadyExists):
        await retrying(below).put("k", b"ours", condition=IfAbsent())
    assert [request.operation for request in below.requests] == ["put", "put"]


@on_virtual_time
async def test_an_object_that_went_before_it_was_read_back_is_a_conflict() -> None:
    """Ours or not can't be known then; the safe side is to report the conflict."""
    below = faulty()
    below.plan(LoseAnswer(), operation="put")
    hold = below.hold(operation="head")
    put = asyncio.create_task(retrying(below).put("k", b"ours", condition=IfAbsent()))
    await hold.wait_arrived()
    await below.delete("k")
    hold.release()
    with pytest.raises(AlreadyExists):
        await put


@on_virtual_time
async def test_the_stamp_stays_out_of_sight() -> None:
    """What is put is what head and get tell, stamp or no stamp; an unconditional put has none."""
    below = faulty()
    bucket = retrying(below)
    attributes = Attributes(content_type="text/plain", metadata={"m": "1"})
    await bucket.put("k", b"x", attributes=attributes, condition=IfAbsent())
    assert PUT_ID in (await below.head("k")).attributes.metadata
    assert (await bucket.head("k")).attributes == attributes
    assert (await bucket.get("k")).info.attributes == attributes
    await bucket.put("k", b"x", attributes=attributes)
    assert (await below.head("k")).attributes == attributes


@pytest.mark.parametrize(
    "error", [Denied, BucketNotFound, NotFound, Invalid, Unsupported, Closed, AlreadyExists]
)
@on_virtual_time
async def test_an_answer_is_not_asked_for_twice(error: type[BucketryError]) -> None:
    """What will not be better later is raised at once, as it is."""
    below = faulty()
    below.plan(Fail(error))
    with pytest.raises(error, match=r"on purpose$"):
        await retrying(below).get("k")
    assert len(below.requests) == 1


@on_virtual_time
async def test_an_outage_within_the_budget_goes_unnoticed() -> None:
    """The store comes back after 50 s: the put succeeds, and soon after."""
    below = faulty()
    below.outage = True
    loop = asyncio.get_running_loop()
    loop.call_later(50, setattr, below, "outage", False)
    await retrying(below).put("k", b"x")
    assert 50 <= loop.time() <= 60
    assert (await below.get("k")).data == b"x"


@on_virtual_time
async def test_the_budget_ends_with_the_last_error_and_the_story() -> None:
    """Attempts go on until the end of the budget; the message tells how many, and how long."""
    below = faulty()
    below.plan(Fail(Unavailable), times=1000)
    below.plan(Throttle(7.0), times=1000)
    with pytest.raises(Unavailable) as caught:
        await retrying(below).delete("k")
    assert str(caught.value) == (
        f"delete 'k': failed on purpose (tried {len(below.requests)} times over 60 s)"
    )
    assert asyncio.get_running_loop().time() == pytest.approx(60)


@on_virtual_time
async def test_the_store_is_given_the_time_it_asks_for_up_to_the_budget() -> None:
    """Retry-After is waited for; a store that asks for a year gets the rest of the budget, then the error."""
    below = faulty()
    below.plan(Throttle(20.0))
    loop = asyncio.get_running_loop()
    await retrying(below).delete("k")
    assert 20 <= loop.time() <= 21
    started = loop.time()
    below.plan(Throttle(3e7), times=1000)
    with pytest.raises(Throttled, match=r"tried 2 times over 60 s") as caught:
        await retrying(below).delete("k")
    assert caught.value.retry_after_seconds == 3e7
    assert loop.time() - started == pytest.approx(60)


@on_virtual_time
async def test_a_body_cut_on_the_way_is_asked_for_again_but_not_for_long() -> None:
    """Two damaged answers are forgiven, the third is believed."""
    below = faulty()
    await below.put("k", b"x")
    below.plan(Fail(Corrupt), operation="get", times=2)
    assert (await retrying(below).get("k")).data == b"x"
    below.plan(Fail(Corrupt), operation="get", times=3)
    with pytest.raises(Corrupt, match="tried 3 times"):
        await retrying(below).get("k")


@on_virtual_time
async def test_a_listing_goes_on_where_it_was() -> None:
    """Whichever pages fail, every key comes once and in order, and each page has a budget of its own."""
    keys = [f"{number:04}" for number in range(2500)]
    for failing in range(4):
        store = MemoryStore()
        for key in keys:
            await MemoryBucket(store).put(key, b"")
        below = faulty(store)
        below.plan(Fail(), operation="list", skip=failing, times=3)
        listed = [entry.key async for page in retrying(below).list(after="0004") for entry in page]
        assert listed == keys[5:]


@on_virtual_time
async def test_each_page_of_a_listing_has_a_budget_of_its_own() -> None:
    """A listing whose pages each need 40 s of patience goes through, though all together need more than the
    budget."""
    store = MemoryStore()
    for number in range(2500):
        await MemoryBucket(store).put(f"{number:04}", b"")
    below = faulty(store)
    for position in (0, 2, 4):  # a page and its failure, in turn
        below.plan(Throttle(40.0), operation="list", skip=position)
    page_sizes = [len(page) async for page in retrying(below).list()]
    assert page_sizes == [1000, 1000, 500]
    assert asyncio.get_running_loop().time() >= 120


@on_virtual_time
async def test_cancellation_ends_a_pause_and_an_attempt_at_once() -> None:
    """A cancelled request makes no further attempt."""
    below = faulty()
    below.plan(Fail(), times=1000)
    task = asyncio.create_task(retrying(below).get("k"))
    await asyncio.sleep(5)
    attempts = len(below.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() == 5
    await asyncio.sleep(100)
    assert len(below.requests) == attempts


@pytest.mark.logs("get 'k': attempt 1 failed, trying again in")
def test_each_retry_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One WARNING for each further attempt, with key, attempt and pause."""

    @on_virtual_time
    async def twice_failed() -> None:
        below = faulty()
        await below.put("k", b"x")
        below.plan(Fail(), operation="get", times=2)
        await retrying(below).get("k")

    twice_failed()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(",")[0] for message in messages] == [
        "get 'k': attempt 1 failed",
        "get 'k': attempt 2 failed",
    ]
