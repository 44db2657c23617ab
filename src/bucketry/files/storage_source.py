"""Where everything about write-once files hangs together: a reference-counted source of file systems, each
over one bucket.
"""

import asyncio
import atexit
import errno
import hashlib
import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bucketry.bucket.identity import bucket_identity
from bucketry.bucket.injected import Injected
from bucketry.bucket.interface import Bucket
from bucketry.bucket.stack import locate, stacked
from bucketry.bucket.wrapper import close_pages
from bucketry.codec.sealed_bucket import SealedBucket
from bucketry.core.exposition import render_prometheus
from bucketry.errors import BucketNotFound, BucketryError, Denied, Invalid, Unavailable
from bucketry.files.config_text import read_options
from bucketry.files.file_system import FileSystem
from bucketry.files.gate import Gate
from bucketry.files.log import DEBUG_1, WARNING, LogHook, SourceLog
from bucketry.files.naming import BucketName, bucket_settings, object_key, parse_bucket, parse_token
from bucketry.files.object_cache import ObjectCache
from bucketry.files.object_reader import ObjectReader
from bucketry.files.operation import Operation
from bucketry.files.snapshot import write_snapshot
from bucketry.files.statistics import FilesStatistics
from bucketry.settings import BucketSettings, FilesSettings
from bucketry.threads.loop_thread import LoopThread


