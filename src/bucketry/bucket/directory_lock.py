"""The lock of a directory bucket: shared by those that change objects, held alone by who compares first.

It is flock(2) on a file, which the kernel releases when its holder dies. A holder that was stopped (SIGSTOP)
keeps it: nothing can be changed then, and whoever waits is told which process it is.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bucketry.errors import Unavailable

LOCK_NAME = "lock"
#: It is held for a look at one small file and a rename: after so long its holder is stopped, or the file
#: system is.
_PATIENCE_SECONDS = 20.0
#: Between two attempts: not longer than a rename takes on a slow disk.
_PAUSE_SECONDS = 0.002


@contextlib.contextmanager
def locked(private: int, url: str, *, alone: bool) -> Iterator[None]:
    """Hold the lock of the bucket at ``url``, whose directory ``.bucketry`` is open as ``private``. Each
    holder has a file description of its own, so that threads exclude each other too. Raises Unavailable when
    somebody keeps it."""
    lock = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=private)
    try:
        _lock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, url)
        yield
    finally:
        os.close(lock)


def _lock(lock: int, how: int, url: str) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Unavailable(f"{url}: {_who_holds(lock)}") from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _who_holds(lock: int) -> str:
    what = f"its lock (.bucketry/{LOCK_NAME}) has been held for {_PATIENCE_SECONDS:.0f} s by"
    status = os.fstat(lock)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        pids = [each[4] for each in fields if each[1] == "FLOCK" and each[5] == place]
    except (OSError, IndexError):
        pids = []
    # 0: a process of another name space.
    pids = [pid for pid in dict.fromkeys(pids) if pid not in ("0", "-1", str(os.getpid()))]
    if not pids:
        return f"{what} somebody who may be stopped; end that process"
    return (
        f"{what} process {', '.join(pids)}, which may be stopped; continue it, or end it: kill -9 {pids[0]}"
    )
