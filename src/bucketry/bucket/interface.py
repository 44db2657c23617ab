"""What a bucket is: the waist between everything above and the stores below.

Keys are text without a leading slash. A key is whatever the store keeps; prefixes are the caller's business.
All implementations, wrappers and fakes pass the suite in ``bucketry.testing.bucket_contract``.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, TypeAlias

from bucketry.core.bytes_like import BytesLike as BytesLike
from bucketry.core.priority import Priority

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is kept beside an object's bytes, always put and replaced together with them.

    ``metadata`` is user metadata (``x-amz-meta-…`` without the prefix); its names are lower case.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    #: A factory, because Python 3.11 takes a mappingproxy for a mutable default.
    metadata: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


NO_ATTRIBUTES = Attributes()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What HEAD tells: ``etag`` is opaque, changes whenever the object's bytes do, and is compared for
    equality only. (S3's is a digest of the bytes: who compares and swaps must write something that is
    different each time.)"""

    key: str
    size_bytes: int
    etag: str
    attributes: Attributes = NO_ATTRIBUTES
    modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """What GET tells: the object's info and its bytes, or the range of them that was asked for."""

    info: ObjectInfo
    data: BytesLike


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing."""

    key: str
    size_bytes: int
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` to ``end`` (exclusive) of an object; beyond its end there is nothing."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Put only where no object is; otherwise AlreadyExists."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Put only over the object with this ETag; otherwise, and where none is, PreconditionFailed."""

    etag: str


#: None puts unconditionally.
Condition: TypeAlias = IfAbsent | IfMatch | None


class Bucket(Protocol):
    """Objects in a store. Every method raises a BucketryError, or is cancelled, or has done what it says.

    Any method may raise Unavailable or Throttled (try again), Denied, BucketNotFound, Closed.
    """

    @property
    def url(self) -> str:
        """The bucket's URL without secrets, for messages."""
        ...

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        """Raises NotFound when there is no such object."""
        ...

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        """The whole object, or a range of it (shorter where the object ends). Raises NotFound; Corrupt when
        the store sent fewer or more bytes than it announced."""
        ...

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        """Store the object whole and return its ETag. When it returns the object is durable, with its
        attributes, and every later head, get and list sees it. A reader never sees a mixture of two puts.
        Raises AlreadyExists, PreconditionFailed according to ``condition``. ``data`` must not change until it
        returns."""
        ...

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        """Delete one object; succeeds when there was none."""
        ...

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        """Delete objects, in few requests where the store can; absent ones are no error. Raises after having
        tried all of them if any remains."""
        ...

    def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        """Pages of the objects whose keys begin with ``prefix`` (any string, not only whole path segments)
        and sort after ``after``. Keys come in one order, ascending by code point; nothing is fetched ahead of
        need."""
        ...

    def statistics(self) -> Mapping[str, object]:
        """Figures of this bucket and of what lies below it, for people and for Prometheus: nested mappings of
        numbers and short strings."""
        ...

    async def close(self) -> None:
        """Wait for what is under way, free everything. Closing twice is fine."""
        ...