class StorageSource:
    """``home`` is the directory that local names are relative to, and where caches are made; ``settings``
    hold for all file systems; ``bucket`` says how to reach buckets (endpoint, retries, limits …; its ``url``
    is not used). ``log`` takes the lines that would go to ``logging`` otherwise.

    It begins with one reference; ``terminate`` gives one back, and the last one ends everything. As a context
    manager it ends with the block. Every method may be called from any thread.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] = ".",
        settings: FilesSettings | None = None,
        bucket: BucketSettings | None = None,
        *,
        log: LogHook | None = None,
    ) -> None:
        self._home = Path(home).absolute()
        self._settings = settings or FilesSettings()
        self._template = bucket or BucketSettings(url="")
        self._log = SourceLog(log, self._settings.log_level)
        self._counted = FilesStatistics()
        self._gate = Gate("the storage source")
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._reference_count = 1
        #: By file systems that have been terminated.
        self._former_get_count = 0
        self._file_systems: list[FileSystem] = []
        #: By real path: file systems share them, but for private ones.
        self._caches: dict[str, _SharedCache] = {}
        self._running = LoopThread("storage source", self._log.context)
        if self._settings.statistics_file is not None:
            self._running.soon(self._write_figures)
        _unterminated.add(self)

    # -- references --------------------------------------------------------------------------------------

    def add_reference(self) -> None:
        """One more ``terminate`` is needed to end it. EINVAL when it has ended."""
        with self._lock:
            if self._reference_count > 0:
                self._reference_count += 1
                return
        self._log.raised("add_reference: the storage source has no reference left")
        raise OSError(errno.EINVAL, "the storage source has no reference left")

    @property
    def references(self) -> int:
        """How many there are; 0 when it has ended."""
        return self._reference_count

    def terminate(self) -> None:
        """Give one reference back. With the last one: what is under way ends (EBADF), handles and file
        systems that are still there are closed. EINVAL when there is no reference left."""
        with self._lock:
            if self._reference_count == 0:
                raise OSError(errno.EINVAL, "the storage source has no reference left")
            self._reference_count -= 1
            if self._reference_count:
                return
        self._end()

    def _end(self) -> None:
        self._gate.close()
        if not self.is_of_this_process:
            return  # threads, figures and caches are the parent's
        self._gate.wait_empty()
        # While the buckets can still be asked for theirs.
        if self._log.is_enabled(DEBUG_1):
            self._log.write(DEBUG_1, f"statistics: {self.statistics()['counters']}")
        with suppress(OSError):
            self._write_figures_now()
        with self._lock:
            left = list(self._file_systems)
        for file_system in left:
            try:
                file_system.terminate()
            except (BucketryError, OSError) as error:
                self._log.write(WARNING, f"terminate {file_system.url}: {error}")
        self._running.close()
        self._log.close()
        _unterminated.discard(self)

    @property
    def closed(self) -> bool:
        return self._gate.is_closed

    def __enter__(self) -> "StorageSource":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.closed:
            self.terminate()

    def __repr__(self) -> str:
        state = "terminated" if self.closed else f"{len(self._file_systems)} file systems"
        return f"<StorageSource at {self._home}, {state}>"

    # -- file systems ------------------------------------------------------------------------------------

    def customize_file_system(
        self,
        bucket: str,
        auth_token: str | None = None,
        config: str | bytes | Mapping[str, object] | None = None,
    ) -> FileSystem:
        """A file system over ``bucket``: ``name;region``, which needs ``auth_token``, or a URL, which may
        have one. The token is ``access_key_id;secret_access_key``, with ``;session_token`` or without.

        ``config`` may say ``prefix`` (put before every name) and ``cache_directory``, as a mapping or as text
        in WiredTiger's manner; everything else in it, garbage included, is passed over.

        Raises OSError: EINVAL for strings of another form, and for a bucket that does not exist (``<bucket> :
        No such bucket.``); EACCES when the store denies access, EAGAIN when it cannot be reached; ENOENT,
        EINVAL or another of the local system's when the cache directory cannot be made.
        """
        with Operation(self._gate, self._counted.meter("customize"), self._log, "customize", _shown(bucket)):
            name = parse_bucket(bucket)
            keys = parse_token(auth_token)
            settings = bucket_settings(self._template, name, keys)
            options = _options(config)
            store, prefix = stacked(settings, wrap=self._faults_below)
            try:
                prefix += options.get("prefix", "")
                if prefix:
                    object_key(prefix, "name")
                if self._settings.encryption_key is not None:
                    store = SealedBucket(store, self._settings.encryption_key, offload=asyncio.to_thread)
                if (faults := self._settings.faults) is not None and faults.above_retries:
                    store = Injected(store, faults)
                self._gate.call(self._running, lambda: _check(store, name, prefix))
                cache = self._take_cache(name, options.get("cache_directory"))
                try:
                    where = bucket_identity(settings, locate(settings)) + self._seal()
                    reader = self._gate.call(self._running, lambda: self._read(store, cache, where))
                except BaseException:
                    self._give_cache_back(cache)
                    raise
            except BaseException:
                self._running.call(store.close)
                raise
            return self._add(name, prefix, store, cache, reader)

    def _seal(self) -> str:
        """What tells the plain from the encrypted in a cache, and one key from another: who has not the key
        finds nothing there that was read with it."""
        key = self._settings.encryption_key
        if key is None:
            return ""
        return " sealed with " + hashlib.sha256(b"bucketry cache " + key.reveal()).hexdigest()[:16]

    def _faults_below(self, store: Bucket) -> Bucket:
        faults = self._settings.faults
        return store if faults is None or faults.above_retries else Injected(store, faults)

    async def _read(self, store: Bucket, cache: ObjectCache, where: str) -> ObjectReader:
        """In the loop, to which a reader belongs. ``where``: buckets of one name on two servers may share a
        cache."""
        return ObjectReader(store, cache, self._settings, store=where)

    def _add(
        self, name: BucketName, prefix: str, store: Bucket, cache: ObjectCache, reader: ObjectReader
    ) -> FileSystem:
        file_system = FileSystem(
            self,
            url=f"{name.location.bucket_url}/{prefix}" if prefix else name.location.bucket_url,
            prefix=prefix,
            bucket=store,
            cache=cache,
            reader=reader,
        )
        with self._lock:
            self._file_systems.append(file_system)
        return file_system

    def _take_cache(self, name: BucketName, asked: str | None) -> ObjectCache:
        """That of its directory, which another file system may have, too."""
        if self._settings.private_cache:
            private = ObjectCache(None, size_bytes=self._settings.cache_size_bytes)
            with self._lock:
                self._caches[str(private.directory)] = _SharedCache(private, count=1)
            return private
        directory = self._home / (asked or self._settings.cache_dir or f"cache-{name.short_name}")
        where = os.path.realpath(directory)
        with self._lock:
            shared = self._caches.get(where)
            if shared is None:
                beside = directory.with_name(f".{directory.name}.bucketry")
                cache = ObjectCache(
                    directory,
                    size_bytes=self._settings.cache_size_bytes,
                    state_directory=beside if self._settings.cache_state_beside else None,
                )
                shared = self._caches[where] = _SharedCache(cache)
            shared.count += 1
            return shared.cache

    def _give_cache_back(self, cache: ObjectCache) -> None:
        with self._lock:
            for where, shared in list(self._caches.items()):
                if shared.cache is cache:
                    shared.count -= 1
                    if shared.count:
                        return
                    del self._caches[where]
        cache.close()

    def forget(self, file_system: FileSystem, cache: ObjectCache) -> None:
        """For a file system that has been terminated."""
        gets = _get_count(file_system.statistics())
        with self._lock:
            self._file_systems.remove(file_system)
            # A counter never goes down.
            self._former_get_count += gets
        self._give_cache_back(cache)

    def flush(self, file_system: FileSystem, source: str | os.PathLike[str], name: str) -> bool:
        """As ``FileSystem.flush``. EINVAL for another source's file system."""
        self._check_ours(file_system)
        return file_system.flush(source, name)

    def flush_finish(self, file_system: FileSystem, source: str | os.PathLike[str], name: str) -> None:
        """As ``FileSystem.flush_finish``. EINVAL for another source's file system."""
        self._check_ours(file_system)
        file_system.flush_finish(source, name)

    def _check_ours(self, file_system: FileSystem) -> None:
        if file_system.source is not self:
            raise OSError(errno.EINVAL, f"{file_system!r} belongs to another storage source")

    # -- figures -----------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, object]:
        """Everything that is counted and timed, as of now: nested mappings of numbers."""
        with self._lock:
            file_systems = list(self._file_systems)
            # Inside of the lock: whoever closes one takes it out first.
            caches = {where: shared.cache.statistics() for where, shared in self._caches.items()}
        buckets: dict[str, object] = {}
        get_count = self._former_get_count
        for file_system in file_systems:
            figures = file_system.statistics()
            get_count += _get_count(figures)
            label = file_system.url
            while label in buckets:
                label += " "
            buckets[label] = figures
        return {
            "references": self._reference_count,
            "file_systems": len(file_systems),
            "counters": self._counted.counters(get_count),
            "operations": self._counted.operations(),
            "caches": caches,
            "buckets": buckets,
        }

    def prometheus(self) -> str:
        """The same in Prometheus's text format."""
        return render_prometheus(self.statistics(), "bucketry_files")

    async def _write_figures(self) -> None:
        while True:
            try:
                self._write_figures_now()
            except OSError as error:
                self._log.write(WARNING, f"{self._settings.statistics_file}: {error.strerror or error}")
            await asyncio.sleep(self._settings.statistics_seconds)

    def _write_figures_now(self) -> None:
        if self._settings.statistics_file is not None:
            write_snapshot(self._home / self._settings.statistics_file, self.statistics())

    # -- for its file systems ----------------------------------------------------------------------------

    @property
    def is_of_this_process(self) -> bool:
        """False in a process that was forked from the one that made it: nothing there may be taken apart."""
        return os.getpid() == self._pid

    @property
    def home(self) -> Path:
        """What local names are relative to."""
        return self._home

    @property
    def settings(self) -> FilesSettings:
        return self._settings

    @property
    def running(self) -> LoopThread:
        return self._running

    @property
    def log(self) -> SourceLog:
        return self._log

    @property
    def counted(self) -> FilesStatistics:
        return self._counted


