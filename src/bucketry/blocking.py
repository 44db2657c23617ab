"""A disk as a raw binary file object, for programs that do not run an event loop.

The disk lives in a loop on a thread of its own, from ``open`` to ``close``. Calls are thread safe; each waits
for its answer.
"""

import asyncio
import concurrent.futures
import errno
import io
import os
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from bucketry.assemble import create_volume, open_disk
from bucketry.bucket.interface import BytesLike
from bucketry.disk.interface import Device
from bucketry.errnos import errno_of
from bucketry.errors import BucketryError, Invalid
from bucketry.serve.event_loop import run
from bucketry.settings import BucketSettings, CacheSettings, Secret, VolumeFormat, VolumeSettings
from bucketry.threads.loop_thread import LoopThread
from bucketry.threads.waiting import result_of

T = TypeVar("T")

#: What ``readall`` asks for at a time: eight blocks of the usual size, fetched together.
_READ_ALL_BYTES = 1 << 20
_MODES = {"rb": True, "r+b": False, "rb+": False}


def open(  # noqa: A001 - it is what builtins.open is, for disks
    url: str,
    mode: str = "rb",
    *,
    password: str | bytes | None = None,
    volume: VolumeSettings | None = None,
    cache: CacheSettings | None = None,
    **bucket: Any,
) -> "DiskFile":
    """Open the disk at ``url`` as a file: ``"rb"`` to read, ``"r+b"`` to read and write.

    ``password`` is that of an encrypted disk. Further keywords are those of BucketSettings (``endpoint``,
    ``region``, ``access_file``, …). Raises a BucketryError when the disk cannot be opened; Busy when someone
    else writes to it.
    """
    if mode not in _MODES:
        raise Invalid(f"mode {mode!r} is not one of {', '.join(_MODES)}")
    asked = replace(volume or VolumeSettings(), read_only=_MODES[mode])
    if password is not None:
        asked = replace(asked, password=Secret(password))
    return DiskFile(BucketSettings(url=url, **bucket), asked, cache or CacheSettings())


def create(
    url: str,
    size_bytes: int,
    *,
    block_size_bytes: int = 128 << 10,
    compression: str = "none",
    cipher: str | None = None,
    password: str | bytes | None = None,
    **bucket: Any,
) -> None:
    """Make an empty disk at ``url``. Case does not matter in ``compression`` and ``cipher``. Raises
    AlreadyExists where one is, Invalid for a bad size."""
    volume = VolumeFormat(
        size_bytes=size_bytes,
        block_size_bytes=block_size_bytes,
        compression=compression.lower(),
        cipher=None if cipher is None else cipher.upper(),
    )
    secret = None if password is None else Secret(password)
    run(create_volume(BucketSettings(url=url, **bucket), volume, password=secret))


class DiskFile(io.RawIOBase):
    """An open disk. Errors of reading and writing are OSErrors, with the BucketryError as their cause.

    ``flush`` returns when everything written is in the bucket. ``close`` flushes first; when that fails it
    raises and the file stays open, with nothing lost: try again.
    """

    def __init__(self, bucket: BucketSettings, volume: VolumeSettings, cache: CacheSettings) -> None:
        super().__init__()
        self._position = 0
        self._device: Device
        self._stop: asyncio.Event
        self._running = LoopThread("disk")
        opened: concurrent.futures.Future[Device] = concurrent.futures.Future()
        self._life = self._running.prepare(lambda: self._live(open_disk(bucket, volume, cache), opened))

        def ended(life: "concurrent.futures.Future[None]") -> None:
            if not opened.done():
                opened.set_exception(life.exception())

        self._life.when_done(ended)
        try:
            self._running.begin(self._life)
            self._device = result_of(opened)
        except BaseException:
            # Ctrl-C as well: what was being opened is closed again.
            self._running.close()
            super().close()
            raise

    async def _live(
        self, disk: AbstractAsyncContextManager[Device], opened: "concurrent.futures.Future[Device]"
    ) -> None:
        """The disk from beginning to end, in one task."""
        async with disk as device:
            self._stop = asyncio.Event()
            opened.set_result(device)
            await self._stop.wait()

    def _call(self, make: Callable[[], Coroutine[object, object, T]]) -> T:
        """An interruption (Ctrl-C) ends the call first: what it was lent is its caller's again."""
        if self.closed:
            raise ValueError("I/O operation on closed disk")
        try:
            return self._running.call(make)
        except BucketryError as error:
            raise OSError(errno_of(error), str(error)) from error

    # -- what a raw file does --------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return not self._device.read_only

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._device.size_bytes - self._position))
        if not length:
            return 0
        view[:length] = self._call(lambda: self._read(self._position, length))
        self._position += length
        return length

    async def _read(self, offset: int, length: int) -> BytesLike:
        # A copy, made in the loop's own thread: what the disk returns may change after its next turn.
        found = self._device.read_nowait(offset, length)
        return await self._device.read(offset, length) if found is None else bytes(found)

    def readall(self) -> bytes:
        parts = []
        while part := self.read(_READ_ALL_BYTES):
            parts.append(part)
        return b"".join(parts)

    def write(self, data: Any, /) -> int:
        """Write all of ``data`` that fits; OSError ENOSPC when nothing does."""
        if not self.writable():
            raise io.UnsupportedOperation("the disk is open for reading only")
        view = memoryview(data).cast("B")
        room = max(0, self._device.size_bytes - self._position)
        if view.nbytes and not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[:room]
        self._call(lambda: self._device.write(self._position, view))
        self._position += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed disk")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._device.size_bytes}.get(
            whence
        )
        if start is None:
            raise ValueError(f"whence {whence} is not 0, 1 or 2")
        if start + offset < 0:
            raise OSError(errno.EINVAL, "negative seek position")
        self._position = start + offset
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """A disk keeps its size: only that is accepted."""
        if (self._position if size is None else size) != self._device.size_bytes:
            raise io.UnsupportedOperation("a disk cannot be truncated")
        return self._device.size_bytes

    def flush(self) -> None:
        """Wait until everything written is in the bucket. Raises OSError when something could not be
        uploaded; it is kept, and the next flush tries again."""
        # The base class flushes once more while it closes: by then there is no disk any more.
        if hasattr(self, "_device") and not self._life.is_done and not self._device.read_only:
            self._call(self._device.flush)

    def zero(self, offset: int, length: int) -> None:
        """Make ``length`` bytes at ``offset`` zeros; whole blocks are freed."""
        if not self.writable():
            raise io.UnsupportedOperation("the disk is open for reading only")
        self._call(lambda: self._device.zero(offset, length))

    def __len__(self) -> int:
        return self._device.size_bytes

    def close(self) -> None:
        if self.closed:
            return
        if not hasattr(self, "_device"):
            super().close()
            return
        self.flush()
        self._running.post(self._stop.set)
        try:
            self._life.result()
        except BucketryError as error:
            raise OSError(errno_of(error), str(error)) from error
        finally:
            self._running.close()
            super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{'closed' if self.closed else 'open'} bucketry disk at {self._position}>"
