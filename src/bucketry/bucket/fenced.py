"""A bucket that is changed only while we may: every put and delete asks a fence first.

It stands right above the store, below the retries: an attempt that was postponed asks again.
"""

from collections.abc import Callable, Iterable

from bucketry.bucket.interface import NO_ATTRIBUTES, Attributes, Bucket, Condition
from bucketry.bucket.wrapper import BucketWrapper
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority


class Fence:
    """Whether changes may pass. Open at first; ``guard_with`` a function that raises (Fenced) while they may
    not."""

    def __init__(self) -> None:
        self._check: Callable[[], None] | None = None

    def guard_with(self, check: Callable[[], None] | None) -> None:
        """None opens the fence for good."""
        self._check = check

    def check(self) -> None:
        if self._check is not None:
            self._check()


class FencedBucket(BucketWrapper):
    """A Bucket over ``below`` that raises what the fence raises instead of changing anything."""

    def __init__(self, below: Bucket, fence: Fence) -> None:
        super().__init__(below)
        self._fence = fence

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        self._fence.check()
        return await self._below.put(key, data, attributes=attributes, condition=condition, priority=priority)

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        self._fence.check()
        await self._below.delete(key, priority=priority)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        self._fence.check()
        await self._below.delete_many(keys, priority=priority)
