"""The block cache over a layout that reads parts: what is fetched, and that no read is ever wrong."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from bucketry.cache.block_cache import BlockCache
from bucketry.core.block_table import SLOT_BYTES
from bucketry.core.geometry import Extent, Geometry
from bucketry.core.priority import Priority
from bucketry.disk.disk import Disk
from bucketry.errors import Closed, Unavailable
from bucketry.layout.interface import Change, Part, Tag
from bucketry.settings import CacheSettings
from bucketry.testing.memory_layout import MemoryLayout
from bucketry.testing.virtual_time import on_virtual_time

BLOCK = 4096
BLOCKS = 64
PART = BLOCK // 8
GEOMETRY = Geometry(BLOCK * BLOCKS, BLOCK)


def content(block: int) -> bytes:
    return random.Random(block).randbytes(BLOCK)


def a_layout() -> MemoryLayout:
    layout = MemoryLayout(GEOMETRY, part_bytes=PART)
    layout.blocks = {block: content(block) for block in range(BLOCKS)}
    return layout


@asynccontextmanager
async def running(
    layout: MemoryLayout, *, memory_blocks: int = 32, read_ahead_blocks: int = 0, read_only: bool = False
) -> AsyncIterator[tuple[Disk, BlockCache]]:
    settings = CacheSettings(
        memory_bytes=memory_blocks * (BLOCK + SLOT_BYTES),
        dirty_max_bytes=memory_blocks // 2 * (BLOCK + SLOT_BYTES),
        write_delay_seconds=0.01,
        read_ahead_bytes=read_ahead_blocks * BLOCK,
    )
    cache = BlockCache(layout, settings, read_only=read_only)
    cache.start()
    try:
        yield Disk(cache, GEOMETRY, read_only=read_only), cache
    finally:
        layout.read_gate.open()
        await cache.abandon()


async def read(disk: Disk, block: int, start: int, length: int) -> bytes:
    offset = block * BLOCK + start
    found = disk.read_nowait(offset, length)
    return bytes(await disk.read(offset, length) if found is None else found)


def figure(cache: BlockCache, name: str) -> int:
    figures = cache.statistics()["cache"]
    assert isinstance(figures, dict)
    return int(figures[name])


async def test_a_small_read_fetches_a_part_and_the_next_one_the_block() -> None:
    """What was fetched is kept, and answers what lies in it; whoever comes back for more gets it all."""
    layout = a_layout()
    async with running(layout) as (disk, cache):
        assert await read(disk, 5, 700, 10) == content(5)[700:710]
        assert await read(disk, 5, PART, PART) == content(5)[PART : 2 * PART]
        assert (layout.part_log, layout.read_log) == ([5], [])
        assert figure(cache, "part_saved_bytes") == BLOCK - PART
        assert await read(disk, 5, 0, 1) == content(5)[:1]
        assert await read(disk, 5, 0, BLOCK) == content(5)
        assert (layout.part_log, layout.read_log) == ([5], [5])
        assert figure(cache, "part_repaid_bytes") == BLOCK


async def test_reads_at_once_share_a_part() -> None:
    """Those within what is on its way wait for it; one beyond it has the block fetched, once."""
    layout = a_layout()
    async with running(layout) as (disk, _):
        layout.read_gate.close()
        within = [asyncio.create_task(read(disk, 5, 700, 8)) for _ in range(3)]
        await asyncio.sleep(0)
        beyond = [asyncio.create_task(read(disk, 5, start, 8)) for start in (0, 4000)]
        await asyncio.sleep(0.01)
        assert (layout.part_log, layout.read_log) == ([5], [5])
        layout.read_gate.open()
        assert set(await asyncio.gather(*within)) == {content(5)[700:708]}
        assert await asyncio.gather(*beyond) == [content(5)[:8], content(5)[4000:4008]]


async def test_large_reads_fetch_blocks() -> None:
    """Who wants much of a block reads on, most likely."""
    layout = a_layout()
    async with running(layout) as (disk, _):
        assert await read(disk, 5, 0, BLOCK // 2) == content(5)[: BLOCK // 2]
        assert (layout.part_log, layout.read_log) == ([], [5])


async def test_a_reader_who_goes_on_is_fetched_ahead_of() -> None:
    """The first small read of a stream is a part, all that follow are blocks, and they are there in time."""
    layout = a_layout()
    async with running(layout, read_ahead_blocks=8) as (disk, _):
        for start in range(0, 16 * BLOCK, 64):
            assert (
                await read(disk, start // BLOCK, start % BLOCK, 64)
                == content(start // BLOCK)[start % BLOCK : start % BLOCK + 64]
            )
            await asyncio.sleep(0)
        assert layout.part_log == [0]
        assert sorted(layout.read_log[:16]) == list(range(16))


async def test_random_reads_make_no_streams() -> None:
    """However close they come to each other, each moves its part and nothing else."""
    layout = a_layout()
    async with running(layout, read_ahead_blocks=8) as (disk, _):
        for block in random.Random(1).sample(range(BLOCKS), BLOCKS):
            await read(disk, block, 100, 8)
        assert (len(layout.part_log), layout.read_log) == (BLOCKS, [])


async def test_a_part_of_nothing_makes_the_block_known_as_zero() -> None:
    """As a read of the whole block does."""
    layout = a_layout()
    layout.survey_gate.close()
    del layout.blocks[5]
    async with running(layout) as (disk, _):
        assert await read(disk, 5, 700, 8) == bytes(8)
        assert await read(disk, 5, 0, BLOCK) == bytes(BLOCK)
        assert (layout.part_log, layout.read_log) == ([5], [])
        layout.survey_gate.open()


@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.parametrize("zero", [False, True])
async def test_a_part_that_a_write_overtook_is_not_believed(uploaded: bool, zero: bool) -> None:
    """Who asks after the write sees it, though the part on its way is from before."""
    layout = a_layout()
    async with running(layout, memory_blocks=2) as (disk, cache):
        layout.read_gate.close()
        first = asyncio.create_task(read(disk, 5, 700, 8))
        await asyncio.sleep(0.01)
        if zero:
            await disk.zero(5 * BLOCK, BLOCK)
        else:
            await disk.write(5 * BLOCK, b"w" * BLOCK)
        if uploaded:
            await disk.flush()
            cache._table.forget_clean()
        second = asyncio.create_task(read(disk, 5, 700, 8))
        await asyncio.sleep(0.01)
        layout.read_gate.open()
        wanted = bytes(8) if zero else b"w" * 8
        assert await first in (content(5)[700:708], wanted)
        assert await second == wanted
        cache._table.forget_clean()
        assert await read(disk, 5, 700, 8) == wanted


async def test_a_write_beside_a_part_on_its_way() -> None:
    """The reader gets his bytes, and the block both: what was read and what was written."""
    layout = a_layout()
    async with running(layout) as (disk, _):
        layout.read_gate.close()
        reader = asyncio.create_task(read(disk, 5, 700, 8))
        await asyncio.sleep(0.01)
        await disk.write(5 * BLOCK + 10, b"written")
        layout.read_gate.open()
        assert await reader == content(5)[700:708]
        await disk.flush()
        assert layout.blocks[5] == content(5)[:10] + b"written" + content(5)[17:]


async def test_a_refreshed_cache_believes_no_part() -> None:
    """Neither one that it has nor one on its way."""
    layout = a_layout()
    async with running(layout, read_only=True) as (disk, _):
        assert await read(disk, 5, 700, 8) == content(5)[700:708]
        layout.read_gate.close()
        reader = asyncio.create_task(read(disk, 6, 700, 8))
        await asyncio.sleep(0.01)
        layout.blocks[5] = layout.blocks[6] = b"n" * BLOCK
        await disk.refresh()
        layout.read_gate.open()
        assert await reader == await read(disk, 6, 700, 8) == await read(disk, 5, 700, 8) == b"n" * 8


async def test_a_part_that_cannot_be_read_is_an_error_and_the_next_one_is_not() -> None:
    """Whoever waited hears of it, and nothing of it stays."""
    layout = a_layout()
    async with running(layout) as (disk, _):
        layout.read_error = Unavailable("down")
        with pytest.raises(Unavailable):
            await read(disk, 5, 700, 8)
        layout.read_error = None
        assert await read(disk, 5, 700, 8) == content(5)[700:708]


async def test_closing_ends_who_waits_for_a_part() -> None:
    """With an error, and nothing is begun for him any more."""
    layout = a_layout()
    async with running(layout) as (disk, cache):
        layout.read_gate.close()
        reader = asyncio.create_task(read(disk, 5, 700, 8))
        await asyncio.sleep(0.01)
        await cache.abandon()
        with pytest.raises(Closed):
            await reader
        assert layout.read_log == []


class SlowLayout(MemoryLayout):
    """Whose answers take a while, on the way there and back."""

    def __init__(self, prng: random.Random) -> None:
        super().__init__(GEOMETRY, part_bytes=PART)
        self._prng = prng

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> bytes | None:
        await asyncio.sleep(self._prng.random() / 50)
        data = self.blocks.get(extent.offset // BLOCK)
        await asyncio.sleep(self._prng.random() / 50)
        return data

    async def read_part(self, extent: Extent, *, priority: Priority = Priority.READ) -> Part | None:
        await asyncio.sleep(self._prng.random() / 50)
        part = await super().read_part(extent, priority=priority)
        await asyncio.sleep(self._prng.random() / 50)
        return part

    async def commit(
        self, changes: Sequence[Change], *, priority: Priority = Priority.UPLOAD
    ) -> Mapping[int, Tag]:
        await asyncio.sleep(self._prng.random() / 50)
        tags = await super().commit(changes, priority=priority)
        await asyncio.sleep(self._prng.random() / 50)
        return tags


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 60))]
)
def test_many_at_once_agree_with_a_byte_array(seed: int) -> None:
    """Readers and writers of small caches over a slow layout: each has his own bytes of every block, so that
    what he reads is what he wrote last."""

    @on_virtual_time
    async def run() -> None:
        prng = random.Random(seed)
        layout = SlowLayout(prng)
        layout.blocks = {block: content(block) for block in range(0, BLOCKS, 2)}
        async with running(
            layout, memory_blocks=prng.choice([2, 4, BLOCKS]), read_ahead_blocks=prng.choice([0, 8])
        ) as (disk, cache):
            blocks = prng.choice([3, 8, BLOCKS])
            workers = [worker(disk, random.Random(prng.random()), number, blocks) for number in range(8)]
            await asyncio.gather(*workers)
            await disk.flush()
            # Of few blocks each may be written before anybody reads it.
            assert figure(cache, "part_loads") > 0 or blocks < BLOCKS

    run()


async def worker(disk: Disk, prng: random.Random, number: int, blocks: int) -> None:
    """Alone with its eighth of each block."""
    size = BLOCK // 8
    mine = {
        block: bytearray((content(block) if block % 2 == 0 else bytes(BLOCK))[number * size :][:size])
        for block in range(blocks)
    }
    for _ in range(80):
        block = prng.randrange(blocks)
        start = prng.randrange(size)
        end = min(size, start + prng.choice([1, 64, size]))
        offset = block * BLOCK + number * size
        match prng.randrange(6):
            case 0:
                data = prng.choice([prng.randbytes(end - start), bytes(end - start)])
                mine[block][start:end] = data
                if not disk.write_nowait(offset + start, data):
                    await disk.write(offset + start, data)
            case 1:
                await asyncio.sleep(prng.random() / 10)
            case _:
                found = await read(disk, block, number * size + start, end - start)
                assert found == mine[block][start:end]
