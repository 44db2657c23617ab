"""Opens the objects of one bucket for reading, through a cache.

An open asks the bucket once: for the first block of an object that is not cached, which brings its size, its
ETag and its checksums as well; for its ETag alone where the first block is cached. When the bucket does not
answer, what is cached is used as it is. Several opens of one key at once are one; and in whole mode several
processes that open one object share the work of fetching it.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bucketry.bucket.interface import Bucket, ByteRange, Object
from bucketry.bucket.threads import Threads
from bucketry.codec.sealed_bucket import SEALED_METADATA
from bucketry.core.cache_map import BLOCK_BYTES, CachedObject
from bucketry.core.pieces import PIECES_METADATA, Pieces, decode, encode
from bucketry.core.priority import Priority
from bucketry.core.ranges import runs
from bucketry.errors import (
    BucketNotFound,
    Closed,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from bucketry.files.cache_entry import CacheEntry
from bucketry.files.object_cache import KeyLock, ObjectCache
from bucketry.files.object_version import (
    FETCH_ATTEMPTS,
    PATIENCE_SECONDS,
    PAUSE_MAX_SECONDS,
    PAUSE_MIN_SECONDS,
    RUN_BLOCKS,
    WHOLE_RUN_BLOCKS,
    Backlog,
    ObjectVersion,
    bad_piece,
)
from bucketry.files.recent_blocks import RecentBlocks
from bucketry.settings import FilesSettings

_log = logging.getLogger(__name__)

#: The first request of an open, in blocks: all of most small files where they are wanted whole, the first
#: block where a file is read by ranges.
_FIRST_BLOCKS = {"whole": WHOLE_RUN_BLOCKS, "auto": 4, "ranges": 1}
#: A file that takes more of the cache than that is not fetched whole: room is made with some slack, and it
#: would be evicted by its own end.
WHOLE_SHARE_MAX = 0.9
#: An object that changes while it is opened is opened anew so often; one that changes all the time is an
#: error.
_OPEN_ATTEMPTS = 3
#: Work for the local disk: more threads than processors wait for it, none needs the processor for long.
_THREADS = 4
#: What cannot be kept on the local disk, in memory, of all objects of a reader.
_RECENT_BYTES = 64 << 20


class UploadedFile(Protocol):
    """What an upload tells of the object that it made."""

    @property
    def etag(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def pieces(self) -> Pieces | None: ...


class OpenObject:
    """One object, open: its content is that of the moment it was opened, or an error. ``close`` it."""

    def __init__(
        self, version: ObjectVersion, first_block: bytes | None, release: Callable[[ObjectVersion], None]
    ) -> None:
        self.size_bytes = version.size_bytes
        self.etag = version.about.etag
        self._version = version
        #: Kept until somebody has read it: the first read of an open should not fail.
        self._first_block = first_block
        self._release = release
        self._lock = threading.Lock()
        self._is_closed = False

    def read_nowait(self, offset: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` with the bytes at ``offset`` if all of them are cached and sound; False otherwise.
        From any thread; neither the event loop nor the network is touched. Raises Invalid when the range is
        not within the object, Closed."""
        view = self._checked(offset, buffer)
        first_block = self._first_block
        if first_block is not None and offset + len(view) <= len(first_block):
            view[:] = first_block[offset : offset + len(view)]
            if offset == 0:
                self._first_block = None
            self._version.note_hit(offset, len(view))
            return True
        return not view or self._version.read_nowait(offset, view)

    async def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes at ``offset``, fetching what is not cached. In the reader's loop.

        Raises Invalid when the range is not within the object; PreconditionFailed when the object was
        replaced in the bucket, NotFound when it was deleted; Corrupt when what arrives is not all of it, or
        not what was uploaded; Unavailable, Denied, Closed. What is in the buffer then means nothing."""
        view = self._checked(offset, buffer)
        if view:
            await self._version.read(offset, view)

    def _checked(self, offset: int, buffer: memoryview) -> memoryview:
        if self._is_closed:
            raise Closed(f"object {self._version.about.key} is closed")
        view = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
        if not 0 <= offset <= self.size_bytes - len(view):
            raise Invalid(
                f"object {self._version.about.key}: {len(view)} bytes at {offset} are not within its "
                f"{self.size_bytes} bytes"
            )
        return view

    def close(self) -> None:
        """From any thread. Closing twice is fine."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._first_block = None
        self._release(self._version)


