"""The block cache over a layout that can be held and failed at will."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bucketry.cache.block_cache import BlockCache
from bucketry.core.block_table import SLOT_BYTES
from bucketry.core.geometry import Geometry, Span
from bucketry.core.zero_map import ZeroMap
from bucketry.errors import Closed, Corrupt, Invalid, Unavailable
from bucketry.settings import CacheSettings
from bucketry.testing.memory_layout import Gate, MemoryLayout
from bucketry.testing.virtual_time import on_virtual_time

BLOCK = 4096
BLOCKS = 64


def block_of(byte: int) -> bytes:
    return bytes([byte]) * BLOCK


async def settle(turns: int = 20) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must happen soon; the limit only turns a hang into a failure."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(
    layout: MemoryLayout | None = None,
    *,
    memory_blocks: int = 32,
    dirty_blocks: int = 16,
    write_delay_seconds: float = 3600.0,
    read_ahead_blocks: int = 0,
) -> AsyncIterator[tuple[BlockCache, MemoryLayout]]:
    """A started and surveyed cache; nothing is uploaded unless a flush or the dirty limit asks."""
    layout = layout or MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    one = BLOCK + SLOT_BYTES
    settings = CacheSettings(
        memory_bytes=memory_blocks * one,
        dirty_max_bytes=dirty_blocks * one,
        write_delay_seconds=write_delay_seconds,
        read_ahead_bytes=read_ahead_blocks * BLOCK,
    )
    cache = BlockCache(layout, settings)
    cache.start()
    try:
        yield cache, layout
    finally:
        layout.read_gate.open()
        layout.commit_gate.open()
        layout.survey_gate.open()
        await cache.abandon()


async def read(cache: BlockCache, block: int) -> bytes:
    (data,) = await cache.read([Span(block, 0, BLOCK)])
    return bytes(data)


def figure(cache: BlockCache, name: str) -> object:
    figures = cache.statistics()["cache"]
    assert isinstance(figures, dict)
    return figures[name]


async def test_flush_makes_acknowledged_writes_durable() -> None:
    """After a flush the bucket holds what was written."""
    async with running() as (cache, layout):
        await cache.write(3, 0, block_of(7))
        assert layout.blocks == {}
        await cache.flush()
        assert layout.blocks == {3: block_of(7)}


async def test_flush_waits_for_uploads_already_under_way() -> None:
    """A flush that finds nothing dirty but an upload in flight waits for that upload."""
    async with running(write_delay_seconds=0) as (cache, layout):
        layout.commit_gate.close()
        await cache.write(1, 0, block_of(1))
        await until(lambda: layout.commit_gate.waiting == 1)
        flush = asyncio.create_task(cache.flush())
        await settle()
        assert not flush.done()
        layout.commit_gate.open()
        await flush
        assert layout.blocks == {1: block_of(1)}


async def test_flush_waits_for_a_rewrite_during_the_upload() -> None:
    """A block rewritten while its older content is on its way is uploaded once more before the flush
    returns."""
    async with running(write_delay_seconds=0) as (cache, layout):
        layout.commit_gate.close()
        await cache.write(1, 0, block_of(1))
        await until(lambda: layout.commit_gate.waiting == 1)
        await cache.write(1, 100, b"new")
        flush = asyncio.create_task(cache.flush())
        layout.commit_gate.open()
        await flush
        assert layout.blocks[1] == b"\1" * 100 + b"new" + b"\1" * (BLOCK - 103)
        assert layout.commit_log == [[1], [1]]


async def test_flush_does_not_wait_for_what_is_written_after_it_began() -> None:
    """Writes that come during a flush belong to the next one."""
    async with running() as (cache, layout):
        await cache.write(1, 0, block_of(1))
        layout.commit_gate.close()
        flush = asyncio.create_task(cache.flush())
        await until(lambda: layout.commit_gate.waiting == 1)
        await cache.write(2, 0, block_of(2))
        layout.commit_gate.open()
        await flush
        assert layout.blocks == {1: block_of(1)}


@on_virtual_time
async def test_a_block_that_was_written_to_its_end_is_uploaded_at_once() -> None:
    """No time passes, while a block that was written in part waits for its delay."""
    async with running(write_delay_seconds=0.5) as (cache, layout):
        began = asyncio.get_running_loop().time()
        await cache.write(1, 0, block_of(1))
        await cache.write(2, 0, b"part")
        await settle()
        assert layout.blocks == {1: block_of(1)}
        assert asyncio.get_running_loop().time() == began
        await asyncio.sleep(0.6)
        assert layout.blocks.keys() == {1, 2}


@on_virtual_time
@pytest.mark.parametrize("size", [BLOCK, 100])
async def test_a_block_that_is_rewritten_is_uploaded_once_in_eight_delays(size: int) -> None:
    """However often, and whether or not it is written from its first byte to its last; others go at their
    time."""
    async with running(write_delay_seconds=0.5) as (cache, layout):
        uploads: list[Any] = []
        for number in range(600):
            if number == 500:
                await cache.write(2, 0, b"once")
            await cache.write(1, 0, block_of(number % 7 + 1)[:size])
            await asyncio.sleep(0.02)
            uploads.append(figure(cache, "uploads"))
        assert layout.blocks.keys() == {1, 2}
        assert uploads[-1] - uploads[499] <= 2
        assert 4 <= uploads[-1] <= 6
        await cache.flush()
        assert layout.blocks[1][:size] == block_of(599 % 7 + 1)[:size]


@on_virtual_time
async def test_with_a_long_write_delay_every_block_waits() -> None:
    """Who sets one wants few requests."""
    async with running(write_delay_seconds=5.0) as (cache, layout):
        await cache.write(1, 0, block_of(1))
        await asyncio.sleep(4.9)
        assert layout.blocks == {}
        await asyncio.sleep(0.2)
        assert layout.blocks == {1: block_of(1)}


@pytest.mark.logs("not in the bucket yet")
async def test_a_failed_upload_is_reported_by_the_flush_and_kept() -> None:
    """A flush that could not upload raises; the block stays readable and dirty, and the next flush uploads
    it."""
    async with running() as (cache, layout):
        await cache.write(5, 0, block_of(5))
        layout.commit_error = Unavailable("the store is away")
        with pytest.raises(Unavailable, match="the store is away"):
            await cache.flush()
        assert await read(cache, 5) == block_of(5)
        assert figure(cache, "dirty_count") == 1
        layout.commit_error = None
        await cache.flush()
        assert layout.blocks == {5: block_of(5)}
        assert figure(cache, "dirty_bytes") == 0


@pytest.mark.logs("not in the bucket yet")
async def test_a_background_failure_heals_by_itself() -> None:
    """When an upload fails without anybody waiting, it is tried again later; the error shows in the
    statistics."""
    async with running(write_delay_seconds=0) as (cache, layout):
        layout.commit_error = Unavailable("away")
        await cache.write(5, 0, block_of(5))
        await until(lambda: figure(cache, "upload_failures") == 1)
        assert figure(cache, "last_error") == "away"
        layout.commit_error = None
        await until(lambda: layout.blocks == {5: block_of(5)})
        assert figure(cache, "last_error") == ""


async def test_concurrent_misses_of_a_block_read_it_once() -> None:
    """Ten readers of one cold block cost one request."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    async with running(layout) as (cache, _):
        layout.read_gate.close()
        readers = [asyncio.create_task(read(cache, 9)) for _ in range(10)]
        await until(lambda: layout.read_gate.waiting == 1)
        layout.read_gate.open()
        assert await asyncio.gather(*readers) == [block_of(9)] * 10
        assert layout.read_log == [9]


