"""Sets of byte ranges agree with sets of numbers."""

import random
from itertools import pairwise

import pytest

from bucketry.core.ranges import Ranges, runs

SIZE = 40


@pytest.mark.parametrize("seed", range(100))
def test_random_additions_agree_with_a_set(seed: int) -> None:
    """After each addition: the ranges are sorted, disjoint and do not touch; members, cover and gaps are
    those of the set."""
    dice = random.Random(seed)
    ranges, model = Ranges(), set[int]()
    for _ in range(12):
        start = dice.randrange(SIZE)
        end = dice.randrange(start, SIZE + 1)
        ranges.add(start, end)
        model.update(range(start, end))
        parts = list(ranges)
        assert all(a < b for a, b in parts)
        assert all(one[1] < other[0] for one, other in pairwise(parts))
        assert {n for a, b in parts for n in range(a, b)} == model
        assert {n for a, b in ranges.gaps(SIZE) for n in range(a, b)} == set(range(SIZE)) - model
        low, high = sorted((dice.randrange(SIZE + 1), dice.randrange(SIZE + 1)))
        assert ranges.covers(low, high) == (set(range(low, high)) <= model)


def test_a_copy_is_independent() -> None:
    """Adding to a copy leaves the original."""
    one = Ranges()
    one.add(1, 5)
    two = one.copy()
    two.add(5, 9)
    assert list(one) == [(1, 5)]
    assert list(two) == [(1, 9)]
    assert (len(one), repr(two)) == (1, "Ranges([(1, 9)])")


@pytest.mark.parametrize("count_max", [None, 1, 2, 3, 100])
def test_numbers_as_runs(count_max: int | None) -> None:
    """All numbers, in ranges without gaps, as few as the longest allowed length makes necessary."""
    dice = random.Random(count_max)
    for _ in range(100):
        numbers = sorted(dice.sample(range(SIZE), dice.randrange(SIZE)))
        found = list(runs(numbers, count_max))
        assert [number for start, end in found for number in range(start, end)] == numbers
        for (start, end), (following, _) in pairwise(found):
            assert following > end or end - start == count_max
        assert all(count_max is None or end - start <= count_max for start, end in found)
