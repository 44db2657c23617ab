"""Uploads in parts on S3: what goes over the wire, and what a store can answer. Real servers are in the
contract."""

import base64
import hashlib
import http.client
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from bucketry.bucket import aws
from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Attributes, Bucket, IfAbsent, IfMatch, Part
from bucketry.bucket.retrying import Retrying
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Denied,
    Invalid,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unsupported,
    UploadGone,
)
from bucketry.settings import BucketSettings, RetrySettings, Secret
from bucketry.testing.bucket_contract import all_keys
from bucketry.testing.s3_server import Fail, S3Server
from servers.loopback import Answer, Loopback, Request, make_certificate, serve

#: Each makes a client of botocore's, which costs 50 ms of processor time; and its import half a second.
pytestmark = pytest.mark.slow

PART_SIZE = 5 << 20


@asynccontextmanager
async def _bucket(
    server: Loopback | S3Server, url: str = "s3://bucket", **settings: object
) -> AsyncIterator[Bucket]:
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


def _obliging(request: Request) -> Answer:
    """Says yes to everything."""
    if request.method == "POST" and request.path.endswith("uploads"):
        return Answer(200, b"<R><UploadId>the-id</UploadId></R>")
    if request.method == "POST":
        return Answer(200, b'<R><ETag>"whole"</ETag></R>')
    if request.method == "GET":
        return Answer(200, b"<R></R>")
    return Answer(200, b"", {"ETag": '"part"'})


@pytest.fixture(scope="module")
def own_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(own_server: S3Server) -> Iterator[S3Server]:
    own_server.clear()
    own_server.make_bucket("bucket")
    own_server.reset_ledger()
    yield own_server
    own_server.clear_faults()


async def test_what_goes_over_the_wire() -> None:
    """The begin has the attributes and what every put has; a part its signed hash and its crc32c; the
    completion the condition, the tags and the checksums."""
    with serve(_obliging) as server:
        async with _bucket(
            server,
            storage_class="STANDARD_IA",
            sse="aws:kms",
            sse_key_id="key-1",
            region="eu-west-1",
            tags=(("team", "a & b"), ("empty", "")),
        ) as bucket:
            upload_id = await bucket.create_upload(
                "some/kéy",
                part_size_bytes=PART_SIZE,
                attributes=Attributes("text/plain", "deflate", {"n": "1"}),
            )
            part = await bucket.put_part("some/kéy", upload_id, 1, memoryview(b"hello"))
            etag = await bucket.complete_upload("some/kéy", upload_id, [part], condition=IfAbsent())
            await bucket.abort_upload("some/kéy", upload_id)
    begin, put, completion, abort = server.requests
    assert (upload_id, part.tag, etag) == ("the-id", '"part"', '"whole"')
    assert (begin.method, begin.path) == ("POST", "/bucket/some/k%C3%A9y?uploads")
    assert {
        "content-type": "text/plain",
        "content-encoding": "deflate",
        "x-amz-meta-n": "1",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        "x-amz-checksum-algorithm": "CRC32C",
        "x-amz-tagging": "team=a+%26+b&empty=",
    }.items() <= begin.headers.items()
    assert "/eu-west-1/s3/" in begin.headers["authorization"]
    assert (put.method, put.body) == ("PUT", b"hello")
    assert "uploadId=the-id" in put.path
    assert "partNumber=1" in put.path
    assert put.headers["x-amz-content-sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert put.headers["x-amz-checksum-crc32c"] == "mnG7TA=="
    assert put.headers["user-agent"].startswith("bucketry/")
    assert completion.headers["if-none-match"] == "*"
    assert b'<ETag>"part"</ETag>' in completion.body
    assert b"<ChecksumCRC32C>mnG7TA==</ChecksumCRC32C>" in completion.body
    assert (abort.method, abort.path) == ("DELETE", "/bucket/some/k%C3%A9y?uploadId=the-id")
    assert not any("geheim" in str(request) for request in server.requests)


async def test_a_body_is_signed_over_tls_too(tmp_path: Path) -> None:
    """The certificate is checked, against a CA file where one is given, unless that is turned off; and the
    hash of the body is in the signature."""
    tls, ca_file = make_certificate(tmp_path)
    assert isinstance(tls, ssl.SSLContext)
    with serve(_obliging, tls=tls) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Denied, match="certificate is not trusted"):
                await bucket.put_part("key", "id", 1, b"x")
        for settings in ({"ca_file": ca_file}, {"insecure": True}):
            async with _bucket(server, **settings) as bucket:
                await bucket.put_part("key", "id", 1, b"hello")
            assert server.requests[-1].headers["x-amz-content-sha256"] == hashlib.sha256(b"hello").hexdigest()


