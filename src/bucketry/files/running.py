"""One event loop on a thread of its own, for callers on any other thread.

``LoopThread`` ends once, in an order that leaves nobody waiting: new calls are refused, calls under way are
cancelled, the owner's last coroutine runs, the loop is closed and the thread joined.
"""

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from bucketry.errors import Closed, Invalid

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads. ``name`` is for messages and for the thread.

    ``context`` is what every coroutine runs in: its context variables tell whose work it is.
    """

    def __init__(self, name: str, context: contextvars.Context | None = None) -> None:
        self._name = name
        self._context = context or contextvars.Context()
        self._lock = threading.Lock()
        self._is_closed = False
        self._pid = os.getpid()
        self._loop = _new_loop()
        # A daemon: a program that forgets to terminate its source ends all the same.
        self._thread = threading.Thread(target=self._run, name=f"bucketry {name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that ``make`` makes and wait for what it returns or raises. Raises Closed when
        the loop has ended, or ends meanwhile. An interruption of the caller (Ctrl-C) cancels it."""
        future = self.start(make)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed(f"{self._name} was terminated") from None
        except BaseException:
            future.cancel()
            raise

    def start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> "concurrent.futures.Future[T]":
        """The same without waiting."""
        if threading.get_ident() == self._thread.ident:
            raise Invalid(f"{self._name}: a synchronous call from within its own event loop would never end")
        if os.getpid() != self._pid:
            raise Closed(f"{self._name} belongs to the process that this one was forked from")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._is_closed:
                raise Closed(f"{self._name} was terminated")
            self._loop.call_soon_threadsafe(self._begin, make, future)
        return future

    def _begin(
        self, make: Callable[[], Coroutine[Any, Any, T]], future: "concurrent.futures.Future[T]"
    ) -> None:
        """In the loop: make a task of it, and join the two ends."""
        if future.cancelled():
            return
        task = self._loop.create_task(make(), context=self._context.copy())

        def ended(done: "asyncio.Task[T]") -> None:
            if done.cancelled():
                # Its owner gave it up, or the loop ends: whoever still waits is told.
                future.cancel()
                future.set_running_or_notify_cancel()
            elif future.set_running_or_notify_cancel():
                error = done.exception()
                if error is None:
                    future.set_result(done.result())
                else:
                    future.set_exception(error)
            else:
                done.exception()  # looked at, so that nobody complains about it

        def given_up(caller: "concurrent.futures.Future[T]") -> None:
            if caller.cancelled() and not self._loop.is_closed():
                try:
                    self._loop.call_soon_threadsafe(task.cancel)
                except RuntimeError:
                    pass  # it was closed in this very moment, and the task with it

        task.add_done_callback(ended)
        future.add_done_callback(given_up)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Refuse new calls, cancel those under way, run ``last``, end the thread. Raises what ``last``
        raises. Closing twice is fine; the second caller does not wait for the first."""
        if threading.get_ident() == self._thread.ident:
            raise Invalid(f"{self._name} cannot be terminated from within its own event loop")
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if os.getpid() != self._pid:
            return  # the thread stayed behind when this process was forked
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._end, last, done)
        try:
            done.result()
        finally:
            self._thread.join()

    def _end(
        self,
        last: Callable[[], Coroutine[Any, Any, None]] | None,
        done: "concurrent.futures.Future[None]",
    ) -> None:
        async def end() -> None:
            ours = asyncio.current_task()
            await _cancel_all(task for task in asyncio.all_tasks() if task is not ours)
            if last is not None:
                await last()
            # What the last one may have started, and what asyncio itself keeps.
            await _cancel_all(task for task in asyncio.all_tasks() if task is not ours)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        def ended(task: "asyncio.Task[None]") -> None:
            error = task.exception() if not task.cancelled() else Closed(f"{self._name} was interrupted")
            self._loop.stop()
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._loop.create_task(end(), context=self._context.copy()).add_done_callback(ended)


async def _cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them and wait until they have ended, however they do."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: a third of the time per call."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
