"""The cache directory of one volume: whose it is, who has it now, and where its parts lie.

::

    lock             locked by the process that has it, and holds its number
    identity.json    which volume it belongs to
    blocks/          the clean blocks (cache.disk_cache)
    journal/         what the bucket does not have yet
    zeros            which blocks are known to be zero (cache.saved_zeros)
"""

import errno
import fcntl
import json
import os
import stat
from pathlib import Path
from types import TracebackType

from bucketry.errors import Busy, Mismatch, NotPermitted

_MODE = 0o700
_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_NAME = "lock"
_IDENTITY_NAME = "identity.json"
#: Far more than an identity takes.
_IDENTITY_BYTES_MAX = 64 << 10


class CacheDirectory:
    """A directory that is ours until ``close``. ``identity`` says for what; the parts check for themselves
    that what they find is whole, and of the same identity."""

    def __init__(self, path: Path, identity: str, lock: int) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @classmethod
    def open(cls, path: Path, identity: str) -> "CacheDirectory":
        """Make the directory if it is not there, and lock it.

        ``identity`` is of the volume and of what must agree for cached blocks to fit: its id or URL, and the
        block size. Raises Busy, naming the process that has it; Mismatch when it is another volume's;
        NotPermitted when others could write there, or we cannot.
        """
        try:
            path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            found = path.stat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise NotPermitted(f"cache directory {path}: it must belong to this user, and to nobody else")
            lock = os.open(path / _LOCK_NAME, _FILE_FLAGS, 0o600)
        except OSError as error:
            raise NotPermitted(f"cache directory {path}: {error.strerror}") from error
        try:
            _take(lock, path)
            directory = cls(path, identity, lock)
            directory._check_identity()
        except BaseException:
            os.close(lock)
            raise
        return directory

    @property
    def blocks(self) -> Path:
        return self.path / "blocks"

    @property
    def zeros(self) -> Path:
        return self.path / "zeros"

    def close(self) -> None:
        """Let others have it. Closing twice is fine."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "CacheDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_identity(self) -> None:
        path = self.path / _IDENTITY_NAME
        try:
            found = _read_identity(path)
            if found is None:
                # New, or damaged: then the parts know to whom they belong.
                write_whole(path, json.dumps({"identity": self.identity}).encode())
        except OSError as error:
            raise NotPermitted(f"cache directory {self.path}: {error.strerror}") from error
        if found is not None and found != self.identity:
            raise Mismatch(
                f"cache directory {self.path} belongs to another volume ({found[:200]}, and this is "
                f"{self.identity}): give each volume its own, or delete it if that one needs it no more"
            )


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file so that whoever reads it, after a kill too, finds the old content or the new. Raises
    OSError."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    try:
        file = os.open(temporary, _FILE_FLAGS | os.O_EXCL, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(file, view) :]
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        who = f"process {text}" if text.isdigit() else "another process"
        raise Busy(f"cache directory {path} is in use by {who}") from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        # The number is for people, and the lock is what counts.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _read_identity(path: Path) -> str | None:
    """None when there is none, or it cannot be read as one."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        content = json.loads(os.read(file, _IDENTITY_BYTES_MAX))
    except ValueError:
        return None
    finally:
        os.close(file)
    identity = content.get("identity") if isinstance(content, dict) else None
    return identity if isinstance(identity, str) else None