async def test_anonymous_and_virtual_hosts(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials nothing is signed; the bucket goes into the host's name where that is asked for."""
    with serve(_obliging) as server:
        async with _bucket(server, anonymous=True) as bucket:
            await bucket.create_upload("key", part_size_bytes=PART_SIZE)
    assert "authorization" not in server.requests[0].headers
    port = s3.endpoint.rpartition(":")[2]
    # Not every machine knows that *.localhost is itself (RFC 6761).
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: find("127.0.0.1", *rest, **named))
    async with _bucket(s3, endpoint=f"http://localhost:{port}", path_style=False) as bucket:
        upload_id = await bucket.create_upload("key", part_size_bytes=PART_SIZE)
        (found,) = [upload async for page in bucket.list_uploads() for upload in page]
        assert (found.key, found.upload_id) == ("key", upload_id)
        await bucket.abort_upload("key", upload_id)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchBucket", BucketNotFound),
        (404, "NoSuchUpload", UploadGone),
        (404, "", UploadGone),
        (403, "AccessDenied", Denied),
        (400, "ExpiredToken", Denied),
        (400, "InvalidPart", Invalid),
        (400, "RequestTimeout", Unavailable),
        (409, "ConditionalRequestConflict", Unavailable),
        (500, "InternalError", Unavailable),
        (502, "", Unavailable),
        (503, "SlowDown", Throttled),
        (429, "", Throttled),
        (501, "NotImplemented", Unsupported),
    ],
)
async def test_answers_are_our_errors(status: int, code: str, kind: type[BucketryError]) -> None:
    """The store's code decides, then the status; one request, one line, and the store's wish to wait."""
    body = f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode() if code else b""
    with serve(lambda _: Answer(status, body, {"Retry-After": "7"})) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(kind) as caught:
                await bucket.put_part("key", "id", 1, b"x")
    assert type(caught.value) is kind
    assert len(server.requests) == 1
    assert "\n" not in str(caught.value)
    assert "s3://bucket" in str(caught.value)
    if isinstance(caught.value, Unavailable):
        assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize(
    "answer",
    [Answer(200, b"<R><UploadId>the-id</UploadId></R>", cut_after=5), Answer(200, b"<R><UploadId>the-")],
    ids=["cut", "no XML"],
)
async def test_broken_answers_are_tried_again(answer: Answer) -> None:
    """An answer that ends in its middle, or is none, is Unavailable."""
    with serve(lambda _: answer) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(Unavailable, match="s3://bucket: object key"):
                await bucket.create_upload("key", part_size_bytes=PART_SIZE)


async def test_nobody_there() -> None:
    """A server that does not listen is Unavailable, without any retry of botocore's."""
    with serve(_obliging) as server:
        endpoint = server.endpoint
    async with _bucket(server, endpoint=endpoint) as bucket:
        with pytest.raises(Unavailable, match="connect"):
            await bucket.create_upload("key", part_size_bytes=PART_SIZE)


async def test_a_failure_after_200(s3: S3Server) -> None:
    """S3 may begin to answer 200 and then fail: that is no success, and is tried again."""
    async with _bucket(s3) as bare:
        upload_id = await bare.create_upload("key", part_size_bytes=PART_SIZE)
        part = await bare.put_part("key", upload_id, 1, b"x")
        s3.plan(Fail("InternalError", late=True), operation="CompleteMultipartUpload")
        with pytest.raises(Unavailable):
            await bare.complete_upload("key", upload_id, [part])
        await bare.complete_upload("key", upload_id, [part])


