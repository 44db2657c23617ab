"""The slot table against its promises, over all orders of arrival that matter and many that were drawn."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.priority import Priority
from bucketry.core.slots import OVERTAKEN_MAX, Slot, SlotTable


def drain(table: SlotTable, inside: list[Slot]) -> Iterator[Slot]:
    """Let everybody leave in the order in which they came in; those admitted, in order."""
    while inside:
        admitted = table.leave(inside.pop(0))
        yield from admitted
        inside += admitted


def test_the_urgent_go_first_and_equals_in_order() -> None:
    """Whatever the order of arrival, they are admitted by priority, and by arrival within one."""
    for order in set(itertools.permutations([*Priority, Priority.READ, Priority.UPLOAD])):
        table = SlotTable(1, 100)
        holder = table.enter(Priority.BACKGROUND, 10)
        waiting = [table.enter(priority, 10) for priority in order]
        assert not any(slot.inside for slot in waiting)
        expected = sorted(waiting, key=lambda slot: slot.priority)  # stable: equals stay in order
        assert list(drain(table, [holder])) == expected


@pytest.mark.parametrize("requests_max", [1, 2, 3])
def test_only_so_many_requests_are_inside(requests_max: int) -> None:
    """The limit is reached and not passed."""
    table = SlotTable(requests_max, 100)
    slots = [table.enter(Priority.READ, 0) for _ in range(5)]
    assert [slot.inside for slot in slots] == [index < requests_max for index in range(5)]
    assert table.waiting_count == 5 - requests_max


def test_bytes_fit_exactly_and_not_one_more() -> None:
    """The limit on bytes is inclusive."""
    table = SlotTable(10, 100)
    assert table.enter(Priority.READ, 60).inside
    assert table.enter(Priority.READ, 40).inside
    assert not table.enter(Priority.READ, 1).inside


def test_a_body_beyond_the_limit_goes_alone() -> None:
    """It waits until no other body is inside, then goes, and others wait for it; those without a body do
    not matter."""
    table = SlotTable(10, 100)
    table.enter(Priority.READ, 0)
    small = table.enter(Priority.UPLOAD, 1)
    large = table.enter(Priority.UPLOAD, 1000)
    assert not large.inside
    assert table.leave(small) == [large]
    after = table.enter(Priority.UPLOAD, 1)
    assert not after.inside
    assert table.leave(large) == [after]


def test_nobody_overtakes_the_next_one_by_being_small() -> None:
    """While the next one does not fit, its equals and the less urgent wait; the more urgent pass."""
    table = SlotTable(10, 100)
    first = table.enter(Priority.UPLOAD, 80)
    large = table.enter(Priority.UPLOAD, 80)
    small = table.enter(Priority.UPLOAD, 1)
    background = table.enter(Priority.BACKGROUND, 0)
    assert table.enter(Priority.READ, 20).inside
    urgent = table.enter(Priority.READ, 1)
    assert not any(slot.inside for slot in (urgent, large, small, background))
    assert table.leave(first) == [urgent]


def test_leaving_while_waiting_makes_way() -> None:
    """When the one that does not fit gives up, those behind it go."""
    table = SlotTable(10, 100)
    table.enter(Priority.UPLOAD, 80)
    large = table.enter(Priority.UPLOAD, 80)
    small = table.enter(Priority.UPLOAD, 20)
    assert table.leave(large) == [small]
    assert table.waiting_count == 0


def test_the_least_urgent_is_not_kept_out_for_ever() -> None:
    """Under a steady stream of readers each other queue gets a turn after OVERTAKEN_MAX of theirs."""
    table = SlotTable(1, 100)
    inside = table.enter(Priority.READ, 0)
    patient = table.enter(Priority.BACKGROUND, 0)
    for _ in range(OVERTAKEN_MAX):
        reader = table.enter(Priority.READ, 0)
        assert table.leave(inside) == [reader]
        inside = reader
    table.enter(Priority.READ, 0)
    assert table.leave(inside) == [patient]


def test_a_queue_that_went_empty_starts_to_count_anew() -> None:
    """Who comes after a patient one that gave up does not inherit its patience."""
    table = SlotTable(1, 100)
    inside = table.enter(Priority.READ, 0)
    patient = table.enter(Priority.BACKGROUND, 0)
    for _ in range(OVERTAKEN_MAX):
        reader = table.enter(Priority.READ, 0)
        table.leave(inside)
        inside = reader
    table.leave(patient)
    table.enter(Priority.BACKGROUND, 0)
    reader = table.enter(Priority.READ, 0)
    assert table.leave(inside) == [reader]


steps = st.lists(st.tuples(st.sampled_from(Priority), st.integers(0, 150)) | st.integers(0, 30), max_size=80)


@given(st.integers(1, 4), st.integers(1, 100), steps)
def test_any_course_of_events_keeps_the_limits_and_leaves_nobody_behind(
    requests_max: int, bytes_max: int, course: list[tuple[Priority, int] | int]
) -> None:
    """Limits hold after every step, somebody is inside while somebody waits, and all get in at last."""
    table = SlotTable(requests_max, bytes_max)
    present: list[Slot] = []
    for step in course:
        if isinstance(step, tuple):
            present.append(table.enter(*step))
        elif present:
            gone = present.pop(step % len(present))
            admitted = table.leave(gone)
            assert all(slot.inside for slot in admitted)
        inside = [slot for slot in present if slot.inside]
        bodies = [slot.size_bytes for slot in inside if slot.size_bytes]
        assert len(inside) == table.requests_inside <= requests_max
        assert sum(bodies) == table.bytes_inside
        assert sum(bodies) <= bytes_max or len(bodies) == 1
        assert table.waiting_count == len(present) - len(inside)
        assert inside or not present
    while present:
        leaving = next(slot for slot in present if slot.inside)
        present.remove(leaving)
        table.leave(leaving)
    assert (table.requests_inside, table.bytes_inside, table.waiting_count) == (0, 0, 0)
