"""Volumes get another size, and lose nothing but what is cut off, wherever the work ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.offload import inline
from bucketry.core.names import LEASE_NAME, SUPERBLOCK_NAME, BlockNames
from bucketry.disk import holding, lifecycle
from bucketry.disk.holding import Place
from bucketry.disk.interface import Device
from bucketry.disk.resize import ResizeStep, resize
from bucketry.errors import (
    AlreadyExists,
    Busy,
    Invalid,
    Mismatch,
    NotFound,
    PreconditionFailed,
    Unavailable,
    WrongPassword,
)
from bucketry.layout.block_0 import stored_geometry
from bucketry.layout.superblock import read_superblock
from bucketry.settings import CacheSettings, LimitSettings, Secret, VolumeFormat, VolumeSettings
from bucketry.testing.faulty_bucket import Fail, FaultyBucket, LoseAnswer

BLOCK = 4096
PLAIN = VolumeFormat(size_bytes=16 * BLOCK, block_size_bytes=BLOCK)
PASSWORD = Secret("correct horse")
ASKED = VolumeSettings()
LIMITS = LimitSettings(requests_max=4)
FORCE = VolumeSettings(force=True)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def place_in(bucket: Bucket) -> Place:
    fence = Fence()
    return Place(FencedBucket(bucket, fence), bucket, fence, "vol/", "bucket/vol/")


@pytest.fixture
def place(store: MemoryStore) -> Place:
    return place_in(MemoryBucket(store))


@asynccontextmanager
async def opened(place: Place, asked: VolumeSettings = ASKED) -> AsyncIterator[Device]:
    cache = CacheSettings(memory_bytes=1 << 20, write_delay_seconds=3600.0)
    async with lifecycle.opened(place, asked, cache, offload=inline, uploads_max=4) as disk:
        yield disk


def data(block: int) -> bytes:
    return f"block {block} ".encode().ljust(BLOCK, b".")


async def write(place: Place, *blocks: int, asked: VolumeSettings = ASKED) -> None:
    async with opened(place, asked) as disk:
        for block in blocks:
            await disk.write(block * BLOCK, data(block))


async def content(place: Place, asked: VolumeSettings = ASKED) -> bytes:
    async with opened(place, replace(asked, read_only=True)) as disk:
        return bytes(await disk.read(0, disk.size_bytes))


async def resized(
    place: Place, count: int, asked: VolumeSettings = ASKED, *, adopt: bool = False
) -> ResizeStep:
    steps = resize(place, asked, count * BLOCK, adopt=adopt, offload=inline, limits=LIMITS)
    return [step async for step in steps][-1]


def blocks(store: MemoryStore) -> list[int]:
    names = BlockNames("vol/", 1 << 31, hash_prefix=False)
    return sorted(block for key in store.objects if (block := names.parse(key)) is not None)


def expected(count: int, *written: int) -> bytes:
    return b"".join(data(block) if block in written else bytes(BLOCK) for block in range(count))


async def sizes(place: Place) -> tuple[int | None, int | None, int | None]:
    """What the superblock and block 0 say, in blocks, and whether a resize is unfinished."""
    superblock = await read_superblock(place.bucket, place.prefix)
    try:
        told = stored_geometry(await place.bucket.head("vol/00000000"))
    except NotFound:
        told = None
    return (
        None if superblock is None else superblock.format.size_bytes // BLOCK,
        None if told is None else told.block_count,
        None if superblock is None else superblock.resized_from_bytes,
    )


async def test_growing_keeps_everything_and_adds_zeros(place: Place, store: MemoryStore) -> None:
    """Superblock and block 0 agree on the new size, and the new blocks can be written."""
    await lifecycle.create(place, PLAIN, None)
    await write(place, 0, 15)
    step = await resized(place, 40)
    assert step == ResizeStep(16 * BLOCK, 40 * BLOCK, 0, 0)
    assert await sizes(place) == (40, 40, None)
    assert await content(place) == expected(40, 0, 15)
    await write(place, 39)
    assert await content(place) == expected(40, 0, 15, 39)


async def test_an_empty_volume_is_resized_by_its_superblock_alone(place: Place, store: MemoryStore) -> None:
    """Nothing else says a size; one put does it."""
    await lifecycle.create(place, PLAIN, None)
    await resized(place, 1 << 20)
    assert await sizes(place) == (1 << 20, None, None)
    assert sorted(store.objects) == ["vol/" + LEASE_NAME, "vol/" + SUPERBLOCK_NAME]


async def test_shrinking_refuses_to_cut_live_data(place: Place, store: MemoryStore) -> None:
    """It says how much, and changes nothing; where nothing is stored it shrinks."""
    await lifecycle.create(place, PLAIN, None)
    await write(place, 0, 3, 10, 11)
    with pytest.raises(AlreadyExists, match="2 blocks are not zero beyond the new end; --force"):
        await resized(place, 10)
    assert blocks(store) == [0, 3, 10, 11]
    assert await sizes(place) == (16, 16, None)
    await resized(place, 12)
    assert await sizes(place) == (12, 12, None)
    assert await content(place) == expected(12, 0, 3, 10, 11)


async def test_zeros_that_are_stored_are_not_live(place: Place, store: MemoryStore) -> None:
    """Another program may store them; shrinking deletes them without being forced."""
    await lifecycle.create(place, PLAIN, None)
    await write(place, 0)
    await place.bucket.put("vol/0000000c", bytes(BLOCK))
    assert await resized(place, 8) == ResizeStep(16 * BLOCK, 8 * BLOCK, 1, 1)
    assert blocks(store) == [0]


async def test_a_damaged_block_is_live(place: Place) -> None:
    """Nobody knows what was in it."""
    await lifecycle.create(place, PLAIN, None)
    await place.bucket.put("vol/0000000c", bytes(100))
    with pytest.raises(AlreadyExists, match="one block is not zero"):
        await resized(place, 8)


@pytest.mark.parametrize("hash_prefix", [False, True])
async def test_force_cuts_and_deletes_what_is_beyond(
    place: Place, store: MemoryStore, hash_prefix: bool
) -> None:
    """In bulk, telling how far it is; the rest of the volume is as it was."""
    volume_format = replace(PLAIN, size_bytes=3000 * BLOCK, block_hash_prefix=hash_prefix)
    await lifecycle.create(place, volume_format, None)
    await write(place, 0, 5)
    names = BlockNames("vol/", 3000, hash_prefix)
    for block in range(10, 2510):
        await place.bucket.put(names.key(block), b"x" * BLOCK)
    steps = [step async for step in resize(place, FORCE, 10 * BLOCK, offload=inline, limits=LIMITS)]
    assert [step.deleted_count for step in steps][-1] == steps[-1].delete_count == 2500
    assert len(steps) == 4
    assert await content(place) == expected(10, 0, 5)
    stored = [names.parse(key) for key in store.objects]
    assert sorted(block for block in stored if block is not None) == [0, 5]


async def test_growing_does_not_bring_old_blocks_back(place: Place, store: MemoryStore) -> None:
    """What is stored beyond the end is refused, or deleted when forced; farther beyond it stays."""
    await lifecycle.create(place, PLAIN, None)
    await write(place, 0)
    for block in (20, 50):
        await place.bucket.put(f"vol/{block:08x}", data(block))
    with pytest.raises(AlreadyExists, match="one block is stored beyond the end"):
        await resized(place, 40)
    assert await sizes(place) == (16, 16, None)
    await resized(place, 40, FORCE)
    assert await content(place) == expected(40, 0)
    assert blocks(store) == [0, 50]


@pytest.mark.parametrize("size_bytes", [0, BLOCK + 1, -BLOCK, BLOCK << 32])
async def test_sizes_that_cannot_be_are_refused(place: Place, store: MemoryStore, size_bytes: int) -> None:
    """Before the lease is taken."""
    await lifecycle.create(place, PLAIN, None)
    before = dict(store.objects)
    with pytest.raises(Invalid):
        async for _ in resize(place, ASKED, size_bytes, offload=inline, limits=LIMITS):
            pass
    assert store.objects == before


async def test_a_volume_that_is_attached_is_not_resized(place: Place) -> None:
    """Not even with force; the one who has it is told of."""
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        await disk.write(0, data(0))
        await disk.flush()
        for asked in (ASKED, FORCE):
            with pytest.raises(Busy, match=r"in use by process .* bucketry resize DIR SIZE"):
                await resized(place, 40, asked)
    assert await sizes(place) == (16, 16, None)


async def test_an_encrypted_volume_is_resized_with_its_password_only(
    place: Place, store: MemoryStore
) -> None:
    """Without it, or with a wrong one, nothing is written: not by growing, nor by force."""
    await lifecycle.create(place, replace(PLAIN, cipher="AES-128-CBC"), PASSWORD)
    known = VolumeSettings(password=PASSWORD)
    await write(place, 0, 12, asked=known)
    before = dict(store.objects)
    for asked in (ASKED, FORCE, replace(FORCE, password=Secret("wrong"))):
        for count in (8, 16, 20):
            with pytest.raises(WrongPassword, match="password"):
                await resized(place, count, asked)
    assert store.objects == before
    with pytest.raises(AlreadyExists, match="one block is not zero"):
        await resized(place, 8, known)
    await resized(place, 20, known)
    await resized(place, 8, replace(known, force=True))
    assert await content(place, known) == expected(8, 0)


async def test_an_s3backer_volume_is_resized_on_block_0(place: Place, store: MemoryStore) -> None:
    """It has no superblock, and gets none."""
    create = VolumeSettings(size_bytes=16 * BLOCK, block_size_bytes=BLOCK)
    await write(place, 0, 3, 12, asked=create)
    with pytest.raises(AlreadyExists, match="one block is not zero"):
        await resized(place, 8)
    await resized(place, 8, FORCE)
    assert await content(place) == expected(8, 0, 3)
    await resized(place, 16)
    assert await content(place) == expected(16, 0, 3)
    assert await sizes(place) == (None, 16, None)


async def test_an_s3backer_volume_without_block_0_has_no_size_to_change(place: Place) -> None:
    """The message says what to do instead."""
    create = VolumeSettings(size_bytes=16 * BLOCK, block_size_bytes=BLOCK)
    await write(place, 3, asked=create)
    with pytest.raises(Invalid, match="give the new size when you attach it"):
        await resized(place, 8)


async def test_where_no_volume_is_nothing_is_resized(place: Place, store: MemoryStore) -> None:
    """Nor is a lease left there."""
    with pytest.raises(NotFound):
        await resized(place, 8)
    assert store.objects == {}


async def grown_by_s3backer(place: Place, *written: int) -> None:
    """A volume of ours of 16 blocks, of which block 0 says 40."""
    await lifecycle.create(place, PLAIN, None)
    await write(place, 0, 3)
    found = await place.bucket.get("vol/00000000")
    metadata = {**found.info.attributes.metadata, "s3backer-filesize": str(40 * BLOCK)}
    attributes = replace(found.info.attributes, metadata=metadata)
    await place.bucket.put("vol/00000000", found.data, attributes=attributes)
    for block in written:
        await place.bucket.put(f"vol/{block:08x}", data(block))


@pytest.mark.parametrize("asked", [ASKED, FORCE])
async def test_what_s3backer_wrote_after_it_made_the_volume_larger_is_kept(
    place: Place, asked: VolumeSettings
) -> None:
    """While superblock and block 0 disagree the volume does not open; resized to the larger size it has
    everything."""
    await grown_by_s3backer(place, 20, 39)
    with pytest.raises(Mismatch, match="bucketry resize makes them agree"):
        await content(place)
    await resized(place, 40, asked)
    assert await sizes(place) == (40, 40, None)
    assert await content(place) == expected(40, 0, 3, 20, 39)


async def test_beyond_what_s3backer_made_of_it_the_usual_rules_hold(place: Place) -> None:
    """Growing farther keeps what is before either end."""
    await grown_by_s3backer(place, 20, 39, 45)
    with pytest.raises(AlreadyExists, match="one block is stored beyond the end and not zero"):
        await resized(place, 50)
    await resized(place, 50, FORCE)
    assert await content(place) == expected(50, 0, 3, 20, 39)


async def test_going_back_from_what_s3backer_made_of_it_deletes_nothing_unforced(
    place: Place, store: MemoryStore
) -> None:
    """It is shrinking, from the larger size."""
    await grown_by_s3backer(place, 20, 39)
    for count in (16, 30):
        with pytest.raises(AlreadyExists, match="not zero beyond the new end"):
            await resized(place, count)
    assert blocks(store) == [0, 3, 20, 39]
    await resized(place, 16, FORCE)
    assert await content(place) == expected(16, 0, 3)
    assert blocks(store) == [0, 3]


async def test_blocks_beyond_the_end_are_adopted_when_asked(place: Place, store: MemoryStore) -> None:
    """Block 0 need not tell of them: s3backer rewrites it only when something changes there."""
    await lifecycle.create(place, PLAIN, None)
    for block in (20, 45):
        await place.bucket.put(f"vol/{block:08x}", data(block))
    await resized(place, 40, adopt=True)
    assert await content(place) == expected(40, 20)
    assert blocks(store) == [20, 45]


async def test_somebody_who_changes_the_superblock_meanwhile_is_noticed(store: MemoryStore) -> None:
    """The put has the ETag that was seen for its condition."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await lifecycle.create(place, PLAIN, None)
    hold = faulty.hold(operation="put", key="vol/" + SUPERBLOCK_NAME)

    task = asyncio.ensure_future(resized(place, 20))
    await hold.wait_arrived()
    info, body = store.objects["vol/" + SUPERBLOCK_NAME]
    await MemoryBucket(store).put("vol/" + SUPERBLOCK_NAME, body, attributes=info.attributes)
    hold.release()
    with pytest.raises(PreconditionFailed):
        await task
    assert await sizes(place) == (16, None, None)


