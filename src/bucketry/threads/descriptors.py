"""Open files of this process: what others take for granted of the first three, and how many there may be."""

import os
import resource
import sys

#: Enough for 96 requests, their connections made anew once, and all files of caches and journal; more would
#: only make loops over all descriptors slow.
_WANTED = 4096
#: Beside connections: the bucket client and the event loop (some ten), FUSE, control socket and its clients,
#: journal, caches, a mounted filesystem's tools.
_RESERVE = 20
#: With fewer requests at once uploads and reads would wait for each other.
_REQUESTS_MIN = 4
#: With fewer a disk cannot be served: what is open before the first request, the reserve, four connections.
LEAST = 40

#: Of the first three, those that were closed when somebody looked.
_missing: set[int] = set()


def fill_standard() -> None:
    """Open /dev/null as standard input, output and error where they are closed.

    Otherwise the next file that is opened gets that number: a library's message to "standard error" goes into
    it, and an event loop that wants to close it aborts the process."""
    for number in range(3):
        if _is_open(number):
            continue
        _missing.add(number)
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:  # a thread was faster with a file of its own
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def fill_standard_of_python() -> None:
    """The same, also for ``sys.stdin`` and its like, which Python leaves out when it starts without them."""
    fill_standard()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(  # noqa: SIM115
            2, "w", encoding="utf-8", errors="backslashreplace", closefd=False
        )


def was_missing(number: int) -> bool:
    """Whether this process began without the descriptor ``number``: what is written there reaches nobody."""
    return number in _missing


def raise_limit() -> None:
    """As many descriptors as we want, or as the hard limit lets us have. For processes of our own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass  # forbidden by a sandbox: what there is must do


def soft_limit() -> int | None:
    """How many descriptors this process may have; None: as many as it likes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def requests_that_fit(wanted: int, *, descriptors_each: int = 1) -> int:
    """How many requests may be under way at once: ``wanted``, or as many as there are descriptors for, but a
    few at any rate."""
    limit = soft_limit()
    if limit is None:
        return wanted
    fitting = (limit - _count_open() - _RESERVE) // descriptors_each
    return min(wanted, max(fitting, _REQUESTS_MIN))


def _count_open() -> int:
    try:
        with os.scandir("/proc/self/fd") as found:
            return sum(1 for _ in found) - 1  # without that of the listing itself
    except OSError:
        return 16  # no /proc: what a process of ours has open after its start


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
