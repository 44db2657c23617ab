"""Real mounts: what programs see of a disk's file."""

import asyncio
import errno
import fcntl
import mmap
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from bucketry.errors import Busy, Closed, Invalid, NotFound
from bucketry.serve.fuse import FuseSession
from bucketry.serve.mounts import find_mount
from bucketry.settings import FuseSettings
from bucketry.testing.memory_device import MemoryDevice

pytestmark = pytest.mark.system

P = ParamSpec("P")
T = TypeVar("T")
SIZE = 16 << 20
BLOCK = 131072
FIGURES = {"answer": 42}


def figures() -> Mapping[str, object]:
    return FIGURES


@asynccontextmanager
async def mounted(
    device: MemoryDevice, path: Path, settings: FuseSettings | None = None, *, helper: bool | None = None
) -> AsyncIterator[FuseSession]:
    """A session that serves ``device`` at ``path`` until the test is over, however it ends."""
    session = FuseSession(device, path, settings or FuseSettings(), statistics=figures, helper=helper)
    session.mount()
    serving = asyncio.create_task(session.serve())
    try:
        yield session
        await session.unmount()
        await serving
    finally:
        with suppress(Busy):
            await session.unmount(lazy=True)
        serving.cancel()
        await asyncio.wait([serving])


async def thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what touches the mount: in a thread, for this one must answer meanwhile."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return what it says; CalledProcessError when it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        # Closing descriptors in the child would flush a file on the mount, and this process, which has to
        # answer that, stands still until the child has begun its program.
        done = await thread(
            subprocess.run,
            argv,
            check=True,
            capture_output=True,
            text=True,
            env=environment,
            cwd=cwd,
            close_fds=False,
        )
    except subprocess.CalledProcessError as problem:
        problem.add_note(problem.stderr)
        raise
    return str(done.stdout)


