"""Holes in files: space that is given back without moving what lies behind it."""

import ctypes
import errno
import os

_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(file: int, offset: int, length: int) -> bool:
    """Make ``length`` bytes at ``offset`` zeros that take no space. False when the file system knows no
    holes. Raises OSError."""
    if _libc.fallocate(file, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number))
