"""The bucket of an object store: what goes over the wire, and what a store can answer. Real servers are in
the contract."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Attributes, Bucket, ByteRange, IfAbsent, IfMatch
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unsupported,
)
from bucketry.settings import BucketSettings, LimitSettings, Secret
from bucketry.testing.bucket_contract import all_keys
from servers.loopback import Answer, Loopback, Request, make_certificate, serve

_OBJECT = Answer(200, b"hello", {"ETag": '"x"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"})


@asynccontextmanager
async def _bucket(server: Loopback, url: str = "s3://bucket", **settings: object) -> AsyncIterator[Bucket]:
    chosen: dict[str, object] = {
        "endpoint": server.endpoint,
        "access_id": "id",
        "access_key": Secret("geheim"),
        **settings,
    }
    if settings.get("anonymous"):
        del chosen["access_id"], chosen["access_key"]
    bucket = connect(BucketSettings(url=url, **chosen))  # type: ignore[arg-type]
    try:
        yield bucket
    finally:
        await bucket.close()


def _error(status: int, code: str = "") -> Answer:
    return Answer(
        status, f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode() if code else b""
    )


# What goes over the wire.


async def test_a_put() -> None:
    """A put is one signed request with the attributes as headers, its body as it is, and no encoding that we
    did not ask for."""
    with serve(lambda _: _OBJECT) as server:
        async with _bucket(server) as bucket:
            attributes = Attributes("application/x", "deflate", {"s3backer-filesize": "1"})
            assert await bucket.put("some/key", b"data", attributes=attributes) == '"x"'
            await bucket.put("some/key", b"x" * (9 << 20))
    first, second = server.requests
    assert (first.method, first.path, first.body) == ("PUT", "/bucket/some/key", b"data")
    assert first.headers["content-type"] == "application/x"
    assert first.headers["content-encoding"] == "deflate"
    assert first.headers["x-amz-meta-s3backer-filesize"] == "1"
    assert "x-amz-content-sha256;" in first.headers["authorization"]
    assert first.headers["x-amz-content-sha256"] not in (
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    )
    assert "content-encoding" not in second.headers
    assert len(second.body) == 9 << 20
    assert "geheim" not in str(first)


async def test_conditions() -> None:
    """Conditions are headers of the same one request."""
    with serve(lambda _: _OBJECT) as server:
        async with _bucket(server) as bucket:
            await bucket.put("key", b"x" * (9 << 20), condition=IfAbsent())
            await bucket.put("key", b"data", condition=IfMatch('"seen"'))
    absent, match = server.requests
    assert absent.headers["if-none-match"] == "*"
    assert match.headers["if-match"] == '"seen"'


async def test_storage_options() -> None:
    """Encryption by the store, the storage class and tags go with every put."""
    settings: dict[str, Any] = {
        "sse": "aws:kms",
        "sse_key_id": "the-key",
        "storage_class": "STANDARD_IA",
        "region": "eu-north-1",
        "tags": (("team", "a & b"), ("empty", "")),
    }
    with serve(lambda _: _OBJECT) as server:
        async with _bucket(server, **settings) as bucket:
            await bucket.put("key", b"data")
    (request,) = server.requests
    assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "the-key"
    assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert parse_qs(request.headers["x-amz-tagging"], keep_blank_values=True) == {
        "team": ["a & b"],
        "empty": [""],
    }
    assert "/eu-north-1/s3/" in request.headers["authorization"]


async def test_anonymous() -> None:
    """Anonymous requests carry no signature."""
    with serve(lambda _: _OBJECT) as server:
        async with _bucket(server, anonymous=True) as bucket:
            await bucket.get("key")
            await bucket.put("key", b"data")
    assert all("authorization" not in request.headers for request in server.requests)


async def test_virtual_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual-host style the bucket is a part of the host's name."""
    with serve(lambda _: _OBJECT) as server:
        # The server plays the proxy, so that no name is looked up.
        monkeypatch.setenv("http_proxy", server.endpoint)
        async with _bucket(server, endpoint="http://storage.test:8000", path_style=False) as bucket:
            await bucket.get("key")
    (request,) = server.requests
    assert request.path == "http://bucket.storage.test:8000/key"
    assert request.headers["host"] == "bucket.storage.test:8000"


