"""Small writes that are flushed into a journal wait for nothing but the journal, whatever is known of their
blocks."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bucketry.cache.block_cache import BlockCache
from bucketry.cache.journal import Journal
from bucketry.codec.offload import inline
from bucketry.core.block_table import SLOT_BYTES
from bucketry.core.geometry import Geometry, Span
from bucketry.core.journal import JournalIdentity
from bucketry.settings import CacheSettings
from bucketry.testing.memory_files import MemoryFiles
from bucketry.testing.memory_layout import MemoryLayout
from bucketry.testing.virtual_time import on_virtual_time

BLOCK = 32 << 10
BLOCKS = 16
PAGE = 4096
#: Three times what would fit if each flushed write cost a copy of its block.
WRITES = 5 * BLOCKS


@asynccontextmanager
async def running(*, filled: bool, memory_blocks: int) -> AsyncIterator[tuple[BlockCache, MemoryLayout]]:
    """A cache with a journal whose bucket can be held; half of the memory may be dirty."""
    geometry = Geometry(BLOCK * BLOCKS, BLOCK)
    layout = MemoryLayout(geometry)
    if filled:
        layout.blocks = {block: bytes([block + 1]) * BLOCK for block in range(BLOCKS)}
    identity = JournalIdentity("volume", "1", geometry.size_bytes, BLOCK)
    journal, _ = await Journal.open(MemoryFiles(), identity, size_bytes_max=64 << 20, offload=inline)
    settings = CacheSettings(
        memory_bytes=memory_blocks * (BLOCK + SLOT_BYTES),
        dirty_max_bytes=memory_blocks // 2 * (BLOCK + SLOT_BYTES),
        durability="journal",
        cache_dir=Path("/not-used"),
    )
    cache = BlockCache(layout, settings, journal=journal)
    cache.start()
    try:
        yield cache, layout
    finally:
        for gate in (layout.read_gate, layout.commit_gate, layout.survey_gate):
            gate.open()
        await cache.close()
        await journal.close(empty=True)


@pytest.mark.parametrize("state", ["not cached", "in memory", "not surveyed", "new"])
@on_virtual_time
async def test_three_times_the_memory_is_flushed_while_the_bucket_does_not_answer(state: str) -> None:
    """Each flush ends an epoch, which keeps what was written in it until the bucket has it: a page, not a
    block. Nothing is read from the bucket for it, and in the end the bucket has the last of each."""
    dice = random.Random(4)
    async with running(filled=state != "new", memory_blocks=3 * BLOCKS) as (cache, layout):
        if state != "not surveyed":
            await cache.wait_surveyed()
        if state == "in memory":
            for block in range(BLOCKS):
                await cache.read([Span(block, 0, BLOCK)])
        for gate in (layout.read_gate, layout.commit_gate, layout.survey_gate):
            gate.close()
        expected = {block: bytearray(data) for block, data in layout.blocks.items()}
        for _ in range(WRITES):
            block, start, page = (
                dice.randrange(BLOCKS),
                dice.randrange(BLOCK // PAGE) * PAGE,
                dice.randbytes(PAGE),
            )
            assert cache.write_nowait(block, start, page)
            await cache.flush()
            expected.setdefault(block, bytearray(BLOCK))[start : start + PAGE] = page
        figures = cache.statistics()["cache"]
        assert isinstance(figures, dict)
        assert figures["room_waits"] == 0
        assert figures["held_bytes"] <= figures["held_bytes_max"]
        for gate in (layout.read_gate, layout.commit_gate, layout.survey_gate):
            gate.open()
        await cache.drain()
        assert layout.blocks == expected


@on_virtual_time
async def test_reading_what_is_dirty_in_part_does_not_fill_the_memory() -> None:
    """With room for four dirty blocks, pages of sixteen are written, and all read while nothing can be
    uploaded: each read is right, and no more is kept than there is room for."""
    async with running(filled=True, memory_blocks=8) as (cache, layout):
        layout.commit_gate.close()
        for block in range(BLOCKS):
            assert cache.write_nowait(block, PAGE, b"w" * 100)
            await cache.flush()
        for block in range(BLOCKS):
            (data,) = await cache.read([Span(block, 0, BLOCK)])
            whole = bytearray([block + 1]) * BLOCK
            whole[PAGE : PAGE + 100] = b"w" * 100
            assert bytes(data) == whole
            figures = cache.statistics()["cache"]
            assert isinstance(figures, dict)
            assert figures["held_bytes"] <= figures["held_bytes_max"] + BLOCK