async def refused(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> int | None:
    """The errno with which a call fails."""
    with pytest.raises(OSError) as caught:
        await thread(function, *args, **kwargs)
    return caught.value.errno


@asynccontextmanager
async def opened(path: Path, flags: int = os.O_RDWR) -> AsyncIterator[int]:
    descriptor = await thread(os.open, path, flags)
    try:
        yield descriptor
    finally:
        await thread(os.close, descriptor)


class Hang:
    """A hook at which reads never return."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def __call__(self, operation: str, _offset: int, _length: int) -> None:
        if operation == "read":
            self.reached.set()
            await asyncio.Event().wait()


async def test_programs_see_a_directory_with_two_files(tmp_path: Path) -> None:
    """ls, stat, df and cat show what the disk is; the mount table names us."""
    device = MemoryDevice(SIZE, BLOCK)
    device.write_nowait(BLOCK, b"x")
    async with mounted(device, tmp_path, FuseSettings(source="memory://a b,c\\d")):
        assert await run("ls", tmp_path) == "file\nstats\n"
        assert await run("stat", "-c", "%s %b %B %o %a %F", tmp_path / "file") == (
            f"{SIZE} {BLOCK // 512} 512 {BLOCK} 600 regular file\n"
        )
        assert await run("stat", "-f", "-c", "%s %b %f %l", tmp_path) == f"{BLOCK} 128 127 255\n"
        text = await run("cat", tmp_path / "stats")
        assert text.split() == ["answer", "42"]
        assert (await thread(os.stat, tmp_path / "stats")).st_size == len(text)
        mount = find_mount(str(tmp_path))
        assert mount is not None
        assert (mount.filesystem, mount.source) == ("fuse.bucketry", "memory://a b,c\\d")
        assert await refused(os.stat, tmp_path / "other") == errno.ENOENT
        assert await refused(os.mkdir, tmp_path / "other") == errno.EPERM
        assert await refused(os.unlink, tmp_path / "file") == errno.EPERM
        assert await refused(os.open, tmp_path / "other", os.O_CREAT | os.O_WRONLY) == errno.EPERM


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize(
    "settings", [FuseSettings(), FuseSettings(direct_io=True), FuseSettings(kernel_cache=False)]
)
async def test_bytes_at_odd_offsets(tmp_path: Path, settings: FuseSettings, immediate: bool) -> None:
    """What is written anywhere is read back, also after the file was closed and opened again."""
    device = MemoryDevice(SIZE, BLOCK, immediate=immediate)
    async with mounted(device, tmp_path, settings):
        async with opened(tmp_path / "file") as file:
            assert await thread(os.pwrite, file, b"begin", 0) == 5
            assert await thread(os.pwrite, file, b"m" * 300_001, 99_999) == 300_001
            assert await thread(os.pwrite, file, b"end", SIZE - 3) == 3
            assert await thread(os.pread, file, 7, 99_997) == b"\0\0mmmmm"
            assert await thread(os.pread, file, 4096, SIZE - 3) == b"end"
            assert await thread(os.pread, file, 4096, SIZE) == b""
        async with opened(tmp_path / "file", os.O_RDONLY) as file:
            assert await thread(os.pread, file, 5, 0) == b"begin"
    assert device.data == b"begin".ljust(99_999, b"\0") + b"m" * 300_001 + bytes(SIZE - 400_003) + b"end"


async def test_beyond_the_end_there_is_no_space(tmp_path: Path) -> None:
    """What fits is written, then comes ENOSPC, as on a block device: dd fills the disk to its last byte."""
    device = MemoryDevice(SIZE + 4096, 4096)
    async with mounted(device, tmp_path):
        for flags in ([], ["oflag=direct"]):
            with pytest.raises(subprocess.CalledProcessError) as caught:
                await run("dd", "if=/dev/urandom", f"of={tmp_path / 'file'}", "bs=1M", "conv=notrunc", *flags)
            assert "No space left" in caught.value.stderr
            assert device.allocated_bytes == SIZE + 4096
            await device.trim(0, SIZE + 4096)
        assert (await thread(os.stat, tmp_path / "file")).st_size == SIZE + 4096


async def test_direct_io(tmp_path: Path) -> None:
    """O_DIRECT writes and reads past the page cache, and buffered readers see what it wrote."""
    device = MemoryDevice(SIZE, BLOCK)
    with mmap.mmap(-1, 1 << 20) as aligned:
        aligned[:] = random.Random(1).randbytes(1 << 20)
        async with (
            mounted(device, tmp_path),
            opened(tmp_path / "file") as buffered,
            opened(tmp_path / "file", os.O_RDWR | os.O_DIRECT) as direct,
        ):
            assert await thread(os.pread, buffered, 4, 1 << 20) == bytes(4)
            assert await thread(os.pwritev, direct, [aligned], 1 << 20) == 1 << 20
            assert await thread(os.pread, buffered, 1 << 20, 1 << 20) == aligned[:]
            await thread(os.pwrite, buffered, b"buffered", 1 << 20)
            assert await thread(os.preadv, direct, [aligned], 1 << 20) == 1 << 20
            assert aligned[:8] == b"buffered"


async def test_requests_are_large(tmp_path: Path) -> None:
    """A direct megabyte is one request, not 256."""
    device = MemoryDevice(SIZE, BLOCK)
    async with mounted(device, tmp_path) as session:
        await run(
            "dd",
            "if=/dev/zero",
            f"of={tmp_path / 'file'}",
            "bs=1M",
            "count=4",
            "oflag=direct",
            "conv=notrunc",
        )
        assert session.statistics()["immediate_writes"] == 4


async def test_fsync_and_close_flush(tmp_path: Path) -> None:
    """fsync and fdatasync always flush; a close does when something was written."""
    device = MemoryDevice(SIZE, BLOCK)
    async with mounted(device, tmp_path):
        async with opened(tmp_path / "file") as file:
            await thread(os.fsync, file)
            await thread(os.fdatasync, file)
            assert device.calls["flush"] == 2
            await thread(os.write, file, b"x")
        assert device.calls["flush"] == 3
        for flags in (os.O_RDONLY, os.O_RDWR):
            async with opened(tmp_path / "file", flags):
                pass
        assert device.calls["flush"] == 3


async def test_holes_are_punched_and_found(tmp_path: Path) -> None:
    """fallocate -p trims and -z zeroes, both visible to stat and lseek and gone from the page cache."""
    device = MemoryDevice(SIZE, BLOCK)
    async with mounted(device, tmp_path):
        path = tmp_path / "file"
        async with opened(path) as file:
            await thread(os.pwrite, file, b"x" * (8 * BLOCK), 0)
            await run("fallocate", "-p", "-o", str(BLOCK), "-l", str(BLOCK), path)
            await run("fallocate", "-z", "-o", str(3 * BLOCK), "-l", str(BLOCK + 1), path)
            assert (device.calls["trim"], device.calls["zero"]) == (1, 1)
            assert await thread(os.pread, file, 8 * BLOCK, 0) == (
                b"x" * BLOCK + bytes(BLOCK) + b"x" * BLOCK + bytes(BLOCK + 1) + b"x" * (4 * BLOCK - 1)
            )
            assert (await thread(os.stat, path)).st_blocks == 6 * BLOCK // 512
            for offset, whence, found in (
                (0, os.SEEK_HOLE, BLOCK),
                (BLOCK, os.SEEK_DATA, 2 * BLOCK),
                (2 * BLOCK, os.SEEK_HOLE, 3 * BLOCK),
                (4 * BLOCK, os.SEEK_HOLE, 8 * BLOCK),
            ):
                assert await thread(os.lseek, file, offset, whence) == found
            assert await refused(os.lseek, file, 8 * BLOCK, os.SEEK_DATA) == errno.ENXIO
            await thread(os.posix_fallocate, file, 0, SIZE)
            assert await refused(os.posix_fallocate, file, 0, SIZE + 1) == errno.ENOSPC
            with pytest.raises(subprocess.CalledProcessError):
                await run("fallocate", "-c", "-o", "0", "-l", str(BLOCK), path)


async def test_files_are_copied_in_and_out(tmp_path: Path) -> None:
    """cp opens with O_TRUNC, which a disk ignores; a copy out leaves holes where nothing is."""
    device = MemoryDevice(SIZE, BLOCK)
    image, copy, path = tmp_path / "image", tmp_path / "copy", tmp_path / "mnt"
    path.mkdir()
    image.write_bytes(random.Random(2).randbytes(3 * BLOCK + 5))
    async with mounted(device, path):
        await run("cp", image, path / "file")
        assert await refused(os.truncate, path / "file", 4096) == errno.EINVAL
        await run("cp", "--sparse=auto", path / "file", copy)
    assert device.data == image.read_bytes().ljust(SIZE, b"\0")
    assert copy.read_bytes() == device.data
    assert copy.stat().st_blocks * 512 < SIZE // 2


MAPPING = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(file, 0) as mapping:
    assert mapping[5:10] == b"there"
    mapping[100:104] = b"here"
    mapping[-4:] = b"last"
    mapping.flush()
    assert os.pread(file, 4, 100) == b"here"
    os.pwrite(file, b"again", 200)
    assert mapping[200:205] == b"again"
    mapping[300:305] = b"close"
os.close(file)
"""


@pytest.mark.parametrize("direct_io", [False, True])
async def test_mappings(tmp_path: Path, direct_io: bool) -> None:
    """Mapped pages and read and written bytes are the same bytes; closing the file makes them durable."""
    device = MemoryDevice(SIZE, BLOCK)
    device.write_nowait(5, b"there")
    async with mounted(device, tmp_path, FuseSettings(direct_io=direct_io)):
        # A process of its own, for a page fault here would stop the loop that must answer it.
        await run(sys.executable, "-c", MAPPING, tmp_path / "file")
        assert device.calls["flush"] >= 2
    assert device.data[100:104] == b"here"
    assert device.data[200:205] == b"again"
    assert device.data[300:305] == b"close"
    assert device.data[-4:] == b"last"


async def test_read_only_stands_against_root(tmp_path: Path) -> None:
    """Nothing changes a read-only disk, even when root makes the mount writable."""
    device = MemoryDevice(SIZE, BLOCK, read_only=True)
    path = tmp_path / "file"
    async with mounted(device, tmp_path):
        assert (await thread(os.stat, path)).st_mode & 0o777 == 0o400
        for remount in (False, True):
            if remount:
                await run("mount", "-i", "-o", "remount,rw", tmp_path)
            for flags in (os.O_RDWR, os.O_WRONLY, os.O_TRUNC | os.O_WRONLY):
                assert await refused(os.open, path, flags) == errno.EROFS
            assert await refused(os.truncate, path, 0) == errno.EROFS
            assert await refused(os.chmod, path, 0o600) == errno.EROFS
            assert await refused(os.utime, path) == errno.EROFS
            assert await refused(os.mkdir, tmp_path / "x") == errno.EROFS
            with pytest.raises(subprocess.CalledProcessError):
                await run("fallocate", "-p", "-o", "0", "-l", str(BLOCK), path)
        async with opened(path, os.O_RDONLY) as file:
            assert await thread(os.pread, file, 4, 0) == bytes(4)
    assert not {"write", "zero", "trim"} & device.calls.keys()


async def test_random_reads_and_writes_at_once(tmp_path: Path) -> None:
    """Eight threads read and write, buffered and direct, punch and flush, as if each had a byte array."""
    device = MemoryDevice(SIZE, BLOCK)

    async def wait_somewhat(_operation: str, _offset: int, _length: int) -> None:
        await asyncio.sleep(0)
        device.immediate = not device.immediate

    device.before = wait_somewhat
    share = SIZE // 8
    expected = bytearray(SIZE)

    def work(part: int) -> None:
        prng = random.Random(part)
        direct = part % 2 == 1
        unit = 4096 if direct else 1
        file = os.open(tmp_path / "file", os.O_RDWR | (os.O_DIRECT if direct else 0))
        with mmap.mmap(-1, 1 << 19) as aligned:
            for _ in range(40):
                length = unit * prng.randrange(1, (1 << 19) // unit)
                offset = part * share + unit * prng.randrange((share - length) // unit)
                with memoryview(aligned)[:length] as data:
                    match prng.randrange(5):
                        case 0 | 1:
                            data[:] = prng.randbytes(length)
                            assert os.pwritev(file, [data], offset) == length
                            expected[offset : offset + length] = data
                        case 2 | 3:
                            assert os.preadv(file, [data], offset) == length
                            assert data == memoryview(expected)[offset : offset + length]
                        case _:
                            os.fsync(file)
        os.close(file)

    async with mounted(device, tmp_path):
        await asyncio.gather(*(thread(work, part) for part in range(8)))
    assert device.data == expected


async def test_open_files_keep_it_mounted(tmp_path: Path) -> None:
    """unmount is refused while a file is open; lazily it goes out of sight, and ends with the last close."""
    device = MemoryDevice(SIZE, BLOCK)
    async with mounted(device, tmp_path) as session, opened(tmp_path / "file") as file:
        with pytest.raises(Busy, match=str(tmp_path)):
            await session.unmount()
        await session.unmount(lazy=True)
        assert await thread(os.listdir, tmp_path) == []
        assert await thread(os.pwrite, file, b"still", 0) == 5
    assert device.data[:5] == b"still"


def hanging_read(path: Path) -> tuple[threading.Thread, list[int | None]]:
    """A thread that reads where reads never return, and where it leaves the errno when one does."""
    outcome: list[int | None] = []

    def read() -> None:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                file.read(4096)
        except OSError as problem:
            outcome.append(problem.errno)

    reader = threading.Thread(target=read)
    reader.start()
    return reader, outcome


@pytest.mark.parametrize("way", ["abort", "force"])
async def test_an_abrupt_end_is_clean(tmp_path: Path, way: str) -> None:
    """When the connection is aborted, readers that hang get an error, and serve returns though the device
    never does."""
    device = MemoryDevice(SIZE, BLOCK, immediate=False, before=(hang := Hang()))
    session = FuseSession(device, tmp_path, FuseSettings(), statistics=figures)
    session.mount()
    serving = asyncio.create_task(session.serve())
    reader, outcome = hanging_read(tmp_path / "file")
    await hang.reached.wait()
    if way == "abort":
        mount = find_mount(str(tmp_path))
        assert mount is not None
        number = mount.device_number.partition(":")[2]
        control = tmp_path.parent / f"{tmp_path.name}-control"
        control.mkdir()
        await run("mount", "-t", "fusectl", "none", control)
        try:
            await thread((control / number / "abort").write_bytes, b"1")
        finally:
            await run("umount", control)
            control.rmdir()
    else:
        # The abort comes first; whether the unmount then still finds the file open is a race.
        with suppress(subprocess.CalledProcessError):
            await run("umount", "-f", tmp_path)
    await serving
    await thread(reader.join)
    assert outcome[0] in (errno.ECONNABORTED, errno.ENOTCONN)
    await session.unmount()
    assert find_mount(str(tmp_path)) is None


async def test_giving_up_frees_those_that_hang(tmp_path: Path) -> None:
    """Lazily unmounted with a read that never returns, serve goes on; cancelled, it lets the reader go."""
    device = MemoryDevice(SIZE, BLOCK, immediate=False, before=(hang := Hang()))
    session = FuseSession(device, tmp_path, FuseSettings(), statistics=figures)
    session.mount()
    serving = asyncio.create_task(session.serve())
    reader, outcome = hanging_read(tmp_path / "file")
    await hang.reached.wait()
    await session.unmount(lazy=True)
    assert session.statistics()["waiting"] == 1
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await thread(reader.join)
    assert outcome[0] in (errno.ECONNABORTED, errno.ENOTCONN)


async def test_a_mount_that_was_never_served_is_unmounted(tmp_path: Path) -> None:
    """Whoever changes their mind after mounting leaves nothing behind."""
    session = FuseSession(MemoryDevice(SIZE), tmp_path, FuseSettings(), statistics=figures)
    with pytest.raises(Closed):
        await session.serve()
    session.mount()
    await session.unmount()
    assert find_mount(str(tmp_path)) is None
    with pytest.raises(Closed):
        await session.serve()


async def test_unmounted_from_outside(tmp_path: Path) -> None:
    """umount by anybody ends serve; unmounting then is no error, and takes nobody else's mount away."""
    async with mounted(MemoryDevice(SIZE), tmp_path) as session:
        await run("umount", tmp_path)
        async with mounted(MemoryDevice(SIZE), tmp_path):
            await session.unmount()
            assert await thread(os.listdir, tmp_path) == ["file", "stats"]


async def test_mount_points_that_cannot_be(tmp_path: Path) -> None:
    """One clear error each: missing, not a directory, in use, and in use by a mount whose process has
    gone."""
    file = tmp_path / "plain"
    file.write_bytes(b"")
    link = tmp_path / "link"
    link.symlink_to("mnt")
    directory = tmp_path / "mnt"
    directory.mkdir()

    def session(path: Path) -> FuseSession:
        return FuseSession(MemoryDevice(SIZE), path, FuseSettings(), statistics=figures)

    with pytest.raises(NotFound, match="missing"):
        session(tmp_path / "missing").mount()
    for path in (file, file / "below"):
        with pytest.raises(Invalid, match="plain"):
            session(path).mount()
    async with mounted(MemoryDevice(SIZE), link) as first:
        for path in (directory, link):
            with pytest.raises(Busy, match="already"):
                session(path).mount()
        with pytest.raises(Closed):
            first.mount()
    dead = session(directory)
    dead.mount()
    serving = asyncio.create_task(dead.serve())
    await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    for path in (directory, link):
        with pytest.raises(Busy):
            session(path).mount()
    await dead.unmount()
    with pytest.raises(Invalid, match="source"):
        FuseSession(MemoryDevice(SIZE), directory, FuseSettings(source="a\nb"), statistics=figures).mount()
    assert find_mount(str(directory)) is None


@pytest.mark.parametrize("name", ["with blank", "ünïcödé", "tab\tand\nline", "back\\slash", "comma,comma"])
@pytest.mark.parametrize("helper", [False, True])
async def test_odd_names_of_mount_points(tmp_path: Path, name: str, helper: bool) -> None:
    """They are mounted, recognised in the mount table, and unmounted."""
    path = tmp_path / name
    path.mkdir()
    async with mounted(MemoryDevice(SIZE), path, helper=helper):
        assert find_mount(str(path)) is not None
        assert await thread(os.listdir, path) == ["file", "stats"]
    assert find_mount(str(path)) is None


async def test_mounting_by_fusermount3(tmp_path: Path) -> None:
    """The helper's mounts are as our own: type, source, read-only, busy and lazy unmounts."""
    settings = FuseSettings(source="s3://bucket/a,b\\c d", allow_other=True)
    async with mounted(MemoryDevice(SIZE, read_only=True), tmp_path, settings, helper=True) as session:
        mount = find_mount(str(tmp_path))
        assert mount is not None
        assert (mount.filesystem, mount.source) == ("fuse.bucketry", settings.source)
        assert " ro," in await run("grep", str(tmp_path), "/proc/mounts")
        async with opened(tmp_path / "file", os.O_RDONLY):
            with pytest.raises(Busy):
                await session.unmount()
            await session.unmount(lazy=True)


async def test_allow_other_and_modes_are_the_kernels_to_check(tmp_path: Path) -> None:
    """Others see the file only with allow_other, and read it only as its mode says."""

    async def as_nobody(*argv: str) -> str:
        # From within, for the directories above are closed to others.
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        return await run(*nobody, *argv, cwd=tmp_path)

    path = tmp_path / "mnt"
    path.mkdir()
    await run("chmod", "755", tmp_path)
    async with mounted(MemoryDevice(SIZE), path):
        with pytest.raises(subprocess.CalledProcessError):
            await as_nobody("cat", "mnt/stats")
    async with mounted(MemoryDevice(SIZE), path, FuseSettings(allow_other=True)):
        assert "answer" in await as_nobody("cat", "mnt/stats")
        with pytest.raises(subprocess.CalledProcessError):
            await as_nobody("head", "-c1", "mnt/file")
    async with mounted(MemoryDevice(SIZE), path, FuseSettings(allow_other=True, file_mode=0o604)):
        assert await as_nobody("head", "-c1", "mnt/file") == "\0"


UVLOOP = """
import asyncio, sys, uvloop
from pathlib import Path
from bucketry.serve.fuse import FuseSession
from bucketry.settings import FuseSettings
from bucketry.testing.memory_device import MemoryDevice

async def main():
    session = FuseSession(MemoryDevice(1 << 20), Path(sys.argv[1]), FuseSettings(), statistics=dict)
    session.mount()
    print("mounted", flush=True)
    await session.serve()

uvloop.run(main())
"""


# What is imported late is imported first: Python's library may be where nobody may read.
UNPRIVILEGED = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from bucketry.serve.fuse import FuseSession
from bucketry.settings import FuseSettings
from bucketry.testing.memory_device import MemoryDevice

async def main():
    session = FuseSession(MemoryDevice(1 << 20), Path(sys.argv[1]), FuseSettings(), statistics=dict)
    session.mount()
    serving = asyncio.create_task(session.serve())
    path = Path(sys.argv[1], "file")
    assert await asyncio.to_thread(path.read_bytes) == bytes(1 << 20)
    assert (await asyncio.to_thread(path.stat)).st_uid == 65534
    await session.unmount()
    await serving

os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
asyncio.run(main())
"""


@pytest.fixture
def directory_of_nobody() -> Iterator[Path]:
    """A directory that belongs to nobody, below ones that are open to everybody, as pytest's are not."""
    path = Path(tempfile.mkdtemp(prefix="bucketry-test-", dir="/var/tmp"))
    os.chown(path, 65534, 65534)
    yield path
    path.rmdir()


async def run_unprivileged(mount_point: Path, directory: Path) -> None:
    """Serve a disk at ``mount_point`` as nobody, where /dev/fuse is open to everybody, as it is on most
    machines: by a node of our own over it, in a mount namespace of its own."""
    await run("mknod", "--mode=666", directory / "fuse", "c", "10", "229")
    shell = 'mount --bind "$1" /dev/fuse && exec "$2" -c "$3" "$4"'
    await run(
        "unshare",
        "--mount",
        "sh",
        "-c",
        shell,
        "sh",
        directory / "fuse",
        sys.executable,
        UNPRIVILEGED,
        mount_point,
    )


async def test_anybody_can_mount(directory_of_nobody: Path, tmp_path: Path) -> None:
    """Without any rights of one's own, fusermount3 lends them."""
    await run_unprivileged(directory_of_nobody, tmp_path)


async def test_where_one_may_not_write_one_may_not_mount(tmp_path: Path) -> None:
    """fusermount3's refusal is told as it is: NotPermitted, with its words."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        await run_unprivileged(Path("/var"), tmp_path)
    assert re.search(
        "errors.NotPermitted: /var: .*fusermount3: user has no write access", caught.value.stderr
    )


async def test_uvloop_sees_the_end_too(tmp_path: Path) -> None:
    """On the faster loop, a forced unmount ends the process cleanly as well."""
    pytest.importorskip("uvloop")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UVLOOP, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"mounted\n"
    await run("dd", "if=/dev/zero", f"of={tmp_path / 'file'}", "bs=64k", "count=4", "conv=notrunc")
    await run("umount", "-f", tmp_path)
    assert await process.wait() == 0


async def test_an_ioctl_is_none_of_ours(tmp_path: Path) -> None:
    """Asked for what only a block device knows, the file says ENOTTY."""
    async with mounted(MemoryDevice(SIZE), tmp_path), opened(tmp_path / "file") as file:
        assert await refused(fcntl.ioctl, file, 0x80081272, bytes(8)) == errno.ENOTTY
