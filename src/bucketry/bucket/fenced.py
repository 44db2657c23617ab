"""A bucket that is changed only while we may: every put, delete and upload asks a fence first.

It stands right above the store, below the retries: an attempt that was postponed asks again. The store itself
asks once more in the thread that sends the request: between the two this process may have been stopped for
any time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bucketry.bucket.interface import NO_ATTRIBUTES, Attributes, Bucket, Condition, Part
from bucketry.bucket.wrapper import BucketWrapper
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority


@dataclass(frozen=True, slots=True)
class Owner:
    """The object ``key`` says who may change the bucket: ``is_ours`` tells from its bytes, None when it is
    absent, whether we may. Called from any thread."""

    key: str
    is_ours: Callable[[bytes | None], bool]


class Fence:
    """Whether changes may pass. Open at first; ``guard_with`` a function that raises (Fenced) while they may
    not. Checked from any thread."""

    def __init__(self) -> None:
        self._check: Callable[[], None] | None = None
        #: For stores that can look at an object and change another in one step; None: nobody needs to look.
        self.owner: Owner | None = None

    def guard_with(self, check: Callable[[], None] | None, owner: Owner | None = None) -> None:
        """None opens the fence for good."""
        self.owner = owner
        self._check = check

    def check(self) -> None:
        """Raises what keeps changes from passing."""
        if self._check is not None:
            self._check()

    def check_change(self, key: str) -> None:
        """As ``check``, for a request that is about to be sent. What says who the owner is may be changed by
        those who are not: its own conditions protect it."""
        owner = self.owner
        if owner is None or key != owner.key:
            self.check()


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

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        self._fence.check()
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
        self._fence.check()
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
        self._fence.check()
        return await self._below.complete_upload(
            key, upload_id, parts, condition=condition, priority=priority
        )

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        self._fence.check()
        await self._below.abort_upload(key, upload_id, priority=priority)
