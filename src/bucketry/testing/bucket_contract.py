"""The contract of Bucket as tests: what every implementation, wrapper and fake must do.

Subclass it in a test module, with fixtures that make buckets (pytest with pytest-asyncio in auto mode)::

    class TestMine(BucketContract):
        @pytest.fixture
        async def open_bucket(self):
            async def open_bucket():  # several times: always the same bucket, empty at first
                return MyBucket(...)
            return open_bucket

The ``bucket`` that most tests use is opened by it and closed afterwards. Where a store cannot do something,
``gaps`` says so; such a test must then really fail.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import ClassVar, TypeVar

import pytest

from bucketry.bucket.interface import (
    Attributes,
    Bucket,
    ByteRange,
    Entry,
    IfAbsent,
    IfMatch,
)
from bucketry.core.priority import Priority
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    Closed,
    Invalid,
    NotFound,
    PreconditionFailed,
)

OpenBucket = Callable[[], Awaitable[Bucket]]
_T = TypeVar("_T")

#: Odd, and allowed everywhere. (A backslash is not: some servers take it for a slash.)
ODD_KEYS = (
    "with space",
    "a+b",
    "100%",
    "%41",
    "%2e%2e",
    "a%2Fb",
    "tilde~",
    "q?x=1&y=2",
    "hash#mark",
    "semi;colon:at@comma,",
    "star*(paren)[bracket]{brace}'quote\"$!=|^`<>",
    "ünïcödé/日本語/🪣",
    "é",  # one code point
    "e\u0301",  # two that look the same: another key
    ".hidden",
    "..dots",
    "dots..",
    "...",
    "deep/er/and/deeper/still",
    "UPPER",
    "upper",
    "trailing space ",
    "l" * 200,
    "/".join(["p" * 100] * 9),
)
REFUSED_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "../a",
    "./a",
    "a/.",
    "a\nb",
    "a\0b",
    "\x7f",
    "k" * 1025,
)

#: Competitors in a race: as many as a disk and its helpers would be, and then some.
_COMPETITORS = 8


async def all_entries(bucket: Bucket, *, prefix: str = "", after: str = "") -> list[Entry]:
    """A whole listing."""
    return [entry async for page in bucket.list(prefix=prefix, after=after) for entry in page]


async def all_keys(bucket: Bucket, *, prefix: str = "", after: str = "") -> list[str]:
    return [entry.key for entry in await all_entries(bucket, prefix=prefix, after=after)]


async def put_all(bucket: Bucket, keys: Iterable[str], data: bytes = b"x") -> None:
    """Put many objects, some at a time."""
    remaining = iter(keys)

    async def put_some() -> None:
        for key in remaining:
            await bucket.put(key, data)

    await asyncio.gather(*(put_some() for _ in range(_COMPETITORS)))


class BucketFixtures:
    """What contracts of buckets are given."""

    #: Test name to the reason why this store cannot pass it.
    gaps: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture(autouse=True)
    def _expect_gaps(self, request: pytest.FixtureRequest) -> None:
        reason = self.gaps.get(request.node.originalname)
        if reason is not None:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        """Override: opens the same bucket each time; it is empty when a test begins."""
        raise NotImplementedError

    @pytest.fixture
    async def open_missing_bucket(self) -> OpenBucket | None:
        """Override: opens a bucket that does not exist; None where there is no such thing."""
        return None

    @pytest.fixture
    async def bucket(self, open_bucket: OpenBucket) -> AsyncIterator[Bucket]:
        bucket = await open_bucket()
        yield bucket
        await bucket.close()


class BucketContract(BucketFixtures):
    """See the module. Each test's first line is a sentence of the contract."""

    # What was put comes back.

    async def test_put_get_head(self, bucket: Bucket) -> None:
        """An object comes back with its bytes, size, ETag and time, by get and by head."""
        before = datetime.now(UTC)
        etag = await bucket.put("key", b"hello")
        found = await bucket.get("key")
        assert bytes(found.data) == b"hello"
        assert found.info.key == "key"
        assert found.info.size_bytes == 5
        assert found.info.etag == etag
        info = await bucket.head("key")
        assert (info.key, info.size_bytes, info.etag) == ("key", 5, etag)
        if info.modified is not None:
            # Stores give whole seconds, and their clocks are not ours.
            assert abs(info.modified - before) < timedelta(minutes=5)

    async def test_put_replaces(self, bucket: Bucket) -> None:
        """A put replaces bytes, attributes and ETag together."""
        first = await bucket.put(
            "key", b"a longer text", attributes=Attributes("text/plain", "deflate", {"n": "1"})
        )
        second = await bucket.put("key", b"short", attributes=Attributes("text/html", None, {"other": "2"}))
        assert first != second
        found = await bucket.get("key")
        assert bytes(found.data) == b"short"
        assert found.info.etag == second
        assert found.info.attributes.content_type == "text/html"
        assert found.info.attributes.content_encoding is None
        assert dict(found.info.attributes.metadata) == {"other": "2"}

    async def test_empty_object(self, bucket: Bucket) -> None:
        """An object may have no bytes; it still has attributes and is there."""
        await bucket.put("empty", b"", attributes=Attributes(metadata={"n": "1"}))
        found = await bucket.get("empty")
        assert bytes(found.data) == b""
        assert found.info.size_bytes == 0
        assert dict(found.info.attributes.metadata) == {"n": "1"}
        assert [(e.key, e.size_bytes) for e in await all_entries(bucket)] == [("empty", 0)]

    async def test_large_object(self, bucket: Bucket) -> None:
        """An object larger than any client's part size comes back whole, and is put as one."""
        data = bytes(range(256)) * (40 << 10)
        etag = await bucket.put("large", data, condition=IfAbsent())
        found = await bucket.get("large")
        assert bytes(found.data) == data
        assert found.info.etag == etag
        with pytest.raises(AlreadyExists):
            await bucket.put("large", data, condition=IfAbsent())

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_bytes_like(self, bucket: Bucket, kind: Callable[[bytes], bytes]) -> None:
        """Data may be bytes, a bytearray or a memoryview, also of a part of something."""
        await bucket.put("key", kind(b"hello"))
        assert bytes((await bucket.get("key")).data) == b"hello"
        await bucket.put("key", memoryview(kind(b"hello"))[1:4])
        assert bytes((await bucket.get("key")).data) == b"ell"

    async def test_data_of_every_byte(self, bucket: Bucket) -> None:
        """Bytes are kept as they are, also such as look like something: compressed, text, line ends."""
        for data in (bytes(range(256)), b"\x1f\x8b\x08\0broken", b"\x89Bkty\r\n\x1a", b"\xef\xbb\xbf\r\n\0"):
            await bucket.put("key", data)
            assert bytes((await bucket.get("key")).data) == data

    # Attributes.

    async def test_attributes(self, bucket: Bucket) -> None:
        """Content type, content encoding and metadata come back from get, from a range and from head."""
        attributes = Attributes(
            "application/x-block",
            "deflate",
            {"s3backer-filesize": "1048576", "s3backer-blocksize": "4096", "x": "y z"},
        )
        await bucket.put("key", b"0123456789", attributes=attributes)
        whole = await bucket.get("key")
        part = await bucket.get("key", byte_range=ByteRange(2, 4))
        for found in (whole.info.attributes, part.info.attributes, (await bucket.head("key")).attributes):
            assert found.content_type == attributes.content_type
            assert found.content_encoding == attributes.content_encoding
            assert dict(found.metadata) == dict(attributes.metadata)
        assert part.info.size_bytes == 10
        assert part.info.etag == whole.info.etag

    async def test_no_attributes(self, bucket: Bucket) -> None:
        """Without attributes there is no encoding and no metadata; the content type is the store's affair."""
        await bucket.put("key", b"x")
        found = (await bucket.get("key")).info.attributes
        assert found.content_encoding is None
        assert dict(found.metadata) == {}

    @pytest.mark.parametrize(
        "encoding", ["deflate,encrypt-AES-128-CBC", "encrypt-AES-256-CBC", "gzip", "zstd"]
    )
    async def test_encodings_are_not_undone(self, bucket: Bucket, encoding: str) -> None:
        """A content encoding is kept as a word; nobody on the way tries to decode the bytes."""
        await bucket.put("key", b"these bytes are not compressed", attributes=Attributes(None, encoding))
        found = await bucket.get("key")
        assert bytes(found.data) == b"these bytes are not compressed"
        assert found.info.attributes.content_encoding == encoding

    # Keys.

    async def test_odd_keys(self, bucket: Bucket) -> None:
        """Keys are text: what looks like an escape, a query or a path is a part of the key."""
        for index, key in enumerate(ODD_KEYS):
            await bucket.put(key, str(index).encode(), condition=IfAbsent())
        for index, key in enumerate(ODD_KEYS):
            assert bytes((await bucket.get(key)).data) == str(index).encode(), key
            assert (await bucket.head(key)).key == key
        assert sorted(await all_keys(bucket)) == sorted(ODD_KEYS)
        await bucket.delete_many(ODD_KEYS)
        assert await all_keys(bucket) == []

    @pytest.mark.parametrize("key", REFUSED_KEYS, ids=lambda key: repr(key[:9]))
    async def test_refused_keys(self, bucket: Bucket, key: str) -> None:
        """Keys that some store would refuse or change are Invalid everywhere, for every operation."""
        with pytest.raises(Invalid):
            await bucket.put(key, b"x")
        with pytest.raises(Invalid):
            await bucket.get(key)
        with pytest.raises(Invalid):
            await bucket.head(key)
        with pytest.raises(Invalid):
            await bucket.delete(key)
        with pytest.raises(Invalid):
            await bucket.delete_many([key])

    # Ranges.

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (0, 1),
            (0, 10),
            (0, 11),
            (0, 1000),
            (3, 7),
            (9, 10),
            (9, 50),
            (10, 11),
            (11, 20),
            (0, 0),
            (5, 5),
            (10, 10),
            (50, 50),
        ],
    )
    async def test_ranges(self, bucket: Bucket, start: int, end: int) -> None:
        """A range gives what is there of it, as slicing does, and the info of the whole object."""
        data = b"0123456789"
        etag = await bucket.put("key", data)
        found = await bucket.get("key", byte_range=ByteRange(start, end))
        assert bytes(found.data) == data[start:end]
        assert found.info.size_bytes == 10
        assert found.info.etag == etag

    async def test_ranges_of_an_empty_object(self, bucket: Bucket) -> None:
        """Every range of an empty object is empty."""
        await bucket.put("empty", b"")
        for byte_range in (ByteRange(0, 0), ByteRange(0, 1), ByteRange(5, 9)):
            found = await bucket.get("empty", byte_range=byte_range)
            assert bytes(found.data) == b""
            assert found.info.size_bytes == 0

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (-5, -1)])
    async def test_wrong_ranges(self, bucket: Bucket, start: int, end: int) -> None:
        """A range that is none is Invalid."""
        await bucket.put("key", b"0123456789")
        with pytest.raises(Invalid):
            await bucket.get("key", byte_range=ByteRange(start, end))

    # Absence.

    async def test_absent_object(self, bucket: Bucket) -> None:
        """An absent object is NotFound, and the bucket is not said to be missing."""
        await bucket.put("other", b"x")
        for call in (
            lambda: bucket.get("absent"),
            lambda: bucket.head("absent"),
            lambda: bucket.get("absent", byte_range=ByteRange(0, 5)),
            lambda: bucket.get("absent", byte_range=ByteRange(5, 5)),
            lambda: bucket.get("absent/below"),
        ):
            with pytest.raises(NotFound) as caught:
                await call()
            assert type(caught.value) is NotFound
            assert "absent" in str(caught.value)
            assert "\n" not in str(caught.value)

    async def test_absent_in_an_empty_bucket(self, bucket: Bucket) -> None:
        """A bucket without any object exists all the same."""
        assert await all_keys(bucket) == []
        with pytest.raises(NotFound) as caught:
            await bucket.head("absent")
        assert type(caught.value) is NotFound

    async def test_begin_of_a_key_is_no_object(self, bucket: Bucket) -> None:
        """The begin of a key up to a slash is not an object, and can be deleted without any effect."""
        await bucket.put("dir/key", b"x")
        for call in (lambda: bucket.get("dir"), lambda: bucket.head("dir")):
            with pytest.raises(NotFound) as caught:
                await call()
            assert type(caught.value) is NotFound
        await bucket.delete("dir")
        await bucket.delete_many(["dir"])
        assert await all_keys(bucket) == ["dir/key"]

    async def test_missing_bucket(self, open_missing_bucket: OpenBucket | None) -> None:
        """In a missing bucket everything is BucketNotFound: an absent object would be taken for zeros."""
        if open_missing_bucket is None:
            # Nothing to test: every name is a bucket there.
            return
        bucket = await open_missing_bucket()
        try:
            for call in (
                lambda: bucket.get("key"),
                lambda: bucket.get("key", byte_range=ByteRange(0, 5)),
                lambda: bucket.head("key"),
                lambda: bucket.put("key", b"x"),
                lambda: bucket.put("key", b"x", condition=IfAbsent()),
                lambda: all_keys(bucket),
                lambda: all_keys(bucket, prefix="some/pre"),
            ):
                with pytest.raises(BucketNotFound) as caught:
                    await call()
                assert "\n" not in str(caught.value)
        finally:
            await bucket.close()

    async def test_delete_in_a_missing_bucket(self, open_missing_bucket: OpenBucket | None) -> None:
        """Nor does a delete in a missing bucket succeed."""
        if open_missing_bucket is None:
            return
        bucket = await open_missing_bucket()
        try:
            with pytest.raises(BucketNotFound):
                await bucket.delete("key")
            with pytest.raises(BucketNotFound):
                await bucket.delete_many(["key", "other"])
        finally:
            await bucket.close()

    # Conditions.

    async def test_if_absent(self, bucket: Bucket) -> None:
        """A put with IfAbsent succeeds once; it fails with AlreadyExists and changes nothing; after a delete
        it succeeds."""
        attributes = Attributes(metadata={"by": "first"})
        etag = await bucket.put("key", b"first", attributes=attributes, condition=IfAbsent())
        with pytest.raises(AlreadyExists) as caught:
            await bucket.put("key", b"second", condition=IfAbsent())
        assert "key" in str(caught.value)
        found = await bucket.get("key")
        assert (bytes(found.data), found.info.etag) == (b"first", etag)
        assert dict(found.info.attributes.metadata) == {"by": "first"}
        await bucket.delete("key")
        await bucket.put("key", b"third", condition=IfAbsent())
        assert bytes((await bucket.get("key")).data) == b"third"

    async def test_if_match(self, bucket: Bucket) -> None:
        """A put with IfMatch succeeds over the object that was seen, with its attributes, and gives the next
        ETag."""
        first = await bucket.put("key", b"1")
        second = await bucket.put(
            "key", b"2", attributes=Attributes(metadata={"n": "2"}), condition=IfMatch(first)
        )
        assert second != first
        third = await bucket.put("key", b"3", condition=IfMatch((await bucket.head("key")).etag))
        found = await bucket.get("key")
        assert (bytes(found.data), found.info.etag) == (b"3", third)

    async def test_if_match_on_another(self, bucket: Bucket) -> None:
        """A put with IfMatch over another object fails with PreconditionFailed and changes nothing."""
        old = await bucket.put("key", b"1")
        new = await bucket.put("key", b"2")
        with pytest.raises(PreconditionFailed) as caught:
            await bucket.put("key", b"3", condition=IfMatch(old))
        assert "key" in str(caught.value)
        found = await bucket.get("key")
        assert (bytes(found.data), found.info.etag) == (b"2", new)

    async def test_if_match_on_nothing(self, bucket: Bucket) -> None:
        """A put with IfMatch where no object is fails with PreconditionFailed and makes none."""
        etag = await bucket.put("key", b"1")
        await bucket.delete("key")
        with pytest.raises(PreconditionFailed):
            await bucket.put("key", b"2", condition=IfMatch(etag))
        assert await all_keys(bucket) == []

    async def test_one_of_many_creators(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Of many that create an object at once, each with a connection of its own, one succeeds."""
        async with opened(open_bucket, _COMPETITORS) as buckets:
            for round_index in range(5):
                key = f"race-{round_index}"
                results = await asyncio.gather(
                    *(b.put(key, str(i).encode(), condition=IfAbsent()) for i, b in enumerate(buckets)),
                    return_exceptions=True,
                )
                winners = [i for i, result in enumerate(results) if isinstance(result, str)]
                losers = [result for result in results if not isinstance(result, str)]
                assert len(winners) == 1
                assert all(isinstance(result, AlreadyExists) for result in losers), losers
                assert bytes((await bucket.get(key)).data) == str(winners[0]).encode()

    async def test_no_lost_update(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Many that count in one object by IfMatch lose no count."""
        await bucket.put("counter", b"0")
        rounds = 5

        async def count(own: Bucket) -> None:
            done = 0
            while done < rounds:
                found = await own.get("counter")
                value = int(bytes(found.data)) + 1
                try:
                    await own.put("counter", str(value).encode(), condition=IfMatch(found.info.etag))
                except PreconditionFailed:
                    continue
                done += 1

        async with opened(open_bucket, _COMPETITORS) as buckets:
            await asyncio.gather(*(count(b) for b in buckets))
        assert int(bytes((await bucket.get("counter")).data)) == rounds * _COMPETITORS

    # Deletes.

    async def test_delete(self, bucket: Bucket) -> None:
        """A deleted object is gone for get, head and list; deleting it again succeeds."""
        await bucket.put("key", b"x")
        await bucket.delete("key")
        for call in (lambda: bucket.get("key"), lambda: bucket.head("key")):
            with pytest.raises(NotFound):
                await call()
        assert await all_keys(bucket) == []
        await bucket.delete("key")
        await bucket.delete("never/was")

    async def test_delete_many(self, bucket: Bucket) -> None:
        """Present and absent keys can be deleted together; others stay."""
        await put_all(bucket, [f"d/{index}" for index in range(10)])
        await bucket.delete_many(iter([f"d/{index}" for index in range(0, 20, 2)]))
        assert await all_keys(bucket) == ["d/1", "d/3", "d/5", "d/7", "d/9"]
        await bucket.delete_many([])
        await bucket.delete_many(["absent"])

    async def test_delete_after_many_pages(self, bucket: Bucket) -> None:
        """More keys than one request takes are deleted all the same."""
        keys = [f"many/{index:08x}" for index in range(1100)]
        await put_all(bucket, keys[::100])
        await bucket.delete_many(keys)
        assert await all_keys(bucket) == []

    # Lists.

    async def test_list_entries(self, bucket: Bucket) -> None:
        """An entry has the object's size, and its ETag if it has one."""
        etag = await bucket.put("key", b"hello", attributes=Attributes(metadata={"n": "1"}))
        (entry,) = await all_entries(bucket)
        assert (entry.key, entry.size_bytes) == ("key", 5)
        assert entry.etag in (None, etag)

    async def test_list_is_ordered(self, bucket: Bucket) -> None:
        """Keys come in one order, ascending by code point."""
        keys = ["b", "a", "B", "a1", "é", "z", "🪣", "日", "-", "0", "00", "~", "a b"]
        await put_all(bucket, keys)
        assert await all_keys(bucket) == sorted(keys)

    async def test_list_orders_slashes_as_characters(self, bucket: Bucket) -> None:
        """A slash is a character like others: it sorts after a hyphen and a dot."""
        keys = ["a/b", "a-b", "a.b", "a0", "a/b-c", "a/b.c"]
        await put_all(bucket, keys)
        assert await all_keys(bucket) == sorted(keys)

    async def test_list_finds_all_of_mixed_keys(self, bucket: Bucket) -> None:
        """Whatever a store thinks of slashes, nothing with the prefix is missed."""
        keys = ["a/b", "a-b", "a.b", "a0", "a/b-c", "a/c/d", "a/c-d", "a/c.d", "b"]
        await put_all(bucket, keys)
        for prefix in ("", "a", "a/", "a.", "a-", "a/c", "a/c/", "a/c.", "b", "c"):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert sorted(await all_keys(bucket, prefix=prefix)) == expected, prefix

    async def test_list_prefix(self, bucket: Bucket) -> None:
        """A prefix is any begin of keys, not only whole path segments."""
        keys = ["p/00000001", "p/00000010", "p/1", "p0", "pc", "q", "sub/p/1"]
        await put_all(bucket, keys)
        for prefix in (
            "p",
            "p/",
            "p/0",
            "p/0000000",
            "p/00000001",
            "p/000000011",
            "sub",
            "sub/p/",
            "",
            "x",
            "P",
        ):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert await all_keys(bucket, prefix=prefix) == expected, prefix

    async def test_list_after(self, bucket: Bucket) -> None:
        """A listing begins after a key, which need not exist, and keeps to the prefix."""
        keys = [f"k{index:02d}" for index in range(20)]
        await put_all(bucket, [*keys, "a", "z"])
        for after in ("", "k", "k00", "k05", "k05x", "k19", "k2", "zz"):
            expected = [key for key in keys if key > after]
            assert await all_keys(bucket, prefix="k", after=after) == expected, after
        assert await all_keys(bucket, after="k18") == ["k19", "z"]
        assert await all_keys(bucket, prefix="k1", after="a") == keys[10:]
        assert await all_keys(bucket, prefix="k0", after="k1") == []

    async def test_list_pages(self, bucket: Bucket) -> None:
        """More objects than fit in a page come all, once, in order, in several pages, with and without a
        prefix."""
        keys = [f"blocks/{index:08x}" for index in range(1050)]
        await put_all(bucket, ["a", *keys, "z"])
        pages = [page async for page in bucket.list()]
        assert [entry.key for page in pages for entry in page] == ["a", *keys, "z"]
        assert len(pages) > 1
        assert all(pages)
        assert await all_keys(bucket, prefix="blocks/0000") == keys
        assert await all_keys(bucket, prefix="blocks/000003") == keys[0x300:0x400]
        assert await all_keys(bucket, prefix="blocks/0", after=keys[1000]) == keys[1001:]

    async def test_list_can_be_left(self, bucket: Bucket) -> None:
        """Who has seen enough of a listing just goes; the bucket still works and closes."""
        await put_all(bucket, [f"{index:02d}" for index in range(20)])
        async for page in bucket.list():
            assert page
            break
        assert len(await all_keys(bucket)) == 20

    # All together.

    async def test_many_at_once(self, bucket: Bucket) -> None:
        """Requests may be made at once, of any kind and priority."""

        async def one(index: int) -> None:
            key = f"o/{index:03d}"
            data = str(index).encode() * 100
            await bucket.put(key, data, priority=Priority(index % 4))
            assert bytes((await bucket.get(key, priority=Priority(index % 4))).data) == data
            assert (await bucket.head(key)).size_bytes == len(data)
            if index % 2:
                await bucket.delete(key, priority=Priority(index % 4))

        await asyncio.gather(*(one(index) for index in range(64)))
        assert await all_keys(bucket, prefix="o/") == [f"o/{index:03d}" for index in range(0, 64, 2)]

    async def test_readers_see_no_mixture(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """A reader sees the bytes and attributes of one put, whatever is being put."""
        stop = asyncio.Event()

        async def write(own: Bucket, letter: str) -> None:
            data, attributes = letter.encode() * 50_000, Attributes(None, letter, {"letter": letter})
            while not stop.is_set():
                await own.put("key", data, attributes=attributes)
                # A bucket in memory never waits: let the readers in.
                await asyncio.sleep(0)

        async def read() -> None:
            for _ in range(30):
                found = await bucket.get("key")
                (letter,) = set(bytes(found.data).decode())
                assert len(found.data) == 50_000
                assert found.info.attributes.content_encoding == letter
                assert dict(found.info.attributes.metadata) == {"letter": letter}

        await bucket.put("key", b"a" * 50_000, attributes=Attributes(None, "a", {"letter": "a"}))
        async with opened(open_bucket, 2) as (first, second):
            writers = [asyncio.create_task(write(first, "a")), asyncio.create_task(write(second, "b"))]
            try:
                await asyncio.gather(read(), read())
            finally:
                stop.set()
                await asyncio.gather(*writers)

    async def test_cancelled_put(self, bucket: Bucket) -> None:
        """A put whose waiter is cancelled happens wholly or not at all; the bucket still works and closes."""
        for index in range(10):
            task = asyncio.create_task(
                bucket.put("key", str(index).encode() * 50_000, attributes=Attributes(None, str(index)))
            )
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await bucket.put("other", b"x")
        assert bytes((await bucket.get("other")).data) == b"x"
        try:
            found = await bucket.get("key")
        except NotFound:
            return
        (digit,) = set(bytes(found.data).decode())
        assert len(found.data) == 50_000
        assert found.info.attributes.content_encoding == digit

    # Opening and closing.

    async def test_objects_stay(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """What was put is there when the bucket is opened again."""
        etag = await bucket.put("key", b"x", attributes=Attributes(metadata={"n": "1"}))
        await bucket.close()
        async with opened(open_bucket, 1) as (again,):
            found = await again.get("key")
            assert (bytes(found.data), found.info.etag) == (b"x", etag)
            assert dict(found.info.attributes.metadata) == {"n": "1"}

    async def test_close(self, bucket: Bucket) -> None:
        """After close everything is Closed; closing twice is fine."""
        await bucket.put("key", b"x")
        await bucket.close()
        await bucket.close()
        for call in (
            lambda: bucket.get("key"),
            lambda: bucket.head("key"),
            lambda: bucket.put("key", b"x"),
            lambda: bucket.delete("key"),
            lambda: bucket.delete_many(["key"]),
            lambda: all_keys(bucket),
        ):
            with pytest.raises(Closed):
                await call()

    async def test_close_waits(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Close waits for what is under way, which happens or fails, but is not lost half done."""
        async with opened(open_bucket, 1) as (other,):
            puts = [asyncio.create_task(other.put(f"k{index}", b"x" * 1000)) for index in range(8)]
            await asyncio.sleep(0)
            await other.close()
            results = await asyncio.gather(*puts, return_exceptions=True)
        succeeded = {f"k{index}" for index, result in enumerate(results) if isinstance(result, str)}
        assert all(isinstance(result, str | Closed) for result in results)
        assert succeeded <= set(await all_keys(bucket))

    async def test_url_and_statistics(self, bucket: Bucket) -> None:
        """A bucket says where it is, and gives figures in nested mappings of numbers and texts."""
        assert "://" in bucket.url

        def check(value: object) -> None:
            if isinstance(value, Mapping):
                for name, inner in value.items():
                    assert isinstance(name, str)
                    check(inner)
            else:
                assert isinstance(value, int | float | str | None)

        check(bucket.statistics())


@asynccontextmanager
async def opened(open_bucket: OpenBucket, count: int) -> AsyncIterator[list[Bucket]]:
    """So many openings of one bucket, closed at the end."""
    buckets = [await open_bucket() for _ in range(count)]
    try:
        yield buckets
    finally:
        for bucket in buckets:
            await bucket.close()
