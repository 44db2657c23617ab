"""The event loop that a disk is served on, and what the process asks of the kernel and of Python for its
sake."""

import asyncio
import ctypes
import gc
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: prctl(2), since Linux 5.6.
_PR_SET_IO_FLUSHER = 57


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on uvloop where it is installed (a third of the time per request), else on asyncio's own
    loop."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def settle_memory() -> None:
    """What is loaded now stays for ever: keep the garbage collector from walking through it again and
    again."""
    gc.collect()
    gc.freeze()


def become_io_flusher() -> None:
    """Let this process allocate memory while the kernel writes through it.

    The kernel frees memory by writing dirty pages; those of a filesystem on our loop device are written by
    us. If one of our own allocations then waited for memory to be freed, each would wait for the other. The
    flag (of one thread, inherited by those it starts) makes allocations succeed from the reserves. It needs
    CAP_SYS_RESOURCE; without it, only that protection is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:
        logger.debug("PR_SET_IO_FLUSHER: errno %d", ctypes.get_errno())
