"""A server that goes away, objects that are damaged, a process that is killed: nothing is lost that was
promised, and nothing is made up."""

import errno
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program, run_tool, wait_until
from servers.proxy import Proxy
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

BLOCK = 128 << 10


def _compressible(blocks_count: int) -> bytes:
    """Blocks that differ and that any compression shrinks."""
    return b"".join(
        f"block {block} line {line:09d}\n".encode().ljust(32, b".")
        for block in range(blocks_count)
        for line in range(BLOCK // 32)
    )


#: Writes 8 MiB, and the rest when told to; reads it back; keeps the file open until told to close it. A
#: process of its own: each fork closes copies of what is open, and closing waits for a flush.
_TWO_PARTS = """
import os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
data = random.Random(11).randbytes(24 << 20)
os.pwrite(descriptor, data[:8 << 20], 0)
print("first", flush=True)
sys.stdin.readline()
os.pwrite(descriptor, data[8 << 20:], 8 << 20)
assert os.pread(descriptor, 24 << 20, 0) == data
print("second", flush=True)
sys.stdin.readline()
os.fsync(descriptor)
"""


def test_a_server_that_goes_away(program: Program, seaweed: Seaweed, place: Place, tmp_path: Path) -> None:
    """The server is killed in the middle of writing: writes go on, umount says how much is missing, exits
    with 6 and keeps it; with the server back umount succeeds, and all of it is there after a cold start."""
    disk = tmp_path / "disk"
    disk.mkdir()
    program.create(place, "32M")
    program.run("attach", place.url, disk, *place.options)
    with subprocess.Popen(
        [sys.executable, "-c", _TWO_PARTS, disk / "file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "first\n"
        seaweed.stop_process()
        try:
            writer.stdin.write("go on\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "second\n"
            for options in ([], ["--timeout", "1"]):
                done = program.run("umount", disk, *options, code=6)
                assert re.search(r"\d MiB not yet in the bucket", done.stderr)
            assert (disk / "file").stat().st_size == 32 << 20, "it is still attached"
            assert program.json("stats", disk)["cache"]["dirty_bytes"] >= 16 << 20
        finally:
            seaweed.start_process()
            writer.stdin.close()
        assert writer.wait() == 0, "with the server back, fsync succeeds"
    program.run("umount", disk)
    with program.attached(place, disk) as file:
        assert file.read_bytes() == random.Random(11).randbytes(24 << 20) + bytes(8 << 20)


def test_a_filesystem_while_the_server_is_away(
    program: Program, seaweed: Seaweed, objects: S3Objects, seaweed_proxy: Proxy, tmp_path: Path
) -> None:
    """The same below a mounted filesystem: umount is refused with 6 while it is still mounted, and the files
    can be read; later it succeeds and the filesystem is clean."""
    place = objects.place(seaweed.access_file(tmp_path / "access"), endpoint=seaweed_proxy.endpoint)
    directory = tmp_path / "disk"
    directory.mkdir()
    data = random.Random(12).randbytes(12 << 20)
    program.create(place, "256M")
    program.run("mount", place.url, directory, "--mkfs", "ext4", *place.options)
    (directory / "before").write_bytes(data)
    run_tool("sync", "-f", directory)
    seaweed_proxy.refuse()
    (directory / "while away").write_bytes(data[::-1])
    done = program.run("umount", directory, code=6)
    assert "not yet in the bucket" in done.stderr
    assert (directory / "while away").read_bytes() == data[::-1]
    seaweed_proxy.accept()
    program.run("umount", directory)
    with program.attached(place, directory) as file:
        run_tool("e2fsck", "-f", "-n", file)
    with program.mounted(place, directory):
        assert (directory / "before").read_bytes() == data
        assert (directory / "while away").read_bytes() == data[::-1]


def _flip_a_bit(body: bytes, attributes: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    changed = bytearray(body)
    changed[len(body) // 2] ^= 0x10
    return bytes(changed), dict(attributes)


def _without_checksum(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """As s3backer writes: then it is up to the other checks."""
    return {name: value for name, value in attributes.items() if name != "bucketry-crc32c"}


Damage = Callable[[bytes, Mapping[str, Any]], tuple[bytes, dict[str, Any]]]
DAMAGES: Mapping[str, Damage] = {
    "truncated": lambda body, attributes: (body[: len(body) // 2], dict(attributes)),
    "truncated without checksum": lambda body, attributes: (
        body[: len(body) // 2],
        _without_checksum(attributes),
    ),
    "empty": lambda _, attributes: (b"", _without_checksum(attributes)),
    "longer": lambda body, attributes: (body + b"x", _without_checksum(attributes)),
    "flipped bit": _flip_a_bit,
    "unknown encoding": lambda body, attributes: (body, {**attributes, "Content-Encoding": "br"}),
    "not encoded": lambda body, attributes: (
        b"plain" * 100,
        {name: value for name, value in _without_checksum(attributes).items() if name != "Content-Encoding"},
    ),
}
VOLUMES: Mapping[str, Sequence[str]] = {
    "plain": (),
    "deflate": ("--compress", "deflate"),
    "zstd": ("--compress", "zstd"),
    "encrypted": ("--encrypt",),
    "zstd encrypted": ("--compress", "zstd", "--encrypt"),
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_damaged_objects(
    kind: str, program: Program, place: Place, objects: S3Objects, tmp_path: Path
) -> None:
    """An object that is cut, lengthened, has a flipped bit or an encoding that we do not know: reading it is
    EIO and the log names it; its neighbours can be read; a flush of a part written into it is EIO; writing
    the whole block repairs it."""
    disk = tmp_path / "disk"
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    if "encrypted" in kind:
        place = Place(place.url, [*place.options, "--password-file", str(password)])
    program.create(place, "4M", *VOLUMES[kind])
    # Every second block is damaged, block 0 among them.
    damaged = {2 * number: name for number, name in enumerate(DAMAGES)}
    data = _compressible(2 * len(DAMAGES))
    with program.attached(place, disk) as file:
        file.write_bytes(data)
    for block, name in damaged.items():
        objects.put(f"{block:08x}", *DAMAGES[name](*objects.get(f"{block:08x}")))

    # The kernel must not answer for us, and its read-ahead not touch what was not asked for.
    with program.attached(place, disk, "--direct-io") as file:
        descriptor = os.open(file, os.O_RDWR)
        for block, name in damaged.items():
            start = block * BLOCK
            for offset in (start, start + 5000, start + BLOCK - 1):
                assert _error_of(os.pread, descriptor, 1, offset) == errno.EIO, name
            assert _error_of(os.pread, descriptor, 2 * BLOCK, start) == errno.EIO, name
            # A part of it can be written, but not uploaded: the rest would be made up.
            assert os.pwrite(descriptor, b"x", start + 1) == 1
            assert _error_of(os.fsync, descriptor) == errno.EIO, name
            assert _error_of(os.pread, descriptor, BLOCK, start) == errno.EIO, name
            after = start + BLOCK
            assert os.pread(descriptor, BLOCK, after) == data[after : after + BLOCK], name
        log = program.log(disk)
        for block, name in damaged.items():
            assert re.search(rf"\b{block:08x}\b", log), f"the log does not name the object that is {name}"
        assert "s3cret" not in log
        for block in damaged:
            os.pwrite(descriptor, data[block * BLOCK : (block + 1) * BLOCK], block * BLOCK)
        os.fsync(descriptor)
        assert os.pread(descriptor, len(data), 0) == data
        os.close(descriptor)
    with program.attached(place, disk) as file:
        assert file.read_bytes() == data + bytes((4 << 20) - len(data))


def _error_of(call: Callable[..., object], *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno


#: Writes blocks in turn, each all of one number, and tells the number after every fsync that returned.
_WRITER = """
import os, sys
path, blocks, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
descriptor = os.open(path, os.O_RDWR)
for number in range(1, 1 << 30):
    for part in range(4):
        at = (4 * number + part) % blocks
        os.pwrite(descriptor, number.to_bytes(4, "big") * (size // 4), at * size)
    os.fsync(descriptor)
    os.write(1, number.to_bytes(4, "big"))
"""


def test_kill_under_load(program: Program, place: Place, tmp_path: Path) -> None:
    """``kill -9`` of the serving process while somebody writes: umount clears up and says what that means,
    the same machine attaches again at once, every fsync that had returned is there, and each block is one
    that was written, whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    blocks_count = 64
    program.create(place, str(blocks_count * BLOCK))
    program.run("attach", place.url, disk, *place.options)
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, disk / "file", str(blocks_count), str(BLOCK)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    told = bytearray()
    while len(told) < 4 * 40:
        told += os.read(writer.stdout.fileno(), 4096)
        assert writer.poll() is None
    program.kill(disk)
    rest, errors = writer.communicate()
    assert b"Errno" in errors, "the writer was told"
    told += rest
    last = int.from_bytes(told[-4:], "big")

    assert "had gone" in program.run("umount", disk, code=1).stderr
    with program.attached(place, disk) as file:
        found = file.read_bytes()
    for at in range(blocks_count):
        block = found[at * BLOCK : (at + 1) * BLOCK]
        assert block == block[:4] * (BLOCK // 4), f"block {at} is a mixture"
        number = int.from_bytes(block[:4], "big")
        # The last flushed number that wrote this block, and at most the one that was under way.
        turn = at // 4
        flushed = max(n for n in range(last + 1) if n % (blocks_count // 4) == turn)
        assert number == flushed or (number == last + 1 and (last + 1) % (blocks_count // 4) == turn)


def test_kill_of_a_mounted_filesystem(program: Program, place: Place, tmp_path: Path) -> None:
    """``kill -9`` below ext4: umount clears up, and after --force its journal brings back every file that had
    been synced."""
    directory = tmp_path / "disk"
    directory.mkdir()
    program.create(place, "256M")
    program.run("mount", place.url, directory, "--mkfs", "ext4", *place.options)
    synced = {}
    for number in range(50):
        path = directory / f"file {number}"
        synced[path.name] = random.Random(number).randbytes(20_000)
        with path.open("wb") as file:
            file.write(synced[path.name])
            file.flush()
            os.fsync(file.fileno())
    (directory / "not synced").write_bytes(b"x" * (4 << 20))
    program.kill(directory)
    program.run("umount", directory, code=1)
    wait_until(lambda: not os.path.ismount(directory), "the dead mount goes")
    with program.mounted(place, directory, "--force"):
        assert {name: (directory / name).read_bytes() for name in synced} == synced
    with program.attached(place, directory) as attached:
        run_tool("e2fsck", "-f", "-n", attached)


def test_umount_of_a_filesystem_that_has_failed(program: Program, place: Place, tmp_path: Path) -> None:
    """A filesystem that gave up writing can still be unmounted: with code 1 and a line that says so, and
    the disk is free for the next mount."""
    directory = tmp_path / "disk"
    directory.mkdir()
    program.create(place, "64M")
    program.run("mount", place.url, directory, "--mkfs", "ext4", *place.options)
    (directory / "before").write_bytes(b"before")
    run_tool("sync", "-f", directory)
    # What ext4 does after an I/O error, without one.
    run_tool("mount", "-o", "remount,abort", directory)
    done = program.run("umount", directory, code=1)
    assert "filesystem" in done.stderr
    assert done.stderr.count("\n") == 1
    with program.mounted(place, directory):
        assert (directory / "before").read_bytes() == b"before"
