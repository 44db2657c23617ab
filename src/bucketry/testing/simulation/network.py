"""The line between a process and the store: a request that was sent goes its own way, whatever becomes of who
sent it.

When the sender gives up (cancelled, timed out) or crashes, the request is dropped on its way or goes on, as
the seed says; when it goes on it is applied at its own time, at most TIMEOUT_SECONDS after it was sent.

With ``linger`` a request that timed out may be applied long after its sender has sent another one in its
place. A client cannot keep a store from that (see ``bucket.retrying``): nothing but the wholeness of blocks
is promised then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextvars import Context
from random import Random
from typing import Any, TypeVar

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    ByteRange,
    Condition,
    Entry,
    Object,
    ObjectInfo,
)
from bucketry.bucket.wrapper import BucketWrapper, close_pages
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority
from bucketry.errors import Unavailable
from bucketry.testing.simulation.machines import Process

_T = TypeVar("_T")

#: One attempt of one request, as BucketSettings.timeout_seconds.
TIMEOUT_SECONDS = 30.0


class Network:
    """All requests under way. ``context`` is one of no process."""

    def __init__(self, random: Random, context: Context, *, linger: bool) -> None:
        self._random = random
        self._context = context
        self.linger = linger
        #: In the order in which they were sent.
        self._under_way: dict[asyncio.Task[Any], Process] = {}
        self.dropped_count = 0
        self.timeout_count = 0
        self.lingered_count = 0

    async def send(self, process: Process, request: Coroutine[Any, Any, _T]) -> _T:
        """The answer to a request. Raises Unavailable when it takes too long."""
        task = process.machine.loop.create_task(request, context=self._context)
        self._under_way[task] = process
        task.add_done_callback(self._ended, context=self._context)
        # Drawn now: the order in which requests are cancelled must not matter.
        is_dropped = self._random.random() < 0.5
        try:
            done, _ = await asyncio.wait([task], timeout=TIMEOUT_SECONDS)
        except asyncio.CancelledError:
            if is_dropped:
                self._drop(task)
            raise
        if not done:
            self.timeout_count += 1
            if self.linger and not is_dropped:
                self.lingered_count += 1
            else:
                self._drop(task)
            raise Unavailable(f"no answer after {TIMEOUT_SECONDS:.0f} s")
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self._under_way[task]
        if not task.cancelled():
            task.exception()  # whoever waits for it has it too; perhaps nobody does

    def _drop(self, task: asyncio.Task[Any]) -> None:
        self.dropped_count += 1
        task.cancel()

    def cut(self, process: Process) -> None:
        """The process has crashed: some of its requests do not arrive any more."""
        for task in self._of(process):
            if self._random.random() < 0.5:
                self._drop(task)

    async def wait_quiet(self, process: Process | None = None) -> None:
        """Until nothing of a process, or of anybody, is under way."""
        while tasks := list(self._under_way) if process is None else self._of(process):
            await asyncio.wait(tasks)

    def is_quiet(self, process: Process) -> bool:
        return not self._of(process)

    def _of(self, process: Process) -> list[asyncio.Task[Any]]:
        return [task for task, sender in self._under_way.items() if sender is process]


class Line(BucketWrapper):
    """A bucket as one process reaches it through the network."""

    def __init__(self, below: Bucket, network: Network, process: Process) -> None:
        super().__init__(below)
        self._network = network
        self._process = process

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        return await self._network.send(self._process, self._below.head(key, priority=priority))

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        request = self._below.get(key, byte_range=byte_range, priority=priority)
        return await self._network.send(self._process, request)

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        # What was sent does not change when the sender's buffer does, once he has stopped waiting.
        request = self._below.put(
            key, bytes(data), attributes=attributes, condition=condition, priority=priority
        )
        return await self._network.send(self._process, request)

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        await self._network.send(self._process, self._below.delete(key, priority=priority))

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        await self._network.send(self._process, self._below.delete_many(list(keys), priority=priority))

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        # Each page is a request of its own, that can be left under way.
        async def next_page() -> list[Entry] | None:
            pages = self._below.list(prefix=prefix, after=after, priority=priority)
            try:
                return await anext(pages, None)
            finally:
                await close_pages(pages)

        while (page := await self._network.send(self._process, next_page())) is not None:
            yield page
            after = page[-1].key


class Observed(BucketWrapper):
    """A bucket right above the store: ``changed`` is told of every change, at the moment that it is made."""

    def __init__(self, below: Bucket, changed: Callable[[str], None]) -> None:
        super().__init__(below)
        self._changed = changed

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        etag = await self._below.put(key, data, attributes=attributes, condition=condition, priority=priority)
        self._changed(key)
        return etag

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        await self._below.delete(key, priority=priority)
        self._changed(key)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        for key in keys:
            await self.delete(key, priority=priority)
