"""Locks on bytes of a file."""

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bucketry.files.byte_locks import lock, locked, try_lock, unlock


def test_locks_exclude_and_share(tmp_path: Path) -> None:
    """Each open of a file has locks of its own, of any bytes; shared ones exclude only the other kind;
    closing lets go."""
    path = tmp_path / "lock"
    path.touch()
    with path.open("r+b") as first, path.open("r+b") as second:
        assert try_lock(first.fileno(), 10, 5)
        assert try_lock(first.fileno(), 12, 1)  # one's own
        assert not try_lock(second.fileno(), 14, 1)
        assert try_lock(second.fileno(), 15, 1)
        unlock(first.fileno(), 10, 5)
        assert try_lock(second.fileno(), 14, 1)
        assert try_lock(first.fileno(), 100, shared=True)
        assert try_lock(second.fileno(), 100, shared=True)
        assert not try_lock(second.fileno(), 100)
    with path.open("r+b") as third:
        assert try_lock(third.fileno(), 0, 1000)


def test_waiting(tmp_path: Path) -> None:
    """A lock that is waited for is had when the other one lets go."""
    path = tmp_path / "lock"
    path.touch()
    order: list[str] = []
    with path.open("r+b") as first, path.open("r+b") as second:
        begun = threading.Event()

        def wait() -> None:
            begun.set()
            with locked(second.fileno(), 5):
                order.append("second")

        lock(first.fileno(), 5)
        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        order.append("first")
        unlock(first.fileno(), 5)
        thread.join()
        assert order == ["first", "second"]
        assert try_lock(first.fileno(), 5)


def test_patience_has_an_end(tmp_path: Path) -> None:
    """A lock that is never let go of is an error of the local system's kind."""
    path = tmp_path / "lock"
    path.touch()
    with path.open("r+b") as first, path.open("r+b") as second:
        lock(first.fileno(), 5)
        with pytest.raises(TimeoutError) as found:
            lock(second.fileno(), 5, shared=True, patience_seconds=0.001)
        assert found.value.errno == errno.ETIMEDOUT


def test_a_process_that_ends_lets_go(tmp_path: Path) -> None:
    """Another process excludes us as another descriptor does, until it has ended."""
    path = tmp_path / "lock"
    path.touch()
    program = (
        "import os, sys\n"
        "from bucketry.files.byte_locks import try_lock\n"
        "assert try_lock(os.open(sys.argv[1], os.O_RDWR), 7)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.readline()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with (
        path.open("r+b") as file,
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert not try_lock(file.fileno(), 7)
        process.communicate("\n")
        assert try_lock(file.fileno(), 7)
