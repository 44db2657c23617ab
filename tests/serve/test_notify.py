"""systemd hears what it is told."""

import socket
from pathlib import Path

import pytest

from bucketry.serve.notify import notify


def test_messages_reach_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a path, and an abstract one."""
    for shown, bound in ((str(tmp_path / "s"), str(tmp_path / "s")), ("@bucketry-test", "\0bucketry-test")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(bound)
            monkeypatch.setenv("NOTIFY_SOCKET", shown)
            notify("READY=1")
            assert listener.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, no message, no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
