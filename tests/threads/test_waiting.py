"""Waiting for another thread: Ctrl-C ends it, whichever thread the signal was given to."""

import _thread
import concurrent.futures
import signal
import threading
from collections.abc import Callable

import pytest

from bucketry.threads.waiting import result_of, wait_for


@pytest.mark.parametrize("wait", [result_of, wait_for])
@pytest.mark.hangs_after(20)
def test_a_signal_that_another_thread_was_given(
    wait: Callable[["concurrent.futures.Future[int]"], object],
) -> None:
    """The lock that the main thread waits for is not interrupted by it."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    future: concurrent.futures.Future[int] = concurrent.futures.Future()

    def interrupt() -> None:
        threading.Event().wait(0.3)  # until the main thread sleeps; if it does not yet, no harm
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            wait(future)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, old)


def test_results_errors_and_cancellations() -> None:
    """As the future has them, its own TimeoutError among them; in any thread."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(result_of(future)))
    thread.start()
    future.set_result(3)
    thread.join()
    assert found == [3]
    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    failed.set_exception(TimeoutError("its own"))
    wait_for(failed)
    with pytest.raises(TimeoutError, match="its own"):
        result_of(failed)
    cancelled: concurrent.futures.Future[int] = concurrent.futures.Future()
    cancelled.cancel()
    wait_for(cancelled)
    with pytest.raises(concurrent.futures.CancelledError):
        result_of(cancelled)


def test_a_thread_that_python_did_not_start_leaves_nothing() -> None:
    """Such as those of WiredTiger and DuckDB, which call into Python and come and go."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_result(3)
    found: list[int] = []
    ended = threading.Lock()
    ended.acquire()

    def work() -> None:
        found.append(result_of(future))
        ended.release()

    before = threading.enumerate()
    _thread.start_new_thread(work, ())
    ended.acquire()
    assert found == [3]
    assert threading.enumerate() == before
