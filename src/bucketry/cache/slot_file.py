"""A file of slots of one size, sparse: pages of zeros, and slots that are not used, take no space.

Synchronous, for threads; OSError as the kernel raises it. What is written is not synced: whoever reads it
back checks it.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from bucketry.core.bytes_like import BytesLike
from bucketry.core.zeros import is_zero

#: What file systems allocate by.
_PAGE_BYTES = 4096
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class SlotFile:
    """``slot_count`` slots of ``slot_bytes``; made when it is not there, cut or extended to that size."""

    def __init__(self, path: Path, slot_bytes: int, slot_count: int) -> None:
        self._slot_bytes = slot_bytes
        self._file = os.open(path, _FLAGS, 0o600)
        try:
            os.ftruncate(self._file, slot_bytes * slot_count)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, slot: int, data: BytesLike) -> None:
        """Fill a slot; nothing of what it held before stays."""
        start = slot * self._slot_bytes
        view = memoryview(data)
        for first, stop, zero in _runs(view):
            if not (zero and self._punch(start + first, stop - first)):
                self._write_all(view[first:stop], start + first)

    def _write_all(self, view: memoryview, offset: int) -> None:
        while view:
            count = os.pwrite(self._file, view, offset)
            view = view[count:]
            offset += count

    def read(self, slot: int) -> bytes:
        """What a slot holds; shorter when the file was cut."""
        return os.pread(self._file, self._slot_bytes, slot * self._slot_bytes)

    def free(self, first: int, stop: int) -> None:
        """Give back the space of the slots from ``first`` to before ``stop``, where the file system can."""
        self._punch(first * self._slot_bytes, (stop - first) * self._slot_bytes)

    def _punch(self, offset: int, length: int) -> bool:
        """Make a hole. False when the file system knows none."""
        if _libc.fallocate(self._file, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
            return True
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise OSError(number, os.strerror(number))

    def close(self) -> None:
        os.close(self._file)


def _runs(view: memoryview) -> Iterator[tuple[int, int, bool]]:
    """Parts of whole pages, alternating between those with content and those of zeros."""
    start, zero_before = 0, False
    for offset in range(0, len(view), _PAGE_BYTES):
        zero = is_zero(view[offset : offset + _PAGE_BYTES])
        if offset > start and zero != zero_before:
            yield start, offset, zero_before
            start = offset
        zero_before = zero
    yield start, len(view), zero_before