async def test_a_cancelled_reader_does_not_disturb_the_others() -> None:
    """Cancelling one of two readers of a cold block leaves the other its answer."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    async with running(layout) as (cache, _):
        layout.read_gate.close()
        first = asyncio.create_task(read(cache, 9))
        second = asyncio.create_task(read(cache, 9))
        await until(lambda: layout.read_gate.waiting == 1)
        first.cancel()
        await settle()
        layout.read_gate.open()
        assert await second == block_of(9)


async def test_small_writes_into_an_unknown_block_read_nothing_until_it_is_uploaded() -> None:
    """Writing, and reading what was written, need no request; the flush reads the rest of the block once."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    async with running(layout) as (cache, _):
        await cache.write(9, 10, b"aaaa")
        await cache.write(9, 12, b"bbbb")
        assert cache.read_nowait(9, 11, 15) == b"abbb"
        assert cache.read_nowait(9, 9, 12) is None
        assert layout.read_log == []
        await cache.flush()
        assert layout.read_log == [9]
        assert layout.blocks[9] == b"\x09" * 10 + b"aabbbb" + b"\x09" * (BLOCK - 16)


async def test_a_block_written_whole_in_pieces_is_never_read() -> None:
    """When small writes have covered a block, nothing of its old content is asked for."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    async with running(layout) as (cache, _):
        for start in (1024, 0, 3072, 2048):
            await cache.write(9, start, bytes([start // 1024 + 1]) * 1024)
        await cache.flush()
        assert layout.read_log == []
        assert layout.blocks[9] == b"".join(bytes([n]) * 1024 for n in (1, 2, 3, 4))


async def test_writes_during_a_load_stay_over_what_arrives() -> None:
    """Small and whole writes into blocks that are on their way do not wait, and win over what was loaded."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks = {8: block_of(8), 9: block_of(9)}
    async with running(layout) as (cache, _):
        layout.read_gate.close()
        readers = [asyncio.create_task(read(cache, n)) for n in (8, 9)]
        await until(lambda: layout.read_gate.waiting == 2)
        await cache.write(8, 1, b"x")
        await cache.write(9, 0, block_of(1))
        layout.read_gate.open()
        eight, nine = await asyncio.gather(*readers)
        assert eight == b"\x08x" + b"\x08" * (BLOCK - 2)
        assert nine == block_of(1)
        await cache.flush()
        assert layout.blocks == {8: eight, 9: nine}


