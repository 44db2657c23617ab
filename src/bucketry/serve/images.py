"""Copying between a device and an image: a file, a block device or a pipe; holes stay holes."""

import asyncio
import os
import stat
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from bucketry.bucket.interface import BytesLike
from bucketry.core.units import exact_size
from bucketry.disk.interface import Device
from bucketry.errors import Corrupt, Mismatch

T = TypeVar("T")

#: One request to the device: 32 of the usual blocks, which it fetches or uploads together.
CHUNK_BYTES = 4 << 20
#: Requests in flight: the next are ready when one is done, at 32 MiB of memory.
_IN_FLIGHT = 8

#: Called with how many bytes of how many are done.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A range of an image that is data or a hole."""

    offset: int
    length: int
    is_hole: bool


def image_size(descriptor: int) -> int | None:
    """The size of an image in bytes; None for pipes, whose size is known at their end."""
    if not _is_seekable(descriptor):
        return None
    return os.lseek(descriptor, 0, os.SEEK_END)


async def import_image(
    source: int, device: Device, *, blank: bool, progress: Progress, allow_short: bool = False
) -> int:
    """Make the device read as the image, and as zeros behind its end; when it returns, all of it is durable.

    ``blank``: the device is known to read as zeros, and holes need no zeroing. Returns the size of the image.
    Raises Mismatch when the image is larger than the device (a pipe: after filling it), Corrupt when a pipe
    ends before the device does, unless ``allow_short``, and when a file changes its size meanwhile; and what
    the device raises.
    """
    size = image_size(source)
    if size is None:
        size = await _import_pipe(source, device, progress)
        if size < device.size_bytes and not allow_short:
            # A program that dies in the middle closes its pipe as one does that is through.
            raise Corrupt(
                f"the stream ended after {exact_size(size)}, but the disk has "
                f"{exact_size(device.size_bytes)}; if it was complete, import it again with --allow-short"
            )
    else:
        if size > device.size_bytes:
            raise Mismatch(f"the image has {exact_size(size)}, the disk only {exact_size(device.size_bytes)}")
        await _import_pieces(source, size, device, blank=blank, progress=progress)
        now = image_size(source)
        if now != size:
            # Where it had been cut off it looked like a hole.
            raise Corrupt(
                f"the image had {exact_size(size)} and has {exact_size(now or 0)} now: it was changed "
                "while it was read; import it again"
            )
    if not blank and size < device.size_bytes:
        await device.zero(size, device.size_bytes - size)
    await device.flush()
    return size


async def _import_pieces(source: int, size: int, device: Device, *, blank: bool, progress: Progress) -> None:
    async def copy(piece: _Piece) -> None:
        if not piece.is_hole:
            data = await asyncio.to_thread(_read_fully, source, piece.offset, piece.length)
            await device.write(piece.offset, data)
        elif not blank:
            await device.zero(piece.offset, piece.length)

    work = (copy(piece) for piece in _pieces(source, size))
    lengths = (piece.length for piece in _pieces(source, size))
    done = 0
    async for _ in in_order(work, _IN_FLIGHT):
        done += next(lengths)
        progress(done, size)


async def _import_pipe(source: int, device: Device, progress: Progress) -> int:
    offset = 0
    while data := await _read_pipe(source):
        if offset + len(data) > device.size_bytes:
            raise Mismatch(
                f"the image goes on behind the end of the disk, at {exact_size(device.size_bytes)}"
            )
        await device.write(offset, data)
        offset += len(data)
        progress(offset, device.size_bytes)
    return offset


async def export_image(device: Device, target: int, *, progress: Progress) -> None:
    """Write the device's bytes to ``target``. A regular file (an empty one) stays sparse and is durable when
    this returns; to anything else the zeros are written too."""
    kind = os.fstat(target).st_mode
    regular = stat.S_ISREG(kind)
    size = device.size_bytes
    pieces = [
        _Piece(offset, min(CHUNK_BYTES, extent.offset + extent.length - offset), extent.is_hole)
        for extent in await device.extents(0, size)
        for offset in range(extent.offset, extent.offset + extent.length, CHUNK_BYTES)
        if not (regular and extent.is_hole)
    ]
    total = sum(piece.length for piece in pieces)
    done = 0

    async def fetch(piece: _Piece) -> bytes:
        # A copy: what the device returns is valid only until the next turn of the event loop.
        return bytes(piece.length) if piece.is_hole else bytes(await device.read(piece.offset, piece.length))

    queue = deque(pieces)
    async for data in in_order((fetch(piece) for piece in pieces), _IN_FLIGHT):
        piece = queue.popleft()
        await asyncio.to_thread(_write_fully, target, data, piece.offset if regular else None)
        done += piece.length
        progress(done, total)
    if regular:
        os.ftruncate(target, size)
    if regular or stat.S_ISBLK(kind):
        await asyncio.to_thread(os.fsync, target)


async def in_order(work: Iterator[Coroutine[Any, Any, T]], limit: int) -> AsyncIterator[T]:
    """The results of coroutines in their order, ``limit`` of them running at a time."""
    running: deque[asyncio.Task[T]] = deque()
    try:
        for coroutine in work:
            running.append(asyncio.create_task(coroutine))
            if len(running) >= limit:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _pieces(source: int, size: int) -> Iterator[_Piece]:
    """Data and holes of a seekable image, in order; data in chunks."""
    offset = 0
    while offset < size:
        data = _seek(source, offset, os.SEEK_DATA, size)
        if data > offset:
            yield _Piece(offset, data - offset, is_hole=True)
        offset = data
        end = _seek(source, offset, os.SEEK_HOLE, size) if offset < size else size
        while offset < end:
            length = min(CHUNK_BYTES, end - offset)
            yield _Piece(offset, length, is_hole=False)
            offset += length


def _seek(source: int, offset: int, what: int, size: int) -> int:
    """Where the next data or hole is; the end when there is none. Block devices know no holes."""
    try:
        return min(size, os.lseek(source, offset, what))
    except OSError:
        # ENXIO: no data up to the end. EINVAL: this file cannot tell, so everything is data.
        is_device = stat.S_ISBLK(os.fstat(source).st_mode)
        return offset if is_device and what == os.SEEK_DATA else size


def _read_fully(source: int, offset: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(source, length, offset)
        if not part:
            raise Corrupt("the image became shorter while it was read; import it again")
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


async def _read_pipe(source: int) -> bytes:
    """Up to one chunk; less only at the end. Waits without a thread: one that is stuck in a read could not be
    interrupted."""
    parts = []
    length = CHUNK_BYTES
    while length:
        await _wait_readable(source)
        part = os.read(source, length)
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


async def _wait_readable(source: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(source, readable.set)
    except PermissionError:
        return  # /dev/zero and the like cannot be waited for, and need not be
    try:
        await readable.wait()
    finally:
        loop.remove_reader(source)


def _write_fully(target: int, data: BytesLike, offset: int | None) -> None:
    """At ``offset``, or where the target stands when that is None."""
    view = memoryview(data)
    while view:
        if offset is None:
            count = os.write(target, view)
        else:
            count = os.pwrite(target, view, offset)
            offset += count
        view = view[count:]


def _is_seekable(descriptor: int) -> bool:
    kind = os.fstat(descriptor).st_mode
    return stat.S_ISREG(kind) or stat.S_ISBLK(kind)
