"""Options become settings; what is wrong with them is told in one line."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from bucketry.cli.command import Command
from bucketry.cli.main import cli, run_command
from bucketry.cli.options import (
    Connection,
    Face,
    Process,
    Volume,
    connection_options,
    face_options,
    process_options,
    volume_options,
)
from bucketry.cli.parameters import DEFAULT_CIPHER
from bucketry.settings import BucketSettings, CacheSettings, FuseSettings, LimitSettings, VolumeSettings


class Taken:
    """What a command was called with."""

    connection: Connection
    volume: Volume
    process: Process
    face: Face
    url: str


def take(*arguments: str) -> Taken:
    """The option groups for a command line."""
    taken = Taken()

    @click.command(cls=Command, examples=["x"], exits=[0])
    @click.argument("url")
    @connection_options
    @volume_options
    @process_options
    @face_options
    def command(url: str, connection: Connection, volume: Volume, process: Process, face: Face) -> None:
        taken.url, taken.connection, taken.volume, taken.process, taken.face = (
            url,
            connection,
            volume,
            process,
            face,
        )

    command.main([*arguments, "s3://bucket"], standalone_mode=False)
    return taken


def test_without_options_settings_are_the_defaults() -> None:
    """The command line adds no defaults of its own to those of the settings."""
    taken = take()
    assert taken.connection.settings("s3://bucket") == BucketSettings(url="s3://bucket")
    assert taken.volume.settings(None) == VolumeSettings()
    assert taken.process.cache() == CacheSettings()
    assert taken.face.settings() == FuseSettings()


def test_connection_options_reach_the_settings(tmp_path: Path) -> None:
    """Every option of the group has its place in BucketSettings."""
    file = tmp_path / "file"
    file.write_text("")
    connection = take(
        *[
            "--endpoint",
            "http://x",
            "--region",
            "r",
            "--prefix",
            "p",
            "--access-file",
            str(file),
            "--access-id",
            "i",
        ],
        *["--anonymous", "--profile", "n", "--sse", "aws:kms", "--sse-key-id", "k", "--storage-class", "c"],
        *["--ca-file", str(file), "--insecure", "--virtual-host", "--timeout", "2.5"],
        *["--upload-limit", "1M", "--download-limit", "2M"],
        *["--tag", "team=a=b", "--tag", "empty"],
    ).connection
    assert connection.settings("s3://b") == BucketSettings(
        url="s3://b",
        prefix="p",
        endpoint="http://x",
        region="r",
        path_style=False,
        ca_file=file,
        insecure=True,
        anonymous=True,
        access_file=file,
        access_id="i",
        profile="n",
        sse="aws:kms",
        sse_key_id="k",
        storage_class="c",
        tags=(("team", "a=b"), ("empty", "")),
        timeout_seconds=2.5,
        limits=LimitSettings(upload_bytes_per_second=1 << 20, download_bytes_per_second=2 << 20),
    )
    assert all(getattr(connection, field.name) != field.default for field in fields(Connection)), (
        "an option of the group was not given"
    )


def test_encrypt_alone_does_not_swallow_the_url() -> None:
    """``--encrypt`` takes a cipher only behind an equals sign."""
    taken = take("--encrypt")
    assert (taken.volume.encrypt, taken.url) == (DEFAULT_CIPHER, "s3://bucket")
    assert take("--encrypt=AES-128-CBC").volume.encrypt == "AES-128-CBC"


def test_a_small_memory_is_divided() -> None:
    """Dirty blocks and read-ahead take their parts of --memory."""
    cache = take("--memory", "4M", "--write-delay", "0").process.cache()
    assert cache == CacheSettings(
        memory_bytes=4 << 20, dirty_max_bytes=2 << 20, write_delay_seconds=0, read_ahead_bytes=1 << 20
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "s3://bucket", "--size", "ten"],
        ["create", "s3://bucket", "--size", "-1"],
        ["create", "s3://bucket", "--size", "1G", "--compress", "lzma"],
        ["create", "s3://bucket", "--size", "1G", "--encrypt=ROT13"],
        ["create", "s3://bucket", "--size", "1G", "--key-length", "16"],
        ["create", "s3://bucket", "--size", "1G", "--password-file", "/dev/null", "--encrypt"],
        ["create", "s3://bucket", "--size", "1G", "--encrypt", "--password-fd", "999"],
        ["create", "s3://bucket"],
        ["create"],
        ["attach", "s3://bucket", "/tmp", "--timeout", "nan"],
        ["attach", "s3://bucket", "/tmp", "--file-mode", "8"],
        ["attach", "s3://bucket", "/tmp", "--file-name", "a/b"],
        ["attach", "s3://bucket", "/tmp", "--file-name", "stats"],
        ["attach", "s3://bucket", "/tmp", "--access-file", "/nonexistent"],
        ["attach", "/tmp", "/tmp"],
        ["mount", "s3://bucket", "/tmp", "--mkfs", "vfat"],
        ["import", "-", "/tmp"],
        ["sail"],
        [],
        ["files"],
        ["files", "nothing"],
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No usage text, no traceback: what is wrong, on standard error."""
    assert run_command(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("bucketry: ")
    assert said.err.count("\n") == 1


def test_only_root_mounts_filesystems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others hear it before anything is tried, and what they can do instead."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run_command(["mount", "s3://bucket", "/tmp"]) == 4
    said = capsys.readouterr().err
    assert "attach" in said
    assert said.count("\n") == 1


def _commands(group: click.Group, before: str = "") -> Iterator[str]:
    """All that do something, those of groups too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name


@pytest.mark.parametrize("name", list(_commands(cli)))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help has an example and the exit codes."""
    assert run_command([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert f"  bucketry {name}" in said
    assert "Exit codes:" in said
    assert re.search(r"^  0 +done$", said, re.MULTILINE)