@pytest.mark.logs("kept in memory until the block is written whole")
async def test_a_damaged_block_holds_up_nothing_else_and_can_be_replaced() -> None:
    """A small write into an unreadable block is kept, and every flush reports it; other writes reach the
    bucket all the same; writing the block whole repairs it."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    layout.read_error = Corrupt("block 9 is damaged")
    async with running(layout) as (cache, _):
        with pytest.raises(Corrupt):
            await read(cache, 9)
        await cache.write(9, 1, b"x")
        await cache.write(5, 0, block_of(5))
        for _ in range(2):
            with pytest.raises(Corrupt):
                await cache.flush()
        assert layout.blocks == {5: block_of(5), 9: block_of(9)}
        assert cache.read_nowait(9, 1, 2) == b"x"
        assert figure(cache, "aside_count") == figure(cache, "dirty_count") == 1
        await cache.write(9, 0, block_of(1))
        await cache.flush()
        assert layout.blocks[9] == block_of(1)
        assert await read(cache, 9) == block_of(1)
        assert figure(cache, "dirty_bytes") == 0


@pytest.mark.logs("kept in memory until the block is written whole")
async def test_a_damaged_block_that_was_mended_gets_its_write() -> None:
    """When the block can be read again, the next flush uploads what was set aside."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    layout.read_error = Corrupt("block 9 is damaged")
    async with running(layout) as (cache, _):
        await cache.write(9, 0, b"x")
        with pytest.raises(Corrupt):
            await cache.flush()
        layout.read_error = None
        await cache.flush()
        assert layout.blocks[9] == b"x" + b"\x09" * (BLOCK - 1)


