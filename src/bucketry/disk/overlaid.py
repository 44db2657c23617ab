"""A read-only disk that shows what a journal holds over what the bucket holds, without changing either."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bucketry.cache.left_journal import RecoveredEpoch
from bucketry.core.bytes_like import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.core.journal import Place
from bucketry.core.overlay import Overlay, Piece
from bucketry.disk.disk import Disk
from bucketry.disk.interface import ExtentStatus, Unsaved
from bucketry.errors import BucketryError


class _Record(NamedTuple):
    """A record of an epoch: where its bytes are. They stay in the journal's files."""

    epoch: RecoveredEpoch
    place: Place


class OverlaidDisk:
    """A Device over a read-only ``disk``, with the changes of ``epochs``, the oldest first."""

    def __init__(self, disk: Disk, overlay: Overlay[_Record]) -> None:
        self._disk = disk
        self._overlay = overlay
        self._reads = 0

    @classmethod
    async def over(cls, disk: Disk, epochs: Sequence[RecoveredEpoch]) -> "OverlaidDisk":
        """Raises Corrupt when the journal's records are not what they were when it was opened, Unavailable
        when they cannot be read."""
        overlay: Overlay[_Record] = Overlay()
        for epoch in epochs:
            async for change in epoch.places():
                source = None if change.place is None else _Record(epoch, change.place)
                overlay.add(Piece(change.offset, change.length, source, change.start))
                await asyncio.sleep(0)
        return cls(disk, overlay)

    @property
    def size_bytes(self) -> int:
        return self._disk.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return self._disk.block_size_bytes

    @property
    def read_only(self) -> bool:
        return True

    @property
    def allocated_bytes(self) -> int:
        return min(self.size_bytes, self._disk.allocated_bytes + self._overlay.size_bytes)

    # -- reading ---------------------------------------------------------------------------------------------

    def read_nowait(self, offset: int, length: int) -> BytesLike | None:
        if self._overlay.touches(offset, length):
            return None
        return self._disk.read_nowait(offset, length)

    async def read(self, offset: int, length: int) -> BytesLike:
        below = await self._disk.read(offset, length)
        if not self._overlay.touches(offset, length):
            return below
        self._reads += 1
        data = bytearray(below)
        for piece in self._overlay.pieces(offset, length):
            at = piece.offset - offset
            if piece.source is None:
                data[at : at + piece.length] = bytes(piece.length)
            else:
                payload = await piece.source.epoch.payload(piece.source.place)
                data[at : at + piece.length] = payload[piece.start : piece.start + piece.length]
        return bytes(data)

    async def extents(self, offset: int, length: int) -> Sequence[ExtentStatus]:
        found: list[ExtentStatus] = []
        at, end = offset, offset + length
        below = list(await self._disk.extents(offset, length))
        for piece in self._overlay.pieces(offset, length):
            found += _cut(below, at, piece.offset)
            found.append(ExtentStatus(piece.offset, piece.length, piece.source is None))
            at = piece.end
        found += _cut(below, at, max(end, below[-1].offset + below[-1].length) if below and at < end else end)
        return _merged(found)

    async def refresh(self) -> None:
        """Forget what was read of the bucket. The journal is ours as long as we run, and stays as it is."""
        await self._disk.refresh()

    # -- changes are refused by the disk below ---------------------------------------------------------------

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        return self._disk.write_nowait(offset, data)

    async def write(self, offset: int, data: BytesLike) -> None:
        await self._disk.write(offset, data)

    async def zero(self, offset: int, length: int) -> None:
        await self._disk.zero(offset, length)

    async def trim(self, offset: int, length: int) -> None:
        await self._disk.trim(offset, length)

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        await self._disk.flush(cursor)

    def error_cursor(self) -> ErrorCursor:
        return self._disk.error_cursor()

    async def zero_unreadable(self, block: int) -> str | None:
        return await self._disk.zero_unreadable(block)

    async def grow(self, size_bytes: int, *, force: bool = False) -> None:
        await self._disk.grow(size_bytes, force=force)

    async def unsaved(self) -> Unsaved:
        return await self._disk.unsaved()

    async def wait_lost(self) -> BucketryError:
        return await self._disk.wait_lost()

    def statistics(self) -> Mapping[str, object]:
        """Those of the disk below, and what is shown of the journal: ``ranges`` that cover ``size_bytes``,
        and how many ``reads`` met them."""
        shown = {"ranges": len(self._overlay), "size_bytes": self._overlay.size_bytes, "reads": self._reads}
        return {**self._disk.statistics(), "journal_overlay": shown}


def _cut(extents: Sequence[ExtentStatus], start: int, end: int) -> list[ExtentStatus]:
    """The parts of extents between two offsets."""
    parts = []
    for extent in extents:
        first, last = max(start, extent.offset), min(end, extent.offset + extent.length)
        if first < last:
            parts.append(ExtentStatus(first, last - first, extent.is_hole))
    return parts


def _merged(extents: Sequence[ExtentStatus]) -> list[ExtentStatus]:
    merged: list[ExtentStatus] = []
    for extent in extents:
        if merged and merged[-1].is_hole == extent.is_hole:
            last = merged[-1]
            merged[-1] = ExtentStatus(last.offset, last.length + extent.length, last.is_hole)
        else:
            merged.append(extent)
    return merged
