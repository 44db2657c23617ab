"""SIGHUP: read credentials and configuration again, and go on serving."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bucketry.errors import BucketryError
from bucketry.serve.notify import notify

logger = logging.getLogger(__name__)

#: Reads everything again, and says how much has changed. Blocks; called in a thread. Raises BucketryError
#: when something is wrong with what it read: then the old ones stay.
Reread = Callable[[], int]


@asynccontextmanager
async def rereading(reread: Reread, is_serving: Callable[[], bool]) -> AsyncIterator[None]:
    """While the block runs, SIGHUP calls ``reread``, once at a time. While ``is_serving``, systemd
    (Type=notify-reload) is told when that begins and ends: to it "ready" would mean something else before,
    and after."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def hung_up() -> None:
        if not tasks:
            task = loop.create_task(_reread(reread, is_serving), name="reread")
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        # The thread ends by itself, with the patience of what it asks.
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reread(reread: Reread, is_serving: Callable[[], bool]) -> None:
    if is_serving():
        # systemd wants the time of the beginning, by this clock.
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        changed_count = await asyncio.to_thread(reread)
    except BucketryError as error:
        logger.error("SIGHUP: %s; keeping what was read before", error)
    else:
        logger.info("SIGHUP: credentials read again: %s", "new ones" if changed_count else "the same")
    if is_serving():
        notify("READY=1")
