"""The rate: averages are kept whatever the sizes, and debts are paid by those that come after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.rate import SAVED_SECONDS_MAX, Rate


def test_an_idle_line_has_saved_a_little_and_no_more() -> None:
    """However long the line was idle, only the savings go at once."""
    rate = Rate(1000)
    rate.charge(0, now=5.0)
    rate.charge(int(1000 * SAVED_SECONDS_MAX), now=1e9)
    assert rate.wait_seconds(1e9) == 0
    rate.charge(500, now=1e9)
    assert rate.wait_seconds(1e9) == pytest.approx(0.5)


def test_a_body_of_any_size_passes_and_the_next_waits_for_it() -> None:
    """There is no largest body: what it takes too much is a debt."""
    rate = Rate(100)
    assert rate.wait_seconds(0.0) == 0
    rate.charge(100_000, now=0.0)
    assert rate.wait_seconds(0.0) == pytest.approx(1000 - SAVED_SECONDS_MAX)
    assert rate.wait_seconds(500.0) == pytest.approx(500 - SAVED_SECONDS_MAX)
    assert rate.wait_seconds(1000.0) == 0


@given(
    st.integers(1, 10**10),
    st.lists(st.tuples(st.integers(0, 10**8), st.floats(0, 10)), min_size=1, max_size=50),
)
def test_over_any_time_no_more_passes_than_the_rate_allows(
    bytes_per_second: int, bodies: list[tuple[int, float]]
) -> None:
    """All but the last body fit into the time that passed, with the savings at its beginning."""
    rate, now, sent = Rate(bytes_per_second), 0.0, 0
    for size_bytes, pause in bodies:
        now += pause
        now += rate.wait_seconds(now)
        assert sent <= bytes_per_second * (now + SAVED_SECONDS_MAX) * (1 + 1e-9) + 1
        rate.charge(size_bytes, now)
        sent += size_bytes


@given(st.integers(1, 10**10), st.lists(st.integers(1, 10**8), min_size=2, max_size=50))
def test_a_busy_line_is_used_in_full(bytes_per_second: int, sizes: list[int]) -> None:
    """When bodies never stop coming, the line is never idle: the last starts when all before it are paid."""
    rate, now = Rate(bytes_per_second), 0.0
    for size_bytes in sizes:
        now += rate.wait_seconds(now)
        rate.charge(size_bytes, now)
    least = sum(sizes[:-1]) / bytes_per_second
    assert now <= least + 1e-6 * (1 + least)
