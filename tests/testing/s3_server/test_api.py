"""S3's operations as boto3 sees them: what AWS's own client sends is understood, and it understands us."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from bucketry.settings import Secret
from bucketry.testing.s3_server import Credentials, S3Server, ServiceSettings
from servers.raw_http import ask

KEY = Credentials("AKIDTEST", Secret("not a secret: for the loopback interface"))
TEMPORARY = Credentials("ASIATEST", KEY.secret, Secret("session"))
#: Small, so that tests of many parts need few bytes.
PART_BYTES_MIN = 8


def make_client(endpoint: str, key: Credentials, *, token: str | None = None) -> Any:
    client: Any = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key.access_id,
        aws_secret_access_key=key.secret.reveal_text(),
        aws_session_token=token,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
    )
    return client


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    settings = ServiceSettings(credentials=(KEY, TEMPORARY), part_bytes_min=PART_BYTES_MIN)
    with S3Server(settings) as server:
        yield server


@pytest.fixture(scope="module")
def module_client(server: S3Server) -> Iterator[Any]:
    client = make_client(server.endpoint, KEY)
    yield client
    client.close()


@pytest.fixture
def client(server: S3Server, module_client: Any) -> Any:
    server.clear()
    server.make_bucket("bucket")
    return module_client


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    response: Any = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def put(client: Any, key: str, body: bytes = b"x", **arguments: Any) -> Any:
    return client.put_object(Bucket="bucket", Key=key, Body=body, **arguments)


def get(client: Any, key: str, **arguments: Any) -> Any:
    """With the body read: one that is not would keep its connection."""
    found = client.get_object(Bucket="bucket", Key=key, **arguments)
    found["Body"] = found["Body"].read()
    return found


def test_buckets(client: Any) -> None:
    """Buckets are made, found, listed and deleted when they are empty."""
    client.create_bucket(Bucket="another")
    assert [b["Name"] for b in client.list_buckets()["Buckets"]] == ["another", "bucket"]
    client.head_bucket(Bucket="another")
    assert client.get_bucket_location(Bucket="another")["LocationConstraint"] is None
    put(client, "k")
    failures: dict[tuple[int, str], Callable[[], Any]] = {
        (409, "BucketAlreadyOwnedByYou"): lambda: client.create_bucket(Bucket="another"),
        (409, "BucketNotEmpty"): lambda: client.delete_bucket(Bucket="bucket"),
        (404, "NoSuchBucket"): lambda: client.delete_bucket(Bucket="missing"),
        (404, "404"): lambda: client.head_bucket(Bucket="missing"),
    }
    for expected, call in failures.items():
        with pytest.raises(ClientError) as caught:
            call()
        assert code_of(caught) == expected
    client.delete_bucket(Bucket="another")
    assert [b["Name"] for b in client.list_buckets()["Buckets"]] == ["bucket"]


def test_object_with_everything(client: Any) -> None:
    """Everything that is put with an object comes back with it."""
    kept = {
        "ContentType": "text/plain",
        "ContentEncoding": "gzip",
        "CacheControl": "no-cache",
        "ContentDisposition": "inline",
        "ContentLanguage": "de",
        "Metadata": {"one": "1", "two": "zwei"},
        "StorageClass": "STANDARD_IA",
        "ServerSideEncryption": "AES256",
    }
    answer = put(client, "k", b"hello", **kept)
    assert answer["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
    assert answer["ServerSideEncryption"] == "AES256"
    for found in (get(client, "k"), client.head_object(Bucket="bucket", Key="k")):
        assert {name: found[name] for name in kept} == kept
        assert found["ContentLength"] == 5
        assert found["AcceptRanges"] == "bytes"
        assert found["ETag"] == answer["ETag"]
    entry = client.list_objects_v2(Bucket="bucket")["Contents"][0]
    assert (entry["Size"], entry["ETag"], entry["StorageClass"]) == (5, answer["ETag"], "STANDARD_IA")


def test_digests(client: Any) -> None:
    """Content-MD5 and checksums are verified; a checksum that was sent is given when asked for."""
    right = base64.b64encode(hashlib.md5(b"hello").digest()).decode()
    put(client, "k", b"hello", ContentMD5=right)
    with pytest.raises(ClientError) as caught:
        put(client, "k", b"hullo", ContentMD5=right)
    assert code_of(caught) == (400, "BadDigest")
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        answer = put(client, "k", b"hello", ChecksumAlgorithm=algorithm)
        found = get(client, "k", ChecksumMode="ENABLED")
        assert found[f"Checksum{algorithm}"] == answer[f"Checksum{algorithm}"]
        assert found["Body"] == b"hello"
        part = get(client, "k", Range="bytes=1-2", ChecksumMode="ENABLED")
        assert f"Checksum{algorithm}" not in part
    put(client, "k", b"hello", ChecksumCRC32C="mnG7TA==")
    for wrong, code in (
        ({"ChecksumCRC32C": "AAAAAA=="}, "BadDigest"),
        ({"ChecksumSHA256": base64.b64encode(bytes(32)).decode()}, "BadDigest"),
        ({"ChecksumCRC32C": "mnG7"}, "InvalidRequest"),
        ({"ChecksumCRC64NVME": "AAAAAAAAAAA="}, "NotImplemented"),
        ({"ContentMD5": "AAAA"}, "InvalidDigest"),
    ):
        with pytest.raises(ClientError) as caught:
            put(client, "k", b"hello", **wrong)
        assert code_of(caught)[1] == code


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", b"0"),
        ("bytes=2-4", b"234"),
        ("bytes=7-", b"789"),
        ("bytes=-3", b"789"),
        ("bytes=-100", b"0123456789"),
        ("bytes=5-100", b"56789"),
    ],
)
def test_ranges(client: Any, asked: str, expected: bytes) -> None:
    """A range is answered 206 with what there is of it."""
    put(client, "k", b"0123456789")
    found = get(client, "k", Range=asked)
    assert found["Body"] == expected
    assert found["ResponseMetadata"]["HTTPStatusCode"] == 206
    start = b"0123456789".index(expected)
    assert found["ContentRange"] == f"bytes {start}-{start + len(expected) - 1}/10"


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_ranges_that_cannot_be(client: Any, asked: str) -> None:
    """A range with nothing in it is answered 416."""
    put(client, "k", b"0123456789")
    with pytest.raises(ClientError) as caught:
        get(client, "k", Range=asked)
    assert code_of(caught) == (416, "InvalidRange")


@pytest.mark.parametrize("asked", ["bytes=3-2", "bytes=0-1,3-4", "bytes=-", "bytes=a-b", "lines=1-2"])
def test_ranges_that_are_none(client: Any, asked: str) -> None:
    """What is no single range is answered as if it were not there."""
    put(client, "k", b"0123456789")
    assert get(client, "k", Range=asked)["Body"] == b"0123456789"


def test_conditional_reads(client: Any) -> None:
    """If-Match and If-None-Match, by ETag and by time: 304 and 412."""
    etag = put(client, "k")["ETag"]
    modified = client.head_object(Bucket="bucket", Key="k")["LastModified"]
    for call in (partial(get, client, "k"), partial(client.head_object, Bucket="bucket", Key="k")):
        call(IfMatch=etag)
        call(IfNoneMatch='"other"')
        for arguments, status in (
            ({"IfMatch": '"other"'}, 412),
            ({"IfNoneMatch": etag}, 304),
            ({"IfModifiedSince": modified}, 304),
            ({"IfUnmodifiedSince": modified.replace(year=2001)}, 412),
        ):
            with pytest.raises(ClientError) as caught:
                call(**arguments)
            assert code_of(caught)[0] == status
        # An ETag comes before a time.
        call(IfMatch=etag, IfUnmodifiedSince=modified.replace(year=2001))


def test_conditional_writes(client: Any) -> None:
    """If-None-Match: * and If-Match on puts, completions and deletes."""
    first = put(client, "k", b"1", IfNoneMatch="*")["ETag"]
    second = put(client, "k", b"2", IfMatch=first)["ETag"]
    for arguments, expected in (
        ({"IfNoneMatch": "*"}, (412, "PreconditionFailed")),
        ({"IfMatch": first}, (412, "PreconditionFailed")),
        ({"IfNoneMatch": second}, (501, "NotImplemented")),
    ):
        with pytest.raises(ClientError) as caught:
            put(client, "k", b"3", **arguments)
        assert code_of(caught) == expected
    with pytest.raises(ClientError) as caught:
        put(client, "missing", IfMatch=first)
    assert code_of(caught) == (404, "NoSuchKey")
    with pytest.raises(ClientError) as caught:
        client.delete_object(Bucket="bucket", Key="k", IfMatch=first)
    assert code_of(caught) == (412, "PreconditionFailed")
    assert get(client, "k")["Body"] == b"2"
    client.delete_object(Bucket="bucket", Key="k", IfMatch=second)
    client.delete_object(Bucket="bucket", Key="k", IfMatch=second)
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_copy(client: Any) -> None:
    """A copy has the bytes and the metadata of its source, or metadata of its own."""
    put(client, "a b+c", b"hello", Metadata={"n": "1"}, ContentType="text/plain")
    source = {"Bucket": "bucket", "Key": "a b+c"}
    etag = client.copy_object(Bucket="bucket", Key="copy", CopySource=source)["CopyObjectResult"]["ETag"]
    found = get(client, "copy")
    assert (found["Body"], found["ETag"], found["Metadata"]) == (b"hello", etag, {"n": "1"})
    assert found["ContentType"] == "text/plain"
    client.copy_object(
        Bucket="bucket", Key="copy", CopySource=source, MetadataDirective="REPLACE", Metadata={"m": "2"}
    )
    assert client.head_object(Bucket="bucket", Key="copy")["Metadata"] == {"m": "2"}
    for arguments, expected in (
        ({"CopySource": {"Bucket": "bucket", "Key": "missing"}}, (404, "NoSuchKey")),
        ({"CopySource": source, "CopySourceIfMatch": "other"}, (412, "PreconditionFailed")),
        ({"CopySource": source, "Key": "a b+c"}, (400, "InvalidRequest")),
    ):
        with pytest.raises(ClientError) as caught:
            client.copy_object(**{"Bucket": "bucket", "Key": "x", **arguments})
        assert code_of(caught) == expected


def test_delete_objects(client: Any) -> None:
    """Many are deleted at once, absent ones too; quietly, nothing but failures is told."""
    for key in ("a", "b", "c<&>"):
        put(client, key)
    wanted = [{"Key": "a"}, {"Key": "c<&>"}, {"Key": "absent"}]
    answer = client.delete_objects(Bucket="bucket", Delete={"Objects": wanted})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["a", "c<&>", "absent"]
    answer = client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "b"}], "Quiet": True})
    assert "Deleted" not in answer
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 0
    with pytest.raises(ClientError) as caught:
        client.delete_objects(
            Bucket="bucket", Delete={"Objects": [{"Key": str(index)} for index in range(1001)]}
        )
    assert code_of(caught) == (400, "MalformedXML")


def test_delete_objects_needs_a_digest() -> None:
    """A bulk delete that could have been cut or changed on its way is refused."""
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    with S3Server() as server:
        server.make_bucket("bucket")
        assert ask(server.port, "POST", "/bucket?delete", body=body).code == "InvalidRequest"
        checked = {"x-amz-checksum-sha256": sha256}
        assert ask(server.port, "POST", "/bucket?delete", body=body, headers=checked).status == 200
        reply = ask(server.port, "POST", "/bucket?delete", body=body[:-1], headers=checked)
        assert reply.code == "BadDigest"
        for malformed in (b"<Delete/>", b"<Other/>", b"<!DOCTYPE a>" + body, b"\xff", b""):
            md5 = {"Content-MD5": base64.b64encode(hashlib.md5(malformed).digest()).decode()}
            reply = ask(server.port, "POST", "/bucket?delete", body=malformed, headers=md5)
            assert reply.code == "MalformedXML"


def test_lists(client: Any) -> None:
    """Prefix, delimiter, pages, and where to begin, in both versions of the list."""
    names = ["a", "b/1", "b/2", "b/c/3", "d", "e+f g", "é"]
    for key in names:
        put(client, key)
    for operation in ("list_objects", "list_objects_v2"):
        for size in (1, 2, 3, 100):
            pages = client.get_paginator(operation).paginate(
                Bucket="bucket", Delimiter="/", PaginationConfig={"PageSize": size}
            )
            entries = [
                item
                for page in pages
                for item in sorted(
                    [e["Key"] for e in page.get("Contents", [])]
                    + [e["Prefix"] for e in page.get("CommonPrefixes", [])]
                )
            ]
            assert entries == ["a", "b/", "d", "e+f g", "é"]
        pages = client.get_paginator(operation).paginate(
            Bucket="bucket", Prefix="b/", PaginationConfig={"PageSize": 2}
        )
        assert [e["Key"] for page in pages for e in page["Contents"]] == ["b/1", "b/2", "b/c/3"]
    found = client.list_objects_v2(Bucket="bucket", StartAfter="b/1", MaxKeys=2, FetchOwner=True)
    assert [e["Key"] for e in found["Contents"]] == ["b/2", "b/c/3"]
    assert found["IsTruncated"]
    assert "Owner" in found["Contents"][0]
    found = client.list_objects(Bucket="bucket", Marker="d")
    assert [e["Key"] for e in found["Contents"]] == ["e+f g", "é"]
    assert client.list_objects_v2(Bucket="bucket", MaxKeys=0)["KeyCount"] == 0
    for arguments in ({"ContinuationToken": "!"}, {"MaxKeys": -1}):
        with pytest.raises(ClientError) as caught:
            client.list_objects_v2(Bucket="bucket", **arguments)
        assert code_of(caught) == (400, "InvalidArgument")


def test_uploads_in_parts(server: S3Server, client: Any) -> None:
    """Parts in any order, replaced, listed, chosen; S3's ETag; nothing is left of what was not used."""
    upload = client.create_multipart_upload(
        Bucket="bucket", Key="k", Metadata={"n": "1"}, ContentType="text/plain", StorageClass="GLACIER_IR"
    )["UploadId"]
    name = {"Bucket": "bucket", "Key": "k", "UploadId": upload}
    bodies = {3: b"cccc", 1: b"a" * PART_BYTES_MIN, 2: b"b" * PART_BYTES_MIN, 9: b"unused"}
    client.upload_part(**name, PartNumber=3, Body=b"first try")
    etags = {n: client.upload_part(**name, PartNumber=n, Body=body)["ETag"] for n, body in bodies.items()}
    listed = client.list_parts(**name, MaxParts=2)
    assert [part["PartNumber"] for part in listed["Parts"]] == [1, 2]
    assert listed["IsTruncated"]
    listed = client.list_parts(**name, PartNumberMarker=listed["NextPartNumberMarker"])
    assert [(part["PartNumber"], part["Size"]) for part in listed["Parts"]] == [(3, 4), (9, 6)]
    uploads = client.list_multipart_uploads(Bucket="bucket")["Uploads"]
    assert [(u["Key"], u["UploadId"]) for u in uploads] == [("k", upload)]
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 0

    parts = [{"PartNumber": n, "ETag": etags[n]} for n in (1, 2, 3)]
    answer = client.complete_multipart_upload(**name, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
    digests = b"".join(hashlib.md5(bodies[n]).digest() for n in (1, 2, 3))
    assert answer["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-3"'
    found = get(client, "k")
    assert found["Body"] == bodies[1] + bodies[2] + bodies[3]
    assert (found["ETag"], found["Metadata"]) == (answer["ETag"], {"n": "1"})
    assert (found["ContentType"], found["StorageClass"]) == ("text/plain", "GLACIER_IR")
    assert "Uploads" not in client.list_multipart_uploads(Bucket="bucket")
    assert server.snapshot().stored_bytes == 2 * PART_BYTES_MIN + 4


def test_uploads_in_parts_that_fail(server: S3Server, client: Any) -> None:
    """What cannot be completed says why, and can be completed afterwards, or aborted."""
    put(client, "k", b"there")
    upload = client.create_multipart_upload(Bucket="bucket", Key="k")["UploadId"]
    name = {"Bucket": "bucket", "Key": "k", "UploadId": upload}
    etags = [client.upload_part(**name, PartNumber=n, Body=b"small")["ETag"] for n in (1, 2)]
    one, two = ({"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1))
    for parts, condition, expected in (
        ([two, one], {}, "InvalidPartOrder"),
        ([one, one], {}, "InvalidPartOrder"),
        ([one, {"PartNumber": 7, "ETag": etags[0]}], {}, "InvalidPart"),
        ([{"PartNumber": 1, "ETag": '"other"'}], {}, "InvalidPart"),
        ([one, two], {}, "EntityTooSmall"),
        ([one], {"IfNoneMatch": "*"}, "PreconditionFailed"),
    ):
        with pytest.raises(ClientError) as caught:
            client.complete_multipart_upload(**name, MultipartUpload={"Parts": parts}, **condition)
        assert code_of(caught)[1] == expected
    client.abort_multipart_upload(**name)
    with pytest.raises(ClientError) as caught:
        client.upload_part(**name, PartNumber=1, Body=b"x")
    assert code_of(caught) == (404, "NoSuchUpload")
    assert server.snapshot().stored_bytes == 5


def test_checksums_of_parts(server: S3Server, client: Any) -> None:
    """An upload that was begun with an algorithm wants its checksum for each part, keeps and lists it, and
    wants it again, the same, when it is completed."""
    answer = client.create_multipart_upload(Bucket="bucket", Key="k", ChecksumAlgorithm="CRC32C")
    assert answer["ChecksumAlgorithm"] == "CRC32C"
    name = {"Bucket": "bucket", "Key": "k", "UploadId": answer["UploadId"]}
    for wrong, expected in (
        ({"ChecksumCRC32": "NhCmhg=="}, "InvalidRequest"),
        ({"ChecksumCRC32C": "AAAAAA=="}, "BadDigest"),
    ):
        with pytest.raises(ClientError) as caught:
            client.upload_part(**name, PartNumber=1, Body=b"hello", **wrong)
        assert code_of(caught) == (400, expected)
    put = client.upload_part(**name, PartNumber=1, Body=b"hello", ChecksumCRC32C="mnG7TA==")
    assert put["ChecksumCRC32C"] == "mnG7TA=="
    (listed,) = client.list_parts(**name)["Parts"]
    assert (listed["ETag"], listed["ChecksumCRC32C"]) == (put["ETag"], "mnG7TA==")
    assert client.list_multipart_uploads(Bucket="bucket")["Uploads"][0]["ChecksumAlgorithm"] == "CRC32C"
    part = {"PartNumber": 1, "ETag": put["ETag"]}
    for checksum, expected in (({}, "InvalidRequest"), ({"ChecksumCRC32C": "AAAAAA=="}, "InvalidPart")):
        with pytest.raises(ClientError) as caught:
            client.complete_multipart_upload(**name, MultipartUpload={"Parts": [{**part, **checksum}]})
        assert code_of(caught)[1] == expected
    client.complete_multipart_upload(
        **name, MultipartUpload={"Parts": [{**part, "ChecksumCRC32C": "mnG7TA=="}]}
    )
    assert get(client, "k")["Body"] == b"hello"


def test_wrong_keys(server: S3Server, client: Any) -> None:
    """A wrong secret, an unknown key, a missing or wrong token, an expired one: each has its own code."""
    other = Secret("another")
    cases = [
        (make_client(server.endpoint, Credentials(KEY.access_id, other)), (403, "SignatureDoesNotMatch")),
        (make_client(server.endpoint, Credentials("AKIDNOBODY", other)), (403, "InvalidAccessKeyId")),
        (make_client(server.endpoint, TEMPORARY), (400, "InvalidToken")),
        (make_client(server.endpoint, TEMPORARY, token="other"), (400, "InvalidToken")),
    ]
    for wrong, expected in cases:
        with pytest.raises(ClientError) as caught:
            wrong.list_objects_v2(Bucket="bucket")
        assert code_of(caught) == expected
        wrong.close()
    right = make_client(server.endpoint, TEMPORARY, token="session")
    right.list_objects_v2(Bucket="bucket")
    server.expire_credentials(TEMPORARY.access_id)
    with pytest.raises(ClientError) as caught:
        right.list_objects_v2(Bucket="bucket")
    assert code_of(caught) == (400, "ExpiredToken")
    server.renew_credentials(TEMPORARY.access_id)
    right.list_objects_v2(Bucket="bucket")
    right.close()
    assert ask(server.port, "GET", "/bucket").code == "AccessDenied"


def test_anonymous() -> None:
    """Where it is allowed, a request without a signature is served; a wrong signature still is not."""
    with S3Server(ServiceSettings(credentials=(KEY,), anonymous=True)) as server:
        server.make_bucket("bucket")
        assert ask(server.port, "PUT", "/bucket/k", body=b"x").status == 200
        client = make_client(server.endpoint, Credentials(KEY.access_id, Secret("another")))
        with pytest.raises(ClientError) as caught:
            client.list_objects_v2(Bucket="bucket")
        assert code_of(caught) == (403, "SignatureDoesNotMatch")
        client.close()


def test_presigned_urls(server: S3Server, client: Any) -> None:
    """A URL that boto3 signed opens one object, and no other."""
    put(client, "k", b"hello")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    target = url.removeprefix(server.endpoint)
    host = {"Host": f"127.0.0.1:{server.port}"}
    assert ask(server.port, "GET", target, headers=host).body == b"hello"
    assert ask(server.port, "GET", target.replace("/k?", "/l?"), headers=host).status == 403


def test_streamed_bodies() -> None:
    """A body in aws-chunked pieces arrives whole, its checksum after it is verified, and the word aws-chunked
    does not stay with the object."""
    pieces = b"6\r\nhello \r\n5\r\nworld\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "11",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "Content-Encoding": "aws-chunked,gzip",
    }
    with S3Server() as server:
        server.make_bucket("bucket")

        def put_pieces(body: bytes, **more: str) -> tuple[int, str]:
            reply = ask(server.port, "PUT", "/bucket/k", body=body, headers={**headers, **more})
            return reply.status, reply.code

        assert put_pieces(pieces) == (200, "")
        found = ask(server.port, "GET", "/bucket/k", headers={"x-amz-checksum-mode": "ENABLED"})
        assert found.body == b"hello world"
        assert found.headers["content-encoding"] == "gzip"
        assert found.headers["x-amz-checksum-crc32"] == "DUoRhQ=="
        assert put_pieces(pieces.replace(b"world", b"w0rld")) == (400, "BadDigest")
        assert put_pieces(pieces.replace(b"crc32", b"other")) == (400, "IncompleteBody")
        assert put_pieces(pieces, **{"x-amz-decoded-content-length": "x"}) == (411, "MissingContentLength")
        assert put_pieces(pieces, **{"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}) == (501, "NotImplemented")


def test_fast_etags() -> None:
    """Fast ETags differ from write to write."""
    with S3Server(ServiceSettings(etags="fast")) as server:
        server.make_bucket("bucket")
        etags = [ask(server.port, "PUT", "/bucket/k", body=b"x").headers["etag"] for _ in range(3)]
        assert len(set(etags)) == 3
        assert ask(server.port, "HEAD", "/bucket/k").headers["etag"] == etags[-1]
