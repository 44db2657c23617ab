"""Unmounting a disk that somebody uses, was unmounted by other means, or cannot reach its bucket: who uses it
is named, nothing hangs, and what umount says is so."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import CommandLine, is_mounted, is_running, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    commands = CommandLine(tmp_path)
    yield commands
    commands.close()


@pytest.fixture
def disk(cli: CommandLine, tmp_path: Path) -> str:
    """A plain disk of 64 MiB in a directory."""
    (tmp_path / "bucket").mkdir()
    url = f"file://{tmp_path / 'bucket'}"
    cli.ok("create", url, "--size", "64M")
    return url


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    return path


#: Opens a file, says so, and keeps it until its input ends.
_HOLD = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@contextmanager
def user(*argv: str | Path, cwd: Path | None = None) -> Iterator[int]:
    """A program that has begun and goes on until the block ends; its process number."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield process.pid
        finally:
            process.stdin.close()


def opener(path: Path) -> tuple[str | Path, ...]:
    return (sys.executable, "-c", _HOLD, path)


#: What tests beside this one have mounted is let go at once: they unmount it, too.
_LET_GO = """
while read -r _ _ _ _ point _; do
    case $point in
        "$1"|/|/proc|/proc/*|/sys|/sys/*|/dev|/dev/*|/tmp|/run) ;;
        *) umount --lazy "$point" ;;
    esac
done < /proc/self/mountinfo 2> /dev/null
echo open; read line; exit 0
"""


def in_another_namespace(directory: Path) -> tuple[str | Path, ...]:
    """A program in a mount namespace of its own that has, of what is mounted for tests, ``directory``."""
    return ("unshare", "--mount", "sh", "-c", _LET_GO, "sh", directory)


def info(cli: CommandLine, directory: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads(cli.ok("info", directory, "--json"))
    return report


def unmount(*options: str | Path) -> None:
    subprocess.run(["umount", *options], check=True)


def loop_devices(cli: CommandLine) -> list[str]:
    """The loop devices of disks that ``cli`` serves."""
    images = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [image for image in images if image.startswith(str(cli.runtime))]


# Who uses it


def test_a_lazily_unmounted_disk_with_an_open_file(cli: CommandLine, disk: str, directory: Path) -> None:
    """umount does not wait for the file to be closed: exit 5, and by whom; info says the same; when it is
    closed the disk ends by itself."""
    cli.ok("attach", disk, directory)
    pid = cli.pid()
    with user(*opener(directory / "file")) as holder:
        unmount("--lazy", directory)
        line = cli.fails(5, "umount", directory)
        assert "files on it are open: python" in line
        assert f", pid {holder} (has /file open)" in line
        shown = info(cli, directory)
        assert shown["state"] == "unmounted, files on it still open"
        assert f"pid {holder}" in str(shown["used_by"])
        assert is_running(pid)
    wait_until(lambda: not is_running(pid))
    assert "everything is in the bucket" in cli.log()
    cli.fails(3, "umount", directory)


@pytest.mark.parametrize("kind", ["attach", "mount"])
def test_who_keeps_it_busy_is_named(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path, kind: str
) -> None:
    """An open file, a working directory, a bind mount, a mount below, a mount over it, another mount
    namespace: exit 5, the reason in words, and everything stays as it is."""
    options = ["--mkfs", "ext4"] if kind == "mount" else []
    cli.ok(kind, disk, directory, *options)
    if kind == "mount":
        (directory / "file").write_text("content")
        (directory / "below").mkdir()
    with user(*opener(directory / "file")) as holder:
        line = cli.fails(5, "umount", directory)
        assert f"pid {holder}" in line
        assert "file open" in line
    with user("sh", "-c", "echo open; read line; exit 0", cwd=directory) as holder:
        assert f"pid {holder} (working directory)" in cli.fails(5, "umount", directory)
    bound = tmp_path / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", directory, bound], check=True)
    assert f"also mounted on {bound}"[-20:] in cli.fails(5, "umount", directory)
    unmount(bound)
    with user(*in_another_namespace(directory)) as holder:
        line = cli.fails(5, "umount", directory)
        assert "in another mount namespace (mnt:[" in line
        assert f"sh, pid {holder}" in line
    if kind == "mount":
        subprocess.run(["mount", "-t", "tmpfs", "none", directory / "below"], check=True)
        assert "tmpfs is mounted on " in cli.fails(5, "umount", directory)
        unmount(directory / "below")
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    assert "tmpfs is mounted over it" in cli.fails(5, "umount", directory)
    unmount(directory)
    assert info(cli, directory)["state"] == "serving"
    cli.ok("umount", directory)


def test_a_loop_device_on_the_file_is_named(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path
) -> None:
    """With where it is mounted."""
    other = tmp_path / "other"
    other.mkdir()
    cli.ok("attach", disk, directory)
    argv = ["losetup", "--find", "--show", str(directory / "file")]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, other], check=True)
    line = cli.fails(5, "umount", directory)
    assert f"{device} is set up on " in line
    assert "also mounted on " in line
    unmount(other)
    subprocess.run(["losetup", "--detach", device], check=True)
    cli.ok("umount", directory)


