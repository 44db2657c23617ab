"""What each FUSE operation does with the disk and the two files.

An operation is a plain function of a request. It returns the bytes of the answer, or a coroutine that will
where the device must be waited for, or raises: Refusal with the errno that POSIX asks for, or one of our
errors.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from bucketry.core.bytes_like import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.core.fuse import protocol, replies, requests
from bucketry.core.fuse.protocol import Opcode, OpenFlag
from bucketry.core.fuse.requests import NOW, Request, Transfer
from bucketry.disk.interface import Device
from bucketry.errors import Corrupt
from bucketry.serve.fuse.tree import FILE, ROOT, STATS, Tree
from bucketry.settings import FuseSettings

#: The directory never changes, so the kernel may remember a day long what is in it and what is not.
ENTRY_VALID_SECONDS = 86400
#: The first look for data or a hole goes so far, each further one twice as far, up to the second figure: near
#: answers are cheap, and an empty terabyte takes some hundred steps.
SEEK_WINDOW_MIN = 16 << 20
SEEK_WINDOW_MAX = 16 << 30

Answer: TypeAlias = BytesLike | Coroutine[Any, Any, BytesLike]


class Refusal(Exception):
    """The operation fails with this errno, as POSIX says it should: no fault of anybody's."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number


@dataclass(slots=True)
class FileHandle:
    """The disk's file, opened once. ``cursor``: which failed writes its flushes have told of. ``unflushed``:
    something was changed through it since it was last flushed."""

    writable: bool
    cursor: ErrorCursor
    unflushed: bool = False


