"""A bucket in this process's memory: the plain meaning of the protocol."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import google_crc32c

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    ByteRange,
    BytesLike,
    Condition,
    Conditions,
    Entry,
    IfAbsent,
    IfMatch,
    Object,
    ObjectInfo,
    OpenUpload,
    Part,
    PartPages,
    UploadLimits,
    UploadPages,
)
from bucketry.bucket.keys import check_key
from bucketry.bucket.parts import check_part, check_part_size, check_parts
from bucketry.core.priority import Priority
from bucketry.errors import AlreadyExists, Closed, Invalid, NotFound, PreconditionFailed, UploadGone

#: Entries of one page of a listing: S3's.
_PAGE_COUNT_MAX = 1000
#: As of stores that have a network in between, for which this one stands in tests.
_LISTINGS_MAX = 16

#: S3's but for the least size of a part: tests of uploads need not be large.
_LIMITS = UploadLimits(
    put_size_max_bytes=5 << 30, parts_max=10_000, part_size_min_bytes=1, part_size_max_bytes=5 << 30
)

#: What ``memory://name`` means is the same all over the process, as a server would be.
_stores: dict[str, "MemoryStore"] = {}


@dataclass(slots=True)
class _Upload:
    """An upload in parts. The parts with their bytes, by number."""

    info: OpenUpload
    attributes: Attributes
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryStore:
    """The objects themselves: what stays when a bucket is closed and opened again."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self.uploads: dict[str, _Upload] = {}
        self._counter = itertools.count(1)

    def new_etag(self) -> str:
        return f'"{next(self._counter):x}"'


def shared_store(name: str) -> MemoryStore:
    """The store of this name in this process, made when it is asked for first."""
    return _stores.setdefault(name, MemoryStore())


class MemoryBucket:
    """A bucket over ``store``; several may share one."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        url: str = "memory://anonymous",
        page_count_max: int = _PAGE_COUNT_MAX,
    ) -> None:
        self._store = MemoryStore() if store is None else store
        self._url = url
        self._page_count_max = page_count_max
        self._conditions = Conditions(kept=True)
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
        return self._put(key, bytes(data), attributes, condition)

    def _put(self, key: str, content: bytes, attributes: Attributes, condition: Condition) -> str:
        old = self._store.objects.get(key)
        match condition:
            case IfAbsent() if old is not None:
                raise AlreadyExists(f"{self._url}: object {key} exists")
            case IfMatch(etag) if old is None or old[0].etag != etag:
                raise PreconditionFailed(f"{self._url}: object {key} is not the one that was seen")
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
        for start in range(0, len(keys), self._page_count_max):
            # Others may work between two pages, as they do with a real store.
            await asyncio.sleep(0)
            self._check_open()
            found = (self._store.objects.get(key) for key in keys[start : start + self._page_count_max])
            if page := [Entry(info.key, info.size_bytes, info.etag) for info, _ in filter(None, found)]:
                yield page

    @property
    def conditions(self) -> Conditions:
        return self._conditions

    @property
    def listings_max(self) -> int:
        return _LISTINGS_MAX

    @property
    def upload_limits(self) -> UploadLimits:
        return _LIMITS

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        self._check(key)
        check_part_size(_LIMITS, part_size_bytes)
        upload_id = f"upload-{self._store.new_etag()[1:-1]}"
        self._store.uploads[upload_id] = _Upload(OpenUpload(key, upload_id, datetime.now(UTC)), attributes)
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
        upload = self._find_upload(key, upload_id)
        content = bytes(data)
        check_part(_LIMITS, number, len(content))
        part = Part(number, len(content), self._store.new_etag(), int(google_crc32c.value(content)))
        upload.parts[number] = part, content
        return part

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        upload = self._find_upload(key, upload_id)
        check_parts(parts)
        found = [upload.parts.get(part.number) for part in parts]
        content = []
        for asked, there in zip(parts, found, strict=True):
            if there is None or there[0].tag != asked.tag:
                raise Invalid(f"{self._url}: object {key}: part {asked.number} is not the one that was put")
            content.append(there[1])
        etag = self._put(key, b"".join(content), upload.attributes, condition)
        del self._store.uploads[upload_id]
        return etag

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        self._check(key)
        self._store.uploads.pop(upload_id, None)

    async def list_uploads(
        self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND
    ) -> UploadPages:
        self._check_open()
        found = [u.info for u in self._store.uploads.values() if u.info.key.startswith(prefix)]
        found.sort(key=lambda info: (info.key, info.upload_id))
        for start in range(0, len(found), _PAGE_COUNT_MAX):
            yield found[start : start + _PAGE_COUNT_MAX]

    async def list_parts(
        self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD
    ) -> PartPages:
        upload = self._find_upload(key, upload_id)
        found = [upload.parts[number][0] for number in sorted(upload.parts)]
        for start in range(0, len(found), _PAGE_COUNT_MAX):
            yield found[start : start + _PAGE_COUNT_MAX]

    def _find_upload(self, key: str, upload_id: str) -> _Upload:
        self._check(key)
        upload = self._store.uploads.get(upload_id)
        if upload is None or upload.info.key != key:
            raise UploadGone(f"{self._url}: object {key}: its upload in parts has ended")
        return upload

    def statistics(self) -> Mapping[str, object]:
        return {
            "objects": len(self._store.objects),
            "bytes": sum(i.size_bytes for i, _ in self._store.objects.values()),
        }

    async def close(self) -> None:
        self._is_closed = True
