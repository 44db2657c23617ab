"""A process with few descriptors, or without standard input, output and error."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.testing.s3_server import LineModel, S3ServerProcess
from command_line import CommandLine
from servers.s3 import write_access_file

pytestmark = pytest.mark.system


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    cli = CommandLine(tmp_path)
    yield cli
    cli.close()


def _run(cli: CommandLine, how: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command started by a shell that did ``how`` before: ``exec <&-``, ``ulimit -n 64`` …"""
    return subprocess.run(
        ["sh", "-c", f'{how}; exec "$@"', "sh", *cli.argv(*arguments)],
        env=cli.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_commands_without_standard_descriptors(cli: CommandLine, tmp_path: Path) -> None:
    """Every command does without them what it does with them."""
    url = f"file://{tmp_path}/bucket"
    directory = tmp_path / "disk"
    directory.mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "local").write_text("text")
    for arguments in (
        ("create", url, "--size", "1M"),
        ("check", url),
        ("attach", url, directory),
        ("info", directory),
        ("stats", directory),
        ("umount", directory),
        ("export", url, tmp_path / "image"),
        ("import", tmp_path / "image", url, "--force"),
        ("resize", url, "2M"),
        ("erase", url, "--force"),
        ("files", "put", tmp_path / "local", f"file://{tmp_path}/files"),
        ("files", "ls", f"file://{tmp_path}/files"),
    ):
        assert _run(cli, "exec <&- >&- 2>&-", *arguments).returncode == 0, arguments
    assert (tmp_path / "image").stat().st_size == 1 << 20


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_of_them_is_closed(cli: CommandLine, tmp_path: Path, number: int) -> None:
    """What others are for stays with them, and a command whose result goes to standard output says that it
    cannot."""
    (tmp_path / "local").write_text("text")
    url = f"file://{tmp_path}/bucket"
    cli.ok("create", url, "--size", "1M")
    cli.ok("files", "put", tmp_path / "local", url)
    checked = _run(cli, f"exec {number}>&-", "check", url)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert ("all is well" in checked.stdout) == (number != 1)
    shown = _run(cli, f"exec {number}>&-", "files", "cat", url, "local")
    if number == 1:
        assert shown.returncode == 2
        assert shown.stderr == "bucketry: standard output is closed: there is nowhere to write to\n"
    else:
        assert (shown.returncode, shown.stdout) == (0, "text")


def test_a_burst_with_few_descriptors(cli: CommandLine, tmp_path: Path) -> None:
    """With 64 descriptors, and a hundred uploads to do on a slow line, the process answers who asks it."""
    with S3ServerProcess() as server:
        server.make_bucket("bucket")
        server.set_line(LineModel(latency_seconds=0.02))
        access_file = write_access_file(tmp_path / "access", "id", "key")
        place = ("--endpoint", server.endpoint, "--access-file", access_file)
        cli.ok("create", "s3://bucket", "--size", "64M", *place)
        directory = tmp_path / "disk"
        directory.mkdir()
        assert _run(cli, "ulimit -n 64", "attach", "s3://bucket", directory, *place).returncode == 0
        with (directory / "file").open("r+b", buffering=0) as file:
            for _ in range(32):
                file.write(os.urandom(1 << 20))
            cli.ok("stats", directory)
            cli.ok("info", directory)
            os.fsync(file.fileno())
        log = next(cli.runtime.glob("*.log")).read_text()
        assert "requests at once instead of 96" in log
        assert "too many open files" not in log
        cli.ok("umount", directory)


def test_no_descriptors_at_all(cli: CommandLine, tmp_path: Path) -> None:
    """With 16 there is one line that says so."""
    for url in (f"file://{tmp_path}/bucket", "s3://bucket"):
        for arguments in (
            ("info", url),
            ("check", url),
            ("create", url, "--size", "1M"),
            ("files", "ls", url),
        ):
            ended = _run(cli, "ulimit -n 16", *arguments)
            assert ended.returncode == 1, ended
            assert ended.stderr == (
                "bucketry: a process may have only 16 files open here, and 40 are needed: ulimit -n 40\n"
            )


def test_the_soft_limit_is_raised(cli: CommandLine, tmp_path: Path) -> None:
    """Where only the soft limit is low, it is no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 4096
    cli.ok("create", f"file://{tmp_path}/bucket", "--size", "1M")
    assert _run(cli, "ulimit -S -n 16", "info", f"file://{tmp_path}/bucket").returncode == 0
