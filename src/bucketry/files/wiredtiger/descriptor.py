"""The first block of a WiredTiger file, made up for an object that cannot be read at the moment.

WiredTiger 11 takes the whole process down with it (a segmentation fault) when opening an object in a bucket,
asking its size or reading its first block fails; a failure of any later read comes out as an exception, and
the database goes on. So an object that cannot be opened is opened all the same: it has this first block, a
size that nothing exceeds, and every read of what follows tries the object itself.

The block holds nothing but what says that this is a WiredTiger file: a magic number, the version of the
format, and a checksum over the block.
"""

import struct

import google_crc32c

_MAGIC = 120897
_MAJOR, _MINOR = 1, 0
#: Magic, major, minor, checksum, and four bytes that are not used.
_DESCRIPTOR = struct.Struct("<IHHII")
#: Larger than any object (S3's have 5 TiB at most), and not larger than need be: WiredTiger may count blocks.
SIZE_BYTES = 1 << 43


def descriptor(length: int) -> bytes:
    """The block for a file whose allocation size is ``length``. The checksum counts itself as zero."""
    rest = bytes(length - _DESCRIPTOR.size)
    checksum = google_crc32c.value(_DESCRIPTOR.pack(_MAGIC, _MAJOR, _MINOR, 0, 0) + rest)
    return _DESCRIPTOR.pack(_MAGIC, _MAJOR, _MINOR, checksum, 0) + rest


def can_describe(offset: int, length: int) -> bool:
    """It is the first block that is asked for, and nothing else."""
    return offset == 0 and length >= _DESCRIPTOR.size
