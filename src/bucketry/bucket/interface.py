"""What a bucket is: the waist between everything above and the stores below.

Keys are text without a leading slash. A key is whatever the store keeps; prefixes are the caller's business.
All implementations, wrappers and fakes pass the suite in ``bucketry.testing.bucket_contract``.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
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
class UploadLimits:
    """How large an object may be in one put, and in parts."""

    #: Of one put.
    put_size_max_bytes: int
    #: 0: there are no uploads in parts here, and ``why_no_parts`` says what to do about it.
    parts_max: int = 0
    part_size_min_bytes: int = 1
    part_size_max_bytes: int = 0
    why_no_parts: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is in the store. ``tag`` is the store's name for its bytes; ``crc32c`` is of its bytes, and
    None in a listing of a store that does not keep it."""

    number: int
    size_bytes: int
    tag: str
    crc32c: int | None = None


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload in parts that is neither completed nor aborted."""

    key: str
    upload_id: str
    started: datetime | None = None


#: Named here, because within a bucket ``list`` is the method.
UploadPages: TypeAlias = AsyncIterator[list[OpenUpload]]
PartPages: TypeAlias = AsyncIterator[list[Part]]


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Put only where no object is; otherwise AlreadyExists."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Put only over the object with this ETag; otherwise, and where none is, PreconditionFailed."""

    etag: str


#: None puts unconditionally.
Condition: TypeAlias = IfAbsent | IfMatch | None


@dataclass(slots=True)
class Conditions:
    """What is known of the conditional puts of a bucket; all that wrap it share this."""

    #: Whether the store keeps to IfAbsent. None: not known yet; ``bucket/conditions.py`` finds out.
    kept: bool | None
    #: Whether stores of this kind differ in the conditions that they keep.
    differ: bool = False
    has_warned: bool = False
    #: Whether somebody is finding out.
    is_tried: bool = False


class Bucket(Protocol):
    """Objects in a store. Every method raises a BucketryError, or is cancelled, or has done what it says.

    Any method may raise Unavailable or Throttled (try again), Denied, BucketNotFound, Closed.
    """

    @property
    def url(self) -> str:
        """The bucket's URL without secrets, for messages."""
        ...

    @property
    def conditions(self) -> Conditions:
        """What is known of the store's conditional puts."""
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
        need. On S3 there may be keys of other programs that ``check_key`` refuses: no other method takes
        them."""
        ...

    @property
    def listings_max(self) -> int:
        """So many listings of parts of the bucket, side by side, are faster than one after the other."""
        ...

    # Uploads in parts: nobody sees the object before it is completed, and what is neither completed nor
    # aborted stays, and is paid for. Where ``upload_limits.parts_max`` is 0 they raise Unsupported.

    @property
    def upload_limits(self) -> UploadLimits:
        """The same for as long as the bucket is open."""
        ...

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        """Begin an upload of one object, and return its id. Each part but the last will have
        ``part_size_bytes``. There may be several for one key. When an answer got lost, one may be left that
        nobody knows."""
        ...

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        """Store part ``number`` (from 1), in place of one that had this number. Parts may be put at once, in
        any order. Raises UploadGone when the upload was completed or aborted."""
        ...

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        """Make the object of its parts, numbered from 1 without a gap, as ``put`` would have put it whole,
        and return its ETag. Raises what ``put`` raises, and the upload then is still open; UploadGone."""
        ...

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        """Forget an upload and its parts; succeeds when there is none. A part that is under way meanwhile may
        stay in some stores: abort when all have ended."""
        ...

    def list_uploads(self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND) -> UploadPages:
        """Pages of the open uploads whose keys begin with ``prefix``."""
        ...

    def list_parts(self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD) -> PartPages:
        """Pages of the parts that are in the store, by number; one that was put twice with different bytes
        may be missing. Raises UploadGone."""
        ...

    def statistics(self) -> Mapping[str, object]:
        """Figures of this bucket and of what lies below it, for people and for Prometheus: nested mappings of
        numbers and short strings."""
        ...

    async def close(self) -> None:
        """Wait for what is under way, free everything. Closing twice is fine."""
        ...
