"""A bucket in a local directory: one file per object, durable, and safe between processes.

A put writes a file under ``.bucketry/``, makes it durable, and then gives it the object's name: by ``link``
where nothing may be there, by ``rename`` otherwise, so that a reader sees the old object or the new one,
whole. Every change takes a lock shared by all processes; a put with IfMatch takes it alone, looks at the ETag
again and only then renames. While a fence knows whose the bucket is, every change looks under that lock
whether it still is: a process that stood still before its rename changes nothing when somebody else has
become the owner meanwhile. Readers take no lock. Keys with slashes are files in sub-directories, which are
opened step by step without following symbolic links: nothing outside of the directory can be named.

Because files are looked up by name, a key cannot be both an object and the begin of others (``a`` and
``a/b``).
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from bucketry.bucket import directory_uploads
from bucketry.bucket.directory_lock import LOCK_NAME, locked
from bucketry.bucket.envelope import (
    ETAG_BYTES,
    HEADER_BYTES_MAX,
    Header,
    decode_header,
    decode_without_attributes,
    encode_header,
    header_size,
)
from bucketry.bucket.fenced import Fence
from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    ByteRange,
    BytesLike,
    Condition,
    Conditions,
    Entry,
    IfAbsent,
    IfMatch,
    Object,
    ObjectInfo,
    Part,
    PartPages,
    UploadLimits,
    UploadPages,
)
from bucketry.bucket.keys import check_key, key_flaw
from bucketry.bucket.parts import check_part, check_part_size, check_parts
from bucketry.bucket.sorted_names import SortedNames
from bucketry.bucket.threads import Threads
from bucketry.core.lease import SIZE_MAX as LEASE_BYTES_MAX
from bucketry.core.names import LEASE_NAME
from bucketry.core.priority import Priority
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Corrupt,
    Denied,
    Fenced,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
    UploadGone,
)

P = ParamSpec("P")
T = TypeVar("T")

#: Our own corner of the directory: files being written, and the lock. No object can have this name.
PRIVATE_NAME = ".bucketry"
#: Entries of one page of a listing: S3's.
_PAGE_COUNT_MAX = 1000
#: A put is in memory; parts are as S3's, but may be small: a directory has no reason to refuse them.
_UPLOAD_LIMITS = UploadLimits(
    put_size_max_bytes=5 << 30, parts_max=10_000, part_size_min_bytes=1, part_size_max_bytes=5 << 30
)
#: Enough for the header of nearly every object in one read.
_FIRST_READ_BYTES = 4096
#: The same for the header of a block, of which a listing reads many.
_LISTED_READ_BYTES = 1024
#: A file of a writer that died is removed when it is older; a living writer holds a lock on its file, so that
#: the age only has to cover the moment between making the file and locking it.
_STALE_AFTER_SECONDS = 3600
#: Somebody may remove an empty sub-directory between our making it and our using it; not many times in a row.
_ATTEMPTS_MAX = 10
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP)


class DirectoryBucket:
    """The bucket in ``directory``, which must exist when it is used (BucketNotFound otherwise). ``fence`` is
    asked under the lock, right before every change."""

    def __init__(self, directory: Path, *, threads_count_max: int, fence: Fence | None = None) -> None:
        self._fence = fence or Fence()
        self._root = str(directory)
        self._url = f"file://{directory}"
        self._threads = Threads(self._url, threads_count_max)
        self._conditions = Conditions(kept=True)
        self._is_swept = False

    @property
    def url(self) -> str:
        return self._url

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        return (await self._run(key, self._get, key, ByteRange(0, 0))).info

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        if byte_range is not None and not 0 <= byte_range.start <= byte_range.end:
            raise Invalid(f"{byte_range} is not a range of bytes")
        return await self._run(key, self._get, key, byte_range)

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await self._run(key, self._put, key, data, attributes, condition)

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        await self._run(key, self._delete, [key])

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        wanted = tuple(keys)
        for key in wanted:
            _check_own_key(key)
        await self._run(None, self._delete, wanted)

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        entries = self._walk("", prefix, after)
        try:
            while page := await self._run(None, _take, entries):
                yield page
        finally:
            # It holds directories open.
            entries.close()

    @property
    def conditions(self) -> Conditions:
        return self._conditions

    @property
    def listings_max(self) -> int:
        return 1  # each would read the whole directory

    @property
    def upload_limits(self) -> UploadLimits:
        return _UPLOAD_LIMITS

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        check_part_size(_UPLOAD_LIMITS, part_size_bytes)
        return await self._run(
            key, self._in_private, directory_uploads.create, key, part_size_bytes, attributes
        )

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        check_part(_UPLOAD_LIMITS, number, len(data))
        return await self._run(
            key, self._in_private, directory_uploads.put_part, key, upload_id, number, data
        )

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        check_parts(parts)
        return await self._run(key, self._complete, key, upload_id, parts, condition)

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        await self._run(key, self._in_private, directory_uploads.remove, key, upload_id)

    async def list_uploads(
        self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND
    ) -> UploadPages:
        found = await self._run(None, self._in_private, directory_uploads.listed, prefix)
        if found:
            yield found

    async def list_parts(
        self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD
    ) -> PartPages:
        found = await self._run(key, self._in_private, directory_uploads.parts_of, key, upload_id)
        if found:
            yield found

    def statistics(self) -> Mapping[str, object]:
        return {"calls_under_way": self._threads.busy_count}

    async def close(self) -> None:
        await self._threads.close()

    async def _run(self, key: str | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in a thread; what the system reports becomes ours."""
        if key is not None:
            _check_own_key(key)
        thing = self._url if key is None else f"{self._url}: object {key}"
        try:
            return await self._threads.run(function, *args, **kwargs)
        except OSError as error:
            raise _translate(error, thing) from error
        except Corrupt as error:
            raise Corrupt(f"{thing}: {error}") from error
        except UploadGone:
            raise UploadGone(f"{thing}: its upload in parts has ended") from None

    # Everything below runs in threads.

    @contextlib.contextmanager
    def _open_root(self) -> Iterator[int]:
        try:
            root = os.open(self._root, _DIRECTORY_FLAGS)
        except OSError as error:
            if error.errno in _ABSENT:
                raise BucketNotFound(f"{self._url}: no such directory") from error
            raise
        try:
            yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _open_parent(self, root: int, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory that holds the object's file, and the file's name in it."""
        *parents, name = key.split("/")
        current = os.dup(root)
        try:
            for parent in parents:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(parent, dir_fd=current)
                        os.fsync(current)
                below = os.open(parent, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=current)
                os.close(current)
                current = below
            yield current, name
        finally:
            os.close(current)

    def _get(self, key: str, byte_range: ByteRange | None) -> Object:
        with self._open_root() as root:
            try:
                with self._open_parent(root, key) as (parent, name):
                    file = os.open(name, _READ_FLAGS, dir_fd=parent)
            except OSError as error:
                if error.errno in _ABSENT:
                    raise NotFound(f"{self._url}: no object {key}") from None
                raise
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                # A sub-directory, or something that is no object.
                raise NotFound(f"{self._url}: no object {key}")
            begin = _read(file, 0, status.st_size if byte_range is None else _FIRST_READ_BYTES)
            header = _header_of(file, begin, status)
            if byte_range is None:
                data = memoryview(begin)[header.data_offset :]
                size_bytes = header.data_size_bytes
            else:
                size_bytes = max(0, min(byte_range.end, header.data_size_bytes) - byte_range.start)
                data = memoryview(_read(file, header.data_offset + byte_range.start, size_bytes))
            if len(data) != size_bytes:
                raise Corrupt("it became shorter while it was read")
        finally:
            os.close(file)
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return Object(ObjectInfo(key, header.data_size_bytes, header.etag, header.attributes, modified), data)

    def _put(self, key: str, data: BytesLike, attributes: Attributes, condition: Condition) -> str:
        etag = secrets.token_bytes(ETAG_BYTES)
        header = encode_header(attributes, etag, memoryview(data).nbytes)
        if len(header) > HEADER_BYTES_MAX:
            raise Invalid(f"{self._url}: object {key} has more than {HEADER_BYTES_MAX} bytes of attributes")
        with self._open_root() as root, self._open_private(root) as private:
            if not self._is_swept:
                self._is_swept = True
                _sweep(private)
            temporary = f"{os.getpid()}-{etag.hex()}"
            file = os.open(temporary, _CREATE_FLAGS, 0o666, dir_fd=private)
            try:
                # Says that the writer lives; see _sweep.
                fcntl.flock(file, fcntl.LOCK_EX)
                _write(file, [header, data])
                os.fsync(file)
                self._name(root, private, private, temporary, key, condition)
            finally:
                os.close(file)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=private)
        return f'"{etag.hex()}"'

    def _complete(self, key: str, upload_id: str, parts: Sequence[Part], condition: Condition) -> str:
        with (
            self._open_root() as root,
            self._open_private(root) as private,
            directory_uploads.completing(private, key, upload_id, parts) as directory,
        ):
            self._name(root, private, directory, directory_uploads.DATA, key, condition)
        return f'"{upload_id}"'

    def _in_private(self, function: Callable[Concatenate[int, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._open_root() as root, self._open_private(root) as private:
            return function(private, *args, **kwargs)

    def _name(
        self, root: int, private: int, source: int, temporary: str, key: str, condition: Condition
    ) -> None:
        """Give the finished file ``temporary`` in the directory ``source`` the object's name, durably."""
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                self._try_to_name(root, private, source, temporary, key, condition)
                break
            except FileNotFoundError:
                # Its sub-directory was emptied and removed meanwhile.
                if attempt == _ATTEMPTS_MAX:
                    raise

    def _try_to_name(
        self, root: int, private: int, source: int, temporary: str, key: str, condition: Condition
    ) -> None:
        with self._open_parent(root, key, make=True) as (parent, name):
            alone = isinstance(condition, IfMatch) or self._decides_ownership(key)
            with locked(private, self._url, alone=alone):
                self._check_owner(root, key)
                match condition:
                    case IfAbsent():
                        try:
                            os.link(temporary, name, src_dir_fd=source, dst_dir_fd=parent)
                        except FileExistsError:
                            raise AlreadyExists(f"{self._url}: object {key} exists") from None
                    case IfMatch(etag):
                        try:
                            found = self._get(key, ByteRange(0, 0)).info.etag
                        except NotFound:
                            found = None
                        if found != etag:
                            raise PreconditionFailed(
                                f"{self._url}: object {key} is not the one that was seen"
                            )
                        os.rename(temporary, name, src_dir_fd=source, dst_dir_fd=parent)
                    case None:
                        os.rename(temporary, name, src_dir_fd=source, dst_dir_fd=parent)
            os.fsync(parent)

    def _delete(self, keys: Sequence[str]) -> None:
        """Delete them all, then make each directory that changed durable, once."""
        failed: OSError | None = None
        changed: set[str] = set()
        with self._open_root() as root, self._open_private(root) as private:
            for key in keys:
                try:
                    if self._unlink(root, private, key):
                        changed.add(key.rpartition("/")[0])
                except OSError as error:
                    failed = failed or error
            for directory in changed:
                # It may have been removed as empty; then _prune made that durable.
                with (
                    contextlib.suppress(FileNotFoundError),
                    self._open_parent(root, f"{directory}/-" if directory else "-") as (parent, _),
                ):
                    os.fsync(parent)
        if failed is not None:
            raise failed

    def _unlink(self, root: int, private: int, key: str) -> bool:
        """Whether there was something to delete."""
        try:
            with (
                locked(private, self._url, alone=self._decides_ownership(key)),
                self._open_parent(root, key) as (parent, name),
            ):
                self._check_owner(root, key)
                os.unlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (*_ABSENT, errno.EISDIR):
                return False
            raise
        self._prune(root, key)
        return True

    def _decides_ownership(self, key: str) -> bool:
        """Others look at it and then change something else: both under the lock, so it must not change
        meanwhile."""
        return key.endswith(LEASE_NAME)

    def _check_owner(self, root: int, key: str) -> None:
        """Raises Fenced when the bucket is somebody else's by now. Called under the lock."""
        self._fence.check_change(key)
        owner = self._fence.owner
        if owner is None or key == owner.key:
            return
        # As few calls as can be: a process that is stopped here keeps the lock.
        try:
            file = os.open(owner.key, _READ_FLAGS, dir_fd=root)
        except FileNotFoundError:
            found = None
        else:
            try:
                stored = os.pread(file, HEADER_BYTES_MAX + LEASE_BYTES_MAX, 0)
                found = stored[header_size(stored) :]
            finally:
                os.close(file)
        if not owner.is_ours(found):
            raise Fenced(f"{self._url}: somebody else has taken {owner.key}; {key} is left as it is")

    def _prune(self, root: int, key: str) -> None:
        """Remove the sub-directories that became empty. A put that has just opened one finds it gone, and
        makes it again."""
        directory = key
        try:
            while directory := directory.rpartition("/")[0]:
                with self._open_parent(root, directory) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
                    os.fsync(parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, *_ABSENT):
                raise

    @contextlib.contextmanager
    def _open_private(self, root: int) -> Iterator[int]:
        try:
            private = os.open(PRIVATE_NAME, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=root)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(PRIVATE_NAME, dir_fd=root)
            private = os.open(PRIVATE_NAME, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=root)
        try:
            yield private
        finally:
            os.close(private)

    def _walk(self, directory: str, prefix: str, after: str) -> Generator[Entry, None, None]:
        """The objects below ``directory`` ("" or with a slash at its end), in order. Directories sort as if
        their names ended with the slash that their objects' keys have there."""
        with self._open_root() as root, contextlib.ExitStack() as stack:
            try:
                parent, _ = stack.enter_context(self._open_parent(root, f"{directory}-"))
            except OSError as error:
                if directory and error.errno in _ABSENT:
                    # Emptied meanwhile.
                    return
                raise
            names = stack.enter_context(contextlib.closing(SortedNames()))
            self._read_names(names, parent, directory, prefix, after)
            for name in names.ordered():
                key = directory + name
                if name.endswith("/"):
                    yield from self._walk(key, prefix, after)
                elif (entry := _entry(parent, name, key)) is not None:
                    yield entry

    def _read_names(self, names: SortedNames, parent: int, directory: str, prefix: str, after: str) -> None:
        """What of a directory, or below it, is asked for: one pass over its entries."""
        with os.scandir(parent) as found:
            for item in found:
                name = item.name
                key = directory + name
                if (not directory and name == PRIVATE_NAME) or key_flaw(key) is not None:
                    continue
                if item.is_dir(follow_symlinks=False):
                    key += "/"
                    # What is in it begins with its key.
                    begins_right = key.startswith(prefix) or prefix.startswith(key)
                    if begins_right and (after < key or after.startswith(key)):
                        names.add(name + "/")
                elif key.startswith(prefix) and key > after and item.is_file(follow_symlinks=False):
                    names.add(name)


def _check_own_key(key: str) -> None:
    check_key(key)
    if key == PRIVATE_NAME or key.startswith(PRIVATE_NAME + "/"):
        raise Invalid(f"object key {key[:100]!r} is reserved in a directory bucket")


def _take(entries: Iterator[Entry]) -> list[Entry]:
    """The next page; empty at the end."""
    return list(islice(entries, _PAGE_COUNT_MAX))


def _entry(parent: int, name: str, key: str) -> Entry | None:
    """None when it was deleted meanwhile. A damaged file is there all the same: it is for a get to say what
    is wrong."""
    try:
        file = os.open(name, _READ_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        return None
    status = os.fstat(file)
    try:
        begin = _read(file, 0, min(_LISTED_READ_BYTES, status.st_size))
        size = header_size(begin)
        if size == 0:
            return Entry(key, status.st_size, _plain_etag(status))
        if size > len(begin):
            begin = _read(file, 0, size)
        etag, data_size_bytes = decode_without_attributes(begin[:size], status.st_size)
        return Entry(key, data_size_bytes, etag)
    except Corrupt:
        return Entry(key, status.st_size)
    finally:
        os.close(file)


def _header_of(file: int, begin: bytes, status: os.stat_result) -> Header:
    """The header of an open file of which ``begin`` is read; for a plain file, one made from its inode."""
    size = header_size(begin)
    if size == 0:
        return Header(_plain_etag(status), 0, status.st_size, NO_ATTRIBUTES)
    if size > len(begin):
        begin = _read(file, 0, size)
    return decode_header(begin[:size], status.st_size)


def _plain_etag(status: os.stat_result) -> str:
    """Replaced by renaming, it becomes another inode; written in place, it gets another time."""
    return f'"plain-{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"'


def _read(file: int, offset: int, size_bytes: int) -> bytes:
    """So many bytes, or what there is."""
    if size_bytes <= 0:
        return b""
    data = os.pread(file, size_bytes, offset)
    if len(data) == size_bytes:
        return data
    # The kernel reads at most 2 GiB at once, and a signal may cut it short.
    pieces = [data]
    while pieces[-1]:
        size_bytes -= len(pieces[-1])
        offset += len(pieces[-1])
        pieces.append(os.pread(file, size_bytes, offset))
    return b"".join(pieces)


def _write(file: int, buffers: Sequence[BytesLike]) -> None:
    remaining = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
    while remaining:
        count = os.writev(file, remaining)
        while remaining and count >= remaining[0].nbytes:
            count -= remaining.pop(0).nbytes
        if remaining:
            remaining[0] = remaining[0][count:]


def _sweep(private: int) -> None:
    """Remove the files of writers that died."""
    stale_before = time.time() - _STALE_AFTER_SECONDS
    directory_uploads.remove_nameless(private, stale_before)
    with os.scandir(private) as found:
        items = [item for item in found if item.name != LOCK_NAME and item.is_file(follow_symlinks=False)]
    for item in items:
        try:
            if item.stat(follow_symlinks=False).st_mtime > stale_before:
                continue
            file = os.open(item.name, _READ_FLAGS, dir_fd=private)
        except OSError:
            # Its writer has finished meanwhile, or it is somebody else's: neither stands in our way.
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(item.name, dir_fd=private)
        except OSError:
            continue
        finally:
            os.close(file)


def _translate(error: OSError, thing: str) -> BucketryError:
    """The one table from the system's errors to ours."""
    reason = os.strerror(error.errno) if error.errno is not None else "unknown error"
    if error.errno in _DENIED:
        return Denied(f"{thing}: {reason}")
    if error.errno == errno.ENAMETOOLONG:
        return Invalid(f"{thing}: a part of the key is longer than this file system's names can be")
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
        return Unsupported(f"{thing}: in a directory, a key cannot be an object and the begin of other keys")
    if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS):
        return Unsupported(f"{thing}: {reason}")
    # No space (ENOSPC, EDQUOT), EIO, too many open files and the like: may be over later.
    return Unavailable(f"{thing}: {reason}")