async def test_tls(tmp_path: Path) -> None:
    """A server's certificate is checked, against a CA file where one is given, unless that is turned off."""
    tls, ca_file = make_certificate(tmp_path)
    with serve(lambda _: _OBJECT, tls=tls) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Denied, match="certificate is not trusted"):
                await bucket.get("key")
        assert server.requests == []
        async with _bucket(server, ca_file=ca_file) as bucket:
            await bucket.get("key")
        async with _bucket(server, insecure=True) as bucket:
            await bucket.get("key")


async def test_nothing_is_sent_twice() -> None:
    """The client itself retries nothing: not a put, nor a get."""
    with serve(lambda _: _error(503, "SlowDown")) as server:
        async with _bucket(server) as bucket:
            for call in (
                lambda: bucket.get("key"),
                lambda: bucket.put("key", b"x"),
                lambda: bucket.delete_many(["a", "b"]),
            ):
                with pytest.raises(Throttled):
                    await call()
    assert len(server.requests) == 3


async def test_bulk_delete() -> None:
    """Many keys are deleted by one request per thousand."""

    def answer(request: Request) -> Answer:
        keys = [part.partition("</Key>")[0] for part in request.body.decode().split("<Key>")[1:]]
        assert len(keys) <= 1000
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return Answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    with serve(answer) as server:
        async with _bucket(server) as bucket:
            await bucket.delete_many([f"{index}" for index in range(2500)])
    assert [request.path for request in server.requests] == ["/bucket?delete"] * 3


async def test_bulk_delete_that_fails_in_part() -> None:
    """A bulk delete fails when one key remains, and only after all others have been tried."""

    def answer(request: Request) -> Answer:
        if b"<Key>0</Key>" in request.body:
            error = "<Error><Key>0</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
            return Answer(200, f"<DeleteResult>{error}</DeleteResult>".encode())
        return Answer(200, b"<DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>")

    with serve(answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Denied):
                await bucket.delete_many([f"{index}" for index in range(1500)])
    assert len(server.requests) == 2


