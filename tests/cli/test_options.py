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


@pytest.mark.parametrize(
    ("words", "cipher"),
    [
        (["--encrypt=AES-128-CBC"], "AES-128-CBC"),
        (["--encrypt", "AES-128-CBC"], "AES-128-CBC"),
        (["--encrypt=aes-192-cbc"], "AES-192-CBC"),
        (["--encrypt", "Aes-256-Cbc"], "AES-256-CBC"),
        (["--encrypt"], None),
        (["--encrypt", "--encrypt"], None),
        (["--encrypt", "--insecure"], None),
    ],
)
def test_a_value_that_may_be_left_out(words: list[str], cipher: str | None) -> None:
    """With an equals sign or as the next word, in either case; what cannot be a cipher is the URL. Alone it
    is whichever the volume has, and of a new volume our default."""
    taken = take(*words)
    assert taken.url == "s3://bucket"
    asked = taken.volume.settings(None)
    assert (asked.cipher, asked.encrypted) == (cipher, True)
    assert taken.volume.new_format(1 << 20).cipher == cipher or "AES-256-CBC"


@pytest.mark.parametrize("words", [["--encrypt=ROT13"], ["--encrypt="], ["--encrypt", "AES-128-CBC", "x"]])
def test_what_is_no_value_is_refused(words: list[str]) -> None:
    """Behind an equals sign stands a value."""
    with pytest.raises(click.UsageError):
        take(*words)


def test_names_of_choices_may_be_in_either_case() -> None:
    """As s3backer takes them."""
    taken = take("--compress", "ZSTD", "--sse", "aes256", "--durability", "Bucket")
    found = (taken.volume.compress, taken.connection.sse, taken.process.durability)
    assert found == ("zstd", "AES256", "bucket")


_SIZES = ["--size", "--block-size", "--memory", "--journal-size", "--upload-limit", "--download-limit"]


@pytest.mark.parametrize("option", _SIZES)
def test_a_size_of_0_is_refused(option: str) -> None:
    """It is no way to say that there is none, or the default."""
    with pytest.raises(click.UsageError) as caught:
        take(option, "0")
    assert f"'{option}': 0 is too small" in caught.value.format_message()


def test_what_0_means_where_it_means_something() -> None:
    """No cached blocks on local disk, no delay; a request without any time could never succeed."""
    cache = take("--cache-size", "0", "--write-delay", "0").process.cache()
    assert (cache.cache_size_bytes, cache.write_delay_seconds) == (0, 0)
    with pytest.raises(click.UsageError) as caught:
        take("--timeout", "0")
    assert "'--timeout': 0 seconds are too short" in caught.value.format_message()


def test_units_that_can_be_misunderstood_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """10GB is 10 GiB, as with s3backer; who says G, Gi or GiB knows."""
    for spelling in ("10G", "10Gi", "10GiB"):
        assert take("--size", spelling).volume.size == 10 << 30
    assert capsys.readouterr().err == ""
    assert take("--size", "10GB").volume.size == 10 << 30
    assert capsys.readouterr().err == "bucketry: 10GB is taken for 10 GiB: units are powers of 1024\n"


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
    assert run_command(["mount", "s3://bucket", "/tmp"]) == 1
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


@pytest.mark.parametrize("command", ["attach", "mount"])
@pytest.mark.parametrize("more", [[], ["--size", "1G"], ["--block-size", "64K"], ["--read-only"]])
def test_no_volume_comes_about_by_being_opened(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    more: list[str],
) -> None:
    """Where nothing is, nothing is made: with a geometry that nobody chose, a filesystem would live for ever.
    The message names the command that makes one."""
    monkeypatch.setattr("bucketry.cli.attach.check_rights", lambda: None)
    monkeypatch.setenv("BUCKETRY_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "bucket").mkdir()
    (tmp_path / "disk").mkdir()
    mkfs = ["--mkfs", "ext4"] if command == "mount" and "--read-only" not in more else []
    arguments = [command, f"file://{tmp_path}/bucket", str(tmp_path / "disk"), "--foreground", *more, *mkfs]
    assert run_command(arguments) == 3
    assert re.search("no volume here; make one with bucketry create", capsys.readouterr().err)
    assert not [path for path in (tmp_path / "bucket").iterdir() if path.name != ".bucketry"]
