"""Blocking calls in a bounded number of threads of one owner.

A call that has begun runs to its end, whether or not somebody still waits for it: cancelling the ``await`` of
an upload leaves an upload that either happens or not, never half a one. ``close`` waits for all of them, for
the interpreter must not end while the bucket client's threads still use it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from bucketry.errors import Closed

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most ``count_max`` threads, started when there is work. ``name`` is for messages."""

    def __init__(self, name: str, count_max: int) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(count_max, thread_name_prefix=f"bucketry {name}")
        self._begun: set[Future[object]] = set()
        self._is_closed = False

    @property
    def busy_count(self) -> int:
        """Calls that wait or run."""
        return len(self._begun)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises. Raises Closed after ``close``."""
        if self._is_closed:
            raise Closed(f"{self._name} is closed")
        future = self._executor.submit(function, *args, **kwargs)
        self._begun.add(future)  # type: ignore[arg-type]
        future.add_done_callback(self._begun.discard)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Wait for what has begun, end the threads. Closing twice is fine."""
        self._is_closed = True
        # A snapshot: threads take their futures out of the set while we look.
        begun = [asyncio.wrap_future(future) for future in self._begun.copy()]
        if begun:
            await asyncio.wait(begun)
        # Nothing runs any more, so that this does not block.
        self._executor.shutdown()
