"""Blocking calls in threads of one owner."""

import asyncio
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