@pytest.mark.logs("kept in memory until the block is written whole")
async def test_a_damaged_block_is_told_once_to_each_who_flushes() -> None:
    """A write into an unreadable block fails the next flush of everybody who was there, once; then flushes
    speak of what was written since. Who comes later is not told; the next such write is told anew; a flush
    without a cursor, and the end, always tell."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks.update({9: block_of(9), 8: block_of(8)})
    layout.read_error = Corrupt("a block is damaged")
    async with running(layout) as (cache, _):
        first, second = cache.error_cursor(), cache.error_cursor()
        await cache.write(9, 1, b"x")
        with pytest.raises(Corrupt):
            await cache.flush(first)
        await cache.write(5, 0, block_of(5))
        await cache.flush(first)
        assert layout.blocks[5] == block_of(5)
        await cache.write(5, 0, block_of(6))
        with pytest.raises(Corrupt):
            await cache.flush(second)
        for cursor in (first, second, cache.error_cursor()):
            await cache.flush(cursor)
        assert layout.blocks[5] == block_of(6)
        for block in (9, 8):
            await cache.write(block, 3, b"y")
            for cursor in (first, second):
                with pytest.raises(Corrupt):
                    await cache.flush(cursor)
                await cache.flush(cursor)
        with pytest.raises(Corrupt, match=r"written in part cannot be read: 8, 9; a block is damaged"):
            await cache.flush()
        for block in (9, 8):
            await cache.write(block, 0, block_of(1))
        await cache.flush()
        assert layout.blocks[9] == layout.blocks[8] == block_of(1)


@pytest.mark.logs("kept in memory until the block is written whole")
async def test_what_cannot_be_read_is_given_up() -> None:
    """What was written into a damaged block stays, the rest is zero; a block that is in memory is uploaded as
    it is; one that nobody wrote to becomes zero."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks.update({7: block_of(7), 8: block_of(8), 9: block_of(9)})
    async with running(layout) as (cache, _):
        assert await read(cache, 8) == block_of(8)
        layout.blocks[8] = block_of(0xFF)
        layout.read_error = Corrupt("a block is damaged")
        await cache.write(9, 1, b"x")
        with pytest.raises(Corrupt):
            await cache.flush()
        for block in (7, 8, 9):
            await cache.zero_unreadable(block)
        await cache.flush()
        assert 7 not in layout.blocks
        assert layout.blocks[8] == block_of(8)
        assert layout.blocks[9] == b"\0x" + bytes(BLOCK - 2)
        assert figure(cache, "dirty_bytes") == 0


async def test_a_later_epoch_waits_for_the_earlier_one() -> None:
    """No write after a flush reaches the bucket before everything from before it has."""
    async with running(write_delay_seconds=0) as (cache, layout):
        layout.commit_gate.close()
        for n in range(6):
            await cache.write(n, 0, block_of(1))
        first = asyncio.create_task(cache.flush())
        await settle()
        await cache.write(10, 0, block_of(2))
        second = asyncio.create_task(cache.flush())
        await settle()
        assert layout.commit_gate.waiting == 4
        layout.commit_gate.open()
        await first
        await second
        order = [block for numbers in layout.commit_log for block in numbers]
        assert order == [0, 1, 2, 3, 4, 5, 10]


async def test_a_block_rewritten_in_a_later_epoch_keeps_its_older_version_until_then() -> None:
    """The bucket gets the block as it was at the flush, before it gets what was written later."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[1] = block_of(9)
    async with running(layout) as (cache, _):
        await cache.write(1, 0, b"old")
        await cache.write(2, 0, block_of(2))
        layout.commit_gate.close()
        flush = asyncio.create_task(cache.flush())
        await until(lambda: layout.commit_gate.waiting == 2)
        await cache.write(1, 0, b"new!")
        await cache.write(2, 0, block_of(3))
        layout.commit_gate.open()
        await flush
        assert layout.blocks == {1: b"old" + b"\x09" * (BLOCK - 3), 2: block_of(2)}
        await cache.flush()
        assert layout.blocks == {1: b"new!" + b"\x09" * (BLOCK - 4), 2: block_of(3)}


@pytest.mark.logs("not in the bucket yet")
async def test_a_failed_epoch_holds_the_next_one_back() -> None:
    """While an epoch cannot be uploaded nothing of the next one is; when it can, both go, in order."""
    async with running() as (cache, layout):
        await cache.write(1, 0, block_of(1))
        layout.commit_error = Unavailable("away")
        with pytest.raises(Unavailable):
            await cache.flush()
        await cache.write(2, 0, block_of(2))
        with pytest.raises(Unavailable):
            await cache.flush()
        assert {block for numbers in layout.commit_log for block in numbers} == {1}
        layout.commit_error = None
        await cache.flush()
        assert layout.commit_log[-2:] == [[1], [2]]


@pytest.mark.parametrize("zero", [False, True])
async def test_a_load_that_an_upload_overtook_is_not_believed(zero: bool) -> None:
    """A block is being read; meanwhile it is replaced, uploaded, and evicted. What the old read brings is not
    taken for the block's content, neither by who waits for it nor later."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[9] = block_of(9)
    async with running(layout, memory_blocks=2, dirty_blocks=2) as (cache, _):
        layout.read_gate.close()
        reader = asyncio.create_task(read(cache, 9))
        await until(lambda: layout.read_gate.waiting == 1)
        await (cache.zero(9) if zero else cache.write(9, 0, block_of(1)))
        await cache.flush()
        for n in range(4):
            await cache.write(n, 0, block_of(n + 20))
            await cache.flush()
        layout.read_gate.open()
        expected = bytes(BLOCK) if zero else block_of(1)
        assert await reader == expected
        assert await read(cache, 9) == expected


