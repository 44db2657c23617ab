"""What goes when the cache is full."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.core.cache_room import (
    USED_STEP_SECONDS,
    Candidate,
    leave_in_order,
    target_bytes,
    was_used,
)

STEP = USED_STEP_SECONDS


def order(*candidates: Candidate) -> list[int]:
    return [candidate.entry for candidate in leave_in_order(candidates)]


def once(number: int, at: int, size: int = 1) -> Candidate:
    return Candidate(number, 0, size, at, at)


def again(number: int, at: int, size: int = 1) -> Candidate:
    return Candidate(number, 0, size, at, at - STEP)


def test_oldest_newcomers_go_first() -> None:
    """Of blocks that were used once the oldest goes, though others were used longer ago and more often."""
    assert order(again(0, 100), once(1, 300), once(2, 200), again(3, 150))[:2] == [2, 1]


def test_newcomers_keep_their_share() -> None:
    """When newcomers have no more than a quarter, the oldest of the others goes."""
    proven = [again(number, 1000 + number) for number in range(8)]
    newcomers = [once(100, 5000), once(101, 5001)]
    assert order(*proven, *newcomers)[0] == 0
    assert order(*proven, *newcomers, once(102, 4000))[0] == 102


def test_a_scan_sweeps_only_newcomers() -> None:
    """However much is read once, what was used again stays, as long as the scan fills more than its share."""
    proven = [again(number, number) for number in range(30)]
    scan = [once(1000 + number, 10_000 + number) for number in range(70)]
    assert all(number >= 1000 for number in order(*proven, *scan)[:60])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(1, 9)), max_size=40))
def test_all_go_at_last(drawn: list[tuple[int, int, int]]) -> None:
    """Each candidate is offered once, whatever their times are."""
    candidates = [
        Candidate(number, None, size, used, filled) for number, (used, filled, size) in enumerate(drawn)
    ]
    assert sorted(order(*candidates)) == list(range(len(candidates)))


def test_used_is_written_down_now_and_then() -> None:
    """A use is noted once a minute; a time to come, after the clock was set back, is put right."""
    assert was_used(100, 100)
    assert was_used(100, 100 + STEP - 1)
    assert not was_used(100, 100 + STEP)
    assert not was_used(101, 100)


def test_room_is_made_with_some_slack() -> None:
    """What is needed and a twentieth of the limit, but never more than all."""
    assert target_bytes(1000, 100) == 850
    assert target_bytes(1000, 1000) == 0
