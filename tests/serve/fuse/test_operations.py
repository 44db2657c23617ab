"""What each operation does, over a socket pair."""

import errno
import os
import stat
import struct

import pytest

from bucketry.core.fuse import protocol
from bucketry.core.fuse.protocol import Opcode, OpenFlag, SetattrFlag
from bucketry.errors import Invalid
from bucketry.serve.fuse.tree import FILE, ROOT, STATS
from bucketry.settings import FuseSettings
from bucketry.testing.memory_device import MemoryDevice
from fuse_kernel import STATS_TEXT, Kernel, conversation, release, setattr_body, transfer

SIZE = 64 << 20
BLOCK = 131072


async def attributes(kernel: Kernel, node: int) -> tuple[int, ...]:
    reply = await kernel.ask(Opcode.GETATTR, struct.pack("=IIQ", 0, 0, 0), node)
    assert reply.errno == 0
    return protocol.ATTR.unpack(reply.payload[16:])


async def test_the_directory_has_its_two_files() -> None:
    """They are found by name, listed, and nothing else is there."""
    async with conversation(
        MemoryDevice(SIZE), FuseSettings(file_name="disk", stats_name="figures")
    ) as kernel:
        found = [(await kernel.lookup(name)).payload for name in (b"disk", b"figures", b"file")]
        assert [struct.unpack_from("=Q", payload)[0] for payload in found] == [FILE, STATS, 0]
        listing = (await kernel.ask(Opcode.READDIR, transfer(0, 0, 4096), ROOT)).payload
        assert [name in listing for name in (b"disk", b"figures")] == [True, True]


async def test_the_statistics_can_be_hidden() -> None:
    """Without a name there is no file."""
    async with conversation(MemoryDevice(SIZE), FuseSettings(stats_name=None)) as kernel:
        assert struct.unpack_from("=Q", (await kernel.lookup(b"stats")).payload)[0] == 0
        assert (await kernel.ask(Opcode.GETATTR, bytes(16), STATS)).errno == errno.ENOENT


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "ä" * 128, "stats"])
async def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    """Nor can both files have the same."""
    with pytest.raises(Invalid):
        async with conversation(MemoryDevice(SIZE), FuseSettings(file_name=name)):
            pass


