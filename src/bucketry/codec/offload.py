"""Where work on whole blocks runs: in threads, or at once."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Offload(Protocol):
    """Runs a synchronous function somewhere and returns, or raises, what it does."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


async def inline(work: Callable[[], T], /) -> T:
    """Run it at once, in the event loop: for tests and simulations, where threads would make a run
    unrepeatable."""
    return work()


class Threads:
    """Runs work in ``count`` threads. Compression, encryption and hashes release the interpreter's lock."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="codec")

    async def __call__(self, work: Callable[[], T], /) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Wait for what is under way and end the threads."""
        self._pool.shutdown()
