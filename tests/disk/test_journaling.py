"""A disk with a journal: what was flushed survives the process, and is never replayed where it does not
belong."""

import asyncio
import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from bucketry.bucket.memory import MemoryBucket
from bucketry.codec.offload import inline
from bucketry.core import lease as rules
from bucketry.core.block_table import SLOT_BYTES
from bucketry.core.journal import Passed
from bucketry.core.lease import Holder, Lease
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME, SUPERBLOCK_NAME
from bucketry.disk import lifecycle
from bucketry.disk.interface import Device
from bucketry.errors import BucketryError, Corrupt, Mismatch, Unavailable, Unfinished
from bucketry.settings import CacheSettings, Secret, VolumeSettings
from bucketry.testing.faulty_bucket import Delay, Fail, FaultyBucket, FlipBit
from bucketry.testing.memory_files import Fault
from bucketry.testing.virtual_time import on_virtual_time
from disk_world import BLOCK, BLOCKS, FORMAT, World, killed, new_world

T = TypeVar("T")
TIME = "2026-11-21T19:38:00Z"
ELSEWHERE = Holder(host="elsewhere", boot_id="another", pid=7, start_time=1, token=0x1234)


@contextmanager
def watched(world: World) -> Iterator[list[dict[int, bytes]]]:
    """What is in the bucket after each put, while it lasts."""
    seen: list[dict[int, bytes]] = []
    put = MemoryBucket.put

    async def put_and_look(self: MemoryBucket, *args: Any, **kwargs: Any) -> str:
        etag = await put(self, *args, **kwargs)
        seen.append(world.blocks())
        return etag

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MemoryBucket, "put", put_and_look)
        yield seen


finds_damage = pytest.mark.logs(
    "is kept in memory until",
    "not in the bucket yet",
    "replayed",
    "taking over the lease",
    "lease could not be renewed",
    required=False,
)
pytestmark = pytest.mark.logs(
    "not in the bucket yet",
    "replayed",
    "taking over the lease",
    "could not be listed",
    "lease could not be renewed",
    required=False,
)


@on_virtual_time
async def test_a_flush_waits_for_the_journal_only() -> None:
    """With the bucket away a flush succeeds, and what it flushed reaches the bucket when that is back."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.extents(0, 1)
        world.faulty.outage = True
        await disk.write(BLOCK, b"a" * BLOCK)
        await disk.flush()
        assert world.blocks() == {}
        world.faulty.outage = False
    assert world.blocks() == {1: b"a" * BLOCK}


@on_virtual_time
async def test_what_was_flushed_survives_a_kill() -> None:
    """After a kill the next attach has everything that was flushed, small writes into unknown blocks and
    zeroed blocks included, and nothing that was not."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"o" * 8 * BLOCK)
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(10, b"small")
        await disk.write(2 * BLOCK, b"w" * BLOCK)
        await disk.flush()
        await disk.write(12, b"ALL")
        await disk.zero(5 * BLOCK, BLOCK)
        await disk.flush()
    expected = bytearray(b"o" * 8 * BLOCK)
    expected[10:15] = b"smALL"
    expected[2 * BLOCK : 3 * BLOCK] = b"w" * BLOCK
    expected[5 * BLOCK : 6 * BLOCK] = bytes(BLOCK)
    async with world.opened() as disk:
        assert bytes(await disk.read(0, 8 * BLOCK)) == expected
        assert bytes(await disk.read(15 * BLOCK, 9)) == bytes(9)
    assert b"".join(world.blocks().get(n, bytes(BLOCK)) for n in range(8)) == expected


@on_virtual_time
async def test_after_a_clean_end_nothing_is_replayed() -> None:
    """The journal is empty when everything is in the bucket; somebody else may then write without one."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"first")
        await disk.flush()
    async with lifecycle.opened(
        world.place(), VolumeSettings(), CacheSettings(), offload=inline, uploads_max=4
    ) as disk:
        await disk.write(0, b"other")
    world.files = killed(world.files)
    async with world.opened() as disk:
        assert bytes(await disk.read(0, 5)) == b"other"


@pytest.mark.logs("giving up the journal", "taking over the lease", "not in the bucket yet")
@on_virtual_time
async def test_a_journal_is_not_replayed_over_somebody_elses_writes() -> None:
    """When the volume was taken by force after the crash, the journal is refused, kept, and the volume is not
    touched."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(0, b"mine")
        await disk.flush()
    async with lifecycle.opened(
        world.place(), VolumeSettings(force=True), CacheSettings(), offload=inline, uploads_max=4
    ) as disk:
        await disk.write(0, b"his!")
    before, journal = dict(world.store.objects), world.files.contents()
    world.files = killed(world.files)
    with pytest.raises(Mismatch):
        async with world.opened():
            pass
    assert world.store.objects == before
    assert world.files.contents() == journal


