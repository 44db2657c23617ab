"""A device that waits for its bucket instead of failing: what lies below a mounted filesystem.

A filesystem that is told of one failed write or flush gives up: ext4 aborts its journal and turns read-only,
and what it had not written is lost, though the bucket may be back a minute later. So, like a hard NFS mount,
an operation that failed because of the bucket is tried again until it succeeds. What no waiting can mend
(damaged blocks, wrong ranges) still fails.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from bucketry.bucket.interface import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.disk.interface import Device, ExtentStatus, Unsaved
from bucketry.errors import (
    BucketNotFound,
    BucketryError,
    Closed,
    Corrupt,
    Denied,
    Invalid,
    ReadOnly,
    TakenOver,
    Unavailable,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Between two attempts; each has had the bucket's own retries already.
_PAUSE_SECONDS = 1.0
#: Reading: the bucket is away, or keeps us out until somebody renews the credentials.
_PASSING = (Unavailable, Denied, BucketNotFound)
#: Writing: whatever kept data from the bucket, the cache still has it, and waits. Only these will never pass.
_LASTING = (Invalid, ReadOnly, Closed, Corrupt, TakenOver)


class PatientDevice:
    """``below``, with patience. ``trouble`` is what the latest attempt failed with, None when all is well."""

    def __init__(self, below: Device) -> None:
        self._below = below
        self.trouble: BucketryError | None = None

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
        return self._below.read_nowait(offset, length)

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        return self._below.write_nowait(offset, data)

    async def read(self, offset: int, length: int) -> BytesLike:
        return await self._insist(lambda: self._below.read(offset, length), self._passes)

    async def write(self, offset: int, data: BytesLike) -> None:
        await self._insist(lambda: self._below.write(offset, data), self._passes)

    async def zero(self, offset: int, length: int) -> None:
        await self._insist(lambda: self._below.zero(offset, length), self._passes)

    async def trim(self, offset: int, length: int) -> None:
        await self._insist(lambda: self._below.trim(offset, length), self._passes)

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        await self._insist(lambda: self._below.flush(cursor), lambda error: not isinstance(error, _LASTING))

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
        return await self._insist(lambda: self._below.extents(offset, length), self._passes)

    def statistics(self) -> Mapping[str, object]:
        return self._below.statistics()

    @staticmethod
    def _passes(error: BucketryError) -> bool:
        return isinstance(error, _PASSING)

    async def _insist(
        self, attempt: Callable[[], Awaitable[T]], passes: Callable[[BucketryError], bool]
    ) -> T:
        """What ``attempt`` returns, tried again while it fails with what ``passes``."""
        while True:
            try:
                result = await attempt()
            except BucketryError as error:
                if not passes(error):
                    raise
                if self.trouble is None:
                    logger.error("the filesystem waits for the bucket: %s", error)
                self.trouble = error
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if self.trouble is not None:
                    logger.warning("the bucket is back")
                self.trouble = None
                return result