@dataclass(slots=True)
class _Opening:
    """An open that is under way, and how many wait for it."""

    task: "asyncio.Task[tuple[ObjectVersion, bytes | None]]"
    waiting_count: int = 0


class ObjectReader:
    """The objects of ``bucket``, read through ``cache`` as ``settings`` say (mode, whole_max_bytes,
    read_ahead_bytes, open_check_seconds). Belongs to the loop in which it is used; ``close`` it there, before
    the bucket and the cache. ``store`` tells buckets apart in the cache; None is the bucket's URL."""

    def __init__(
        self, bucket: Bucket, cache: ObjectCache, settings: FilesSettings, *, store: str | None = None
    ) -> None:
        self._bucket = bucket
        self._cache = cache
        self._counts = cache.counts
        self._settings = settings
        self._store = store or bucket.url
        self._threads = Threads("object cache", _THREADS)
        self._recent = RecentBlocks(_RECENT_BYTES)
        self._backlog = Backlog()
        #: Guards what handles change from other threads: the users of versions.
        self._lock = threading.Lock()
        #: What a key means now, and all that is open.
        self._versions: dict[str, ObjectVersion] = {}
        self._all: set[ObjectVersion] = set()
        self._openings: dict[str, _Opening] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @property
    def store(self) -> str:
        """How the cache names the bucket."""
        return self._store

    def statistics(self) -> dict[str, object]:
        """Those of the cache, and how many objects are open here."""
        return {**self._cache.statistics(), "open_objects": len(self._all)}

    # -- opening ---------------------------------------------------------------------------------------------

    async def open(self, key: str, name: str) -> OpenObject:
        """Open an object; ``name`` is that of its plain file in the cache directory.

        Raises NotFound when there is none, PreconditionFailed when it changes all the time, Corrupt when it
        is not what was uploaded, Unavailable when it is not cached and the bucket cannot be reached,
        Denied."""
        if self._is_closed:
            raise Closed("the reader is closed")
        self._loop = asyncio.get_running_loop()
        opening = self._openings.get(key)
        if opening is None:
            opening = self._openings[key] = _Opening(self._loop.create_task(self._open(key, name)))
        else:
            self._counts.single_flight_waits += 1
        opening.waiting_count += 1
        try:
            version, first_block = await asyncio.shield(opening.task)
            self._take(version)
        finally:
            opening.waiting_count -= 1
            if not opening.waiting_count:
                self._nobody_waits(key, opening)
        return OpenObject(version, first_block, self._release)

    def _nobody_waits(self, key: str, opening: _Opening) -> None:
        """All who waited have it, or have given up."""
        if self._openings.get(key) is opening:
            del self._openings[key]
        task = opening.task
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            self._drop(task.result()[0])

    async def _open(self, key: str, name: str) -> tuple[ObjectVersion, bytes | None]:
        """The version, taken once: whoever waited takes it for himself before that one is dropped."""
        attempt = 1
        while True:
            version, first_block = await self._current(key, name, self._cache.now())
            try:
                if self._is_whole(version):
                    await self._make_whole(version)
            except (PreconditionFailed, Corrupt) as error:
                self._abandon(version)
                if attempt == _OPEN_ATTEMPTS:
                    raise
                attempt += 1
                _log.warning("%s; it is opened again", error)
                continue
            except BaseException:
                self._drop(version)
                raise
            return version, first_block

    def _is_whole(self, version: ObjectVersion) -> bool:
        mode = self._settings.mode
        size_bytes = version.size_bytes
        if version.entry is None or size_bytes > WHOLE_SHARE_MAX * self._cache.size_bytes:
            return False
        return mode == "whole" or (mode == "auto" and size_bytes <= self._settings.whole_max_bytes)

    async def _make_whole(self, version: ObjectVersion) -> None:
        entry = version.entry
        assert entry is not None
        if not await version.complete() or entry.is_sealed:
            return
        key_lock = await self._lock_key(version.about.key)
        try:
            await self._threads.run(self._cache.seal, entry)
        finally:
            if key_lock is not None:
                key_lock.close()

    def _abandon(self, version: ObjectVersion) -> None:
        """Drop what is not what the bucket has now: the key does not mean it any more."""
        with self._lock:
            if self._versions.get(version.about.key) is version:
                del self._versions[version.about.key]
        self._drop(version)

    async def _current(self, key: str, name: str, started: float) -> tuple[ObjectVersion, bytes | None]:
        """The version that the bucket has, or had when it was last heard of; taken once."""
        with self._lock:
            version = self._versions.get(key)
            if version is not None:
                version.user_count += 1
        if version is None:
            entry = await self._threads.run(self._cache.find, self._store, key)
            if entry is not None:
                version = self._add_found(entry)
        if version is not None:
            first_block = await self._check(version, started)
            if first_block is not None:
                return version, first_block or None
            self._counts.opens_changed += 1
            self._abandon(version)
        return await self._open_new(key, name, started)

    def _add_found(self, entry: CacheEntry) -> ObjectVersion | None:
        about = entry.about
        try:
            pieces = None if about.pieces is None else decode(about.pieces, about.size_bytes)
        except Corrupt as error:
            _log.warning("object %s: what is cached of it is not used: %s", about.key, error)
            entry.close()
            return None
        return self._add(about, entry, pieces)

    def _add(self, about: CachedObject, entry: CacheEntry | None, pieces: Pieces | None) -> ObjectVersion:
        """A version, taken once."""
        version = self._version(about, entry, pieces, self._settings.read_ahead_bytes)
        version.user_count = 1
        with self._lock:
            self._versions[about.key] = version
            self._all.add(version)
        return version

    def _version(
        self, about: CachedObject, entry: CacheEntry | None, pieces: Pieces | None, read_ahead_bytes: int
    ) -> ObjectVersion:
        return ObjectVersion(
            self._bucket,
            self._cache,
            self._threads,
            self._recent,
            self._backlog,
            about,
            entry,
            pieces,
            read_ahead_bytes=read_ahead_bytes,
        )

    async def _check(self, version: ObjectVersion, started: float) -> bytes | None:
        """The first block of a version that is still the one in the bucket; None when it is not. Drops the
        version when it raises."""
        try:
            return await self._ask(version, started)
        except BaseException as error:
            self._drop(version)
            if isinstance(error, NotFound) and not isinstance(error, BucketNotFound):
                self.forget(version.about.key, version.about.name)
            raise

    async def _ask(self, version: ObjectVersion, started: float) -> bytes | None:
        about = version.about
        first = bytearray(min(BLOCK_BYTES, about.size_bytes))
        here = not first or version.read_nowait(0, memoryview(first))
        limit_seconds = self._settings.open_check_seconds
        # Made since: somebody else has just asked the bucket.
        is_new = started <= about.created_seconds <= self._cache.now()
        if here and (is_new or not limit_seconds):
            return bytes(first)
        try:
            if here:
                async with asyncio.timeout(limit_seconds):
                    info = await self._bucket.head(about.key)
            else:
                found = await self._bucket.get(about.key, byte_range=ByteRange(0, len(first)))
                info = found.info
                if info.etag == about.etag:
                    data = await version.verified(found, 0, len(first))
                    await version.keep(0, data)
                    first[:] = data
        except (TimeoutError, Unavailable) as error:
            if not here:
                raise
            self._counts.opens_unchecked += 1
            reason = str(error) or "no answer"
            _log.warning("object %s: the cached copy is used unchecked: %s", about.key, reason)
            return bytes(first)
        except Corrupt as error:
            # Once more, as any block is fetched: with several attempts, and a verdict.
            self._counts.bad_fetches += 1
            _log.warning("%s", error)
            return await version.block(0)
        if (info.etag, info.size_bytes) != (about.etag, about.size_bytes):
            return None
        return bytes(first)

    async def _open_new(self, key: str, name: str, started: float) -> tuple[ObjectVersion, bytes | None]:
        """Ask the bucket for the beginning, and make an entry of it. One of all processes does."""
        key_lock = await self._lock_key(key)
        try:
            # Perhaps another one did while we waited.
            entry = await self._threads.run(self._cache.find, self._store, key, again=True)
            if entry is not None and entry.about.created_seconds < started:
                entry.close()
            elif entry is not None and (version := self._add_found(entry)) is not None:
                first_block = await self._check(version, started)
                if first_block is not None:
                    return version, first_block or None
                self._abandon(version)
            found, pieces = await self._get_first(key)
            info, data = found.info, memoryview(found.data)
            about = CachedObject(
                store=self._store,
                key=key,
                name=name,
                etag=info.etag,
                size_bytes=info.size_bytes,
                pieces=info.attributes.metadata.get(PIECES_METADATA),
                created_seconds=self._cache.now(),
            )
            version = self._add(about, await self._threads.run(self._cache.create, about), pieces)
            try:
                # Whole blocks only: of a last one that is short we have all or nothing.
                is_all = len(data) == info.size_bytes
                await version.keep(0, data if is_all else data[: len(data) // BLOCK_BYTES * BLOCK_BYTES])
            except BaseException:
                self._drop(version)
                raise
            return version, bytes(data[:BLOCK_BYTES]) or None
        finally:
            if key_lock is not None:
                key_lock.close()

    async def _get_first(self, key: str) -> tuple[Object, Pieces | None]:
        """The beginning of an object that nothing is known of. Raises Corrupt when it keeps being wrong."""
        end = _FIRST_BLOCKS[self._settings.mode] * BLOCK_BYTES
        attempt = 1
        while True:
            found = await self._bucket.get(key, byte_range=ByteRange(0, end))
            if SEALED_METADATA in found.info.attributes.metadata:
                raise Denied(f"{self._bucket.url}: object {key} is encrypted: its key was not given")
            try:
                pieces = _check_first(found, end)
            except Corrupt as error:
                self._counts.bad_fetches += 1
                problem = Corrupt(f"{self._bucket.url}: object {key}: {error}")
                if attempt == FETCH_ATTEMPTS:
                    raise problem from error
                attempt += 1
                _log.warning("%s", problem)
                continue
            self._counts.fetched_blocks += -(-len(found.data) // BLOCK_BYTES)
            self._counts.fetched_bytes += len(found.data)
            return found, pieces

    async def _lock_key(self, key: str) -> KeyLock | None:
        """The right to make the entry of a key; None when the local disk has no locks, or who has it does
        nothing for long."""
        entry_id = self._cache.entry_id(self._store, key)
        loop = asyncio.get_running_loop()
        pause_seconds, started = PAUSE_MIN_SECONDS, loop.time()
        waited = False
        while True:
            try:
                key_lock = self._cache.try_lock_key(entry_id)
            except OSError as error:
                self._counts.local_errors += 1
                _log.warning("object %s: cannot lock it in the cache: %s", key, error)
                return None
            if key_lock is not None:
                return key_lock
            if not waited:
                self._counts.single_flight_waits_elsewhere += 1
                waited = True
            if loop.time() - started > PATIENCE_SECONDS:
                _log.warning("object %s: who opens it in another process does not get on", key)
                return None
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(1.5 * pause_seconds, PAUSE_MAX_SECONDS)

    # -- adopting, forgetting --------------------------------------------------------------------------------

    async def adopt(self, key: str, name: str, path: Path, uploaded: UploadedFile) -> bool:
        """The local file ``path`` has become the object ``key``: keep a copy of it, so that nothing needs to
        be fetched. A copy, or shared blocks where the file system can, never a link. False when it is not
        kept; once more is fine. Raises OSError when the file cannot be read."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            key_lock = await self._lock_key(key)
            try:
                return await self._adopt(key, name, file, uploaded)
            finally:
                if key_lock is not None:
                    key_lock.close()
        finally:
            os.close(file)

    async def _adopt(self, key: str, name: str, file: int, uploaded: UploadedFile) -> bool:
        if os.fstat(file).st_size != uploaded.size_bytes or uploaded.size_bytes > self._cache.size_bytes:
            return False
        pieces = uploaded.pieces
        entry = await self._threads.run(self._cache.find, self._store, key)
        if entry is not None and entry.about.etag != uploaded.etag:
            entry.close()
            entry = None
        if entry is None:
            about = CachedObject(
                store=self._store,
                key=key,
                name=name,
                etag=uploaded.etag,
                size_bytes=uploaded.size_bytes,
                pieces=None if pieces is None else encode(pieces, uploaded.size_bytes),
                created_seconds=self._cache.now(),
            )
            entry = await self._threads.run(self._cache.create, about)
            if entry is None:
                return False
        with closing(self._version(entry.about, entry, pieces, 0)) as version:
            missing = entry.missing()
            if missing and not await self._threads.run(self._copy, entry, file, missing):
                return False
            if missing and pieces is not None and await self._threads.run(entry.bad_pieces, pieces):
                _log.warning("%s changed after it was uploaded: it is not kept in the cache", key)
                await self._threads.run(self._cache.remove, self._store, key)
                return False
            if self._is_whole(version) and not entry.is_sealed:
                await self._threads.run(self._cache.seal, entry)
            self._counts.adopted += bool(missing)
            return True

    def _copy(self, entry: CacheEntry, file: int, missing: Sequence[int]) -> bool:
        for first, stop in runs(missing, RUN_BLOCKS):
            start, end = first * BLOCK_BYTES, min(stop * BLOCK_BYTES, entry.about.size_bytes)
            data = os.pread(file, end - start, start)
            if len(data) != end - start:
                return False
            if not self._cache.store(entry, first, data, source=(file, start)):
                return False
        return True

    def forget(self, key: str, name: str) -> None:
        """The object was removed from the bucket. Whoever has it open keeps what he has. Any thread."""
        with self._lock:
            self._versions.pop(key, None)
        self._cache.remove(self._store, key)

    async def current_etag(self, store: str, key: str) -> str | None:
        """What the bucket says of a cached object, for ``ObjectCache.scrub``: its ETag, None when it is gone.
        Raises LookupError for another bucket's, BucketNotFound, Unavailable, Denied."""
        if store != self._store:
            raise LookupError(store)
        try:
            return (await self._bucket.head(key, priority=Priority.BACKGROUND)).etag
        except BucketNotFound:
            raise
        except NotFound:
            return None

    # -- closing ---------------------------------------------------------------------------------------------

    def _take(self, version: ObjectVersion) -> None:
        with self._lock:
            version.user_count += 1

    def _release(self, version: ObjectVersion) -> None:
        """Somebody has closed his object, in whatever thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._drop, version)
        except RuntimeError:
            version.close()  # the loop is closed: nothing is under way any more

    def _drop(self, version: ObjectVersion) -> None:
        """One user less; after the last one nothing of it is open."""
        with self._lock:
            version.user_count -= 1
            if version.user_count or version not in self._all:
                return
            self._all.discard(version)
            if self._versions.get(version.about.key) is version:
                del self._versions[version.about.key]
        task = asyncio.get_running_loop().create_task(_end(version))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def close(self) -> None:
        """Close everything that is open. Closing twice is fine."""
        self._is_closed = True
        openings = [opening.task for opening in self._openings.values()]
        for opening in openings:
            opening.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        for version in list(self._all):
            self._all.discard(version)
            await _end(version)
        await asyncio.gather(*self._endings, return_exceptions=True)
        self._versions.clear()
        await self._threads.close()


async def _end(version: ObjectVersion) -> None:
    await asyncio.gather(*version.stop(), return_exceptions=True)
    version.close()


def _check_first(found: Object, end: int) -> Pieces | None:
    """Whether it is all of the beginning, and as it was uploaded; returns the checksums if it has some.
    Raises Corrupt with the end of a sentence about the object."""
    size_bytes, text = found.info.size_bytes, found.info.attributes.metadata.get(PIECES_METADATA)
    if len(found.data) != min(end, size_bytes):
        raise Corrupt(f"{len(found.data)} bytes came instead of {min(end, size_bytes)}")
    if text is None:
        return None
    pieces = decode(text, size_bytes)
    bad = bad_piece(pieces, size_bytes, memoryview(found.data), 0)
    if bad is not None:
        raise Corrupt(f"what came is not what was uploaded (checksum of piece {bad})")
    return pieces