class _SharedCache:
    __slots__ = ("cache", "count")

    def __init__(self, cache: ObjectCache, count: int = 0) -> None:
        self.cache = cache
        #: File systems that have it.
        self.count = count


async def _check(store: Bucket, name: BucketName, prefix: str) -> None:
    """That the bucket is there and may be asked."""
    location = name.location
    shown = location.bucket_name if location.directory is None else str(location.directory)
    pages = store.list(prefix=prefix)
    try:
        await anext(pages, None)
    except BucketNotFound as error:
        raise Invalid(f"{shown} : No such bucket.") from error
    except Denied as error:
        raise Denied(f"{shown} : Unable to access bucket: {error}") from error
    except Unavailable as error:
        raise Unavailable(f"{shown} : Unable to reach bucket: {error}") from error
    finally:
        await close_pages(pages)


def _options(config: str | bytes | Mapping[str, object] | None) -> dict[str, str]:
    if isinstance(config, Mapping):
        return {str(key): str(value) for key, value in config.items() if value is not None}
    return read_options(config)


def _shown(bucket: object) -> str:
    """For the log: who mixes up the arguments has given keys here."""
    if not isinstance(bucket, str):
        return "?"
    return bucket if "://" in bucket and "@" not in bucket else bucket.partition(";")[0]


def _get_count(figures: Mapping[str, object]) -> int:
    """How often a bucket was asked for bytes."""
    for name in ("metered", "operations", "get", "count"):
        below = figures.get(name)
        if isinstance(below, int):
            return below
        if not isinstance(below, Mapping):
            return 0
        figures = below
    return 0


#: What must end before the interpreter does: the bucket client's threads may abort the process otherwise.
_unterminated: "weakref.WeakSet[StorageSource]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for source in list(_unterminated):
        # There is nobody left to tell.
        with suppress(Exception):
            while source.references:
                source.terminate()
