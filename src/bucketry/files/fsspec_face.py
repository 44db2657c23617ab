"""Write-once files as fsspec file systems, for pandas, pyarrow, DuckDB and whatever else speaks fsspec.

Two protocols, with one cache below them:

``bucketry://name``
    rooted: ``fsspec.filesystem("bucketry", url="s3://bucket/prefix", …)``; a path is a name below that URL
``bucketry+s3://bucket/name``, and the same with ``gs``, ``az`` and ``memory``
    as ``s3://`` of others: the bucket is in the path, and one file system serves all buckets

What others chain (``filecache::s3://…``) needs the other's package to make sense of ``s3://``; here nothing
else is needed.

Files are written once: the same content again is fine, another one is a FileExistsError, unless the file
system was made with ``overwrite=True`` or the call says so. Directories are what slashes in names suggest, as
in every object store: an empty one is none.
"""

import errno
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from bucketry.errors import Invalid
from bucketry.files.file_handle import FileHandle
from bucketry.files.file_system import FileSystem
from bucketry.files.storage_source import StorageSource
from bucketry.settings import BucketSettings, FilesSettings, Secret

#: What is copied at a time: as much as is read ahead in one request.
_COPY_BYTES = 8 << 20
#: Options by the names that s3fs has for them.
_S3FS_NAMES = {
    "key": "access_id",
    "secret": "access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "anon": "anonymous",
}
_BUCKET_OPTIONS = frozenset(field.name for field in fields(BucketSettings)) - {"url", "prefix"}
_FILES_OPTIONS = frozenset(field.name for field in fields(FilesSettings))
_SECRET_OPTIONS = frozenset({"access_key", "session_token", "encryption_key"})
#: Options that fsspec adds by itself, or that mean something to its base class.
_OF_FSSPEC = frozenset(
    {
        "asynchronous", "loop", "batch_size", "skip_instance_cache", "use_listings_cache",
        "listings_expiry_time", "max_paths", "auto_mkdir",
    }
)  # fmt: skip
_PATH_OPTIONS = frozenset({"cache_dir", "access_file", "ca_file", "statistics_file"})


class _Shared:
    """A storage source that file systems with the same options share: fsspec makes one for each thread."""

    def __init__(self, source: StorageSource) -> None:
        self.source = source
        self.file_systems: dict[str, FileSystem] = {}
        self.lock = threading.Lock()
        self.count = 0

    def file_system(self, url: str) -> FileSystem:
        with self.lock:
            found = self.file_systems.get(url)
            if found is None:
                found = self.file_systems[url] = self.source.customize_file_system(url)
            return found


_sources: dict[object, _Shared] = {}
_sources_lock = threading.Lock()


def _take(files: FilesSettings, bucket: BucketSettings) -> tuple[object, _Shared]:
    # A process that was forked has none of the threads.
    key = (os.getpid(), files, bucket)
    with _sources_lock:
        shared = _sources.get(key)
        if shared is None or shared.source.closed:
            shared = _sources[key] = _Shared(StorageSource(settings=files, bucket=bucket))
        shared.count += 1
        return key, shared


def _give_back(key: object, shared: _Shared) -> None:
    with _sources_lock:
        shared.count -= 1
        if shared.count:
            return
        if _sources.get(key) is shared:
            del _sources[key]
    with suppress(OSError):
        shared.source.terminate()


class BucketryFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """``url``: the bucket and the prefix that names are below. ``overwrite``: writing replaces what is there.

    Further options are those of BucketSettings (``endpoint``, ``region``, ``access_id``, ``access_key``,
    ``session_token``, ``access_file``, ``profile``, ``anonymous`` …; also by the names that s3fs has) and of
    FilesSettings (``cache_dir``, ``cache_size_bytes``, ``mode``, ``read_ahead_bytes`` …). Without
    ``cache_dir`` the cache is a temporary directory.

    ``close`` ends it; otherwise the end of the process does.
    """

    protocol: ClassVar[Any] = "bucketry"
    root_marker = ""
    #: Ours: None for the rooted protocol.
    scheme: ClassVar[str | None] = None

    def __init__(self, url: str | None = None, *, overwrite: bool = False, **options: Any) -> None:
        super().__init__(url=url, overwrite=overwrite, **options)
        if (url is None) is (self.scheme is None):
            raise Invalid(
                f"{self.protocol}:// needs url=, the bucket that names are in"
                if url is None
                else f"{self.protocol}:// has the bucket in its paths: it takes no url="
            )
        self._url = url
        self._overwrite = overwrite
        files, bucket = _settings(options)
        key, self._shared = _take(files, bucket)
        self._end = weakref.finalize(self, _give_back, key, self._shared)
        # The source ends itself at exit; by then the order of things is no longer ours to choose.
        self._end.atexit = False

    # -- where things are --------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path)
        for protocol in (cls.protocol,) if isinstance(cls.protocol, str) else cls.protocol:
            text = text.removeprefix(f"{protocol}://")
        return text.strip("/")

    def _locate(self, path: str) -> tuple[FileSystem, str]:
        """The file system and the name in it; an empty name is its root."""
        path = self._strip_protocol(path)
        if self._url is not None:
            return self._shared.file_system(self._url), path
        bucket, _, name = path.partition("/")
        if not bucket:
            raise OSError(errno.EINVAL, f"{self.protocol}:// without a bucket: buckets cannot be listed")
        return self._shared.file_system(f"{self.scheme}://{bucket}"), name

    def _outer(self, path: str, name: str) -> str:
        """The path of ``name``, which was found in the file system that ``path`` is in."""
        if self._url is not None:
            return name
        bucket = self._strip_protocol(path).partition("/")[0]
        return f"{bucket}/{name}" if name else bucket

    @property
    def fsid(self) -> str:
        return f"bucketry_{self._url or self.scheme}"

    @property
    def source(self) -> StorageSource:
        """For its ``statistics()``, among others."""
        return self._shared.source

    def close(self) -> None:
        """Let go of buckets and cache; with the last file system of its options they are closed. Twice is
        fine."""
        self._end()
        self._cache.pop(self._fs_token_, None)

    # -- looking -----------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        files, name = self._locate(path)
        if name:
            with suppress(FileNotFoundError):
                found = files.info(name)
                return {
                    "name": self._outer(path, name),
                    "size": found.size_bytes,
                    "type": "file",
                    "ETag": found.etag,
                    "LastModified": found.modified,
                }
        if not name or files.directory_list_single(f"{name}/"):
            return _directory(self._outer(path, name))
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._strip_protocol(path))

    def exists(self, path: str, **kwargs: Any) -> bool:
        # The base takes every error for absence.
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        found = self._find(path, maxdepth=1, withdirs=True)
        if not found:
            info = self.info(path)
            if info["type"] == "file":
                found = {info["name"]: info}
        return [found[name] for name in sorted(found)] if detail else sorted(found)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        found = self._find(path, maxdepth=maxdepth, withdirs=withdirs)
        here = self._strip_protocol(path)
        if withdirs and found and here:
            found[here] = _directory(here)
        if not found:
            with suppress(FileNotFoundError):
                info = self.info(path)
                if info["type"] == "file":
                    found[info["name"]] = info
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    def _find(self, path: str, *, maxdepth: int | None, withdirs: bool) -> dict[str, dict[str, Any]]:
        """What is below ``path``, by one listing."""
        files, name = self._locate(path)
        above = f"{name}/" if name else ""
        found: dict[str, dict[str, Any]] = {}
        for page in files.scan(above):
            for entry in page:
                parts = entry.name.split("/")
                if maxdepth is None or len(parts) <= maxdepth:
                    outer = self._outer(path, above + entry.name)
                    found[outer] = {
                        "name": outer,
                        "size": entry.size_bytes,
                        "type": "file",
                        "ETag": entry.etag,
                    }
                if withdirs:
                    for depth in range(1, min(len(parts), (maxdepth or len(parts)) + 1)):
                        outer = self._outer(path, above + "/".join(parts[:depth]))
                        found.setdefault(outer, _directory(outer))
        return found

    def modified(self, path: str) -> Any:
        return self.info(path)["LastModified"]

    def created(self, path: str) -> Any:
        """When it was put, which is when it came to be."""
        return self.modified(path)

    def ukey(self, path: str) -> str:
        return str(self.info(path)["ETag"])

    def checksum(self, path: str) -> int:
        return int.from_bytes(self.ukey(path).encode()[:16])

    # -- reading -----------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "BucketryFile":
        files, name = self._locate(path)
        if mode == "rb":
            # Our cache is below; fsspec's own on top would only copy.
            kwargs = {"cache_type": "none", **kwargs}
            return BucketryFile(self, path, files.open_file(name), block_size=block_size, **kwargs)
        if mode == "ab":
            raise OSError(errno.ENOTSUP, f"{path}: files are written once: nothing can be appended")
        if mode == "xb" and files.exist(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return BucketryFile(self, path, None, mode=mode, block_size=block_size, autocommit=autocommit)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        files, name = self._locate(path)
        with files.open_file(name) as handle:
            first, last, _ = slice(start, end).indices(handle.size())
            return handle.read(first, max(0, last - first))

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        if outfile is None and self.isdir(rpath):
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        files, name = self._locate(rpath)
        with files.open_file(name) as handle:
            callback.set_size(handle.size())
            if outfile is None and hasattr(lpath, "write"):
                outfile = lpath
            if outfile is not None:
                _copy_out(handle, outfile, callback)
                return
            Path(lpath).parent.mkdir(parents=True, exist_ok=True)
            with open(lpath, "wb") as file:  # noqa: PTH123 - a name of fsspec's, which may be of any kind
                _copy_out(handle, file, callback)

    # -- writing -----------------------------------------------------------------------------------------

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        """``mode`` as of pipe_file."""
        if Path(lpath).is_dir():
            return
        size = Path(lpath).stat().st_size
        callback.set_size(size)
        self.put_local(Path(lpath).absolute(), rpath, mode)
        callback.absolute_update(size)

    def pipe_file(self, path: str, value: bytes, mode: str | None = None, **kwargs: Any) -> None:
        """``mode``: "create" fails where anything is, "overwrite" replaces it; None takes the same content
        for a success, and fails for another."""
        with tempfile.NamedTemporaryFile(prefix="bucketry-") as file:
            file.write(value)
            file.flush()
            self.put_local(Path(file.name), path, mode)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        if self.isdir(path1):
            return
        with tempfile.NamedTemporaryFile(prefix="bucketry-") as file:
            files, name = self._locate(path1)
            with files.open_file(name) as handle:
                _copy_out(handle, file, DEFAULT_CALLBACK)
            file.flush()
            self.put_local(Path(file.name), path2, None)

    def put_local(self, local: Path, path: str, mode: str | None) -> None:
        """A local file becomes an object; ``mode`` as of pipe_file."""
        files, name = self._locate(path)
        if mode == "create" and files.exist(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._strip_protocol(path))
        try:
            files.flush(local, name)
        except FileExistsError:
            if mode == "create" or not (self._overwrite or mode == "overwrite"):
                raise
            files.remove(name)
            files.flush(local, name)
        files.flush_finish(local, name)

    # -- changing names and directories ------------------------------------------------------------------

    def rm_file(self, path: str) -> None:
        files, name = self._locate(path)
        if not files.exist(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._strip_protocol(path))
        files.remove(name)

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        for found in self._to_remove(path, recursive, maxdepth):
            files, name = self._locate(found)
            files.remove(name)

    def _to_remove(self, path: Any, recursive: bool, maxdepth: int | None) -> Iterator[str]:
        for one in self.expand_path(path, recursive=recursive, maxdepth=maxdepth):
            if self.isfile(one):
                yield one
            elif not recursive:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), one)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Nothing: a directory is there when something is in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, as mkdir."""

    def rmdir(self, path: str) -> None:
        """Nothing, as mkdir; OSError where something is in it."""
        if self.isdir(path) and self._find(path, maxdepth=1, withdirs=True):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._url or f'{self.scheme}://…'}>"


class BucketryS3FileSystem(BucketryFileSystem):
    """``bucketry+s3://bucket/name``"""

    protocol = "bucketry+s3"
    scheme = "s3"