async def test_a_reader_gets_what_was_written_before_it_asked() -> None:
    """A small write into an unknown block, then a read of more than was written: also when the block is
    uploaded and evicted between its arrival and the reader's turn, the reader gets the write."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks = {8: block_of(8), 9: block_of(9)}
    async with running(layout, memory_blocks=1, dirty_blocks=1, write_delay_seconds=0) as (cache, _):
        await cache.write(9, 0, b"mine")
        layout.read_gates[8] = Gate()
        layout.read_gates[8].close()
        reader = asyncio.create_task(cache.read([Span(8, 0, BLOCK), Span(9, 0, BLOCK)]))
        await until(lambda: layout.blocks[9][:4] == b"mine")
        await cache.write(20, 0, block_of(20))
        await cache.flush()
        layout.read_gates[8].open()
        assert [bytes(part) for part in await reader][1] == b"mine" + b"\x09" * (BLOCK - 4)


@on_virtual_time
async def test_uploads_begin_before_anybody_has_to_wait() -> None:
    """When half of what may be dirty is, whatever the delay."""
    async with running(dirty_blocks=8) as (cache, layout):
        for n in range(4):
            await cache.write(n, 0, block_of(n + 1))
        await asyncio.sleep(1.0)
        assert layout.blocks == {}
        await cache.write(4, 0, block_of(5))
        await asyncio.sleep(1.0)
        assert layout.blocks == {n: block_of(n + 1) for n in range(4)}  # and half is left


@on_virtual_time
async def test_the_fuller_the_cache_the_sooner_uploads_begin() -> None:
    """From half of what may be dirty on."""
    waited = {}
    for count in (4, 5, 6, 7):
        async with running(dirty_blocks=8, write_delay_seconds=0.8) as (cache, layout):
            began = asyncio.get_running_loop().time()
            for n in range(count):
                await cache.write(n, 1, b"a part".ljust(BLOCK - 1))
            await until(lambda layout=layout: bool(layout.blocks))  # type: ignore[misc]
            waited[count] = round(asyncio.get_running_loop().time() - began, 1)
    assert waited == {4: 0.8, 5: 0.6, 6: 0.4, 7: 0.2}


async def test_writers_wait_for_room_and_go_on() -> None:
    """Above the dirty limit writers wait; each upload lets them on; nothing is lost on the way."""
    async with running(dirty_blocks=4) as (cache, layout):
        layout.commit_gate.close()
        writers = [asyncio.create_task(cache.write(n, 0, block_of(n + 1))) for n in range(12)]
        await until(lambda: layout.commit_gate.waiting == 4)
        assert sum(writer.done() for writer in writers) == 4
        assert figure(cache, "waiting_for_room_count") == 8
        layout.commit_gate.open()
        await asyncio.gather(*writers)
        await cache.flush()
        assert layout.blocks == {n: block_of(n + 1) for n in range(12)}


@on_virtual_time
async def test_writers_are_let_in_in_their_order_and_not_all_at_once() -> None:
    """Of many who wait each upload wakes as many as it makes room for, those first who came first; and who
    gives up in his turn leaves it to the next."""
    count, dirty = 400, 4
    layout = MemoryLayout(Geometry(BLOCK * count, BLOCK))
    async with running(layout, dirty_blocks=dirty, write_delay_seconds=0.0) as (cache, _):
        done: list[int] = []

        async def write(block: int) -> None:
            await cache.write(block, 0, block_of(block % 200 + 1))
            done.append(block)

        layout.commit_gate.close()
        writers = [asyncio.create_task(write(n)) for n in range(count)]
        await until(lambda: figure(cache, "waiting_for_room_count") == count - dirty)
        for n in range(dirty, count, 3):
            writers[n].cancel()
        layout.commit_gate.open()
        results = await asyncio.gather(*writers, return_exceptions=True)
        left = [n for n in range(count) if n < dirty or (n - dirty) % 3]
        assert done == left
        assert [n for n, result in enumerate(results) if result is None] == left
        assert cache.statistics()["cache"]["room_waits"] <= count + dirty  # type: ignore[index]


@on_virtual_time
async def test_a_writer_that_is_cancelled_when_it_was_let_in_leaves_its_room_to_the_next() -> None:
    async with running(dirty_blocks=1, write_delay_seconds=0.0) as (cache, layout):
        layout.commit_gate.close()
        await cache.write(0, 0, block_of(1))
        first, second = (asyncio.create_task(cache.write(n, 0, block_of(n + 1))) for n in (1, 2))
        await until(lambda: figure(cache, "waiting_for_room_count") == 2)
        layout.commit_gate.open()
        while figure(cache, "waiting_for_room_count") == 2:
            await asyncio.sleep(0)
        assert not first.done()
        first.cancel()
        async with asyncio.timeout(1.0):
            await second
        assert first.cancelled()


async def test_memory_stays_within_its_limit() -> None:
    """Reading more blocks than fit evicts; what is used all the time is fetched twice at most."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks = {n: block_of(n + 1) for n in range(BLOCKS)}
    async with running(layout, memory_blocks=8, dirty_blocks=4) as (cache, _):
        for n in range(20):
            assert await read(cache, n) == block_of(n + 1)
            assert await read(cache, 0) == block_of(1)
        assert figure(cache, "held_bytes") == 8 * (BLOCK + SLOT_BYTES)
        assert [n for n in layout.read_log if n] == list(range(1, 20))
        assert layout.read_log.count(0) == 2


