"""The cache on local disk: never wrong, whatever becomes of its files, and never in the way."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

import pytest

from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.cache.block_cache import BlockCache
from bucketry.cache.directory import CacheDirectory
from bucketry.cache.disk_cache import CachedLayout
from bucketry.cache.seals import Encrypted, Plain, Seal
from bucketry.cache.slot_file import SlotFile
from bucketry.codec.offload import Offload, Threads, inline
from bucketry.codec.pipeline import BlockCodec
from bucketry.core.geometry import Extent, Geometry, Span
from bucketry.core.names import BlockNames
from bucketry.core.priority import Priority
from bucketry.errors import Corrupt, Invalid, Unavailable
from bucketry.layout.interface import Layout, Write, Zero
from bucketry.layout.s3backer import S3backerLayout
from bucketry.settings import CacheSettings
from bucketry.testing.layout_contract import UNITS, LayoutContract
from bucketry.testing.memory_layout import MemoryLayout
from bucketry.testing.virtual_time import on_virtual_time

T = TypeVar("T")
BLOCK = 4096
BLOCKS = 64
KEY = bytes(range(32))
EVERY_BLOCK = BLOCKS * BLOCK


def block_of(number: int) -> bytes:
    """Content of its own for each number; half a page of it zeros."""
    return random.Random(number).randbytes(BLOCK // 2) + bytes(BLOCK // 2 - 1) + b"\1"


def memory_layout(*, filled: bool = False) -> MemoryLayout:
    layout = MemoryLayout(Geometry(BLOCKS * BLOCK, BLOCK))
    if filled:
        layout.blocks = {number: block_of(number) for number in range(BLOCKS)}
    return layout


@asynccontextmanager
async def cached(
    below: Layout,
    path: Path,
    *,
    size_bytes: int = EVERY_BLOCK,
    key: bytes | None = None,
    offload: Offload = inline,
    identity: str = "volume a",
) -> AsyncIterator[CachedLayout]:
    with CacheDirectory.open(path, identity) as directory:
        layout = CachedLayout(below, directory, size_bytes, offload=offload, key=key)
        await layout.start()
        try:
            yield layout
        finally:
            await layout.close()


async def read(layout: Layout, number: int) -> bytes | None:
    data = await layout.read(Extent(number * BLOCK, BLOCK))
    return None if data is None else bytes(data)


def figure(layout: CachedLayout, name: str) -> int:
    figures = layout.statistics()["disk_cache"]
    assert isinstance(figures, dict)
    return cast("int", figures[name])


async def settle(layout: CachedLayout) -> None:
    """What is on its way to the disk has arrived."""
    while figure(layout, "storing_bytes"):
        await asyncio.sleep(0)


async def survey(layout: Layout) -> None:
    async for _ in layout.survey():
        pass


class TestContract(LayoutContract):
    """Over the memory layout's contract partner, with and without encryption, roomy and tight, and over one
    that reads parts."""

    @pytest.fixture(
        params=[(None, UNITS, False), (KEY, UNITS, True), (None, 3, False), (None, 0, False), (None, 3, True)]
    )
    async def layout(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Layout]:
        key, slots, has_pieces = request.param
        geometry = Geometry(UNITS * BLOCK, BLOCK)
        names = BlockNames("p/", UNITS, hash_prefix=False)
        bucket = MemoryBucket(MemoryStore())
        codec = BlockCodec(BLOCK, has_pieces=has_pieces)
        below = S3backerLayout(bucket, names, geometry, codec, offload=inline, in_flight_max=8)
        async with cached(below, tmp_path, size_bytes=slots * BLOCK, key=key) as layout:
            yield layout


@pytest.mark.parametrize("key", [None, KEY])
async def test_a_block_is_fetched_once(tmp_path: Path, key: bytes | None) -> None:
    """The second read comes from the local disk, also after a restart."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, key=key) as layout:
        for _ in range(3):
            assert await read(layout, 5) == block_of(5)
            await settle(layout)
        assert below.read_log == [5]
    async with cached(below, tmp_path, key=key) as layout:
        assert await read(layout, 5) == block_of(5)
        assert await read(layout, 5) == block_of(5)
        assert figure(layout, "verified") == 1
    assert below.read_log == [5]
    assert below.tag_log == [5], "its tag is compared once"