@on_virtual_time
async def test_nor_over_an_s3backers() -> None:
    """s3backer leaves the lease alone, but a forced mount of its own takes the mount token away."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(0, b"mine")
        await disk.flush()
    del world.store.objects["vol/" + MOUNT_TOKEN_NAME]
    with pytest.raises(Mismatch, match="s3backer"):
        async with world.opened():
            pass


@on_virtual_time
async def test_nor_into_another_volume() -> None:
    """A volume that was made anew in the same place has another id."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(0, b"mine")
        await disk.flush()
    del world.store.objects["vol/" + SUPERBLOCK_NAME], world.store.objects["vol/" + MOUNT_TOKEN_NAME]
    await lifecycle.create(world.place(), FORMAT, None)
    with pytest.raises(Mismatch):
        async with world.opened():
            pass


@on_virtual_time
async def test_a_full_journal_makes_flushes_wait_for_the_bucket() -> None:
    """Many more epochs than fit are all flushed, with nothing lost at a kill at the end."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        for n in range(200):
            await disk.write(n % 15 * BLOCK, bytes([n + 1]) * BLOCK)
            await disk.flush()
    async with world.opened() as disk:
        for n in range(185, 200):
            assert bytes(await disk.read(n % 15 * BLOCK, BLOCK)) == bytes([n + 1]) * BLOCK


@on_virtual_time
async def test_a_replay_keeps_the_order_of_flushes() -> None:
    """At every change of the bucket while a journal is replayed, and whenever that is cut short and begun
    again, it holds some flush and nothing later than the next one."""
    world = await new_world()
    flushes: list[dict[int, bytes]] = [{}]
    dice = random.Random(5)
    async with world.opened_and_killed() as disk:
        for n in range(12):
            after = dict(flushes[-1])
            for block in dice.sample(range(6), 3):
                after[block] = bytes([n + 1]) * BLOCK
                await disk.write(block * BLOCK, after[block])
            flushes.append(after)
            world.faulty.outage = n > 3  # some of it is in the bucket already, the journal may not say so
            await disk.flush()
            await asyncio.sleep(3600.0 if n < 2 else 0.0)
    seen: list[dict[int, bytes]] = []
    put = MemoryBucket.put

    async def put_and_look(self: MemoryBucket, *args: Any, **kwargs: Any) -> str:
        etag = await put(self, *args, **kwargs)
        seen.append(world.blocks())
        await asyncio.sleep(1.0)
        return etag

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MemoryBucket, "put", put_and_look)
        for seconds in (2.0, 9.5, 20.0):  # the process is gone before it is through
            await _open_for(world, seconds)
        async with world.opened() as disk:
            assert {block: bytes(await disk.read(block * BLOCK, BLOCK)) for block in range(6)} == flushes[-1]
    assert world.blocks() == flushes[-1]
    for content in seen:
        assert any(
            all(content.get(block) in (before.get(block), after.get(block)) for block in range(6))
            for before, after in pairwise(flushes)
        ), content


@on_virtual_time
async def test_a_replay_goes_on_when_several_uploads_failed_together() -> None:
    """Each failure makes the pause longer: who looks when the first one is over comes too early, and has to
    come again."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        for content in (b"a", b"b"):
            for block in range(4):
                await disk.write(block * BLOCK, content * BLOCK)
            await disk.flush()
    for block in range(4):
        world.faulty.plan(Fail(), operation="put", key=f"vol/{block:08x}")
    async with asyncio.timeout(60.0), world.opened(dirty_max_bytes=4 * (BLOCK + SLOT_BYTES)):
        pass
    assert world.blocks() == dict.fromkeys(range(4), b"b" * BLOCK)


