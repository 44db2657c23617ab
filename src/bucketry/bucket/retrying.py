"""A bucket that tries failed requests again, within a budget, without ever doing twice what must be done
once.

Puts without a condition, deletes, heads and gets can be repeated as they are. A conditional put cannot:
when an attempt is applied but its answer gets lost, the next attempt meets the object that the first one
made, and the store reports our own success as a conflict. So every conditional put stamps its object with
an id of its own in the user metadata; when a conflict follows an attempt without an answer, the object is
read back, and if it carries our id the put has succeeded. Readers through this bucket never see the stamp.

What cannot be known from here is reported on the safe side. If somebody replaced our object before we could
read it back, the put is a conflict, though it was in the bucket for a moment. When the budget ends while
answers are missing, the put is Unavailable, and may or may not be, or become, visible: read before relying
on either.

An upload in parts has the id from its begin on, and its completion is read back the same way. When the
answer to a begin got lost there is an upload without parts that nobody knows; who lists uploads finds it.

One thing is beyond a client's reach: an attempt that timed out may linger on its way and be applied after
its successors, even after a later put of the same key. Where that must not happen, put with a condition.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random, SystemRandom
from typing import TypeVar

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    ByteRange,
    Condition,
    Entry,
    Object,
    ObjectInfo,
    Part,
    PartPages,
    UploadPages,
)
from bucketry.bucket.wrapper import BucketWrapper, close_pages, loop_seconds
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority
from bucketry.core.retry import RETRIED_ERRORS, RetriedError, Retry
from bucketry.errors import (
    AlreadyExists,
    NotFound,
    PreconditionFailed,
    Unavailable,
    UploadGone,
)
from bucketry.settings import RetrySettings

#: User metadata that says which conditional put made an object.
PUT_ID = "bucketry-put-id"
#: Two conditional puts of one key must differ; 64 bits never meet by chance among the few that ever race.
PUT_ID_BITS = 64

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Retrying(BucketWrapper):
    """Retries what may work later. ``statistics()["retrying"]`` counts ``retries`` (attempts after the
    first), ``exhausted`` (requests given up) and ``read_backs`` (conflicts looked into).

    Raises what the last attempt raised; after more than one, its message ends with how often and how long
    it was tried. Cancellation is immediate, also in a pause. ``now`` and ``sleep`` are the clock,
    ``random`` draws jitter and ids.
    """

    def __init__(
        self,
        below: Bucket,
        settings: RetrySettings,
        *,
        now: Callable[[], float] = loop_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        super().__init__(below)
        self._settings = settings
        self._now = now
        self._sleep = sleep
        self._random = random or SystemRandom()
        self._retry_count = 0
        self._exhausted_count = 0
        self._read_back_count = 0
        #: Of uploads begun here and not ended here: what their objects will be stamped with.
        self._upload_stamps: dict[str, str] = {}

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        info = await self._persist("head", key, lambda: self._below.head(key, priority=priority))
        return _without_put_id(info)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        found = await self._persist(
            "get", key, lambda: self._below.get(key, byte_range=byte_range, priority=priority)
        )
        if PUT_ID in found.info.attributes.metadata:
            return replace(found, info=_without_put_id(found.info))
        return found

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        if condition is None:
            return await self._persist(
                "put", key, lambda: self._below.put(key, data, attributes=attributes, priority=priority)
            )
        put_id, stamped = self._stamp(attributes)
        return await self._persist_once(
            "put",
            key,
            put_id,
            priority,
            lambda: self._below.put(key, data, attributes=stamped, condition=condition, priority=priority),
        )

    def _stamp(self, attributes: Attributes) -> tuple[str, Attributes]:
        """A new id, and the attributes with it."""
        put_id = f"{self._random.getrandbits(PUT_ID_BITS):0{PUT_ID_BITS // 4}x}"
        return put_id, replace(attributes, metadata={**attributes.metadata, PUT_ID: put_id})

    async def _persist_once(
        self,
        operation: str,
        key: str,
        put_id: str | None,
        priority: Priority,
        attempt: Callable[[], Awaitable[str]],
    ) -> str:
        """The ETag of the object that ``attempt`` makes under a condition, and stamps with ``put_id`` (None:
        not known any more)."""
        retry = Retry(self._settings, began=self._now())
        answer_lost = False
        while True:
            try:
                return await attempt()
            except (AlreadyExists, PreconditionFailed, UploadGone):
                if not answer_lost or put_id is None:
                    raise
                etag = await self._read_back(key, put_id, priority, retry)
                if etag is None:
                    raise
                return etag
            except RETRIED_ERRORS as error:
                # Any failure may have come after the store had applied it; believing so costs one head at
                # most.
                answer_lost = True
                await self._pause(operation, key, retry, error)

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        await self._persist("delete", key, lambda: self._below.delete(key, priority=priority))

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        batch = list(keys)  # every attempt needs all of them, and an iterator gives them once
        if batch:
            name = f"{batch[0]} and {len(batch) - 1} more"
            await self._persist("delete", name, lambda: self._below.delete_many(batch, priority=priority))

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        # A page is a request, with a budget of its own; after a failure the listing goes on behind the last
        # key it gave.
        pages = self._below.list(prefix=prefix, after=after, priority=priority)
        retry = Retry(self._settings, began=self._now())
        try:
            while True:
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
                except RETRIED_ERRORS as error:
                    await self._pause("list", f"{prefix} after {after}", retry, error)
                    pages = self._below.list(prefix=prefix, after=after, priority=priority)
                    continue
                yield page
                if page:
                    after = page[-1].key
                retry = Retry(self._settings, began=self._now())
        finally:
            await close_pages(pages)

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        put_id, stamped = self._stamp(attributes)
        upload_id = await self._persist(
            "create_upload",
            key,
            lambda: self._below.create_upload(
                key, part_size_bytes=part_size_bytes, attributes=stamped, priority=priority
            ),
        )
        self._upload_stamps[upload_id] = put_id
        return upload_id

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        return await self._persist(
            "put_part",
            f"{key} part {number}",
            lambda: self._below.put_part(key, upload_id, number, data, priority=priority),
        )

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        etag = await self._persist_once(
            "complete_upload",
            key,
            self._upload_stamps.get(upload_id),
            priority,
            lambda: self._below.complete_upload(
                key, upload_id, parts, condition=condition, priority=priority
            ),
        )
        self._upload_stamps.pop(upload_id, None)
        return etag

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        await self._persist(
            "abort_upload", key, lambda: self._below.abort_upload(key, upload_id, priority=priority)
        )
        self._upload_stamps.pop(upload_id, None)

    async def list_uploads(
        self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND
    ) -> UploadPages:
        # A few pages, gathered before they are passed on: after a failure the listing begins anew.
        def begin() -> UploadPages:
            return self._below.list_uploads(prefix=prefix, priority=priority)

        for page in await self._persist("list_uploads", prefix, lambda: _gather(begin())):
            yield page

    async def list_parts(
        self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD
    ) -> PartPages:
        def begin() -> PartPages:
            return self._below.list_parts(key, upload_id, priority=priority)

        for page in await self._persist("list_parts", key, lambda: _gather(begin())):
            yield page

    def statistics(self) -> Mapping[str, object]:
        figures = {
            "retries": self._retry_count,
            "exhausted": self._exhausted_count,
            "read_backs": self._read_back_count,
        }
        return {**self._below.statistics(), "retrying": figures}

    async def _persist(
        self, operation: str, key: str, attempt: Callable[[], Awaitable[_T]], retry: Retry | None = None
    ) -> _T:
        """The outcome of ``attempt``, repeated as the schedule says."""
        began = self._now()
        while True:
            try:
                return await attempt()
            except RETRIED_ERRORS as error:
                if retry is None:
                    retry = Retry(self._settings, began=began)
                await self._pause(operation, key, retry, error)

    async def _pause(self, operation: str, key: str, retry: Retry, error: RetriedError) -> None:
        """Wait until the next attempt is due. Raises ``error`` anew, with the whole story, when there is
        none."""
        now = self._now()
        pause_seconds = retry.pause_after(error, now=now, jitter=self._random.random())
        if pause_seconds is None:
            self._exhausted_count += 1
            raise _exhausted(error, retry, now) from error
        self._retry_count += 1
        _log.warning(
            "%s %r: attempt %d failed, trying again in %.2f s: %s",
            operation,
            key,
            retry.failure_count,
            pause_seconds,
            error,
        )
        await self._sleep(pause_seconds)

    async def _read_back(self, key: str, put_id: str, priority: Priority, retry: Retry) -> str | None:
        """The ETag of the object if our own put made it, else None. On the budget of the put that asks."""
        self._read_back_count += 1
        try:
            info = await self._persist("head", key, lambda: self._below.head(key, priority=priority), retry)
        except NotFound:
            return None
        return info.etag if info.attributes.metadata.get(PUT_ID) == put_id else None


async def _gather(pages: AsyncIterator[list[_T]]) -> list[list[_T]]:
    return [page async for page in pages]


def _without_put_id(info: ObjectInfo) -> ObjectInfo:
    metadata = info.attributes.metadata
    if PUT_ID not in metadata:
        return info
    kept = {name: value for name, value in metadata.items() if name != PUT_ID}
    return replace(info, attributes=replace(info.attributes, metadata=kept))


def _exhausted(error: RetriedError, retry: Retry, now: float) -> RetriedError:
    """The same error, its message ending with how often and how long it was tried."""
    times = "once" if retry.failure_count == 1 else f"{retry.failure_count} times"
    message = f"{error} (tried {times} over {retry.failing_seconds(now):.0f} s)"
    if isinstance(error, Unavailable):  # the others take a message alone
        return type(error)(message, retry_after_seconds=error.retry_after_seconds)
    return type(error)(message)
