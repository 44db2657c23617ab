"""The latency histogram against a sorted list."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.histogram import BOUNDS_SECONDS, LatencyHistogram

latencies = st.lists(st.floats(0, 200), min_size=1, max_size=60)


def histogram(seconds: list[float]) -> LatencyHistogram:
    made = LatencyHistogram()
    for value in seconds:
        made.add(value)
    return made


def test_the_bounds_are_those_that_are_documented() -> None:
    """From 50 µs to 100 s, each √2 times the one before."""
    assert BOUNDS_SECONDS[0] == 50e-6
    assert BOUNDS_SECONDS[-1] == 100.0
    assert len(BOUNDS_SECONDS) == 43
    ratios = [high / low for low, high in itertools.pairwise(BOUNDS_SECONDS)]
    assert ratios[:-1] == pytest.approx([math.sqrt(2)] * 41)
    assert 1 < ratios[-1] <= math.sqrt(2)


def test_nothing_seen_is_all_zeros() -> None:
    """An empty histogram divides by nothing."""
    assert set(LatencyHistogram().statistics().values()) == {0}


def test_bounds_belong_to_their_bucket_and_the_last_takes_the_rest() -> None:
    """A latency on a bound is counted below it; one beyond all bounds is not lost."""
    for index, bound in enumerate(BOUNDS_SECONDS):
        assert histogram([bound]).counts[index] == 1
        assert histogram([math.nextafter(bound, math.inf)]).counts[index + 1] == 1
    assert histogram([1e9]).percentile_seconds(0.5) == 1e9


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.floats(0, 1))
def test_percentiles_are_right_within_one_bucket(seconds: list[float], fraction: float) -> None:
    """A percentile is not below the true one, and above it by at most one bucket's width."""
    exact = sorted(seconds)[max(0, math.ceil(fraction * len(seconds)) - 1)]
    found = histogram(seconds).percentile_seconds(fraction)
    assert exact <= found <= max(exact * math.sqrt(2) * (1 + 1e-9), BOUNDS_SECONDS[0])


@given(latencies, latencies)
def test_merging_is_the_same_as_having_seen_all(ours: list[float], theirs: list[float]) -> None:
    """Two histograms merged equal one that saw everything."""
    merged, other = histogram(ours), histogram(theirs)
    merged.merge(other)
    whole = histogram(ours + theirs)
    assert (merged.counts, merged.max_seconds) == (whole.counts, whole.max_seconds)
    assert merged.total_seconds == pytest.approx(whole.total_seconds)
    assert merged.count == len(ours) + len(theirs)
