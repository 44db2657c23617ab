"""SIGHUP: read again, say so, and go on."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.errors import Invalid
from bucketry.serve.reload import rereading


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What a service's manager hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def _hear(systemd: socket.socket) -> list[str]:
    return [line.partition("=")[0] for line in systemd.recv(1000).decode().split("\n")]


async def test_systemd_hears_begin_and_end(systemd: socket.socket) -> None:
    """RELOADING with the time, then READY; again the next time."""
    count = 0

    def reread() -> int:
        nonlocal count
        count += 1
        return 1

    async with rereading(reread, lambda: True):
        for number in (1, 2):
            os.kill(os.getpid(), signal.SIGHUP)
            assert await asyncio.to_thread(_hear, systemd) == ["RELOADING", "MONOTONIC_USEC"]
            assert await asyncio.to_thread(_hear, systemd) == ["READY"]
            assert count == number
            await asyncio.sleep(0)


async def test_one_at_a_time() -> None:
    """A signal that comes while it is being read again asks for nothing more."""
    begun, go_on = threading.Event(), threading.Event()
    count = 0

    def reread() -> int:
        nonlocal count
        count += 1
        begun.set()
        go_on.wait()
        return 0

    async with rereading(reread, lambda: False):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.to_thread(begun.wait)
            await asyncio.sleep(0)
        go_on.set()
    assert count == 1


@pytest.mark.logs("SIGHUP: access file gone: no such file; keeping what was read before")
async def test_what_is_wrong_is_logged(systemd: socket.socket) -> None:
    """And systemd hears that all goes on."""

    def reread() -> int:
        raise Invalid("access file gone: no such file")

    async with rereading(reread, lambda: True):
        os.kill(os.getpid(), signal.SIGHUP)
        assert "RELOADING" in await asyncio.to_thread(_hear, systemd)
        assert await asyncio.to_thread(_hear, systemd) == ["READY"]
