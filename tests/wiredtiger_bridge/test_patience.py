"""Trying again where an error would be WiredTiger's end."""

import errno
from collections.abc import Callable

import pytest

from bucketry import errors
from bucketry.files.wiredtiger import patience
from bucketry.files.wiredtiger.patience import is_answer, patiently


def never(_error: OSError, _pause: float) -> None:
    pytest.fail("there was no trouble")


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds


def failing(cause: BaseException | None, number: int, times: int) -> tuple[Callable[[], str], list[int]]:
    """An operation that fails so often, and its count of calls."""
    calls = [0]

    def operation() -> str:
        calls[0] += 1
        if calls[0] <= times:
            raise OSError(number, "trouble") from cause
        return "done"

    return operation, calls


def test_pauses_grow_and_end_with_the_time() -> None:
    """Attempts go on until the deadline, which has the last one, and then the error comes out."""
    clock = Clock()
    told: list[float] = []
    operation, calls = failing(errors.Unavailable("away"), errno.EAGAIN, 1000)
    with pytest.raises(OSError, match="trouble"):
        patiently(
            operation,
            seconds=20,
            trouble=lambda _, pause: told.append(pause),
            now=clock.now,
            sleep=clock.sleep,
        )
    assert clock.pauses == [0.5, 1, 2, 4, 5, 5, 2.5]
    assert told == clock.pauses
    assert calls[0] == 8
    assert clock.seconds == 120


def test_what_works_costs_nothing() -> None:
    """No pause without a failure, and the answer is given back."""
    clock = Clock()
    operation, calls = failing(None, 0, 0)
    assert patiently(operation, seconds=0, trouble=never, now=clock.now, sleep=clock.sleep) == "done"
    assert (clock.pauses, calls) == ([], [1])


@pytest.mark.parametrize(
    ("cause", "number", "expected"),
    [
        (errors.Unavailable("x"), errno.EAGAIN, False),
        (errors.Throttled("x"), errno.EAGAIN, False),
        (errors.Denied("x"), errno.EACCES, False),
        (errors.BucketNotFound("x"), errno.ENXIO, False),
        (None, errno.ENOSPC, False),
        (None, errno.EIO, False),
        (errors.NotFound("x"), errno.ENOENT, True),
        (errors.AlreadyExists("x"), errno.EEXIST, True),
        (errors.PreconditionFailed("x"), errno.ESTALE, True),
        (errors.Corrupt("x"), errno.EIO, True),
        (errors.Invalid("x"), errno.EINVAL, True),
        (errors.Unsupported("x"), errno.EOPNOTSUPP, True),
        (errors.Closed("x"), errno.EBADF, True),
        (None, errno.ENOENT, True),
    ],
)
def test_answers_are_not_asked_for_twice(cause: BaseException | None, number: int, expected: bool) -> None:
    """What may pass is tried again, what is an answer is not."""
    error = OSError(number, "x")
    error.__cause__ = cause
    assert is_answer(error) is expected


def test_ctrl_c_waits_for_the_call_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is delivered after the answer; a second one ends the call with EINTR."""
    later: list[bool] = []
    monkeypatch.setattr(patience, "interrupt_later", lambda: later.append(True))
    interruptions = [1]

    def operation() -> str:
        if interruptions[0]:
            interruptions[0] -= 1
            raise KeyboardInterrupt
        return "done"

    assert patiently(operation, seconds=10, trouble=never) == "done"
    assert later == [True]
    interruptions[0] = 2
    with pytest.raises(InterruptedError):
        patiently(operation, seconds=10, trouble=never)
    assert later == [True, True]