# Unmounted by other means


def test_umount8_of_a_filesystem_ends_the_disk_in_order(cli: CommandLine, disk: str, directory: Path) -> None:
    """Nobody has to run bucketry umount: the process notices, brings everything into the bucket and goes; the
    next mount works at once."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    pid = cli.pid()
    (directory / "name").write_text("content")
    unmount(directory)
    wait_until(lambda: not is_running(pid))
    assert "nothing of bucketry" in cli.fails(3, "info", directory)
    assert loop_devices(cli) == []
    assert [path.suffix for path in cli.runtime.iterdir()] == [".log"]
    cli.ok("mount", disk, directory)
    assert (directory / "name").read_text() == "content"
    cli.ok("umount", directory)


def test_a_filesystem_that_another_namespace_still_has(cli: CommandLine, disk: str, directory: Path) -> None:
    """After umount(8) info says that it is unmounted and its loop device held, and by whom; umount says so
    with 5; when the namespace has gone the disk ends by itself."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    pid = cli.pid()
    with user(*in_another_namespace(directory)) as holder:
        unmount(directory)
        shown = info(cli, directory)
        assert shown["state"] == "unmounted, loop device still held"
        assert f"pid {holder}" in str(shown["used_by"])
        assert "used by: mounted on " in cli.ok("info", directory)
        assert f"pid {holder}" in cli.fails(5, "umount", directory)
        assert "bucketry umount" in cli.fails(5, "mount", disk, directory)
    wait_until(lambda: not is_running(pid))
    assert loop_devices(cli) == []


def test_several_umounts_at_once(cli: CommandLine, disk: str, directory: Path) -> None:
    """Each says 0, or 3 when it came too late; after a kill each says 1 and nothing is left."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    (directory / "name").write_bytes(bytes(range(256)) * 4096)
    started = [cli.start("umount", directory) for _ in range(4)]
    codes = [process.wait(60) for process in started]
    assert 0 in codes
    assert set(codes) <= {0, 3}
    cli.ok("mount", disk, directory)
    os.kill(cli.pid(), signal.SIGKILL)
    wait_until(lambda: not is_running(cli.pid()))
    started = [cli.start("umount", directory) for _ in range(3)]
    codes = [process.wait(60) for process in started]
    assert 1 in codes
    assert set(codes) <= {1, 3}
    assert not is_mounted(directory)
    assert loop_devices(cli) == []


def test_umount_while_it_starts(cli: CommandLine, tmp_path: Path, directory: Path) -> None:
    """An attach that waits for its bucket is given up: umount says that nothing was mounted, attach exits
    130, and nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = ["--endpoint", f"http://127.0.0.1:{port}", "--region", "x", "--anonymous"]
        process = cli.start("attach", "s3://bucket/disk", directory, *options)
        connection, _ = silent.accept()
        assert cli.state()["mount_point"] == str(directory)
        cli.fails(3, "umount", directory)
        connection.close()
        assert process.wait(60) == 130
    assert [path.suffix for path in cli.runtime.iterdir()] == [".log"]
    cli.fails(3, "umount", directory)