class BucketryGoogleFileSystem(BucketryFileSystem):
    """``bucketry+gs://bucket/name``"""

    protocol = "bucketry+gs"
    scheme = "gs"


class BucketryAzureFileSystem(BucketryFileSystem):
    """``bucketry+az://container/name``"""

    protocol = "bucketry+az"
    scheme = "az"


class BucketryMemoryFileSystem(BucketryFileSystem):
    """``bucketry+memory://store/name``"""

    protocol = "bucketry+memory"
    scheme = "memory"


class BucketryFile(AbstractBufferedFile):  # type: ignore[misc]
    """One file, open for reading through a handle, or being written to a temporary file that is uploaded when
    it is closed.

    A ``with`` block that ends in an exception uploads nothing.
    """

    def __init__(
        self,
        fs: BucketryFileSystem,
        path: str,
        handle: FileHandle | None,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        **kwargs: Any,
    ) -> None:
        self._handle = handle
        self._part: Any = None
        self.closed: bool
        self.cache: Any
        if handle is not None:
            kwargs["size"] = handle.size()
        super().__init__(fs, path, mode, block_size or "default", autocommit, **kwargs)
        if handle is not None and self.cache.name == "none":
            # It would hold the file as the file holds it: a program that does not close its files, as DuckDB
            # does not, would keep them open until the garbage collector comes by.
            self.cache = None
        if handle is None:
            self._part = tempfile.NamedTemporaryFile(prefix="bucketry-")  # noqa: SIM115 - closed in close

    # Reading.

    def _fetch_range(self, start: int, end: int) -> bytes:
        assert self._handle is not None
        return self._handle.read(start, min(end, self.size) - start)

    def read(self, length: int | None = -1) -> bytes:
        if self._handle is None or self.closed or self.cache is not None:
            found: bytes = super().read(length)
            return found
        left = max(0, self.size - self.loc)
        wanted = left if length is None or length < 0 else min(length, left)
        data = self._handle.read(min(self.loc, self.size), wanted)
        self.loc += len(data)
        return data

    def readinto(self, b: Any) -> int:
        if self._handle is None or self.closed or self.cache is not None:
            return int(super().readinto(b))
        view = memoryview(b).cast("B")[: max(0, self.size - self.loc)]
        self._handle.readinto(min(self.loc, self.size), view)
        self.loc += len(view)
        return len(view)

    # Writing.

    def write(self, data: Any) -> int:
        if not self.writable():
            raise ValueError("not open for writing")
        count: int = self._part.write(data)
        self.loc += count
        return count

    def flush(self, force: bool = False) -> None:
        """What was written goes to the bucket when the file is closed, and not before."""
        if self._part is not None and not self.closed:
            self._part.flush()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._part is not None and self.autocommit:
                self.commit()
        finally:
            self.closed = True
            if self._handle is not None:
                self._handle.close()
            if self._part is not None and self.autocommit:
                self.discard()

    def commit(self) -> None:
        self._part.flush()
        # "x" was looked at when it was opened; another writer may have come since.
        self.fs.put_local(Path(self._part.name), self.path, "create" if self.mode == "xb" else None)
        if self.closed:
            self.discard()

    def discard(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None

    def __exit__(self, *args: Any) -> None:
        if args and args[0] is not None and self._part is not None:
            self.discard()
            self.closed = True
            return
        self.close()

    def __del__(self) -> None:
        # A file that nobody closed was not finished by anybody.
        handle, part = getattr(self, "_handle", None), getattr(self, "_part", None)
        if not self.closed and self.autocommit:
            self.closed = True
            if part is not None:
                part.close()
            if handle is not None:
                handle.close_soon()


def _copy_out(handle: FileHandle, file: Any, callback: Any) -> None:
    size = handle.size()
    buffer = memoryview(bytearray(min(size, _COPY_BYTES)))
    for offset in range(0, size, _COPY_BYTES):
        part = buffer[: size - offset]
        handle.readinto(offset, part)
        file.write(part)
        callback.relative_update(len(part))


def _directory(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _settings(options: dict[str, Any]) -> tuple[FilesSettings, BucketSettings]:
    """Raises Invalid for options that are nobody's."""
    files: dict[str, Any] = {}
    bucket: dict[str, Any] = {}
    for given, value in options.items():
        name = _S3FS_NAMES.get(given, given)
        if isinstance(value, Secret):
            # fsspec takes two file systems for one whose options look the same, and all secrets do.
            raise Invalid(f"{given} is to be given as text or bytes here, not as a Secret")
        if value is not None and name in _SECRET_OPTIONS:
            value = Secret(value)
        if value is not None and name in _PATH_OPTIONS:
            value = Path(value)
        if name == "tags" and isinstance(value, Mapping):
            value = tuple(sorted(value.items()))
        if name in _FILES_OPTIONS:
            files[name] = value
        elif name in _BUCKET_OPTIONS:
            bucket[name] = value
        elif given not in _OF_FSSPEC:
            raise Invalid(f"{given} is not an option of bucketry's file systems")
    if files.get("cache_dir") is None:
        files["private_cache"] = True
    return FilesSettings(**files), BucketSettings(url="", **bucket)
