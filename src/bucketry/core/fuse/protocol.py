"""The numbers of the FUSE protocol: operations, flags, sizes and struct layouts, named as in
``linux/fuse.h``.

Integers are in the machine's byte order and structs padded by hand to eight bytes, hence ``=`` in every
layout.
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

MAJOR: Final = 7
#: The newest minor version whose additions are used here (DIRECT_IO_ALLOW_MMAP). The smaller of this and the
#: kernel's is spoken.
MINOR: Final = 39
#: The oldest kernel interface accepted: from 7.23 on INIT's answer has its present length.
MINOR_MIN: Final = 23

ROOT_NODE: Final = 1


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51


#: The kernel waits for no answer to these; one would be refused.
WITHOUT_REPLY: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})


class InitFlag(IntFlag):
    """What INIT negotiates; bits from 32 up travel in ``flags2``."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36


class SetattrFlag(IntFlag):
    """Which fields of a SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class OpenFlag(IntFlag):
    """What the kernel is told of an open file."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6


#: In a GETATTR: its handle is valid.
GETATTR_FH: Final = 1 << 0
#: In a WRITE: it comes from the page cache (a mapping), and its handle is only one of the file's.
WRITE_CACHE: Final = 1 << 0

# open(2), lseek(2), access(2) and fallocate(2) as Linux numbers them; core imports no os.
O_ACCMODE: Final = 0o3
O_RDONLY: Final = 0o0
O_TRUNC: Final = 0o1000
SEEK_DATA: Final = 3
SEEK_HOLE: Final = 4
W_OK: Final = 2
FALLOC_KEEP_SIZE: Final = 0x01
FALLOC_PUNCH_HOLE: Final = 0x02
FALLOC_ZERO_RANGE: Final = 0x10

#: Bytes of one READ or WRITE: 256 pages of 4 KiB, the most that a kernel grants without a sysctl.
REQUEST_BYTES_MAX: Final = 1 << 20
PAGES_MAX: Final = 256
#: How far ahead of a sequential reader the kernel reads, in one request, where it lets us say so. Its own 128
#: KiB pay for each block's way through two processes; a request of 512 KiB pays once for four. With more the
#: reader waits for the last of several blocks before it gets the first.
READ_AHEAD_BYTES: Final = 512 << 10
#: Asynchronous requests that the kernel keeps under way (12 by default): enough for 64 uncached reads to
#: share one latency, 64 MiB of the largest. From three quarters on it calls the device congested, as it does
#: by default.
BACKGROUND_MAX: Final = 64
CONGESTION_THRESHOLD: Final = 48

#: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
IN_HEADER: Final = Struct("=IIQQIIIHH")
#: The header and the beginning of a READ or WRITE in one: len, opcode, unique, nodeid, fh, offset, size,
#: read/write flags.
IN_TRANSFER: Final = Struct("=IIQQ16xQQII")
#: fh, offset, size, flags, lock_owner, open flags, padding: READ, WRITE and READDIR
TRANSFER: Final = Struct("=QQIIQII")
#: Header and TRANSFER: where the data of a WRITE begins, and how long a READ is.
TRANSFER_END: Final = IN_HEADER.size + TRANSFER.size
#: major, minor
INIT_VERSION: Final = Struct("=II")
#: major, minor, max_readahead, flags
INIT_IN: Final = Struct("=IIII")
#: the same with flags2, from 7.36 on
INIT_IN_EXT: Final = Struct("=IIIII")
#: getattr_flags, dummy, fh
GETATTR_IN: Final = Struct("=IIQ")
#: valid, padding, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode, unused, uid, gid,
#: unused
SETATTR_IN: Final = Struct("=II6Q3I5I")
#: flags, open_flags
OPEN_IN: Final = Struct("=II")
#: fh, and 16 bytes of flags and lock owner: RELEASE, FLUSH
RELEASE_IN: Final = Struct("=QIIQ")
#: fh, flags, padding
FSYNC_IN: Final = Struct("=QII")
#: mask, padding
ACCESS_IN: Final = Struct("=II")
#: fh, offset, whence, padding
LSEEK_IN: Final = Struct("=QQII")
#: fh, offset, length, mode, padding
FALLOCATE_IN: Final = Struct("=QQQII")

#: len, error, unique fuse_notify_inval_inode_out: node, offset, length (0: to the end), after a header with
#: no request and the code as its error.
NOTIFY_INVAL_INODE: Final = Struct("=Qqq")
NOTIFY_INVAL_INODE_CODE: Final = 2
OUT_HEADER: Final = Struct("=IiQ")
#: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
#: map_alignment, flags2, unused
INIT_OUT: Final = Struct("=IIIIHHIIHHI28x")
#: ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
ATTR: Final = Struct("=6Q10I")
#: nodeid, generation, entry_valid, attr_valid, their nanoseconds; an ATTR follows
ENTRY_OUT: Final = Struct("=QQQQII")
#: attr_valid, its nanoseconds, dummy; an ATTR follows
ATTR_OUT: Final = Struct("=QII")
#: fh, open_flags, padding
OPEN_OUT: Final = Struct("=QII")
#: The header and the answer to a WRITE in one: len, error, unique, size, padding
OUT_WRITE: Final = Struct("=IiQII")
#: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare
STATFS_OUT: Final = Struct("=5Q4I24x")
#: offset
LSEEK_OUT: Final = Struct("=Q")
#: ino, off, namelen, type; the name follows, padded to eight bytes
DIRENT: Final = Struct("=QQII")
