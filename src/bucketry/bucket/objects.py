"""A bucket of an object store: obstore (Rust ``object_store``) behind the Bucket protocol, for S3, Google and
Azure.

Its synchronous calls run in threads of our own: that costs less than its asynchronous API. Its retries are
off, for only the layer above knows what may be sent twice. See docs/decisions/0001-obstore.md.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from bucketry.bucket.client_errors import Failure, read_failure, unnamed_key
from bucketry.bucket.clock import StoreClock
from bucketry.bucket.fenced import Fence
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
    Part,
    PartPages,
    UploadLimits,
    UploadPages,
)
from bucketry.bucket.keys import check_key, key_flaw
from bucketry.bucket.parts import check_part, check_part_size, check_parts
from bucketry.bucket.renewal import Held, Renewed
from bucketry.bucket.s3_uploads import S3Uploads
from bucketry.bucket.threads import Threads
from bucketry.bucket.way import direct_endpoint
from bucketry.core.priority import Priority
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Corrupt,
    CredentialsRefused,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unreachable,
    Unsupported,
)

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta, PutMode

Store = S3Store | GCSStore | AzureStore
#: The client of the moment, and the credentials that it was made with.
Client: TypeAlias = Held[Any, Store]
A = ParamSpec("A")
T = TypeVar("T")

#: Entries of one page of a listing: S3's limit.
_PAGE_COUNT_MAX = 1000
#: As s3backer's. A listing answers a thousand names in some 50 ms, one page after the other; sixteen at once
#: survey a million blocks in seconds.
_LISTINGS_MAX = 16
#: Statuses that may mean "your credentials have expired", which only the answer's body says.
_REFUSALS = (400, 401, 403)
#: What the client says of an answer to a range that begins at the end, or of an empty object.
_BEYOND_THE_END = ("StartTooLarge", "ParseContentRange")
#: What it says of an answer to a range by which the object is there.
_THERE_ALL_THE_SAME = (*_BEYOND_THE_END, "non-partial response")
#: What the client gives beside user metadata; the two that we keep, and the others, which are the store's own
#: affair.
_CONTENT_TYPE = "Content-Type"
_CONTENT_ENCODING = "Content-Encoding"
_OTHER_HEADERS = frozenset({"Content-Disposition", "Content-Language", "Cache-Control", "Storage-Class"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where the stores differ."""

    #: Google compares generations, not ETags; so the generation is our ETag there.
    etag_is_version: bool = False
    #: Azure wants names of metadata to be identifiers: a hyphen goes as an underscore, an underscore cannot
    #: go.
    hyphens_are_underscores: bool = False
    #: Keys of one bulk delete.
    bulk_count_max: int = 1000


DIALECTS = {
    "s3": Dialect(),
    "gs": Dialect(etag_is_version=True, bulk_count_max=100),
    "az": Dialect(hyphens_are_underscores=True, bulk_count_max=256),
}


#: Named here, because within a bucket ``list`` is the method.
_EntryPages: TypeAlias = AsyncGenerator[list[Entry], None]


