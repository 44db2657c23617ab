"""A bucket that passes everything to the one below: the base of all wrappers, each of which states only
what it changes.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    ByteRange,
    Condition,
    Conditions,
    Entry,
    Object,
    ObjectInfo,
    Part,
    PartPages,
    UploadLimits,
    UploadPages,
)
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority


class BucketWrapper:
    """A Bucket over the bucket ``below``."""

    def __init__(self, below: Bucket) -> None:
        self._below = below

    @property
    def url(self) -> str:
        return self._below.url

    @property
    def conditions(self) -> Conditions:
        return self._below.conditions

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        return await self._below.head(key, priority=priority)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        return await self._below.get(key, byte_range=byte_range, priority=priority)

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await self._below.put(key, data, attributes=attributes, condition=condition, priority=priority)

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        await self._below.delete(key, priority=priority)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        await self._below.delete_many(keys, priority=priority)

    def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        return self._below.list(prefix=prefix, after=after, priority=priority)

    @property
    def listings_max(self) -> int:
        return self._below.listings_max

    @property
    def upload_limits(self) -> UploadLimits:
        return self._below.upload_limits

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await self._below.create_upload(
            key, part_size_bytes=part_size_bytes, attributes=attributes, priority=priority
        )

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        return await self._below.put_part(key, upload_id, number, data, priority=priority)

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await self._below.complete_upload(
            key, upload_id, parts, condition=condition, priority=priority
        )

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        await self._below.abort_upload(key, upload_id, priority=priority)

    def list_uploads(self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND) -> UploadPages:
        return self._below.list_uploads(prefix=prefix, priority=priority)

    def list_parts(self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD) -> PartPages:
        return self._below.list_parts(key, upload_id, priority=priority)

    def statistics(self) -> Mapping[str, object]:
        return self._below.statistics()

    async def close(self) -> None:
        await self._below.close()


async def close_pages(pages: AsyncIterator[Sequence[object]]) -> None:
    """End a listing that is not read to its end: an abandoned generator would be closed by the garbage
    collector, in a task of nobody's, some time later."""
    if isinstance(pages, AsyncGenerator):
        await pages.aclose()


def loop_seconds() -> float:
    """The clock of the running event loop: under virtual time it is the virtual one."""
    return asyncio.get_running_loop().time()