class Operations:
    """Everything that the kernel may ask, and the handles that it holds."""

    def __init__(
        self, device: Device, tree: Tree, settings: FuseSettings, render_stats: Callable[[], bytes]
    ) -> None:
        self._device = device
        self._tree = tree
        self._direct_io = settings.direct_io
        self._kernel_cache = settings.kernel_cache
        self._render_stats = render_stats
        self._next_handle = 1
        self.files: dict[int, FileHandle] = {}
        #: Set while nobody has the disk's file open.
        self.all_closed = asyncio.Event()
        self.all_closed.set()
        self._snapshots: dict[int, bytes] = {}
        #: A common version was found; nothing may change it afterwards.
        self._started = False
        self._operations: dict[int, Callable[[Request], Answer]] = {
            Opcode.INIT: self._init,
            Opcode.DESTROY: lambda _: b"",
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FLUSH: self._flush,
            Opcode.FSYNC: self._fsync,
            Opcode.SYNCFS: lambda _: self._flush_device(),
            Opcode.RELEASE: self._release,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.RELEASEDIR: lambda _: b"",
            Opcode.FSYNCDIR: lambda _: b"",
            Opcode.STATFS: self._statfs,
            Opcode.ACCESS: self._access,
            Opcode.LSEEK: self._seek,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.IOCTL: _refuse(errno.ENOTTY),
        }
        # ENOSYS, said once to GETXATTR, LISTXATTR and COPY_FILE_RANGE, makes the kernel not ask again; the
        # latter it then does by reading and writing.
        for opcode in (Opcode.SETXATTR, Opcode.REMOVEXATTR):
            self._operations[opcode] = _refuse(errno.EROFS if device.read_only else errno.ENOSYS)
        for opcode in (
            Opcode.CREATE, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK, Opcode.TMPFILE,
            Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2,
        ):  # fmt: skip
            self._operations[opcode] = _refuse(errno.EROFS if device.read_only else errno.EPERM)

    def answer(self, request: Request) -> Answer:
        """Do what is asked. ``request.body`` is used before this returns, never afterwards."""
        operation = self._operations.get(request.opcode)
        if operation is None:
            raise Refusal(errno.ENOSYS)
        return operation(request)

    def _init(self, request: Request) -> bytes:
        if self._started:
            raise Refusal(errno.EINVAL)
        init = requests.parse_init(request.body)
        answer = replies.negotiate(init)
        self._started = init.major == protocol.MAJOR
        return answer

    # Names and attributes

    def _lookup(self, request: Request) -> bytes:
        if request.node != ROOT:
            raise Refusal(errno.ENOTDIR if self._tree.has(request.node) else errno.ENOENT)
        node = self._tree.find(requests.parse_name(request.body))
        if node is None:
            return replies.no_entry(entry_valid_seconds=ENTRY_VALID_SECONDS)
        return replies.entry(self._tree.attributes(node), entry_valid_seconds=ENTRY_VALID_SECONDS)

    def _existing(self, node: int) -> int:
        if not self._tree.has(node):
            raise Refusal(errno.ENOENT)
        return node

    def _getattr(self, request: Request) -> bytes:
        # Which handle asks makes no difference, but nonsense is still refused.
        requests.parse_getattr(request.body)
        return replies.attributes(self._tree.attributes(self._existing(request.node)))

    def _setattr(self, request: Request) -> bytes:
        node = self._existing(request.node)
        change = requests.parse_setattr(request.body)
        if self._device.read_only:
            raise Refusal(errno.EROFS)
        now = self._tree.attributes(node)
        for wanted, present in (
            (change.mode, now.mode & 0o7777),
            (change.uid, now.uid),
            (change.gid, now.gid),
        ):
            if wanted not in (None, present):
                raise Refusal(errno.EPERM)
        # Size 0 succeeds and changes nothing, as O_TRUNC does on a block device: `cp image DIR/file` opens
        # with it. Any other size is refused as ftruncate(2) on a block device is.
        if change.size not in (None, 0, now.size_bytes):
            raise Refusal(errno.EINVAL)
        if node == FILE:
            self._set_times(change)
        return replies.attributes(self._tree.attributes(node))

    def _set_times(self, change: requests.Setattr) -> None:
        if change.accessed_ns is not None:
            self._tree.accessed_ns = time.time_ns() if change.accessed_ns == NOW else change.accessed_ns
        if change.modified_ns is not None:
            self._tree.modified_ns = time.time_ns() if change.modified_ns == NOW else change.modified_ns

    def _access(self, request: Request) -> bytes:
        self._existing(request.node)
        # Permissions are the kernel's (default_permissions); what remains is what it cannot know.
        if requests.parse_access(request.body) & protocol.W_OK and self._device.read_only:
            raise Refusal(errno.EROFS)
        return b""

    def _statfs(self, _: Request) -> bytes:
        device = self._device
        return replies.file_system(
            size_bytes=device.size_bytes,
            free_bytes=max(0, device.size_bytes - device.allocated_bytes),
            block_size_bytes=device.block_size_bytes,
            file_count=self._tree.file_count,
            name_bytes_max=requests.NAME_BYTES_MAX,
        )

    def _opendir(self, request: Request) -> bytes:
        if self._existing(request.node) != ROOT:
            raise Refusal(errno.ENOTDIR)
        return replies.opened(0, 0)

    def _readdir(self, request: Request) -> bytes:
        if self._existing(request.node) != ROOT:
            raise Refusal(errno.ENOTDIR)
        transfer = requests.parse_transfer(request.body)
        return replies.directory(self._tree.entries, offset=transfer.offset, size_max=transfer.size)

    # Open and close

    def _open(self, request: Request) -> bytes:
        node = self._existing(request.node)
        flags = requests.parse_open(request.body)
        if node == ROOT:
            raise Refusal(errno.EISDIR)
        writable = flags & protocol.O_ACCMODE != protocol.O_RDONLY
        if (writable or flags & protocol.O_TRUNC) and self._device.read_only:
            raise Refusal(errno.EROFS)
        handle = self._next_handle
        if node == STATS:
            if writable:
                raise Refusal(errno.EACCES)
            self._snapshots[handle] = self._tree.stats_snapshot = self._render_stats()
            told = OpenFlag.DIRECT_IO | OpenFlag.NOFLUSH
        else:
            self.files[handle] = FileHandle(writable, self._device.error_cursor())
            self.all_closed.clear()
            told = OpenFlag(0)
            if self._direct_io:
                told |= OpenFlag.DIRECT_IO | OpenFlag.PARALLEL_DIRECT_WRITES
            elif self._kernel_cache:
                told |= OpenFlag.KEEP_CACHE
            if not writable:
                told |= OpenFlag.NOFLUSH
        self._next_handle += 1
        return replies.opened(handle, told)

    def _release(self, request: Request) -> bytes:
        handle = requests.parse_release(request.body)
        if self._snapshots.pop(handle, None) is not None:
            self._tree.stats_snapshot = next(reversed(self._snapshots.values()), None)
        elif self.files.pop(handle, None) is None:
            raise Refusal(errno.EBADF)
        elif not self.files:
            self.all_closed.set()
        return b""

    # Bytes

    def _file(self, handle: int) -> FileHandle:
        try:
            return self.files[handle]
        except KeyError:
            raise Refusal(errno.EBADF) from None

    def _changeable(self, handle: int) -> FileHandle:
        if self._device.read_only:
            raise Refusal(errno.EROFS)
        file = self._file(handle)
        if not file.writable:
            raise Refusal(errno.EBADF)
        return file

    def _read(self, request: Request) -> Answer:
        transfer = requests.parse_transfer(request.body)
        if transfer.size > protocol.REQUEST_BYTES_MAX:
            raise Refusal(errno.EINVAL)
        snapshot = self._snapshots.get(transfer.handle)
        if snapshot is not None:
            return snapshot[transfer.offset : transfer.offset + transfer.size]
        self._file(transfer.handle)
        length = min(transfer.size, self._device.size_bytes - transfer.offset)
        if length <= 0:
            return b""
        return self._read_later(transfer.offset, length)

    async def _read_later(self, offset: int, length: int) -> BytesLike:
        data = await self._device.read(offset, length)
        if len(data) != length:
            # A shorter answer would be taken for the end of the file.
            raise Corrupt(f"the device read {len(data)} bytes instead of {length} at {offset}")
        return data

    def _write(self, request: Request) -> Answer:
        transfer, data = requests.parse_write(request.body)
        file = self._changeable(transfer.handle)
        length = min(transfer.size, self._device.size_bytes - transfer.offset)
        if length <= 0 and transfer.size:
            raise Refusal(errno.ENOSPC)
        return self._write_later(transfer, bytes(data[:length]), file)

    async def _write_later(self, transfer: Transfer, data: bytes, file: FileHandle) -> bytes:
        await self._device.write(transfer.offset, data)
        self.changed(file, transfer.flags)
        # As on a block device, what fits is written, and then there is no space. The kernel makes EIO of a
        # short answer to O_DIRECT, so there the news comes at once.
        if len(data) < transfer.size and transfer.open_flags & os.O_DIRECT:
            raise Refusal(errno.ENOSPC)
        return replies.written(len(data))

    def changed(self, file: FileHandle, flags: int = 0) -> None:
        """Something has just been changed through ``file``. Afterwards, not before: a flush in between would
        not have had it."""
        file.unflushed = True
        self._tree.modified_ns = time.time_ns()
        if flags & protocol.WRITE_CACHE:
            # Somebody's mapping, and nobody knows whose: whoever of them closes next must flush.
            for other in self.files.values():
                other.unflushed = other.writable

    def _flush(self, request: Request) -> Answer:
        handle = requests.parse_release(request.body)
        if handle in self._snapshots:
            return b""
        file = self._file(handle)
        return self._flush_file(file) if file.unflushed else b""

    async def _flush_file(self, file: FileHandle) -> bytes:
        file.unflushed = False
        try:
            return await self._flush_device(file.cursor)
        except BaseException:
            file.unflushed = True
            raise

    def _fsync(self, request: Request) -> Answer:
        handle = requests.parse_fsync(request.body)
        if handle in self._snapshots:
            return b""
        return self._flush_file(self._file(handle))

    async def _flush_device(self, cursor: ErrorCursor | None = None) -> bytes:
        await self._device.flush(cursor)
        return b""

    def _fallocate(self, request: Request) -> Answer:
        wanted = requests.parse_fallocate(request.body)
        file = self._changeable(wanted.handle)
        if wanted.length == 0:
            raise Refusal(errno.EINVAL)
        if wanted.offset + wanted.length > self._device.size_bytes:
            raise Refusal(errno.ENOSPC)
        kind = wanted.mode & ~protocol.FALLOC_KEEP_SIZE
        if kind == 0:
            # There is no space to be reserved in a bucket, and none that could run out.
            return b""
        if kind == protocol.FALLOC_ZERO_RANGE:
            return self._zero(wanted.offset, wanted.length, file)
        if wanted.mode == protocol.FALLOC_PUNCH_HOLE | protocol.FALLOC_KEEP_SIZE:
            return self._trim(wanted.offset, wanted.length, file)
        raise Refusal(errno.EOPNOTSUPP)

    async def _zero(self, offset: int, length: int, file: FileHandle) -> bytes:
        await self._device.zero(offset, length)
        self.changed(file)
        return b""

    async def _trim(self, offset: int, length: int, file: FileHandle) -> bytes:
        await self._device.trim(offset, length)
        self.changed(file)
        return b""

    def _seek(self, request: Request) -> Answer:
        wanted = requests.parse_seek(request.body)
        self._file(wanted.handle)
        if wanted.whence not in (protocol.SEEK_DATA, protocol.SEEK_HOLE):
            raise Refusal(errno.EINVAL)
        if wanted.offset >= self._device.size_bytes:
            raise Refusal(errno.ENXIO)
        return self._find(wanted.offset, want_hole=wanted.whence == protocol.SEEK_HOLE)

    async def _find(self, offset: int, *, want_hole: bool) -> bytes:
        """Where, from ``offset`` on, the first hole or data begins. The end of the file counts as a hole."""
        end = self._device.size_bytes
        window = SEEK_WINDOW_MIN
        while offset < end:
            extents = await self._device.extents(offset, min(window, end - offset))
            assert extents, "a device knows what each of its bytes is"
            for extent in extents:
                if extent.is_hole == want_hole:
                    return replies.found(max(offset, extent.offset))
                offset = extent.offset + extent.length
            window = min(2 * window, SEEK_WINDOW_MAX)
        if want_hole:
            return replies.found(end)
        raise Refusal(errno.ENXIO)


def _refuse(number: int) -> Callable[[Request], Answer]:
    def refuse(_: Request) -> Answer:
        raise Refusal(number)

    return refuse
