"""Disks that are in use become larger, and lose nothing, wherever the work ends."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.offload import inline
from bucketry.core.lease import Holder
from bucketry.core.names import BlockNames
from bucketry.disk import lifecycle
from bucketry.disk.holding import Place
from bucketry.disk.interface import Device
from bucketry.disk.lifecycle import Local
from bucketry.disk.machine import ThisMachine
from bucketry.errors import (
    AlreadyExists,
    BucketryError,
    Busy,
    Invalid,
    NotFound,
    ReadOnly,
    Unavailable,
    Unfinished,
)
from bucketry.layout.block_0 import stored_geometry
from bucketry.layout.superblock import read_superblock
from bucketry.settings import CacheSettings, VolumeFormat, VolumeSettings
from bucketry.testing.faulty_bucket import FaultyBucket
from bucketry.testing.memory_files import MemoryFiles
from bucketry.testing.virtual_time import on_virtual_time

BLOCK = 4096
PLAIN = VolumeFormat(size_bytes=8 * BLOCK, block_size_bytes=BLOCK)
ASKED = VolumeSettings()


class Machine(ThisMachine):
    """Every process but the present one has ended."""

    def has_ended(self, holder: Holder) -> bool:
        return True

    def now(self) -> float:
        return asyncio.get_running_loop().time()


def place_in(bucket: Bucket) -> Place:
    fence = Fence()
    return Place(FencedBucket(bucket, fence), bucket, fence, "vol/", "salt", Machine())


@asynccontextmanager
async def opened(
    place: Place, asked: VolumeSettings = ASKED, files: MemoryFiles | None = None
) -> AsyncIterator[Device]:
    cache = CacheSettings(memory_bytes=1 << 20, write_delay_seconds=3600.0)
    local = None
    if files is not None:
        cache = replace(cache, durability="journal", journal_bytes=1 << 20, cache_dir="/nowhere")  # type: ignore[arg-type]
        local = Local(lambda: files, lambda: bool(files.sizes()), inline)
    async with lifecycle.opened(place, asked, cache, offload=inline, uploads_max=4, local=local) as disk:
        yield disk


def data(block: int) -> bytes:
    return f"block {block} ".encode().ljust(BLOCK, b".")


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


@pytest.mark.parametrize("first", ["stored", "dirty", "zero"])
async def test_a_disk_grows_while_it_is_used(first: str) -> None:
    """What was written stays, new space reads as zeros without a request, can be written, and is there at
    the next attach."""
    store = MemoryStore()
    place = place_in(MemoryBucket(store))
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        if first != "zero":
            await disk.write(0, data(0))
        await disk.write(7 * BLOCK, data(7))
        if first == "stored":
            await disk.flush()
        await disk.grow(20 * BLOCK)
        assert disk.size_bytes == 20 * BLOCK
        reads = _reads(disk)
        assert bytes(await disk.read(8 * BLOCK, 12 * BLOCK)) == bytes(12 * BLOCK)
        assert _reads(disk) == reads
        assert [extent.is_hole for extent in await disk.extents(8 * BLOCK, BLOCK)] == [True]
        await disk.write(19 * BLOCK, data(19))
        assert await sizes(place) == (20, None if first == "zero" else 20, None)
        with pytest.raises(Invalid):
            await disk.read(20 * BLOCK, 1)
    async with opened(place) as disk:
        assert disk.size_bytes == 20 * BLOCK
        expected = [data(block) if block in (0, 7, 19) else bytes(BLOCK) for block in range(20)]
        if first == "zero":
            expected[0] = bytes(BLOCK)
        assert bytes(await disk.read(0, 20 * BLOCK)) == b"".join(expected)


def _reads(disk: Device) -> int:
    figures: Any = disk.statistics()["layout"]
    return int(figures["blocks_read"]) + int(figures["absent_blocks_read"])


async def test_it_grows_under_writes() -> None:
    """Somebody who writes all the time, block 0 most of all, finds every byte as he wrote it last."""
    place = place_in(MemoryBucket(MemoryStore()))
    await lifecycle.create(place, PLAIN, None)
    latest: dict[int, bytes] = {}
    stopped = False

    async def write(disk: Device) -> None:
        count = 0
        while not stopped:
            count += 1
            block = count % 3 * 2
            latest[block] = f"{count} ".encode().ljust(BLOCK, b".")
            await disk.write(block * BLOCK, latest[block])
            if count % 7 == 0:
                await disk.flush()
            await asyncio.sleep(0)

    async with opened(place) as disk:
        writer = asyncio.create_task(write(disk))
        for blocks in range(9, 30):
            await disk.grow(blocks * BLOCK)
        stopped = True
        await writer
    assert await sizes(place) == (29, 29, None)
    async with opened(place) as disk:
        for block, content in latest.items():
            assert bytes(await disk.read(block * BLOCK, BLOCK)) == content


@pytest.mark.slow
@pytest.mark.parametrize("journal", [False, True])
@on_virtual_time
@pytest.mark.logs(
    "not in the bucket yet",
    "could not be listed",
    "lease could not be renewed",
    "taking over the lease",
    "replayed",
    "could not be emptied",
    required=False,
)
async def test_a_crash_at_any_request_leaves_a_volume_that_opens(journal: bool) -> None:
    """With the old size or the new one, and everything that was flushed; growing it once more works."""
    outcomes = set()
    for requests in range(40):
        store = MemoryStore()
        faulty = _Dying(MemoryBucket(store))
        place = place_in(faulty)
        await lifecycle.create(place, PLAIN, None)
        files, left = MemoryFiles() if journal else None, None
        try:
            async with opened(place, files=files) as disk:
                await disk.write(0, data(0))
                await disk.write(5 * BLOCK, data(5))
                await disk.flush()
                faulty.left = requests
                try:
                    await disk.grow(20 * BLOCK)
                finally:
                    faulty.outage = True
                    if files is not None:
                        left = MemoryFiles.holding(files.contents())
        except (Unavailable, Unfinished):
            pass
        faulty.revive()
        async with opened(place_in(faulty), files=left) as disk:
            outcomes.add(disk.size_bytes // BLOCK)
            assert bytes(await disk.read(0, BLOCK)) == data(0)
            assert bytes(await disk.read(5 * BLOCK, BLOCK)) == data(5)
            await disk.grow(24 * BLOCK)
            await disk.write(23 * BLOCK, data(23))
        assert await sizes(place) == (24, 24, None)
    assert outcomes == {8, 20}


class _Dying(FaultyBucket):
    """Once ``left`` is a number, everything fails after so many requests."""

    left: int | None = None

    def _check_outage(self, what: str) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.outage = True
        super()._check_outage(what)

    def revive(self) -> None:
        self.left, self.outage = None, False


@pytest.mark.logs("not in the bucket yet", required=False)
async def test_what_failed_is_done_again() -> None:
    """When the bucket goes away in the middle, the disk goes on as it was, and the same once more ends the
    work; another size instead is refused with the size that it is to have."""
    for requests in range(8):
        faulty = _Dying(MemoryBucket(MemoryStore()))
        place = place_in(faulty)
        await lifecycle.create(place, PLAIN, None)
        async with opened(place) as disk:
            await disk.write(0, data(0))
            await disk.flush()
            faulty.left = requests
            try:
                await disk.grow(20 * BLOCK)
            except Unavailable:
                assert disk.size_bytes == 8 * BLOCK
            faulty.revive()
            await disk.grow(20 * BLOCK)
            await disk.write(19 * BLOCK, data(19))
        assert await sizes(place) == (20, 20, None)


async def test_what_cannot_be_is_refused() -> None:
    """Smaller, not of whole blocks, over what is stored beyond the end, read-only: nothing changes."""
    store = MemoryStore()
    place = place_in(MemoryBucket(store))
    await lifecycle.create(place, PLAIN, None)
    stored = BlockNames("vol/", 1 << 31, hash_prefix=False).key(12)
    async with opened(place) as disk:
        await disk.write(0, data(0))
        await disk.flush()
        await MemoryBucket(store).put(stored, data(12))
        before = dict(store.objects)
        for size, error in ((4 * BLOCK, Busy), (20 * BLOCK + 1, Invalid), (20 * BLOCK, AlreadyExists)):
            with pytest.raises(error):
                await disk.grow(size)
        assert store.objects == before
        await disk.grow(20 * BLOCK, force=True)
        assert stored not in store.objects
        assert bytes(await disk.read(12 * BLOCK, BLOCK)) == bytes(BLOCK)
    async with opened(place, VolumeSettings(read_only=True)) as disk:
        with pytest.raises(ReadOnly):
            await disk.grow(30 * BLOCK)


async def test_a_reader_sees_the_new_size_when_it_is_refreshed() -> None:
    """Until then it keeps the one that it began with; afterwards it reads what is in the new space."""
    store = MemoryStore()
    place = place_in(MemoryBucket(store))
    await lifecycle.create(place, PLAIN, None)
    async with (
        opened(place) as disk,
        opened(place_in(MemoryBucket(store)), VolumeSettings(read_only=True)) as reader,
    ):
        await reader.read(0, 8 * BLOCK)
        await disk.grow(20 * BLOCK)
        await disk.write(19 * BLOCK, data(19))
        await disk.flush()
        assert reader.size_bytes == 8 * BLOCK
        await reader.refresh()
        assert reader.size_bytes == 20 * BLOCK
        assert bytes(await reader.read(18 * BLOCK, 2 * BLOCK)) == bytes(BLOCK) + data(19)


async def test_an_s3backer_volume_grows_by_its_block_0() -> None:
    """Which has to be stored: nothing else says the size."""
    place = place_in(MemoryBucket(MemoryStore()))
    asked = VolumeSettings(size_bytes=8 * BLOCK, block_size_bytes=BLOCK)
    async with opened(place, asked) as disk:
        with pytest.raises(Invalid, match="block 0"):
            await disk.grow(20 * BLOCK)
        await disk.write(0, data(0))
        await disk.flush()
        await disk.grow(20 * BLOCK)
        await disk.write(19 * BLOCK, data(19))
    assert await sizes(place) == (None, 20, None)
    async with opened(place) as disk:
        assert bytes(await disk.read(19 * BLOCK, BLOCK)) == data(19)


async def test_a_journal_that_cannot_be_relabelled_keeps_the_size() -> None:
    """Before the bucket says the new size the journal has to know of it."""
    place = place_in(MemoryBucket(MemoryStore()))
    await lifecycle.create(place, PLAIN, None)
    files = MemoryFiles()
    async with opened(place, files=files) as disk:

        def fail(asked: str, name: str) -> None:
            if asked == "write":
                raise OSError(errno.EIO, "broken")

        files.fault = fail
        with pytest.raises(BucketryError, match="broken"):
            await disk.grow(20 * BLOCK)
        files.fault = None
        assert disk.size_bytes == 8 * BLOCK
    assert await sizes(place) == (8, None, None)
