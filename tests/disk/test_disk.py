"""The disk against an array of bytes."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bucketry.cache.block_cache import BlockCache
from bucketry.core.geometry import Geometry
from bucketry.disk.disk import Disk
from bucketry.disk.interface import ExtentStatus
from bucketry.errors import Invalid, ReadOnly
from bucketry.settings import CacheSettings
from bucketry.testing.memory_layout import MemoryLayout

BLOCK = 1024
BLOCKS = 32
SIZE = BLOCK * BLOCKS


@asynccontextmanager
async def a_disk(
    layout: MemoryLayout, *, memory_blocks: int = 12, delay_seconds: float = 0.0, read_only: bool = False
) -> AsyncIterator[Disk]:
    settings = CacheSettings(
        memory_bytes=memory_blocks * (BLOCK + 512),
        dirty_max_bytes=memory_blocks * (BLOCK + 512) // 2,
        write_delay_seconds=delay_seconds,
        read_ahead_bytes=4 * BLOCK,
    )
    cache = BlockCache(layout, settings, read_only=read_only)
    cache.start()
    try:
        yield Disk(cache, layout.geometry, read_only=read_only)
        await cache.close()
    finally:
        await cache.abandon()


def a_layout() -> MemoryLayout:
    return MemoryLayout(Geometry(SIZE, BLOCK))


async def test_a_new_disk_is_zeros_and_a_hole() -> None:
    """Nothing stored reads as zeros and occupies nothing."""
    async with a_disk(a_layout()) as disk:
        assert bytes(await disk.read(0, SIZE)) == bytes(SIZE)
        assert await disk.extents(0, SIZE) == [ExtentStatus(0, SIZE, is_hole=True)]
        assert disk.allocated_bytes == 0


async def test_extents_follow_writes_and_trims() -> None:
    """Data and holes are told apart block by block, merged, and from any offset."""
    async with a_disk(a_layout()) as disk:
        await disk.write(2 * BLOCK + 5, b"x" * (3 * BLOCK))
        data = ExtentStatus(2 * BLOCK, 4 * BLOCK, is_hole=False)
        rest = ExtentStatus(6 * BLOCK, SIZE - 6 * BLOCK, is_hole=True)
        assert await disk.extents(0, SIZE) == [ExtentStatus(0, 2 * BLOCK, is_hole=True), data, rest]
        assert await disk.extents(2 * BLOCK + 1, 1) == [
            ExtentStatus(2 * BLOCK + 1, 4 * BLOCK - 1, is_hole=False)
        ]
        assert disk.allocated_bytes == 4 * BLOCK
        await disk.trim(0, SIZE)
        assert await disk.extents(0, SIZE) == [ExtentStatus(0, SIZE, is_hole=True)]


@pytest.mark.parametrize(
    ("offset", "length"), [(SIZE, 1), (0, SIZE + 1), (-1, 1), (SIZE - 1, 2), (0, -1), (2**63, 1)]
)
async def test_ranges_beyond_the_disk_are_refused(offset: int, length: int) -> None:
    """Every call refuses a range that is not within the disk."""
    async with a_disk(a_layout()) as disk:
        with pytest.raises(Invalid):
            await disk.read(offset, length)
        with pytest.raises(Invalid):
            disk.read_nowait(offset, length)
        with pytest.raises(Invalid):
            await disk.zero(offset, length)
        with pytest.raises(Invalid):
            await disk.extents(offset, length)
        if length > 0:
            with pytest.raises(Invalid):
                await disk.write(offset, bytes(length))
            with pytest.raises(Invalid):
                disk.write_nowait(offset, bytes(length))


async def test_a_read_only_disk_refuses_every_change() -> None:
    """Write, zero and trim raise ReadOnly and the layout hears nothing; reading and flushing go on."""
    layout = a_layout()
    layout.blocks[1] = b"a" * BLOCK
    async with a_disk(layout, read_only=True) as disk:
        for change in (disk.write(0, b"x"), disk.zero(0, SIZE), disk.trim(0, SIZE)):
            with pytest.raises(ReadOnly):
                await change
        with pytest.raises(ReadOnly):
            disk.write_nowait(0, b"x")
        await disk.flush()
        assert bytes(await disk.read(BLOCK - 1, 3)) == b"\0aa"
    assert layout.commit_log == []


async def test_a_large_request_is_executed_in_parallel() -> None:
    """All blocks of a cold read are asked for before the first of them has come."""
    layout = a_layout()
    layout.blocks = {n: bytes([n + 1]) * BLOCK for n in range(8)}
    async with a_disk(layout) as disk:
        layout.read_gate.close()
        reading = asyncio.create_task(disk.read(10, 8 * BLOCK - 10))
        async with asyncio.timeout(10):
            while layout.read_gate.waiting < 8:
                await asyncio.sleep(0)
        layout.read_gate.open()
        assert bytes(await reading) == b"".join(bytes([n + 1]) * BLOCK for n in range(8))[10:]


async def test_a_large_write_is_taken_at_once_as_long_as_there_is_room_for_all_of_it() -> None:
    """Six blocks may be dirty: five are taken without waiting, of five more none is."""
    layout = a_layout()
    async with a_disk(layout) as disk:
        layout.commit_gate.close()
        data = bytes(range(1, 251)) * (5 * BLOCK // 250 + 1)
        assert disk.write_nowait(10, data[: 5 * BLOCK - 20])
        assert not disk.write_nowait(8 * BLOCK, data[: 5 * BLOCK])
        assert bytes(await disk.read(0, 5 * BLOCK)) == bytes(10) + data[: 5 * BLOCK - 20] + bytes(10)
        layout.commit_gate.open()
        await disk.flush()
    stored = b"".join(layout.blocks[n] for n in range(5))
    assert stored == bytes(10) + data[: 5 * BLOCK - 20] + bytes(10)
    assert layout.blocks.keys() == set(range(5))


async def test_a_later_write_does_not_change_what_was_read() -> None:
    """The bytes that an awaited read returned stay as they were read."""
    async with a_disk(a_layout()) as disk:
        await disk.write(0, b"before")
        seen = await disk.read(0, 6)
        await disk.write(0, b"after!")
        assert bytes(seen) == b"before"


@pytest.mark.parametrize(
    "seed", [*range(15), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(15, 30))]
)
async def test_random_operations_agree_with_an_array_of_bytes(seed: int) -> None:
    """Random reads, writes, zeroes, trims and flushes at random offsets, one after another, over a small
    cache that evicts and uploads all the time; at the end the bucket alone holds the same bytes."""
    dice = random.Random(seed)
    layout, model = a_layout(), bytearray(SIZE)
    async with a_disk(
        layout, memory_blocks=dice.choice([2, 5, 40]), delay_seconds=dice.choice([0, 0.001])
    ) as disk:
        for _ in range(300):
            offset = dice.choice([dice.randrange(SIZE), dice.randrange(BLOCKS) * BLOCK])
            length = min(dice.choice([1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK]), SIZE - offset)
            match dice.randrange(8):
                case 0 | 1 | 2:
                    data = dice.randbytes(length) if dice.random() < 0.7 else bytes(length)
                    if not disk.write_nowait(offset, data):
                        await disk.write(offset, data)
                    model[offset : offset + length] = data
                case 3:
                    await disk.zero(offset, length)
                    model[offset : offset + length] = bytes(length)
                case 4:
                    await disk.trim(offset, length)
                    model[offset : offset + length] = bytes(length)
                case 5:
                    await disk.flush()
                    content = b"".join(layout.blocks.get(n, bytes(BLOCK)) for n in range(BLOCKS))
                    assert content == model
                case _:
                    seen = disk.read_nowait(offset, length)
                    if seen is None:
                        seen = await disk.read(offset, length)
                    assert bytes(seen) == model[offset : offset + length]
    assert b"".join(layout.blocks.get(n, bytes(BLOCK)) for n in range(BLOCKS)) == model


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 20))]
)
async def test_concurrent_operations_agree_with_an_array_of_bytes(seed: int) -> None:
    """Eight users at once, each with every eighth 37 bytes of the disk to itself, so that blocks are shared
    and bytes are not: each always reads what it wrote last."""
    dice = random.Random(seed)
    layout, model = a_layout(), bytearray(SIZE)
    users, cell = 8, 37

    async def user(number: int, disk: Disk) -> None:
        for _ in range(60):
            offset = (dice.randrange(SIZE // cell // users) * users + number) * cell
            start = dice.randrange(cell)
            length = dice.randrange(1, cell - start + 1)
            where = slice(offset + start, offset + start + length)
            match dice.randrange(5):
                case 0 | 1:
                    data = dice.randbytes(length)
                    if not disk.write_nowait(where.start, data):
                        await disk.write(where.start, data)
                    model[where] = data
                case 2:
                    await disk.zero(where.start, length)
                    model[where] = bytes(length)
                case 3:
                    await disk.flush()
                case _:
                    assert bytes(await disk.read(where.start, length)) == model[where]
            await asyncio.sleep(0)

    async with a_disk(layout, memory_blocks=dice.choice([3, 6, 40])) as disk:
        await asyncio.gather(*(user(number, disk) for number in range(users)))
    assert b"".join(layout.blocks.get(n, bytes(BLOCK)) for n in range(BLOCKS)) == model


async def test_a_flush_is_a_barrier_from_its_call_on() -> None:
    """Whatever it has to find out before it returns: what is written meanwhile belongs to the next flush."""
    layout = a_layout()
    is_asked, may_return = asyncio.Event(), asyncio.Event()

    async def assure() -> None:
        is_asked.set()
        await may_return.wait()

    cache = BlockCache(layout, CacheSettings(memory_bytes=SIZE, write_delay_seconds=3600.0))
    cache.start()
    disk = Disk(cache, layout.geometry, assure=assure)
    await disk.write(0, b"a" * BLOCK)
    flush = asyncio.create_task(disk.flush())
    await asyncio.sleep(0)
    await disk.write(BLOCK, b"b" * BLOCK)
    await is_asked.wait()
    assert sorted(layout.blocks) == [0]
    assert not flush.done()
    may_return.set()
    await flush
    await cache.close()
