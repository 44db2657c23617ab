"""A device in memory that waits and fails when told to."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bucketry.core.bytes_like import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.core.geometry import Geometry
from bucketry.disk.interface import ExtentStatus, Unsaved
from bucketry.errors import BucketryError, Busy, Invalid, ReadOnly

#: Awaited before a waiting operation (its name, offset and length), which it may delay or, by raising, fail.
Hook = Callable[[str, int, int], Awaitable[None]]


async def proceed(_operation: str, _offset: int, _length: int) -> None:
    """The hook that neither delays nor fails."""


class MemoryDevice:
    """A Device over a bytearray. Blocks are data from their first write until they are zeroed or trimmed
    whole.

    ``immediate``: whether the ``…_nowait`` twins answer or decline. ``before`` may be replaced at any time.
    ``data`` is the content and ``calls`` counts the operations, for tests to look at.
    """

    def __init__(
        self,
        size_bytes: int,
        block_size_bytes: int = 4096,
        *,
        read_only: bool = False,
        immediate: bool = True,
        before: Hook = proceed,
    ) -> None:
        self._geometry = Geometry(size_bytes, block_size_bytes)
        self._read_only = read_only
        self._allocated: set[int] = set()
        self.data = bytearray(size_bytes)
        self._view = memoryview(self.data)
        self.immediate = immediate
        self.before = before
        self.calls: Counter[str] = Counter()

    @property
    def size_bytes(self) -> int:
        return self._geometry.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return self._geometry.block_size_bytes

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def allocated_bytes(self) -> int:
        return len(self._allocated) * self._geometry.block_size_bytes

    def read_nowait(self, offset: int, length: int) -> BytesLike | None:
        self._geometry.check(offset, length)
        return self._view[offset : offset + length] if self.immediate else None

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        self._check_change(offset, len(data))
        if self.immediate:
            self._write(offset, data)
        return self.immediate

    async def read(self, offset: int, length: int) -> BytesLike:
        self._geometry.check(offset, length)
        await self._call("read", offset, length)
        return bytes(self._view[offset : offset + length])

    async def write(self, offset: int, data: BytesLike) -> None:
        self._check_change(offset, len(data))
        await self._call("write", offset, len(data))
        self._write(offset, data)

    async def zero(self, offset: int, length: int) -> None:
        self._check_change(offset, length)
        await self._call("zero", offset, length)
        self._clear(offset, length)

    async def trim(self, offset: int, length: int) -> None:
        self._check_change(offset, length)
        await self._call("trim", offset, length)
        self._clear(offset, length)

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        await self._call("flush", 0, 0)

    def error_cursor(self) -> ErrorCursor:
        return ErrorCursor()

    async def zero_unreadable(self, block: int) -> str | None:
        return None

    async def refresh(self) -> None:
        if not self._read_only:
            raise Invalid("only a read-only device is refreshed")
        await self._call("refresh", 0, 0)

    async def grow(self, size_bytes: int, *, force: bool = False) -> None:
        if self._read_only:
            raise ReadOnly("the device is read-only")
        if size_bytes < self.size_bytes:
            raise Busy("a device that is in use only grows")
        self._geometry = Geometry(size_bytes, self._geometry.block_size_bytes)
        # Views of before keep the bytes that they are of; what was read from them is copied by then.
        self.data = bytearray(bytes(self.data).ljust(size_bytes, b"\0"))
        self._view = memoryview(self.data)

    async def extents(self, offset: int, length: int) -> Sequence[ExtentStatus]:
        self._geometry.check(offset, length)
        await self._call("extents", offset, length)
        found: list[ExtentStatus] = []
        for span in self._geometry.spans(offset, length):
            is_hole = span.block not in self._allocated
            size = span.end - span.start
            if found and found[-1].is_hole == is_hole:
                found[-1] = ExtentStatus(found[-1].offset, found[-1].length + size, is_hole)
            else:
                found.append(
                    ExtentStatus(self._geometry.extent(span.block).offset + span.start, size, is_hole)
                )
        return found

    async def unsaved(self) -> Unsaved:
        return Unsaved(0)

    async def wait_lost(self) -> BucketryError:
        await asyncio.Event().wait()
        raise AssertionError("nobody takes memory over")

    def statistics(self) -> Mapping[str, object]:
        return {"calls": dict(self.calls), "allocated_bytes": self.allocated_bytes}

    def _check_change(self, offset: int, length: int) -> None:
        self._geometry.check(offset, length)
        if self._read_only:
            raise ReadOnly("the memory device was opened for reading only")

    async def _call(self, operation: str, offset: int, length: int) -> None:
        self.calls[operation] += 1
        await self.before(operation, offset, length)

    def _write(self, offset: int, data: BytesLike) -> None:
        block_size = self._geometry.block_size_bytes
        self._view[offset : offset + len(data)] = data
        if data:
            self._allocated.update(range(offset // block_size, (offset + len(data) - 1) // block_size + 1))

    def _clear(self, offset: int, length: int) -> None:
        self._view[offset : offset + length] = bytes(length)
        self._allocated.difference_update(self._geometry.whole_blocks(offset, length))
