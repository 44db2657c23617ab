"""Virtual time: the clock jumps, nothing hangs, nothing is left."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.testing.virtual_time import (
    TIME_MAX_SECONDS,
    DeadlockError,
    LeftTasksError,
    on_virtual_time,
    run_virtual,
)


@on_virtual_time
async def test_time_jumps_from_timer_to_timer() -> None:
    """Three months of sleep end at their very second, and timers fire in the order of their times."""
    loop = asyncio.get_running_loop()
    assert loop.time() == 0
    fired: list[float] = []
    for seconds in (3.0, 1.0, 2.0):
        loop.call_later(seconds, lambda: fired.append(loop.time()))
    await asyncio.sleep(90 * 86400)
    assert fired == [1, 2, 3]
    assert loop.time() == 90 * 86400


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=20))
@on_virtual_time
async def test_sleepers_side_by_side_take_as_long_as_the_longest(pauses: list[float]) -> None:
    """Any pauses side by side end when the longest ends, each at its own time."""
    loop = asyncio.get_running_loop()

    async def sleeper(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return loop.time()

    ends = await asyncio.gather(*(sleeper(seconds) for seconds in pauses))
    assert ends == pytest.approx(pauses, abs=1e-8)
    assert loop.time() == pytest.approx(max(pauses), abs=1e-8)


@on_virtual_time
async def test_time_stands_still_while_something_is_ready() -> None:
    """Tasks that yield without waiting take no time."""
    for _ in range(1000):
        await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() == 0


@on_virtual_time
async def test_timeouts_end_what_never_ends() -> None:
    """A time-out is a timer: what waits for nothing is ended by it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() == 3600


def test_a_deadlock_is_an_error_that_names_the_tasks_and_their_places() -> None:
    """Two tasks that wait for each other are both named, with the line at which they wait."""
    ours, theirs = asyncio.Lock(), asyncio.Lock()

    async def both(first: asyncio.Lock, second: asyncio.Lock) -> None:
        async with first:
            await asyncio.sleep(1)
            async with second:
                pass

    async def program() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(both(ours, theirs), name="left hand")
            group.create_task(both(theirs, ours), name="right hand")

    with pytest.raises(DeadlockError) as caught:
        run_virtual(program())
    lines = str(caught.value).splitlines()
    assert lines[0] == "deadlock: nothing is ready, no timer is set"
    for name in ("left hand", "right hand"):
        (line,) = [line for line in lines if f"{name}: " in line]
        assert ".both > " in line
        assert " > Lock.acquire at " in line
        assert "locks.py:" in line
    assert any("TaskGroup.__aexit__" in line for line in lines)


def test_waiting_beyond_the_end_of_time_is_an_error() -> None:
    """A program whose only timer lies too far ahead for exact arithmetic is ended, not run into rounding."""

    async def program() -> None:
        while True:
            await asyncio.sleep(86400)

    with pytest.raises(DeadlockError, match=f"past {TIME_MAX_SECONDS} s"):
        run_virtual(program())


def test_a_task_left_behind_is_an_error_that_names_it() -> None:
    """A program that ends before its tasks is told so, and they are ended."""
    ended = []

    async def lingers() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append(True)

    async def program() -> None:
        task = asyncio.create_task(lingers(), name="straggler")
        await asyncio.sleep(1)
        assert not task.done()

    with pytest.raises(LeftTasksError, match=r"straggler: .*lingers > sleep"):
        run_virtual(program())
    assert ended == [True]


def test_results_and_errors_come_out_as_they_are() -> None:
    """run_virtual returns what the program returns and raises what it raises."""

    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ZeroDivisionError

    assert run_virtual(answer()) == 42
    with pytest.raises(ZeroDivisionError):
        run_virtual(fail())


@on_virtual_time
async def test_threads_and_sockets_are_refused() -> None:
    """What would wait for the world while the clock runs away is an error, not a hang."""
    with pytest.raises(RuntimeError, match="no threads on virtual time"):
        await asyncio.to_thread(print)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(RuntimeError, match="no input and output on virtual time"):
        asyncio.get_running_loop().add_reader(ours, print)


@pytest.mark.parametrize("number", [1, 2])
@on_virtual_time
async def test_fixtures_and_parameters_reach_the_test(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """The decorator hides nothing from pytest."""
    assert number in {1, 2}
    assert caplog.records == []