async def test_known_zeros_cost_no_request() -> None:
    """After the survey of an empty bucket, reads, zero writes and zeroing ask the bucket for nothing."""
    async with running() as (cache, layout):
        await cache.wait_surveyed()
        assert await read(cache, 1) == bytes(BLOCK)
        await cache.write(1, 100, bytes(50))
        await cache.write(2, 0, bytes(BLOCK))
        await cache.zero_blocks(0, BLOCKS)
        await cache.flush()
        assert (layout.read_log, layout.commit_log) == ([], [])


async def test_a_block_that_became_zero_is_deleted() -> None:
    """Writing zeros over data, in pieces, ends with the block gone from the bucket."""
    async with running() as (cache, layout):
        await cache.write(1, 0, block_of(1))
        await cache.flush()
        await cache.write(1, 0, bytes(BLOCK // 2))
        await cache.write(1, BLOCK // 2, bytes(BLOCK // 2))
        await cache.flush()
        assert layout.blocks == {}
        assert cache.zeros.is_zero(1)
        assert figure(cache, "held_bytes") == 0


async def test_deletes_go_together() -> None:
    """Many zeroed blocks go in few commits, as the layout likes them."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK), zeros_max=8)
    layout.blocks = {n: block_of(1) for n in range(20)}
    async with running(layout) as (cache, _):
        await cache.zero_blocks(0, 20)
        await cache.flush()
        assert layout.blocks == {}
        assert sorted(len(numbers) for numbers in layout.commit_log) == [4, 8, 8]


async def test_writes_during_the_survey_survive_it() -> None:
    """A block written and uploaded after the listing was made, before the survey ends, is not taken for
    zero."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.survey_gate.close()
    async with running(layout, memory_blocks=2, dirty_blocks=1) as (cache, _):
        await until(lambda: layout.survey_gate.waiting == 1)
        for n in range(8):
            await cache.write(n, 0, block_of(n + 1))
        await cache.flush()
        layout.survey_gate.open()
        await cache.wait_surveyed()
        for n in range(8):
            assert await read(cache, n) == block_of(n + 1)
        assert cache.zeros.surveyed


@pytest.mark.logs("no listing today")
async def test_a_failed_survey_only_costs_knowledge() -> None:
    """Without a listing everything still reads right, by asking."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks[3] = block_of(3)
    layout.survey_error = Unavailable("no listing today")
    async with running(layout) as (cache, _):
        await cache.wait_surveyed()
        assert await read(cache, 3) == block_of(3)
        assert await read(cache, 4) == bytes(BLOCK)
        assert await read(cache, 4) == bytes(BLOCK)
        assert layout.read_log == [3, 4]


async def test_a_sequential_reader_is_fetched_ahead_of() -> None:
    """The third sequential block has been asked for before the reader gets there, and nothing is asked for
    twice."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks = {n: block_of(n + 1) for n in range(BLOCKS)}
    async with running(layout, read_ahead_blocks=8) as (cache, _):
        assert await read(cache, 0) == block_of(1)
        assert await read(cache, 1) == block_of(2)
        await settle()
        assert 2 in layout.read_log
        for n in range(2, BLOCKS):
            assert await read(cache, n) == block_of(n + 1)
        assert sorted(layout.read_log) == list(range(BLOCKS))


async def test_a_rewrite_before_the_upload_has_begun_is_not_part_of_it() -> None:
    """A block rewritten after it was chosen for upload, but before the upload's task first ran, is uploaded
    twice: each time with bytes that hold still (the layout checks), the newer ones last."""
    async with running() as (cache, layout):
        await cache.write(1, 0, block_of(1))
        flush = asyncio.create_task(cache.flush())
        await asyncio.sleep(0)
        await cache.write(1, 0, block_of(2))
        await cache.write(1, 5, b"x")
        await flush
        assert layout.blocks == {1: block_of(1)}
        await cache.flush()
        assert layout.blocks[1][:7] == b"\2\2\2\2\2x\2"


async def test_a_refreshed_cache_sees_what_has_changed() -> None:
    """What was read, what was known to be zero, and what was on its way are all asked for anew."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks = {1: block_of(1), 3: block_of(3)}
    cache = BlockCache(layout, CacheSettings(), read_only=True)
    cache.start()
    try:
        await cache.wait_surveyed()
        assert (await read(cache, 1), await read(cache, 2)) == (block_of(1), bytes(BLOCK))
        layout.read_gate.close()
        late = asyncio.create_task(read(cache, 3))
        await until(lambda: layout.read_gate.waiting == 1)
        layout.blocks = {1: block_of(4), 2: block_of(5), 3: block_of(6)}
        await cache.refresh()
        layout.read_gate.open()
        assert await late == block_of(6)
        assert [await read(cache, n) for n in (1, 2)] == [block_of(4), block_of(5)]
    finally:
        await cache.abandon()


async def test_only_a_read_only_cache_is_refreshed() -> None:
    """A writer's cache is right, and holds what nobody else has."""
    async with running() as (cache, _):
        with pytest.raises(Invalid):
            await cache.refresh()


async def test_closing_flushes_and_then_refuses() -> None:
    """After close the bucket has everything and every call says Closed."""
    async with running() as (cache, layout):
        await cache.write(1, 0, block_of(1))
        await cache.close()
        assert layout.blocks == {1: block_of(1)}
        for call in (cache.read([Span(0, 0, 1)]), cache.write(0, 0, b"x"), cache.flush()):
            with pytest.raises(Closed):
                await call


@pytest.mark.logs("not in the bucket yet")
async def test_a_close_that_cannot_flush_can_be_tried_again() -> None:
    """When the last flush fails the cache goes on, and a later close succeeds."""
    async with running() as (cache, layout):
        await cache.write(1, 0, block_of(1))
        layout.commit_error = Unavailable("away")
        with pytest.raises(Unavailable):
            await cache.close()
        layout.commit_error = None
        await cache.close()
        assert layout.blocks == {1: block_of(1)}


async def test_abandoning_says_what_is_lost() -> None:
    """Stopping without a flush returns the dirty bytes that it throws away."""
    async with running() as (cache, _):
        await cache.write(1, 0, block_of(1))
        assert await cache.abandon() == BLOCK + SLOT_BYTES


async def test_zeros_that_are_known_already_are_used_at_once() -> None:
    """No request for them, nor waiting for the survey; which still goes on, and adds what it finds."""
    layout = MemoryLayout(Geometry(BLOCK * BLOCKS, BLOCK))
    layout.blocks = {1: block_of(1), 2: block_of(2)}
    known = ZeroMap(BLOCKS)
    known.begin_survey()
    known.note_found(1, 6)
    known.finish_survey()
    zeros = ZeroMap.decode(known.encode(), BLOCKS)
    layout.survey_gate.close()
    cache = BlockCache(layout, CacheSettings(), zeros=zeros)
    cache.start()
    await cache.wait_surveyed()
    assert await read(cache, 1) == block_of(1)
    assert await read(cache, 0) == bytes(BLOCK)
    assert layout.read_log == [1]
    layout.survey_gate.open()
    while cache.zeros.nonzero_count() > 2:
        await asyncio.sleep(0)
    assert await read(cache, 4) == bytes(BLOCK)
    assert layout.read_log == [1]
    await cache.close()


async def test_who_waits_for_room_hears_that_none_will_come() -> None:
    """When nothing can be uploaded any more, waiting writers and flushes fail, and so do later ones."""
    async with running(dirty_blocks=1) as (cache, layout):
        layout.commit_gate.close()
        await cache.write(1, 0, block_of(1))
        flush = asyncio.create_task(cache.flush())
        waiting = asyncio.create_task(cache.write(2, 0, block_of(2)))
        await settle()
        assert not waiting.done()
        cache.fail(Unavailable("for good"))
        for task in (flush, waiting):
            with pytest.raises(Unavailable, match="for good"):
                await task
        with pytest.raises(Unavailable, match="for good"):
            await cache.write(3, 0, block_of(3))


async def test_a_flush_under_way_ends_with_the_cache() -> None:
    """Whoever waits for a flush when the cache is abandoned is told."""
    async with running() as (cache, layout):
        layout.commit_gate.close()
        await cache.write(1, 0, block_of(1))
        flush = asyncio.create_task(cache.flush())
        await settle()
        await cache.abandon()
        with pytest.raises(Closed):
            await flush


@pytest.mark.logs("damaged block")
async def test_a_flush_waits_for_what_was_set_aside_and_is_readable_again() -> None:
    """A reader who gets the block while a flush waits for others does not take it from that flush."""
    async with running() as (cache, layout):
        layout.blocks[1] = block_of(7)
        layout.read_error = Corrupt("damaged")
        await cache.write(1, 0, b"new")
        await cache.write(2, 0, block_of(2))
        layout.commit_gate.close()
        flush = asyncio.create_task(cache.flush())
        await settle()
        assert figure(cache, "aside_count") == 1
        layout.read_error = None
        layout.read_gate.close()
        reader = asyncio.create_task(read(cache, 1))
        await settle()
        layout.commit_gate.open()  # the flush's epoch ends, and just after it the read
        layout.read_gate.open()
        await flush
        assert (await reader).startswith(b"new")
        assert layout.blocks[1] == b"new" + block_of(7)[3:]
        assert figure(cache, "dirty_count") == 0


@pytest.mark.logs("damaged block")
async def test_what_was_set_aside_goes_when_a_read_completes_it() -> None:
    """Without any flush or write: the write delay after it became readable it is uploaded."""
    async with running(write_delay_seconds=0.01) as (cache, layout):
        layout.blocks[1] = block_of(7)
        layout.read_error = Corrupt("damaged")
        await cache.write(1, 0, b"new")
        await until(lambda: figure(cache, "aside_count") == 1)
        layout.read_error = None
        await read(cache, 1)
        await until(lambda: layout.blocks[1] == b"new" + block_of(7)[3:])


@pytest.mark.logs("damaged block")
@on_virtual_time
async def test_what_was_set_aside_is_tried_again_by_itself() -> None:
    """A block that was damaged on its way is asked for again after a while, and waiting writers get room."""
    async with running(dirty_blocks=1, write_delay_seconds=0.0) as (cache, layout):
        layout.blocks[1] = block_of(7)
        layout.read_error = Corrupt("damaged")
        await cache.write(1, 0, b"new")
        waiting = asyncio.create_task(cache.write(2, 0, block_of(2)))
        await asyncio.sleep(100.0)
        assert not waiting.done()
        layout.read_error = None
        await waiting
        await cache.flush()
        assert layout.blocks[1] == b"new" + block_of(7)[3:]
