"""A storage source as WiredTiger calls it: ours, with the care that WiredTiger's calls need.

=================== ========================================================================================
call                care
=================== ========================================================================================
open, size, and     repeated until the trouble has passed; the first block is read with the open. If
the first read      WiredTiger itself opens an object that cannot be read at all, it gets a handle whose reads
                    fail: an error here would end the process (``descriptor``)
later reads         repeated for a shorter while; then WiredTiger raises an exception, and goes on
flush               repeated; ENOENT only if the local file has gone, because WiredTiger takes it for a
                    dropped table. Any error panics WiredTiger
flush finish        never fails: what it does can be done again later
remove              repeated; an object that is not there is removed
list                before a table is created, so here another database's prefix is refused
=================== ========================================================================================
"""

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bucketry.files.config_text import read_options
from bucketry.files.log import ERROR, NOTICE, WARNING
from bucketry.files.wiredtiger.descriptor import SIZE_BYTES, can_describe, descriptor
from bucketry.files.wiredtiger.options import Options
from bucketry.files.wiredtiger.owner import ForeignPrefix, Ownership, is_marker, prefix_of
from bucketry.files.wiredtiger.patience import interrupt_later, patiently
from bucketry.files.wiredtiger.seams import FileHandle, FileSystem, StorageSource

T = TypeVar("T")

#: WiredTiger's types of files that can be opened here: data and regular.
_KINDS = {1: "data", 4: "regular"}
#: Held for the first read, which is as long as the table's allocation size: 4 KiB unless somebody asked for
#: more. Whoever asked for more than this finds the rest in the cache.
_FIRST_BLOCK_BYTES = 64 << 10


class Store:
    """One registered storage source of one connection.

    Methods raise OSError; ``say(level, line)`` tells the application.
    """

    def __init__(
        self, name: str, home: Path, source: StorageSource, options: Options, say: Callable[[int, str], None]
    ) -> None:
        self.name = name
        self.home = home
        self.source = source
        self._options = options
        self._say = say
        self._ownership = Ownership(home, options.owner)
        #: The first bucket is the connection's own: WiredTiger asks for it before it is open.
        self._is_first = True

    def add_reference(self) -> None:
        self.source.add_reference()

    def customize_file_system(
        self, bucket: str | None, token: str | None, config: str | None
    ) -> "StoreFiles":
        """One bucket, ready for use."""
        named = self._options.bucket_url(bucket or "", self.home)
        if self._options.directories:
            # As the directory store: a token is some word, and a prefix is not known.
            cache = read_options(config).get("cache_directory")
            files = self.source.customize_file_system(named, None, cache and f'cache_directory="{cache}"')
        else:
            files = self.source.customize_file_system(named, token, config)
        found = StoreFiles(self, bucket or "", files)
        is_first, self._is_first = self._is_first, False
        if is_first and self._options.bucket_prefix is not None:
            try:
                found.claim(self._options.bucket_prefix)
            except BaseException:
                files.terminate()
                raise
        return found

    def flush(self, files: "StoreFiles", source: str, name: str) -> None:
        """Upload a local file. When it returns the object is in the bucket."""
        path = self.home / source
        prefix = prefix_of(source, name)
        if prefix is not None:
            # Too late to refuse the table, and nothing is overwritten: the upload itself decides. What else
            # goes wrong with the marker is tried again by the next flush.
            try:
                files.claim(prefix)
            except ForeignPrefix as error:
                self._say(ERROR, _shown(error))
            except OSError as error:
                self._say(WARNING, f"{prefix}: the owner could not be named: {_shown(error)}")
        if not self._options.idempotent and files.exist(name):
            raise FileExistsError(errno.EEXIST, f"{name}: File exists")
        try:
            self.patiently(f"{name}: flush", lambda: files.file_system.flush(path, name))
        except FileNotFoundError as error:
            if path.exists():
                raise OSError(errno.EIO, f"{name}: flush: {_shown(error)}, but {path} is there") from error
            raise

    def flush_finish(self, files: "StoreFiles", source: str, name: str) -> None:
        """Give the local file, which may be gone soon, to the cache."""
        try:
            files.file_system.flush_finish(self.home / source, name)
        except Exception as error:  # noqa: BLE001 - an error here is a panic there, and it is only a cache
            self._say(WARNING, f"{name}: not put into the cache: {error}")

    def terminate(self) -> bool:
        """True when it was the last reference."""
        self.source.terminate()
        return self.source.closed

    # --- for its file systems ------------------------------------------------------------------------------

    @property
    def options(self) -> Options:
        return self._options

    @property
    def ownership(self) -> Ownership:
        return self._ownership

    def say(self, level: int, line: str) -> None:
        self._say(level, line)

    def patiently(self, what: str, operation: Callable[[], T], *, seconds: float | None = None) -> T:
        """``operation()``, where an error would be WiredTiger's end."""
        begun = False

        def trouble(error: OSError, pause: float) -> None:
            nonlocal begun
            if not begun:
                # An error, so that it is heard at every level: the database may stand still for a while.
                self._say(ERROR, f"{what}: {_shown(error)}; trying on for {limit:.0f} s")
            begun = True

        limit = self._options.patience_seconds if seconds is None else seconds
        result = patiently(operation, seconds=limit, trouble=trouble)
        if begun:
            self._say(NOTICE, f"{what}: it worked after all")
        return result


