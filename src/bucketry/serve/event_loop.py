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
#: mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
#: Larger than a request of the kernel's and its block; much larger ones are rare, and given back.
_MMAP_THRESHOLD_BYTES = 4 << 20
#: So much stays for the next blocks.
_TRIM_THRESHOLD_BYTES = 64 << 20


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
    again. And keep the memory of blocks that come and go: the C library asks the kernel for each piece of 128
    KiB and gives it back, and 32 page faults each time cost as much as all the rest of a write."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's; musl has none
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)


def become_io_flusher() -> None:
    """Let this process allocate memory while the kernel writes through it.

    The kernel frees memory by writing dirty pages; those of a filesystem on our loop device are written by
    us. If one of our own allocations then waited for memory to be freed, each would wait for the other. The
    flag (of one thread, inherited by those it starts) makes allocations succeed from the reserves. It needs
    CAP_SYS_RESOURCE; without it, only that protection is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:
        logger.debug("PR_SET_IO_FLUSHER: errno %d", ctypes.get_errno())
