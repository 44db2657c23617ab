"""The table of blocks in memory: its limits and its states."""

import random

import pytest

from bucketry.core.block_table import SLOT_BYTES, BlockTable, Slot, State
from bucketry.core.zero_map import ZeroMap

BLOCK = 16
ONE = BLOCK + SLOT_BYTES


def a_table(*, held: int = 8, dirty: int = 4, blocks: int = 16) -> BlockTable:
    return BlockTable(BLOCK, ZeroMap(blocks), held * ONE, dirty * ONE)


def take(table: BlockTable) -> list[Slot]:
    return table.take_due(float("inf"), BLOCK, 4)


def state_of(slot: Slot) -> State:
    """The state, read anew (a type checker takes an attribute that it has compared once for settled)."""
    return slot.state


def test_a_write_goes_dirty_uploading_clean() -> None:
    """The plain life of a block."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (slot,) = take(table)
    assert state_of(slot) is State.UPLOADING
    assert table.dirty_bytes == ONE
    table.finish(slot, ok=True, now=1.0)
    assert state_of(slot) is State.CLEAN
    assert table.dirty_bytes == 0
    assert take(table) == []


def test_a_write_during_the_upload_leaves_the_uploaded_bytes_alone() -> None:
    """Whoever uploads holds the old bytes; the slot goes on with a copy, and is dirty when the upload
    ends."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (slot,) = take(table)
    uploaded = slot.data
    table.write(1, 0, b"b", 1.0)
    table.write(1, 1, b"c", 1.0)
    assert uploaded == b"a" * BLOCK
    assert state_of(slot) is State.REWRITTEN
    table.finish(slot, ok=True, now=2.0)
    assert state_of(slot) is State.DIRTY
    assert take(table) == [slot]
    assert slot.data == b"bc" + b"a" * (BLOCK - 2)


def test_a_failed_upload_leaves_the_block_dirty() -> None:
    """Nothing is forgotten when an upload fails."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (slot,) = take(table)
    table.finish(slot, ok=False, now=1.0)
    assert state_of(slot) is State.DIRTY
    assert table.dirty_bytes == ONE
    assert take(table) == [slot]


def test_blocks_are_taken_in_the_order_in_which_they_became_dirty() -> None:
    """First dirtied, first uploaded; only what is old enough; and what a flush waits for before all else."""
    table = a_table()
    for block in (3, 1, 2):
        table.write(block, 0, b"a" * BLOCK, float(block))
    assert [slot.block for slot in table.take_due(0.5, BLOCK, 4)] == []
    assert [slot.block for slot in table.take_due(3.0, BLOCK, 4)] == [3]
    assert table.begin_flush() == {1: 1, 2: 1, 3: 1}
    table.write(5, 0, b"a" * BLOCK, 0.0)
    assert [slot.block for slot in table.take_due(0.0, 8 * BLOCK, 4)] == [1, 2, 5]


def test_a_block_rewritten_under_way_is_urgent_again_only_for_a_flush_that_saw_the_rewrite() -> None:
    """A flush puts a rewritten block before the others as soon as its upload has ended."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (slot,) = take(table)
    table.write(1, 0, b"b", 5.0)
    assert table.begin_flush() == {1: 2}
    table.finish(slot, ok=True, now=6.0)
    assert slot.uploaded == 1
    assert table.has_urgent
    assert table.take_due(0.0, BLOCK, 4) == [slot]


def test_has_room_ends_at_the_dirty_limit() -> None:
    """As many blocks as fit the limit become dirty; one that is dirty already may always be written again."""
    table = a_table(dirty=2)
    for block in (1, 2):
        assert table.has_room(block)
        table.write(block, 0, b"a" * BLOCK, 0.0)
    assert not table.has_room(3)
    assert table.has_room(1)


def test_one_block_always_has_room() -> None:
    """A limit smaller than a block still lets one block at a time through."""
    table = BlockTable(BLOCK, ZeroMap(4), 1, 1)
    assert table.has_room(0)
    table.write(0, 0, b"a" * BLOCK, 0.0)
    assert not table.has_room(1)


def test_zero_blocks_hold_no_bytes_and_vanish_when_deleted() -> None:
    """A zeroed block costs a slot until the bucket has deleted it, and nothing afterwards."""
    table = a_table()
    table.insert(1, b"a" * BLOCK)
    table.zero(1, 0.0)
    assert table.statistics().held_bytes == SLOT_BYTES
    (slot,) = take(table)
    assert slot.data is None
    table.finish(slot, ok=True, now=1.0)
    assert table.statistics().held_count == 0
    assert table.zeros.is_zero(1)