@on_virtual_time
async def test_no_block_goes_before_all_of_its_epoch_is_replayed() -> None:
    """Two writes into one block are read from the journal one after the other, and not in the order in which
    they were made: with one of them alone the block is what it never was."""

    dice = random.Random(3)

    async def slowly(work: Callable[[], T], /) -> T:
        await asyncio.sleep(dice.uniform(0.0, 3.0))
        return work()

    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(0, b"a" * BLOCK)
        await disk.flush()
        await disk.write(5 * BLOCK + 300, b"first")
        await disk.write(5 * BLOCK, b"second")
        await disk.flush()
    with watched(world) as seen:
        for _ in range(40):
            # It ends, and what comes next may go, at any moment of the replay.
            world.faulty.plan(Delay(dice.uniform(0.0, 9.0)), operation="put", key="vol/00000000")
            before = killed(world.files), dict(world.store.objects)
            async with world.opened(write_delay_seconds=0.0, offload=slowly) as disk:
                await disk.flush()
            world.files = before[0]
            world.store.objects.clear()
            world.store.objects.update(before[1])
    contents = [blocks[5] for blocks in seen if 5 in blocks]
    assert len(contents) >= 40
    assert set(contents) == {b"second".ljust(300, b"\0") + b"first".ljust(BLOCK - 300, b"\0")}


@pytest.mark.logs("is kept in memory until", "replayed", "taking over the lease", required=False)
@on_virtual_time
async def test_a_replay_goes_on_past_a_block_that_cannot_be_read() -> None:
    """Though there is room for one block only, and the one that is set aside takes it."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"o" * BLOCK)
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        for n, content in enumerate((b"one", b"two", b"three")):
            await disk.write(n * BLOCK, content)
            await disk.flush()
    world.faulty.plan(FlipBit(), operation="get", key="vol/00000000", times=4)
    async with asyncio.timeout(30.0), world.opened(dirty_max_bytes=1) as disk:
        await asyncio.sleep(10.0)
        assert figures(disk)["aside_count"] == 1
        assert bytes(await disk.read(0, 5)) == b"oneoo"
    assert [content[:5] for _, content in sorted(world.blocks().items())] == [
        b"oneoo",
        b"two\0\0",
        b"three",
    ]


async def _open_for(world: World, seconds: float) -> None:
    """Attach, and be killed after a while."""
    with pytest.raises(Unfinished):
        async with world.opened() as disk:
            await asyncio.sleep(seconds)
            world.faulty.outage = True
            await disk.write(15 * BLOCK, b"unflushed")
            left = killed(world.files)
    world.files = left
    world.faulty.outage = False


@finds_damage
@on_virtual_time
async def test_what_was_set_aside_stays_in_the_journal() -> None:
    """A flushed write into a block that turns out damaged is there after a kill, though what was written
    later is in the bucket and gone from the journal."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"o" * BLOCK)
    whole = world.store.objects["vol/00000000"]
    async with world.opened_and_killed() as disk:
        await disk.write(3, b"flushed")
        await disk.flush()
        world.store.objects["vol/00000000"] = (whole[0], b"damaged".ljust(BLOCK, b"d"))
        await asyncio.sleep(4000.0)
        assert figures(disk)["aside_count"] == 1
        for n in range(1, 4):
            await disk.write(n * BLOCK, b"x" * BLOCK)
            with pytest.raises(Corrupt):
                await disk.flush()
            await asyncio.sleep(4000.0)
        assert sorted(world.blocks()) == [0, 1, 2, 3]
        world.store.objects["vol/00000000"] = whole
    async with world.opened() as disk:
        assert bytes(await disk.read(0, 12)) == b"oooflushedoo"


