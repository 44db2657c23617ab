"""``bucketry files`` as a user runs it: real processes, SeaweedFS, a terminal, Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bucketry.cli import exits
from command_line import CommandLine, wait_until
from servers.s3 import Buckets
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

#: More than one part, and a few seconds at the limits below.
SIZE = 40 << 20


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[CommandLine]:
    commands = CommandLine(tmp_path)
    yield commands
    commands.close()


@pytest.fixture
def bucket(seaweed: Seaweed) -> str:
    return seaweed.make_bucket()


@pytest.fixture
def reach(seaweed: Seaweed, tmp_path: Path) -> list[str]:
    """The options that lead to the server."""
    return ["--endpoint", seaweed.endpoint, "--access-file", str(seaweed.access_file(tmp_path / "access"))]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(Random(1).randbytes(SIZE))
    return path


def client(seaweed: Seaweed) -> Any:
    return Buckets(seaweed.endpoint, seaweed.access_key, seaweed.secret_key).client


def open_uploads(seaweed: Seaweed, bucket: str) -> list[str]:
    answer = client(seaweed).list_multipart_uploads(Bucket=bucket)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def test_there_and_back(
    commands: CommandLine, bucket: str, reach: list[str], large: Path, tmp_path: Path
) -> None:
    """A file that goes in parts comes back as it was, by get and through a pipe."""
    url = f"s3://{bucket}/deep/place"
    assert commands.ok("files", "put", large, url, *reach) == "put large.bin: 40 MiB\n"
    assert commands.ok("files", "put", large, url, *reach) == "put large.bin: was there already\n"
    listed = json.loads(commands.ok("files", "ls", url, "--json", *reach))
    assert [(entry["name"], entry["size_bytes"]) for entry in listed["files"]] == [("large.bin", SIZE)]
    commands.ok("files", "get", url, "large.bin", tmp_path / "back.bin", *reach)
    assert (tmp_path / "back.bin").read_bytes() == large.read_bytes()
    piped = subprocess.run(
        [sys.executable, "-m", "bucketry", "files", "cat", url, "large.bin", *reach],
        capture_output=True,
        check=True,
    )
    assert piped.stdout == large.read_bytes()
    commands.ok("files", "rm", url, "large.bin", *reach)
    assert commands.ok("files", "ls", url, *reach) == ""


def test_a_bar_on_a_terminal(bucket: str, reach: list[str], large: Path) -> None:
    """It is seen while the file is on its way, and the line about it stays."""
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "bucketry", "files", "put", str(large), f"s3://{bucket}", *reach],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        assert process.wait() == 0
    finally:
        os.close(leader)
    shown = seen.decode()
    assert "putting large.bin" in shown
    assert "put large.bin: 40 MiB" in shown


def test_an_interrupted_put_leaves_nothing(
    commands: CommandLine, seaweed: Seaweed, bucket: str, reach: list[str], large: Path
) -> None:
    """Ctrl-C while the parts are on their way: one line, code 130, neither an object nor parts."""
    process = commands.start("files", "put", large, f"s3://{bucket}", "--upload-limit", "4M", *reach)
    wait_until(lambda: open_uploads(seaweed, bucket) == ["large.bin"])
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (exits.INTERRUPTED, "", "bucketry: interrupted\n")
    assert open_uploads(seaweed, bucket) == []
    assert commands.ok("files", "ls", "--long", f"s3://{bucket}", *reach) == ""


def test_an_interrupted_get_leaves_nothing(
    commands: CommandLine, bucket: str, reach: list[str], large: Path, tmp_path: Path
) -> None:
    """Neither the file nor a part of it."""
    commands.ok("files", "put", large, f"s3://{bucket}", *reach)
    target = tmp_path / "target"
    target.mkdir()
    process = commands.start(
        "files", "get", f"s3://{bucket}", "large.bin", target, "--download-limit", "4M", *reach
    )
    wait_until(lambda: (target / "large.bin.part").exists())
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (exits.INTERRUPTED, "", "bucketry: interrupted\n")
    assert list(target.iterdir()) == []


def test_what_goes_wrong(
    commands: CommandLine, seaweed: Seaweed, bucket: str, reach: list[str], tmp_path: Path
) -> None:
    """Wrong keys, a bucket that is not there, another content: each its line and its code."""
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    commands.ok("files", "put", tmp_path / "a", f"s3://{bucket}", *reach)
    line = commands.fails(
        exits.USAGE, "files", "put", tmp_path / "b", f"s3://{bucket}", "--name", "a", *reach
    )
    assert line == f"s3://{bucket}: object a exists with another content"
    line = commands.fails(exits.NOT_FOUND, "files", "ls", "s3://nobody-made-this", *reach)
    assert line == "nobody-made-this : No such bucket."
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{seaweed.access_key}:geheim\n")
    line = commands.fails(
        exits.DENIED,
        "files", "ls", f"s3://{bucket}", "--endpoint", seaweed.endpoint, "--access-file", wrong,
    )  # fmt: skip
    assert "Unable to access bucket" in line
    assert "geheim" not in line
