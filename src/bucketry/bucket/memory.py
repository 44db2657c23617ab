"""A bucket in this process's memory: the plain meaning of the protocol."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    ByteRange,
    BytesLike,
    Condition,
    Entry,
    IfAbsent,
    IfMatch,
    Object,
    ObjectInfo,
)
from bucketry.bucket.keys import check_key
from bucketry.core.priority import Priority
from bucketry.errors import AlreadyExists, Closed, Invalid, NotFound, PreconditionFailed

#: Entries of one page of a listing: S3's.
_PAGE_COUNT_MAX = 1000

#: What ``memory://name`` means is the same all over the process, as a server would be.
_stores: dict[str, "MemoryStore"] = {}


class MemoryStore:
    """The objects themselves: what stays when a bucket is closed and opened again."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._counter = itertools.count(1)

    def new_etag(self) -> str:
        return f'"{next(self._counter):x}"'


def shared_store(name: str) -> MemoryStore:
    """The store of this name in this process, made when it is asked for first."""
    return _stores.setdefault(name, MemoryStore())


class MemoryBucket:
    """A bucket over ``store``; several may share one."""

    def __init__(self, store: MemoryStore | None = None, *, url: str = "memory://anonymous") -> None:
        self._store = MemoryStore() if store is None else store
        self._url = url
        self._is_closed = False

    @property
    def url(self) -> str:
        return self._url

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        self._check(key)
        try:
            return self._store.objects[key]
        except KeyError:
            raise NotFound(f"{self._url}: no object {key}") from None

    def _check(self, key: str) -> None:
        self._check_open()
        check_key(key)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Closed(f"{self._url} is closed")

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        return self._find(key)[0]

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        info, data = self._find(key)
        if byte_range is None:
            return Object(info, data)
        if not 0 <= byte_range.start <= byte_range.end:
            raise Invalid(f"{byte_range} is not a range of bytes")
        return Object(info, data[byte_range.start : byte_range.end])

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        self._check(key)
        old = self._store.objects.get(key)
        match condition:
            case IfAbsent() if old is not None:
                raise AlreadyExists(f"{self._url}: object {key} exists")
            case IfMatch(etag) if old is None or old[0].etag != etag:
                raise PreconditionFailed(f"{self._url}: object {key} is not the one that was seen")
        content = bytes(data)
        info = ObjectInfo(key, len(content), self._store.new_etag(), attributes, datetime.now(UTC))
        self._store.objects[key] = info, content
        return info.etag

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        self._check(key)
        self._store.objects.pop(key, None)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        for key in keys:
            await self.delete(key, priority=priority)

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        self._check_open()
        keys = sorted(key for key in self._store.objects if key.startswith(prefix) and key > after)
        for start in range(0, len(keys), _PAGE_COUNT_MAX):
            # Others may work between two pages, as they do with a real store.
            await asyncio.sleep(0)
            self._check_open()
            found = (self._store.objects.get(key) for key in keys[start : start + _PAGE_COUNT_MAX])
            yield [Entry(info.key, info.size_bytes, info.etag) for info, _ in filter(None, found)]

    def statistics(self) -> Mapping[str, object]:
        return {
            "objects": len(self._store.objects),
            "bytes": sum(i.size_bytes for i, _ in self._store.objects.values()),
        }

    async def close(self) -> None:
        self._is_closed = True