@pytest.mark.logs("attempt 1 failed")
async def test_lost_completions_are_read_back(s3: S3Server) -> None:
    """The completion is applied and the server says otherwise: our id on the object tells that it was us."""
    async with _bucket(s3) as bare:
        bucket = Retrying(bare, RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001))
        upload_id = await bucket.create_upload("key", part_size_bytes=PART_SIZE)
        part = await bucket.put_part("key", upload_id, 1, b"x")
        s3.plan(Fail("InternalError", applied=True), operation="CompleteMultipartUpload")
        etag = await bucket.complete_upload("key", upload_id, [part], condition=IfAbsent())
        assert etag == (await bare.head("key")).etag


@pytest.mark.logs("looking first instead")
async def test_a_store_that_cannot_complete_under_a_condition(s3: S3Server) -> None:
    """It says 501 once; from then on we look first. A condition on an ETag stays Unsupported."""
    async with _bucket(s3) as bucket:
        ids = [await bucket.create_upload("key", part_size_bytes=PART_SIZE) for _ in range(2)]
        parts = [await bucket.put_part("key", upload_id, 1, b"x") for upload_id in ids]
        s3.plan(Fail("NotImplemented"), operation="CompleteMultipartUpload")
        await bucket.complete_upload("key", ids[0], parts[:1], condition=IfAbsent())
        with pytest.raises(AlreadyExists):
            await bucket.complete_upload("key", ids[1], parts[1:], condition=IfAbsent())
        assert s3.snapshot().requests["CompleteMultipartUpload"] == 2
        s3.plan(Fail("NotImplemented"), operation="CompleteMultipartUpload")
        with pytest.raises(Unsupported):
            await bucket.complete_upload("key", ids[1], parts[1:], condition=IfMatch('"x"'))


@pytest.mark.parametrize(
    ("status", "code", "condition", "kind"),
    [
        (412, "PreconditionFailed", IfAbsent(), AlreadyExists),
        (412, "PreconditionFailed", IfMatch('"x"'), PreconditionFailed),
        (404, "NoSuchKey", IfMatch('"x"'), PreconditionFailed),
        (404, "NoSuchUpload", IfMatch('"x"'), UploadGone),
    ],
)
async def test_conditions_that_fail(
    status: int, code: str, condition: IfAbsent | IfMatch, kind: type[BucketryError]
) -> None:
    """What a refused condition means depends on the condition."""
    body = f"<Error><Code>{code}</Code></Error>".encode()
    with serve(lambda _: Answer(status, body)) as server:
        async with _bucket(server) as bucket:
            with pytest.raises(kind):
                await bucket.complete_upload("key", "id", [Part(1, 1, '"t"')], condition=condition)


async def test_pages_of_uploads_and_parts() -> None:
    """Listings of more than one page come whole, each page asked for behind the one before it."""
    uploads = {
        "": b"<IsTruncated>true</IsTruncated><NextKeyMarker>k/b</NextKeyMarker>"
        b"<NextUploadIdMarker>2</NextUploadIdMarker><Upload><Key>k/a</Key><UploadId>1</UploadId></Upload>"
        b"<Upload><Key>k/b</Key><UploadId>2</UploadId></Upload>"
        b"<Upload><Key>no</Key><UploadId>9</UploadId></Upload>",
        "k/b": b"<IsTruncated>false</IsTruncated><Upload><Key>k/b</Key><UploadId>3</UploadId></Upload>",
        "0": b"<IsTruncated>true</IsTruncated><Part><PartNumber>2</PartNumber><Size>5</Size>"
        b"<ETag>t2</ETag></Part>",
        "2": b"<IsTruncated>false</IsTruncated><Part><PartNumber>3</PartNumber><Size>6</Size>"
        b"<ETag>t3</ETag></Part>",
    }

    def answer(request: Request) -> Answer:
        query = parse_qs(request.path.partition("?")[2])
        marker = query.get("key-marker", query.get("part-number-marker", [""]))[0]
        return Answer(200, b"<R>" + uploads[marker] + b"</R>")

    with serve(answer) as server:
        async with _bucket(server) as bucket:
            found = [upload async for page in bucket.list_uploads(prefix="k/") for upload in page]
            parts = [part async for page in bucket.list_parts("k", "id") for part in page]
    assert [(upload.key, upload.upload_id) for upload in found] == [("k/a", "1"), ("k/b", "2"), ("k/b", "3")]
    assert parts == [Part(2, 5, "t2"), Part(3, 6, "t3")]
    assert len(server.requests) == 4


