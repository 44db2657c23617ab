"""The cache directory: made, locked, and refused to whom it does not belong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bucketry.cache.directory import CacheDirectory, write_whole
from bucketry.errors import Busy, Mismatch, NotPermitted

HOLDER = """
import sys
from pathlib import Path
from bucketry.cache.directory import CacheDirectory
CacheDirectory.open(Path(sys.argv[1]), "volume a")
print("open", flush=True)
sys.stdin.read()
"""


def test_it_is_private_and_made_with_its_parents(tmp_path: Path) -> None:
    """Nobody else can look into it, or at its files."""
    with CacheDirectory.open(tmp_path / "a/b", "volume a") as directory:
        assert directory.path.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in directory.path.iterdir()} == {0o600}


def test_it_opens_again_for_the_same_volume(tmp_path: Path) -> None:
    """After it was closed; closing twice is fine."""
    directory = CacheDirectory.open(tmp_path, "volume a")
    directory.close()
    directory.close()
    CacheDirectory.open(tmp_path, "volume a").close()


def test_another_volume_is_refused(tmp_path: Path) -> None:
    """The message names both, and what to do; nothing is changed by it."""
    CacheDirectory.open(tmp_path, "volume a").close()
    for _ in range(2):
        with pytest.raises(Mismatch, match=r"volume a.*volume b.*give each volume its own") as error:
            CacheDirectory.open(tmp_path, "volume b")
        assert str(tmp_path) in str(error.value)
    CacheDirectory.open(tmp_path, "volume a").close()


def test_two_of_one_process_are_refused(tmp_path: Path) -> None:
    """The lock is the descriptor's, not the process's."""
    with CacheDirectory.open(tmp_path, "volume a"), pytest.raises(Busy, match=f"process {os.getpid()}"):
        CacheDirectory.open(tmp_path, "volume a")


def test_two_processes_are_refused(tmp_path: Path) -> None:
    """The message names the process that has it; when that is killed, it is free."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Busy, match=f"process {holder.pid}$"):
            CacheDirectory.open(tmp_path, "volume a")
        holder.kill()
    CacheDirectory.open(tmp_path, "volume a").close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"identity": 3}', b"\xff\xfe", b"{}"])
def test_a_damaged_identity_is_written_anew(tmp_path: Path, content: bytes) -> None:
    """The parts know to whom they belong; the name over the door is for the user's mistakes."""
    CacheDirectory.open(tmp_path, "volume a").close()
    (tmp_path / "identity.json").write_bytes(content)
    CacheDirectory.open(tmp_path, "volume a").close()
    with pytest.raises(Mismatch):
        CacheDirectory.open(tmp_path, "volume b")


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    """Where others can write they can put links, or blocks."""
    tmp_path.chmod(0o777)
    with pytest.raises(NotPermitted, match="nobody else"):
        CacheDirectory.open(tmp_path, "volume a")


def test_no_directory_is_refused(tmp_path: Path) -> None:
    """A file where it should be, or on the way there; a link in place of the lock."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(NotPermitted, match="file"):
            CacheDirectory.open(path, "volume a")
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPermitted):
        CacheDirectory.open(tmp_path, "volume a")
    assert not (tmp_path / "elsewhere").exists()


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    """Also over what an earlier attempt left behind."""
    (tmp_path / "a.new").write_text("half")
    write_whole(tmp_path / "a", b"one")
    write_whole(tmp_path / "a", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"two"
