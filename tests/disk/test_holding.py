"""Who holds a volume is told, and the volume can be taken from him."""

import asyncio
from dataclasses import replace

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.core import lease as rules
from bucketry.core.lease import Holder, Lease
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME
from bucketry.disk import holding
from bucketry.disk.holding import Place
from bucketry.disk.machine import ThisMachine, this_process
from bucketry.errors import Busy, Corrupt, Fenced, Unavailable, Unfinished
from bucketry.settings import Patience
from bucketry.testing.faulty_bucket import Fail, FaultyBucket, LoseAnswer
from bucketry.testing.virtual_time import on_virtual_time

ELSEWHERE = Holder(host="elsewhere", boot_id="another", pid=7, start_time=1, token=0x1234)
LEASE = Lease(epoch=3, holder=ELSEWHERE, taken="2026-11-21T19:38:00Z", renewed="2026-11-21T19:39:00Z")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class OnVirtualTime(ThisMachine):
    """This machine, on the loop's clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


@pytest.fixture
def place(store: MemoryStore) -> Place:
    bucket = MemoryBucket(store)
    return Place(bucket, bucket, Fence(), "vol/", "bucket/vol/", OnVirtualTime())


async def put_lease(place: Place, lease: Lease) -> None:
    await place.bucket.put("vol/" + LEASE_NAME, rules.encode(lease))


async def test_nobody_holds_a_volume_without_lease_and_token(place: Place, store: MemoryStore) -> None:
    """Unlocking it does nothing at all."""
    assert (await holding.look(place)).holder is None
    assert await holding.unlock(place) is None
    assert store.objects == {}


async def test_a_released_lease_is_nobodys(place: Place) -> None:
    """Its epoch stays and is told."""
    await put_lease(place, replace(LEASE, holder=None))
    found = await holding.look(place)
    assert found.holder is None
    assert found.lease is not None
    assert found.lease.epoch == 3


@pytest.mark.logs("taking over the lease", "taken over from")
@on_virtual_time
async def test_unlocking_takes_lease_and_token_and_leaves_both_free(place: Place) -> None:
    """Whoever held them is told; the epoch counts up, so that he finds out."""
    await put_lease(place, LEASE)
    await place.bucket.put("vol/" + MOUNT_TOKEN_NAME, b"elsewhere\n20261121T193800Z\n")
    who = await holding.unlock(place, seen=await holding.look(place))
    assert who is not None
    assert who.startswith("process 7 on elsewhere since 2026-11-21T19:38:00Z")
    after = await holding.look(place)
    assert (after.holder, after.token) == (None, None)
    assert after.lease is not None
    assert after.lease.epoch == 4


async def test_a_token_without_a_lease_is_told_and_unlocked(place: Place) -> None:
    """It is an s3backer's."""
    await place.bucket.put("vol/" + MOUNT_TOKEN_NAME, b"old\n20260101T000000Z\n")
    assert await holding.unlock(place) == "old since 20260101T000000Z"
    assert (await holding.look(place)).holder is None


async def test_a_volume_that_somebody_else_took_meanwhile_is_not_unlocked(place: Place) -> None:
    """The yes was about another holder. One that merely renewed is still the same."""
    await put_lease(place, LEASE)
    seen = await holding.look(place)
    await put_lease(place, replace(LEASE, epoch=4, holder=replace(ELSEWHERE, host="third")))
    with pytest.raises(Busy, match="on third"):
        await holding.unlock(place, seen=seen)
    await put_lease(place, replace(LEASE, renewed="2026-11-21T20:00:00Z"))
    assert (await holding.look(place)).is_of_the_same_as(seen)


async def test_a_holder_of_this_machine_that_has_ended_is_told_as_such(place: Place) -> None:
    """The next who attaches here need not unlock it."""
    me = this_process(1)
    await put_lease(place, replace(LEASE, holder=me))
    assert not (await holding.look(place)).has_ended
    await put_lease(place, replace(LEASE, holder=replace(me, start_time=me.start_time + 1)))
    found = await holding.look(place)
    assert found.has_ended
    assert "has ended" in str(found.holder)


async def test_a_lease_that_cannot_be_understood_is_not_taken_for_free(place: Place) -> None:
    """Neither looking nor unlocking passes over it."""
    await place.bucket.put("vol/" + LEASE_NAME, b"{}")
    with pytest.raises(Corrupt, match="lease"):
        await holding.look(place)
    with pytest.raises(Corrupt, match="lease"):
        await holding.unlock(place)


class Survivor(OnVirtualTime):
    """A machine all of whose former processes have ended."""

    def has_ended(self, holder: Holder) -> bool:
        return True


@on_virtual_time
async def test_a_token_is_not_deleted_by_whom_it_may_not_belong_to_any_more() -> None:
    """Between the look at it and the deletion the lease ended: somebody else's may be there by now."""
    bucket, fence = FaultyBucket(MemoryBucket(MemoryStore())), Fence()
    place = Place(FencedBucket(bucket, fence), bucket, fence, "vol/", "bucket/vol/", Survivor())

    is_held, release = asyncio.Event(), asyncio.Event()

    async def hold_and_release() -> None:
        async with holding.held(place, Patience()):
            is_held.set()
            await release.wait()

    holder = asyncio.create_task(hold_and_release())
    await is_held.wait()
    looked = bucket.hold(operation="get", key="vol/" + MOUNT_TOKEN_NAME, applied=True)
    release.set()
    await looked.wait_arrived()
    await asyncio.sleep(rules.SAFE_SECONDS + 1)
    looked.release()
    with pytest.raises(Fenced):
        await holder
    assert (await holding.look(place)).token is not None


@pytest.mark.logs("taking over the lease")
async def test_a_token_that_was_put_without_an_answer_locks_nobody_out() -> None:
    """Whoever could not find out whether his token is there leaves the lease that says that it is his: the
    next one takes both."""
    bucket = FaultyBucket(MemoryBucket(MemoryStore()))
    place = Place(bucket, bucket, Fence(), "vol/", "bucket/vol/", Survivor())
    bucket.plan(LoseAnswer(), operation="put", key="vol/" + MOUNT_TOKEN_NAME)
    with pytest.raises(Unavailable):
        async with holding.held(place, Patience()):
            raise AssertionError("the volume is not ours")
    assert (await holding.look(place)).token is not None
    async with holding.held(place, Patience()):
        pass
    assert (await holding.look(place)).holder is None


@pytest.mark.logs("taking over the lease")
async def test_the_token_of_a_dead_holder_goes_though_his_successor_failed() -> None:
    """One dies; the next takes his lease and cannot put his token; the third takes lease and token."""
    bucket = FaultyBucket(MemoryBucket(MemoryStore()))
    place = Place(bucket, bucket, Fence(), "vol/", "bucket/vol/", Survivor())
    with pytest.raises(Unfinished):
        async with holding.held(place, Patience()):
            raise Unfinished("dies")
    bucket.plan(Fail(), operation="put", key="vol/" + MOUNT_TOKEN_NAME)
    with pytest.raises(Unavailable):
        async with holding.held(place, Patience()):
            raise AssertionError("the volume is not ours")
    async with holding.held(place, Patience()):
        pass
    assert (await holding.look(place)).holder is None
