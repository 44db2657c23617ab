"""The commands as real processes, on buckets that are directories."""

import gzip
import hashlib
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bucketry.serve.figures import find_figure
from command_line import PATIENCE_SECONDS, CommandLine, is_mounted, is_running, wait_until

pytestmark = pytest.mark.system

BLOCK = 128 << 10


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    commands = CommandLine(tmp_path)
    yield commands
    commands.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A bucket that is an empty directory."""
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path / 'bucket'}"


@pytest.fixture
def disk(cli: CommandLine, url: str) -> str:
    """A plain disk of 64 MiB."""
    cli.ok("create", url, "--size", "64M")
    return url


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    return path


class Outage:
    """A bucket that is away: its directory has another name."""

    def __init__(self, url: str) -> None:
        self._path = Path(url.removeprefix("file://"))
        self._away = self._path.with_name("away")

    def begin(self) -> None:
        self._path.rename(self._away)

    def end(self) -> None:
        self._away.rename(self._path)


@pytest.fixture
def outage(url: str) -> Outage:
    return Outage(url)


def some_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def write(path: Path, data: bytes) -> None:
    """Write to the beginning of a disk's file."""
    with path.open("r+b") as file:
        file.write(data)


@contextmanager
def held_open(path: Path) -> Iterator[int]:
    """A descriptor; that closing it fails when its disk has gone is nothing to wonder at."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        try:
            os.close(descriptor)
        except OSError:
            pass


def objects(url: str) -> list[Path]:
    """The files that are objects: what a directory needs for being a bucket lies in .bucketry."""
    files = Path(url.removeprefix("file://")).rglob("*")
    return [path for path in files if path.is_file() and ".bucketry" not in path.parts]


# attach and umount


def test_attach_shows_the_disk_and_umount_brings_it_into_the_bucket(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path
) -> None:
    """What was written to DIR/file is in the bucket when umount returns; nothing is left but the log."""
    said = cli.ok("attach", disk, directory)
    data = some_bytes(300_000)
    with (directory / "file").open("r+b") as file:
        file.seek(BLOCK - 5)
        file.write(data)
    pid = cli.pid()
    assert f"{directory}/file" in said
    assert is_running(pid)
    cli.ok("umount", directory)
    assert not is_running(pid)
    assert not is_mounted(directory)
    assert [path.suffix for path in cli.runtime.iterdir()] == [".log"]
    assert "everything is in the bucket" in cli.log()
    cli.ok("export", disk, tmp_path / "image")
    assert (tmp_path / "image").read_bytes()[BLOCK - 5 : BLOCK - 5 + len(data)] == data


def test_the_log_goes_where_it_is_told(cli: CommandLine, disk: str, directory: Path, tmp_path: Path) -> None:
    """--log FILE appends to a file, also to one with a relative name."""
    (tmp_path / "log").write_text("before\n")
    ended = cli.run("attach", disk, directory, "--log", "log", cwd=tmp_path)
    assert ended.code == 0, ended
    assert f"log: {tmp_path}/log" in ended.output
    cli.ok("umount", directory)
    text = (tmp_path / "log").read_text()
    assert text.startswith("before\n")
    assert "everything is in the bucket" in text


def test_attaching_twice_is_refused(cli: CommandLine, disk: str, directory: Path, tmp_path: Path) -> None:
    """Neither the mount point nor the volume is shared, and the first attachment goes on."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cli.ok("attach", disk, directory)
    assert "in use" in cli.fails(5, "attach", disk, directory)
    assert "in use" in cli.fails(5, "attach", disk, elsewhere)
    assert (directory / "file").stat().st_size == 64 << 20
    cli.ok("attach", disk, elsewhere, "--read-only")
    with pytest.raises(OSError, match=r"Read-only|not permitted|denied"):
        (elsewhere / "file").open("r+b")
    cli.ok("umount", elsewhere)
    cli.ok("umount", directory)


def test_a_file_that_is_open_keeps_the_disk_attached(cli: CommandLine, disk: str, directory: Path) -> None:
    """umount says busy and changes nothing."""
    cli.ok("attach", disk, directory)
    with (directory / "file").open("r+b") as file:
        file.write(b"kept")
        cli.fails(5, "umount", directory)
        file.seek(0)
        assert file.read(4) == b"kept"
    cli.ok("umount", directory)