@finds_damage
@on_virtual_time
@pytest.mark.parametrize("is_full", [False, True], ids=["room", "no room"])
async def test_a_damaged_block_that_is_written_again_and_again(is_full: bool) -> None:
    """What was flushed of it first is there after a kill, also when the local disk took nothing later; and of
    other blocks nothing comes back that is older than what the bucket has."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"o" * BLOCK)
    whole = world.store.objects["vol/00000000"]
    async with world.opened_and_killed() as disk:
        await disk.write(3, b"flushed")
        await disk.write(5 * BLOCK, b"old" * 100)
        await disk.flush()
        world.store.objects["vol/00000000"] = (whole[0], b"damaged".ljust(BLOCK, b"d"))
        await asyncio.sleep(4000.0)
        if is_full:
            world.files.fault = _no_room
        for n in range(1, 4):
            await disk.write(100 * n, b"more")
            await disk.write(5 * BLOCK, b"%03d" % n * 100)
            with pytest.raises(Corrupt):
                await disk.flush()
            await disk.write((5 + n) * BLOCK, b"later" * 100)  # in the bucket by itself
            await asyncio.sleep(4000.0)
        assert figures(disk)["aside_count"] == 1
        assert world.blocks()[8][:5] == b"later"
        world.store.objects["vol/00000000"] = whole
    async with world.opened() as disk:
        assert bytes(await disk.read(0, 12)) == b"oooflushedoo"
        assert bytes(await disk.read(300, 4)) == (b"oooo" if is_full else b"more")
        assert bytes(await disk.read(5 * BLOCK, 3)) == b"003"


def _no_room(asked: str, name: str) -> None:
    """The local disk is full: nothing that is new has room on it."""
    if asked == "write" and name.startswith("segment"):
        raise OSError(errno.ENOSPC, "no space left")


@finds_damage
@on_virtual_time
async def test_what_was_damaged_once_and_has_arrived_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two blocks that were set aside and are readable again, one is written and in the bucket before its
    epoch ends: after a kill it is not what it was when it was set aside."""
    put = MemoryBucket.put

    async def put_all_but_one(self: MemoryBucket, key: str, *args: Any, **kwargs: Any) -> str:
        if key.endswith("00000001"):
            raise Unavailable("not this one")
        return await put(self, key, *args, **kwargs)

    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"o" * 2 * BLOCK)
    whole = {key: world.store.objects[key] for key in ("vol/00000000", "vol/00000001")}
    async with world.opened_and_killed() as disk:
        await disk.write(3, b"flushed")
        await disk.write(BLOCK + 3, b"flushed")
        await disk.flush()
        for key, (etag, _) in whole.items():
            world.store.objects[key] = (etag, b"damaged".ljust(BLOCK, b"d"))
        await asyncio.sleep(4000.0)
        assert figures(disk)["aside_count"] == 2
        await disk.write(5 * BLOCK, b"settled" * 10)  # in the bucket by itself
        await asyncio.sleep(4000.0)
        assert 5 in world.blocks()
        world.store.objects.update(whole)
        with monkeypatch.context() as patched:
            patched.setattr(MemoryBucket, "put", put_all_but_one)
            await disk.write(0, b"n" * BLOCK)
            await asyncio.sleep(4000.0)
            assert world.blocks()[0] == b"n" * BLOCK
            await disk.read(BLOCK, BLOCK)  # readable again, and not in the bucket yet
            await disk.flush()
    async with world.opened() as disk:
        assert bytes(await disk.read(0, BLOCK)) == b"n" * BLOCK
        assert bytes(await disk.read(BLOCK, 12)) == b"oooflushedoo"