async def test_listing_asks_no_more_than_needed() -> None:
    """A page is asked for when it is wanted, and nothing is asked for past the prefix."""

    def answer(request: Request) -> Answer:
        begin = (
            0
            if "continuation-token" not in request.path
            else int(request.path.partition("continuation-token=")[2][:1])
        )
        entries = "".join(
            f"<Contents><Key>p/{begin + index // 1000}-{index:04d}</Key><Size>1</Size>"
            f"<LastModified>2026-10-21T07:28:00Z</LastModified></Contents>"
            for index in range(1000)
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{begin + 1}</NextContinuationToken>"
        return Answer(200, f"<ListBucketResult>{more}{entries}</ListBucketResult>".encode())

    with serve(answer) as server:
        async with _bucket(server) as bucket:
            # Pages 0, 1, 2: the last shows that there is no more.
            assert len(await all_keys(bucket, prefix="p/1-")) == 1000
            # A client that reads ahead would ask for a page or two more, and here for ever.
            assert len(server.requests) <= 4
            async for page in bucket.list(prefix="p/"):
                assert len(page) == 1000
                break
            assert len(server.requests) <= 7
    assert all("prefix=p%2F" in request.path for request in server.requests)


# What a store can answer.


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_error(404, "NoSuchKey"), NotFound),
        (_error(404, "NoSuchBucket"), BucketNotFound),
        (_error(403, "AccessDenied"), Denied),
        (_error(403, "InvalidAccessKeyId"), Denied),
        (_error(403, "SignatureDoesNotMatch"), Denied),
        (_error(400, "ExpiredToken"), Denied),
        (_error(401), Denied),
        (_error(503, "SlowDown"), Throttled),
        (_error(429), Throttled),
        (_error(500, "InternalError"), Unavailable),
        (_error(502), Unavailable),
        (Answer(200, b"hello", {"ETag": '"x"', "Last-Modified": "yesterday"}), Unavailable),
        (Answer(200, b"hello"), Unsupported),
        (Answer(200, b"hello", _OBJECT.headers, cut_after=2), Unavailable),
        (Answer(200, b"hello", _OBJECT.headers, cut_after=0), Unavailable),
    ],
)
async def test_answers_to_get(answer: Answer, error: type[BucketryError]) -> None:
    """Each answer is the error that a caller can act on, in one line that names bucket and key and has no
    secret."""
    with serve(lambda _: answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(BucketryError) as caught:
                await bucket.get("the-key")
    assert type(caught.value) is error
    assert "s3://bucket" in str(caught.value)
    assert "the-key" in str(caught.value) or error is BucketNotFound
    assert str(caught.value).isprintable()
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "condition", "error"),
    [
        (_error(412, "PreconditionFailed"), IfAbsent(), AlreadyExists),
        (_error(412, "PreconditionFailed"), IfMatch("x"), PreconditionFailed),
        (_error(412), IfAbsent(), AlreadyExists),
        (_error(412), IfMatch("x"), PreconditionFailed),
        (_error(404, "NoSuchKey"), IfMatch("x"), PreconditionFailed),
        (_error(404, "NoSuchBucket"), IfMatch("x"), BucketNotFound),
        (_error(404, "NoSuchBucket"), IfAbsent(), BucketNotFound),
        (_error(404, "NoSuchBucket"), None, BucketNotFound),
        (_error(409, "ConditionalRequestConflict"), IfAbsent(), Unavailable),
        (_error(409, "ConditionalRequestConflict"), IfMatch("x"), Unavailable),
        (_error(409, "OperationAborted"), None, Unavailable),
        (_error(503, "SlowDown"), IfAbsent(), Throttled),
        (_error(403, "AccessDenied"), IfAbsent(), Denied),
        (_error(501, "NotImplemented"), IfAbsent(), Unsupported),
    ],
)
async def test_answers_to_put(
    answer: Answer, condition: IfAbsent | IfMatch | None, error: type[BucketryError]
) -> None:
    """A conflict is what the condition says; a race that the store could not decide is to be tried again."""
    with serve(lambda _: answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(BucketryError) as caught:
                await bucket.put("key", b"data", condition=condition)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("listing", "error"),
    [
        (Answer(200, b"<ListBucketResult></ListBucketResult>"), NotFound),
        (_error(404, "NoSuchBucket"), BucketNotFound),
        (_error(404), BucketNotFound),
        (_error(403, "AccessDenied"), Denied),
        (_error(500), Unavailable),
    ],
)
async def test_head_says_too_little(listing: Answer, error: type[BucketryError]) -> None:
    """ "Not found" to a HEAD may be the bucket: a listing decides, and where it cannot, nothing is said to be
    absent."""
    with serve(lambda request: listing if "list-type" in request.path else Answer(404)) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(BucketryError) as caught:
                await bucket.head("key")
    assert type(caught.value) is error


def _listing(*keys: str) -> Answer:
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-10-21T07:28:00Z</LastModified><Size>5</Size>"
        "<ETag>x</ETag></Contents>"
        for key in keys
    )
    return Answer(200, f"<ListBucketResult>{contents}</ListBucketResult>".encode())


#: What a load balancer says that has no server behind it.
_NOBODY = Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})

_REQUESTS: dict[str, Callable[[Bucket, str], Awaitable[object]]] = {
    "get": lambda bucket, key: bucket.get(key),
    "get a range": lambda bucket, key: bucket.get(key, byte_range=ByteRange(0, 2)),
    "head": lambda bucket, key: bucket.head(key),
    "delete": lambda bucket, key: bucket.delete(key),
    "put": lambda bucket, key: bucket.put(key, b"data"),
    "put a new one": lambda bucket, key: bucket.put(key, b"data", condition=IfAbsent()),
    "put over": lambda bucket, key: bucket.put(key, b"data", condition=IfMatch("x")),
}