# Nothing to bring into the bucket


@pytest.mark.parametrize("kind", ["attach", "mount"])
def test_a_read_only_disk_needs_no_bucket_to_be_unmounted(
    cli: CommandLine, disk: str, directory: Path, kind: str
) -> None:
    """It holds no lease and has nothing to upload: exit 0, with a damaged lease and with the bucket gone."""
    cli.ok("mount", disk, directory, "--mkfs", "ext4")
    cli.ok("umount", directory)
    bucket = Path(disk.removeprefix("file://"))
    (bucket / "lease.bucketry.json").write_text("garbage")
    cli.ok(kind, disk, directory, "--read-only")
    cli.ok("umount", directory)
    cli.ok(kind, disk, directory, "--read-only")
    bucket.rename(bucket.with_name("away"))
    cli.ok("umount", directory)
    assert not is_mounted(directory)


def test_umount_with_a_time_tries_within_it(cli: CommandLine, disk: str, directory: Path) -> None:
    """The bucket is away and comes back while umount --timeout waits: exit 0; without a time it says at once
    that everything is there, but the volume not given back."""
    bucket = Path(disk.removeprefix("file://"))
    cli.ok("attach", disk, directory)
    bucket.rename(bucket.with_name("away"))
    assert "everything written is in the bucket, but" in cli.fails(6, "umount", directory)
    waiting = cli.start("umount", directory, "--timeout", "120")
    cli.fails(6, "umount", directory)  # the other one has asked, or asks next
    bucket.with_name("away").rename(bucket)
    assert waiting.wait(120) == 0
    assert not is_mounted(directory)


# Lost to somebody else, and given up

