"""Sequential readers are recognised, and fetched ahead of without asking twice or beyond the end."""

import random
from bisect import bisect_left
from collections.abc import Sequence

import pytest

from bucketry.core.read_ahead import ReadAhead


def nothing(block: int) -> bool:
    """No block is known."""
    return False


def test_the_window_quadruples_up_to_its_limit() -> None:
    """Each sequential step fetches further; after a while one block for one block."""
    ahead = ReadAhead(1000, 8, nothing)
    answers = [ahead.note_read(n, n + 1) for n in range(5)]
    assert answers == [[], [2], [3, 4, 5, 6], [7, 8, 9, 10, 11], [12]]


def test_every_block_is_fetched_once_and_none_beyond_the_end() -> None:
    """A reader of the whole disk is fetched ahead of over all but its first blocks."""
    ahead = ReadAhead(100, 16, nothing)
    fetched = [block for n in range(100) for block in ahead.note_read(n, n + 1)]
    assert fetched == list(range(2, 100))


def test_several_readers_do_not_disturb_each_other() -> None:
    """Interleaved streams are each recognised."""
    ahead = ReadAhead(10_000, 8, nothing)
    for n in range(3):
        answers = [ahead.note_read(base + n, base + n + 1) for base in (0, 1000, 2000, 3000)]
        assert all(bool(answer) == (n > 0) for answer in answers)


def test_random_reads_fetch_nothing() -> None:
    """A reader that jumps is not fetched ahead of."""
    ahead = ReadAhead(10_000, 8, nothing)
    assert not any(ahead.note_read(n * 7919 % 10_000, n * 7919 % 10_000 + 1) for n in range(500))


def test_reads_that_wait_close_to_each_other_fetch_what_is_around() -> None:
    """Small files are read in another order than they lie: from the second wait on their area is fetched."""
    waited_for = {400, 403}
    ahead = ReadAhead(10_000, 64, lambda block: block in waited_for)
    assert ahead.note_read(403, 404, waits=True) == []
    fetched = ahead.note_read(400, 401, waits=True)
    assert fetched == [401, 402, *range(404, 400 + 2 * ReadAhead.NEAR_BLOCKS)]
    assert ahead.statistics().area_fetched_blocks == ahead.statistics().fetched_blocks == len(fetched)


def test_what_is_around_is_fetched_only_for_reads_that_wait() -> None:
    """What is in memory is read without asking for its neighbours."""
    ahead = ReadAhead(10_000, 64, nothing)
    assert not any(ahead.note_read(block, block + 1) for block in (403, 400, 406, 402))


def test_reads_that_wait_far_from_each_other_fetch_nothing() -> None:
    """Random reads are charged for nothing but themselves."""
    ahead = ReadAhead(100_000, 64, nothing)
    assert not any(
        ahead.note_read(n * 7919 % 100_000, n * 7919 % 100_000 + 1, waits=True) for n in range(500)
    )


class Reader:
    """Reads blocks one after the other from a disk of which nothing is in memory; what is fetched for it is
    there for the next read."""

    def __init__(self, block_count: int, stored: Sequence[int] | None = None) -> None:
        self.in_memory: set[int] = set()
        self.stored = range(block_count) if stored is None else stored
        self.waited_count = 0
        self.ahead = ReadAhead(block_count, 64, self._is_known, next_stored=self._next_stored)

    def _is_known(self, block: int) -> bool:
        return block in self.in_memory or self._next_stored(block, block + 1) != block

    def _next_stored(self, first: int, stop: int) -> int:
        index = bisect_left(self.stored, first)
        return min(stop, self.stored[index]) if index < len(self.stored) else stop

    def read(self, block: int) -> None:
        waits = block not in self.in_memory
        self.waited_count += waits
        self.in_memory.add(block)
        self.in_memory.update(self.ahead.note_read(block, block + 1, waits=waits))


@pytest.mark.parametrize("seed", range(5))
def test_a_reader_of_one_area_soon_has_all_of_it(seed: int) -> None:
    """Fifty megabytes of small files, in any order: most reads wait no more, and little else is fetched."""
    area = range(50_000, 50_400)
    reader = Reader(100_000, stored=[*range(0, 50_000, 500), *area, *range(60_000, 100_000, 500)])
    for block in random.Random(seed).sample(area, len(area)):
        reader.read(block)
    figures = reader.ahead.statistics()
    assert reader.waited_count < 80
    assert figures.area_used_blocks > 300
    assert len(reader.in_memory) < len(area) + 100