@pytest.mark.parametrize("key", ["d/key", "key", "d/k"])
@pytest.mark.parametrize("request_name", _REQUESTS)
async def test_not_found_of_a_load_balancer(request_name: str, key: str) -> None:
    """Only the store's word makes an object absent, deleted or overtaken: while something else says 404 and
    the object is listed, it is to be tried again."""
    listing = _listing(key[:-1] + "-", key)
    with serve(lambda request: listing if "list-type" in request.path else _NOBODY) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Unavailable, match="HTTP 404"):
                await _REQUESTS[request_name](bucket, key)


@pytest.mark.parametrize(
    ("request_name", "error"),
    [
        ("get", NotFound),
        ("get a range", NotFound),
        ("head", NotFound),
        ("delete", None),
        ("put", Unavailable),
        ("put a new one", Unavailable),
        ("put over", PreconditionFailed),
    ],
)
async def test_not_found_without_a_code(request_name: str, error: type[BucketryError] | None) -> None:
    """From a store that gives none it is believed when a listing has no such object."""
    listing = _listing("d/key-", "d/key/x", "d/key0")
    with serve(lambda request: listing if "list-type" in request.path else Answer(404)) as server:
        async with _bucket(server) as bucket:
            found: BaseException | None = None
            try:
                await _REQUESTS[request_name](bucket, "d/key")
            except BucketryError as raised:
                found = raised
    assert (None if found is None else type(found)) is error


@pytest.mark.parametrize(
    "answer",
    [_OBJECT, Answer(416), Answer(206, b"h", {**_OBJECT.headers, "Content-Range": "bytes 0-0/5"})],
)
async def test_head_says_not_found_and_get_has_it(answer: Answer) -> None:
    """One of several servers behind an address did not know the object: it is to be tried again."""
    with serve(lambda request: _NOBODY if request.method == "HEAD" else answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Unavailable, match="though the store has it"):
                await bucket.head("key")


@pytest.mark.parametrize("request_name", _REQUESTS)
async def test_a_store_that_is_away_behind_its_load_balancer(request_name: str) -> None:
    """A bucket that was there is not missing because something before the store says 404 to everything."""
    is_up = True
    with serve(lambda _: _OBJECT if is_up else _NOBODY) as server:
        async with _bucket(server) as bucket:
            await bucket.get("key")
            is_up = False
            with pytest.raises(Unavailable, match="HTTP 404"):
                await _REQUESTS[request_name](bucket, "key")
            with pytest.raises(Unavailable, match="HTTP 404"):
                await all_keys(bucket)


async def test_redirects_name_the_region() -> None:
    """Of a bucket in another region S3 says no address that could be followed."""
    with serve(lambda _: _error(301, "PermanentRedirect")) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Invalid, match="give its region or endpoint"):
                await bucket.get("key")
            with pytest.raises(Invalid, match="give its region or endpoint"):
                await bucket.put("key", b"data")
    with serve(lambda _: _error(307, "TemporaryRedirect")) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Invalid, match="give its region or endpoint"):
                await bucket.put("key", b"data")


