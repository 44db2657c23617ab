"""Which blocks are stored: every name once, in as few requests as that takes."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.interface import Entry
from bucketry.bucket.memory import MemoryBucket
from bucketry.core.names import MOUNT_TOKEN_NAME, SUPERBLOCK_NAME, BlockNames
from bucketry.core.priority import Priority
from bucketry.errors import Unavailable
from bucketry.layout.listing import list_blocks, list_blocks_between
from bucketry.settings import BucketSettings
from servers.seaweed import Seaweed


class CountingBucket(MemoryBucket):
    """Counts the pages that are asked for, and can fail at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.page_count = 0
        self.fail_at_page: int | None = None
        self.open_listings = 0

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        self.open_listings += 1
        try:
            async for page in super().list(prefix=prefix, after=after, priority=priority):
                self.page_count += 1
                if self.page_count == self.fail_at_page:
                    raise Unavailable("the listing failed")
                # A request takes a while: others get their turn.
                await asyncio.sleep(0)
                yield page
        finally:
            self.open_listings -= 1


async def fill(names: BlockNames, blocks: list[int]) -> CountingBucket:
    bucket = CountingBucket()
    for block in blocks:
        await bucket.put(names.key(block), b"x")
    for key in (
        "!before",
        "p/!before",
        "p/" + SUPERBLOCK_NAME,
        "p/" + MOUNT_TOKEN_NAME,
        "p/00000000.tmp",
        "q",
    ):
        await bucket.put(key, b"x")
    return bucket


async def listed(bucket: CountingBucket, names: BlockNames) -> list[int]:
    return sorted([block async for page in list_blocks(bucket, names) for block, _ in page])


@pytest.mark.parametrize("hash_prefix", [False, True])
@pytest.mark.parametrize("block_count", [1, 40, 30_000, (1 << 32) - 1])
@pytest.mark.parametrize("stored_count", [0, 1, 990, 1100, 2500, 9000])
async def test_every_block_is_found_once(hash_prefix: bool, block_count: int, stored_count: int) -> None:
    """However many there are, wherever they lie, and whatever else lies there."""
    names = BlockNames("p/", block_count, hash_prefix)
    stored = random.Random(1).sample(range(block_count), min(stored_count, block_count))
    bucket = await fill(names, stored)
    assert await listed(bucket, names) == sorted(stored)
    assert bucket.open_listings == 0


@pytest.mark.parametrize(
    ("stored_count", "pages_max"), [(0, 1), (900, 1), (1900, 2), (8000, 8 + 2 + MemoryBucket().listings_max)]
)
async def test_requests_are_few(stored_count: int, pages_max: int) -> None:
    """A small volume costs a page or two; a large one not many more than its names fill."""
    names = BlockNames("p/", 1 << 20, hash_prefix=False)
    bucket = await fill(names, random.Random(2).sample(range(1 << 20), stored_count))
    assert len(await listed(bucket, names)) == stored_count
    assert bucket.page_count <= pages_max


@pytest.mark.slow
async def test_no_block_is_lost_where_ranges_meet() -> None:
    """A volume without a single hole is found whole."""
    names = BlockNames("p/", 1 << 20, hash_prefix=False)
    bucket = await fill(names, list(range(5000)) + list(range((1 << 20) - 3000, 1 << 20)))
    assert len(await listed(bucket, names)) == 8000
    dense = BlockNames("p/", 40_000, hash_prefix=False)
    assert await listed(await fill(dense, list(range(40_000))), dense) == list(range(40_000))


async def test_blocks_beyond_the_end_are_not_reported() -> None:
    """What a shrunken volume left behind is not part of it."""
    bucket = await fill(BlockNames("p/", 1 << 20, hash_prefix=False), list(range(0, 10_000, 2)))
    assert await listed(bucket, BlockNames("p/", 5000, hash_prefix=False)) == list(range(0, 5000, 2))


@pytest.mark.parametrize("page", [1, 2, 3, 8])
async def test_a_failed_page_fails_the_listing(page: int) -> None:
    """No listing is taken for complete when a part of it failed, and none is left open."""
    names = BlockNames("p/", 1 << 20, hash_prefix=False)
    bucket = await fill(names, random.Random(3).sample(range(1 << 20), 6000))
    bucket.fail_at_page = page
    with pytest.raises(Unavailable):
        await listed(bucket, names)
    assert bucket.open_listings == 0


async def test_a_listing_may_be_left_early() -> None:
    """Closing it ends all the listings under way."""
    names = BlockNames("p/", 1 << 20, hash_prefix=False)
    bucket = await fill(names, random.Random(4).sample(range(1 << 20), 6000))
    pages = list_blocks(bucket, names)
    for _ in range(4):
        await anext(pages)
    assert bucket.open_listings > 1
    await pages.aclose()
    assert bucket.open_listings == 0


@pytest.mark.parametrize("hash_prefix", [False, True])
async def test_a_part_of_the_blocks(hash_prefix: bool) -> None:
    """From one number to before another, with hash prefixes and without; no page is empty."""
    names = BlockNames("p/", 1 << 20, hash_prefix)
    stored = random.Random(6).sample(range(1 << 20), 4000)
    bucket = await fill(names, stored)
    for first, stop in ((0, 1 << 20), (1 << 19, 1 << 20), (5, 5), (1000, 50_000)):
        pages = [page async for page in list_blocks_between(bucket, names, first, stop)]
        assert all(pages)
        found = sorted(block for page in pages for block in page)
        assert found == sorted(block for block in stored if first <= block < stop)


@pytest.mark.system
@pytest.mark.parametrize("hash_prefix", [False, True])
async def test_a_real_server_lists_the_same(seaweed: Seaweed, tmp_path: Path, hash_prefix: bool) -> None:
    """SeaweedFS orders odd characters in its own way, but block names as everybody does."""
    names = BlockNames("p/", 1 << 20, hash_prefix)
    stored = random.Random(5).sample(range(1 << 20), 2500)
    access_file = seaweed.access_file(tmp_path / "passwd")
    url = f"s3://{seaweed.make_bucket()}"
    bucket = connect(BucketSettings(url=url, endpoint=seaweed.endpoint, access_file=access_file))
    try:
        others = [f"p/{name}" for name in ("!before", "0/below", SUPERBLOCK_NAME, MOUNT_TOKEN_NAME)]
        keys = [names.key(block) for block in stored] + others
        for first in range(0, len(keys), 100):
            await asyncio.gather(*[bucket.put(key, b"x") for key in keys[first : first + 100]])
        found = [block async for page in list_blocks(bucket, names) for block, _ in page]
        assert sorted(found) == sorted(stored)
    finally:
        await bucket.close()


@pytest.mark.parametrize("hash_prefix", [False, True])
async def test_a_directory_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_prefix: bool
) -> None:
    """Several listings side by side would each read all of it, for there the store is this machine."""
    names = BlockNames("p/", 1 << 20, hash_prefix)
    (tmp_path / "p").mkdir()
    blocks = list(range(0, 9000, 2))
    for block in blocks:
        (tmp_path / names.key(block)).touch()
    read: list[object] = []
    original = os.scandir

    def noted(directory: int) -> "os._ScandirIterator[str]":
        read.append(str(Path(f"/proc/self/fd/{directory}").readlink()))
        return original(directory)

    monkeypatch.setattr(os, "scandir", noted)
    bucket = DirectoryBucket(tmp_path, threads_count_max=4)
    found = [block async for page in list_blocks(bucket, names) for block, _ in page]
    await bucket.close()
    assert sorted(found) == blocks
    assert read == [str(tmp_path), str(tmp_path / "p")]