def test_the_faces_options(cli: CommandLine, disk: str, directory: Path) -> None:
    """Name, mode and owner of the file are those that were asked for."""
    options = ["--file-name", "sda", "--file-mode", "0640", "--uid", "12", "--gid", "34", "--direct-io"]
    cli.ok("attach", disk, directory, *options)
    found = (directory / "sda").stat()
    cli.ok("umount", directory)
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o640, 12, 34)


def test_an_abrupt_unmount_ends_the_process_in_order(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path
) -> None:
    """After umount(8) the process flushes and goes."""
    cli.ok("attach", disk, directory)
    pid = cli.pid()
    write(directory / "file", b"abrupt")
    subprocess.run(["umount", directory], check=True)
    wait_until(lambda: not is_running(pid))
    cli.fails(3, "umount", directory)
    cli.ok("export", disk, tmp_path / "image")
    assert (tmp_path / "image").read_bytes()[:6] == b"abrupt"


def test_a_killed_process_is_cleared_away_and_owned_up_to(
    cli: CommandLine, disk: str, directory: Path
) -> None:
    """After kill -9 attach refuses the dead mount; umount says what happened, exits 1, and all is clean."""
    cli.ok("attach", disk, directory)
    pid = cli.pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert "umount" in cli.fails(5, "attach", disk, directory)
    assert "lost" in cli.fails(1, "umount", directory)
    assert not is_mounted(directory)
    cli.fails(3, "umount", directory)
    cli.ok("attach", disk, directory)  # the same machine knows that its process is no more
    cli.ok("umount", directory)


# The bucket goes away


def test_nothing_is_thrown_away_while_the_bucket_is_away(
    cli: CommandLine, disk: str, directory: Path, outage: Outage, tmp_path: Path
) -> None:
    """umount says how much is missing and exits 6; the disk stays attached, and a later umount succeeds."""
    cli.ok("attach", disk, directory)
    pid = cli.pid()
    data = some_bytes(3 * BLOCK)
    with held_open(directory / "file") as file:
        outage.begin()
        os.pwrite(file, data, 0)
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(file)
    line = cli.fails(6, "umount", directory)
    assert re.match(r"38\d\.\d KiB not yet in the bucket", line), line
    assert is_running(pid)
    assert (directory / "file").read_bytes()[: len(data)] == data
    shown = json.loads(cli.ok("info", directory, "--json"))
    assert shown["dirty_bytes"] >= len(data)
    assert "no such directory" in shown["bucket_error"]
    outage.end()
    cli.ok("umount", directory)
    cli.ok("export", disk, tmp_path / "image")
    assert (tmp_path / "image").read_bytes()[: len(data)] == data


def test_a_filesystem_stays_mounted_while_the_bucket_is_away(
    cli: CommandLine, disk: str, directory: Path, outage: Outage
) -> None:
    """umount exits 6 before it touches the filesystem, which goes on working."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    outage.begin()
    assert "bucket" in cli.fails(6, "umount", directory)
    (directory / "name").write_text("still here")
    outage.end()
    cli.ok("umount", directory)
    cli.ok("mount", disk, directory)
    assert (directory / "name").read_text() == "still here"
    cli.ok("umount", directory)


def test_a_filesystem_survives_that_the_bucket_is_away(
    cli: CommandLine, disk: str, directory: Path, outage: Outage
) -> None:
    """Its writes wait and then succeed; umount meanwhile exits 6; nothing is lost."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4", "-o", "commit=1")
    outage.begin()
    try:
        (directory / "name").write_bytes(some_bytes(BLOCK))
        wait_until(lambda: "waits for the bucket" in cli.log())  # the journal is written every second
        assert "not yet in the bucket" in cli.fails(6, "umount", directory)
    finally:
        outage.end()
    wait_until(lambda: "the bucket is back" in cli.log())
    (directory / "other").write_text("the filesystem still writes")
    cli.ok("umount", directory)
    cli.ok("mount", disk, directory)
    assert (directory / "name").read_bytes() == some_bytes(BLOCK)
    assert (directory / "other").read_text() == "the filesystem still writes"
    cli.ok("umount", directory)


