"""A volume that somebody has, or had: what the second one is told, and what the first one finds."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from e2e.places import Place
from e2e.program import Program, wait_until

pytestmark = pytest.mark.system

#: Of a lease: long enough for a busy machine to renew it in time.
LEASE_SECONDS = "6"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(f"file://{tmp_path}/bucket")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    program.environment["BUCKETRY_LEASE_SECONDS"] = LEASE_SECONDS
    yield program
    program.clean_up()


def write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.pwrite(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_told(file: Path) -> bool:
    """Whether the file cannot be written any more: while its process ends, or when it has."""
    try:
        write(file, b"x" * 4096)
    except OSError as error:
        return error.errno in (errno.EIO, errno.ENOTCONN)
    return False


@contextmanager
def in_another_pid_namespace(program: Program, place: Place, directory: Path) -> Iterator[None]:
    """The disk attached as in a container of this host's name, which is then killed."""
    command = [
        "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", "bucketry", "attach", place.url, str(directory), "--foreground",
    ]  # fmt: skip
    with subprocess.Popen(command, env=program.environment, stderr=subprocess.DEVNULL) as container:
        try:
            bucket = Path(place.url.removeprefix("file://"))
            wait_until((bucket / "s3backer-mounted").exists, "the disk is attached")
            yield
        finally:
            container.send_signal(signal.SIGKILL)


def test_a_volume_is_erased_under_a_living_writer(program: Program, place: Place, tmp_path: Path) -> None:
    """erase --force takes the lease and waits; nothing stays, and the writer gets EIO."""
    program.create(place, "1M")
    directory = tmp_path / "disk"
    directory.mkdir()
    program.run("attach", place.url, directory)
    write(directory / "file", b"before" * 1000)
    erased = program.run("erase", place.url, "--force")
    assert "which may still be writing; waiting 6 s, until" in erased.stderr
    assert "1 objects deleted" in erased.stdout
    wait_until(partial(is_told, directory / "file"), "the writer is told")
    assert [each.name for each in (tmp_path / "bucket").iterdir() if each.name != ".bucketry"] == []
    ended = program.run("umount", directory, code=7)
    assert "somebody else has taken the volume over" in ended.stderr
    assert [each.name for each in (tmp_path / "bucket").iterdir() if each.name != ".bucketry"] == []


def test_attach_waits_for_what_ran_here_before(program: Program, place: Place, tmp_path: Path) -> None:
    """After a reboot, or in a new container of the same name, the old lease is waited for; with --wait 0 it
    is refused."""
    program.create(place, "1M")
    directory = tmp_path / "disk"
    directory.mkdir()
    with in_another_pid_namespace(program, place, directory):
        pass
    refused = program.run("attach", place.url, directory, "--wait", "0", code=5)
    assert "in use by process" in refused.stderr
    attached = program.run("attach", place.url, directory)
    assert "waiting up to" in attached.stderr
    assert "for that to end" in attached.stderr
    write(directory / "file", b"after")
    program.run("umount", directory)


def test_force_says_that_it_waits_and_how_to_skip_it(program: Program, place: Place, tmp_path: Path) -> None:
    """On the terminal, though the process that waits is in the background."""
    program.create(place, "1M")
    for options in (["--force"], ["--old-host-is-dead"]):
        first, second = tmp_path / f"first {options[0]}", tmp_path / f"second {options[0]}"
        first.mkdir()
        second.mkdir()
        program.run("attach", place.url, first)
        refused = program.run("attach", place.url, second, code=5)
        assert "is a process of this machine and is alive" in refused.stderr
        taken = program.run("attach", place.url, second, *options)
        assert ("; --old-host-is-dead skips this" in taken.stderr) == (options == ["--force"])
        write(second / "file", options[0].encode() * 100)
        wait_until(partial(is_told, first / "file"), "the former holder is told")
        program.run("umount", first, code=7)
        program.run("umount", second)
