"""Trying again, in the calls of WiredTiger's that must not fail, until the trouble has gone or time is up.

The bucket has its own retries, of seconds to a minute. These begin where those end: WiredTiger answers an
error from some calls with a panic or a crash, so that waiting is the better answer to everything that may
pass. What will not pass, because it is an answer and no trouble, is raised at once.
"""

import errno
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from bucketry import errors

T = TypeVar("T")

#: Answers: the same question would have them again.
_ANSWERS = (
    errors.Invalid,
    errors.NotFound,
    errors.AlreadyExists,
    errors.PreconditionFailed,
    errors.ReadOnly,
    errors.Unsupported,
    errors.Corrupt,
    errors.Closed,
)
#: The bucket itself is an exception: somebody made a mistake, and may mend it while we wait. So are refused
#: credentials, which is why Denied is not above.
_NO_ANSWERS = (errors.BucketNotFound,)
_ANSWERING_ERRNOS = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EBADF, errno.EOPNOTSUPP}
)
#: The bucket has waited already; then a failure may also come at once (no rights), and must not be repeated
#: a thousand times a second.
_PAUSE_FIRST_SECONDS = 0.5
_PAUSE_MAX_SECONDS = 5.0


def is_answer(error: OSError) -> bool:
    """No use in asking again."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, _NO_ANSWERS):
        return False
    if isinstance(cause, errors.BucketryError):
        return isinstance(cause, _ANSWERS)
    return error.errno in _ANSWERING_ERRNOS


def patiently(
    operation: Callable[[], T],
    *,
    seconds: float,
    trouble: Callable[[OSError, float], None],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """``operation()``, repeated for ``seconds`` since it failed first. ``trouble`` is told each failure and
    after how many seconds the next attempt comes.

    Raises the last OSError. Ctrl-C while it works is delivered afterwards; a second one ends it with
    InterruptedError.
    """
    interrupted = False
    failed_first: float | None = None
    pause = _PAUSE_FIRST_SECONDS
    try:
        while True:
            try:
                try:
                    return operation()
                except OSError as error:
                    if is_answer(error):
                        raise
                    failed_first = now() if failed_first is None else failed_first
                    left = failed_first + seconds - now()
                    if left <= 0:
                        raise
                    wait = min(pause, left)
                    trouble(error, wait)
                sleep(wait)
                pause = min(2 * pause, _PAUSE_MAX_SECONDS)
            except KeyboardInterrupt:
                if interrupted:
                    raise InterruptedError(errno.EINTR, "interrupted twice") from None
                interrupted = True
    finally:
        if interrupted:
            interrupt_later()


def interrupt_later() -> None:
    """Ctrl-C again, when WiredTiger's call is over: raised within it, it would be an error to WiredTiger."""
    import _thread

    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.daemon = True
    timer.start()