def test_data_that_turns_out_zero_is_taken_as_zero() -> None:
    """A block whose bytes are all zero when it is taken for upload is to be deleted, not put."""
    table = a_table()
    table.insert(1, b"a" * BLOCK)
    table.write(1, 0, bytes(BLOCK), 0.0)
    (slot,) = take(table)
    assert slot.data is None
    assert table.zeros.is_zero(1)
    assert table.dirty_bytes == SLOT_BYTES


def test_inserting_into_a_table_full_of_dirty_blocks_keeps_the_limit() -> None:
    """What was read is not kept when there is only room for what must be kept."""
    table = a_table(held=2, dirty=2)
    table.write(1, 0, b"a" * BLOCK, 0.0)
    table.write(2, 0, b"a" * BLOCK, 0.0)
    table.insert(3, b"a" * BLOCK)
    assert table.peek(3) is None


def test_a_partial_write_into_an_unknown_block_is_a_bug() -> None:
    """The table refuses to invent the rest of a block."""
    with pytest.raises(AssertionError):
        a_table().write(1, 0, b"a", 0.0)


@pytest.mark.parametrize("seed", range(50))
def test_random_histories_keep_the_accounts_and_the_content(seed: int) -> None:
    """Random inserts, writes, zeroes, uploads that fail or not, and flushes, against a dictionary: the
    content is always the model's, the byte counts are those of the slots, and whatever is not dirty is in the
    bucket."""
    dice = random.Random(seed)
    table = a_table()
    model: dict[int, bytes] = {}
    bucket: dict[int, bytes] = {}
    under_way: list[tuple[Slot, bytes | None]] = []
    for now in range(400):
        block = dice.randrange(16)
        known = table.is_known(block)
        match dice.randrange(7):
            case 0 | 1 if table.has_room(block):
                whole = not known or dice.random() < 0.5
                start = 0 if whole else dice.randrange(BLOCK)
                length = BLOCK if whole else dice.randrange(1, BLOCK - start + 1)
                data = bytes(length) if dice.random() < 0.3 else dice.randbytes(length)
                table.write(block, start, data, float(now))
                old = model.get(block, bytes(BLOCK))
                model[block] = old[:start] + data + old[start + length :]
            case 2 if table.has_room(block):
                table.zero(block, float(now))
                model[block] = bytes(BLOCK)
            case 3 if not known:
                table.insert(block, bucket.get(block))
            case 4:
                batch = table.take_due(now - dice.choice([0, 50]), BLOCK, 4)
                under_way += [(slot, None if slot.data is None else bytes(slot.data)) for slot in batch]
            case 5 if under_way:
                slot, content = under_way.pop(dice.randrange(len(under_way)))
                ok = dice.random() < 0.7
                if ok and content is None:
                    bucket.pop(slot.block, None)
                elif ok and content is not None:
                    bucket[slot.block] = content
                table.finish(slot, ok=ok, now=float(now))
            case 6 if dice.random() < 0.2:
                table.begin_flush()
            case _:
                pass
        _check(table, model, bucket)


def _check(table: BlockTable, model: dict[int, bytes], bucket: dict[int, bytes]) -> None:
    slots = list(table._slots.values())
    dirty = [slot for slot in slots if slot.state is not State.CLEAN]
    statistics = table.statistics()
    assert statistics.held_bytes == sum(SLOT_BYTES + len(slot.data or b"") for slot in slots)
    assert statistics.dirty_bytes == sum(SLOT_BYTES + len(slot.data or b"") for slot in dirty)
    assert statistics.held_bytes <= statistics.held_bytes_max
    assert statistics.dirty_bytes <= statistics.dirty_bytes_max
    assert statistics.dirty_count == len(dirty)
    assert {slot.block for slot in dirty} == set(table.dirty_blocks())
    for block in range(16):
        slot = table._slots.get(block)
        expected = model.get(block, bytes(BLOCK))
        if table.zeros.is_zero(block):
            assert expected == bytes(BLOCK)
        elif slot is not None:
            assert slot.data == expected
        if slot is None:
            assert bucket.get(block, bytes(BLOCK)) == expected
