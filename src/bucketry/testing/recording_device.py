"""A device that notes which bytes are asked for and changed, on their way to the device below."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bucketry.core.bytes_like import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.disk.interface import Device, ExtentStatus, Unsaved
from bucketry.errors import BucketryError


@dataclass(frozen=True, slots=True)
class Access:
    """One request: ``r`` reads, ``w`` writes, ``z`` zeroes or trims."""

    kind: Literal["r", "w", "z"]
    offset: int
    length: int


class RecordingDevice:
    """A Device over a Device. ``note`` is told of every request, once, before it is carried out; flushes and
    questions change nothing and are not told."""

    def __init__(self, below: Device, note: Callable[[Access], None]) -> None:
        self._below = below
        self._note = note

    @property
    def size_bytes(self) -> int:
        return self._below.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return self._below.block_size_bytes

    @property
    def read_only(self) -> bool:
        return self._below.read_only

    @property
    def allocated_bytes(self) -> int:
        return self._below.allocated_bytes

    def read_nowait(self, offset: int, length: int) -> BytesLike | None:
        data = self._below.read_nowait(offset, length)
        if data is not None:
            self._note(Access("r", offset, length))
        return data

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        taken = self._below.write_nowait(offset, data)
        if taken:
            self._note(Access("w", offset, len(data)))
        return taken

    async def read(self, offset: int, length: int) -> BytesLike:
        self._note(Access("r", offset, length))
        return await self._below.read(offset, length)

    async def write(self, offset: int, data: BytesLike) -> None:
        self._note(Access("w", offset, len(data)))
        await self._below.write(offset, data)

    async def zero(self, offset: int, length: int) -> None:
        self._note(Access("z", offset, length))
        await self._below.zero(offset, length)

    async def trim(self, offset: int, length: int) -> None:
        self._note(Access("z", offset, length))
        await self._below.trim(offset, length)

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        await self._below.flush(cursor)

    def error_cursor(self) -> ErrorCursor:
        return self._below.error_cursor()

    async def zero_unreadable(self, block: int) -> str | None:
        return await self._below.zero_unreadable(block)

    async def refresh(self) -> None:
        await self._below.refresh()

    async def grow(self, size_bytes: int, *, force: bool = False) -> None:
        await self._below.grow(size_bytes, force=force)

    async def unsaved(self) -> Unsaved:
        return await self._below.unsaved()

    async def wait_lost(self) -> BucketryError:
        return await self._below.wait_lost()

    async def extents(self, offset: int, length: int) -> Sequence[ExtentStatus]:
        return await self._below.extents(offset, length)

    def statistics(self) -> Mapping[str, object]:
        return self._below.statistics()