#: Writes to a disk, and flushes when it is told to.
_WRITE = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
os.write(file, bytes(range(256)) * 512)
sys.stdin.read()
os.fsync(file)
"""


@pytest.mark.parametrize("kind", ["attach", "mount"])
def test_a_process_that_lost_its_volume_ends_by_itself(
    cli: CommandLine, disk: str, directory: Path, kind: str
) -> None:
    """Somebody unlocks the volume: the process ends without being asked, what was mounted fails every use,
    and info and umount say what is lost with a code of their own, once; then DIR is free."""
    options = ["--mkfs", "ext4"] if kind == "mount" else []
    cli.ok(kind, disk, directory, "--write-delay", "600", *options)
    pid = cli.pid()
    started = None
    if kind == "attach":
        started = subprocess.Popen([sys.executable, "-c", _WRITE, directory / "file"], stdin=subprocess.PIPE)
        wait_until(lambda: info(cli, directory)["dirty_bytes"] != 0)
    cli.ok("unlock", disk, "--force")
    wait_until(lambda: not is_running(pid))
    if started is not None:
        started.communicate()
        assert started.returncode != 0, "its fsync fails"
    with pytest.raises(OSError, match=r"not connected|Input/output"), (directory / "file").open("wb") as file:
        file.write(b"x" * 4096)
        os.fsync(file.fileno())
    assert "bucketry umount" in cli.fails(7, "info", directory)
    assert "bucketry umount" in cli.fails(5, kind, disk, directory)
    line = cli.fails(7, "umount", directory)
    assert "somebody else has taken the volume over" in line
    cli.fails(3, "umount", directory)
    assert not is_mounted(directory)
    assert loop_devices(cli) == []
    assert ("KiB written here did not reach the bucket and are lost" in line) == (kind == "attach")
    assert line.removesuffix("; unmounted now") in cli.log()
    cli.ok("attach", disk, directory)
    cli.ok("umount", directory)


@pytest.mark.parametrize("durability", ["journal", "bucket"])
def test_the_second_signal_says_what_is_where(
    cli: CommandLine, disk: str, directory: Path, tmp_path: Path, durability: str
) -> None:
    """The bucket is away when the process is told twice to stop: its last line says how much is not there,
    whether the journal has it, and what the next attach will do; that attach does it."""
    bucket = Path(disk.removeprefix("file://"))
    cache = tmp_path / "cache"
    options = ["--durability", durability, "--cache-dir", str(cache)]
    cli.ok("attach", disk, directory, *options)
    pid = cli.pid()
    argv = [sys.executable, "-c", _WRITE, str(directory / "file")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        bucket.rename(bucket.with_name("away"))
        wait_until(lambda: info(cli, directory)["dirty_bytes"] != 0)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: "trying on" in cli.log())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid))
        assert writer.stdin is not None
        writer.stdin.close()
    bucket.with_name("away").rename(bucket)
    last = cli.log().splitlines()[-1]
    if durability == "journal":
        assert (
            f"KiB are not in the bucket; the journal in {cache}/journal has all of it, and the next" in last
        )
    else:
        assert "KiB were not in the bucket and are lost; the bucket has everything up to the last" in last
    assert not is_mounted(directory)
    cli.ok("attach", disk, directory, *options)
    with (directory / "file").open("rb") as file:
        assert file.read(512) == (bytes(range(256)) * 2 if durability == "journal" else bytes(512))
    cli.ok("umount", directory)


# Damaged blocks


def test_damaged_blocks_of_an_attached_disk_are_given_up(
    cli: CommandLine, disk: str, directory: Path
) -> None:
    """Parts written into damaged blocks fail the next fsync of each open file, once; then others are durable
    again. umount names all blocks and the way out, which works while the disk is attached."""
    bucket = Path(disk.removeprefix("file://"))
    block = 128 << 10
    cli.ok("attach", disk, directory)
    (directory / "file").write_bytes(b"".join(bytes([number]) * block for number in range(1, 9)))
    cli.ok("umount", directory)
    damaged = {}
    for number in (2, 5, 6):
        path = bucket / f"{number:08x}"
        body = bytearray(path.read_bytes())
        body[-1000] ^= 1
        path.write_bytes(body)
        damaged[number] = bytes(body)
    cli.ok("attach", disk, directory)
    writer, other = (os.open(directory / "file", os.O_RDWR) for _ in range(2))
    try:
        for number in (2, 5):
            os.pwrite(writer, b"new", number * block + 7)
        for descriptor in (writer, other):
            with pytest.raises(OSError, match="Input/output error"):
                os.fsync(descriptor)
        for descriptor in (writer, other):
            os.pwrite(descriptor, b"fine", 7 * block)
            os.fsync(descriptor)
        assert (bucket / "00000007").read_bytes()[-block:].startswith(b"fine")
    finally:
        os.close(writer)
        os.close(other)
    line = cli.fails(6, "umount", directory)
    assert "cannot be read: 2, 5; block " in line
    assert f"bucketry check --repair --zero-damaged {directory}" in line
    assert "by its URL" in cli.fails(2, "check", directory)
    assert "3 damaged blocks zeroed, 0 left" in cli.ok("check", "--repair", "--zero-damaged", directory)
    cli.ok("umount", directory)
    assert "all is well" in cli.ok("check", disk)
    kept = {int(path.name[:8], 16): path.read_bytes() for path in (bucket / "damaged").iterdir()}
    assert {number: body[-block:] for number, body in kept.items()} == {
        number: body[-block:] for number, body in damaged.items()
    }
    cli.ok("attach", disk, directory, "--read-only")
    with (directory / "file").open("rb") as file:
        content = file.read(8 * block)
    cli.ok("umount", directory)
    zeroed = bytes(7) + b"new" + bytes(block - 10)
    assert content[2 * block : 3 * block] == content[5 * block : 6 * block] == zeroed
    assert content[6 * block : 7 * block] == bytes(block)
    assert content[: 2 * block] == bytes([1]) * block + bytes([2]) * block
