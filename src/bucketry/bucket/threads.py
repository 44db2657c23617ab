"""Blocking calls in a bounded number of threads of one owner.

A call that has begun runs to its end, whether or not somebody still waits for it: cancelling the ``await`` of
an upload leaves an upload that either happens or not, never half a one. ``close`` waits for all of them, for
the interpreter must not end while the bucket client's threads still use it; what nobody closed is waited for
at exit.

The standard library's executor does the same and costs twice the CPU time: two futures and two locks for each
call, and one write to wake the event loop. Here a finished call goes into a queue, and the loop is woken once
for all that are in it.
"""

import asyncio
import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from bucketry.errors import Closed

P = ParamSpec("P")
T = TypeVar("T")

_Call = Callable[[], Any]
_Result = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Threads:
    """At most ``count_max`` threads, started when there is work. ``name`` is for messages. Belongs to one
    event loop."""

    def __init__(self, name: str, count_max: int) -> None:
        self._name = name
        self._count_max = count_max
        self._threads: list[threading.Thread] = []
        #: Not set while a thread starts others. It changes under the lock, so that no call comes unseen.
        self._grown = threading.Event()
        self._grown.set()
        self._growth = threading.Lock()
        #: None ends the thread that takes it.
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], _Call] | None] = SimpleQueue()
        self._finished: deque[_Result] = deque()
        #: The loop will look into ``_finished``, and need not be woken again.
        self._is_woken = False
        self._busy_count = 0
        self._all_done: asyncio.Future[None] | None = None
        self._is_closed = False
        _unclosed.add(self)

    @property
    def busy_count(self) -> int:
        """Calls that wait or run."""
        return self._busy_count

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises. Raises Closed after ``close``."""
        if self._is_closed:
            raise Closed(f"{self._name} is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._busy_count += 1
        if self._busy_count > len(self._threads) < self._count_max:
            self._grow()
        self._calls.put((future, lambda: function(*args, **kwargs)))
        return await future

    async def close(self) -> None:
        """Wait for what has begun, end the threads. Closing twice is fine."""
        self._is_closed = True
        if self._busy_count:
            if self._all_done is None:
                self._all_done = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_done)
        # Nothing runs any more, so that this does not block.
        self.end()

    def end(self) -> None:
        """End the threads after what has begun and what waits for its turn. Blocks; for the interpreter's
        exit."""
        self._grown.wait()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        _unclosed.discard(self)

    def _grow(self) -> None:
        """Start a thread, and leave it to that one to start others: who starts one waits until it runs, which
        on a busy machine takes longer than a request."""
        with self._growth:
            if not self._grown.is_set():
                return
            self._grown.clear()
        wanted_count = min(2 * len(self._threads), self._count_max)
        try:
            self._start(partial(self._start_others, wanted_count))
        except RuntimeError:
            # The system has no more; those that are there will do, if there are any.
            self._grown.set()
            if not self._threads:
                self._busy_count -= 1
                raise

    def _start_others(self, wanted_count: int) -> None:
        try:
            while self._are_too_few(wanted_count):
                self._start(self._work)
        except RuntimeError:
            self._grown.set()  # as above
        self._work()

    def _are_too_few(self, wanted_count: int) -> bool:
        with self._growth:
            if len(self._threads) < max(wanted_count, min(self._busy_count, self._count_max)):
                return True
            self._grown.set()
            return False

    def _start(self, life: Callable[[], None]) -> None:
        # A daemon, because the interpreter would wait for others for ever before it asks us to end them.
        thread = threading.Thread(target=life, name=f"bucketry {self._name}", daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.remove(thread)
            raise

    def _work(self) -> None:
        """A thread's life."""
        while (call := self._calls.get()) is not None:
            future, function = call
            result: _Result = (future, None, None)
            if not future.cancelled():
                try:
                    result = (future, function(), None)
                except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
                    result = (future, None, error)
            self._finished.append(result)
            # Whoever sees it set has put his result there before the loop looks.
            if not self._is_woken:
                self._is_woken = True
                try:
                    future.get_loop().call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    # The loop is closed: nobody waits any more.
                    continue
            # Keep nothing alive while waiting for the next call.
            del call, future, function, result

    def _deliver(self) -> None:
        """In the loop: hand results to those who wait."""
        self._is_woken = False
        while self._finished:
            future, value, error = self._finished.popleft()
            self._busy_count -= 1
            if future.cancelled():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        if not self._busy_count and self._all_done is not None and not self._all_done.done():
            self._all_done.set_result(None)


#: Those whose threads must end before the interpreter does.
_unclosed: "weakref.WeakSet[Threads]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for threads in list(_unclosed):
        threads.end()