async def test_answer_200_to_a_range() -> None:
    """A server that answers a range with the whole object is understood."""
    with serve(lambda _: _OBJECT) as server:
        async with _bucket(server) as bucket:
            found = await bucket.get("key", byte_range=ByteRange(0, 5))
            assert (bytes(found.data), found.info.size_bytes) == (b"hello", 5)
            assert bytes((await bucket.get("key", byte_range=ByteRange(1, 3))).data) == b"el"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_error(404), BucketNotFound),
        (_error(403, "AccessDenied"), Denied),
        (Answer(200, b"no xml"), Unavailable),
    ],
)
async def test_answers_to_list(answer: Answer, error: type[BucketryError]) -> None:
    """A listing fails as a whole."""
    with serve(lambda _: answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(BucketryError) as caught:
                await all_keys(bucket)
    assert type(caught.value) is error


@pytest.mark.parametrize("key", ["a//b", "./x", "a/../b", "x\n", "a\nb"])
async def test_a_key_that_stops_a_listing_is_named(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 nothing gets past it; that is no reason to try again."""
    monkeypatch.setattr("bucketry.bucket.connect.is_installed", lambda: False)
    answer = Answer(
        200,
        f"<ListBucketResult><Contents><Key>{key}</Key><Size>1</Size>"
        "<LastModified>2026-10-21T07:28:00Z</LastModified></Contents></ListBucketResult>".encode(),
    )
    with serve(lambda _: answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Unsupported) as caught:
                await all_keys(bucket)
    assert f"the key {key!r} in it has" in str(caught.value)
    assert "install bucketry[aws]" in str(caught.value)


async def test_nobody_there() -> None:
    """A refused connection is Unavailable."""
    with serve(lambda _: _OBJECT) as server:
        pass
    async with _bucket(server) as bucket:
        calls: tuple[Callable[[], object], ...] = (
            lambda: bucket.get("key"),
            lambda: bucket.head("key"),
            lambda: bucket.put("key", b"x", condition=IfAbsent()),
            lambda: bucket.delete("key"),
            lambda: all_keys(bucket),
        )
        for call in calls:
            with pytest.raises(Unavailable, match="connection refused"):
                await call()  # type: ignore[misc]


async def test_timeout() -> None:
    """A server that does not answer in time is Unavailable."""
    never = threading.Event()
    with serve(lambda _: Answer(wait_for=never)) as server:
        async with _bucket(server, timeout_seconds=0.2) as bucket:
            with pytest.raises(Unavailable, match="timed out"):
                await bucket.get("key")
        never.set()


async def test_cancelled_put_goes_on() -> None:
    """A put whose waiter is cancelled is finished, with its data, before the bucket is closed."""
    go_on, begun = threading.Event(), threading.Event()

    def answer(request: Request) -> Answer:
        begun.set()
        return Answer(200, b"", {"ETag": '"x"'}, wait_for=go_on)

    with serve(answer) as server:
        async with _bucket(server, limits=LimitSettings(requests_max=1)) as bucket:
            task = asyncio.create_task(bucket.put("key", b"x" * 100_000))
            while not begun.is_set():
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
    (request,) = server.requests
    assert request.body == b"x" * 100_000


async def test_azure_metadata_names() -> None:
    """Azure's metadata names cannot have hyphens: they go as underscores, and an underscore does not go at
    all."""
    with serve(lambda _: Answer(201, b"", _OBJECT.headers)) as server:
        settings = {
            "endpoint": f"{server.endpoint}/account",
            "access_key": Secret("Z2VoZWlt"),
            "access_id": "account",
        }
        async with _bucket(server, "az://container", **settings) as bucket:
            await bucket.put("key", b"x", attributes=Attributes(metadata={"s3backer-filesize": "1"}))
            with pytest.raises(Unsupported, match="a_b"):
                await bucket.put("key", b"x", attributes=Attributes(metadata={"a_b": "1"}))
    (request,) = server.requests
    assert request.headers["x-ms-meta-s3backer_filesize"] == "1"


async def test_wrong_ranges_are_refused_before_anything_is_sent() -> None:
    """A range that is none, and a key that is none, cause no request."""
    with serve(lambda _: _OBJECT) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Invalid):
                await bucket.get("key", byte_range=ByteRange(5, 2))
            with pytest.raises(Invalid):
                await bucket.get("a//b")
    assert server.requests == []


async def test_google_compares_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    """At Google the generation is the ETag: that of the answer is returned, and that which was seen is
    compared."""
    headers = {
        "ETag": '"digest"',
        "x-goog-generation": "17",
        "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT",
    }
    with serve(lambda _: Answer(200, b"hello", headers)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint.removeprefix("http://"))
        bucket = connect(BucketSettings(url="gs://bucket"))
        assert await bucket.put("key", b"x", condition=IfAbsent()) == "17"
        await bucket.put("key", b"x", condition=IfMatch("16"), attributes=Attributes(metadata={"a-b": "c"}))
        assert (await bucket.get("key")).info.etag == "17"
        await bucket.close()
    absent, match, get = server.requests
    assert absent.headers["x-goog-if-generation-match"] == "0"
    assert match.headers["x-goog-if-generation-match"] == "16"
    assert match.headers["x-goog-meta-a-b"] == "c"
    assert get.path == "/bucket/key"
