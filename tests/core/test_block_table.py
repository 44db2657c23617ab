"""The table of blocks in memory: its limits, its states, and the order in which the bucket gets what was
written."""

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from bucketry.core.block_table import SLOT_BYTES, BlockTable, State, Version
from bucketry.core.zero_map import ZeroMap

BLOCK = 16
ONE = BLOCK + SLOT_BYTES
BLOCKS = 16
ZEROS = bytes(BLOCK)


def a_table(
    *, held: int = 8, dirty: int = 4, keep_changes: bool = False, rest_seconds: float = math.inf
) -> BlockTable:
    return BlockTable(
        BLOCK,
        ZeroMap(BLOCKS),
        held * ONE,
        dirty * ONE,
        keep_changes=keep_changes,
        rest_seconds=rest_seconds,
    )


def take(table: BlockTable, dirty_before: float = float("inf"), data_bytes: int = BLOCK) -> list[Version]:
    return table.next_work(dirty_before, 0.0, data_bytes, 4, 4).uploads


def taken(table: BlockTable, dirty_before: float = float("inf"), data_bytes: int = BLOCK) -> list[int]:
    return [version.block for version in take(table, dirty_before, data_bytes)]


def data_of(version: Version) -> bytes:
    return ZEROS if version.data is None else bytes(version.data)


def finish(table: BlockTable, version: Version, *, ok: bool = True) -> None:
    table.finish(version, ok=ok, now=9.0)


def content(table: BlockTable, block: int) -> bytes:
    slot = table.peek(block)
    found = ZEROS if slot is None else table.view(slot, 0, BLOCK)
    assert found is not None, "all of it is known"
    return bytes(found)


