"""One event loop on a thread of its own, for callers on any other thread.

A call that is given up is cancelled *and* waited for: when it has returned, or raised, nothing of it runs any
more, and what it was lent (a buffer above all) is its caller's again.

``LoopThread`` ends once, in an order that leaves nobody waiting: new calls are refused, calls under way are
cancelled, the owner's last coroutine runs, the loop is closed and the thread joined.
"""

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from bucketry.errors import Closed, Invalid
from bucketry.threads.descriptors import fill_standard
from bucketry.threads.waiting import result_of, wait_for

T = TypeVar("T")


class Call(Generic[T]):
    """A coroutine that runs, or will run, in the loop of another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._loop = loop
        self._make = make
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._task: asyncio.Task[T] | None = None

    def result(self) -> T:
        """Wait for what it returns or raises. Raises Closed when it was cancelled."""
        return result_of(self._future)

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def when_done(self, function: Callable[["concurrent.futures.Future[T]"], object]) -> None:
        """Call ``function`` when it has ended, in the loop; here and now when it has already."""
        self._future.add_done_callback(function)

    def cancel(self) -> bool:
        """Ask it to end, from any thread. Whoever waits for it still waits until it has ended. False when the
        loop itself has ended, and it with the loop."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            return False
        return True

    def give_up(self) -> None:
        """Cancel it, and wait until nothing of it runs any more; or will ever run, if it has not begun."""
        if self.cancel():
            wait_for(self._future)

    def begin(self, context: contextvars.Context) -> None:
        """In the loop: start it, unless it was cancelled."""
        if not self._future.done():
            self._task = self._loop.create_task(self._make(), context=context)
            self._task.add_done_callback(self._ended)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self._future.done():
            self._future.set_exception(Closed("cancelled before it began"))

    def _ended(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self._future.set_exception(Closed("closed while it was under way"))
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())


class LoopThread:
    """Runs coroutines for other threads. ``name`` is for messages and for the thread.

    ``context`` is what every coroutine runs in: its context variables tell whose work it is.
    """

    def __init__(self, name: str, context: contextvars.Context | None = None) -> None:
        self._name = name
        self._context = context or contextvars.Context()
        self._lock = threading.Lock()
        self._is_closed = False
        #: Not even what is posted has its turn any more.
        self._is_over = False
        self._pid = os.getpid()
        self._kept: set[asyncio.Task[object]] = set()
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
        the loop has ended, or ends meanwhile. An interruption of this thread (Ctrl-C) ends it first."""
        call = self.prepare(make)
        try:
            self.begin(call)
            return call.result()
        except Exception:
            raise
        except BaseException:
            call.give_up()
            raise

    def start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """The same without waiting."""
        call = self.prepare(make)
        self.begin(call)
        return call

    def prepare(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """A call that has not begun: nothing is lost when its caller is interrupted before he waits."""
        return Call(self._loop, make)

    def begin(self, call: Call[Any]) -> None:
        """Raises Closed; Invalid from within the loop."""
        if threading.get_ident() == self._thread.ident:
            raise Invalid(f"{self._name}: a synchronous call from within its own event loop would never end")
        if os.getpid() != self._pid:
            raise Closed(f"{self._name} belongs to the process that this one was forked from")
        with self._lock:
            if self._is_closed:
                raise Closed(f"{self._name} was terminated")
            self._loop.call_soon_threadsafe(lambda: call.begin(self._context.copy()))

    def soon(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine that nobody waits for; not at all where the loop has ended. Takes no lock: may be
        called by the garbage collector, wherever that strikes."""
        if os.getpid() == self._pid:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(lambda: self._keep(self._loop.create_task(make())))

    def _keep(self, task: "asyncio.Task[object]") -> None:
        """The loop alone does not keep a task alive."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the loop, soon; here and now where the loop has ended."""
        with self._lock:
            if not self._is_over and os.getpid() == self._pid:
                self._loop.call_soon_threadsafe(function)
                return
        function()

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
            result_of(done)
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
            try:
                if last is not None:
                    await last()
            finally:
                # What the last one may have started, and what asyncio itself keeps.
                await _cancel_all(task for task in asyncio.all_tasks() if task is not ours)
                await self._loop.shutdown_asyncgens()
                await self._loop.shutdown_default_executor()
                with self._lock:
                    self._is_over = True
                # What was posted before that line has its turn.
                await asyncio.sleep(0)

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
    fill_standard()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
