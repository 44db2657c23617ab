"""Who is inside: counts calls of one owner that are under way, ends them, and waits until the last has left.

So what a call uses is never taken away below it, whichever threads call and close.
"""

import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from bucketry.errors import Closed
from bucketry.threads.loop_thread import Call, LoopThread

T = TypeVar("T")


class Gate:
    """``with gate:`` round each call. ``name`` is for messages."""

    __slots__ = ("_calls", "_empty", "_inside_count", "_is_closed", "_lock", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._calls: set[Call[Any]] = set()
        self._inside_count = 0
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def __enter__(self) -> None:
        """Raises Closed."""
        with self._lock:
            if self._is_closed:
                raise Closed(f"{self._name} is closed")
            self._inside_count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside_count -= 1
            if self._is_closed and not self._inside_count:
                self._empty.notify_all()

    def call(self, running: LoopThread, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """From inside: run a coroutine and wait for it. Raises Closed when the gate is closed meanwhile. An
        interruption of this thread (Ctrl-C) ends it first."""
        call = running.prepare(make)
        try:
            running.begin(call)
            return self.wait(call)
        except Exception:
            raise
        except BaseException:
            call.give_up()
            raise

    def wait(self, call: Call[T]) -> T:
        """From inside: wait for a call, which others may wait for, too."""
        with self._lock:
            self._calls.add(call)
            is_closed = self._is_closed
        if is_closed:
            # Whoever closed it has already ended the calls that he saw.
            call.cancel()
        try:
            return call.result()
        finally:
            with self._lock:
                self._calls.discard(call)

    def close(self) -> bool:
        """Let nobody in any more, and end the calls that are waited for. False when it was closed before."""
        with self._lock:
            was_open = not self._is_closed
            self._is_closed = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()
        return was_open

    def wait_empty(self) -> None:
        """After ``close``: until the last one has left."""
        with self._lock:
            while self._inside_count:
                self._empty.wait()
