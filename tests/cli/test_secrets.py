"""Passwords come by file, descriptor, environment or prompt."""

import os
from pathlib import Path

import pytest

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
    monkeypatch.setattr("click.prompt", lambda *args, **options: "typed")
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
