"""Logs go where they are sent, with tracebacks for those who look for causes."""

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.errors import Unsupported
from bucketry.serve import logs


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    """The handlers of the tests themselves come back."""
    root, ours = logging.getLogger(), logging.getLogger("bucketry")
    before = root.handlers[:], root.level, ours.level
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if handler not in before[0]:
            handler.close()
    for handler in before[0]:
        root.addHandler(handler)
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize("debug", [False, True])
def test_tracebacks_are_for_debugging(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line of the log otherwise."""
    logs.log_to_stderr(debug=debug)
    logger = logging.getLogger("bucketry.test")
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("what")
    logger.debug("detail")
    text = capsys.readouterr().err
    assert "ERROR: what" in text
    assert ("Traceback" in text) is debug
    assert ("detail" in text) is debug


def test_a_log_file_is_appended_to_and_private(tmp_path: Path) -> None:
    """What was logged before stays; only its owner reads it."""
    path = tmp_path / "log"
    for text in (b"one\n", b"two\n"):
        descriptor = logs.open_log_file(path)
        os.write(descriptor, text)
        os.close(descriptor)
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_default_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    """A large one is put aside at the next start."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * (logs.DEFAULT_LOG_BYTES_MAX + 1))
    os.close(logs.open_log_file(path, rotate=True))
    assert path.stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size == logs.DEFAULT_LOG_BYTES_MAX + 1


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_syslog(kind: socket.SocketKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines reach the socket of the system's log, whichever kind it is."""
    monkeypatch.setattr(logs, "SYSLOG_SOCKET", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(tmp_path / "log"))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        logs.log_to_syslog(debug=False)
        logging.getLogger("bucketry.test").error("gone")
        if kind == socket.SOCK_STREAM:
            listener.accept()[0].close()  # the attempt; the next one is the handler's
            connection, _ = listener.accept()
            with connection:
                received = connection.recv(1000)
        else:
            received = listener.recv(1000)
    assert received.startswith(b"<27>bucketry[")
    assert b"ERROR: gone" in received


def test_a_missing_syslog_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than losing every line of the log."""
    monkeypatch.setattr(logs, "SYSLOG_SOCKET", str(tmp_path / "log"))
    with pytest.raises(Unsupported, match="--log FILE"):
        logs.log_to_syslog(debug=False)


def test_a_flood_is_cut_and_counted() -> None:
    """Of one kind of message only some are written in a while; the next one after that says how many were
    not. Other kinds are not affected."""
    gate = logs.FloodGate()

    def said(text: str, seconds: float, *args: object) -> str | None:
        record = logging.LogRecord("bucketry.bucket.retrying", logging.WARNING, "x.py", 1, text, args, None)
        record.created = seconds
        return record.getMessage() if gate.filter(record) else None

    lines = [said("put %d failed", 0.1 * n, n) for n in range(50)]
    assert [line for line in lines if line] == [f"put {n} failed" for n in range(logs.FLOOD_LINES)]
    assert said("another", 5.0) == "another"
    assert (
        said("put %d failed", logs.FLOOD_SECONDS + 1, 50) == "put 50 failed (45 more like this were left out)"
    )
    assert said("put %d failed", logs.FLOOD_SECONDS + 2, 51) == "put 51 failed"


def test_nothing_that_is_named_once_is_left_out() -> None:
    """A hundred damaged blocks are a hundred lines; the same one a hundred times is not."""
    gate = logs.FloodGate()

    def passes(number: int) -> bool:
        record = logging.LogRecord(
            "bucketry.serve.fuse.connection", logging.WARNING, "x.py", 1, "FUSE read: %s", (number,), None
        )
        record.created = 1.0
        return gate.filter(record)

    assert all(passes(number) for number in range(100))
    assert sum(passes(7) for _ in range(100)) == logs.FLOOD_LINES - 1


@pytest.mark.parametrize("debug", [False, True])
def test_no_record_moves_a_cursor(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Names and messages come from buckets: a record is one line, a traceback has no lines but its own."""
    logs.log_to_stderr(debug=debug)
    try:
        raise ValueError("\x1b[2Jwhy\r")
    except ValueError:
        logging.getLogger("bucketry.test").exception("%s: what", "\x1b[31mhost\nERROR: forged")
    text = capsys.readouterr().err
    assert "ERROR: \\x1b[31mhost\\nERROR: forged: what\n" in text
    assert ("ValueError: \\x1b[2Jwhy\\r" in text) is debug
    assert all(line.isprintable() for line in text.split("\n"))