async def test_parts_come_from_blocks_that_are_here(tmp_path: Path) -> None:
    """From the local disk, after a restart once the tag was compared; a part from below is not kept, and a
    whole block that came in its place is."""
    below = memory_layout(filled=True)
    below.part_bytes = BLOCK // 8
    async with cached(below, tmp_path) as layout:
        await read(layout, 5)
        await settle(layout)
    async with cached(below, tmp_path) as layout:
        assert layout.part_bytes == BLOCK // 8
        for number in (5, 6, 6):
            part = await layout.read_part(Extent(number * BLOCK + 700, 8))
            assert part is not None
            first = part.offset - number * BLOCK
            assert part.data == block_of(number)[first : first + len(part.data)]
        assert (below.read_log, below.part_log, below.tag_log) == ([5], [6, 6], [5])
        below.part_bytes = BLOCK
        for _ in range(2):
            await layout.read_part(Extent(7 * BLOCK, 1))
            await settle(layout)
        assert (below.read_log, below.part_log) == ([5], [6, 6, 7])
        assert (figure(layout, "hits"), figure(layout, "misses")) == (2, 3)


async def test_a_part_of_a_block_that_changed_behind_our_back(tmp_path: Path) -> None:
    """Is one of the new block, whatever the local disk has."""
    below = memory_layout(filled=True)
    below.part_bytes = BLOCK // 8
    async with cached(below, tmp_path) as layout:
        await read(layout, 5)
        await settle(layout)
    below.blocks[5] = block_of(1000)
    async with cached(below, tmp_path) as layout:
        part = await layout.read_part(Extent(5 * BLOCK, 1))
        assert part is not None
        assert part.data == block_of(1000)[: BLOCK // 8]
        assert figure(layout, "stale") == 1


async def test_what_is_committed_is_kept(tmp_path: Path) -> None:
    """With the tag that it got: a read needs nothing from below, after a restart only the tag."""
    below = memory_layout()
    async with cached(below, tmp_path) as layout:
        buffer = bytearray(block_of(1) + block_of(2))
        for number, start in ((0, 0), (1, BLOCK)):
            await layout.commit([Write(number * BLOCK, memoryview(buffer)[start : start + BLOCK])])
        buffer[:] = bytes(2 * BLOCK)
        assert [await read(layout, number) for number in (0, 1)] == [block_of(1), block_of(2)]
    async with cached(below, tmp_path) as layout:
        await survey(layout)
        assert [await read(layout, number) for number in (0, 1)] == [block_of(1), block_of(2)]
        await layout.commit([Zero(Extent(0, BLOCK)), Write(BLOCK, block_of(3))])
        assert [await read(layout, number) for number in (0, 1)] == [None, block_of(3)]
    assert below.read_log == [0]
    assert below.tag_log == []


async def test_the_survey_verifies_in_passing(tmp_path: Path) -> None:
    """Then no tag is asked for; what is not stored any more is let go."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        for number in range(BLOCKS):
            await read(layout, number)
    del below.blocks[7]
    async with cached(below, tmp_path) as layout:
        await survey(layout)
        assert figure(layout, "verified") == BLOCKS - 1
        assert figure(layout, "stale") == 1
        for number in range(BLOCKS):
            assert await read(layout, number) == below.blocks.get(number)
    assert below.tag_log == []
    assert below.read_log == [*range(BLOCKS), 7]


async def test_a_survey_without_tags_verifies_nothing(tmp_path: Path) -> None:
    """Each block's tag is asked for when it is read."""
    below = memory_layout(filled=True)
    below.survey_tells_tags = False
    async with cached(below, tmp_path) as layout:
        await read(layout, 1)
    async with cached(below, tmp_path) as layout:
        await survey(layout)
        assert await read(layout, 1) == block_of(1)
    assert below.tag_log == [1]
    assert below.read_log == [1]


@pytest.mark.parametrize("surveyed", [False, True])
async def test_what_changed_behind_our_back_is_seen(tmp_path: Path, surveyed: bool) -> None:
    """By a read, and by a write of a part of the block: nothing old is merged into something new."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        for number in (1, 2):
            await read(layout, number)
    below.blocks |= {1: block_of(101), 2: block_of(102)}
    async with cached(below, tmp_path) as layout:
        cache = BlockCache(layout, CacheSettings())
        cache.start()
        if surveyed:
            await cache.wait_surveyed()
        await cache.write(2, 0, b"new")
        assert await cache.read([Span(1, 0, BLOCK)]) == [block_of(101)]
        await cache.close()
    assert below.blocks[2] == b"new" + block_of(102)[3:]


async def test_without_the_tag_nothing_old_is_used(tmp_path: Path) -> None:
    """When the tag cannot be asked for, the read fails as it would without a cache."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        await read(layout, 1)
    below.read_error = Unavailable("away")
    async with cached(below, tmp_path) as layout:
        with pytest.raises(Unavailable):
            await read(layout, 1)
        below.read_error = None
        assert await read(layout, 1) == block_of(1)
        below.read_error = Unavailable("away")
        assert await read(layout, 1) == block_of(1), "now it is known to be right"


async def test_a_failed_commit_leaves_nothing_to_believe(tmp_path: Path) -> None:
    """Any part of it may have been made."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        assert await read(layout, 1) == block_of(1)
        await settle(layout)
        below.commit_error = Unavailable("lost answer")
        with pytest.raises(Unavailable):
            await layout.commit([Write(BLOCK, block_of(50))])
        below.blocks[1] = block_of(50)
        assert await read(layout, 1) == block_of(50)


async def test_a_read_that_a_commit_overtakes_is_not_kept(tmp_path: Path) -> None:
    """What it brings may be old, whether it began before the commit or during it."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        for number in (1, 2):
            below.read_gate.close()
            early = asyncio.create_task(read(layout, number))
            await asyncio.sleep(0)
            below.commit_gate.close()
            commit = asyncio.create_task(layout.commit([Write(number * BLOCK, block_of(70 + number))]))
            await asyncio.sleep(0)
            late = asyncio.create_task(read(layout, number))
            await asyncio.sleep(0)
            if number == 1:
                below.read_gate.open()
                await early
                await late
            below.commit_gate.open()
            await commit
            below.read_gate.open()
            await asyncio.gather(early, late)
            assert await read(layout, number) == block_of(70 + number)
            await settle(layout)
            assert await read(layout, number) == block_of(70 + number)


async def test_a_commit_overtakes_a_read_of_the_local_disk(tmp_path: Path) -> None:
    """A read that ends after a commit of its block brings what was committed."""
    gate = asyncio.Event()
    gate.set()

    async def slow(work: Callable[[], T], /) -> T:
        result = work()
        await gate.wait()
        return result

    below = memory_layout(filled=True)
    async with cached(below, tmp_path, offload=slow) as layout:
        await read(layout, 1)
        await settle(layout)
        gate.clear()
        reading = asyncio.create_task(read(layout, 1))
        await asyncio.sleep(0)
        await layout.commit([Write(BLOCK, block_of(50))])
        gate.set()
        assert await reading == block_of(50)


async def test_a_commit_overtakes_the_question_for_a_tag(tmp_path: Path) -> None:
    """What was committed meanwhile is neither doubted nor dropped for it."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        await read(layout, 1)
    async with cached(below, tmp_path) as layout:
        below.read_gate.close()
        reading = asyncio.create_task(read(layout, 1))
        await asyncio.sleep(0)
        assert below.tag_log == [1]
        await layout.commit([Write(BLOCK, block_of(50))])
        await settle(layout)
        below.read_gate.open()
        assert await reading == block_of(50)
        assert figure(layout, "stale") == 0
        reads = len(below.read_log)
        assert await read(layout, 1) == block_of(50)
        assert len(below.read_log) == reads


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("seed", range(40))
async def test_damaged_files_are_never_believed(tmp_path: Path, seed: int, key: bytes | None) -> None:
    """Bits turned over, cut, extended, removed, slots exchanged, in the data, the index or both: every read
    is right, and the cache goes on keeping."""
    prng = random.Random(seed)
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, key=key) as layout:
        for number in range(BLOCKS):
            await read(layout, number)
    for name in prng.choice([["data"], ["index"], ["data", "index"]]):
        damage(tmp_path / "blocks" / name, prng)
    for _ in range(2):
        async with cached(below, tmp_path, key=key) as layout:
            if prng.random() < 0.5:
                await survey(layout)
            for number in prng.sample(range(BLOCKS), BLOCKS):
                assert await read(layout, number) == block_of(number)
            await settle(layout)
            assert figure(layout, "held_count") == BLOCKS


def damage(path: Path, prng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    match prng.randrange(6):
        case 0:
            for _ in range(prng.randint(1, 20)):
                content[prng.randrange(len(content))] ^= 1 << prng.randrange(8)
        case 1:
            del content[prng.randrange(len(content)) :]
        case 2:
            content += prng.randbytes(prng.randint(1, 3 * BLOCK))
        case 3:
            content = bytearray(prng.randbytes(len(content)))
        case 4:
            one, two = (prng.randrange(len(content) // BLOCK + 1) * BLOCK for _ in range(2))
            first, second = content[one : one + BLOCK], content[two : two + BLOCK]
            if len(first) == len(second):
                content[one : one + BLOCK], content[two : two + BLOCK] = second, first
        case _:
            path.unlink()
            return
    path.write_bytes(content)


@pytest.mark.parametrize("has_pieces", [False, True])
async def test_objects_exchanged_in_the_bucket_are_noticed(tmp_path: Path, has_pieces: bool) -> None:
    """What is kept of the one is not taken for the other, though the bucket says now that it is."""
    bucket = MemoryBucket(MemoryStore())
    geometry = Geometry(UNITS * BLOCK, BLOCK)
    names = BlockNames("p/", UNITS, hash_prefix=False)
    codec = BlockCodec(BLOCK, has_pieces=has_pieces, volume_id="a" * 32)
    below = S3backerLayout(bucket, names, geometry, codec, offload=inline, in_flight_max=8)
    await below.commit([Write(number * BLOCK, block_of(number)) for number in range(3)])
    async with cached(below, tmp_path) as layout:
        for number in range(3):
            await read(layout, number)
        await settle(layout)
    one, two = await bucket.get(names.key(0)), await bucket.get(names.key(1))
    await bucket.put(one.info.key, two.data, attributes=two.info.attributes)
    await bucket.put(two.info.key, one.data, attributes=one.info.attributes)
    for _ in range(2):
        async with cached(below, tmp_path) as layout:
            for number in (0, 1):
                with pytest.raises(Corrupt, match=f"it is block {1 - number}, in the place of"):
                    await read(layout, number)
                with pytest.raises(Corrupt, match=f"it is block {1 - number}, in the place of"):
                    await layout.read_part(Extent(number * BLOCK + 5, 1))
            assert await read(layout, 2) == block_of(2)


@pytest.mark.parametrize("seal", [Plain(), Encrypted(KEY)])
def test_what_is_kept_is_bound_to_its_block_and_tag(seal: Seal) -> None:
    """With either seal."""
    kept, check = seal.close(3, "tag", block_of(3))
    assert seal.open(3, "tag", bytes(kept), check) == block_of(3)
    assert seal.open(4, "tag", bytes(kept), check) is None
    assert seal.open(3, "other tag", bytes(kept), check) is None


@pytest.mark.parametrize("key", [None, KEY])
async def test_exchanged_slots_are_noticed(tmp_path: Path, key: bytes | None) -> None:
    """Each is sound by itself, and still not what the index speaks of."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, key=key) as layout:
        for number in range(4):
            await read(layout, number)
            await settle(layout)
    path = tmp_path / "blocks/data"
    content = path.read_bytes()
    path.write_bytes(content[BLOCK : 2 * BLOCK] + content[:BLOCK] + content[2 * BLOCK :])
    async with cached(below, tmp_path, key=key) as layout:
        assert [await read(layout, number) for number in range(4)] == [block_of(n) for n in range(4)]
        assert figure(layout, "corrupt") == 2


async def test_another_volumes_content_is_not_taken(tmp_path: Path) -> None:
    """Even when its name was removed from the directory, and tags happen to be the same."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, identity="volume a") as layout:
        await read(layout, 1)
    (tmp_path / "identity.json").unlink()
    async with cached(below, tmp_path, identity="volume b") as layout:
        assert figure(layout, "held_count") == 0
        await read(layout, 1)
    assert below.read_log == [1, 1]


@pytest.mark.parametrize("other", [None, bytes(32)])
async def test_an_encrypted_cache_needs_its_key(tmp_path: Path, other: bytes | None) -> None:
    """Nothing of the blocks can be found in its files, and with another key, or none, it is of no use."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, key=KEY) as layout:
        await read(layout, 1)
    content = b"".join(path.read_bytes() for path in (tmp_path / "blocks").iterdir())
    assert block_of(1)[:16] not in content
    async with cached(below, tmp_path, key=other) as layout:
        assert await read(layout, 1) == block_of(1)
        assert figure(layout, "hits") == 0


async def test_its_size_is_bounded(tmp_path: Path) -> None:
    """What is used stays, the rest goes; never more bytes on disk than allowed."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, size_bytes=8 * BLOCK) as layout:
        for _ in range(3):
            for number in range(BLOCKS):
                assert await read(layout, number) == block_of(number)
                await settle(layout)
                assert figure(layout, "held_bytes") <= 8 * BLOCK
        assert figure(layout, "evictions") > 0
        assert (tmp_path / "blocks/data").stat().st_size == 8 * BLOCK
    for size in (4, 16):
        async with cached(below, tmp_path, size_bytes=size * BLOCK) as layout:
            assert figure(layout, "held_count") <= size
            for number in range(BLOCKS):
                assert await read(layout, number) == block_of(number)


async def test_zeroed_blocks_give_their_space_back(tmp_path: Path) -> None:
    """A trimmed disk leaves an empty cache."""
    below = memory_layout(filled=True)
    below.batch_shape = type(below.batch_shape)(BLOCK, BLOCK, BLOCKS, 4)
    async with cached(below, tmp_path) as layout:
        for number in range(BLOCKS):
            await read(layout, number)
        await settle(layout)
        used = (tmp_path / "blocks/data").stat().st_blocks
        await layout.commit([Zero(Extent(number * BLOCK, BLOCK)) for number in range(BLOCKS)])
        assert figure(layout, "held_count") == 0
    assert (tmp_path / "blocks/data").stat().st_blocks < used / 4


async def test_the_index_does_not_grow_with_time(tmp_path: Path) -> None:
    """However often blocks are rewritten, it has a few lines for each."""
    below = memory_layout()
    async with cached(below, tmp_path) as layout:
        for number in range(4000):
            await layout.commit([Write(number % 4 * BLOCK, block_of(number))])
            await settle(layout)
        lines = (tmp_path / "blocks/index").read_bytes().count(b"\n")
        assert 1 < lines < 2000
    assert (tmp_path / "blocks/index").read_bytes().count(b"\n") == 5


async def test_what_waits_for_the_local_disk_is_bounded(tmp_path: Path) -> None:
    """A local disk slower than the bucket holds nothing up: what it cannot take is not kept."""
    gate = asyncio.Event()
    gate.set()

    async def slow(work: Callable[[], T], /) -> T:
        await gate.wait()
        return work()

    size = 4 << 20
    below = MemoryLayout(Geometry(64 * size, size))
    below.blocks = {number: bytes([number + 1]) * size for number in range(64)}
    async with cached(below, tmp_path, size_bytes=64 * size, offload=slow) as layout:
        gate.clear()
        for number in range(20):
            data = await layout.read(Extent(number * size, size))
            assert data == below.blocks[number]
        assert figure(layout, "storing_bytes") == 32 << 20
        assert figure(layout, "skipped") == 12
        for number in range(8):
            await layout.read(Extent(number * size, size))
        assert len(below.read_log) == 20, "what waits to be written is there to be read"
        gate.set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("operation", ["write", "read", "free"])
@pytest.mark.logs("the cache in .* is off", required=True)
async def test_a_local_error_turns_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
) -> None:
    """One line in the log, and from then on everything comes from below; nothing fails."""
    below = memory_layout(filled=True)
    async with cached(below, tmp_path) as layout:
        await read(layout, 1)
        await settle(layout)

        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(SlotFile, operation, fail)
        for block in (1, 2, 1, 2):
            assert await read(layout, block) == block_of(block)
        await layout.commit([Write(BLOCK, block_of(9))])
        for block in (1, 2, 3):
            assert await read(layout, block) == below.blocks[block]
        await settle(layout)
        assert await read(layout, 1) == block_of(9)
        assert figure(layout, "errors") >= 1
        assert figure(layout, "on") is False
    monkeypatch.undo()
    async with cached(below, tmp_path) as layout:
        assert figure(layout, "on") is True
        assert [await read(layout, block) for block in range(4)] == [below.blocks[n] for n in range(4)]


@pytest.mark.parametrize("name", ["blocks", "blocks/data", "blocks/index"])
@pytest.mark.logs("the cache in .* is off", required=True)
async def test_something_else_in_its_place_turns_it_off(tmp_path: Path, name: str) -> None:
    """A file where a directory should be, or the other way round."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch() if name == "blocks" else path.mkdir()
    async with cached(memory_layout(filled=True), tmp_path) as layout:
        for _ in range(2):
            assert await read(layout, 3) == block_of(3)


async def test_mistakes_of_the_caller_are_the_layouts(tmp_path: Path) -> None:
    """Ranges that are not blocks are refused, not rounded."""
    async with cached(memory_layout(), tmp_path) as layout:
        with pytest.raises(Invalid):
            await layout.read(Extent(1, BLOCK))


@pytest.mark.parametrize("seed", range(10))
def test_many_at_once_agree_with_a_byte_array(tmp_path: Path, seed: int) -> None:
    """Readers, writers, small caches, slow layers on virtual time, restarts and changes behind our back in
    between: every read gives the content from before or after the commits that it overlaps."""

    @on_virtual_time
    async def run() -> None:
        prng = random.Random(seed)
        below = memory_layout(filled=True)
        slow = SlowLayout(below, prng)

        async def offload(work: Callable[[], T], /) -> T:
            await asyncio.sleep(prng.random() / 1000)
            result = work()
            await asyncio.sleep(prng.random() / 1000)
            return result

        for _ in range(3):
            slots = prng.choice([2, 8, BLOCKS])
            async with cached(slow, tmp_path, size_bytes=slots * BLOCK, offload=offload) as layout:
                tasks = [worker(layout, below, random.Random(prng.random()), first) for first in range(8)]
                if prng.random() < 0.7:
                    tasks.append(survey(layout))
                await asyncio.gather(*tasks)
                assert figure(layout, "corrupt") == 0, "no slot is used twice at a time"
            for number in prng.sample(range(BLOCKS), 5):
                below.blocks[number] = block_of(prng.randrange(10_000))

    run()


async def worker(layout: Layout, below: MemoryLayout, prng: random.Random, first: int) -> None:
    """Alone with its eighth of the blocks, as the layer above is with each block."""
    for _ in range(60):
        number = prng.randrange(first, BLOCKS, 8)
        match prng.randrange(4):
            case 0:
                await layout.commit([Write(number * BLOCK, block_of(prng.randrange(10_000)))])
            case 1:
                await layout.commit([Zero(Extent(number * BLOCK, BLOCK))])
            case _:
                reads = [read(layout, number) for _ in range(prng.randint(1, 3))]
                assert set(await asyncio.gather(*reads)) == {below.blocks.get(number)}


class SlowLayout(MemoryLayout):
    """A MemoryLayout whose answers take a while, on the way there and back."""

    def __init__(self, below: MemoryLayout, prng: random.Random) -> None:
        super().__init__(below.geometry)
        self.blocks = below.blocks
        self._prng = prng

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> bytes | None:
        await asyncio.sleep(self._prng.random() / 100)
        data = self.blocks.get(extent.offset // BLOCK)
        await asyncio.sleep(self._prng.random() / 100)
        return data


WRITER = """
import asyncio, sys, random
from pathlib import Path
from bucketry.cache.directory import CacheDirectory
from bucketry.cache.disk_cache import CachedLayout
from bucketry.codec.offload import Threads
from bucketry.core.geometry import Extent, Geometry
from bucketry.testing.memory_layout import MemoryLayout

BLOCK, BLOCKS = 4096, 64

def block_of(number):
    return random.Random(number).randbytes(BLOCK // 2) + bytes(BLOCK // 2 - 1) + b"\\1"

async def main():
    below = MemoryLayout(Geometry(BLOCKS * BLOCK, BLOCK))
    below.blocks = {number: block_of(number) for number in range(BLOCKS)}
    directory = CacheDirectory.open(Path(sys.argv[1]), "volume a")
    layout = CachedLayout(below, directory, 40 * BLOCK, offload=Threads(2))
    await layout.start()
    print("ready", flush=True)
    prng = random.Random(int(sys.argv[2]))
    while True:
        number = prng.randrange(BLOCKS)
        assert await layout.read(Extent(number * BLOCK, BLOCK)) == block_of(number)
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
async def test_a_killed_process_leaves_a_cache_that_is_right(tmp_path: Path, seed: int) -> None:
    """Killed in the middle of storing and evicting: the next one finds some of it, and nothing wrong."""
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:  # noqa: ASYNC220
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        # So many lines that slots have been used again; how many it gets to write before the signal is
        # up to it.
        while (tmp_path / "blocks/index").read_bytes().count(b"\n") < 200 * (seed + 1):
            await asyncio.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
    below = memory_layout(filled=True)
    async with cached(below, tmp_path, size_bytes=40 * BLOCK) as layout:
        assert figure(layout, "held_count") > 0
        for number in range(BLOCKS):
            assert await read(layout, number) == block_of(number)
        assert figure(layout, "hits") > 0


async def test_it_works_in_threads(tmp_path: Path) -> None:
    """As it is used: files in threads, many reads at once."""
    below = memory_layout(filled=True)
    threads = Threads(2)
    try:
        async with cached(below, tmp_path, size_bytes=32 * BLOCK, offload=threads) as layout:
            for _ in range(5):
                found = await asyncio.gather(*[read(layout, number) for number in range(BLOCKS)])
                assert found == [block_of(number) for number in range(BLOCKS)]
                await settle(layout)
            assert figure(layout, "hits") > 0
    finally:
        threads.close()


@pytest.mark.system
@pytest.mark.logs("the cache in .* is off.*No space left", required=True)
async def test_a_full_file_system_turns_it_off(tmp_path: Path) -> None:
    """A tmpfs of 128 KiB for a cache of 256: reads go on."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,mode=0700", "none", mounted], check=True)  # noqa: ASYNC221
    try:
        below = memory_layout(filled=True)
        async with cached(below, mounted / "cache") as layout:
            for _ in range(2):
                for number in range(BLOCKS):
                    assert await read(layout, number) == block_of(number)
                    await settle(layout)
            await layout.commit([Write(0, block_of(99))])
            assert await read(layout, 0) == block_of(99)
    finally:
        subprocess.run(["umount", mounted], check=True)  # noqa: ASYNC221
