"""A bucket that makes trouble on purpose, every so many requests, for tests of what stands on it.

``bucketry.testing.faulty_bucket`` plans faults one by one for our own tests; this one is for users, who want
to see that their program bears slow and failing storage, and have nothing but options to say so. A part of an
upload, and its completion, count as a put.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
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
)
from bucketry.bucket.wrapper import BucketWrapper, close_pages
from bucketry.core.bytes_like import BytesLike
from bucketry.core.priority import Priority
from bucketry.errors import Throttled, Unavailable
from bucketry.settings import FaultSettings

T = TypeVar("T")


class Injected(BucketWrapper):
    """``statistics()["injected"]`` counts ``requests`` that could have a fault, ``delays`` and ``faults``."""

    def __init__(
        self,
        below: Bucket,
        settings: FaultSettings,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(below)
        self._settings = settings
        self._sleep = sleep
        self._random = random.Random(settings.seed)  # noqa: S311 - to be repeated, not to be secret
        self._counts: Counter[str] = Counter(requests=0, delays=0, faults=0)

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        return await self._pass("head", key, lambda: self._below.head(key, priority=priority))

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        return await self._pass(
            "get", key, lambda: self._below.get(key, byte_range=byte_range, priority=priority), _spoil
        )

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await self._pass(
            "put",
            key,
            lambda: self._below.put(key, data, attributes=attributes, condition=condition, priority=priority),
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
        return await self._pass(
            "put", key, lambda: self._below.put_part(key, upload_id, number, data, priority=priority)
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
        return await self._pass(
            "put",
            key,
            lambda: self._below.complete_upload(
                key, upload_id, parts, condition=condition, priority=priority
            ),
        )

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        await self._pass("delete", key, lambda: self._below.delete(key, priority=priority))

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        pages = self._below.list(prefix=prefix, after=after, priority=priority)
        try:
            while True:
                page = await self._pass("list", prefix, lambda: anext(pages, None))
                if page is None:
                    return
                yield page
        finally:
            await close_pages(pages)

    async def _pass(
        self,
        operation: str,
        key: str,
        request: Callable[[], Awaitable[T]],
        spoil: "Callable[[T, str, random.Random], T] | None" = None,
    ) -> T:
        settings = self._settings
        if operation not in settings.operations:
            return await request()
        self._counts["requests"] += 1
        number = self._counts["requests"]
        if settings.force_delay and number % settings.force_delay == 0:
            self._counts["delays"] += 1
            await self._sleep(settings.delay_ms / 1000 * (0.5 + self._random.random()))
        if not settings.force_error or number % settings.force_error:
            return await request()
        self._counts["faults"] += 1
        await self._sleep(settings.error_ms / 1000)
        match settings.error_kind:
            case "throttle":
                raise Throttled(f"{self.url}: {operation} of {key}: asked to slow down, on purpose")
            case "lose_answer":
                await request()
                raise Unavailable(f"{self.url}: {operation} of {key}: its answer was lost, on purpose")
            case "truncate" | "flip_bit" if spoil is not None:
                return spoil(await request(), settings.error_kind, self._random)
        # What has no body cannot have a wrong one.
        raise Unavailable(f"{self.url}: {operation} of {key}: failed on purpose")

    def statistics(self) -> Mapping[str, object]:
        return {**self._below.statistics(), "injected": dict(self._counts)}


def _spoil(found: Object, kind: str, dice: random.Random) -> Object:
    data = bytearray(found.data)
    if data and kind == "truncate":
        del data[dice.randrange(len(data)) :]
    elif data:
        bit = dice.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    return replace(found, data=bytes(data))
