"""The retry schedule, by its properties and by example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.retry import CORRUPT_RETRIES_MAX, PAUSE_LEAST_SECONDS, RetriedError, Retry
from bucketry.errors import Corrupt, CredentialsRefused, Throttled, Unavailable, Unreachable
from bucketry.settings import RetrySettings

ONE = RetrySettings(initial_pause_seconds=1, pause_max_seconds=10, budget_seconds=60)

schedules = st.builds(
    RetrySettings,
    initial_pause_seconds=st.floats(0.001, 10),
    pause_max_seconds=st.floats(0.001, 100),
    budget_seconds=st.floats(0, 1000),
)
jitters = st.floats(0, 1)
wishes = st.none() | st.floats(-10, 1e9)


def pauses(settings: RetrySettings, jitter: float, error: RetriedError) -> list[float]:
    """All pauses of a request whose attempts take no time."""
    retry, now, found = Retry(settings, began=1000.0), 1000.0, list[float]()
    while (pause := retry.pause_after(error, now=now, jitter=jitter)) is not None:
        found.append(pause)
        now += pause
    return found


def test_full_jitter_doubles_up_to_the_longest_pause_and_ends_on_the_budget() -> None:
    """Pauses double from the first to the longest, and the last is cut to the end of the budget."""
    assert pauses(ONE, 1.0, Unavailable("no")) == [1, 2, 4, 8, 10, 10, 10, 10, 5]


def test_jitter_shortens_every_pause_alike() -> None:
    """The pause is the jitter's share of the longest possible one."""
    assert pauses(ONE, 0.5, Unavailable("no"))[:6] == [0.5, 1, 2, 4, 5, 5]


@given(schedules, st.lists(st.tuples(jitters, wishes, st.floats(0, 30)), max_size=40))
def test_no_pause_is_below_the_wish_or_above_its_bounds_or_the_budget(
    settings: RetrySettings, failures: list[tuple[float, float | None, float]]
) -> None:
    """A pause is at least what the store wishes, at most that and the longest, and never goes past the
    budget."""
    retry, now, started = Retry(settings, began=0.0), 0.0, None
    for number, (jitter, wish, took) in enumerate(failures):
        now += took
        started = now if started is None else started
        left = settings.budget_seconds - (now - started)
        pause = retry.pause_after(Throttled("slow", retry_after_seconds=wish), now=now, jitter=jitter)
        assert retry.failure_count == number + 1
        assert retry.failing_seconds(now) == now - started
        if pause is None:
            assert left < PAUSE_LEAST_SECONDS
            return
        longest = min(settings.initial_pause_seconds * 2**number, settings.pause_max_seconds)
        wished = max(0.0, wish or 0.0)
        assert min(wished, left) <= pause <= min(wished + longest, left)
        now += pause


@given(st.floats(0.1, 10), st.floats(1, 100), st.floats(0, 100), st.floats(0.1, 1))
def test_a_request_that_always_fails_ends_with_its_budget(
    initial: float, longest: float, budget: float, jitter: float
) -> None:
    """Attempts that take no time go on from the first failure until the end of the budget, not a moment
    longer."""
    settings = RetrySettings(initial_pause_seconds=initial, pause_max_seconds=longest, budget_seconds=budget)
    assert sum(pauses(settings, jitter, Unavailable("no"))) == pytest.approx(
        budget, abs=2 * PAUSE_LEAST_SECONDS
    )


def test_the_budget_begins_with_the_first_failure() -> None:
    """A request that waited long for its turn has its whole budget yet."""
    retry = Retry(ONE, began=0.0)
    assert retry.pause_after(Unavailable("no"), now=1e6, jitter=1.0) == 1
    assert retry.pause_after(Unavailable("no"), now=1e6 + 59.5, jitter=1.0) == 0.5
    assert retry.pause_after(Unavailable("no"), now=1e6 + 60, jitter=1.0) is None


def test_without_budget_nothing_is_tried_again() -> None:
    """A budget of 0 means one attempt."""
    settings = RetrySettings(budget_seconds=0)
    assert pauses(settings, 1.0, Unavailable("no")) == []


def test_corrupt_is_tried_again_a_few_times_only() -> None:
    """A damaged body deserves few retries, however much budget is left, and those of other failures do not
    count."""
    assert len(pauses(ONE, 0.01, Corrupt("cut"))) == CORRUPT_RETRIES_MAX
    retry = Retry(ONE, began=0.0)
    for _ in range(5):
        assert retry.pause_after(Unavailable("no"), now=0, jitter=0.1) is not None
    for _ in range(CORRUPT_RETRIES_MAX):
        assert retry.pause_after(Corrupt("cut"), now=0, jitter=0.1) is not None
    assert retry.pause_after(Corrupt("cut"), now=0, jitter=0.1) is None


def test_thousands_of_failures_do_not_overflow() -> None:
    """The doubling stops before a float does."""
    retry = Retry(ONE, began=0.0)
    for _ in range(5000):
        assert retry.pause_after(Unavailable("no"), now=0, jitter=0.0) == 0
    assert retry.pause_after(Unavailable("no"), now=0, jitter=1.0) == 10


def test_a_store_that_never_answered_is_tried_for_seconds() -> None:
    """Its time runs from the first attempt on, so that one that timed out was enough; it is never longer than
    the budget."""
    assert sum(pauses(ONE, 0.1, Unreachable("no"))) == pytest.approx(ONE.first_contact_seconds)
    retry = Retry(ONE, began=100.0)
    assert retry.pause_after(Unreachable("timed out"), now=105.0, jitter=0.1) is None
    short = RetrySettings(budget_seconds=1)
    assert sum(pauses(short, 1.0, Unreachable("no"))) == pytest.approx(1)


def test_refused_credentials_are_tried_like_an_outage() -> None:
    """New ones may come within the budget."""
    assert sum(pauses(ONE, 1.0, CredentialsRefused("expired"))) == pytest.approx(60)
