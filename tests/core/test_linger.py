"""Whether to look on for a moment before going to sleep."""

from bucketry.core.linger import LINGER_SECONDS, QUICK_SECONDS, Linger, LingerStatistics


def test_it_lingers_while_pauses_are_short() -> None:
    """After a short pause it looks on; the first time that is in vain and the pause gets long, no more."""
    linger = Linger(is_allowed=True)
    assert linger.idle(1.0) == 1.0  # nothing is known of the client yet
    linger.found(1.0 + QUICK_SECONDS / 2, lingered=False)
    assert linger.idle(2.0) == 2.0 + LINGER_SECONDS
    linger.found(2.00001, lingered=True)
    assert linger.idle(3.0) == 3.0 + LINGER_SECONDS
    linger.found(3.0 + 2 * QUICK_SECONDS, lingered=False)
    assert linger.idle(4.0) == 4.0
    assert linger.statistics() == LingerStatistics(tried=2, paid=1)


def test_a_steady_load_needs_no_idling_to_be_judged() -> None:
    """A request that is found without ever having been idle says nothing about pauses."""
    linger = Linger(is_allowed=True)
    linger.found(1.0, lingered=False)
    assert linger.idle(2.0) == 2.0


def test_it_never_lingers_where_it_may_not() -> None:
    """With one processor the client could not run while we look."""
    linger = Linger(is_allowed=False)
    linger.idle(1.0)
    linger.found(1.0, lingered=False)
    assert linger.idle(2.0) == 2.0
    assert linger.statistics() == LingerStatistics(tried=0, paid=0)