def test_umount_waits_no_longer_than_told(cli: CommandLine, disk: str, directory: Path) -> None:
    """--timeout ends the waiting with code 6; the process goes on, and a later umount succeeds."""
    cli.ok("attach", disk, directory, "--upload-limit", "300K", "--write-delay", "100")
    # Another process has it open: closing waits for the upload, and whoever forks with it open closes it too.
    program = (
        "import os, sys; file = os.open(sys.argv[1], os.O_RDWR); "
        "os.write(file, bytes(range(256)) * 4096); print('written', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, str(directory / "file")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "written\n"
        assert "the time is over" in cli.fails(6, "umount", directory, "--timeout", "0.1")
        assert is_mounted(directory)
    cli.ok("umount", directory)


# Signals


def serve_in_foreground(cli: CommandLine, *arguments: str | Path) -> "subprocess.Popen[str]":
    """A process that serves, when it is ready."""
    process = cli.start(*arguments, "--foreground")
    directory = Path(arguments[2])
    wait_until(lambda: is_mounted(directory) or process.poll() is not None)
    assert process.stderr is not None
    while " is on " not in (line := process.stderr.readline()):
        assert line, "it ended"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_in_order(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The process flushes, unmounts though a file is open, and exits 0."""
    process = serve_in_foreground(cli, "attach", disk, directory)
    with held_open(directory / "file") as file:
        os.write(file, b"signalled")
        process.send_signal(number)
        assert process.wait(60) == 0
    assert not is_mounted(directory)
    assert list(cli.runtime.iterdir()) == []
    cli.ok("export", disk, tmp_path / "image")
    assert (tmp_path / "image").read_bytes()[:9] == b"signalled"


def test_a_signal_stops_a_mounted_filesystem_in_order(cli: CommandLine, disk: str, directory: Path) -> None:
    """SIGTERM unmounts a filesystem that is in use, with what was written to it."""
    process = serve_in_foreground(cli, "mount", disk, directory, "--mkfs", "ext4")
    with held_open(directory / "name") as file:
        os.write(file, b"kept")
        process.terminate()
        assert process.wait(60) == 0
    assert not is_mounted(directory)
    cli.ok("mount", disk, directory)
    assert (directory / "name").read_text() == "kept"
    cli.ok("umount", directory)


def test_the_second_signal_gives_up(cli: CommandLine, disk: str, directory: Path, outage: Outage) -> None:
    """With the bucket away the first signal keeps trying, the second ends it with code 6 and the bytes
    lost."""
    process = serve_in_foreground(cli, "attach", disk, directory)
    outage.begin()
    with held_open(directory / "file") as file:
        os.pwrite(file, some_bytes(BLOCK), 0)
        process.terminate()
        assert process.stderr is not None
        while "trying on" not in (line := process.stderr.readline()):
            assert line, "it ended"
        assert re.search(r"128\.\d KiB not yet in the bucket", line), line
        process.terminate()
        assert process.wait(60) == 6
    said = process.stderr.read()
    assert re.search(
        r"gave up: 128\.\d KiB were not in the bucket and are lost; the bucket has every", said
    ), said
    assert not is_mounted(directory)
    outage.end()


def test_interrupting_the_start_leaves_nothing(cli: CommandLine, directory: Path) -> None:
    """Ctrl-C while attach waits for a bucket that does not answer: code 130, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = ["--endpoint", f"http://127.0.0.1:{port}", "--region", "x", "--anonymous"]
        process = cli.start("attach", "s3://bucket/disk", directory, *options)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        connection.close()
    assert process.stderr is not None
    assert process.stderr.read() == "bucketry: interrupted\n"
    assert [path.suffix for path in cli.runtime.iterdir()] == [".log"]


def test_systemd_is_told(cli: CommandLine, disk: str, directory: Path, tmp_path: Path) -> None:
    """--foreground sends READY=1 when the disk can be used, and STOPPING=1."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        process = cli.start(
            "attach", disk, directory, "--foreground", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        assert listener.recv(100) == b"READY=1"
        assert (directory / "file").stat().st_size == 64 << 20
        process.terminate()
        assert listener.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0


# Filesystems


def test_a_filesystem_from_beginning_to_end(cli: CommandLine, disk: str, directory: Path) -> None:
    """mount makes it when the disk is new, refuses to go while it is in use, and shows the same again."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4", "-o", "noatime")
    assert "noatime" in Path("/proc/self/mounts").read_text(errors="surrogateescape")
    (directory / "name").write_text("content")
    with (directory / "name").open():
        assert "in use" in cli.fails(5, "umount", directory)
    cli.ok("umount", directory)
    assert not is_mounted(directory)
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    assert (directory / "name").read_text() == "content"
    cli.ok("umount", directory)


def test_nothing_is_overwritten_by_mkfs(cli: CommandLine, disk: str, directory: Path) -> None:
    """A disk with another filesystem, with unknown data, or with nothing when --mkfs is absent: one line,
    code 2."""
    assert "--mkfs" in cli.fails(2, "mount", disk, directory)
    cli.ok("attach", disk, directory)
    write(directory / "file", b"precious")
    cli.ok("umount", directory)
    assert "data on the disk" in cli.fails(2, "mount", disk, directory, "--mkfs", "ext4")
    cli.ok("attach", disk, directory)
    subprocess.run(["mkfs.ext4", "-q", "-F", directory / "file"], check=True)
    cli.ok("umount", directory)
    assert "ext4 on the disk already" in cli.fails(2, "mount", disk, directory, "--mkfs", "xfs")
    assert not is_mounted(directory)


def test_a_killed_process_under_a_filesystem_is_cleared_away(
    cli: CommandLine, disk: str, directory: Path
) -> None:
    """Filesystem, loop device and private directory go; what had been flushed is there afterwards."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    with (directory / "name").open("w") as file:
        file.write("flushed")
        file.flush()
        os.fsync(file.fileno())
    pid = cli.pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert "lost" in cli.fails(1, "umount", directory)
    assert not is_mounted(directory)
    cli.ok("mount", disk, directory, "--force")
    assert (directory / "name").read_text() == "flushed"
    cli.ok("umount", directory)


# Bad input


def test_bad_input_is_one_line_and_its_code(
    cli: CommandLine, url: str, disk: str, directory: Path, tmp_path: Path
) -> None:
    """Each mistake has one line that names the thing, and the documented code."""
    file = tmp_path / "a file"
    file.write_text("")
    assert "nowhere" in cli.fails(3, "attach", f"file://{tmp_path}/nowhere", directory)
    (tmp_path / "empty").mkdir()
    assert "empty" in cli.fails(3, "attach", f"file://{tmp_path}/empty", directory)
    assert "size" in cli.fails(2, "attach", disk, directory, "--size", "1G")
    assert "block size" in cli.fails(2, "attach", disk, directory, "--block-size", "4K")
    assert "not a directory" in cli.fails(2, "attach", disk, file)
    assert "does not exist" in cli.fails(3, "attach", disk, tmp_path / "missing")
    assert "mount point" in cli.fails(5, "attach", disk, Path("/proc"))
    assert "s3:/" in cli.fails(2, "attach", "s3:/bucket", directory)
    assert "'?'" in cli.fails(2, "attach", "s3://bucket/a?b", directory)
    assert "syslog" in cli.fails(1, "attach", disk, directory, "--log", "syslog")
    assert "--size" in cli.fails(2, "create", f"file://{tmp_path}/empty")
    assert "volume" in cli.fails(2, "create", disk, "--size", "1G")
    assert "power of two" in cli.fails(
        2, "create", f"file://{tmp_path}/empty", "--size", "1G", "--block-size", "3K"
    )
    assert "nothing of bucketry" in cli.fails(3, "umount", directory)
    assert "nothing of bucketry" in cli.fails(3, "stats", directory)
    assert "No such option" in cli.fails(2, "attach", disk, directory, "--password=x")
    assert not is_mounted(directory)


# Secrets


def test_passwords_are_asked_for_and_shown_nowhere(
    cli: CommandLine, url: str, directory: Path, tmp_path: Path
) -> None:
    """Neither the process list nor the environment, the log or the state file of the process shows the
    password."""
    secret = {"BUCKETRY_PASSWORD": "correct horse"}
    password_file = tmp_path / "password"
    password_file.write_text("wrong horse\n")
    cli.ok("create", url, "--size", "64M", "--encrypt", environment=secret)
    cli.fails(4, "attach", url, directory)
    assert "password" in cli.fails(4, "attach", url, directory, "--password-file", password_file)
    cli.ok("attach", url, directory, environment=secret)
    pid = cli.pid()
    for name in ("cmdline", "environ"):
        assert b"correct horse" not in Path(f"/proc/{pid}/{name}").read_bytes()
    for path in cli.runtime.iterdir():
        assert path.is_socket() or b"correct horse" not in path.read_bytes()
    cli.ok("umount", directory)
    receiving, sending = os.pipe()
    os.write(sending, b"correct horse\nmore")
    os.close(sending)
    ended = cli.run("attach", url, directory, "--password-fd", str(receiving), pass_fds=(receiving,))
    os.close(receiving)
    assert ended.code == 0, ended
    cli.ok("umount", directory)


# Images


def test_images_are_copied_sparsely_both_ways(cli: CommandLine, url: str, tmp_path: Path) -> None:
    """Holes are neither stored nor written; import makes the disk, of the image's size rounded up."""
    image, back = tmp_path / "image", tmp_path / "back"
    data = some_bytes(3 * BLOCK + 77)
    with image.open("wb") as file:
        file.seek(40 << 20)
        file.write(data)
    cli.ok("import", image, url, "--compress", "zstd")
    assert len([path for path in objects(url) if path.stat().st_size > 1000]) <= 5
    cli.ok("export", url, back)
    size = (40 << 20) + 4 * BLOCK
    assert back.stat().st_size == size
    assert back.stat().st_blocks * 512 < 1 << 20
    assert back.read_bytes() == image.read_bytes() + bytes(size - image.stat().st_size)
    assert "exists" in cli.fails(2, "export", url, back)
    assert not list(tmp_path.glob("**/*.part"))


def test_import_overwrites_only_when_told_and_then_wholly(
    cli: CommandLine, disk: str, tmp_path: Path
) -> None:
    """--force makes the disk read as the image, with zeros where the image has holes and behind its end."""
    first, second, back = tmp_path / "first", tmp_path / "second", tmp_path / "back"
    first.write_bytes(some_bytes(4 << 20))
    with second.open("wb") as file:
        file.write(b"second")
        file.seek(1 << 20)
        file.write(b"end")
    assert "--force" in cli.fails(2, "import", first, disk)
    cli.ok("import", first, disk, "--force")
    cli.ok("import", second, disk, "--force")
    cli.ok("export", disk, back)
    assert back.read_bytes() == second.read_bytes() + bytes((64 << 20) - second.stat().st_size)
    (tmp_path / "large").write_bytes(b"")
    os.truncate(tmp_path / "large", 65 << 20)
    assert "only" in cli.fails(2, "import", tmp_path / "large", disk, "--force")


def test_images_go_through_pipes(cli: CommandLine, url: str, tmp_path: Path) -> None:
    """``-`` is standard input and standard output."""
    data = some_bytes(5 << 20)
    assert "--size" in cli.fails(2, "import", "-", url, text="")
    pipeline = (
        f"cat {tmp_path}/data | $BUCKETRY import - {url} --size 8M --allow-short "
        f"&& $BUCKETRY export {url} - | sha256sum"
    )
    (tmp_path / "data").write_bytes(data)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-ec", pipeline],
        env=cli.environment({"BUCKETRY": f"{sys.executable} -m bucketry"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert hashlib.sha256(data + bytes(3 << 20)).hexdigest() in done.stdout


def test_export_writes_where_a_link_leads(cli: CommandLine, disk: str, tmp_path: Path) -> None:
    """The link stays; so does somebody's file whose name looks like a temporary one's."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there/image")
    (tmp_path / "there/image.part").write_bytes(b"mine")
    cli.ok("export", disk, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there/image").stat().st_size == 64 << 20
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["image", "image.part"]
    assert (tmp_path / "there/image.part").read_bytes() == b"mine"
    cli.ok("export", disk, tmp_path / ("i" * 255))


def test_a_stream_that_ends_early_is_not_imported_as_complete(
    cli: CommandLine, url: str, tmp_path: Path
) -> None:
    """A broken archive and an export that was killed close their pipes, and import says so: exit code 1."""
    data = some_bytes(5 << 20)
    archive = gzip.compress(data, 0)[: 3 << 20]
    (tmp_path / "broken.gz").write_bytes(archive)
    pipeline = f"zcat {tmp_path}/broken.gz | $BUCKETRY import - {url} --size 5M"
    environment = cli.environment({"BUCKETRY": f"{sys.executable} -m bucketry"})
    done = subprocess.run(
        ["bash", "-c", pipeline], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done
    assert "the stream ended after" in done.stderr
    assert "the disk has 5 MiB" in done.stderr
    (tmp_path / "whole").write_bytes(data)
    cli.ok("import", tmp_path / "whole", url, "--force")
    exporting = cli.start("export", url, "-")
    assert exporting.stdout is not None
    select.select([exporting.stdout], [], [], PATIENCE_SECONDS)
    exporting.kill()
    importing = cli.start("import", "-", f"{url}-copy", "--size", "5M", stdin=exporting.stdout.fileno())
    assert "the stream ended after" in importing.communicate(timeout=PATIENCE_SECONDS)[1]
    assert importing.returncode == 1


def test_import_makes_the_directory_of_a_new_bucket(cli: CommandLine, tmp_path: Path) -> None:
    """As create does: one level, and no more."""
    (tmp_path / "image").write_bytes(some_bytes(BLOCK))
    cli.ok("import", tmp_path / "image", f"file://{tmp_path}/new")
    cli.ok("export", f"file://{tmp_path}/new", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "image").read_bytes()
    assert "no such directory" in cli.fails(3, "import", tmp_path / "image", f"file://{tmp_path}/a/b")


def test_an_interrupted_import_ends_at_once(cli: CommandLine, disk: str) -> None:
    """Though the pipe that it reads says nothing: code 130, one line, and the volume is free again."""
    receiving, sending = os.pipe()
    process = cli.start("import", "-", disk, "--force", stdin=receiving)
    os.write(sending, b"x")
    wait_until(lambda: json.loads(cli.ok("info", disk, "--json"))["mounted_by"] is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    os.close(sending)
    os.close(receiving)
    assert process.stderr is not None
    assert process.stderr.read() == "bucketry: interrupted\n"
    assert json.loads(cli.ok("info", disk, "--json"))["mounted_by"] is None


# The rest


def test_erase_asks_and_deletes_everything(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path
) -> None:
    """A mounted volume is refused; without a yes nothing happens; then no object is left."""
    cli.ok("attach", disk, directory)
    write(directory / "file", some_bytes(10 * BLOCK))
    ended = cli.run("erase", disk, text="y\n")
    assert (ended.code, "in use by" in ended.errors) == (5, True), ended
    cli.ok("umount", directory)
    ended = cli.run("erase", disk, text="n\n")
    assert ended.code == 1
    assert "nothing was erased" in ended.errors
    assert len(objects(disk)) >= 10
    assert "objects deleted" in cli.ok("erase", disk, text="y\n")
    assert objects(disk) == []
    cli.fails(3, "info", disk)


def test_info_and_stats(cli: CommandLine, disk: str, directory: Path) -> None:
    """Both say the same as JSON and to people, by URL and by directory."""
    assert json.loads(cli.ok("info", disk, "--json"))["size_bytes"] == 64 << 20
    assert "size: 64 MiB" in cli.ok("info", disk)
    cli.ok("attach", disk, directory)
    write(directory / "file", b"x" * 4096)
    shown = json.loads(cli.ok("info", directory, "--json"))
    assert shown["volume"]["size_bytes"] == 64 << 20
    assert shown["mount_point"] == str(directory)
    statistics = json.loads(cli.ok("stats", directory, "--json"))
    assert find_figure(statistics, "dirty_bytes") is not None
    assert "dirty: " in cli.ok("stats", directory)
    cli.ok("umount", directory)


def test_the_demonstration(cli: CommandLine) -> None:
    """bucketry demo succeeds and leaves nothing."""
    said = cli.ok("demo")
    assert "All is well" in said
    assert "every checksum compared" in said
