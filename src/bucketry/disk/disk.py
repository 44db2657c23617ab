"""The disk: bytes of any offset and length over the blocks of a cache."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from bucketry.cache.block_cache import BlockCache
from bucketry.core.bytes_like import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.core.geometry import Geometry, Span
from bucketry.disk.interface import ExtentStatus, Unsaved
from bucketry.errors import BucketryError, ReadOnly, Unsupported

#: The size that is wanted, what the disk is now, and whether what is in the way is deleted; what it is then.
Grow: TypeAlias = Callable[[int, Geometry, bool], Awaitable[Geometry]]


class Disk:
    """A Device over a cache. Whoever made the cache starts and closes it."""

    def __init__(
        self,
        cache: BlockCache,
        geometry: Geometry,
        *,
        read_only: bool = False,
        companions: Mapping[str, Callable[[], Mapping[str, object]]] = MappingProxyType({}),
        grow: Grow | None = None,
        look_size: Callable[[], Awaitable[int]] | None = None,
        assure: Callable[[], Awaitable[None]] | None = None,
        keep_damaged: Callable[[Geometry, int], Awaitable[str | None]] | None = None,
    ) -> None:
        """``companions``: whose statistics go with the disk's, by name. ``grow`` makes the volume and the
        cache larger; None: they cannot be. ``look_size`` tells what size the volume has by now.
        ``assure`` raises what a flush is to raise instead of promising anything. ``keep_damaged`` copies the
        object of a damaged block; its key, None when it is not damaged."""
        self._assure = assure
        self._grow = grow
        self._keep_damaged = keep_damaged
        self._look_size = look_size
        self._growing = asyncio.Lock()
        self._companions = companions
        #: What everything fails with from now on, if not None.
        self._failure: BucketryError | None = None
        self._failed = asyncio.Event()
        self._cache = cache
        self._geometry = geometry
        self._read_only = read_only
        self._size = geometry.size_bytes
        self._block_size = geometry.block_size_bytes
        self._zeros = cache.zeros

    @property
    def size_bytes(self) -> int:
        return self._size

    @property
    def block_size_bytes(self) -> int:
        return self._block_size

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def allocated_bytes(self) -> int:
        """Blocks not known to be zero, in bytes; before the survey has ended that is an upper bound."""
        return self._zeros.nonzero_count() * self._block_size

    def fail(self, error: BucketryError) -> None:
        """From now on every request raises ``error``: the disk's content is not ours to speak of any more."""
        self._failure = error
        self._failed.set()
        self._cache.fail(error)

    async def wait_lost(self) -> BucketryError:
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    async def unsaved(self) -> Unsaved:
        return Unsaved(*await self._cache.unsaved())

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))

    # -- reading ---------------------------------------------------------------------------------------------

    def read_nowait(self, offset: int, length: int) -> BytesLike | None:
        if self._failure is not None:
            self._check_alive()
        block, start = divmod(offset, self._block_size)
        end = start + length
        if length > 0 and end <= self._block_size and 0 <= offset < self._size:
            return self._cache.read_nowait(block, start, end)
        self._geometry.check(offset, length)
        parts = []
        for span in self._geometry.spans(offset, length):
            part = self._cache.read_nowait(span.block, span.start, span.end)
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts)

    async def read(self, offset: int, length: int) -> BytesLike:
        self._check_alive()
        self._geometry.check(offset, length)
        spans = list(self._geometry.spans(offset, length))
        if not spans:
            return b""
        parts = await self._cache.read(spans)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- writing ---------------------------------------------------------------------------------------------

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        self._check_writable(offset, len(data))
        block, start = divmod(offset, self._block_size)
        if start + len(data) <= self._block_size:
            return self._cache.write_nowait(block, start, data)
        spans = list(self._geometry.spans(offset, len(data)))
        if not self._cache.has_room(spans):
            return False
        view = memoryview(data)
        position = 0
        for span in spans:
            length = span.end - span.start
            taken = self._cache.write_nowait(span.block, span.start, view[position : position + length])
            assert taken, "there was room for all of it"
            position += length
        return True

    async def write(self, offset: int, data: BytesLike) -> None:
        self._check_writable(offset, len(data))
        view = memoryview(data)
        waiting = []
        position = 0
        for span in self._geometry.spans(offset, len(data)):
            piece = view[position : position + span.end - span.start]
            position += len(piece)
            if not self._cache.write_nowait(span.block, span.start, piece):
                waiting.append(self._cache.write(span.block, span.start, piece))
        await _all(waiting)

    async def zero(self, offset: int, length: int) -> None:
        self._check_writable(offset, length)
        whole = self._geometry.whole_blocks(offset, length)
        edges = [
            self._cache.write(span.block, span.start, bytes(span.end - span.start))
            for span in self._edges(offset, length, whole)
        ]
        await _all([*edges, self._cache.zero_blocks(whole.start, whole.stop)])

    def _edges(self, offset: int, length: int, whole: range) -> list[Span]:
        """The parts of a range that cover no whole block, those that are known to be zero left out."""
        if whole:
            head = self._geometry.spans(offset, whole.start * self._block_size - offset)
            tail_offset = whole.stop * self._block_size
            tail = self._geometry.spans(tail_offset, offset + length - tail_offset)
            spans = [*head, *tail]
        else:
            spans = list(self._geometry.spans(offset, length))
        return [span for span in spans if not self._zeros.is_zero(span.block)]

    async def trim(self, offset: int, length: int) -> None:
        await self.zero(offset, length)

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        self._check_alive()
        if not self._read_only:
            # At once, whatever there is to wait for: what is written from now on is of the next epoch.
            await self._cache.flush(cursor)
            if self._assure is not None:
                await self._assure()

    def error_cursor(self) -> ErrorCursor:
        return self._cache.error_cursor()

    async def zero_unreadable(self, block: int) -> str | None:
        self._check_alive()
        if self._read_only:
            raise ReadOnly("the disk is attached read-only")
        if self._keep_damaged is None:
            raise Unsupported("this disk cannot put damaged blocks aside while it is in use")
        kept = await self._keep_damaged(self._geometry, block)
        if kept is not None:
            await self._cache.zero_unreadable(block)
        return kept

    async def refresh(self) -> None:
        self._check_alive()
        if self._look_size is not None:
            await self._follow(await self._look_size())
        await self._cache.refresh()

    async def _follow(self, size_bytes: int) -> None:
        """The volume has this size by now. A smaller one changes nothing: what was cut off reads as zeros."""
        if size_bytes > self._size:
            geometry = Geometry(size_bytes, self._block_size)
            self._cache.grow(geometry, zero=False)
            self._geometry, self._size = geometry, size_bytes

    async def grow(self, size_bytes: int, *, force: bool = False) -> None:
        self._check_alive()
        if self._read_only:
            raise ReadOnly("the disk is attached read-only")
        if self._grow is None:
            raise Unsupported("this disk cannot grow while it is in use")
        async with self._growing:
            geometry = await self._grow(size_bytes, self._geometry, force)
            self._geometry, self._size = geometry, geometry.size_bytes

    # -- what there is ---------------------------------------------------------------------------------------

    async def extents(self, offset: int, length: int) -> Sequence[ExtentStatus]:
        self._check_alive()
        self._geometry.check(offset, length)
        await self._cache.wait_surveyed()
        size, count = self._block_size, self._geometry.block_count
        statuses: list[ExtentStatus] = []
        while offset < self._size and (not statuses or offset < statuses[0].offset + length):
            block = offset // size
            is_hole = self._zeros.is_zero(block)
            find = self._zeros.next_nonzero if is_hole else self._zeros.next_zero
            end = find(block, count) * size
            statuses.append(ExtentStatus(offset, end - offset, is_hole))
            offset = end
        return statuses

    def statistics(self) -> Mapping[str, object]:
        figures = {
            "size_bytes": self._size,
            "block_size_bytes": self._block_size,
            "allocated_bytes": self.allocated_bytes,
            "read_only": self._read_only,
        }
        beside = {name: statistics() for name, statistics in self._companions.items()}
        return {"disk": figures, **beside, **self._cache.statistics()}

    def _check_writable(self, offset: int, length: int) -> None:
        if self._read_only:
            raise ReadOnly("the disk is attached read-only")
        if self._failure is not None:
            self._check_alive()
        self._geometry.check(offset, length)


async def _all(coroutines: Sequence[Coroutine[object, object, None]]) -> None:
    """Run all to their end, together; then raise the first error among them, if any."""
    if len(coroutines) == 1:
        await coroutines[0]
        return
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
