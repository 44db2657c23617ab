"""A local file that is being uploaded: read in places, by threads, never mapped; and seen to stay the same.

A mapped file that shrinks kills its reader (SIGBUS). This one ends short, which is Busy.
"""

import os
import stat
import threading
from errno import EINVAL, EISDIR
from pathlib import Path

from bucketry.errors import Busy, Closed

#: Of one read while all of the file is summed: it passes through the processor's cache.
SUM_CHUNK_BYTES = 1 << 20


class LocalFile:
    """``source`` is a path, or an open descriptor, which stays the caller's. Raises OSError, which names the
    path: FileNotFoundError, IsADirectoryError, PermissionError…; EINVAL for what is no regular file."""

    def __init__(self, source: Path | int) -> None:
        # O_NONBLOCK: to open a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        self.name = f"file descriptor {source}" if isinstance(source, int) else str(source)
        self._file = os.dup(source) if isinstance(source, int) else os.open(source, flags)
        self._lock = threading.Lock()
        self._reading_count = 0
        self._is_closed = False
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._file)
            number = EISDIR if stat.S_ISDIR(status.st_mode) else EINVAL
            raise OSError(number, os.strerror(number), self.name)
        self.size_bytes = status.st_size
        self._identity = _identity(status)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly so many bytes. Blocks; for any thread. Raises Busy where the file has become shorter,
        OSError, Closed."""
        with self._lock:
            if self._is_closed:
                raise Closed(f"{self.name} is closed")
            self._reading_count += 1
        try:
            return self._read(offset, size_bytes)
        finally:
            with self._lock:
                self._reading_count -= 1
                self._close_if_idle()

    def check_unchanged(self) -> None:
        """Raises Busy when somebody wrote to the file since it was opened. Looks at size and times: a write
        within the clock's grain may escape, which is why the bytes are compared as well."""
        if _identity(os.fstat(self._file)) != self._identity:
            raise self.changed()

    def changed(self) -> Busy:
        """The error for who finds other bytes than there were."""
        return Busy(f"{self.name} was changed while it was uploaded")

    def close(self) -> None:
        """Closes the file, as soon as no thread reads it any more."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._is_closed and not self._reading_count and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self, offset: int, size_bytes: int) -> bytes:
        data = os.pread(self._file, size_bytes, offset)
        if len(data) == size_bytes:
            return data
        # The kernel reads at most 2 GiB at once, and a signal may cut it short.
        chunks = [data]
        while (left := size_bytes - sum(map(len, chunks))) > 0:
            if not chunks[-1]:
                raise self.changed()
            chunks.append(os.pread(self._file, left, offset + size_bytes - left))
        return b"".join(chunks)


def _identity(status: os.stat_result) -> tuple[int, int]:
    # Not the time of the inode's change: a link made meanwhile changes it, and no byte.
    return (status.st_size, status.st_mtime_ns)
