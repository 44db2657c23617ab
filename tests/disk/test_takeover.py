"""A volume is taken from somebody who may be alive: nothing is written until he must have stopped, whoever he
is, and whoever comes next knows of it; on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bucketry.bucket.interface import Attributes
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.core import lease as rules
from bucketry.core.lease import DURATION_SECONDS, RATE_MARGIN, RENEW_SECONDS, SAFE_SECONDS, Lease
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME
from bucketry.disk import holding
from bucketry.disk.holding import Place
from bucketry.disk.lease_keeper import LeaseKeeper
from bucketry.errors import Busy, Fenced, Unfinished
from bucketry.layout.mount_token import METADATA_NAME
from bucketry.settings import Patience
from bucketry.testing.faulty_bucket import FaultyBucket
from bucketry.testing.virtual_time import on_virtual_time
from disk.hosts import Host, place_of

#: How long a new holder waits for one who had a lease of the usual length.
WAIT_SECONDS = RATE_MARGIN * DURATION_SECONDS
NO_FORCE, FORCE = Patience(), Patience(force=True)
TOKEN_KEY = "vol/" + MOUNT_TOKEN_NAME


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket(MemoryStore())


@asynccontextmanager
async def attached(
    place: Place, patience: Patience = NO_FORCE, lost: Callable[[Fenced], None] | None = None
) -> AsyncIterator[LeaseKeeper]:
    """Hold the volume, and leave it as a process does that is killed."""

    class Killed(Unfinished):
        pass

    try:
        async with holding.held(place, patience, on_lost=lost) as keeper:
            yield keeper
            raise Killed
    except Killed:
        pass


@asynccontextmanager
async def waiting(place: Place, patience: Patience) -> AsyncIterator["asyncio.Future[LeaseKeeper]"]:
    """Wait for the volume meanwhile, and hold it then: the keeper, once it is ours."""
    entered: asyncio.Future[LeaseKeeper] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        try:
            async with attached(place, patience) as keeper:
                entered.set_result(keeper)
                await asyncio.Event().wait()
        except Fenced as error:
            entered.set_exception(error)

    task = asyncio.ensure_future(hold())
    try:
        yield entered
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        entered.cancel()


async def stored_lease(place: Place) -> Lease:
    lease = (await holding.look(place)).lease
    assert lease is not None
    return lease


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_nothing_is_written_until_the_former_holder_must_have_stopped(bucket: MemoryBucket) -> None:
    """The new one has the lease at once, and renews it; he is let in when the longest request of the former
    holder has ended. Meanwhile the former one has found out."""
    ant, bee = place_of(bucket, Host("ant")), place_of(bucket, Host("bee"))
    lost: list[float] = []
    async with attached(ant, lost=lambda _: lost.append(now())):
        await asyncio.sleep(100.0)
        began = now()

        async def take() -> float:
            async with attached(bee, FORCE):
                return now()

        taking = asyncio.ensure_future(take())
        await asyncio.sleep(1.0)
        taken = await stored_lease(bee)
        assert taken.holder is not None
        assert taken.holder.host == "bee"
        assert taken.unsettled_seconds == WAIT_SECONDS
        await asyncio.sleep(WAIT_SECONDS / 2)
        renewed = await stored_lease(bee)
        assert renewed.renewed > taken.renewed
        assert 0 < renewed.unsettled_seconds <= WAIT_SECONDS / 2 + RENEW_SECONDS
        assert await taking == began + WAIT_SECONDS
        assert (await stored_lease(bee)).unsettled_seconds == 0
        assert lost
        assert lost[0] <= began + RENEW_SECONDS
        with pytest.raises(Fenced):
            await ant.bucket.put("vol/00000000", b"late")


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_a_former_holder_with_slow_requests_is_waited_for_as_long(bucket: MemoryBucket) -> None:
    """What his lease says counts, not what ours would."""
    slow = place_of(bucket, Host("ant"), timing=rules.timing(300.0))
    async with attached(slow):
        began = now()
        async with attached(place_of(bucket, Host("bee")), FORCE):
            assert now() == began + RATE_MARGIN * (SAFE_SECONDS + 300.0)


@pytest.mark.logs("taking over the lease")
@on_virtual_time
async def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(bucket: MemoryBucket) -> None:
    """It sends nothing any more, by force or not."""
    ended: set[int] = set()
    async with attached(place_of(bucket, Host("ant", pid=1, ended=ended))):
        pass
    ended.add(1)
    for patience in (FORCE, Patience(wait_seconds=0.0)):
        began = now()
        async with holding.held(place_of(bucket, Host("ant", pid=2, ended=ended)), patience):
            assert now() == began
        async with attached(place_of(bucket, Host("ant", pid=1, ended=ended))):
            pass


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_the_wait_ends_with_the_former_process(bucket: MemoryBucket) -> None:
    """A process of this machine that is stopped can be killed: then there is nothing more to wait for."""
    ended: set[int] = set()
    async with attached(place_of(bucket, Host("ant", pid=1, ended=ended))):
        began = now()
        asyncio.get_running_loop().call_later(20.0, ended.add, 1)
        async with attached(place_of(bucket, Host("ant", pid=2, ended=ended)), FORCE):
            assert began + 20.0 <= now() <= began + 20.0 + RENEW_SECONDS


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_whoever_takes_it_from_one_who_still_waits_waits_as_well(bucket: MemoryBucket) -> None:
    """He himself has written nothing, and ends; whom he waited for may still be writing."""
    slow = place_of(bucket, Host("ant"), timing=rules.timing(300.0))
    ended: set[int] = set()
    bee = place_of(bucket, Host("bee", pid=1, ended=ended))
    async with attached(slow):
        began = now()
        async with waiting(bee, FORCE) as entered:
            await asyncio.sleep(100.0)
            ended.add(1)
            async with attached(place_of(bucket, Host("bee", pid=2, ended=ended))):
                assert now() >= began + SAFE_SECONDS + 300.0
                assert now() <= began + RATE_MARGIN**3 * (SAFE_SECONDS + 300.0)
            with pytest.raises(Fenced):
                await entered


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_one_who_gives_up_waiting_leaves_word_of_it(bucket: MemoryBucket) -> None:
    """The volume is free then, and its lease says how long nobody may use it."""
    async with attached(place_of(bucket, Host("ant"))):
        began = now()
        bee = place_of(bucket, Host("bee"))
        async with waiting(bee, FORCE):
            await asyncio.sleep(20.0)
        left = await stored_lease(bee)
        assert left.holder is None
        assert WAIT_SECONDS - 21.0 <= left.unsettled_seconds <= WAIT_SECONDS - 19.0
        assert (await holding.look(bee)).token is None
        async with attached(place_of(bucket, Host("cow"))):
            assert began + WAIT_SECONDS <= now() <= began + RATE_MARGIN * WAIT_SECONDS
        # It is over, and nobody waits again.
        assert (await stored_lease(bee)).unsettled_seconds == 0


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_two_who_take_it_by_force_are_never_let_in_together(bucket: MemoryBucket) -> None:
    """The second takes it from the first, who waits; the first finds out, and is not let in at all."""
    async with (
        attached(place_of(bucket, Host("ant"))),
        waiting(place_of(bucket, Host("bee")), FORCE) as first,
    ):
        await asyncio.sleep(30.0)
        began = now()
        async with attached(place_of(bucket, Host("cow")), FORCE):
            assert now() >= began + DURATION_SECONDS
            with pytest.raises(Fenced):
                await first


@pytest.mark.logs("taking over the lease")
@on_virtual_time
async def test_a_host_that_is_dead_is_not_waited_for(bucket: MemoryBucket) -> None:
    """Whoever says so takes the volume at once, with force or without."""
    for patience in (Patience(old_host_is_dead=True), Patience(force=True, old_host_is_dead=True)):
        async with attached(place_of(bucket, Host("ant"))):
            began = now()
            async with holding.held(place_of(bucket, Host("bee")), patience):
                assert now() == began


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_unlocking_waits_and_leaves_nothing_to_wait_for(bucket: MemoryBucket) -> None:
    """The next one attaches at once."""
    async with attached(place_of(bucket, Host("ant"))):
        began = now()
        assert await holding.unlock(place_of(bucket, Host("bee"))) is not None
        assert now() == began + WAIT_SECONDS
        async with attached(place_of(bucket, Host("cow")), Patience(wait_seconds=0.0)):
            assert now() == began + WAIT_SECONDS


@pytest.mark.logs("taken over from")
@on_virtual_time
async def test_a_damaged_lease_may_be_somebodys(bucket: MemoryBucket) -> None:
    """Taken by force, it is waited for as one that can be read."""
    await bucket.put("vol/" + LEASE_NAME, b"{}")
    async with attached(place_of(bucket, Host("bee")), FORCE):
        assert now() == WAIT_SECONDS


@pytest.mark.logs("taking over the lease", "taken over from", "taken the volume over")
@on_virtual_time
async def test_a_token_that_a_late_request_of_the_former_holder_took_away_is_put_again(
    bucket: MemoryBucket,
) -> None:
    """His last deletion came after our put."""
    bee = place_of(bucket, Host("bee"))
    async with attached(place_of(bucket, Host("ant"))), waiting(bee, FORCE) as entered:
        await asyncio.sleep(10.0)
        await bucket.delete(TOKEN_KEY)
        keeper = await entered
        await asyncio.sleep(3 * RENEW_SECONDS)
        keeper.check()
        token = (await holding.look(bee)).token
        assert token is not None
        assert token.host == "bee"


# Waiting for one's turn.


@pytest.mark.logs("taking over the lease", "waiting up to")
@on_virtual_time
async def test_this_machine_waits_for_what_it_was_before_it_started_again(bucket: MemoryBucket) -> None:
    """A reboot takes less than a lease lasts: nobody need come and attach by hand."""
    async with attached(place_of(bucket, Host("ant", boot=1))):
        await asyncio.sleep(25.0)
    began = now()
    async with attached(place_of(bucket, Host("ant", boot=2))):
        assert began + DURATION_SECONDS <= now() <= began + WAIT_SECONDS + RENEW_SECONDS


@pytest.mark.logs("taking over the lease", "waiting up to")
@on_virtual_time
async def test_so_does_a_machine_whose_name_has_changed(bucket: MemoryBucket) -> None:
    """Since the same boot it is the same machine, whatever it is called now, in another container too."""
    async with attached(place_of(bucket, Host("ant", boot_id="0815 pid:[1]"))):
        await asyncio.sleep(25.0)
    began = now()
    async with attached(place_of(bucket, Host("bee", boot_id="0815 pid:[2]"))):
        assert began + DURATION_SECONDS <= now() <= began + WAIT_SECONDS + RENEW_SECONDS


@pytest.mark.logs("waiting up to")
@on_virtual_time
async def test_another_container_of_the_same_name_is_not_waited_for_in_vain(bucket: MemoryBucket) -> None:
    """It renews, so that it lives."""
    async with attached(place_of(bucket, Host("ant", boot=1))):
        await asyncio.sleep(RENEW_SECONDS / 2)
        began = now()
        with pytest.raises(Busy, match="in use by process 1 on ant"):
            async with attached(place_of(bucket, Host("ant", boot=2))):
                raise AssertionError("it is in use")
        assert now() <= began + 2 * RENEW_SECONDS


@pytest.mark.logs("waiting up to")
@on_virtual_time
async def test_another_host_is_refused_at_once_unless_it_asks_to_wait(bucket: MemoryBucket) -> None:
    """And takes the volume as soon as it is given back, or in vain as long as it was told to."""
    ant, bee = place_of(bucket, Host("ant")), place_of(bucket, Host("bee"))
    async with holding.held(ant, Patience()):
        await asyncio.sleep(1000.0)
        for seconds in (None, 0.0, 300.0):
            began = now()
            with pytest.raises(Busy, match=r"process 1 on ant since 2026-11-21T12:00:00Z.*--wait SECONDS"):
                async with attached(bee, Patience(wait_seconds=seconds)):
                    raise AssertionError("it is in use")
            assert now() == began + (seconds or 0.0)

        async def wait() -> float:
            async with attached(bee, Patience(wait_seconds=300.0)):
                return now()

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(200.0)
        given_back = now()
    assert given_back <= await waiting <= given_back + RENEW_SECONDS


@pytest.mark.logs("taking over the lease", "waiting up to")
@on_virtual_time
async def test_a_dead_host_that_is_waited_for_long_is_taken_when_its_lease_ends(bucket: MemoryBucket) -> None:
    """Not later, however long one would wait; and not sooner than one has watched, however short."""
    async with attached(place_of(bucket, Host("ant"))):
        pass
    bee = place_of(bucket, Host("bee"))
    with pytest.raises(Busy):
        async with attached(bee, Patience(wait_seconds=DURATION_SECONDS / 2)):
            raise AssertionError("nobody knows that he is dead")
    began = now()
    async with attached(bee, Patience(wait_seconds=1000.0)):
        assert began + DURATION_SECONDS <= now() <= began + WAIT_SECONDS + RENEW_SECONDS


@pytest.mark.logs("taking over the lease", "waiting up to")
@on_virtual_time
async def test_a_living_process_of_this_machine_is_never_taken_for_dead(bucket: MemoryBucket) -> None:
    """It was stopped so long that its lease ran out: it is named, for it can be continued, or ended."""
    ended: set[int] = set()
    async with attached(place_of(bucket, Host("ant", pid=7, ended=ended))):
        pass
    await asyncio.sleep(10 * DURATION_SECONDS)
    other = place_of(bucket, Host("ant", pid=8, ended=ended))
    began = now()
    with pytest.raises(Busy, match=r"process of this machine and is alive.*kill 7"):
        async with attached(other):
            raise AssertionError("it may go on at any time")
    assert now() == began
    asyncio.get_running_loop().call_later(100.0, ended.add, 7)
    async with attached(other, Patience(wait_seconds=1000.0)):
        assert began + 100.0 <= now() <= began + 100.0 + RENEW_SECONDS


# s3backer, which knows the mount token alone.


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.logs("mount token")
@on_virtual_time
async def test_an_s3backer_that_takes_the_volume_is_noticed(is_deleted: bool) -> None:
    """With the next renewal: it replaced the mount token, or took it away."""
    bucket = MemoryBucket(MemoryStore())
    place, lost = place_of(bucket, Host("ant")), list[Fenced]()
    async with attached(place, lost=lost.append) as keeper:
        await asyncio.sleep(1000.0)
        keeper.check()
        if is_deleted:
            await bucket.delete(TOKEN_KEY)
        else:
            theirs = Attributes(metadata={METADATA_NAME: "00001234"})
            await bucket.put(TOKEN_KEY, b"theirs\n20261121T120000Z\n", attributes=theirs)
        await asyncio.sleep(RENEW_SECONDS)
        what = "reset-mounted-flag" if is_deleted else "theirs since 20261121T120000Z has replaced"
        with pytest.raises(Fenced, match=what):
            await place.bucket.put("vol/00000000", b"ours")
        assert [what in str(each) or "reset" in str(each) for each in lost] == [True]
        assert keeper.statistics()["state"] == "lost"


@pytest.mark.logs("could not be renewed", "is held again")
@on_virtual_time
async def test_a_token_that_cannot_be_read_is_no_renewal() -> None:
    """Who cannot see whether an s3backer has come stops in time, and goes on when he can."""
    bucket = FaultyBucket(MemoryBucket(MemoryStore()))
    async with attached(place_of(bucket, Host("ant"))) as keeper:
        bucket.outage = True
        await asyncio.sleep(SAFE_SECONDS + 1)
        with pytest.raises(Fenced, match="could not be renewed"):
            keeper.check()
        bucket.outage = False
        await asyncio.sleep(RENEW_SECONDS)
        keeper.check()
