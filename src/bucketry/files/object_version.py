"""One version of one object, open in this process: reads from the cache, and fetches what it lacks.

A version is an ETag: what arrives under another one is refused, so that no reader ever sees a mixture. Blocks
that are wanted within one turn of the loop and lie side by side are one request. A block is fetched once,
however many want it: within the process they wait for one future, and whoever has the object open elsewhere
locks the block in the map while he fetches.

``read_nowait`` is for any thread; everything else belongs to the loop.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass

import google_crc32c

from bucketry.bucket.interface import Bucket, ByteRange, Object
from bucketry.bucket.threads import Threads
from bucketry.core.cache_map import BLOCK_BYTES, CachedObject
from bucketry.core.file_streams import FileStreams
from bucketry.core.pieces import Pieces
from bucketry.core.priority import Priority
from bucketry.core.ranges import runs
from bucketry.errors import BucketryError, Closed, Corrupt, PreconditionFailed
from bucketry.files.cache_entry import CacheEntry
from bucketry.files.object_cache import ObjectCache
from bucketry.files.recent_blocks import RecentBlocks

_log = logging.getLogger(__name__)

#: One request when blocks are wanted side by side: 1 MiB is most of what a large request saves, and soon
#: there.
RUN_BLOCKS = 8
#: One request when all of the file is fetched.
WHOLE_RUN_BLOCKS = 32
#: Requests for one file that is fetched whole, at once: 32 MiB in memory.
_WHOLE_RUNS = 8
#: Requests ahead of one file's readers, at once.
_AHEAD_RUNS = 16
#: Data that arrives damaged is fetched again so often: what is wrong in the bucket stays wrong.
FETCH_ATTEMPTS = 3
#: What waits for the local disk: enough for a burst. What is read beyond it is not kept.
BACKLOG_BYTES_MAX = 64 << 20
#: Work on more bytes than that leaves the loop: some 0.3 ms.
_INLINE_BYTES = 1 << 20
#: Waiting for another process's request: pauses, and how long nothing may happen before we make our own.
PAUSE_MIN_SECONDS = 0.001
PAUSE_MAX_SECONDS = 0.05
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Backlog:
    """What was fetched and waits to be stored, of all objects of a reader."""

    bytes: int = 0


class ObjectVersion:
    """``entry`` is None where nothing can be kept; then the last blocks stay in memory."""

    def __init__(
        self,
        bucket: Bucket,
        cache: ObjectCache,
        threads: Threads,
        recent: RecentBlocks,
        backlog: Backlog,
        about: CachedObject,
        entry: CacheEntry | None,
        pieces: Pieces | None,
        *,
        read_ahead_bytes: int,
    ) -> None:
        self.about = about
        self.entry = entry
        self.size_bytes = about.size_bytes
        #: How many have it open; at none it is closed.
        self.user_count = 0
        self._key = about.key
        self._bucket = bucket
        self._cache = cache
        self._counts = cache.counts
        self._threads = threads
        self._recent = recent
        self._backlog = backlog
        self._pieces = pieces
        self._loop = asyncio.get_running_loop()
        #: Blocks on their way, until they are in the cache.
        self._coming: dict[int, asyncio.Future[memoryview]] = {}
        #: Of these, the ones for which no request has begun.
        self._wanted: dict[int, Priority] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Of these, the ones that have their data and are storing it: they end by themselves.
        self._storing: set[asyncio.Task[object]] = set()
        self._streams = FileStreams(about.block_count, read_ahead_bytes // BLOCK_BYTES)
        self._ahead_turns = asyncio.Semaphore(_AHEAD_RUNS)
        #: Blocks that were fetched ahead and not read yet, oldest first.
        self._ahead: OrderedDict[int, None] = OrderedDict()
        self._ahead_max = 2 * FileStreams.STREAMS_MAX * (read_ahead_bytes // BLOCK_BYTES)
        #: All of it is being fetched, and all of that is to be kept.
        self._is_filling = False
        self._is_closed = False

    # -- reading ---------------------------------------------------------------------------------------------

    def read_nowait(self, offset: int, view: memoryview) -> bool:
        """Fill ``view`` from the cache; False when not all of it is there. From any thread."""
        if self.entry is None or not self.entry.read_into(offset, view, self._cache.now_seconds()):
            return len(self._recent) > 0 and self._read_recent(offset, view)
        self.note_hit(offset, len(view))
        return True

    def _read_recent(self, offset: int, view: memoryview) -> bool:
        """The same with what is in memory besides."""
        for block, start, part in _parts(offset, view):
            if not self._read_here(block, start, part):
                return False
        self.note_hit(offset, len(view))
        return True

    def _read_here(self, block: int, start: int, part: memoryview) -> bool:
        entry = self.entry
        if entry is not None and entry.read_into(
            block * BLOCK_BYTES + start, part, self._cache.now_seconds()
        ):
            return True
        kept = self._recent.get(self, block)
        if kept is None:
            return False
        part[:] = kept[start : start + len(part)]
        return True

    def note_hit(self, offset: int, length: int) -> None:
        """A read did not have to wait: count it, and fetch more for who reads in order. From any thread."""
        self._counts.hits += 1
        self._counts.hit_bytes += length
        if self._ahead:
            first, stop = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
            self._note_ahead_used(first, stop)
            mark = self._streams.take_mark(first, stop)
            if mark is not None:
                try:
                    self._loop.call_soon_threadsafe(self._go_on, mark, stop)
                except RuntimeError:
                    return  # the loop is closed, and nothing will be fetched any more

    def _note_ahead_used(self, first: int, stop: int) -> None:
        for block in range(first, stop):
            if self._ahead.pop(block, self) is None:
                self._counts.ahead_used_blocks += 1

    async def read(self, offset: int, view: memoryview) -> None:
        """Fill ``view``, fetching what is not in the cache."""
        first, stop = offset // BLOCK_BYTES, -(-(offset + len(view)) // BLOCK_BYTES)
        waits: list[tuple[int, memoryview, asyncio.Future[memoryview]]] = []
        for block, start, part in _parts(offset, view):
            coming = self._coming.get(block)
            if coming is None:
                if self._read_here(block, start, part):
                    continue
                coming = self._want(block, Priority.READ)
            else:
                self._counts.single_flight_waits += 1
            waits.append((start, part, coming))
        if not waits:
            self.note_hit(offset, len(view))
            return
        self._counts.misses += 1
        self._counts.miss_bytes += len(view)
        self._note_ahead_used(first, stop)
        self._fetch_ahead(self._streams.note_wait(first, stop))
        for start, part, coming in waits:
            # Others wait for it too: it does not end because this reader does.
            data = await asyncio.shield(coming)
            part[:] = data[start : start + len(part)]

    async def block(self, block: int) -> bytes:
        """A whole block."""
        content = bytearray(self.about.length_of(block))
        await self.read(block * BLOCK_BYTES, memoryview(content))
        return bytes(content)

    # -- fetching --------------------------------------------------------------------------------------------

    def _want(self, block: int, priority: Priority) -> "asyncio.Future[memoryview]":
        """The block's future; the request begins when this turn of the loop is over."""
        if self._is_closed:
            raise Closed(f"object {self._key} is closed")
        if not self._wanted:
            self._loop.call_soon(self._begin)
        self._wanted[block] = priority
        return self._expect(block)

    def _expect(self, block: int) -> "asyncio.Future[memoryview]":
        coming: asyncio.Future[memoryview] = self._loop.create_future()
        coming.add_done_callback(_look_at)
        self._coming[block] = coming
        return coming

    def _begin(self) -> None:
        wanted, self._wanted = self._wanted, {}
        first = stop = 0
        for block in sorted(wanted):
            if block != stop or stop - first == RUN_BLOCKS or wanted[block] != wanted[first]:
                if stop > first:
                    self._spawn(self._run(first, stop, wanted[first]))
                first = block
            stop = block + 1
        if stop > first:
            self._spawn(self._run(first, stop, wanted[first]))

    def _spawn(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _go_on(self, mark: object, stop: int) -> None:
        if not self._is_closed:
            self._fetch_ahead(self._streams.note_mark(mark, stop))

    def _fetch_ahead(self, blocks: range) -> None:
        if not blocks:
            return
        here: set[int] = set()
        if self.entry is not None:
            try:
                records = self.entry.records(blocks.start, blocks.stop)
            except OSError:
                return
            here.update(blocks.start + index for index in records.present())
        for block in blocks:
            if block not in here and block not in self._coming:
                self._want(block, Priority.READ_AHEAD)
                self._ahead[block] = None
                self._counts.ahead_blocks += 1
        while len(self._ahead) > self._ahead_max:
            self._waste_one()

    def _waste_one(self) -> None:
        try:
            self._ahead.popitem(last=False)
        except KeyError:
            return  # read in another thread just now
        self._counts.ahead_wasted_blocks += 1

    async def _run(self, first: int, stop: int, priority: Priority) -> None:
        """Bring the blocks, all of which are expected, to those who wait and into the cache."""
        try:
            if priority is Priority.READ_AHEAD:
                async with self._ahead_turns:
                    await self._bring(first, stop, priority)
            else:
                await self._bring(first, stop, priority)
        except BucketryError as error:
            self._fail(first, stop, error)
        except BaseException as error:
            problem = Closed(f"object {self._key} is closed")
            if not isinstance(error, asyncio.CancelledError):
                problem.__cause__ = error
            self._fail(first, stop, problem)
            raise

    def _fail(self, first: int, stop: int, error: BucketryError) -> None:
        for block in range(first, stop):
            coming = self._coming.pop(block, None)
            if coming is not None and not coming.done():
                coming.set_exception(error)

    async def _bring(self, first: int, stop: int, priority: Priority) -> None:
        entry = self.entry
        if entry is None:
            await self._fetch(first, stop, priority)
            return
        if entry.try_claim(first, stop):
            await self._bring_claimed(entry, first, stop, priority)
            return
        elsewhere = []
        for block in range(first, stop):
            if entry.try_claim(block, block + 1):
                await self._bring_claimed(entry, block, block + 1, priority)
            else:
                elsewhere.append(block)
        for block in elsewhere:
            await self._bring_from_elsewhere(entry, block, priority)

    async def _bring_claimed(self, entry: CacheEntry, first: int, stop: int, priority: Priority) -> None:
        """Somebody else may have brought some of them before we had the lock."""
        try:
            start = first
            for block in range(first, stop):
                found = self._look_up(entry, block)
                if found is None:
                    continue
                if block > start:
                    await self._fetch(start, block, priority)
                self._deliver(block, memoryview(found))
                self._coming.pop(block, None)
                start = block + 1
            if stop > start:
                await self._fetch(start, stop, priority)
        finally:
            entry.release(first, stop)

    def _look_up(self, entry: CacheEntry, block: int) -> bytes | None:
        return entry.read_block(block, self._cache.now_seconds()) if entry.has(block) else None

    async def _bring_from_elsewhere(self, entry: CacheEntry, block: int, priority: Priority) -> None:
        """Another process fetches it. When that gives up, or nothing happens for long, we do."""
        self._counts.single_flight_waits_elsewhere += 1
        pause_seconds = PAUSE_MIN_SECONDS
        changed_at, since = entry.changed_at(), self._loop.time()
        while True:
            found = self._look_up(entry, block)
            if found is not None:
                self._deliver(block, memoryview(found))
                self._coming.pop(block, None)
                return
            if entry.try_claim(block, block + 1):
                await self._bring_claimed(entry, block, block + 1, priority)
                return
            if changed_at != (changed_at := entry.changed_at()):
                since = self._loop.time()
            elif self._loop.time() - since > PATIENCE_SECONDS:
                _log.warning("object %s: who fetches block %d does not, so we do", self._key, block)
                await self._fetch(block, block + 1, priority)
                return
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(1.5 * pause_seconds, PAUSE_MAX_SECONDS)

    async def _fetch(self, first: int, stop: int, priority: Priority) -> None:
        """Get the blocks in one request; give them to those who wait, then to the cache."""
        data = await self._get(first, stop, priority)
        for block in range(first, stop):
            at = (block - first) * BLOCK_BYTES
            self._deliver(block, data[at : at + BLOCK_BYTES])
        task = asyncio.current_task()
        assert task is not None
        self._storing.add(task)
        try:
            await self.keep(first, data)
        finally:
            self._storing.discard(task)
            for block in range(first, stop):
                self._coming.pop(block, None)

    def _deliver(self, block: int, data: memoryview) -> None:
        coming = self._coming.get(block)
        if coming is not None and not coming.done():
            coming.set_result(data)

    async def keep(self, first: int, data: memoryview) -> None:
        """Whole blocks, in the cache, or in memory."""
        if not await self._store(first, data):
            for index, at in enumerate(range(0, len(data), BLOCK_BYTES)):
                self._recent.put(self, first + index, bytes(data[at : at + BLOCK_BYTES]))

    async def _store(self, first: int, data: memoryview) -> bool:
        if self.entry is None:
            return False
        # A local disk that is slower than the bucket slows nobody down, nor fills the memory.
        if self._backlog.bytes > BACKLOG_BYTES_MAX and not self._is_filling:
            self._counts.not_stored_blocks += -(-len(data) // BLOCK_BYTES)
            return False
        self._backlog.bytes += len(data)
        try:
            return await self._threads.run(self._cache.store, self.entry, first, data)
        finally:
            self._backlog.bytes -= len(data)

    async def _get(self, first: int, stop: int, priority: Priority) -> memoryview:
        start, end = first * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.size_bytes)
        problem: Corrupt | None = None
        for _ in range(FETCH_ATTEMPTS):
            found = await self._bucket.get(self._key, byte_range=ByteRange(start, end), priority=priority)
            if found.info.etag != self.about.etag:
                raise PreconditionFailed(
                    f"{self._bucket.url}: object {self._key} is not the one that was opened: it has changed"
                )
            try:
                data = await self.verified(found, start, end)
            except Corrupt as error:
                problem = error
                self._counts.bad_fetches += 1
                _log.warning("%s", error)
                continue
            self._counts.fetched_blocks += stop - first
            self._counts.fetched_bytes += len(data)
            return data
        assert problem is not None
        raise problem

    async def verified(self, found: Object, start: int, end: int) -> memoryview:
        """The bytes from ``start`` to ``end`` as they arrived. Raises Corrupt when they are not all of them,
        or not those that were uploaded."""
        what = f"{self._bucket.url}: object {self._key}"
        data = memoryview(found.data)
        if found.info.size_bytes != self.size_bytes or len(data) != end - start:
            raise Corrupt(
                f"{what}: {len(data)} bytes at {start} of {found.info.size_bytes} came, and not "
                f"{end - start} of {self.size_bytes}"
            )
        if self._pieces is not None:
            if len(data) <= _INLINE_BYTES:
                bad = bad_piece(self._pieces, self.size_bytes, data, start)
            else:
                bad = await self._threads.run(bad_piece, self._pieces, self.size_bytes, data, start)
            if bad is not None:
                raise Corrupt(f"{what}: what came is not what was uploaded (checksum of piece {bad})")
        return data

    # -- all of it -------------------------------------------------------------------------------------------

    async def complete(self) -> bool:
        """Fetch what is missing, several requests at once, and verify the whole. False when not all of it can
        be kept. Raises Corrupt when it is not what was uploaded; what was wrong is dropped then."""
        entry = self.entry
        if entry is None:
            return False
        missing = entry.missing()
        if missing:
            self._is_filling = True
            try:
                await self._fill(missing)
            finally:
                self._is_filling = False
            if entry.missing():
                return False
        if self._pieces is not None and not entry.is_sealed:
            bad = await self._threads.run(entry.bad_pieces, self._pieces)
            if bad:
                self._counts.bad_fetches += len(bad)
                await self._threads.run(self._cache.drop_pieces, entry, self._pieces, bad)
                raise Corrupt(
                    f"{self._bucket.url}: object {self._key}: what came is not what was uploaded "
                    f"(checksum of piece {bad[0]})"
                )
        return True

    async def _fill(self, missing: Iterable[int]) -> None:
        left = runs(missing, WHOLE_RUN_BLOCKS)
        failed = False

        async def work() -> None:
            nonlocal failed
            for first, stop in left:
                if failed:
                    return
                try:
                    await self._fill_run(first, stop)
                except BaseException:
                    failed = True
                    raise

        # None is cancelled because another failed: somebody may read what it brings.
        results = await asyncio.gather(*(work() for _ in range(_WHOLE_RUNS)), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _fill_run(self, first: int, stop: int) -> None:
        """These blocks, but those that are on their way already."""
        waits = [self._coming[block] for block in range(first, stop) if block in self._coming]
        begun = [block for block in range(first, stop) if block not in self._coming]
        ours = [self._expect(block) for block in begun]
        for begin, end in runs(begun, WHOLE_RUN_BLOCKS):
            await self._run(begin, end, Priority.READ)
        for coming in ours:
            coming.result()
        for coming in waits:
            await asyncio.shield(coming)

    # -- closing ---------------------------------------------------------------------------------------------

    def stop(self) -> list["asyncio.Task[None]"]:
        """Fetch nothing any more; returns what is still under way, to be waited for before ``close``."""
        self._is_closed = True
        for task in self._tasks - self._storing:
            task.cancel()
        while self._ahead:
            self._waste_one()
        return list(self._tasks)

    def close(self) -> None:
        """Let go of the files."""
        self._recent.forget(self)
        if self.entry is not None:
            self.entry.close()


def _parts(offset: int, view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Of each block that a read touches: its number, where in it the read begins, and where its bytes go."""
    while len(view):
        block, start = divmod(offset, BLOCK_BYTES)
        length = min(BLOCK_BYTES - start, len(view))
        yield block, start, view[:length]
        view = view[length:]
        offset += length


def bad_piece(pieces: Pieces, size_bytes: int, data: memoryview, start: int) -> int | None:
    """The first of the pieces that lie wholly within the data whose checksum is wrong."""
    piece_bytes = pieces.piece_size_bytes
    for index in range(-(-start // piece_bytes), len(pieces.checksums)):
        begin, end = pieces.range_of(index, size_bytes)
        if end > start + len(data):
            return None
        if google_crc32c.value(bytes(data[begin - start : end - start])) != pieces.checksums[index]:
            return index
    return None


def _look_at(coming: "asyncio.Future[memoryview]") -> None:
    """Nobody may wait for it, and its failure is no surprise then."""
    if not coming.cancelled():
        coming.exception()
