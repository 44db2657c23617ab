"""FUSE requests taken apart: bytes that the kernel wrote, or anybody else, into checked values.

Every function raises Invalid for bytes that are too short or contradict themselves. Bodies longer than known
are accepted: newer kernels append fields.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

from bucketry.core.fuse import protocol
from bucketry.core.fuse.protocol import SetattrFlag
from bucketry.errors import Invalid

#: NAME_MAX of Linux.
NAME_BYTES_MAX = 255


class Request(NamedTuple):
    """Any request: its header, and the bytes after it, which belong to the reader's buffer."""

    opcode: int
    unique: int
    node: int
    body: memoryview


class Init(NamedTuple):
    """What the kernel speaks and offers."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class Transfer(NamedTuple):
    """A READ or WRITE, or the request for a part of a directory. ``open_flags`` are open(2)'s as they are
    now."""

    handle: int
    offset: int
    size: int
    flags: int
    open_flags: int


@dataclass(frozen=True, slots=True)
class Setattr:
    """A change of attributes; None is no change. Times are in nanoseconds, ``NOW`` for the present."""

    mode: int | None
    uid: int | None
    gid: int | None
    size: int | None
    accessed_ns: int | None
    modified_ns: int | None


#: A time in a Setattr: the present. Before any that the protocol can express.
NOW = -1


class Seek(NamedTuple):
    handle: int
    offset: int
    whence: int


class Fallocate(NamedTuple):
    handle: int
    offset: int
    length: int
    mode: int


def parse_request(message: memoryview) -> Request:
    """Take the header off."""
    if len(message) < protocol.IN_HEADER.size:
        raise Invalid(f"a FUSE request of {len(message)} bytes is shorter than its header")
    length, opcode, unique, node, *_ = protocol.IN_HEADER.unpack_from(message)
    if length != len(message):
        raise Invalid(f"a FUSE request of {len(message)} bytes says that it has {length}")
    return Request(opcode, unique, node, message[protocol.IN_HEADER.size :])


def find_unique(message: memoryview) -> int | None:
    """The number to answer to, even of a malformed request; None when it does not reach that far."""
    if len(message) < protocol.OUT_HEADER.size:
        return None
    unique: int = protocol.IN_HEADER.unpack_from(bytes(message[:16]) + bytes(24))[2]
    return unique


def _unpack(layout: Struct, body: memoryview) -> tuple[Any, ...]:
    if len(body) < layout.size:
        raise Invalid(f"a FUSE request with {len(body)} bytes where {layout.size} belong")
    return layout.unpack_from(body)


def parse_init(body: memoryview) -> Init:
    """Of another major version only the version is known, and the rest is 0."""
    major, minor = _unpack(protocol.INIT_VERSION, body)
    if major != protocol.MAJOR:
        return Init(major, minor, 0, 0)
    _, _, max_readahead, flags = _unpack(protocol.INIT_IN, body)
    if flags & protocol.InitFlag.INIT_EXT and len(body) >= protocol.INIT_IN_EXT.size:
        flags |= protocol.INIT_IN_EXT.unpack_from(body)[4] << 32
    return Init(major, minor, max_readahead, flags)


def parse_name(body: memoryview) -> bytes:
    """The name that a LOOKUP asks for, without its terminating zero."""
    name, zero, _ = bytes(body).partition(b"\0")
    if not name or not zero or len(name) > NAME_BYTES_MAX:
        raise Invalid("a FUSE request with an empty, an endless or too long a name")
    return name


def parse_getattr(body: memoryview) -> int | None:
    """The handle of the open file, if the kernel asks for that one's attributes."""
    flags, _, handle = _unpack(protocol.GETATTR_IN, body)
    return handle if flags & protocol.GETATTR_FH else None


def parse_setattr(body: memoryview) -> Setattr:
    (
        valid, _, _, size, _, accessed, modified, _, accessed_ns, modified_ns, _, mode, _, uid, gid, _,
    ) = _unpack(protocol.SETATTR_IN, body)  # fmt: skip

    def chosen(flag: SetattrFlag, value: int) -> int | None:
        return value if valid & flag else None

    def time(now: SetattrFlag, flag: SetattrFlag, seconds: int, nanoseconds: int) -> int | None:
        return NOW if valid & now else chosen(flag, seconds * 10**9 + nanoseconds)

    return Setattr(
        mode=chosen(SetattrFlag.MODE, mode & 0o7777),
        uid=chosen(SetattrFlag.UID, uid),
        gid=chosen(SetattrFlag.GID, gid),
        size=chosen(SetattrFlag.SIZE, size),
        accessed_ns=time(SetattrFlag.ATIME_NOW, SetattrFlag.ATIME, accessed, accessed_ns),
        modified_ns=time(SetattrFlag.MTIME_NOW, SetattrFlag.MTIME, modified, modified_ns),
    )


def parse_open(body: memoryview) -> int:
    """The flags of open(2)."""
    flags: int = _unpack(protocol.OPEN_IN, body)[0]
    return flags


def parse_transfer(body: memoryview) -> Transfer:
    """A READ, READDIR, or a WRITE without its data."""
    handle, offset, size, flags, _, open_flags, _ = _unpack(protocol.TRANSFER, body)
    return Transfer(handle, offset, size, flags, open_flags)


def parse_write(body: memoryview) -> tuple[Transfer, memoryview]:
    """A WRITE and its data, which is still in the reader's buffer."""
    transfer = parse_transfer(body)
    data = body[protocol.TRANSFER.size :]
    if len(data) != transfer.size:
        raise Invalid(f"a FUSE write of {transfer.size} bytes brings {len(data)}")
    return transfer, data


def parse_release(body: memoryview) -> int:
    """The handle of a RELEASE, RELEASEDIR or FLUSH."""
    handle: int = _unpack(protocol.RELEASE_IN, body)[0]
    return handle


def parse_fsync(body: memoryview) -> int:
    """The handle of an FSYNC. Whether only data counts (fdatasync) makes no difference: there is nothing
    else."""
    handle: int = _unpack(protocol.FSYNC_IN, body)[0]
    return handle


def parse_access(body: memoryview) -> int:
    """The mask of access(2)."""
    mask: int = _unpack(protocol.ACCESS_IN, body)[0]
    return mask


def parse_seek(body: memoryview) -> Seek:
    return Seek(*_unpack(protocol.LSEEK_IN, body)[:3])


def parse_fallocate(body: memoryview) -> Fallocate:
    return Fallocate(*_unpack(protocol.FALLOCATE_IN, body)[:4])
