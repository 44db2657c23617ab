"""Blocking calls in threads of one owner."""

import asyncio
import subprocess
import sys
import threading

import pytest

from bucketry.bucket.threads import Threads
from bucketry.errors import Closed


async def test_returns_and_raises() -> None:
    """A call gives back what the function returns or raises."""
    threads = Threads("test", 2)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    await threads.close()


async def test_bounded() -> None:
    """No more calls run at once than there may be threads; the others wait."""
    threads = Threads("test", 3)
    lock, running, most = threading.Lock(), 0, 0
    full = threading.Barrier(3)

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait()
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(call) for _ in range(9)))
    assert most == 3
    await threads.close()


async def test_close_waits_for_the_abandoned() -> None:
    """A call that runs goes on when its waiter is cancelled, and close waits for it."""
    threads = Threads("test", 1)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        go_on.wait()
        done.set()

    task = asyncio.create_task(threads.run(call))
    while not begun.is_set():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closing = asyncio.create_task(threads.close())
    await asyncio.sleep(0)
    assert not closing.done()
    assert threads.busy_count == 1
    go_on.set()
    await closing
    assert done.is_set()
    assert threads.busy_count == 0


async def test_cancelled_before_its_turn() -> None:
    """A call that waits for a thread and is cancelled never runs."""
    threads = Threads("test", 1)
    go_on = threading.Event()
    calls: list[str] = []
    first = asyncio.create_task(threads.run(go_on.wait))
    second = asyncio.create_task(threads.run(calls.append, "ran"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    await threads.close()
    assert calls == []


async def test_closed() -> None:
    """After close, calls are refused; closing twice is fine."""
    threads = Threads("the bucket", 1)
    await threads.close()
    await threads.close()
    with pytest.raises(Closed, match="the bucket is closed"):
        await threads.run(print)


async def test_threads_are_started_when_needed() -> None:
    """One call at a time needs one thread, however many there may be."""
    threads = Threads("test", 8)
    names = {await threads.run(threading.get_ident) for _ in range(50)}
    assert len(names) == 1
    await threads.close()


async def test_a_burst_gets_all_threads() -> None:
    """Calls that come at once run at once, as many as may, though the loop itself starts few threads."""
    threads = Threads("test", 48)
    all_run = threading.Barrier(48)
    await asyncio.gather(*(threads.run(all_run.wait) for _ in range(48)))
    await threads.close()


async def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a thread, those that are there do the work; where it refuses the first, the
    call fails."""
    threads = Threads("test", 4)
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError):
        await threads.run(divmod, 7, 2)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    monkeypatch.setattr(threading.Thread, "start", refused)
    results = await asyncio.gather(*(threads.run(divmod, number, 2) for number in range(9)))
    assert results == [divmod(number, 2) for number in range(9)]
    await threads.close()


async def test_many_calls() -> None:
    """Each of many calls at once gets its own result, and an error goes to the one that caused it."""
    threads = Threads("test", 4)

    def call(number: int) -> int:
        if number % 7 == 0:
            raise ValueError(number)
        return number

    results = await asyncio.gather(*(threads.run(call, n) for n in range(1000)), return_exceptions=True)
    for number, result in enumerate(results):
        if number % 7 == 0:
            assert isinstance(result, ValueError)
            assert result.args == (number,)
        else:
            assert result == number
    await threads.close()


async def test_close_while_closing() -> None:
    """Two may wait for the same end; one that is cancelled does not spoil it for the other."""
    threads = Threads("test", 1)
    go_on = threading.Event()
    call = asyncio.create_task(threads.run(go_on.wait))
    await asyncio.sleep(0)
    first, second = asyncio.create_task(threads.close()), asyncio.create_task(threads.close())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await second
    await call
    with pytest.raises(asyncio.CancelledError):
        await first


_UNCLOSED = """
import asyncio, threading, time
from bucketry.bucket.threads import Threads

begun = threading.Event()

def call():
    begun.set()
    time.sleep(0.1)  # long after the main thread has nothing left to do
    print("done", flush=True)

async def main():
    threads = Threads("test", 2)
    task = asyncio.create_task(threads.run(call))
    while not begun.is_set():
        await asyncio.sleep(0)
    return threads

kept = asyncio.run(main())
"""


@pytest.mark.system
def test_exit_without_close() -> None:
    """An interpreter that ends without close waits for what has begun, and exits cleanly."""
    result = subprocess.run([sys.executable, "-c", _UNCLOSED], capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"done\n", b"")