@pytest.mark.parametrize("block_count", [20_000, 200_000])
@pytest.mark.parametrize("seed", range(3))
def test_a_reader_who_jumps_about_is_charged_little(block_count: int, seed: int) -> None:
    """What is fetched in vain is the least allowance, once in a long while, whatever happens by chance."""
    reader, dice = Reader(block_count), random.Random(seed)
    for _ in range(2000):
        reader.read(dice.randrange(block_count))
    figures = reader.ahead.statistics()
    least = ReadAhead.AREA_LEAST * ReadAhead.NEAR_BLOCKS
    charged = least * (2000 // ReadAhead.AREA_PATIENCE + 1)
    assert (
        figures.area_fetched_blocks
        <= charged + ReadAhead.AREA_GAIN * ReadAhead.NEAR_BLOCKS * figures.area_used_blocks
    )
    assert figures.area_fetched_blocks < 2000 / 3


def test_what_nobody_asks_for_is_given_up() -> None:
    """Its place is free for another area then, and the allowance as it was."""
    reader = Reader(1_000_000)
    for block in (10, 12, 13, 14):
        reader.read(block)
    raised = reader.ahead.statistics().area_allowance_blocks
    assert raised > ReadAhead.AREA_LEAST * ReadAhead.NEAR_BLOCKS
    for number in range(20 * ReadAhead.AREA_PATIENCE):
        reader.read(1000 + 40 * number)
    figures = reader.ahead.statistics()
    assert figures.area_wasted_blocks >= 2 * ReadAhead.NEAR_BLOCKS - 2
    assert figures.area_allowance_blocks < raised


def test_no_area_is_larger_than_what_may_be_kept_of_it() -> None:
    """However well it goes."""
    ahead = ReadAhead(10_000, 64, nothing, area_blocks_max=30)
    ahead.note_read(10, 11, waits=True)
    fetched = ahead.note_read(12, 13, waits=True)
    for block in fetched[:10]:
        ahead.note_read(block, block + 1)
    assert ahead.statistics().area_allowance_blocks == 30
    assert len(ahead.note_read(5000, 5001, waits=True)) == 30 - (len(fetched) - 10) > 0


def test_what_lies_behind_a_hole_is_fetched_when_areas_have_been_of_use() -> None:
    """Two reads that are close are no sign that more is wanted than what is close to them; blocks of their
    area that are asked for are one."""
    reader = Reader(100_000, stored=[*range(100, 110), *range(50_000, 50_100)])
    for block in (100, 103):
        reader.read(block)
    assert reader.in_memory == set(range(100, 110))
    for block in (104, 105, 70_000):
        reader.read(block)
    reader.read(99)
    assert {50_000, 50_001} <= reader.in_memory


def test_what_is_around_ends_with_the_disk() -> None:
    """Nothing before the first block is fetched, and nothing beyond the last one."""
    ahead = ReadAhead(10, 64, nothing)
    ahead.note_read(9, 10, waits=True)
    assert ahead.note_read(7, 8, waits=True) == [7, 8, 9]


def test_small_reads_within_a_block_count_once() -> None:
    """Reading a block in pieces is one step of the stream, not many."""
    ahead = ReadAhead(1000, 8, nothing)
    answers = [ahead.note_read(n // 4, n // 4 + 1) for n in range(12)]
    assert [len(answer) for answer in answers] == [0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0]


def test_large_reads_begin_with_their_own_size() -> None:
    """A reader of eight blocks at a time is fetched ahead of by at least eight, from the first read on that
    waits."""
    ahead = ReadAhead(1000, 64, nothing)
    assert ahead.note_read(0, 8) == []
    assert ahead.note_read(8, 16) == list(range(16, 24))
    assert ahead.note_read(100, 108, waits=True) == list(range(108, 116))
    assert ahead.note_read(108, 116) == list(range(116, 124))
    assert ahead.note_read(116, 124) == list(range(124, 156))


def test_large_reads_that_nobody_goes_on_from_are_no_reason_to_fetch() -> None:
    """After some of them no more is fetched for the next, until one goes on."""
    ahead = ReadAhead(100_000, 64, nothing)
    answers = [ahead.note_read(n, n + 8, waits=True) for n in range(0, 20_000, 1000)]
    assert [len(answer) for answer in answers] == [8] * 4 + [0] * 16
    for n in range(30_000, 30_032, 8):
        ahead.note_read(n, n + 8, waits=True)
    assert ahead.note_read(40_000, 40_008, waits=True) == list(range(40_008, 40_016))


def test_a_window_of_nothing_fetches_nothing() -> None:
    """Read-ahead can be switched off."""
    ahead = ReadAhead(1000, 0, nothing)
    assert not any(ahead.note_read(n, n + 1) for n in range(20))


def test_known_blocks_are_passed_over() -> None:
    """A hole in a file costs nothing and does not end the stream: what lies behind it is fetched in time."""

    def next_stored(first: int, stop: int) -> int:
        return min(stop, 500) if 10 <= first < 500 else first

    ahead = ReadAhead(1000, 8, nothing, next_stored=next_stored)
    fetched = [block for n in range(20) for block in ahead.note_read(n, n + 1)]
    assert fetched == [*range(2, 10), *range(500, 508)]


def test_what_is_in_memory_is_passed_over() -> None:
    """In large steps too: the reader never comes to the end of what was looked at."""
    for step in (1, 8, 300):
        ahead = ReadAhead(10_000, 600, lambda block: 10 <= block < 5000)
        told = [(n, block) for n in range(0, 6000, step) for block in ahead.note_read(n, n + step)]
        fetched = [block for _, block in told if 10 <= block < 5900]
        assert fetched == list(range(5000, 5900))
        assert min(block - n for n, block in told if block >= 10) >= step


def test_who_jumps_about_in_memory_is_no_work() -> None:
    """Now and then he comes to where he has been, which looks like a stream: not all that is known behind it
    is looked at. Who does go on there is fetched ahead of as soon as something is unknown."""
    looked_at = []

    def known(block: int) -> bool:
        looked_at.append(block)
        return block < 5000

    ahead = ReadAhead(10_000, 8, known)
    dice = random.Random(1)
    for _ in range(10_000):
        looked_at.clear()
        block = dice.randrange(500)
        assert ahead.note_read(block, block + 1) == []
        assert len(looked_at) <= ReadAhead.KNOWN_MAX
    fetched = [block for n in range(4000, 5100) for block in ahead.note_read(n, n + 1)]
    assert fetched == list(range(5000, 5100 + 8))


def test_a_reader_of_a_hole_is_no_work() -> None:
    """Blocks that are known to be zero are not looked at one by one, and what lies behind them is fetched in
    time."""
    looked_at: list[int] = []

    def is_known(block: int) -> bool:
        looked_at.append(block)
        return False

    ahead = ReadAhead(10_000, 8, is_known, next_stored=lambda first, stop: min(stop, max(first, 9000)))
    fetched = [block for n in range(0, 8000, 4) for block in ahead.note_read(n, n + 4)]
    assert fetched == looked_at == [*range(9000, 9008)]


def test_the_figures_tell_what_was_used() -> None:
    """Blocks that the reader came to are used; the rest are neither used nor wasted yet."""
    ahead = ReadAhead(1000, 8, nothing)
    for n in range(10):
        ahead.note_read(n, n + 1)
    figures = ahead.statistics()
    assert (figures.used_blocks, figures.fetched_blocks - figures.used_blocks, figures.wasted_blocks) == (
        8,
        8,
        0,
    )


def test_waste_shrinks_the_windows() -> None:
    """Readers that stop soon after they began make less and less be fetched in vain."""
    ahead = ReadAhead(1_000_000, 64, nothing)
    steady = [ahead.note_read(n, n + 1) for n in range(20)]
    assert len(steady[-1]) == 1, "the window is full, one for one"
    for start in range(1000, 900_000, 1000):
        for n in range(4):
            ahead.note_read(start + n, start + n + 1)
    figures = ahead.statistics()
    assert figures.wasted_blocks > 0
    assert figures.streams <= ReadAhead.STREAMS_MAX
    assert figures.fetched_blocks < 900 * 12, "four steps would fetch twelve blocks each time"