class _UnnamedKey(Exception):
    """A listing comes past a key that the client has no path for, and ends there."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _Listing:
    """Where a listing is: it goes on with another client behind the last key that it gave."""

    def __init__(self, segments: str | None, after: str | None) -> None:
        self.segments = segments
        self.after = after
        self.client: Client | None = None
        self.stream: Iterable[Sequence[ObjectMeta]] = ()


class ObjectsBucket:
    """A bucket over the client that ``clients`` gives, which is another one after the credentials have
    changed. ``put_attributes`` go with every put, by the client's
    names (Storage-Class), and so do ``put_tags``. ``make_uploads`` is given what tells whether an object
    exists, and makes what uploads in parts; None where there are none, which ``upload_limits`` then say.
    ``keeps_conditions``: None where stores of this kind differ. ``fence`` is asked right before every change
    is sent.

    A request that is refused for its credentials is sent once more with new ones, when there are. Otherwise
    it is CredentialsRefused, if they were good before, and Denied. Without an answer it is Unreachable until
    the store has answered once, and Unavailable from then on."""

    def __init__(
        self,
        clients: Renewed[Any, Store],
        *,
        url: str,
        dialect: Dialect,
        threads_count_max: int,
        upload_limits: UploadLimits,
        keeps_conditions: bool | None,
        make_uploads: Callable[[Callable[[str], bool]], S3Uploads] | None = None,
        put_attributes: Mapping[str, str] = MappingProxyType({}),
        put_tags: Mapping[str, str] = MappingProxyType({}),
        fence: Fence | None = None,
    ) -> None:
        self._clients = clients
        self._fence = fence or Fence()
        self._url = url
        self._way = clients.way
        self._clock = StoreClock(direct_endpoint(clients.way))
        self._dialect = dialect
        self._put_attributes = put_attributes
        self._put_tags = dict(put_tags) or None
        self._threads = Threads(url, threads_count_max)
        self._upload_limits = upload_limits
        self._conditions = Conditions(keeps_conditions, differ=keeps_conditions is None)
        self._uploads = None if make_uploads is None else make_uploads(self._exists)

    @property
    def url(self) -> str:
        return self._url

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        check_key(key)
        return await self._threads.run(self._ask, self._head, key)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        check_key(key)
        if byte_range is None:
            return await self._threads.run(self._ask, self._get, key)
        if not 0 <= byte_range.start <= byte_range.end:
            raise Invalid(f"{byte_range} is not a range of bytes")
        return await self._threads.run(self._ask, self._get_range, key, byte_range)

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        check_key(key)
        try:
            return await self._threads.run(self._ask, self._put, key, data, attributes, condition)
        except AlreadyExists:
            if self._conditions.kept is None:
                self._conditions.kept = True
            raise

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        check_key(key)
        await self._threads.run(self._ask, self._delete, key)

    async def delete_many(self, keys: Iterable[str], *, priority: Priority = Priority.UPLOAD) -> None:
        wanted = tuple(keys)
        for key in wanted:
            check_key(key)
        failed: BucketryError | None = None
        count = self._dialect.bulk_count_max
        for start in range(0, len(wanted), count):
            try:
                await self._threads.run(self._ask, self._delete_bulk, wanted[start : start + count])
            except BucketryError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        # The client's prefix means whole path segments; we give it those, and look at the rest of ours here.
        segments = prefix.rpartition("/")[0]
        listing = _Listing(segments or None, after or None)
        while True:
            try:
                if listing.after is not None and key_flaw(listing.after) is not None:
                    raise _UnnamedKey(listing.after)  # the client would take another key for it
                found = await self._threads.run(self._ask, self._next_page, listing)
            except _UnnamedKey as error:
                others = self._list_otherwise(prefix, listing.after or "", error.key)
                async with aclosing(others):
                    async for entries in others:
                        yield entries
                return
            if found is None:
                return
            page = [
                Entry(item["path"], item["size"], self._listed_etag(item["e_tag"]))
                for item in found
                if item["path"].startswith(prefix) and item["path"] > after
            ]
            if page:
                yield page
            if _is_past(found[-1]["path"], prefix):
                return

    async def _list_otherwise(self, prefix: str, after: str, unnamed: str) -> _EntryPages:
        """The rest of a listing, with keys that the bucket client has no path for."""
        uploads = self._uploads
        if uploads is None:
            raise Unsupported(
                f"{self._url}: the key {unnamed!r} in it {key_flaw(unnamed) or 'has no path'}, which stops "
                f"the listing: delete that object{self._how_to_list}"
            )
        marker: str | None = ""
        while marker is not None:
            found, marker = await self._threads.run(self._ask, uploads.objects_page, prefix, after, marker)
            if found:
                yield found

    @property
    def _how_to_list(self) -> str:
        return ", or install bucketry[aws], which passes over it" if self._url.startswith("s3:") else ""

    @property
    def conditions(self) -> Conditions:
        return self._conditions

    @property
    def listings_max(self) -> int:
        return _LISTINGS_MAX

    @property
    def upload_limits(self) -> UploadLimits:
        return self._upload_limits

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        uploads = self._some_uploads(key)
        check_part_size(self._upload_limits, part_size_bytes)
        return await self._threads.run(self._ask, uploads.create, key, attributes)

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        uploads = self._some_uploads(key)
        check_part(self._upload_limits, number, len(data))
        return await self._threads.run(self._ask, uploads.put_part, key, upload_id, number, data)

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        uploads = self._some_uploads(key)
        check_parts(parts)
        return await self._threads.run(self._ask, uploads.complete, key, upload_id, parts, condition)

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        await self._threads.run(self._ask, self._some_uploads(key).abort, key, upload_id)

    async def list_uploads(
        self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND
    ) -> UploadPages:
        uploads = self._some_uploads(None)
        marker: tuple[str, str] | None = ("", "")
        while marker is not None:
            page, marker = await self._threads.run(self._ask, uploads.uploads_page, prefix, marker)
            if page:
                yield page

    async def list_parts(
        self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD
    ) -> PartPages:
        uploads = self._some_uploads(key)
        after: int | None = 0
        while after is not None:
            page, after = await self._threads.run(self._ask, uploads.parts_page, key, upload_id, after)
            if page:
                yield page

    def _some_uploads(self, key: str | None) -> S3Uploads:
        if key is not None:
            check_key(key)
        if self._uploads is None:
            raise Unsupported(f"{self._url}: {self._upload_limits.why_no_parts}")
        return self._uploads

    def statistics(self) -> Mapping[str, object]:
        return {"calls_under_way": self._threads.busy_count}

    async def close(self) -> None:
        await self._threads.close()
        if self._uploads is not None:
            self._uploads.close()

    # Everything below runs in threads.

    def _ask(self, request: Callable[Concatenate[Client, A], T], *args: A.args, **kwargs: A.kwargs) -> T:
        """Send a request; once more when new credentials have come in place of those that it was refused
        for."""
        clients = self._clients
        client = clients.current()
        try:
            try:
                result = request(client, *args, **kwargs)
            except CredentialsRefused:
                newer = clients.after_refusal(client)
                if newer is None:
                    raise
                result = request(newer, *args, **kwargs)
        except CredentialsRefused as error:
            clients.is_heard = True
            if clients.is_accepted:
                raise
            raise Denied(str(error)) from error
        except Unreachable as error:
            if clients.is_heard:
                raise Unavailable(str(error)) from error
            raise
        except (NotFound, AlreadyExists, PreconditionFailed):
            clients.is_heard = clients.is_accepted = True
            raise
        except (Unavailable, Denied):
            clients.is_heard = True
            raise
        clients.is_heard = clients.is_accepted = True
        return result

    def _head(self, client: Client, key: str) -> ObjectInfo:
        try:
            # The client's own head gives no attributes.
            result = obstore.get(client.product, key, options={"head": True})
            return self._info(key, result)
        except (BaseError, OSError) as error:
            raise self._translate(client, error, key) from error

    def _exists(self, key: str) -> bool:
        try:
            self._ask(self._head, key)
        except NotFound as error:
            if type(error) is not NotFound:
                raise
            return False
        return True

    def _get(self, client: Client, key: str) -> Object:
        try:
            result = obstore.get(client.product, key)
            return self._object(key, result)
        except (BaseError, OSError) as error:
            raise self._translate(client, error, key) from error

    def _get_range(self, client: Client, key: str, byte_range: ByteRange) -> Object:
        if byte_range.start == byte_range.end:
            return Object(self._head(client, key), b"")
        try:
            result = obstore.get(client.product, key, options={"range": (byte_range.start, byte_range.end)})
            return self._object(key, result)
        except (BaseError, OSError) as error:
            if read_failure(error).status == 416 or any(text in str(error) for text in _BEYOND_THE_END):
                # Perhaps nothing is there: the object ends before the range begins.
                info = self._head(client, key)
                if info.size_bytes <= byte_range.start:
                    return Object(info, b"")
            if "non-partial response" in str(error):
                # Some servers answer a range that is the whole object with 200, which the client refuses.
                whole = self._get(client, key)
                return Object(whole.info, memoryview(whole.data)[byte_range.start : byte_range.end])
            raise self._translate(client, error, key) from error

    def _put(
        self, client: Client, key: str, data: BytesLike, attributes: Attributes, condition: Condition
    ) -> str:
        mode: PutMode
        match condition:
            case None:
                mode = "overwrite"
            case IfAbsent():
                mode = "create"
            case IfMatch(etag):
                mode = {"version": etag} if self._dialect.etag_is_version else {"e_tag": etag}
        self._fence.check_change(key)
        try:
            result = obstore.put(
                client.product,
                key,
                data,
                attributes=self._client_attributes(attributes),
                tags=self._put_tags,
                mode=mode,
                # Several parts would make a conditional put an unconditional one.
                use_multipart=False,
            )
        except (BaseError, OSError) as error:
            translated = self._translate(client, error, key, condition)
            if type(translated) is NotFound:
                # No store says that of an object that is being put.
                translated = Unavailable(f"{self._url}: object {key}: HTTP 404 to a put ({self._way})")
            raise translated from error
        return self._etag(key, result["e_tag"], result["version"])

    def _delete(self, client: Client, key: str) -> None:
        self._fence.check_change(key)
        try:
            obstore.delete(client.product, key)
        except (BaseError, OSError) as error:
            translated = self._translate(client, error, key)
            if type(translated) is not NotFound:
                raise translated from error

    def _delete_bulk(self, client: Client, keys: Sequence[str]) -> None:
        """Keys of one request: the store tries all of them."""
        self._fence.check()
        try:
            obstore.delete(client.product, keys)
        except (BaseError, OSError) as error:
            if read_failure(error).kind is not NotFound:
                raise self._translate(client, error, None) from error
            # Azure counts an absent object as a failure, and the client tells only the first of them.
            for key in keys:
                self._delete(client, key)

    def _next_page(self, client: Client, listing: _Listing) -> "Sequence[ObjectMeta] | None":
        try:
            if listing.client is not client:
                listing.stream = obstore.list(
                    client.product, listing.segments, offset=listing.after, chunk_size=_PAGE_COUNT_MAX
                )
                listing.client = client
            found = next(iter(listing.stream), None)
        except (BaseError, OSError) as error:
            listing.client = None  # the stream has ended with it
            unnamed = unnamed_key(error)
            if unnamed is not None:
                raise _UnnamedKey(unnamed) from error
            raise self._translate(client, error, None) from error
        if found:
            listing.after = found[-1]["path"]
        return found

    def _object(self, key: str, result: "GetResult") -> Object:
        info = self._info(key, result)
        data = memoryview(result.bytes())
        start, end = result.range
        if len(data) != end - start:
            raise Corrupt(
                f"{self._url}: object {key}: the store sent {len(data)} bytes instead of {end - start}"
            )
        return Object(info, data)

    def _info(self, key: str, result: "GetResult") -> ObjectInfo:
        meta = result.meta
        content_type = content_encoding = None
        metadata = {}
        for name, value in result.attributes.items():
            if name == _CONTENT_TYPE:
                content_type = value
            elif name == _CONTENT_ENCODING:
                content_encoding = value
            elif name not in _OTHER_HEADERS:
                if self._dialect.hyphens_are_underscores:
                    name = name.replace("_", "-")
                metadata[name.lower()] = value
        return ObjectInfo(
            key,
            meta["size"],
            self._etag(key, meta["e_tag"], meta["version"]),
            Attributes(content_type, content_encoding, metadata),
            meta["last_modified"],
        )

    def _etag(self, key: str, e_tag: str | None, version: str | None) -> str:
        found = version if self._dialect.etag_is_version else e_tag
        if found is None:
            raise Unsupported(f"{self._url}: the store gives no ETag for object {key}")
        return found

    def _listed_etag(self, e_tag: str | None) -> str | None:
        """The ETag as get gives it: Google lists no generations, Azure leaves the quotes away."""
        if e_tag is None or self._dialect.etag_is_version:
            return None
        return e_tag if e_tag.endswith('"') else f'"{e_tag}"'

    def _client_attributes(self, attributes: Attributes) -> dict[str, str]:
        result = dict(self._put_attributes)
        if attributes.content_type is not None:
            result[_CONTENT_TYPE] = attributes.content_type
        if attributes.content_encoding is not None:
            result[_CONTENT_ENCODING] = attributes.content_encoding
        for name, value in attributes.metadata.items():
            if self._dialect.hyphens_are_underscores:
                if "_" in name:
                    raise Unsupported(f"{self._url}: Azure cannot keep metadata named {name!r}")
                name = name.replace("-", "_")
            result[name] = value
        return result

    def _translate(
        self, client: Client, error: Exception, key: str | None, condition: Condition = None
    ) -> BucketryError:
        """Our error for the client's. ``condition`` is that of a put. May ask the store what it left open:
        whether the bucket exists, why it refuses."""
        failure = read_failure(error)
        if key is not None and failure.code is None and failure.status in _REFUSALS:
            failure = self._why_refused(client, key) or failure
        kind, reason = failure.error_class, failure.reason
        if issubclass(kind, Denied) and failure.status is not None:
            reason = "; ".join(filter(None, [reason, self._clock.explain()]))
        if kind is NotFound:
            if key is None and not failure.names_what and self._clients.is_accepted:
                # It was there before: a load balancer whose servers are restarting says so, too.
                kind = Unavailable
            elif key is None:
                # Listing and bulk deletes miss no single object.
                kind = BucketNotFound
            elif not failure.names_what:
                missing = self._not_found(client, key)
                if type(missing) is not NotFound:
                    return missing
        match condition:
            case IfAbsent() if kind is PreconditionFailed:
                kind, reason = AlreadyExists, "it exists"
            case IfMatch() if kind in (PreconditionFailed, NotFound):
                kind, reason = PreconditionFailed, "it is not the one that was seen"
        if kind is BucketNotFound:
            return BucketNotFound(f"{self._url}: no such bucket ({self._way})")
        if kind is NotFound:
            return NotFound(f"{self._url}: no object {key}")
        if issubclass(kind, Unavailable | Denied | Invalid | Unsupported):
            reason = f"{reason} ({self._way})"
        return kind(f"{self._url}: {reason}" if key is None else f"{self._url}: object {key}: {reason}")

    def _why_refused(self, client: Client, key: str) -> Failure | None:
        """The store refused without a word, as it does to HEAD: what it says to a request whose answer has a
        body. None when it takes that one."""
        try:
            next(iter(obstore.list(client.product, key, chunk_size=1)), None)
        except (BaseError, OSError) as error:
            return read_failure(error)
        return None

    def _not_found(self, client: Client, key: str) -> BucketryError:
        """What a "not found" without the store's own code means: an answer to HEAD has no body to say it in,
        and a load balancer without a server behind it says the same. An object is absent only if the store
        says so: on a disk it would be zeros."""
        try:
            # The answer to this one has a body, which tells a missing object from a missing bucket.
            obstore.get(client.product, key, options={"range": (0, 1)}).bytes()
        except (BaseError, OSError) as error:
            failure, text = read_failure(error), str(error)
            if failure.kind is NotFound and not failure.names_what:
                return self._not_listed(client, key)
            is_there = failure.status == 416 or any(each in text for each in _THERE_ALL_THE_SAME)
            if not is_there:
                return self._translate(client, error, key)
        return self._not_said_by_store(client, key)

    def _not_listed(self, client: Client, key: str) -> BucketryError:
        """The store gives no codes at all, or something before it answers: whether a listing has the key,
        which only the store can answer."""
        folder, _, name = key.rpartition("/")
        # From before the key on: little sorts between it and the same without its last letter.
        start = key[:-1] if len(name) > 1 else None
        try:
            for page in obstore.list(client.product, folder or None, offset=start):
                for item in page:
                    if item["path"] == key:
                        return self._not_said_by_store(client, key)
                if _sorts_behind(page[-1]["path"], key):
                    break
        except (BaseError, OSError) as error:
            return self._translate(client, error, None)
        return NotFound(f"{self._url}: no object {key}")

    def _not_said_by_store(self, client: Client, key: str) -> Unavailable:
        return Unavailable(
            f"{self._url}: object {key}: HTTP 404, though the store has it: a proxy or load balancer "
            f"answered ({self._way})"
        )


def _sorts_behind(key: str, other: str) -> bool:
    """Whether ``other`` cannot come after ``key`` in a listing: neither in the order of code points, nor in
    that of servers which keep keys as files in directories, where a slash sorts before everything."""
    return key > other and key.replace("/", "\0") > other.replace("/", "\0")


def _is_past(key: str, prefix: str) -> bool:
    """Whether no key from here on begins with ``prefix``."""
    return not key.startswith(prefix) and _sorts_behind(key, prefix)