class StoreFiles:
    """One bucket."""

    def __init__(self, store: Store, bucket: str, file_system: FileSystem) -> None:
        self._store = store
        self._bucket = bucket
        self.file_system = file_system

    def claim(self, prefix: str) -> None:
        """Raises ForeignPrefix."""
        self._store.ownership.claim(self._bucket, self.file_system, prefix)

    def directory_list(self, directory: str, prefix: str, *, single: bool) -> list[str]:
        """Names with the directory cut off; of markers nobody knows."""
        if directory and prefix:
            # This is how WiredTiger looks for a new table's name; the directory is the bucket prefix.
            self._store.ownership.check(self._bucket, self.file_system, directory)
        if single:
            names = self.file_system.directory_list_single(directory, prefix)
            if not any(is_marker(name) for name in names):
                return names
        names = self.file_system.directory_list(directory, prefix)
        found = [name for name in names if not is_marker(name)]
        return found[:1] if single else found

    def exist(self, name: str) -> bool:
        return self._store.patiently(f"{name}: exist", lambda: self.file_system.exist(name))

    def size(self, name: str) -> int:
        return self._store.patiently(f"{name}: size", lambda: self.file_system.size(name))

    def open_file(
        self, name: str, kind: int, *, readonly: bool, create: bool, by_wiredtiger: bool
    ) -> "StoreHandle | LateHandle":
        """``by_wiredtiger``: the engine itself opens it, and does not survive an error."""
        if kind not in _KINDS or create or not readonly:
            raise OSError(
                errno.EINVAL, f"{name}: only data and regular files can be opened, and only readonly"
            )

        def open_now() -> _Opened:
            return _open(self.file_system, name, _KINDS[kind])

        try:
            opened = self._store.patiently(f"{name}: open", open_now)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                error = FileNotFoundError(
                    errno.ENOENT, f"object named {name} does not exist in the bucket {self._bucket}"
                )
            if not by_wiredtiger:
                raise error from None
            self._store.say(ERROR, f"{_shown(error)}; its pages cannot be read until that has changed")
            return LateHandle(self._store, name, open_now)
        return StoreHandle(self._store, name, opened)

    def remove(self, name: str) -> None:
        """Nothing is left of it; or ENOTSUP, if removing is not allowed."""
        if self._store.options.remove == "false":
            raise OSError(errno.EOPNOTSUPP, f"{name}: remove of file not supported")
        if self._store.options.remove == "keep":
            self._store.say(NOTICE, f"{name}: kept in the bucket, as remove=keep says")
            return
        if self._store.ownership.is_foreign(self._bucket, name):
            self._store.say(ERROR, f"{name}: not removed: its prefix belongs to another database")
            return

        def remove() -> None:
            try:
                self.file_system.remove(name)
            except FileNotFoundError:
                pass

        self._store.patiently(f"{name}: remove", remove)

    def terminate(self) -> None:
        self.file_system.terminate()


