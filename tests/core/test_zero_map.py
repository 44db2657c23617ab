"""The zero map against a plain set of numbers."""

import random
import zlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bucketry.core import zero_map
from bucketry.core.zero_map import ZeroMap
from bucketry.errors import Corrupt

#: Chunks this small let a handful of blocks cross several of them.
SMALL_CHUNK = 16
BLOCKS = 70


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_map, "_CHUNK_BITS", SMALL_CHUNK)


ranges = st.tuples(st.integers(0, BLOCKS), st.integers(0, BLOCKS)).map(sorted)


class AgainstASet(RuleBasedStateMachine):
    """Any sequence of calls leaves the map equal to a set of known zeros and a set of candidates."""

    @initialize()
    def start(self) -> None:
        self.map = ZeroMap(BLOCKS)
        self.known: set[int] = set()
        self.candidates: set[int] | None = None

    @rule(blocks=ranges)
    def set_zero(self, blocks: list[int]) -> None:
        self.map.set_zero(*blocks)
        self.known |= set(range(*blocks))

    @rule(block=st.integers(0, BLOCKS - 1))
    def clear(self, block: int) -> None:
        self.map.clear(block)
        self.known.discard(block)
        if self.candidates is not None:
            self.candidates.discard(block)

    @rule()
    def begin_survey(self) -> None:
        self.map.begin_survey()
        self.candidates = set(range(BLOCKS))

    @rule(blocks=ranges)
    def note_found(self, blocks: list[int]) -> None:
        self.map.note_found(*blocks)
        if self.candidates is not None:
            self.candidates -= set(range(*blocks))

    @rule(finish=st.booleans())
    def end_survey(self, finish: bool) -> None:
        if finish and self.candidates is not None:
            self.map.finish_survey()
            self.known |= self.candidates
            assert self.map.surveyed
        else:
            self.map.abandon_survey()
        self.candidates = None

    @rule(blocks=ranges)
    def look(self, blocks: list[int]) -> None:
        first, stop = blocks
        numbers = range(first, stop)
        assert self.map.all_zero(first, stop) == self.known.issuperset(numbers)
        assert self.map.next_zero(first, stop) == next((n for n in numbers if n in self.known), stop)
        assert self.map.next_nonzero(first, stop) == next((n for n in numbers if n not in self.known), stop)

    @invariant()
    def same_blocks(self) -> None:
        assert {block for block in range(BLOCKS) if self.map.is_zero(block)} == self.known
        assert self.map.nonzero_count() == BLOCKS - len(self.known)


@pytest.mark.usefixtures("small_chunks")
def test_any_sequence_of_calls_agrees_with_a_set() -> None:
    """Whatever is called in whatever order, the map answers as a plain set does."""
    AgainstASet.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    AgainstASet.TestCase("runTest").runTest()


def test_the_largest_volume_costs_little_until_it_is_mixed() -> None:
    """A map of 2^32 - 1 blocks is zeroed, cleared and searched as a whole without materialising its bits."""
    count = (1 << 32) - 1
    blocks = ZeroMap(count)
    assert blocks.nonzero_count() == count
    blocks.begin_survey()
    blocks.note_found(1 << 31, (1 << 31) + 3)
    blocks.finish_survey()
    assert blocks.nonzero_count() == 3
    assert blocks.next_nonzero(0, count) == 1 << 31
    assert blocks.next_zero(1 << 31, count) == (1 << 31) + 3
    assert not blocks.all_zero(0, count)
    blocks.set_zero(0, count)
    assert blocks.all_zero(0, count)
    assert blocks.nonzero_count() == 0


def test_a_write_during_a_survey_is_not_taken_for_zero() -> None:
    """A block written after the listing passed it by stays unknown; one zeroed after it was listed stays
    zero."""
    blocks = ZeroMap(8)
    blocks.begin_survey()
    blocks.clear(3)
    blocks.note_found(5, 6)
    blocks.set_zero(5, 6)
    blocks.finish_survey()
    assert [block for block in range(8) if not blocks.is_zero(block)] == [3]