async def test_attributes_show_size_and_what_is_allocated() -> None:
    """st_size, st_blocks in 512 bytes, st_blksize, mode and owner."""
    device = MemoryDevice(SIZE, BLOCK)
    async with conversation(device, FuseSettings(uid=7, gid=8)) as kernel:
        device.write_nowait(0, b"x")
        node, size, blocks, *_, mode, links, uid, gid, _, block_size, _ = await attributes(kernel, FILE)
        assert (node, size, blocks, links, uid, gid, block_size) == (2, SIZE, BLOCK // 512, 1, 7, 8, BLOCK)
        assert mode == stat.S_IFREG | 0o600
        assert (await attributes(kernel, ROOT))[9] == stat.S_IFDIR | 0o755
        assert (await attributes(kernel, STATS))[9] == stat.S_IFREG | 0o444


@pytest.mark.parametrize(("read_only", "wanted", "mode"), [(True, None, 0o400), (False, 0o4640, 0o640)])
async def test_the_mode_is_as_set_or_as_fits(read_only: bool, wanted: int | None, mode: int) -> None:
    """0400 when read-only, permissions without set-uid when given."""
    device = MemoryDevice(SIZE, read_only=read_only)
    async with conversation(device, FuseSettings(file_mode=wanted)) as kernel:
        assert (await attributes(kernel, FILE))[9] == stat.S_IFREG | mode


async def test_a_file_system_is_as_full_as_the_disk() -> None:
    """Free is what is not allocated."""
    device = MemoryDevice(SIZE, BLOCK)
    device.write_nowait(0, bytes(3 * BLOCK))
    async with conversation(device) as kernel:
        reply = await kernel.ask(Opcode.STATFS, node=ROOT)
        assert protocol.STATFS_OUT.unpack(reply.payload)[:8] == (512, 509, 509, 3, 0, BLOCK, 255, BLOCK)


async def test_the_statistics_stay_as_opened() -> None:
    """What is read through one handle is one text, whose size stat shows while it is open."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        assert (await kernel.ask(Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0), STATS)).errno == errno.EACCES
        handle = await kernel.open(os.O_RDONLY, STATS)
        assert (await attributes(kernel, STATS))[1] == len(STATS_TEXT)
        assert (await kernel.read(handle, 0, 4096)).payload == STATS_TEXT
        assert (await kernel.read(handle, 4, 3)).payload == STATS_TEXT[4:7]
        assert (await kernel.read(handle, 2**63, 3)).payload == b""
        assert (await kernel.flush(handle)).errno == 0
        assert (await kernel.write(handle, 0, b"x")).errno == errno.EBADF
        assert (await kernel.ask(Opcode.RELEASE, release(handle), STATS)).errno == 0
        assert (await kernel.read(handle, 0, 4096)).errno == errno.EBADF


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        (FuseSettings(), OpenFlag.KEEP_CACHE),
        (FuseSettings(kernel_cache=False), OpenFlag(0)),
        (FuseSettings(direct_io=True), OpenFlag.DIRECT_IO | OpenFlag.PARALLEL_DIRECT_WRITES),
    ],
)
async def test_caching_is_as_set(settings: FuseSettings, flags: OpenFlag) -> None:
    """The kernel keeps pages, drops them at each open, or has none."""
    async with conversation(MemoryDevice(SIZE), settings) as kernel:
        reply = await kernel.ask(Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0))
        assert protocol.OPEN_OUT.unpack(reply.payload)[1] == flags


async def test_read_only_refuses_every_change() -> None:
    """EROFS for everything that would change anything, even for those who may do anything."""
    device = MemoryDevice(SIZE, read_only=True)
    async with conversation(device) as kernel:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            assert (await kernel.ask(Opcode.OPEN, struct.pack("=II", flags, 0))).errno == errno.EROFS
        handle = await kernel.open(os.O_RDONLY)
        replies = [await kernel.write(handle, 0, b"x")]
        replies += [await kernel.fallocate(handle, 0, BLOCK, mode) for mode in (0, 1, 3, 16, 17)]
        replies += [
            await kernel.ask(Opcode.SETATTR, setattr_body(flag, size=SIZE, mode=0o400))
            for flag in (SetattrFlag.SIZE, SetattrFlag.MODE, SetattrFlag.MTIME_NOW)
        ]
        replies += [
            await kernel.ask(opcode, bytes(64), ROOT)
            for opcode in (
                Opcode.CREATE, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME,
                Opcode.RENAME2, Opcode.LINK, Opcode.SYMLINK, Opcode.TMPFILE, Opcode.SETXATTR,
                Opcode.REMOVEXATTR,
            )
        ]  # fmt: skip
        replies.append(await kernel.ask(Opcode.ACCESS, struct.pack("=II", os.W_OK, 0)))
        assert [reply.errno for reply in replies] == [errno.EROFS] * len(replies)
        assert (await kernel.ask(Opcode.ACCESS, struct.pack("=II", os.R_OK, 0))).errno == 0
        assert not device.calls


async def test_the_directory_cannot_be_changed() -> None:
    """Nothing is made, moved or removed."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        for opcode in (
            Opcode.CREATE,
            Opcode.MKDIR,
            Opcode.UNLINK,
            Opcode.RENAME,
            Opcode.RENAME2,
            Opcode.LINK,
        ):
            assert (await kernel.ask(opcode, bytes(64), ROOT)).errno == errno.EPERM


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (setattr_body(SetattrFlag.SIZE, size=SIZE), 0),
        (setattr_body(SetattrFlag.SIZE, size=0), 0),
        (setattr_body(SetattrFlag.SIZE, size=SIZE - 1), errno.EINVAL),
        (setattr_body(SetattrFlag.SIZE, size=2**64 - 1), errno.EINVAL),
        (setattr_body(SetattrFlag.MODE, mode=0o100600), 0),
        (setattr_body(SetattrFlag.MODE, mode=0o100644), errno.EPERM),
        (setattr_body(SetattrFlag.UID, uid=12345), errno.EPERM),
        (setattr_body(SetattrFlag.MTIME | SetattrFlag.ATIME_NOW, modified=1234), 0),
    ],
)
async def test_attributes_change_as_on_a_block_device(body: bytes, number: int) -> None:
    """Size 0 (O_TRUNC) succeeds without effect, other sizes are refused; owner and mode stay; times may be
    set."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        reply = await kernel.ask(Opcode.SETATTR, body)
        assert reply.errno == number
        _, size, _, _, modified, *_ = await attributes(kernel, FILE)
        assert size == SIZE
        assert (modified == 1234) == (
            body == setattr_body(SetattrFlag.MTIME | SetattrFlag.ATIME_NOW, modified=1234)
        )


async def test_a_write_sets_the_time_of_modification() -> None:
    """mtime goes on when something is written, not before."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        await kernel.ask(Opcode.SETATTR, setattr_body(SetattrFlag.MTIME, modified=1))
        handle = await kernel.open()
        assert (await attributes(kernel, FILE))[4] == 1
        await kernel.write(handle, 0, b"x")
        assert (await attributes(kernel, FILE))[4] > 1


