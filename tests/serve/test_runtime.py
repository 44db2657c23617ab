"""One process serves a mount point; what a dead one left is recognised."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bucketry.errors import Busy, Invalid, NotFound, NotPermitted
from bucketry.serve.runtime import (
    State,
    check_mount_point,
    claim,
    files_of,
    find_state,
    process_start_time,
    runtime_directory,
)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of the test's own."""
    monkeypatch.setenv("BUCKETRY_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def state_of(pid: int, start_time: int | None, mount_point: str) -> State:
    assert start_time is not None
    return State(
        pid=pid,
        start_time=start_time,
        url="s3://bucket",
        mount_point=mount_point,
        kind="attach",
        disk_directory=mount_point,
        log="",
    )


def test_the_directory_is_private(directory: Path) -> None:
    """It is made for its user alone; one that others may enter is refused."""
    assert stat.S_IMODE(runtime_directory().stat().st_mode) == 0o700
    directory.chmod(0o755)
    with pytest.raises(NotPermitted, match=f"has mode 0755.*run: chmod 700 {directory}"):
        runtime_directory()


def test_without_a_variable_of_its_own_it_is_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Users other than root have it where the system keeps what lives as long as their session."""
    monkeypatch.delenv("BUCKETRY_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    user = os.geteuid() or 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if os.getuid() == user:
        assert runtime_directory() == tmp_path / "bucketry"
    else:
        with pytest.raises(NotPermitted, match="bucketry"):
            runtime_directory()


def test_a_mount_point_is_claimed_once() -> None:
    """The second claim is refused until the first is given free."""
    first = claim("/mnt/a")
    other = claim("/mnt/b")
    with pytest.raises(Busy, match="/mnt/a"):
        claim("/mnt/a")
    first.forget()
    claim("/mnt/a").forget()
    other.forget()


def test_a_claim_lives_as_long_as_its_process() -> None:
    """What a process that died had claimed can be claimed again, and its state says that it is dead."""
    program = (
        "import os; from bucketry.serve.runtime import *; "
        "taken = claim('/mnt/a'); "
        "taken.write(State(pid=os.getpid(), start_time=process_start_time(os.getpid()), url='', "
        "mount_point='/mnt/a', kind='attach', disk_directory='/mnt/a', log='')); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    state = find_state("/mnt/a")
    assert state is not None
    assert not state.alive
    claim("/mnt/a").forget()
    assert find_state("/mnt/a") is None


def test_a_process_is_known_by_number_and_start() -> None:
    """A process number that was given to another process is not mistaken for the old one."""
    mine = process_start_time(os.getpid())
    assert state_of(os.getpid(), mine, "/mnt/a").alive
    assert not state_of(os.getpid(), (mine or 0) - 1, "/mnt/a").alive


def test_a_zombie_is_dead() -> None:
    """A process that ended serves nothing, though its parent has not looked yet."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start_time(child.pid) is None
    child.wait()


def test_a_state_comes_back_as_written() -> None:
    """Also over a longer one; damaged ones are as if absent."""
    taken = claim("/mnt/a")
    taken.write(state_of(1, 2, "/mnt/a" + "x" * 100))
    assert find_state("/mnt/a") is None  # it speaks of another mount point
    taken.write(state_of(1, 2, "/mnt/a"))
    assert find_state("/mnt/a") == state_of(1, 2, "/mnt/a")
    files_of("/mnt/a").state.write_text('{"pid": 1')
    assert find_state("/mnt/a") is None
    taken.forget()


def test_a_mount_point_is_an_existing_directory(tmp_path: Path) -> None:
    """Its real path is what counts."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    assert check_mount_point(tmp_path / "link") == str(tmp_path)
    with pytest.raises(Invalid, match="not a directory"):
        check_mount_point(tmp_path / "file")
    with pytest.raises(NotFound):
        check_mount_point(tmp_path / "missing")


def test_what_is_a_mount_point_already_is_refused() -> None:
    """And the claim on it is not kept."""
    with pytest.raises(Busy, match="mount point"):
        claim("/proc")
    assert not files_of("/proc").state.exists()


def test_a_state_of_a_newer_program_is_known() -> None:
    """After an upgrade, or the way back, a disk that goes on being served is found: what its process says
    besides is passed over."""
    taken = claim("/mnt/a")
    taken.write(state_of(1, 2, "/mnt/a"))
    path = files_of("/mnt/a").state
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    assert find_state("/mnt/a") == state_of(1, 2, "/mnt/a")
    taken.forget()
