"""A password that is given must be right, whatever the command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.bucket.memory import MemoryStore, shared_store
from bucketry.cli.main import run_command

NAME = "cli-passwords"
ENCRYPTED = f"memory://{NAME}/encrypted"
PLAIN = f"memory://{NAME}/plain"


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[MemoryStore]:
    """An encrypted volume and a plain one, and files with a right and a wrong password."""
    store = shared_store(NAME)
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    (tmp_path / "image").write_bytes(b"x" * 4096)
    make = ["create", ENCRYPTED, "--size", "1M", "--encrypt", "--password-file", str(tmp_path / "right")]
    assert run_command(make) == 0
    assert run_command(["create", PLAIN, "--size", "1M"]) == 0
    capsys.readouterr()
    yield store
    store.objects.clear()


COMMANDS = {
    "attach": ["attach", "URL", "DIR", "--foreground"],
    "attach to read": ["attach", "URL", "DIR", "--foreground", "--read-only"],
    "check": ["check", "URL"],
    "check and repair": ["check", "URL", "--repair"],
    "erase": ["erase", "URL"],
    "erase by force": ["erase", "URL", "--force"],
    "export": ["export", "URL", "DIR/image"],
    "import": ["import", "DIR/../image", "URL", "--force"],
    "info": ["info", "URL"],
    "grow": ["resize", "URL", "2M"],
    "shrink by force": ["resize", "URL", "512K", "--force"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("url", "code"), [(ENCRYPTED, 4), (PLAIN, 2)])
def test_a_password_is_verified_wherever_it_is_given(
    store: MemoryStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    url: str,
    code: int,
) -> None:
    """Nothing is written and nothing said but that it is wrong; on a plain volume, that it has none."""
    (tmp_path / "dir").mkdir()
    before = dict(store.objects)
    words = [
        word.replace("URL", url).replace("DIR", str(tmp_path / "dir")) if word.isupper() or "DIR/" in word
        else word
        for word in COMMANDS[command]
    ]  # fmt: skip
    assert run_command([*words, "--password-file", str(tmp_path / "wrong")]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert ("wrong password" if url == ENCRYPTED else "the volume is not encrypted") in said.err
    assert said.err.count("\n") == 1
    assert store.objects == before
    assert list((tmp_path / "dir").iterdir()) == []


@pytest.mark.parametrize("command", ["check", "export", "import", "grow", "shrink by force"])
def test_what_reads_or_changes_a_volume_needs_its_password(
    store: MemoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Without one nothing is written either."""
    before = dict(store.objects)
    words = [
        word.replace("URL", ENCRYPTED).replace("DIR/../", f"{tmp_path}/").replace("DIR/", f"{tmp_path}/new-")
        for word in COMMANDS[command]
    ]
    assert run_command(words) == 4
    assert "a password is needed" in capsys.readouterr().err
    assert store.objects == before


def test_the_right_one_is_taken(store: MemoryStore, tmp_path: Path) -> None:
    """By what would do without, too; and a bare --encrypt is whatever the volume has."""
    right = ["--encrypt", "--password-file", str(tmp_path / "right")]
    for words in (["info", ENCRYPTED], ["check", ENCRYPTED], ["resize", ENCRYPTED, "2M"]):
        assert run_command([*words, *right]) == 0
    assert run_command(["erase", ENCRYPTED, "--force", *right]) == 0
    assert run_command(["info", ENCRYPTED]) == 3


@pytest.mark.parametrize("cipher", ["AES-128-CBC", "AES-192-CBC", "AES-256-CBC"])
def test_encrypt_alone_is_what_is_stored(
    store: MemoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], cipher: str
) -> None:
    """Whichever cipher that is, by every command; named, it has to be that one; a plain volume is none."""
    url = f"memory://{NAME}/{cipher}"
    password = ["--password-file", str(tmp_path / "right")]
    assert run_command(["create", url, "--size", "1M", "--encrypt", cipher.lower(), *password]) == 0
    for words in (
        ["info", url, "--encrypt"],
        ["info", url, "--encrypt", cipher],
        ["info", url, f"--encrypt={cipher.lower()}"],
        ["check", "--encrypt", url],
        ["export", url, str(tmp_path / "out"), "--encrypt"],
        ["import", str(tmp_path / "image"), url, "--force", "--encrypt"],
    ):
        assert run_command([*words, *password]) == 0, words
    other = "AES-192-CBC" if cipher != "AES-192-CBC" else "AES-128-CBC"
    capsys.readouterr()
    assert run_command(["info", url, "--encrypt", other]) == 2
    assert f"the volume is encrypted with {cipher}, not {other}" in capsys.readouterr().err
    assert run_command(["info", PLAIN, "--encrypt"]) == 2
    assert "the volume is not encrypted; encryption was asked for" in capsys.readouterr().err
