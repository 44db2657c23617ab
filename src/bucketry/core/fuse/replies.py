"""FUSE replies put together: values into the bytes that the kernel expects after its header.

``error`` and ``header`` build the header; everything else builds what follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bucketry.core.fuse import protocol
from bucketry.core.fuse.protocol import InitFlag
from bucketry.core.fuse.requests import Init
from bucketry.errors import Unsupported

#: Asked for where the kernel offers it: several reads under way (ASYNC_READ, ASYNC_DIO: without the latter
#: direct I/O goes one request at a time), requests of more than a page (BIG_WRITES) and of more than 32
#: (MAX_PAGES).
WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.BIG_WRITES
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.INIT_EXT
    | InitFlag.DIRECT_IO_ALLOW_MMAP
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What stat(2) shows. Times are nanoseconds since 1970; ``mode`` includes the file type."""

    node: int
    size_bytes: int
    allocated_bytes: int
    block_size_bytes: int
    mode: int
    link_count: int
    uid: int
    gid: int
    accessed_ns: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory; ``mode`` is the file's with its type."""

    node: int
    name: bytes
    mode: int


def header(unique: int, payload_bytes: int) -> bytes:
    """Success, with so many bytes after the header."""
    return protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + payload_bytes, 0, unique)


def invalidate(node: int, *, content: bool = True) -> bytes:
    """A whole notification: the kernel shall forget what it holds of a node's ``content``, and its
    attributes."""
    size = protocol.OUT_HEADER.size + protocol.NOTIFY_INVAL_INODE.size
    header = protocol.OUT_HEADER.pack(size, protocol.NOTIFY_INVAL_INODE_CODE, 0)
    # "negative: only attributes"
    return header + protocol.NOTIFY_INVAL_INODE.pack(node, 0 if content else -1, 0)


def error(unique: int, errno: int) -> bytes:
    """A whole reply: it failed with ``errno`` (positive)."""
    return protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size, -errno, unique)


def negotiate(init: Init) -> bytes:
    """The answer to INIT: the version and the features to be used. Raises Unsupported for a kernel that is
    too old.

    A newer major version is answered with ours alone; the kernel then asks again in it ("expect a new INIT
    message from the kernel with a matching major version").
    """
    if init.major > protocol.MAJOR:
        return protocol.INIT_OUT.pack(protocol.MAJOR, protocol.MINOR, *(0,) * 9)
    if init.major < protocol.MAJOR or init.minor < protocol.MINOR_MIN:
        raise Unsupported(
            f"the kernel speaks FUSE {init.major}.{init.minor}; "
            f"at least {protocol.MAJOR}.{protocol.MINOR_MIN} is needed (Linux 3.15)"
        )
    flags = init.flags & WANTED
    return protocol.INIT_OUT.pack(
        protocol.MAJOR,
        protocol.MINOR,
        # The kernel takes the smaller of this and what it has been set to.
        protocol.READ_AHEAD_BYTES,
        flags & 0xFFFF_FFFF,
        protocol.BACKGROUND_MAX,
        protocol.CONGESTION_THRESHOLD,
        protocol.REQUEST_BYTES_MAX,
        1,
        protocol.PAGES_MAX if flags & InitFlag.MAX_PAGES else 0,
        0,
        flags >> 32,
    )


def _attr(a: Attributes) -> bytes:
    accessed, modified, changed = (divmod(ns, 10**9) for ns in (a.accessed_ns, a.modified_ns, a.changed_ns))
    return protocol.ATTR.pack(
        a.node,
        a.size_bytes,
        -(-a.allocated_bytes // 512),
        accessed[0],
        modified[0],
        changed[0],
        accessed[1],
        modified[1],
        changed[1],
        a.mode,
        a.link_count,
        a.uid,
        a.gid,
        0,
        a.block_size_bytes,
        0,
    )


def entry(attributes: Attributes, *, entry_valid_seconds: int) -> bytes:
    """What a name stands for. The attributes are not to be kept, the name for so long."""
    return protocol.ENTRY_OUT.pack(attributes.node, 0, entry_valid_seconds, 0, 0, 0) + _attr(attributes)


def no_entry(*, entry_valid_seconds: int) -> bytes:
    """That a name stands for nothing, and will not for so long (an error ENOENT would be asked again each
    time)."""
    return protocol.ENTRY_OUT.pack(0, 0, entry_valid_seconds, 0, 0, 0) + bytes(protocol.ATTR.size)


def attributes(attributes: Attributes) -> bytes:
    """The answer to GETATTR and SETATTR; not to be kept."""
    return protocol.ATTR_OUT.pack(0, 0, 0) + _attr(attributes)


def opened(handle: int, flags: int) -> bytes:
    return protocol.OPEN_OUT.pack(handle, flags, 0)


def written(size: int) -> bytes:
    return protocol.OUT_WRITE.pack(0, 0, 0, size, 0)[protocol.OUT_HEADER.size :]


def found(offset: int) -> bytes:
    """The answer to LSEEK."""
    return protocol.LSEEK_OUT.pack(offset)


def file_system(
    *, size_bytes: int, free_bytes: int, block_size_bytes: int, file_count: int, name_bytes_max: int
) -> bytes:
    """The answer to STATFS."""
    free = free_bytes // block_size_bytes
    return protocol.STATFS_OUT.pack(
        size_bytes // block_size_bytes,
        free,
        free,
        file_count,
        0,
        block_size_bytes,
        name_bytes_max,
        block_size_bytes,
        0,
    )


def directory(entries: Sequence[Entry], *, offset: int, size_max: int) -> bytes:
    """The part of a directory from entry number ``offset`` on that fits into ``size_max`` bytes."""
    parts: list[bytes] = []
    size = 0
    for number, item in enumerate(entries[offset:], start=offset + 1):
        record = protocol.DIRENT.pack(item.node, number, len(item.name), item.mode >> 12) + item.name
        record += bytes(-len(record) % 8)
        size += len(record)
        if size > size_max:
            break
        parts.append(record)
    return b"".join(parts)
