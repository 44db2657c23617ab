"""A lease is taken by one, renewed while it is held, and its holder stops before another may have it; on
virtual time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket, IfAbsent
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.retrying import Retrying
from bucketry.core.lease import DURATION_SECONDS, RENEW_SECONDS, SAFE_SECONDS, Holder, Timing
from bucketry.core.names import LEASE_NAME
from bucketry.disk.lease_keeper import LeaseKeeper, read_lease
from bucketry.disk.turn import wait_for_turn
from bucketry.errors import Busy, Corrupt, Fenced, Unsupported
from bucketry.settings import Patience, RetrySettings
from bucketry.testing.faulty_bucket import FaultyBucket
from bucketry.testing.virtual_time import on_virtual_time
from disk.hosts import Host

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def holder(name: str) -> Holder:
    return Holder(host=name, boot_id=f"boot of {name}", pid=1, start_time=1, token=5)


def utc_now() -> datetime:
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def keeper(bucket: Bucket, name: str, lost: list[Fenced] | None = None) -> LeaseKeeper:
    return LeaseKeeper(
        bucket, "vol/", holder(name), utc_now=utc_now, on_lost=None if lost is None else lost.append
    )


@on_virtual_time
async def test_one_holds_it_and_gives_it_back() -> None:
    """Taken, renewed in time, refused to others, released; each taking has the next epoch."""
    bucket = MemoryBucket(MemoryStore())
    one, two = keeper(bucket, "one"), keeper(bucket, "two")
    await one.take()
    assert one.previous is None
    await asyncio.sleep(10 * DURATION_SECONDS)
    one.check()
    with pytest.raises(Busy, match="process 1 on one since 2026-11-21T12:00:00Z"):
        await two.take()
    await one.release()
    await two.take()
    assert (one.previous, two.epoch) == (None, 2)
    assert two.previous is not None
    assert two.previous.epoch == 1
    await two.release()


@on_virtual_time
async def test_of_several_that_take_it_at_once_one_wins() -> None:
    """A free lease is not taken twice."""
    bucket = MemoryBucket(MemoryStore())
    keepers = [keeper(bucket, f"host {n}") for n in range(5)]
    outcomes = await asyncio.gather(*(one.take() for one in keepers), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Busy"] * 4 + ["NoneType"]
    for one in keepers:
        await one.release()


@pytest.mark.logs("could not be renewed", "is held again")
@on_virtual_time
async def test_a_holder_that_cannot_renew_stops_and_goes_on_afterwards() -> None:
    """From SAFE_SECONDS after the last renewal the fence is shut; when renewing works again it opens."""
    bucket = FaultyBucket(MemoryBucket(MemoryStore()))
    one = keeper(bucket, "one")
    await one.take()
    bucket.outage = True
    await asyncio.sleep(SAFE_SECONDS - RENEW_SECONDS)
    one.check()
    await asyncio.sleep(RENEW_SECONDS + 1)
    with pytest.raises(Fenced, match="could not be renewed"):
        one.check()
    assert one.statistics()["state"] == "overdue"
    bucket.outage = False
    await asyncio.sleep(RENEW_SECONDS + 1)
    one.check()
    await one.release()


@pytest.mark.logs("could not be renewed", "waiting up to", "taking over the lease", "taken the volume over")
@on_virtual_time
async def test_a_dead_holders_lease_is_taken_after_watching_it_and_he_had_stopped() -> None:
    """Another takes it when it has not been renewed for its duration; at that moment the old holder has long
    been fenced, and later he learns that he has lost it."""
    store, lost = MemoryStore(), list[Fenced]()
    cut_off = FaultyBucket(MemoryBucket(store))
    one, two = keeper(cut_off, "one", lost), keeper(MemoryBucket(store), "two")
    await one.take()
    cut_off.outage = True
    await asyncio.sleep(DURATION_SECONDS + 1)
    began = asyncio.get_running_loop().time()
    await two.take(await wait_for_turn(MemoryBucket(store), "vol/", Host("two"), Patience(), Timing()))
    assert asyncio.get_running_loop().time() - began >= DURATION_SECONDS
    with pytest.raises(Fenced):
        one.check()
    cut_off.outage = False
    await asyncio.sleep(2 * RENEW_SECONDS)
    assert len(lost) == 1
    assert one.statistics()["state"] == "lost"
    await one.release()
    two.check()
    lease, _ = await read_lease(MemoryBucket(store), "vol/")
    assert lease is not None
    assert lease.holder == holder("two")
    await two.release()


@pytest.mark.logs("waiting up to")
@on_virtual_time
async def test_a_holder_that_only_seemed_gone_keeps_it() -> None:
    """A clock that is hours ahead makes a live holder look dead; watching his lease shows that he is not."""
    bucket = MemoryBucket(MemoryStore())
    one = keeper(bucket, "one")
    await one.take()
    hasty = Host("two", ahead=timedelta(hours=5))
    with pytest.raises(Busy):
        await wait_for_turn(bucket, "vol/", hasty, Patience(), Timing())
    one.check()
    await one.release()


@pytest.mark.logs("taking over the lease", "taken the volume over")
@on_virtual_time
async def test_force_takes_it_at_once() -> None:
    """By force nobody is watched; the old holder finds out when he renews."""
    bucket, lost = MemoryBucket(MemoryStore()), list[Fenced]()
    one, two = keeper(bucket, "one", lost), keeper(bucket, "two")
    await one.take()
    await two.take(patience=Patience(force=True))
    await asyncio.sleep(RENEW_SECONDS + 1)
    assert len(lost) == 1
    with pytest.raises(Fenced, match="taken the volume over"):
        one.check()
    await one.release()
    await two.release()


@pytest.mark.logs("does not keep to the condition of a put")
@pytest.mark.parametrize("refuses", [False, True])
@on_virtual_time
async def test_a_store_without_conditions_is_noticed(refuses: bool) -> None:
    """Where the store passes over conditions, or refuses them, that is said, and the lease is kept by looking
    before putting."""

    class Careless(MemoryBucket):
        async def put(self, key: str, data: object, *, condition: object = None, **rest: object) -> str:
            if refuses and condition is not None:
                raise Unsupported("no conditions here")
            return await super().put(key, data, **rest)  # type: ignore[arg-type]

    bucket = Careless(MemoryStore())
    one, two = keeper(bucket, "one"), keeper(bucket, "two")
    await one.take()
    await one.probe()
    assert not one.conditional
    await asyncio.sleep(3 * RENEW_SECONDS)
    one.check()
    with pytest.raises(Busy):
        await two.take()
    await one.release()
    await two.take()
    await two.release()


@on_virtual_time
async def test_a_lease_that_cannot_be_read_is_not_free() -> None:
    """Damage stops everybody, until somebody looks."""
    bucket = MemoryBucket(MemoryStore())
    await bucket.put("vol/" + LEASE_NAME, b"{}", condition=IfAbsent())
    with pytest.raises(Corrupt, match=LEASE_NAME):
        await keeper(bucket, "one").take()


@on_virtual_time
async def test_a_shut_fence_lets_reads_through_and_nothing_else() -> None:
    """What the fence raises, every change raises, and the store is not touched."""
    store, fence = MemoryStore(), Fence()
    bucket = FencedBucket(MemoryBucket(store), fence)
    await bucket.put("a", b"1")

    def shut() -> None:
        raise Fenced("not now")

    fence.guard_with(shut)
    for change in (bucket.put("a", b"2"), bucket.delete("a"), bucket.delete_many(["a"])):
        with pytest.raises(Fenced):
            await change
    assert bytes((await bucket.get("a")).data) == b"1"
    fence.guard_with(None)
    await bucket.delete("a")
    assert not store.objects


@pytest.mark.logs("could not be renewed", "trying again")
@on_virtual_time
async def test_a_renewal_whose_answer_never_came_is_no_loss() -> None:
    """It was applied, the attempts ended without an answer: the next renewal finds the lease its own."""
    store = FaultyBucket(MemoryBucket(MemoryStore()))
    lost: list[Fenced] = []
    one = keeper(Retrying(store, RetrySettings(budget_seconds=2.0)), "one", lost)
    await one.take()
    hold = store.hold(operation="put", applied=True)
    await hold.wait_arrived()
    store.outage = True
    hold.release()
    await asyncio.sleep(RENEW_SECONDS)
    store.outage = False
    await asyncio.sleep(2 * RENEW_SECONDS)
    assert not lost
    one.check()
    await one.release()


@on_virtual_time
async def test_a_renewal_under_way_does_not_keep_the_lease_from_being_given_back() -> None:
    """The renewal is applied, its answer still on its way: the lease is free all the same."""
    bucket = FaultyBucket(MemoryBucket(MemoryStore()))
    one, two = keeper(bucket, "one"), keeper(bucket, "two")
    await one.take()
    hold = bucket.hold(operation="put", key="vol/" + LEASE_NAME, applied=True)
    await hold.wait_arrived()
    releasing = asyncio.create_task(one.release())
    await asyncio.sleep(0)
    hold.release()
    await releasing
    await two.take()
    await two.release()
