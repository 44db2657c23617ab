"""The files of one bucket under one prefix: a flat name for each object, which is written once.

Opens of one name share one open object, counted under a lock; a name means the object that it was opened on
for as long as anybody has it open.
"""

import concurrent.futures
import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from bucketry.bucket.interface import Bucket, Entry, ObjectInfo
from bucketry.bucket.keys import key_flaw
from bucketry.bucket.wrapper import close_pages
from bucketry.core.pieces import PIECES_METADATA
from bucketry.errors import (
    BucketNotFound,
    BucketryError,
    Closed,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from bucketry.files.file_handle import FileHandle
from bucketry.files.gate import Gate
from bucketry.files.log import DEBUG_1, WARNING, SourceLog
from bucketry.files.naming import local_path, object_key
from bucketry.files.object_cache import STATE_NAME, ObjectCache, ScrubReport
from bucketry.files.object_reader import ObjectReader, OpenObject
from bucketry.files.operation import Operation
from bucketry.files.statistics import FilesStatistics
from bucketry.files.upload import Uploaded, sweep, upload
from bucketry.files.upload_records import UploadRecords
from bucketry.settings import FilesSettings
from bucketry.threads.loop_thread import Call, LoopThread

if TYPE_CHECKING:
    from bucketry.files.storage_source import StorageSource

T = TypeVar("T")

#: WiredTiger's file types that can be opened; the others are checkpoint, directory and log.
FILE_KINDS = ("data", "regular")
#: In the cache's own directory.
_RECORDS_NAME = "uploads"
#: Uploads between a flush and its flush_finish that are remembered: WiredTiger has one at a time.
_UPLOADS_REMEMBERED_MAX = 1024
#: Keys that can be no names are told of once, and so many of them.
_NAMELESS_TOLD_MAX = 100
#: Answers "there is no such object" that are remembered.
_ABSENT_REMEMBERED_MAX = 10_000
#: What is told of files: a few hundred bytes each.
_INFOS_REMEMBERED_MAX = 1000
#: S3's own.
_BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One line of a listing."""

    name: str
    size_bytes: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What the bucket says of one file."""

    name: str
    size_bytes: int
    etag: str
    modified: datetime | None
    #: Whether checksums of it are kept with it: those that we uploaded have them.
    has_checksums: bool


class SharedObject:
    """An open object and how many handles, or openers on their way, have it."""

    __slots__ = ("count", "name", "object", "opened")

    def __init__(self, name: str, opened: "Call[OpenObject]") -> None:
        self.name = name
        self.opened = opened
        self.count = 0
        #: None until it is open.
        self.object: OpenObject | None = None


class FileSystem:
    """Made by ``StorageSource.customize_file_system``. Every method may be called from any thread.

    Errors are OSErrors whose errno is told in ``docs/files.md``; a BucketryError is their cause.
    """

    def __init__(
        self,
        source: "StorageSource",
        *,
        url: str,
        prefix: str,
        bucket: Bucket,
        cache: ObjectCache,
        reader: ObjectReader,
    ) -> None:
        self._source = source
        self._url = url
        self._prefix = prefix
        self._bucket = bucket
        self._cache = cache
        self._reader = reader
        #: Beside the cache, because they are this machine's as it is. One that is removed at the end keeps
        #: none.
        self._records = (
            None
            if source.settings.private_cache
            else UploadRecords(cache.directory / STATE_NAME / _RECORDS_NAME)
        )
        self._gate = Gate(f"the file system of {url}")
        self._lock = threading.Lock()
        #: What the names mean that are open now.
        self._open: dict[str, SharedObject] = {}
        self._handles: set[FileHandle] = set()
        self._uploads: OrderedDict[str, Uploaded] = OrderedDict()
        self._infos: OrderedDict[str, FileInfo] = OrderedDict()
        #: Names without an object, and when that was heard.
        self._absent: OrderedDict[str, float] = OrderedDict()
        #: Keys of other programs that can be no names, and were told of.
        self._nameless: set[str] = set()

    @property
    def source(self) -> "StorageSource":
        return self._source

    @property
    def url(self) -> str:
        """The bucket and the prefix, without secrets."""
        return self._url

    @property
    def prefix(self) -> str:
        """Put before every name."""
        return self._prefix

    @property
    def closed(self) -> bool:
        return self._gate.is_closed

    # -- names -------------------------------------------------------------------------------------------

    def directory_list(
        self, directory: str | None = "", prefix: str | None = "", *, batch_size: int = _BATCH_SIZE
    ) -> list[str]:
        """The names that begin with ``directory`` + ``prefix``, in order, without ``directory``, which is a
        plain string (no slash is put behind it)."""
        with self._operation("list", f"{directory or ''}{prefix or ''}*"):
            cut = self._listed_cut(directory)
            return [entry.key[cut:] for page in self._pages(directory, prefix, batch_size) for entry in page]

    def directory_list_single(self, directory: str | None = "", prefix: str | None = "") -> list[str]:
        """The first of them, in a list that is empty when there is none; one request."""
        with self._operation("list_single", f"{directory or ''}{prefix or ''}*"):
            cut = self._listed_cut(directory)
            for page in self._pages(directory, prefix, 1):
                return [entry.key[cut:] for entry in page]
            return []

    def scan(
        self, directory: str | None = "", prefix: str | None = "", *, batch_size: int = _BATCH_SIZE
    ) -> Iterator[list[FileEntry]]:
        """The same as they come, ``batch_size`` at a time, with sizes; nothing is fetched ahead of need."""
        with self._operation("list", f"{directory or ''}{prefix or ''}*"):
            cut = self._listed_cut(directory)
            # The first page with the operation, so that its errors and its time are counted.
            pages = self._pages(directory, prefix, batch_size)
            page = next(pages, None)
        while page is not None:
            yield [FileEntry(entry.key[cut:], entry.size_bytes, entry.etag) for entry in page]
            with self._operation("list_page", f"{directory or ''}{prefix or ''}*"):
                page = next(pages, None)

    def _listed_prefix(self, directory: str | None, prefix: str | None) -> str:
        first = directory or ""
        if self._settings.list_like_s3_store and len(first) > 1 and not first.endswith("/"):
            first += "/"
        return first + (prefix or "")

    def _listed_cut(self, directory: str | None) -> int:
        """How much of a key is not part of the name in a listing."""
        stays = self._settings.list_like_s3_store
        return len(self._prefix) + (0 if stays else len(directory or ""))

    def _pages(self, directory: str | None, prefix: str | None, batch_size: int) -> Iterator[list[Entry]]:
        if batch_size < 1:
            raise Invalid(f"batch size {batch_size} is not at least 1")
        wanted = self._prefix + self._listed_prefix(directory, prefix)
        if "\0" in wanted:
            raise Invalid("a prefix with a zero byte")
        pages = self._bucket.list(prefix=wanted)

        async def next_page() -> list[Entry] | None:
            return await anext(pages, None)

        waiting: list[Entry] = []
        try:
            while (page := self._wait_for(next_page)) is not None:
                waiting += [entry for entry in page if self._has_name(entry.key)]
                while len(waiting) >= batch_size:
                    yield waiting[:batch_size]
                    del waiting[:batch_size]
            if waiting:
                yield waiting
        finally:
            self.running.soon(lambda: close_pages(pages))

    def _has_name(self, key: str) -> bool:
        """Whether a listed object can be a file: another program may have put one with any key."""
        flaw = key_flaw(key)
        if flaw is not None and key not in self._nameless and len(self._nameless) < _NAMELESS_TOLD_MAX:
            self._nameless.add(key)
            self.log.write(WARNING, f"not listed: the key {key!r} {flaw}")
        return flaw is None

    def exist(self, name: str) -> bool:
        """Whether the object is in the bucket: it is asked each time, unless ``absent_seconds`` says
        otherwise."""
        with self._operation("exist", name):
            try:
                self._head(name)
            except BucketNotFound:
                raise
            except NotFound:
                return False
            return True

    def size(self, name: str) -> int:
        """In bytes; of the open object where it is open here. Raises FileNotFoundError."""
        with self._operation("size", name):
            with self._lock:
                shared = self._open.get(name)
            if shared is not None and shared.object is not None:
                return shared.object.size_bytes
            return self._head(name).size_bytes

    def info(self, name: str) -> FileInfo:
        """What the bucket says of it; what it said before, of the open object where it is open here. Raises
        FileNotFoundError."""
        with self._operation("size", name):
            with self._lock:
                shared = self._open.get(name)
                known = self._infos.get(name)
            # An ETag says which object it was: for as long as that is open nothing else can be true of it.
            opened = None if shared is None else shared.object
            if opened is not None and known is not None and opened.etag == known.etag:
                return known
            info = self._head(name)
            has_checksums = PIECES_METADATA in info.attributes.metadata
            found = FileInfo(name, info.size_bytes, info.etag, info.modified, has_checksums)
            with self._lock:
                self._infos[name] = found
                while len(self._infos) > _INFOS_REMEMBERED_MAX:
                    self._infos.popitem(last=False)
            return found

    def _head(self, name: str) -> ObjectInfo:
        key = object_key(self._prefix, name)
        if self._is_known_absent(name):
            raise NotFound(f"object {name} does not exist in the bucket")
        try:
            return self._wait_for(lambda: self._bucket.head(key))
        except BucketNotFound:
            raise
        except NotFound:
            self._remember_absent(name)
            raise

    def _is_known_absent(self, name: str) -> bool:
        if not self._settings.absent_seconds:
            return False
        with self._lock:
            heard = self._absent.get(name)
            if heard is not None and time.monotonic() - heard < self._settings.absent_seconds:
                self._statistics.count("absent_remembered")
                return True
            self._absent.pop(name, None)
            return False

    def _remember_absent(self, name: str) -> None:
        if self._settings.absent_seconds:
            with self._lock:
                self._absent[name] = time.monotonic()
                while len(self._absent) > _ABSENT_REMEMBERED_MAX:
                    self._absent.popitem(last=False)

    # -- opening -----------------------------------------------------------------------------------------

    def open_file(
        self, name: str, kind: str = "data", *, read_only: bool = True, create: bool = False
    ) -> FileHandle:
        """Open a file to read it. Raises FileNotFoundError; EINVAL for another kind than FILE_KINDS, to
        create, and for anything but reading."""
        with self._operation("open", name):
            if kind not in FILE_KINDS:
                raise Invalid(f"{name}: a file of kind {kind!r} cannot be opened in a bucket")
            if create or not read_only:
                raise Invalid(f"{name}: files in a bucket are opened for reading only")
            key = object_key(self._prefix, name)
            with self._lock:
                shared = self._open.get(name)
                if shared is None:
                    opened = self.running.start(lambda: self._reader.open(key, name))
                    shared = self._open[name] = SharedObject(name, opened)
                is_new = not shared.count
                shared.count += 1
            try:
                shared.object = self._gate.wait(shared.opened)
                handle = FileHandle(self, name, shared, shared.object)
            except BaseException:
                self._give_back(shared)
                raise
            with self._lock:
                self._handles.add(handle)
            if is_new:
                self._statistics.count("handles_opened")
            return handle

    def release(self, handle: FileHandle, shared: SharedObject) -> None:
        """For a handle that has been closed."""
        with self._lock:
            self._handles.discard(handle)
        self._give_back(shared)

    def _give_back(self, shared: SharedObject) -> None:
        with self._lock:
            shared.count -= 1
            if shared.count:
                return
            if self._open.get(shared.name) is shared:
                del self._open[shared.name]
        if not shared.opened.is_done:
            shared.opened.cancel()  # nobody waits for it any more
        shared.opened.when_done(self._close_object)

    def _close_object(self, opened: "concurrent.futures.Future[OpenObject]") -> None:
        if opened.exception() is None:
            self.running.post(opened.result().close)

    def disown(self, shared: SharedObject) -> None:
        """The name means something else by now: who opens it from here on gets that."""
        with self._lock:
            if self._open.get(shared.name) is shared:
                del self._open[shared.name]

    # -- changing ----------------------------------------------------------------------------------------

    def flush(
        self,
        source: str | os.PathLike[str],
        name: str,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> bool:
        """Copy the local file ``source`` (relative to the source's home) to the object ``name``, whole. It is
        durable in the bucket when this returns.

        Where the object exists with the same content nothing is written, and True is returned; with another
        content it stays, and FileExistsError is raised. FileNotFoundError means that the local file is not
        there, and nothing else. ``progress`` is told, in another thread, how many bytes are in the bucket.
        """
        with self._operation("flush", name) as operation:
            key = object_key(self._prefix, name)
            path = self._local(source)
            # Seen here, before a thread and a request are used for it; upload looks again.
            if not path.exists():
                raise FileNotFoundError(errno.ENOENT, f"No such file: {path}")
            uploaded = self._wait_for(lambda: self._upload(key, path, progress))
            operation.size_bytes = uploaded.size_bytes
            self._statistics.count("objects_already_there" if uploaded.was_there else "objects_uploaded")
            with self._lock:
                self._absent.pop(name, None)
                self._uploads[name] = uploaded
                while len(self._uploads) > _UPLOADS_REMEMBERED_MAX:
                    self._uploads.popitem(last=False)
                shared = self._open.get(name)
                if shared is not None and shared.object is not None and shared.object.etag != uploaded.etag:
                    # Open from before somebody removed it: who opens the name now gets what is there now.
                    del self._open[name]
            return uploaded.was_there

    async def _upload(self, key: str, path: Path, progress: Callable[[int], None] | None = None) -> Uploaded:
        try:
            return await upload(
                self._bucket,
                key,
                path,
                settings=self._settings.upload,
                records=self._records,
                progress=progress,
            )
        except BucketNotFound:
            raise
        except NotFound as error:
            # Whatever was not found, the local file was: ENOENT would tell a storage engine that it is gone.
            raise Unavailable(f"upload of {key}: {error}") from error

    def flush_finish(self, source: str | os.PathLike[str], name: str) -> None:
        """After a flush, while the local file is still there: keep a copy of it in the cache. What goes wrong
        with that is logged and no error: the object is in the bucket."""
        with self._operation("flush_finish", name) as operation:
            key = object_key(self._prefix, name)
            path = self._local(source)
            with self._lock:
                uploaded = self._uploads.pop(name, None)
            if uploaded is None:
                # Flushed by another process, or before a restart: it comes to the cache when it is read.
                return
            try:
                self._wait_for(lambda: self._reader.adopt(key, name, path, uploaded))
            except Closed:
                raise
            except FileNotFoundError:
                # The storage engine was faster: it deletes local files when it has no use for them.
                self.log.write(DEBUG_1, f"flush_finish {name}: {path} has gone")
            except (BucketryError, OSError) as error:
                self.log.write(WARNING, f"flush_finish {name}: not kept in the cache: {error}")
            else:
                operation.size_bytes = uploaded.size_bytes

    def remove(self, name: str) -> None:
        """Delete the object; succeeds when there was none. Handles that are open keep what the cache has of
        it. Refused (ENOTSUP) when the settings say so."""
        with self._operation("remove", name):
            if not self._settings.allow_remove:
                raise Unsupported(f"{name}: remove of file not supported")
            key = object_key(self._prefix, name)
            self._wait_for(lambda: self._bucket.delete(key))
            # After it has gone: who opened it in the meantime has the last of it.
            with self._lock:
                self._open.pop(name, None)
                self._uploads.pop(name, None)
            self._reader.forget(key, name)

    def sweep(self, *, older_than_seconds: float | None = None) -> int:
        """Abort uploads in parts below this file system's prefix that nobody will complete, and say how many
        there were: those that a killed process of this machine left, and those that began longer ago
        (``UploadSettings.stale_after_seconds`` otherwise). One that is still alive begins anew."""
        wanted = (
            self._settings.upload.stale_after_seconds if older_than_seconds is None else older_than_seconds
        )
        with self._operation("sweep", self._prefix):
            return self._wait_for(
                lambda: sweep(
                    self._bucket, prefix=self._prefix, older_than_seconds=wanted, records=self._records
                )
            )

    def rename(self, name: str, new_name: str) -> None:
        """Refused (ENOTSUP): an object keeps its name."""
        self.log.raised(f"{name}: rename of file not supported")
        raise OSError(errno.ENOTSUP, f"{name}: rename of file not supported")

    def _local(self, source: str | os.PathLike[str]) -> Path:
        return local_path(self._source.home, os.fspath(source))

    # -- the cache -------------------------------------------------------------------------------------------

    def scrub(self, *, compare: bool = False) -> Iterator[ScrubReport]:
        """Verify everything in the cache directory, whoever's it is; drop what is damaged. ``compare``: ask
        the bucket about each object of this file system's bucket, and drop what has gone or changed there.
        The report grows; the last one is complete. Others may read meanwhile."""
        how = self._current_etag if compare else None
        steps = self._cache.scrub(how)
        while True:
            with self._operation("scrub", str(self._cache.directory)):
                report = next(steps, None)
            if report is None:
                return
            yield report

    def _current_etag(self, store: str, key: str) -> str | None:
        return self._wait_for(lambda: self._reader.current_etag(store, key))

    # -- ending ------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """End calls that are under way (EBADF), close what is open, let the bucket go. Twice is fine."""
        if not self._gate.close() or not self._source.is_of_this_process:
            return
        self._gate.wait_empty()
        with self._lock:
            handles = list(self._handles)
        for handle in handles:
            handle.close()
        try:
            with suppress(Closed):
                self.running.call(self._close_below)
        finally:
            self._source.forget(self, self._cache)

    async def _close_below(self) -> None:
        try:
            await self._reader.close()
        finally:
            await self._bucket.close()

    def __enter__(self) -> "FileSystem":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    def __repr__(self) -> str:
        return f"<{'terminated' if self.closed else 'open'} FileSystem of {self._url}>"

    def _operation(self, name: str, about: str) -> Operation:
        return Operation(self._gate, self._statistics.meter(name), self.log, name, about)

    def _wait_for(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._gate.call(self.running, make)

    # -- for its handles, and for figures ----------------------------------------------------------------

    @property
    def running(self) -> LoopThread:
        return self._source.running

    @property
    def log(self) -> SourceLog:
        return self._source.log

    @property
    def _settings(self) -> FilesSettings:
        return self._source.settings

    @property
    def _statistics(self) -> FilesStatistics:
        return self._source.counted

    @property
    def statistics_of_source(self) -> FilesStatistics:
        return self._source.counted

    def statistics(self) -> dict[str, object]:
        """Of its bucket and its reads, and what is open now."""
        with self._lock:
            figures: dict[str, object] = {
                "open_handles": len(self._handles),
                "open_names": len(self._open),
            }
        return {**figures, "reader": self._reader.statistics(), **self._bucket.statistics()}