@pytest.mark.parametrize(
    ("mode", "offset", "length", "number", "call"),
    [
        (3, BLOCK, BLOCK, 0, "trim"),
        (16, BLOCK, BLOCK, 0, "zero"),
        (17, 5, 7, 0, "zero"),
        (0, 0, SIZE, 0, None),
        (1, 0, SIZE, 0, None),
        (0, 0, SIZE + 1, errno.ENOSPC, None),
        (3, SIZE, 1, errno.ENOSPC, None),
        (16, SIZE - 1, 2, errno.ENOSPC, None),
        (3, 2**63, 2**63, errno.ENOSPC, None),
        (3, 2**64 - 1, 2**64 - 1, errno.ENOSPC, None),
        (3, 0, 0, errno.EINVAL, None),
        (2, 0, 1, errno.EOPNOTSUPP, None),
        (8, 0, 1, errno.EOPNOTSUPP, None),
        (32, 0, 1, errno.EOPNOTSUPP, None),
        (2**31, 0, 1, errno.EOPNOTSUPP, None),
    ],
)
async def test_fallocate(mode: int, offset: int, length: int, number: int, call: str | None) -> None:
    """Holes are trimmed, ranges zeroed, space is always there, and nothing changes the size."""
    device = MemoryDevice(SIZE, BLOCK)
    device.write_nowait(0, b"x" * 4 * BLOCK)
    async with conversation(device) as kernel:
        handle = await kernel.open()
        assert (await kernel.fallocate(handle, offset, length, mode)).errno == number
        assert list(device.calls) == ([] if call is None else [call])
        cleared = length if call else 0
        assert device.data[: 4 * BLOCK].count(0) == cleared


async def test_fallocate_needs_a_handle_that_writes() -> None:
    """A handle opened for reading changes nothing."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        handle = await kernel.open(os.O_RDONLY)
        assert (await kernel.fallocate(handle, 0, 4096, 3)).errno == errno.EBADF
        assert (await kernel.write(handle, 0, b"x")).errno == errno.EBADF


async def test_data_and_holes_are_found() -> None:
    """SEEK_DATA and SEEK_HOLE, near and far, and ENXIO where there is no more."""
    device = MemoryDevice(SIZE, BLOCK)
    device.write_nowait(BLOCK, bytes(2 * BLOCK))
    device.write_nowait(SIZE - 1, b"x")
    data, hole = os.SEEK_DATA, os.SEEK_HOLE
    async with conversation(device) as kernel:
        handle = await kernel.open(os.O_RDONLY)
        for offset, whence, found in (
            (0, data, BLOCK),
            (0, hole, 0),
            (BLOCK + 5, data, BLOCK + 5),
            (BLOCK + 5, hole, 3 * BLOCK),
            (3 * BLOCK, data, SIZE - BLOCK),
            (SIZE - 1, hole, SIZE),
        ):
            reply = await kernel.seek(handle, offset, whence)
            assert (reply.errno, struct.unpack("=Q", reply.payload)[0]) == (0, found)
        device.write_nowait(SIZE - BLOCK, bytes(BLOCK))
        await device.trim(SIZE - BLOCK, BLOCK)
        assert (await kernel.seek(handle, 3 * BLOCK, data)).errno == errno.ENXIO
        for whence in (data, hole):
            assert (await kernel.seek(handle, SIZE, whence)).errno == errno.ENXIO
            assert (await kernel.seek(handle, 2**64 - 1, whence)).errno == errno.ENXIO
        assert (await kernel.seek(handle, 0, os.SEEK_SET)).errno == errno.EINVAL
        assert (await kernel.seek(99, 0, data)).errno == errno.EBADF


async def test_directories_are_directories() -> None:
    """A file cannot be listed, a directory not be opened as a file, and a file has no names in it."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        assert (await kernel.ask(Opcode.OPENDIR, bytes(8), FILE)).errno == errno.ENOTDIR
        assert (await kernel.ask(Opcode.READDIR, transfer(0, 0, 4096), FILE)).errno == errno.ENOTDIR
        assert (await kernel.ask(Opcode.OPEN, bytes(8), ROOT)).errno == errno.EISDIR
        assert (await kernel.ask(Opcode.LOOKUP, b"x\0", FILE)).errno == errno.ENOTDIR
        assert (await kernel.ask(Opcode.LOOKUP, b"x\0", 99)).errno == errno.ENOENT
        assert (await kernel.ask(Opcode.OPENDIR, bytes(8), ROOT)).errno == 0
        for opcode in (Opcode.RELEASEDIR, Opcode.FSYNCDIR, Opcode.DESTROY):
            assert (await kernel.ask(opcode, bytes(24), ROOT)).errno == 0


async def test_syncfs_flushes() -> None:
    """A sync of the whole file system is a flush of the device."""
    device = MemoryDevice(SIZE)
    async with conversation(device) as kernel:
        assert (await kernel.ask(Opcode.SYNCFS, bytes(8), ROOT)).errno == 0
        assert device.calls["flush"] == 1
