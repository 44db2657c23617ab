"""Blocks that are known in parts: what is found in them, when they end, and what they count for."""

import random

import pytest

from bucketry.core.block_table import SLOT_BYTES, BlockTable, Version
from bucketry.core.parts import Parts, parts_max
from bucketry.core.zero_map import ZeroMap

BLOCK = 64
BLOCKS = 8


def a_table(*, held_bytes: int = 1 << 20) -> BlockTable:
    return BlockTable(BLOCK, ZeroMap(BLOCKS), held_bytes, held_bytes)


def test_runs_are_found_by_what_they_hold() -> None:
    """What lies within one run is found; what goes beyond it is not."""
    parts = Parts("tag")
    parts.add(8, b"abcdefgh")
    parts.add(32, b"ABCD")
    found = [bytes(parts.find(*wanted) or b"") for wanted in ((8, 16), (10, 12), (33, 36))]
    assert found == [b"abcdefgh", b"cd", b"BCD"]
    assert [parts.find(7, 9), parts.find(15, 17), parts.find(12, 34), parts.find(0, 1)] == [None] * 4
    assert (len(parts), parts.size_bytes) == (2, 12)


@pytest.mark.parametrize(
    ("block_bytes", "part_bytes", "under_way_count", "count"),
    [
        (128 << 10, 128 << 10, 0, 0),
        (256 << 10, 64 << 10, 0, 1),
        (1 << 20, 64 << 10, 0, 1),
        (4 << 20, 64 << 10, 0, 2),
        (1 << 20, 64 << 10, 15, 6),
        (4 << 20, 64 << 10, 15, 22),
    ],
)
def test_parts_of_a_block_cost_no_more_than_all_of_it(
    block_bytes: int, part_bytes: int, under_way_count: int, count: int
) -> None:
    """Of small blocks one is read before the whole block is, of large ones some, and more when much is read
    at once; none where there are no parts."""
    assert parts_max(block_bytes, part_bytes, under_way_count) == count


def test_parts_of_two_versions_are_never_both_known() -> None:
    """The tag says which content a part is of; the newest one counts."""
    table = a_table()
    table.insert_part(1, 0, b"old", "a")
    table.insert_part(1, 32, b"more", "a")
    assert bytes(table.peek_part(1, 0, 3) or b"") == b"old"
    table.insert_part(1, 48, b"new", "b")
    assert table.peek_part(1, 0, 3) is table.peek_part(1, 32, 36) is None
    assert bytes(table.peek_part(1, 48, 51) or b"") == b"new"
    assert table.part_count(1) == 1


@pytest.mark.parametrize("change", ["write", "zero", "insert", "nothing is stored"])
def test_parts_end_when_the_block_is_known_or_written(change: str) -> None:
    """From then on there is a slot, or zeros, and nothing of before comes back when they go."""
    table = a_table()
    table.insert_part(1, 0, bytes(8), "a")
    match change:
        case "write":
            table.write(1, 4, b"x", 0.0)
        case "zero":
            table.zero(1, 0.0)
        case "insert":
            table.insert(1, b"y" * BLOCK)
        case _:
            table.insert(1, None)
    assert table.peek_part(1, 0, 8) is None
    assert table.part_count(1) == 0
    for version in table.next_work(9.0, 0.0, BLOCK, 4, 4).uploads:
        table.finish(version, ok=True, now=9.0)
    table.forget_clean()
    assert table.peek_part(1, 0, 8) is None


def test_parts_count_for_what_they_hold_and_are_evicted() -> None:
    """A part of a large block takes little of the memory, and makes room like everything else."""
    one = 8 + SLOT_BYTES
    table = a_table(held_bytes=4 * one)
    for block in range(6):
        table.insert_part(block, 0, bytes([block]) * 8, "a")
    figures = table.statistics()
    assert (figures.held_count, figures.held_bytes, figures.evicted_count) == (4, 4 * one, 2)
    assert sum(table.peek_part(block, 0, 8) is not None for block in range(6)) == 4


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_with_parts(seed: int) -> None:
    """Whatever is read, in part or whole, written, uploaded and evicted: what is known is the disk's content,
    a block is known in one way at a time, and the bytes are counted right."""
    dice = random.Random(seed)
    table = a_table(held_bytes=4 * (BLOCK + SLOT_BYTES))
    bucket = {block: dice.randbytes(BLOCK) for block in range(BLOCKS)}
    disk = dict(bucket)
    under_way: list[tuple[Version, bytes]] = []
    for now in range(400):
        block = dice.randrange(BLOCKS)
        start = dice.randrange(BLOCK)
        end = dice.randint(start + 1, BLOCK)
        match dice.randrange(6):
            case 0 | 1 if table.peek(block) is None and not table.zeros.is_zero(block):
                tag = str(hash(bucket[block]))
                table.insert_part(block, start, bucket[block][start:end], tag)
            case 2 if not any(version.block == block for version, _ in under_way):
                table.insert(block, bucket.get(block))
            case 3 if table.can_write(block, start, end):
                data = dice.randbytes(end - start)
                table.write(block, start, data, float(now))
                old = disk.get(block, bytes(BLOCK))
                disk[block] = old[:start] + data + old[end:]
            case 4 if under_way:
                version, uploaded = under_way.pop()
                bucket[version.block] = uploaded
                table.finish(version, ok=True, now=float(now))
            case 5:
                work = table.next_work(now, 0.0, BLOCK, 4, 4)
                under_way += [(version, bytes(version.data or b"")) for version in work.uploads]
                for incomplete in work.incomplete:
                    table.insert(incomplete, bucket.get(incomplete), for_upload=True)
            case _:
                pass
        parts = table._parts
        assert not parts.keys() & table._slots.keys()
        for each in range(BLOCKS):
            found = table.peek_part(each, start, end)
            assert found is None or found == disk[each][start:end]
        clean = [slot for slot in table._slots.values() if not slot.versions]
        held = sum(SLOT_BYTES + len(slot.base or b"") for slot in clean)
        held += sum(SLOT_BYTES + each.size_bytes for each in parts.values())
        figures = table.statistics()
        assert figures.held_bytes == held + figures.dirty_bytes <= figures.held_bytes_max + BLOCK
