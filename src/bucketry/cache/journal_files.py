"""What the journal asks of a file system, and the directory that gives it."""

import errno
import fcntl
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Busy, Closed, Invalid

#: What one call of the kernel takes (IOV_MAX).
_BUFFERS_MAX = 1024
_LOCK_NAME = "lock"
_DIRECTORY_MODE = 0o700
_FILE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE = 0o600


class Files(Protocol):
    """Files of one directory, by name. Every method may raise OSError. Sectors of 512 bytes are replaced as a
    whole; of what was not synced any sector may have been, or not, after a power cut."""

    @property
    def place(self) -> str:
        """The directory, for messages."""
        ...

    def sizes(self) -> Mapping[str, int]:
        """The names of all regular files, and their sizes in bytes."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Fewer bytes at the end of the file."""
        ...

    def write(self, name: str, offset: int, buffers: Sequence[BytesLike]) -> None:
        """All of the buffers, one behind the other."""
        ...

    def sync(self, name: str) -> None:
        """Make a file's content and size durable."""
        ...

    def allocate(self, name: str, size_bytes: int) -> None:
        """Make a file of exactly this size, or an existing one, with space for all of it."""
        ...

    def written_bytes(self, name: str) -> int:
        """How much of a file, from its begin on, has been written, and not just allocated: there a sync has
        nothing to do but write the data."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sync_directory(self) -> None:
        """Make what was created, renamed and removed durable."""
        ...

    def close(self) -> None: ...


class DirectoryFiles:
    """A local directory, made when it is not there, and locked until ``close``: one process has it.

    Raises Busy, naming the process that has it, Invalid when it is no directory of ours alone, OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._descriptors: dict[str, int] = {}
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = -1
        try:
            found = os.fstat(self._root)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                raise Invalid(f"{directory} must belong to us, and nobody else may write there")
            self._lock = os.open(_LOCK_NAME, _FILE_FLAGS | os.O_CREAT, _FILE_MODE, dir_fd=self._root)
            self._take_lock()
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            who = f"process {text}" if text.isdigit() else "another process"
            raise Busy(f"{self._directory} is in use by {who}") from None
        # For people. A full disk is no reason to refuse: the lock is what counts.
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    @property
    def place(self) -> str:
        return str(self._directory)

    def sizes(self) -> Mapping[str, int]:
        with os.scandir(self._root) as entries:
            return {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if entry.is_file(follow_symlinks=False) and entry.name != _LOCK_NAME
            }

    def _open(self, name: str, flags: int = 0) -> int:
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            if self._root < 0:
                raise Closed(f"{self._directory} is closed")
            descriptor = os.open(name, _FILE_FLAGS | flags, _FILE_MODE, dir_fd=self._root)
            self._descriptors[name] = descriptor
        return descriptor

    def read(self, name: str, offset: int, length: int) -> bytes:
        descriptor = self._open(name)
        data = os.pread(descriptor, length, offset)
        while 0 < len(data) < length:
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, name: str, offset: int, buffers: Sequence[BytesLike]) -> None:
        descriptor = self._open(name)
        for first in range(0, len(buffers), _BUFFERS_MAX):
            rest = list(buffers[first : first + _BUFFERS_MAX])
            while rest:
                written = os.pwritev(descriptor, rest, offset)
                offset += written
                while rest and written >= len(rest[0]):
                    written -= len(rest.pop(0))
                if rest and written:
                    rest[0] = memoryview(rest[0])[written:]

    def sync(self, name: str) -> None:
        descriptor = self._open(name)
        os.fdatasync(descriptor)
        # Files that were removed are synced like others; but nobody would find them after a crash.
        ours = os.fstat(descriptor)
        found = os.stat(f"{self._directory}/{name}")  # noqa: PTH116 - a Path takes a tenth of the sync to make
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            raise FileNotFoundError(errno.ENOENT, "it was removed, and is another file now", name)

    def allocate(self, name: str, size_bytes: int) -> None:
        descriptor = self._open(name, os.O_CREAT)
        os.ftruncate(descriptor, size_bytes)
        try:
            if size_bytes:
                os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError:
            # What was allocated before the disk was full is of no use to us, but may be to somebody else.
            os.ftruncate(descriptor, 0)
            raise

    def written_bytes(self, name: str) -> int:
        descriptor = self._open(name)
        try:
            # Space that was allocated and never written counts as a hole.
            return os.lseek(descriptor, 0, os.SEEK_HOLE)
        except OSError:
            return os.fstat(descriptor).st_size  # not known on this file system; then it costs time

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._root, dst_dir_fd=self._root)
        self._forget(new)
        if old in self._descriptors:
            self._descriptors[new] = self._descriptors.pop(old)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._root)
        self._forget(name)

    def _forget(self, name: str) -> None:
        descriptor = self._descriptors.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def sync_directory(self) -> None:
        os.fsync(self._root)

    def close(self) -> None:
        """Closing twice is fine."""
        for name in list(self._descriptors):
            self._forget(name)
        # The lock goes last: until then nobody else finds the files.
        for descriptor in (self._root, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._root = self._lock = -1