@finds_damage
@on_virtual_time
@pytest.mark.parametrize("flushes", ["flushed before it turns out damaged", "flushed after", "not flushed"])
async def test_a_small_write_never_goes_over_what_came_after_it(flushes: str) -> None:
    """A small flushed write into a block that turns out damaged, and then the whole block, which is on its
    way when the process is killed, and arrives: at no moment it is a mixture of the two."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"o" * BLOCK)
    whole = world.store.objects["vol/00000000"]
    hold = world.faulty.hold(operation="put", key="vol/00000000", applied=True)
    with pytest.raises(Unfinished):
        async with world.opened() as disk:
            await disk.write(3, b"flushed")
            await disk.flush()
            if flushes == "flushed before it turns out damaged":
                await disk.write(0, b"n" * BLOCK)
                await disk.flush()
            world.store.objects["vol/00000000"] = (whole[0], b"damaged".ljust(BLOCK, b"d"))
            await asyncio.sleep(3630.0)
            if flushes != "flushed before it turns out damaged":
                await disk.write(0, b"n" * BLOCK)
                if flushes == "flushed after":
                    with pytest.raises(Corrupt):
                        await disk.flush()
                await asyncio.sleep(3630.0)
            await hold.wait_arrived()
            assert world.blocks() == {0: b"n" * BLOCK}
            left = killed(world.files)
            world.faulty.outage = True
            hold.release()
    world.files = left
    world.faulty.outage = False
    with watched(world) as seen:
        async with world.opened():
            pass
    assert {blocks[0] for blocks in seen} == {b"n" * BLOCK}


def figures(disk: Device) -> Any:
    return disk.statistics()["cache"]


@on_virtual_time
async def test_an_attach_that_cannot_replay_does_not_give_the_volume_back() -> None:
    """When the journal cannot be read to its end, wherever that fails, nothing of it is given up: the lease
    stays, and the next attach replays it all."""
    failed_while_held = 0
    for reads in range(12):
        world = await new_world()
        async with world.opened_and_killed() as disk:
            world.faulty.outage = True
            for n in range(4):
                await disk.write(n * BLOCK, bytes([n + 1]) * BLOCK)
                await disk.flush()
        world.fault = _failing_reads(reads)
        try:
            async with world.opened():
                pass
        except Unavailable:
            lease = rules.decode(bytes(world.store.objects["vol/" + LEASE_NAME][1]))
            assert lease.holder is not None
            failed_while_held += lease.epoch == 2
        world.fault = None
        async with world.opened() as disk:
            for n in range(4):
                assert bytes(await disk.read(n * BLOCK, BLOCK)) == bytes([n + 1]) * BLOCK
    assert failed_while_held


def _failing_reads(after: int) -> Fault:
    """From so many reads of local files on all fail."""
    left = after

    def fail(asked: str, name: str) -> None:
        nonlocal left
        if asked == "read":
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, "broken")

    return fail


@pytest.mark.logs("giving up the journal", "taking over the lease", "not in the bucket yet")
@on_virtual_time
async def test_a_generation_that_somebody_else_took_is_not_ours() -> None:
    """An attach that says in the journal which generation it is about to take, and then does not get it,
    leaves a journal that is refused when somebody else had that generation."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(0, b"mine")
        await disk.flush()
    world.faulty.plan(Fail(), operation="put", key="vol/" + LEASE_NAME, times=1)
    with pytest.raises(BucketryError):
        async with world.opened():
            pass
    async with lifecycle.opened(
        world.place(), VolumeSettings(force=True), CacheSettings(), offload=inline, uploads_max=4
    ) as disk:
        await disk.write(0, b"his!")
    with pytest.raises(Mismatch):
        async with world.opened():
            pass


@pytest.mark.logs(
    "the journal is given up",
    "the journal cannot say any more",
    "could not be emptied",
    "could not be emptied",
    "not in the bucket yet",
    "taking over the lease",
    "replayed",
    required=False,
)
@pytest.mark.parametrize("operation", ["write", "sync"])
@on_virtual_time
async def test_a_broken_journal_is_given_up_and_nothing_is_lost(operation: str) -> None:
    """When local storage fails, flushes go on with the bucket alone; and at the next attach the journal of
    before is not replayed over what came later."""
    world = await new_world()

    def fail(asked: str, name: str) -> None:
        if asked == operation:
            raise OSError(5, "broken")

    async with world.opened() as disk:
        world.faulty.outage = True
        await disk.write(0, b"in the journal")
        await disk.flush()
        world.faulty.outage = False
        world.files.fault = fail
        await disk.write(0, b"in the bucket!")
        await disk.flush()
        assert world.blocks()[0][:14] == b"in the bucket!"
        await disk.write(0, b"and once more!")
        await disk.flush()
        left, objects = killed(world.files), dict(world.store.objects)
        world.files.fault = None
    world.store.objects.clear()
    world.store.objects.update(objects)
    world.files = left
    try:
        async with world.opened() as disk:
            assert bytes(await disk.read(0, 14)) == b"and once more!"
    except Mismatch:
        pass  # refused: that is right, too
    assert world.blocks()[0][:14] == b"and once more!"