async def test_checksums_that_are_none_are_not_believed() -> None:
    """A listing without checksums, or with strange ones, gives none; a page that promises more of nothing
    ends."""
    parts = b"".join(
        b'<Part><PartNumber>%d</PartNumber><Size>1</Size><ETag>"t"</ETag>'
        b"<ChecksumCRC32C>%s</ChecksumCRC32C></Part>" % (number, checksum)
        for number, checksum in enumerate((b"mnG7TA==", b"!!", b"mnG7", b"", b"mnG7TA==mnG7TA=="), 1)
    )
    with serve(lambda _: Answer(200, b"<R><IsTruncated>false</IsTruncated>" + parts + b"</R>")) as server:
        async with _bucket(server) as bucket:
            found = [part.crc32c async for page in bucket.list_parts("key", "id") for part in page]
    assert found == [int.from_bytes(base64.b64decode("mnG7TA=="), "big"), None, None, None, None]
    with serve(lambda _: Answer(200, b"<R><IsTruncated>true</IsTruncated></R>")) as server:
        async with _bucket(server) as bucket:
            assert [page async for page in bucket.list_uploads()] == []
            assert [page async for page in bucket.list_parts("key", "id")] == []


async def test_without_boto3(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    """Everything but uploads in parts works, and those say how to get them."""
    monkeypatch.setattr(aws, "find_spec", lambda _: None)
    async with _bucket(s3) as bucket:
        await bucket.put("key", b"x")
        assert bucket.upload_limits.parts_max == 0
        assert bucket.upload_limits.put_size_max_bytes == 5 << 30
        with pytest.raises(Unsupported, match="pip install botocore"):
            await bucket.create_upload("key", part_size_bytes=PART_SIZE)


def test_nothing_of_botocore_is_imported_early() -> None:
    """Who uses no uploads in parts does not pay for them."""
    program = (
        "import sys\n"
        "from bucketry.bucket.stack import stacked\n"
        "from bucketry.settings import BucketSettings\n"
        "stacked(BucketSettings(url='s3://b', endpoint='http://127.0.0.1:1', anonymous=True))\n"
        "print(sorted(name for name in sys.modules if name.startswith('boto')))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


FLAWED = ["a//b", "a/./b", "../x", "m/n\n", "/lead", "z/"]


@pytest.mark.parametrize("prefix", ["", "a/", "m"])
async def test_listings_get_past_keys_that_cannot_be_named(s3: S3Server, prefix: str) -> None:
    """Other programs may put them on S3. The bucket client stops there; the rest comes another way, in
    order."""
    keys = sorted([*FLAWED, *(f"k{number:04}" for number in range(2100)), "a/c", "m/o", "zz"])
    for key in keys:
        _put_as_another(s3, key)
    async with _bucket(s3) as bucket:
        wanted = [key for key in keys if key.startswith(prefix)]
        assert await all_keys(bucket, prefix=prefix) == wanted
        for after in (*FLAWED, "k1500"):
            assert await all_keys(bucket, prefix=prefix, after=after) == [k for k in wanted if k > after]


def _put_as_another(server: S3Server, key: str) -> None:
    """By a program that looks at no key."""
    connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc)
    connection.request("PUT", f"/bucket/{quote(key, safe='/')}", b"x")
    assert connection.getresponse().status == 200
    connection.close()