def test_an_abandoned_survey_changes_nothing() -> None:
    """A listing that failed half way tells nothing about what it did not reach."""
    blocks = ZeroMap(8)
    blocks.set_zero(0, 2)
    blocks.begin_survey()
    blocks.note_found(4, 5)
    blocks.abandon_survey()
    assert blocks.nonzero_count() == 6
    assert not blocks.surveyed


def test_finishing_a_survey_that_was_not_begun_is_a_mistake() -> None:
    """Only a survey that was begun can say what is zero."""
    with pytest.raises(AssertionError):
        ZeroMap(8).finish_survey()


@pytest.mark.parametrize("count", [1, 8, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_encoded_is_decoded(count: int, seed: int) -> None:
    """All of it, and whether it was surveyed; changes go on from there."""
    prng = random.Random(seed)
    zeros = ZeroMap(count)
    for _ in range(prng.randrange(20)):
        first = prng.randrange(count)
        zeros.set_zero(first, prng.randint(first, count))
        zeros.clear(prng.randrange(count))
    if seed:
        zeros.begin_survey()
        zeros.note_found(0, count)
        zeros.finish_survey()
    found = ZeroMap.decode(zeros.encode(), count)
    assert found.surveyed == zeros.surveyed
    assert found.nonzero_count() == zeros.nonzero_count()
    assert [found.is_zero(n) for n in range(count)] == [zeros.is_zero(n) for n in range(count)]
    found.set_zero(0, count)
    assert found.nonzero_count() == 0


def test_a_large_map_is_small() -> None:
    """Of 2^32 blocks, known and not: some kilobytes."""
    zeros = ZeroMap((1 << 32) - 1)
    zeros.set_zero(1000, 1 << 31)
    assert len(zeros.encode()) < 10_000
    assert ZeroMap.decode(zeros.encode(), zeros.block_count).nonzero_count() == zeros.nonzero_count()


@pytest.mark.parametrize(
    "body",
    [b"", b"\3", b"\2", b"\2" + bytes(8192), b"\2" + b"\xff" * 8192, b"\0\0"],
)
def test_maps_that_cannot_be_are_refused(body: bytes) -> None:
    """Sound by their checksum, and still no map of ten blocks."""
    content = ZeroMap(10).encode()[:17] + zlib.compress(body)
    with pytest.raises(Corrupt):
        ZeroMap.decode(content + zlib.crc32(content).to_bytes(4, "little"), 10)


def test_other_bytes_are_refused() -> None:
    """Cut, of another size, or something else."""
    content = ZeroMap(10).encode()
    for bad in (b"", content[:-1], content[:5], b"x" * 100, content + b"x"):
        with pytest.raises(Corrupt):
            ZeroMap.decode(bad, 10)
    with pytest.raises(Corrupt, match="10 blocks"):
        ZeroMap.decode(content, 11)


@pytest.mark.parametrize("before", [1, 65_535, 65_536, 65_537])
@pytest.mark.parametrize("more", [1, 70_000])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("filled", ["nothing", "all", "some"])
def test_it_grows(before: int, more: int, zero: bool, filled: str) -> None:
    """What is known stays, what is new is known to be zero or not, and what is kept is the same."""
    zeros = ZeroMap(before)
    if filled != "nothing":
        zeros.set_zero(0, before)
    if filled == "some":
        zeros.clear(before - 1)
        zeros.clear(before // 2)
    looked_at = sorted({0, before // 2, before // 2 + 1, before - 2, before - 1} & set(range(before)))
    known = [zeros.is_zero(block) for block in looked_at]
    nonzero_count = zeros.nonzero_count()
    zeros.begin_survey()
    zeros.grow(before + more, zero=zero)
    assert [zeros.is_zero(block) for block in looked_at] == known
    assert [zeros.is_zero(block) for block in (before, before + more - 1)] == [zero] * 2
    assert zeros.nonzero_count() == nonzero_count + (0 if zero else more)
    again = ZeroMap.decode(zeros.encode(), before + more)
    assert again.nonzero_count() == zeros.nonzero_count()
    zeros.finish_survey()
    assert zeros.nonzero_count() == (0 if zero else more)