@pytest.mark.logs(
    "the journal cannot say any more",
    "not in the bucket yet",
    "taking over the lease",
    "replayed",
    "lease could not be renewed",
    required=False,
)
@on_virtual_time
async def test_when_the_journal_cannot_say_what_the_bucket_has_the_lease_does() -> None:
    """Its disk fails between two flushes that are only in the journal: the bucket gets them in their order,
    and after a crash nothing older comes back, not even for a moment."""
    world = await new_world()

    def fail(asked: str, name: str) -> None:
        if asked in ("write", "sync"):
            raise OSError(errno.EIO, "broken")

    async with world.opened_and_killed() as disk:
        for content in (b"a", b"b", b"c"):
            await disk.write(0, content * BLOCK)
            await disk.flush()
        hold = world.faulty.hold(operation="put", key="vol/00000000")
        await asyncio.sleep(3600.0)
        await hold.wait_arrived()
        world.files.fault = fail
        # The lease cannot be put at first: then nothing goes, and it is tried again.
        world.faulty.plan(Fail(), operation="put", key="vol/" + LEASE_NAME, times=3)
        hold.release()
        await asyncio.sleep(100.0)
        assert world.blocks() == {0: b"c" * BLOCK}
        assert rules.decode(world.store.objects["vol/" + LEASE_NAME][1]).passed == Passed(2)
    with watched(world) as seen:
        for cut_short in (True, False):
            if cut_short:
                await _open_for(world, 2.0)  # the lease is a new one now, and the journal knows
            else:
                async with world.opened():
                    pass
    assert {blocks[0] for blocks in seen} == {b"c" * BLOCK}


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 40))]
)
@on_virtual_time
async def test_random_kills_and_power_cuts(seed: int) -> None:
    """Random writes, zeroes and flushes, the bucket away now and then, and at the end of each round a clean
    end, a kill or a power cut, some while the next attach is replaying: everything flushed is there."""
    dice = random.Random(seed)
    world = await new_world()
    flushed, maybe = bytearray(BLOCKS * BLOCK), list[tuple[int, bytes]]()
    for _ in range(6):
        files = world.files
        ending = dice.choice(["clean", "kill", "power"])
        try:
            async with world.opened() as disk:
                await disk.extents(0, 1)
                _check(bytes(await disk.read(0, BLOCKS * BLOCK)), flushed, maybe)
                flushed = bytearray(await disk.read(0, BLOCKS * BLOCK))
                model, maybe = bytearray(flushed), []
                for _ in range(dice.randrange(30)):
                    world.faulty.outage = dice.random() < 0.4
                    offset = dice.randrange(BLOCKS * BLOCK)
                    length = min(dice.choice([1, 100, BLOCK, 3 * BLOCK]), BLOCKS * BLOCK - offset)
                    match dice.randrange(4):
                        case 0 | 1:
                            data = dice.randbytes(length)
                            await disk.write(offset, data)
                        case 2:
                            data = bytes(length)
                            await disk.zero(offset, length)
                        case _:
                            await disk.flush()
                            flushed, maybe = bytearray(model), []
                            continue
                    model[offset : offset + length] = data
                    maybe.append((offset, data))
                world.faulty.outage = ending != "clean"
                if ending == "clean":
                    flushed, maybe = bytearray(model), []
                files = world.files.power_cut(dice) if ending == "power" else killed(world.files)
        except BucketryError:
            assert ending != "clean"
        else:
            # With nothing to upload the process ends well, whatever was to happen to it.
            files = killed(world.files)
        world.files = files
        world.faulty.outage = False
        if dice.random() < 0.3:
            await _replay_and_die(world, dice)


async def _replay_and_die(world: World, dice: random.Random) -> None:
    """Attach, and have the bucket vanish after some requests; then die."""
    for operation in ("put", "delete"):
        world.faulty.plan(Fail(), operation=operation, skip=dice.randrange(6), times=1000)
    files = world.files
    try:
        async with world.opened() as disk:
            await disk.extents(0, 1)
            files = killed(world.files)
    except BucketryError:
        files = killed(world.files)
    world.faulty = FaultyBucket(MemoryBucket(world.store))
    world.files = files


