"""An event loop on a thread of its own: every call ends, whoever ends it."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from bucketry.errors import Closed, Invalid, NotFound
from bucketry.files.gate import Gate
from bucketry.threads.loop_thread import LoopThread


@pytest.fixture
def running() -> Iterator[LoopThread]:
    running = LoopThread("test")
    yield running
    running.close()


async def _answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def _raise() -> None:
    raise NotFound("gone")


class Held:
    """A coroutine that has begun and does not end by itself."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()

    async def wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def test_results_and_errors_come_to_the_caller(running: LoopThread) -> None:
    """From any thread."""
    assert running.call(lambda: _answer(3)) == 3
    with pytest.raises(NotFound, match="gone"):
        running.call(_raise)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(running.call(lambda: _answer(n)))) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(16))


def test_closing_ends_what_is_under_way() -> None:
    """Who waits is told; the last coroutine runs after it; later calls are refused; closing twice is fine."""
    running = LoopThread("test")
    held = Held()
    told: list[BaseException] = []
    order: list[bool] = []

    def call() -> None:
        try:
            running.call(held.wait)
        except Closed as error:
            told.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    held.begun.wait()

    async def last() -> None:
        order.append(held.ended.is_set())

    running.close(last)
    thread.join()
    assert len(told) == 1
    assert order == [True]
    with pytest.raises(Closed):
        running.call(lambda: _answer(1))
    running.close()
    posted: list[int] = []
    running.post(lambda: posted.append(1))
    assert posted == [1]


def test_a_cancelled_call_has_ended_when_its_caller_goes_on(running: LoopThread) -> None:
    """What it was lent is not touched any more."""
    held = Held()
    call = running.start(held.wait)
    held.begun.wait()
    call.cancel()
    with pytest.raises(Closed):
        call.result()
    assert held.ended.is_set()


def interrupt_when_waiting() -> threading.Thread:
    """Ctrl-C for the main thread as soon as it waits for a result, by a thread to be joined."""
    main = threading.main_thread().ident
    assert main is not None

    def waits() -> bool:
        frame = sys._current_frames()[main]
        return (
            frame.f_code.co_name == "wait"
            and frame.f_back is not None
            and frame.f_back.f_code.co_name == "exception"
        )

    def send() -> None:
        while not waits():
            threading.Event().wait(0.005)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_ctrl_c_ends_a_call(running: LoopThread) -> None:
    """The thread that waits goes on with KeyboardInterrupt when nothing of the call runs any more; so it does
    through a gate. A call that others wait for, too, goes on without it."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    gate = Gate("the file")
    try:
        for wait in (running.call, lambda make: gate.call(running, make)):
            held = Held()
            thread = interrupt_when_waiting()
            with pytest.raises(KeyboardInterrupt), gate:
                wait(held.wait)
            thread.join()
            assert held.ended.is_set()
        shared = Held()
        call = running.start(shared.wait)
        shared.begun.wait()
        thread = interrupt_when_waiting()
        with pytest.raises(KeyboardInterrupt), gate:
            gate.wait(call)
        thread.join()
        assert not shared.ended.is_set()
        call.give_up()
        assert shared.ended.is_set()
    finally:
        signal.signal(signal.SIGINT, old)


def test_a_call_that_is_given_up_before_it_began(running: LoopThread) -> None:
    """Never runs, even if it is begun afterwards; and giving up does not wait for ever."""
    held = Held()
    call = running.prepare(held.wait)
    call.give_up()
    running.begin(call)
    with pytest.raises(Closed):
        call.result()
    assert running.call(lambda: _answer(1)) == 1
    assert not held.begun.is_set()
    running.close()
    call.give_up()


def test_calls_from_within_are_refused(running: LoopThread) -> None:
    """They would never end."""

    async def inside() -> None:
        running.call(lambda: _answer(1))

    with pytest.raises(Invalid, match="own event loop"):
        running.call(inside)


def test_the_last_coroutines_error_is_raised() -> None:
    """And the thread has ended all the same."""
    running = LoopThread("test")
    with pytest.raises(NotFound):
        running.close(_raise)
    assert running.is_closed


def test_a_forked_process_is_refused(running: LoopThread) -> None:
    """The thread stayed behind: a call would wait for ever."""
    pid = os.fork()
    if pid == 0:
        try:
            running.call(lambda: _answer(1))
        except Closed:
            os._exit(42)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_a_gate_waits_for_those_inside(running: LoopThread) -> None:
    """Closing it refuses those who come, ends what those inside wait for, and then waits until they have
    left."""
    gate = Gate("the file")
    held = Held()
    left: list[str] = []

    def visit() -> None:
        try:
            with gate:
                gate.call(running, held.wait)
        except Closed:
            left.append("told")

    thread = threading.Thread(target=visit)
    thread.start()
    held.begun.wait()
    assert gate.close()
    gate.wait_empty()
    assert held.ended.is_set()
    thread.join()
    assert left == ["told"]
    assert not gate.close()
    with pytest.raises(Closed, match="the file is closed"), gate:
        pass