@pytest.mark.slow
@pytest.mark.logs("taking over the lease", "could not be renewed", required=False)
@pytest.mark.parametrize("applied", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize(("old", "new"), [(16, 40), (40, 16), (16, 16)], ids=["grow", "shrink", "again"])
@pytest.mark.parametrize("superblock", [True, False], ids=["ours", "theirs"])
async def test_a_crash_at_any_request_leaves_a_volume_that_opens(
    old: int, new: int, superblock: bool, applied: bool
) -> None:
    """It has the old size and all of its content, or the new size, with what is before both ends and zeros
    behind that; the same command once more ends the work."""
    kept = (0, 3, 15)
    crash_count = 0
    while True:
        store = MemoryStore()
        faulty = FaultyBucket(MemoryBucket(store))
        place = place_in(faulty)
        if superblock:
            await lifecycle.create(place, replace(PLAIN, size_bytes=old * BLOCK), None)
            await write(place, *kept)
        else:
            create = VolumeSettings(size_bytes=old * BLOCK, block_size_bytes=BLOCK)
            await write(place, *kept, asked=create)
        # Leftovers beyond the smaller end, both ends and far away.
        for block in (16, 39, 40, 1000):
            await place.bucket.put(f"vol/{block:08x}", data(block))

        before = await content(place)
        faulty.plan(LoseAnswer() if applied else Fail(), skip=crash_count, times=1)
        faulty.plan(Fail(), skip=crash_count, times=1_000_000)
        crashed = False
        try:
            await resized(place, new, FORCE)
        except Unavailable:
            crashed = True

        after = place_in(MemoryBucket(store))
        await holding.unlock(after, old_host_is_dead=True)
        found = await content(after)
        wanted = before if len(found) == len(before) else expected(new, *kept)
        assert found == wanted, crash_count
        await resized(after, new, FORCE)
        assert await content(after) == expected(new, *kept), crash_count
        said, told, unfinished = await sizes(after)
        assert (said, told, unfinished) == (new if superblock else None, new, None), crash_count
        if not crashed:
            break
        crash_count += 1
    assert crash_count >= 10
