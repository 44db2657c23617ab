"""Clean blocks on local disk: a Layout over a Layout.

Reads are answered from the directory where it has the block, else from below, and then kept; commits go
below first, and what was stored is kept with the tag that it got there. What a process before us kept is
used only after its tag was compared with that of what is stored now: by the survey, which tells the tags of
all blocks in passing, or, for a block that is wanted sooner, by asking for its tag.

Nothing here can fail a read or a commit: content that does not pass its check is a miss, and when the
local disk fails, or is full, the cache is off until the next start. Nothing waits for the local disk but
reads that are answered from it: what is to be kept is written behind, and let go when too much of it waits.
Nothing is synced: an entry counts only if the content passes its check and the bucket has the same tag.

``blocks/data`` has the blocks, in slots; ``blocks/index`` says which slot has which
(``core.cache_index``), by lines added now and then.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

import google_crc32c

from bucketry.bucket.wrapper import close_pages
from bucketry.cache.directory import CacheDirectory, write_whole
from bucketry.cache.seals import Encrypted, Plain, Seal
from bucketry.cache.slot_file import SlotFile
from bucketry.codec.offload import Offload
from bucketry.core.bytes_like import BytesLike
from bucketry.core.cache_index import Record, can_keep, index_text, parse_index, record_line
from bucketry.core.eviction import ClockTwoQueue, Eviction
from bucketry.core.geometry import Extent, Geometry
from bucketry.core.priority import Priority
from bucketry.errors import Invalid
from bucketry.layout.interface import BatchShape, Change, Layout, Part, Stored, Tag, Tagged, Write
from bucketry.layout.together import together

_log = logging.getLogger(__name__)
_T = TypeVar("_T", bound=Tagged)

#: Blocks that wait to be written to the local disk: enough for a burst, little beside the memory for blocks.
_STORING_BYTES_MAX = 32 << 20
#: Lines are added to the index so many at a time, or after so long: what a kill forgets is fetched again.
_INDEX_LINES = 256
_INDEX_SECONDS = 2.0
#: The index is written anew when it has this many lines for each block, and so many more.
_INDEX_GROWTH = 2
_INDEX_SLACK = 1024


class _Entry:
    """A block in a slot. ``reader_count`` reads of the slot are under way; when the entry is ``gone``, the
    last of them frees it. ``old``: it is not what is stored any more, as far as anybody knows."""

    __slots__ = ("gone", "old", "reader_count", "record", "verified")

    def __init__(self, record: Record, *, verified: bool) -> None:
        self.record = record
        self.verified = verified
        self.reader_count = 0
        self.gone = False
        self.old = False


@dataclass(slots=True, eq=False)
class _Load:
    """Reads of one block from below. ``overtaken``: a commit of the block ended meanwhile, so what they bring
    may be old."""

    count: int = 0
    overtaken: bool = False


@dataclass(slots=True)
class _Counts:
    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    kept: int = 0
    #: Not kept, because too much waited to be written.
    skipped: int = 0
    evictions: int = 0
    #: Blocks of an earlier process whose tags were compared: the same, or not.
    verified: int = 0
    stale: int = 0
    #: Did not pass its check.
    corrupt: int = 0
    #: Of the local disk; the first turns the cache off.
    errors: int = 0


@dataclass(slots=True)
class _Index:
    """The index file. Synchronous, for threads."""

    path: Path
    about: str
    descriptor: int = field(default=-1)

    def load(self, block_count: int, slot_count: int) -> tuple[Mapping[int, Record], bool]:
        try:
            with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return {}, False
        return parse_index(
            content, self.about, block_count=block_count, slot_count=slot_count, checksum=google_crc32c.value
        )

    def write(self, records: Sequence[Record]) -> None:
        self.close()
        write_whole(self.path, index_text(self.about, records, google_crc32c.value))

    def add(self, records: Sequence[Record]) -> None:
        if self.descriptor < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(self.path, flags)
        view = memoryview(b"".join(record_line(record, google_crc32c.value) for record in records))
        while view:
            view = view[os.write(self.descriptor, view) :]

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class CachedLayout:
    """A Layout (see ``bucketry.layout.interface``) over ``below``, one of whose units a slot holds.

    ``size_bytes_max`` bounds the bytes of all slots. ``key`` (32 bytes) encrypts what is kept. ``offload``
    runs what waits for the local disk. ``start`` it before use, and ``close`` it before the directory.
    """

    def __init__(
        self,
        below: Layout,
        directory: CacheDirectory,
        size_bytes_max: int,
        *,
        offload: Offload,
        key: bytes | None = None,
    ) -> None:
        self._below = below
        self._directory = directory.blocks
        self._offload = offload
        self._unit = below.batch_shape.alignment_bytes
        self._slot_count = size_bytes_max // self._unit
        self._seal: Seal = Plain() if key is None else Encrypted(key)
        about = {"unit_bytes": self._unit, "seal": self._seal.name, "of": directory.identity}
        self._index = _Index(self._directory / "index", json.dumps(about))
        self._unit_count = below.geometry.size_bytes // self._unit
        self._file: SlotFile | None = None
        self._on = False
        self._entries: dict[int, _Entry] = {}
        self._policy: Eviction = ClockTwoQueue()
        #: Slots that hold nothing; and from ``_fresh_slot`` on none has been used yet.
        self._free: list[int] = []
        self._fresh_slot = 0
        self._to_free: list[int] = []
        #: What is on its way to the disk, newest of each block.
        self._storing: dict[int, Tagged] = {}
        self._storing_bytes = 0
        self._loads: dict[int, _Load] = {}
        self._new_records: list[Record] = []
        self._line_count = 0
        self._index_timer: asyncio.TimerHandle | None = None
        self._index_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = _Counts()

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over what is in the directory, as far as it is sound. Never fails: without a usable directory
        everything goes below."""
        try:
            self._file, records = await self._offload(self._open)
        except OSError as error:
            self._turn_off(error)
            return
        self._on = True
        taken = {record.slot for record in records.values()}
        self._fresh_slot = max(taken, default=-1) + 1
        self._free = [slot for slot in range(self._fresh_slot) if slot not in taken]
        for block, record in records.items():
            self._entries[block] = _Entry(record, verified=False)
            self._policy.add(block, self._unit)
        self._line_count = len(records)

    def _open(self) -> tuple[SlotFile, Mapping[int, Record]]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        records, sound = self._index.load(self._unit_count, self._slot_count)
        if not sound:
            self._index.write(list(records.values()))
        file = SlotFile(self._directory / "data", self._unit, self._slot_count)
        try:
            # A process that was killed may have written slots that the index does not know.
            start = 0
            for slot in [*sorted(record.slot for record in records.values()), self._slot_count]:
                if slot > start:
                    file.free(start, slot)
                start = slot + 1
        except BaseException:
            file.close()
            raise
        return file, records

    async def close(self) -> None:
        """Write down what is cached, for the next process. Never fails. No read or commit may be under
        way. Closing twice is fine."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._index_timer is not None:
            self._index_timer.cancel()
        file, self._file = self._file, None
        if file is None:
            return
        records = [entry.record for entry in self._entries.values()]
        try:
            if self._on:
                await self._offload(lambda: self._index.write(records))
        except OSError as error:
            self._turn_off(error)
        self._on = False
        self._index.close()
        file.close()

    def _turn_off(self, error: OSError) -> None:
        """The local disk failed, or is full: go without."""
        self._counts.errors += 1
        if self._counts.errors == 1:
            _log.warning("the cache in %s is off until the next start: %s", self._directory, error)
        self._on = False
        self._entries.clear()
        self._storing.clear()
        self._new_records.clear()
        self._policy = ClockTwoQueue()

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the cache in %s: %r", self._directory, error, exc_info=error)

    # -- as a layout -----------------------------------------------------------------------------------------

    @property
    def geometry(self) -> Geometry:
        return self._below.geometry

    def grow(self, geometry: Geometry) -> None:
        self._below.grow(geometry)
        self._unit_count = geometry.size_bytes // self._unit

    @property
    def batch_shape(self) -> BatchShape:
        return self._below.batch_shape

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> BytesLike | None:
        blocks = self._blocks(extent)
        if len(blocks) == 1:
            found = await self._read_block(blocks[0], priority)
            return None if found is None else found.data
        parts = await together(self._read_block(block, priority) for block in blocks)
        if all(part is None for part in parts):
            return None
        return b"".join(bytes(self._unit) if part is None else part.data for part in parts)

    async def read_tagged(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tagged | None:
        (block,) = self._blocks(extent)
        return await self._read_block(block, priority)

    @property
    def part_bytes(self) -> int:
        return self._below.part_bytes

    async def read_part(self, extent: Extent, *, priority: Priority = Priority.READ) -> Part | None:
        block = self.geometry.within_block(extent).block
        found = await self._look_up(block, priority)
        if found is not None:
            self._count_hit(found)
            return Part(found.data, found.tag, block * self._unit)
        return await self._fetch(block, self._below.read_part(extent, priority=priority))

    async def tag(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tag | None:
        return await self._below.tag(extent, priority=priority)

    async def _read_block(self, block: int, priority: Priority) -> Tagged | None:
        found = await self._look_up(block, priority)
        if found is not None:
            self._count_hit(found)
            return found
        return await self._fetch(block, self._below.read_tagged(self._extent(block), priority=priority))

    def _count_hit(self, found: Tagged) -> None:
        self._counts.hits += 1
        self._counts.hit_bytes += len(found.data)

    async def _fetch(self, block: int, reading: Awaitable[_T | None]) -> _T | None:
        """What a read of a block from below brings; kept if that is all of it."""
        self._counts.misses += 1
        load = self._loads.setdefault(block, _Load())
        load.count += 1
        try:
            found = await reading
        finally:
            load.count -= 1
            if load.count == 0 and self._loads.get(block) is load:
                del self._loads[block]
        if found is not None and len(found.data) == self._unit and not load.overtaken:
            self._keep(block, found)
        return found

    async def commit(
        self, changes: Sequence[Change], *, priority: Priority = Priority.UPLOAD
    ) -> Mapping[int, Tag]:
        touched = [self._blocks(change.extent) for change in changes]
        try:
            tags = await self._below.commit(changes, priority=priority)
        finally:
            # Also when it failed: nobody knows what is stored now. Until then what is here is as good an
            # answer as the new content: whoever reads meanwhile may get either.
            self._forget(touched)
        written: dict[int, memoryview] = {}
        for change in changes:
            if isinstance(change, Write):
                view = memoryview(change.data)
                for start in range(0, len(view), self._unit):
                    written[change.offset + start] = view[start : start + self._unit]
        for offset, tag in tags.items():
            self._keep(offset // self._unit, Tagged(written[offset], tag))
        return tags

    def doubt(self) -> None:
        for entry in self._entries.values():
            entry.verified = False
        self._below.doubt()

    async def survey(self) -> AsyncGenerator[Sequence[Stored], None]:
        """As below; what it tells verifies in passing what an earlier process kept."""
        doubtful = {block: entry for block, entry in self._entries.items() if not entry.verified}
        pages = self._below.survey()
        try:
            async for page in pages:
                if doubtful:
                    for stored in page:
                        self._compare(stored, doubtful)
                yield page
        finally:
            await close_pages(pages)
        for block, entry in doubtful.items():
            if self._entries.get(block) is entry and not entry.verified:
                self._counts.stale += 1
                self._drop(block)  # it is not stored any more

    def _compare(self, stored: Stored, doubtful: dict[int, _Entry]) -> None:
        """Blocks that are stored leave ``doubtful``. Those whose tag is told, and the same, are verified; the
        tags of others are asked for when they are wanted: what a listing tells is not always spelt the
        same."""
        for block, tag in enumerate(stored.tags, stored.offset // self._unit):
            entry = doubtful.pop(block, None)
            if entry is not None and tag == entry.record.tag and self._entries.get(block) is entry:
                self._verified(entry)

    def _verified(self, entry: _Entry) -> None:
        if not entry.verified:
            entry.verified = True
            self._counts.verified += 1

    def statistics(self) -> Mapping[str, object]:
        figures = {
            "on": self._on,
            "held_count": len(self._entries),
            "held_bytes": len(self._entries) * self._unit,
            "held_bytes_max": self._slot_count * self._unit,
            "storing_bytes": self._storing_bytes,
            **asdict(self._counts),
        }
        return {"disk_cache": figures, **self._below.statistics()}

    def _extent(self, block: int) -> Extent:
        return Extent(block * self._unit, self._unit)

    def _blocks(self, extent: Extent) -> range:
        """The numbers of the units that ``extent`` consists of."""
        unit = self._unit
        self.geometry.check(extent.offset, extent.length)
        if extent.offset % unit or extent.length % unit:
            raise Invalid(f"{extent.length} bytes at {extent.offset} are not whole units of {unit}")
        return range(extent.offset // unit, extent.end // unit)

    # -- what is here ----------------------------------------------------------------------------------------

    async def _look_up(self, block: int, priority: Priority) -> Tagged | None:
        """The block if it is here, sound, and what is stored; else None."""
        storing = self._storing.get(block)
        if storing is not None:
            return storing
        entry = self._entries.get(block)
        if entry is None:
            return None
        if not entry.verified:
            tag = await self._below.tag(self._extent(block), priority=priority)
            if self._entries.get(block) is not entry:
                return None  # committed, or evicted, meanwhile
            if tag != entry.record.tag:
                self._counts.stale += 1
                self._drop(block)
                return None
            self._verified(entry)
        data = await self._read_slot(entry)
        if entry.old or not self._on:
            return None
        is_here = self._entries.get(block) is entry  # it may have been evicted meanwhile
        if data is None:
            _log.debug("block %d in %s is damaged; it is fetched again", block, self._directory)
            self._counts.corrupt += 1
            if is_here:
                self._drop(block)
            return None
        if is_here:
            self._policy.touch(block)
        return Tagged(data, entry.record.tag)

    async def _read_slot(self, entry: _Entry) -> bytes | None:
        file, record, seal = self._file, entry.record, self._seal
        if file is None:
            return None
        entry.reader_count += 1
        try:
            return await self._offload(
                lambda: seal.open(record.block, record.tag, file.read(record.slot), record.check)
            )
        except OSError as error:
            self._turn_off(error)
            return None
        finally:
            entry.reader_count -= 1
            if entry.gone and entry.reader_count == 0:
                self._release(record.slot)

    def _forget(self, ranges: Sequence[range]) -> None:
        """The blocks have been changed below: what is here, or on its way here, is old."""
        for blocks in ranges:
            if len(blocks) > len(self._entries) + len(self._storing) + len(self._loads):
                known = chain(self._entries, self._storing, self._loads)
                chosen: Iterable[int] = {block for block in known if block in blocks}
            else:
                chosen = blocks
            for block in chosen:
                self._drop(block)
                self._storing.pop(block, None)
                load = self._loads.pop(block, None)
                if load is not None:
                    load.overtaken = True

    def _drop(self, block: int) -> None:
        entry = self._entries.pop(block, None)
        if entry is not None:
            self._policy.remove(block)
            entry.old = entry.gone = True
            if entry.reader_count == 0:
                self._release(entry.record.slot)

    # -- keeping ---------------------------------------------------------------------------------------------

    def _keep(self, block: int, found: Tagged) -> None:
        """Begin to write a block to the local disk."""
        if not self._on or not can_keep(found.tag):
            return
        if self._storing_bytes + self._unit > max(_STORING_BYTES_MAX, self._unit):
            self._counts.skipped += 1
            return
        self._drop(block)
        # The caller may change his bytes when this returns.
        storing = self._storing[block] = Tagged(bytes(found.data), found.tag)
        self._storing_bytes += self._unit
        self._spawn(self._store(block, storing))

    async def _store(self, block: int, storing: Tagged) -> None:
        try:
            slot = self._take_slot()
            file, seal = self._file, self._seal
            if slot is None or file is None or self._storing.get(block) is not storing:
                self._counts.skipped += 1
                return

            def write() -> bytes:
                kept, check = seal.close(block, storing.tag, bytes(storing.data))
                file.write(slot, kept)
                return check

            try:
                check = await self._offload(write)
            except OSError as error:
                self._turn_off(error)
                return
            if self._storing.get(block) is not storing:
                self._release(slot)
                return
            record = Record(block, slot, check, storing.tag)
            self._entries[block] = _Entry(record, verified=True)
            self._policy.add(block, self._unit)
            self._counts.kept += 1
            self._note(record)
        finally:
            self._storing_bytes -= self._unit
            if self._storing.get(block) is storing:
                del self._storing[block]

    def _take_slot(self) -> int | None:
        """A slot to write to, another block's if need be; None when all are being read or written."""
        if self._free:
            return self._free.pop()
        if self._fresh_slot < self._slot_count:
            self._fresh_slot += 1
            return self._fresh_slot - 1
        while self._entries:
            entry = self._entries.pop(self._policy.evict())
            self._counts.evictions += 1
            if entry.reader_count == 0:
                return entry.record.slot
            entry.gone = True  # its last reader frees it
        return None

    def _release(self, slot: int) -> None:
        """Nothing refers to the slot any more: give its space back, then use it again."""
        self._to_free.append(slot)
        if len(self._to_free) == 1 and self._on:
            self._spawn(self._free_slots())

    async def _free_slots(self) -> None:
        file = self._file
        while self._to_free and file is not None and self._on:
            slots = self._to_free.copy()

            def free(slots: Sequence[int] = slots, file: SlotFile = file) -> None:
                for slot in slots:
                    file.free(slot, slot + 1)

            try:
                await self._offload(free)
            except OSError as error:
                self._turn_off(error)
                return
            del self._to_free[: len(slots)]
            self._free += slots

    # -- the index -------------------------------------------------------------------------------------------

    def _note(self, record: Record) -> None:
        """To be added to the index, soon."""
        self._new_records.append(record)
        if len(self._new_records) == _INDEX_LINES:
            self._spawn(self._write_index())
        elif self._index_timer is None:
            loop = asyncio.get_running_loop()
            self._index_timer = loop.call_later(_INDEX_SECONDS, self._on_index_timer)

    def _on_index_timer(self) -> None:
        self._index_timer = None
        self._spawn(self._write_index())

    async def _write_index(self) -> None:
        async with self._index_lock:
            records, self._new_records = self._new_records, []
            if not records or not self._on:
                return
            self._line_count += len(records)
            grown = self._line_count > _INDEX_GROWTH * len(self._entries) + _INDEX_SLACK
            if grown:
                records = [entry.record for entry in self._entries.values()]
                self._line_count = len(records)
            write = self._index.write if grown else self._index.add
            try:
                await self._offload(lambda: write(records))
            except OSError as error:
                self._turn_off(error)
