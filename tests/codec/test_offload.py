"""Where codec work runs."""

import threading

import pytest

from bucketry.codec.offload import Threads, inline
from bucketry.errors import Corrupt


def fail() -> None:
    raise Corrupt("no")


async def test_inline_runs_here() -> None:
    """Results and errors come back, from the same thread."""
    assert await inline(threading.get_ident) == threading.get_ident()
    with pytest.raises(Corrupt):
        await inline(fail)


async def test_threads_run_elsewhere() -> None:
    """Results and errors come back, from another thread; close ends it."""
    threads = Threads(1)
    try:
        assert await threads(threading.get_ident) != threading.get_ident()
        with pytest.raises(Corrupt):
            await threads(fail)
    finally:
        threads.close()