def test_a_write_is_uploaded_once() -> None:
    """The plain life of a block: dirty until its upload has ended, clean and readable afterwards."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    assert table.dirty_bytes == ONE
    (version,) = take(table)
    assert data_of(version) == b"a" * BLOCK
    finish(table, version)
    assert table.dirty_bytes == 0
    assert content(table, 1) == b"a" * BLOCK
    assert take(table) == []


def test_a_write_during_the_upload_leaves_the_uploaded_bytes_alone() -> None:
    """Whoever uploads holds the old bytes; the block goes on with a copy, which is uploaded when the first
    upload has ended."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (first,) = take(table)
    table.write(1, 0, b"b", 1.0)
    table.write(1, 1, b"c", 1.0)
    assert data_of(first) == b"a" * BLOCK
    assert take(table) == [], "one upload of a block at a time"
    finish(table, first)
    (second,) = take(table)
    assert data_of(second) == b"bc" + b"a" * (BLOCK - 2)


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_failed_upload_leaves_the_block_dirty(rewritten: bool) -> None:
    """Nothing is forgotten when an upload fails; a block that was rewritten meanwhile goes in its newer
    state."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (version,) = take(table)
    if rewritten:
        table.write(1, 0, b"b", 1.0)
    finish(table, version, ok=False)
    assert table.dirty_bytes == ONE + (BLOCK // 4 if rewritten else 0)
    (again,) = take(table)
    assert data_of(again) == (b"b" if rewritten else b"a") + b"a" * (BLOCK - 1)


def test_blocks_go_in_the_order_in_which_they_became_dirty() -> None:
    """First dirtied, first uploaded; before a flush only what is old enough, after it everything."""
    table = a_table()
    for block in (3, 1, 2):
        table.write(block, 0, b"a" * BLOCK, float(block))
    assert taken(table, dirty_before=0.5) == []
    assert taken(table, dirty_before=3.0) == [3]
    table.begin_flush()
    assert taken(table, dirty_before=0.0, data_bytes=8 * BLOCK) == [1, 2]


def test_the_next_epoch_waits_until_the_bucket_has_the_one_before() -> None:
    """After a flush nothing written later goes until all of the earlier has arrived; a flush is drained
    exactly then."""
    table = a_table()
    table.write(1, 0, b"a" * BLOCK, 0.0)
    epoch = table.begin_flush()
    table.write(1, 0, b"b" * BLOCK, 1.0)
    table.write(2, 0, b"b" * BLOCK, 1.0)
    (old,) = take(table, data_bytes=8 * BLOCK)
    assert data_of(old) == b"a" * BLOCK
    assert take(table) == []
    assert not table.is_drained(epoch)
    finish(table, old)
    assert table.is_drained(epoch)
    assert taken(table, data_bytes=8 * BLOCK) == [1, 2]


def test_a_flush_of_nothing_is_drained() -> None:
    """Flushing without writes waits for nothing; flushing twice waits for the same epoch."""
    table = a_table()
    assert table.is_drained(table.begin_flush())
    table.write(1, 0, b"a" * BLOCK, 0.0)
    assert table.begin_flush() == table.begin_flush()


def test_small_writes_are_known_in_part_until_the_rest_arrives() -> None:
    """A block written in part cannot go before the rest is there; what arrives goes under what was
    written."""
    table = a_table()
    table.write(1, 4, b"new", 0.0)
    work = table.next_work(float("inf"), 0.0, BLOCK, 4, 4)
    assert (work.uploads, work.incomplete) == ([], [1])
    assert not table.is_known(1)
    table.insert(1, b"o" * BLOCK)
    (version,) = take(table)
    assert data_of(version) == b"oooonew" + b"o" * 9


def test_the_rest_goes_under_every_version() -> None:
    """Two epochs wrote into the same unknown block: each gets the old bytes around its own."""
    table = a_table()
    table.write(1, 0, b"1", 0.0)
    table.begin_flush()
    table.write(1, 1, b"2", 0.0)
    table.insert(1, b"o" * BLOCK)
    (first,) = take(table)
    assert data_of(first) == b"1" + b"o" * 15
    finish(table, first)
    (second,) = take(table)
    assert data_of(second) == b"12" + b"o" * 14


def test_the_limit_on_dirty_blocks() -> None:
    """As many blocks as fit the limit become dirty; one that is dirty and not on its way may always be
    written."""
    table = a_table(dirty=2)
    for block in (1, 2):
        assert table.can_write(block)
        table.write(block, 0, b"a" * BLOCK, 0.0)
    assert not table.can_write(3)
    assert table.can_write(1)
    take(table)
    assert not table.can_write(1), "it would need a second copy"


def test_one_block_always_has_room() -> None:
    """A limit smaller than a block still lets one block at a time through."""
    table = BlockTable(BLOCK, ZeroMap(4), 1, 1)
    assert table.can_write(0)
    table.write(0, 0, b"a" * BLOCK, 0.0)
    assert not table.can_write(1)


def test_zero_blocks_hold_no_bytes_and_vanish_when_deleted() -> None:
    """A zeroed block costs a slot until the bucket has deleted it, and nothing afterwards."""
    table = a_table()
    table.insert(1, b"a" * BLOCK)
    table.zero(1, 0.0)
    assert table.statistics().held_bytes == SLOT_BYTES
    (version,) = take(table)
    assert version.data is None
    finish(table, version)
    assert table.statistics().held_count == 0
    assert table.zeros.is_zero(1)


def test_data_that_turns_out_zero_is_taken_as_zero() -> None:
    """A block whose bytes are all zero when it is taken for upload is to be deleted, not put."""
    table = a_table()
    table.insert(1, b"a" * BLOCK)
    table.write(1, 0, ZEROS, 0.0)
    (version,) = take(table)
    assert version.data is None
    assert table.zeros.is_zero(1)
    assert table.dirty_bytes == SLOT_BYTES


def test_inserting_into_a_table_full_of_dirty_blocks_keeps_the_limit() -> None:
    """What was read is not kept when there is only room for what must be kept."""
    table = a_table(held=2, dirty=2)
    table.write(1, 0, b"a" * BLOCK, 0.0)
    table.write(2, 0, b"a" * BLOCK, 0.0)
    table.insert(3, b"a" * BLOCK)
    assert table.peek(3) is None


def test_what_is_set_aside_holds_nothing_up() -> None:
    """A version that cannot be completed lets its epoch end; written whole later, the newer one takes its
    place."""
    table = a_table()
    table.write(1, 0, b"x", 0.0)
    table.write(2, 0, b"a" * BLOCK, 0.0)
    epoch = table.begin_flush()
    table.set_aside(1)
    (version,) = take(table)
    finish(table, version)
    assert table.is_drained(epoch)
    assert table.aside_blocks() == [1]
    table.write(1, 0, b"b" * BLOCK, 1.0)
    (newer,) = take(table)
    finish(table, newer)
    assert (data_of(newer), table.dirty_bytes, table.aside_blocks()) == (b"b" * BLOCK, 0, [])


def test_what_is_set_aside_again_tells_all_that_was_written() -> None:
    """Each time that the block is set aside anew, the changes of the next epoch tell of all its writes; and
    until they are in a journal, the epoch that told of them last stays the one to keep."""
    table = a_table(keep_changes=True)
    table.zeros.clear(1)
    told = []
    for n in range(3):
        table.write(1, 5 * n, bytes([n + 1]), 0.0)
        epoch = table.begin_flush()
        changes = {(start, bytes(data or b"")) for _, start, data in table.changes_of_epoch(epoch)}
        told.append(changes)
        assert take(table) == []
        table.set_aside(1)
        assert table.held == {1: 1}
    assert told == [{(5 * n, bytes([n + 1])) for n in range(count)} for count in (1, 2, 3)]
    table.hold_since([1], 3)
    assert table.held == {1: 3}
    assert table.journal_epoch == 2
    table.write(1, 0, b"b" * BLOCK, 1.0)
    (newer,) = take(table)
    finish(table, newer)
    assert table.held == {}
    assert table.journal_epoch == table.drained_epoch


def test_changes_are_what_was_written_and_no_more() -> None:
    """A closed epoch tells the bytes that were written in it, whole blocks where they were written whole or
    zeroed."""
    table = a_table(keep_changes=True)
    for block in (1, 2, 3):
        table.insert(block, b"o" * BLOCK)
    table.write(1, 3, b"abc", 0.0)
    table.write(1, 5, b"cd", 0.0)
    table.write(2, 0, b"w" * BLOCK, 0.0)
    table.zero(3, 0.0)
    epoch = table.begin_flush()
    table.write(1, 0, b"later", 1.0)
    changes = [
        (block, start, None if data is None else bytes(data))
        for block, start, data in table.changes_of_epoch(epoch)
    ]
    assert changes == [(1, 3, b"abcd"), (2, 0, b"w" * BLOCK), (3, 0, None)]


def test_changes_that_are_lent_stay_as_they_are() -> None:
    """Even when the bucket has them first, and their block is written again while they are being read."""
    table = a_table(keep_changes=True)
    table.insert(1, b"o" * BLOCK)
    table.write(1, 3, b"abc", 0.0)
    epoch = table.begin_flush()
    ((_, _, lent),) = table.changes_of_epoch(epoch)
    (version,) = take(table)
    finish(table, version)
    table.write(1, 3, b"xyz", 1.0)
    assert lent is not None
    assert bytes(lent) == b"abc"


def test_epochs_can_be_numbered_on() -> None:
    """After a recovery the numbers go on where they were; the numbers between count as drained."""
    table = a_table()
    table.number_from(7)
    table.write(1, 0, b"a" * BLOCK, 0.0)
    assert (table.begin_flush(), table.drained_epoch) == (7, 6)


def due(table: BlockTable, now: float) -> list[int]:
    """What may go while everything else waits for ten seconds."""
    blocks = []
    while uploads := table.next_work(now, 10.0, BLOCK, 4, 4).uploads:
        blocks += [version.block for version in uploads]
    return blocks


def test_a_block_that_was_written_to_its_end_waits_no_longer() -> None:
    """Whole or in pieces that follow each other; other pieces, and other blocks, wait for the delay."""
    table = a_table(rest_seconds=60.0)
    assert table.write(1, 0, b"w" * BLOCK, 0.0)
    assert not table.write(2, 0, b"half" * 2, 0.0)
    assert not table.write(3, 4, b"t" * (BLOCK - 4), 0.0)
    assert not table.write(3, 0, b"tail", 0.0)
    assert due(table, 1.0) == [1]
    assert table.write(2, 8, b"rest" * 2, 2.0)
    assert due(table, 3.0) == [2]
    assert due(table, 9.0) == []
    assert due(table, 10.0) == [3]


def test_a_block_that_is_rewritten_waits_for_more_writes() -> None:
    """Begun again before it has rested it is not ready by its last byte; after that it is."""
    table = a_table(rest_seconds=60.0)
    assert table.write(1, 0, b"a" * BLOCK, 0.0)
    (version,) = take(table, 0.0)
    assert not table.write(1, 0, b"b" * BLOCK, 1.0)  # during the upload
    table.finish(version, ok=True, now=2.0)
    assert due(table, 3.0) == []
    (version,) = take(table)
    table.finish(version, ok=True, now=4.0)
    assert not table.write(1, 0, b"c" * BLOCK, 30.0)
    (version,) = take(table)
    table.finish(version, ok=True, now=31.0)
    assert table.write(1, 0, b"d" * BLOCK, 91.0)
    assert due(table, 91.0) == [1]


def test_a_rewrite_during_a_long_upload_is_not_ready() -> None:
    """However long ago the block was begun: the older version is not in the bucket yet."""
    table = a_table(rest_seconds=60.0)
    table.write(1, 0, b"a" * BLOCK, 0.0)
    (version,) = take(table, 0.0)
    assert not table.write(1, 0, b"b" * BLOCK, 100.0)
    assert due(table, 1000.0) == []
    table.finish(version, ok=True, now=1000.0)
    assert due(table, 1001.0) == []
    assert due(table, 1010.0) == [1]


def test_what_is_ready_waits_for_older_epochs() -> None:
    """A flush is a barrier for it too."""
    table = a_table(rest_seconds=60.0)
    table.write(1, 0, b"small", 0.0)
    table.insert(1, None)
    table.begin_flush()
    assert table.write(2, 0, b"w" * BLOCK, 0.0)
    (version,) = take(table, 0.0)
    assert (version.block, due(table, 1.0)) == (1, [])
    table.finish(version, ok=True, now=1.0)
    assert table.next_work(1.0, math.inf, BLOCK, 4, 4).uploads == []
    assert due(table, 1.0) == [2]


def test_a_failed_upload_waits_though_its_block_was_ready() -> None:
    """What the store refused just now is not tried again at once."""
    table = a_table(rest_seconds=60.0)
    table.write(1, 0, b"w" * BLOCK, 0.0)
    (version,) = take(table, 0.0)
    table.finish(version, ok=False, now=1.0)
    assert due(table, 2.0) == []
    assert due(table, 11.0) == [1]


def test_a_whole_block_is_kept_as_bytes_until_it_is_written_into() -> None:
    """What cannot change is sent without a copy; a smaller write gets one of its own."""
    table = a_table()
    table.write(1, 0, memoryview(bytearray(b"a" * BLOCK)), 0.0)
    table.write(2, 0, b"b" * BLOCK, 0.0)
    table.write(2, 3, b"c", 0.0)
    table.write(3, 0, b"d", 0.0)
    table.write(3, 0, b"e" * BLOCK, 0.0)
    assert type(table.peek(1).base) is bytes  # type: ignore[union-attr]
    assert [content(table, block) for block in (1, 2, 3)] == [
        b"a" * BLOCK,
        b"bbbc" + b"b" * (BLOCK - 4),
        b"e" * BLOCK,
    ]
    first = take(table)[0]
    table.write(1, 0, b"f", 1.0)
    assert (data_of(first), content(table, 1)) == (b"a" * BLOCK, b"f" + b"a" * (BLOCK - 1))


@dataclass
class Model:
    """What the disk should hold, what the bucket does, and every state in which a block was, by epoch."""

    disk: dict[int, bytes] = field(default_factory=dict)
    bucket: dict[int, bytes] = field(default_factory=dict)
    #: The disk at the end of each epoch, and the states of each block during each.
    ends: dict[int, dict[int, bytes]] = field(default_factory=dict)
    during: dict[int, dict[int, set[bytes]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )

    def change(self, epoch: int, block: int, data: bytes) -> None:
        self.disk[block] = data
        self.during[epoch][block].add(data)


@pytest.mark.parametrize(
    "seed", [*range(80), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(80, 150))]
)
def test_random_histories(seed: int) -> None:
    """Random inserts, writes, zeroes, flushes and uploads that fail or not: at every step the content is the
    model's, the byte counts are right, the limits hold, and the bucket is the disk at some flush plus some
    writes of the epoch after it."""
    dice = random.Random(seed)
    table, model = a_table(keep_changes=True, rest_seconds=dice.choice([20.0, math.inf])), Model()
    if dice.random() < 0.5:
        model.disk = {block: dice.randbytes(BLOCK) for block in range(0, BLOCKS, 2)}
    model.bucket = dict(model.disk)
    model.ends[0] = dict(model.disk)
    under_way: list[tuple[Version, bytes]] = []
    for now in range(300):
        block, number = dice.randrange(BLOCKS), table._epochs[-1].number
        match dice.randrange(8):
            case 0 | 1 | 2:
                start = dice.choice([0, dice.randrange(BLOCK)])
                length = BLOCK if dice.random() < 0.3 and start == 0 else dice.randrange(1, BLOCK - start + 1)
                data = bytes(length) if dice.random() < 0.3 else dice.randbytes(length)
                limit = max(table.dirty_bytes, 4 * ONE)
                if not table.can_write(block, start, start + length):
                    continue
                table.write(block, start, data, float(now))
                assert table.dirty_bytes <= limit
                old = model.disk.get(block, ZEROS)
                model.change(number, block, old[:start] + data + old[start + length :])
            case 3 if table.can_write(block, 0, 0):
                table.zero(block, float(now))
                model.change(number, block, ZEROS)
            case 4:
                # The bucket is read; not while an upload of the block is under way, as the answer may be of
                # before or after: here it is of now.
                found = table.insert(block, model.bucket.get(block))
                assert bytes(found or ZEROS) == model.disk.get(block, ZEROS)
            case 5:
                work = table.next_work(now, dice.choice([0.0, 50.0]), BLOCK, 4, 4)
                under_way += [(version, data_of(version)) for version in work.uploads]
                for incomplete in work.incomplete:
                    table.insert(incomplete, model.bucket.get(incomplete), for_upload=True)
            case 6 if under_way:
                version, uploaded = under_way.pop(dice.randrange(len(under_way)))
                assert data_of(version) == uploaded
                ok = dice.random() < 0.7
                if ok or dice.random() < 0.5:  # a failed upload may have arrived all the same
                    model.bucket[version.block] = uploaded
                    if uploaded == ZEROS:
                        del model.bucket[version.block]
                table.finish(version, ok=ok, now=float(now))
            case 7 if dice.random() < 0.3 and table.begin_flush() == number:
                model.ends[number] = dict(model.disk)
                assert _replayed(table, model, number) == _whole(model.disk)
            case _:
                pass
        _check(table, model)


def _whole(disk: dict[int, bytes]) -> bytes:
    return b"".join(disk.get(block, ZEROS) for block in range(BLOCKS))


def _replayed(table: BlockTable, model: Model, last: int) -> bytes:
    """What the bucket has, with the changes of all epochs that it lacks, up to ``last``, put over it: what a
    journal of them would bring back after a crash."""
    disk = bytearray(_whole(model.bucket))
    for number in range(table.drained_epoch + 1, last + 1):
        for block, start, data in table.changes_of_epoch(number):
            at = block * BLOCK + start
            new = ZEROS if data is None else bytes(data)
            disk[at : at + len(new)] = new
    return bytes(disk)


def _check(table: BlockTable, model: Model) -> None:
    slots = list(table._slots.values())
    versions = [version for slot in slots for version in slot.versions]
    statistics = table.statistics()
    dirty_bytes = sum(table._cost_bytes(version) for version in versions)
    clean_bytes = sum(SLOT_BYTES + len(slot.base or b"") for slot in slots if not slot.versions)
    assert statistics.dirty_bytes == dirty_bytes
    assert statistics.held_bytes == dirty_bytes + clean_bytes <= statistics.held_bytes_max
    assert statistics.dirty_count == len(versions)
    assert {slot.block for slot in slots if slot.versions} == set(table.dirty_blocks())
    assert statistics.uploading_count == sum(version.state is State.UPLOADING for version in versions)
    for epoch in table._epochs:
        assert epoch.ready.items() <= epoch.waiting.items()
    oldest = table._epochs[0].number
    for block in range(BLOCKS):
        slot = table._slots.get(block)
        expected = model.disk.get(block, ZEROS)
        in_bucket = model.bucket.get(block, ZEROS)
        if table.zeros.is_zero(block):
            assert expected == ZEROS
            assert slot is None or slot.is_zero
        elif slot is None:
            assert in_bucket == expected
        elif slot.known is None:
            assert content(table, block) == expected
        else:
            for first, stop in slot.known:
                assert bytes(table.view(slot, first, stop) or b"") == expected[first:stop]
        end = model.ends[oldest - 1].get(block, ZEROS)
        assert in_bucket == end or in_bucket in model.during[oldest][block]


def test_an_older_version_is_completed_though_the_newer_one_is_whole() -> None:
    """A small write, a flush, a write of the whole block: what arrives from the bucket still goes under the
    first."""
    table = a_table()
    table.write(1, 4, b"new", 0.0)
    table.begin_flush()
    table.write(1, 0, b"w" * BLOCK, 0.0)
    assert table.next_work(9.0, 0.0, BLOCK, 4, 4).incomplete == [1]
    table.insert(1, b"o" * BLOCK)
    (older,) = take(table)
    assert data_of(older) == b"oooonew" + b"o" * (BLOCK - 7)
    finish(table, older)
    assert [data_of(version) for version in take(table)] == [b"w" * BLOCK]


def test_a_version_is_due_when_its_timer_comes() -> None:
    """Exactly when ``dirty_since`` and the delay say, not a rounding error later: no other timer comes."""
    for tenths in range(1, 2000):
        since, delay = tenths / 10, 0.7
        table = a_table()
        table.write(1, 0, b"a" * BLOCK, since)
        work = table.next_work(since + delay, delay, BLOCK, 4, 4)
        assert [version.block for version in work.uploads] == [1]


def test_a_zero_that_gets_bytes_makes_room_for_them() -> None:
    """The limit holds also when a block that was only zeros is written into."""
    table = BlockTable(BLOCK, ZeroMap(BLOCKS), 4 * ONE - 8, 4 * ONE - 8)
    for block in range(3):
        table.insert(block, b"c" * BLOCK)
    table.write(8, 0, b"d" * BLOCK, 0.0)
    table.zero(8, 0.0)
    table.insert(3, b"c" * BLOCK)
    table.write(8, 0, b"d", 0.0)
    figures = table.statistics()
    assert figures.held_bytes <= figures.held_bytes_max


def test_when_the_next_version_may_go() -> None:
    """A flush that waits and a block that is ready need no delay; a delay without end is one for open epochs
    only."""
    table = a_table(rest_seconds=8.0)
    assert table.due_at(2.0) is None
    table.write(1, 0, b"small", 5.0)
    assert table.due_at(2.0) == 7.0
    assert table.due_at(math.inf) == math.inf
    table.write(2, 0, b"w" * BLOCK, 6.0)
    assert table.due_at(2.0) == -math.inf
    assert table.due_at(math.inf) == math.inf
    table.begin_flush()
    assert table.due_at(math.inf) == -math.inf


def test_the_oldest_epoch_is_closed_once() -> None:
    table = a_table()
    table.write(1, 0, b"w" * BLOCK, 0.0)
    assert table.close_oldest() == 1
    table.write(2, 0, b"w" * BLOCK, 0.0)
    assert table.close_oldest() == 1
    (version,) = take(table)
    finish(table, version)
    assert table.close_oldest() == 2


def test_what_was_set_aside_before_a_crash_is_held_until_it_has_arrived() -> None:
    """And what is not there any more is not."""
    table = a_table(keep_changes=True)
    table.write(1, 0, b"small", 0.0)
    table.hold(1, 5)
    table.hold(2, 5)
    assert table.held == {1: 5}
    table.hold(1, 7)
    assert table.held == {1: 5}
    table.insert(1, b"o" * BLOCK)
    table.begin_flush()
    (version,) = take(table)
    finish(table, version)
    assert table.held == {}


def test_a_block_that_is_rewritten_waits_longer_than_others() -> None:
    """And keeps none of them waiting; a flush waits for both."""
    table = BlockTable(BLOCK, ZeroMap(BLOCKS), 8 * ONE, 8 * ONE, rest_seconds=8.0, rewritten_delays=4.0)
    table.write(1, 0, b"small", 0.0)
    assert table.due_at(2.0) == 2.0
    table.insert(1, bytes(BLOCK))
    (version,) = take(table)
    table.finish(version, ok=True, now=3.0)
    table.write(1, 0, b"again", 4.0)  # four seconds after it was begun
    assert table.due_at(2.0) == 12.0
    table.write(2, 0, b"other", 5.0)
    assert table.due_at(2.0) == 7.0
    assert table.next_work(7.0, 2.0, BLOCK, 4, 4).incomplete == [2]


def test_a_flush_makes_no_difference_between_them() -> None:
    table = BlockTable(BLOCK, ZeroMap(BLOCKS), 8 * ONE, 8 * ONE, rest_seconds=8.0, rewritten_delays=4.0)
    for _ in range(2):
        table.write(1, 0, b"w" * BLOCK, 1.0)
        for version in take(table):
            finish(table, version)
    table.write(1, 0, b"v" * BLOCK, 1.0)
    table.write(2, 0, b"part", 1.0)
    assert table.next_work(1.0, 2.0, 9 * BLOCK, 4, 4).uploads == []
    table.begin_flush()
    work = table.next_work(1.0, 2.0, 9 * BLOCK, 4, 4)
    assert ([version.block for version in work.uploads], work.incomplete) == ([1], [2])
