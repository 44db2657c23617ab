"""What a disk's content may be after what was done to it."""

import pytest

from bucketry.testing.simulation.history import History, Violation, Write

CELLS = 2


def a_history() -> History:
    return History(4, CELLS, {0: (1, 1)})


def written(history: History, block: int, number: int, first: int = 0, stop: int = CELLS) -> Write:
    write = history.begin_write(block, first, stop, number)
    history.end_write(write, ok=True)
    return write


def test_what_was_flushed_must_be_there() -> None:
    """Before the flush has returned either content will do, afterwards only the new one."""
    history = a_history()
    written(history, 0, 7)
    epoch = history.begin_flush()
    history.check_order({0: (1, 1)})
    history.check_order({0: (7, 7)})
    history.end_flush(epoch)
    history.check_order({0: (7, 7)})
    with pytest.raises(Violation, match="block 0"):
        history.check_order({0: (1, 1)})


def test_nothing_of_a_later_epoch_comes_before_all_of_an_earlier_one() -> None:
    """Two blocks in two epochs: the second alone is wrong, in whichever order they are looked at."""
    for first, second in ((1, 2), (2, 1)):
        history = a_history()
        written(history, first, 7)
        history.begin_flush()
        written(history, second, 8)
        for content in ({}, {first: (7, 7)}, {first: (7, 7), second: (8, 8)}):
            history.check_order({0: (1, 1), **content})
        with pytest.raises(Violation):
            history.check_order({0: (1, 1), second: (8, 8)})


def test_a_write_over_a_flush_belongs_to_either_side() -> None:
    """Called before and returned after a flush: it may have been made in either epoch."""
    history = a_history()
    write = history.begin_write(1, 0, CELLS, 7)
    epoch = history.begin_flush()
    history.end_write(write, ok=True)
    history.end_flush(epoch)
    history.check_order({0: (1, 1)})
    history.check_order({0: (1, 1), 1: (7, 7)})


def test_a_write_that_failed_may_have_been_made_or_not() -> None:
    """Nor does it excuse what comes later."""
    history = a_history()
    history.end_write(history.begin_write(1, 0, CELLS, 7), ok=False)
    written(history, 1, 8)
    history.end_flush(history.begin_flush())
    history.check_order({0: (1, 1), 1: (8, 8)})
    with pytest.raises(Violation):
        history.check_order({0: (1, 1), 1: (7, 7)})


def test_a_block_is_never_a_mixture() -> None:
    """Who sees a write in one cell sees in the other what was there before that write was called."""
    history = a_history()
    written(history, 1, 7)
    written(history, 1, 8, 0, 1)
    history.check_block(1, (8, 7))
    with pytest.raises(Violation, match="mixture"):
        history.check_block(1, (8, 0))
    with pytest.raises(Violation, match="nobody has written 9"):
        history.check_block(1, (9, 7))


def test_a_read_sees_the_last_write_or_one_under_way() -> None:
    """Never an older one."""
    history = a_history()
    reading = history.begin_read(0, 0, CELLS)
    history.begin_write(0, 0, 1, 7)
    history.check_read(reading, (1, 1))
    history.check_read(reading, (7, 1))
    written(history, 0, 8, 1, 2)
    later = history.begin_read(0, 0, CELLS)
    history.check_read(later, (7, 8))
    with pytest.raises(Violation, match="cell 1 was read as 1"):
        history.check_read(later, (7, 1))


def test_what_is_replayed_keeps_its_order() -> None:
    """While a replay goes to the bucket its epochs come one after the other, and before what is new; what it
    has lost is never seen again."""
    history = a_history()
    written(history, 1, 7)
    history.end_flush(history.begin_flush())
    written(history, 2, 8)
    history.end_flush(history.begin_flush())
    history.begin_write(4, 0, CELLS, 11)
    written(history, 2, 12)
    seen = {0: (1, 1), 1: (7, 7), 2: (8, 8)}
    after = history.recovered(seen)
    after.check_order({0: (1, 1)}, flushed=0)
    after.check_order({0: (1, 1), 1: (7, 7)}, flushed=0)
    with pytest.raises(Violation):
        after.check_order({0: (1, 1), 2: (8, 8)}, flushed=0)
    written(after, 3, 9)
    after.check_order({**seen, 3: (9, 9)}, flushed=0)
    for content in ({0: (1, 1), 1: (7, 7), 3: (9, 9)}, {**seen, 2: (12, 12)}, {**seen, 4: (11, 11)}):
        with pytest.raises(Violation):
            after.check_order(content, flushed=0)
    reading = after.begin_read(2, 0, CELLS)
    after.check_read(reading, (8, 8))
    with pytest.raises(Violation):
        after.check_read(reading, (12, 12))
    assert history.epoch == 3, "the history before is as it was"