class StoreHandle:
    """One open object, with its first block for the first read."""

    def __init__(self, store: Store, name: str, opened: "_Opened") -> None:
        self._store = store
        self._name = name
        self._opened = opened
        self._first: bytes | None = opened.first

    def size(self) -> int:
        return self._opened.size

    def read(self, offset: int, buffer: Any) -> None:
        """All of ``buffer``, or OSError."""
        if (first := self._first) is not None:
            self._first = None
            if offset == 0 and len(buffer) <= len(first):
                buffer[:] = first[: len(buffer)]
                return
        _read_patiently(self._store, self._name, self._opened.handle, offset, memoryview(buffer))

    def close(self) -> None:
        self._opened.handle.close()


class LateHandle:
    """An object that could not be opened so far: each read tries again. Its first block and its size are made
    up."""

    def __init__(self, store: Store, name: str, open_now: Callable[[], "_Opened"]) -> None:
        self._store = store
        self._name = name
        self._open_now = open_now
        self._is_described = False
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def size(self) -> int:
        return SIZE_BYTES

    def read(self, offset: int, buffer: Any) -> None:
        """As ``StoreHandle.read``; but since WiredTiger does not know the size, zeros follow the end. (Its
        chunk cache reads whole chunks, also those that the end lies in.)"""
        target = memoryview(buffer)
        if not self._is_described:
            # The first read is that of the first block. Every other one wants what is really there.
            self._is_described = True
            if can_describe(offset, len(target)):
                target[:] = descriptor(len(target))
                return
        opened = self._open()
        there = max(0, min(len(target), opened.size - offset))
        if not there:
            raise OSError(errno.EIO, f"{self._name}: there is nothing at {offset}, only {opened.size} bytes")
        _read_patiently(self._store, self._name, opened.handle, offset, target[:there])
        target[there:] = bytes(len(target) - there)

    def _open(self) -> "_Opened":
        with self._lock:
            if self._opened is None:
                self._opened = self._store.patiently(
                    f"{self._name}: open", self._open_now, seconds=self._store.options.read_patience_seconds
                )
                self._store.say(NOTICE, f"{self._name}: it can be read again")
            return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.handle.close()


@dataclass(frozen=True, slots=True)
class _Opened:
    """An object that is open, and its first bytes."""

    handle: FileHandle
    size: int
    first: bytes


def _open(file_system: FileSystem, name: str, kind: str) -> _Opened:
    handle = file_system.open_file(name, kind)
    try:
        size = handle.size()
        first = bytearray(min(size, _FIRST_BLOCK_BYTES))
        _read_all(name, handle, 0, memoryview(first))
    except BaseException:
        handle.close()
        raise
    return _Opened(handle, size, bytes(first))


def _read_patiently(store: Store, name: str, handle: FileHandle, offset: int, target: memoryview) -> None:
    # Nearly every read ends here, in microseconds; patience has its price.
    try:
        _read_all(name, handle, offset, target)
        return
    except OSError:
        pass
    except KeyboardInterrupt:
        interrupt_later()
    store.patiently(
        f"{name}: read",
        lambda: _read_all(name, handle, offset, target),
        seconds=store.options.read_patience_seconds,
    )


def _read_all(name: str, handle: FileHandle, offset: int, buffer: memoryview) -> None:
    count = handle.readinto(offset, buffer)
    if count != len(buffer):
        raise OSError(
            errno.EIO,
            f"{name}: {len(buffer)} bytes at {offset} were wanted, and the object ends after {count}",
        )


def _shown(error: OSError) -> str:
    return error.strerror or str(error)
