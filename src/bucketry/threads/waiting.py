"""Waiting for what another thread does, in a way that Ctrl-C always ends.

A signal does not reliably wake a thread that waits for a lock: when the operating system hands it to another
thread, or to this one in the moment before it falls asleep, Python notes it and nobody looks until the lock
is free. So the main thread, the only one in which Python runs what signals ask for, looks up now and then.
"""

import concurrent.futures
import threading
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

#: Between two looks of the main thread. Soon for who has pressed Ctrl-C, and ten wake-ups a second cost
#: nothing beside what is waited for.
LOOK_SECONDS = 0.1


def result_of(future: "concurrent.futures.Future[T]") -> T:
    """What ``future`` returns or raises, when it has ended. KeyboardInterrupt, in the main thread, at most
    ``LOOK_SECONDS`` after Ctrl-C."""
    wait_for(future)
    return future.result()


def wait_for(future: "concurrent.futures.Future[T]") -> None:
    """Until it has ended, however it did."""
    # Not current_thread(): for a thread that Python did not start that would make an object that stays.
    is_main = threading.get_ident() == threading.main_thread().ident
    seconds = LOOK_SECONDS if is_main else None
    while not future.done():
        with suppress(TimeoutError, concurrent.futures.CancelledError):
            future.exception(seconds)