def _check(found: bytes, flushed: bytearray, maybe: list[tuple[int, bytes]]) -> None:
    """Every byte is the flushed one, or one that was written there afterwards."""
    possible = [{byte} for byte in flushed]
    for offset, data in maybe:
        for index, byte in enumerate(data, offset):
            possible[index].add(byte)
    wrong = [index for index, byte in enumerate(found) if byte not in possible[index]]
    assert not wrong, (
        f"{len(wrong)} bytes from {wrong[0]} on are neither what was flushed nor what was written since"
    )


@pytest.mark.logs("could not be emptied", "no journal any more", "given up", required=False)
@on_virtual_time
async def test_a_journal_that_could_not_be_emptied_does_not_keep_the_volume_shut() -> None:
    """Everything was in the bucket and the volume was given back: what the journal still has is forgotten."""
    world = await new_world()

    def fail(operation: str, name: str) -> None:
        raise OSError(errno.EIO, "on purpose")

    async with world.opened() as disk:
        await disk.write(BLOCK, b"a" * BLOCK)
        await disk.flush()
        world.files.fault = fail
    async with world.opened() as disk:
        assert bytes(await disk.read(BLOCK, BLOCK)) == b"a" * BLOCK
        await disk.write(BLOCK, b"b" * BLOCK)
        await disk.flush()
    assert world.blocks() == {1: b"b" * BLOCK}


@pytest.mark.logs("damaged block", required=False)
@on_virtual_time
async def test_closing_does_not_pass_over_a_block_that_could_not_be_read() -> None:
    """A small write into a block that comes damaged when the disk is closed: it is read once more, and is in
    the bucket in the end."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(BLOCK, b"o" * BLOCK)
    async with world.opened() as disk:
        await disk.extents(0, 1)
        await disk.write(BLOCK, b"new")
        world.faulty.plan(FlipBit(), operation="get", key="vol/00000001", times=2)
    assert world.blocks() == {1: b"new" + b"o" * (BLOCK - 3)}


@pytest.mark.logs("somebody else has taken", "damaged", required=False)
@on_virtual_time
async def test_who_loses_the_volume_while_he_replays_is_told() -> None:
    """The replay waits for room, which does not come any more."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        for block in range(4):
            await disk.write(block * BLOCK, b"a" * BLOCK)
        await disk.flush()

    async def attach() -> None:
        async with world.opened(dirty_max_bytes=1):
            raise AssertionError("the replay cannot have ended")

    hold = world.faulty.hold(operation="put", key="vol/00000000")
    attaching = asyncio.create_task(attach())
    await hold.wait_arrived()
    world.store.objects["vol/" + LEASE_NAME] = (
        await world.faulty.head("vol/" + SUPERBLOCK_NAME),
        rules.encode(Lease(epoch=9, holder=ELSEWHERE, taken=TIME, renewed=TIME)),
    )
    await asyncio.sleep(2 * rules.RENEW_SECONDS)
    hold.release()
    with pytest.raises(BucketryError, match="somebody else has taken"):
        async with asyncio.timeout(100.0):
            await attaching


@pytest.mark.logs("shown with what is only in", "replayed", "taking over the lease", "not in the bucket yet")
@on_virtual_time
async def test_the_journal_of_an_encrypted_volume_does_not_tell_what_was_written() -> None:
    """Neither while it holds the only copy, nor when the bucket has it; it is replayed, and shown
    read-only."""
    world, text = await new_world(Secret("open sesame")), b"what nobody may read"
    async with world.opened_and_killed() as disk:
        await disk.write(100, text)
        await disk.flush()
    assert not any(text in content for content in world.files.contents().values())
    async with world.opened(read_only=True) as disk:
        assert bytes(await disk.read(100, len(text))) == text
    async with world.opened() as disk:
        assert bytes(await disk.read(100, len(text))) == text
        await disk.write(900, text)
        await disk.flush()
        assert not any(text in content for content in world.files.contents().values())
    assert list(world.files.contents()) == ["head"]


@on_virtual_time
async def test_nothing_that_was_written_stays_in_a_journal_after_the_end() -> None:
    """Of a volume that is not encrypted it does while the bucket lacks it."""
    world, text = await new_world(), b"what anybody may read"
    async with world.opened() as disk:
        await disk.write(100, text)
        await disk.flush()
        assert any(text in content for content in world.files.contents().values())
    assert list(world.files.contents()) == ["head"]
