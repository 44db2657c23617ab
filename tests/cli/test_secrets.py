"""Passwords come by file, descriptor, environment or prompt."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from bucketry.cli import secrets
from bucketry.cli.main import run_command
from bucketry.cli.options import Volume
from bucketry.cli.secrets import given_password, new_password, with_password
from bucketry.errors import Invalid, WrongPassword
from bucketry.settings import Secret


def volume(*, encrypt: str | None = None, file: Path | None = None, descriptor: int | None = None) -> Volume:
    return Volume(None, None, None, None, encrypt, None, None, file, descriptor)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUCKETRY_PASSWORD", raising=False)


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret\r"),
        (b" secret \nmore\n", b" secret "),
        (b"\xff\x00\n", b"\xff\x00"),
    ],
)
def test_a_password_file_is_read_as_s3backer_reads_it(
    tmp_path: Path, content: bytes, password: bytes
) -> None:
    """The first line only, without the final line feed and nothing else removed."""
    (tmp_path / "file").write_bytes(content)
    assert given_password(volume(file=tmp_path / "file")) == Secret(password)


@pytest.mark.parametrize("content", [b"", b"\nsecret", b"x" * 1023])
def test_a_useless_password_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty lines, and lines longer than s3backer takes."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Invalid):
        given_password(volume(file=tmp_path / "file"))


def test_a_descriptor_gives_its_first_line() -> None:
    """What follows is left alone, and an end without line feed will do."""
    for content in (b"secret\nmore", b"secret"):
        receiving, sending = os.pipe()
        os.write(sending, content)
        os.close(sending)
        assert given_password(volume(descriptor=receiving)) == Secret(b"secret")
        os.close(receiving)


def test_the_variable_is_read_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are started later do not inherit it; a file goes before it."""
    monkeypatch.setenv("BUCKETRY_PASSWORD", "secret")
    assert given_password(volume()) == Secret(b"secret")
    assert "BUCKETRY_PASSWORD" not in os.environ
    assert given_password(volume()) is None


def test_a_file_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is said on the command line is meant."""
    monkeypatch.setenv("BUCKETRY_PASSWORD", "variable")
    (tmp_path / "file").write_bytes(b"file\n")
    assert given_password(volume(file=tmp_path / "file")) == Secret(b"file")
    with pytest.raises(Invalid, match="either"):
        given_password(volume(file=tmp_path / "file", descriptor=0))


def test_a_new_volume_needs_a_password_only_when_encrypted(tmp_path: Path) -> None:
    """A password without --encrypt is a mistake worth a word."""
    (tmp_path / "file").write_bytes(b"secret\n")
    assert new_password(volume()) is None
    assert new_password(volume(encrypt="AES-128-CBC", file=tmp_path / "file")) == Secret(b"secret")
    with pytest.raises(Invalid, match="without --encrypt"):
        new_password(volume(file=tmp_path / "file"))


def test_windows_line_ends_are_told_when_the_password_is_wrong() -> None:
    """The carriage return is part of the password, as it is for s3backer; who did not mean it is told."""
    reading, writing = os.pipe()
    os.write(writing, b"secret\r\n")
    os.close(writing)

    def refuse(password: Secret | None) -> None:
        raise WrongPassword("wrong password")

    with pytest.raises(WrongPassword, match=r"wrong password .*Windows line ends"):
        with_password(volume(descriptor=reading), refuse)


def test_who_has_no_terminal_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script gets an error instead of a prompt that nobody answers."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(Invalid, match="--password-file"):
        new_password(volume(encrypt="AES-128-CBC"))

    def refuse(password: Secret | None) -> None:
        raise WrongPassword("x")

    with pytest.raises(WrongPassword):
        with_password(volume(), refuse)


def test_the_terminal_is_asked_once_when_the_volume_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when none was given, and the answer is used."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(secrets, "_ask", lambda question: Secret("typed"))
    tried: list[Secret | None] = []

    def attempt(password: Secret | None) -> str:
        tried.append(password)
        if password is None:
            raise WrongPassword("x")
        return "open"

    assert with_password(volume(), attempt) == "open"
    assert tried == [None, Secret(b"typed")]
    monkeypatch.setenv("BUCKETRY_PASSWORD", "given")
    with pytest.raises(WrongPassword):
        with_password(volume(), lambda password: attempt(None))
    assert len(tried) == 3


class Terminal:
    """A command at a terminal of its own, in a session of its own."""

    def __init__(self, *arguments: str) -> None:
        self._own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bucketry", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # What a login does: the terminal becomes this session's own.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(theirs)
        self.seen = b""

    def wait_for(self, words: bytes) -> None:
        while words not in self.seen:
            assert select.select([self._own], [], [], 60)[0], self.seen
            self.seen += os.read(self._own, 4096)

    def answer(self, question: bytes, typed: bytes) -> None:
        self.wait_for(question)
        self.seen = b""
        os.write(self._own, typed)

    def end(self) -> int:
        code = self.process.wait(60)
        while select.select([self._own], [], [], 0)[0]:
            try:
                self.seen += os.read(self._own, 4096)
            except OSError:
                break
        os.close(self._own)
        return code


def test_a_typed_password_is_its_bytes(tmp_path: Path) -> None:
    """As in a file, also those that are no UTF-8; not shown, and asked for again when the two differ."""
    password = b"na\xefve \xe6\x9d\xb1"
    (tmp_path / "file").write_bytes(password + b"\n")
    url = f"file://{tmp_path}/bucket"
    making = Terminal("create", url, "--size", "1M", "--encrypt")
    making.answer(b"New password: ", password + b"\n")
    making.answer(b"confirmation: ", b"something else\n")
    making.answer(b"New password: ", password + b"\n")
    making.answer(b"confirmation: ", password + b"\n")
    making.wait_for(b"AES-256-CBC")
    assert b"na" not in making.seen.split(b"created")[0]
    assert making.end() == 0
    opening = Terminal("check", url)
    opening.answer(b"Password: ", password + b"\n")
    opening.wait_for(b"all is well")
    assert opening.end() == 0
    assert run_command(["info", url, "--password-file", str(tmp_path / "file")]) == 0


def test_nothing_typed_is_no_password(tmp_path: Path) -> None:
    """The end of the input, an empty line and Ctrl-C end the command, and the terminal shows again what is
    typed."""
    for typed in (b"\x04", b"\n", b"\x03"):
        making = Terminal("create", f"file://{tmp_path}/bucket", "--size", "1M", "--encrypt")
        making.answer(b"New password: ", typed)
        making.wait_for(b"bucketry: interrupted")
        assert making.end() == 130
        assert list((tmp_path / "bucket").glob("*")) == []
