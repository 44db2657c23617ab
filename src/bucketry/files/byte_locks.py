"""Locks on ranges of a file's bytes, between processes and between descriptors of one process.

They belong to the open file description (Linux's OFD locks): two ``open`` of one file exclude each other,
copies of a descriptor do not, and whatever a process held is free when it has ended, however it ended. The
bytes need not be there.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: A process that is stopped with a lock must not hold up all others for ever.
PATIENCE_SECONDS = 10.0
#: Between two looks. (The kernel's own waiting knows no end, and cannot be interrupted in a thread.)
_PAUSE_MIN_SECONDS = 0.0002
_PAUSE_MAX_SECONDS = 0.01
#: struct flock of a 64-bit Linux: type, whence, start, length, and a process, which must be 0 here.
_FLOCK = struct.Struct("hhqqi")


def _flock(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def try_lock(file: int, start: int, length: int = 1, *, shared: bool = False) -> bool:
    """Lock the bytes if nobody else has them. A shared lock needs a file that is open for reading, the other
    one that is open for writing. Raises OSError."""
    try:
        fcntl.fcntl(
            file, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length)
        )
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def lock(
    file: int,
    start: int,
    length: int = 1,
    *,
    shared: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Wait until nobody else has the bytes, and lock them: for what is held for moments only. Raises OSError;
    TimeoutError when somebody keeps them."""
    pause_seconds, deadline = _PAUSE_MIN_SECONDS, 0.0
    while not try_lock(file, start, length, shared=shared):
        now = time.monotonic()
        deadline = deadline or now + patience_seconds
        if now >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process keeps a lock of the cache")
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, _PAUSE_MAX_SECONDS)


def unlock(file: int, start: int, length: int = 1) -> None:
    """Let go of the bytes, whether or not they were locked."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, start, length))


@contextmanager
def locked(file: int, start: int, length: int = 1, *, shared: bool = False) -> Iterator[None]:
    """The bytes, for as long as the block lasts."""
    lock(file, start, length, shared=shared)
    try:
        yield
    finally:
        unlock(file, start, length)
