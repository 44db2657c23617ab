"""Signatures: AWS's own examples, and each way in which one does not fit.

The examples are those of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html,
sigv4-streaming.html and sigv4-query-string-auth.html.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from bucketry.settings import Secret
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Request
from bucketry.testing.s3_server.routing import route
from bucketry.testing.s3_server.signature import Credentials, Signed, check_body, decode_pieces, verify

KEY = Credentials("AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"))
NOW = datetime(2013, 5, 24, 0, 0, 5, tzinfo=UTC)
EMPTY = hashlib.sha256(b"").hexdigest()


def signed_request(
    method: str, target: str, headers: Mapping[str, str], signature: str, body_hash: str = EMPTY
) -> Request:
    """One of AWS's examples: signs all the headers that are given, and its own."""
    fields = {
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": body_hash,
        "x-amz-date": "20130524T000000Z",
        **headers,
    }
    authorization = (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={';'.join(sorted(fields))},Signature={signature}"
    )
    return Request(method, target, {**fields, "authorization": authorization})


def check(
    request: Request,
    *,
    key: Credentials = KEY,
    now: datetime = NOW,
    region: str = "us-east-1",
    has_expired: frozenset[str] = frozenset(),
) -> Signed | None:
    call = route(request)
    return verify(
        request, call.path, call.pairs, {key.access_id: key}, region=region, now=now, has_expired=has_expired
    )


def get_object() -> Request:
    return signed_request(
        "GET",
        "/test.txt",
        {"range": "bytes=0-9"},
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    )


EXAMPLES = {
    "get": get_object(),
    "put": signed_request(
        "PUT",
        "/test$file.text",
        {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
    ),
    "list": signed_request(
        "GET",
        "/?max-keys=2&prefix=J",
        {},
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
    "presigned": Request(
        "GET",
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        {"host": "examplebucket.s3.amazonaws.com"},
    ),
}


@pytest.mark.parametrize("request_", EXAMPLES.values(), ids=EXAMPLES)
def test_examples(request_: Request) -> None:
    """AWS's examples are accepted; with another key's secret they are not."""
    signed = check(request_)
    assert signed is not None
    assert signed.access_id == KEY.access_id
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        check(request_, key=Credentials(KEY.access_id, Secret("another")))


def test_what_is_signed_cannot_be_changed() -> None:
    """Method, path, query, a signed header: whatever is changed, the signature does not fit."""
    changed = [get_object() for _ in range(4)]
    changed[0].method = "HEAD"
    changed[1].target = "/other.txt"
    changed[2].target = "/test.txt?prefix=x"
    changed[3].headers["range"] = "bytes=0-10"
    for request in changed:
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            check(request)


def test_headers_that_are_not_signed() -> None:
    """An x-amz header that nobody signed is refused; blanks and unsigned other headers do not matter."""
    request = get_object()
    request.headers["range"] = "  bytes=0-9 "
    request.headers["if-match"] = "x"
    assert check(request) is not None
    request.headers["x-amz-storage-class"] = "GLACIER"
    with pytest.raises(S3Error, match="AccessDenied"):
        check(request)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"now": NOW + timedelta(minutes=16)}, "RequestTimeTooSkewed"),
        ({"now": NOW - timedelta(minutes=16)}, "RequestTimeTooSkewed"),
        ({"region": "eu-central-1"}, "AuthorizationHeaderMalformed"),
        ({"key": Credentials("AKIDOTHER", KEY.secret)}, "InvalidAccessKeyId"),
        ({"key": Credentials(KEY.access_id, KEY.secret, Secret("token"))}, "InvalidToken"),
        ({"has_expired": frozenset({KEY.access_id})}, "ExpiredToken"),
    ],
)
def test_refusals(arguments: dict[str, object], code: str) -> None:
    """Each thing that is wrong has S3's own code."""
    with pytest.raises(S3Error, match=code):
        check(get_object(), **arguments)  # type: ignore[arg-type]


def test_presigned_urls_expire() -> None:
    """A URL is valid for the time that is written in it."""
    request = EXAMPLES["presigned"]
    assert check(request, now=NOW + timedelta(hours=23)) is not None
    with pytest.raises(S3Error, match="AccessDenied"):
        check(request, now=NOW + timedelta(hours=25))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "AWS4-HMAC-SHA256",
        "Basic dTpw",
        "AWS AKID:sig",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e,Signature=f",
    ],
)
def test_malformed_authorization(authorization: str) -> None:
    """What is no authorization of this kind is called malformed."""
    request = get_object()
    request.headers["authorization"] = authorization
    with pytest.raises(S3Error, match="AuthorizationHeaderMalformed"):
        check(request)


def test_missing_headers() -> None:
    """The body's hash and the date must be there, and the host be signed."""
    for name, code in (("x-amz-content-sha256", "InvalidRequest"), ("x-amz-date", "AccessDenied")):
        request = get_object()
        del request.headers[name]
        with pytest.raises(S3Error, match=code):
            check(request)
    request = get_object()
    request.headers["authorization"] = request.headers["authorization"].replace("host;", "")
    with pytest.raises(S3Error, match="AuthorizationHeaderMalformed"):
        check(request)


def test_nobody_signed() -> None:
    """Without any signature, nobody signed."""
    assert check(Request("GET", "/test.txt", {"host": "examplebucket.s3.amazonaws.com"})) is None


def test_body_hashes() -> None:
    """A body that is not the one that was signed is refused; one that was not signed is not looked at."""
    check_body(hashlib.sha256(b"x").hexdigest(), b"x")
    check_body(EMPTY, b"")
    check_body("UNSIGNED-PAYLOAD", b"whatever")
    with pytest.raises(S3Error, match="XAmzContentSHA256Mismatch"):
        check_body(hashlib.sha256(b"x").hexdigest(), b"y")
    with pytest.raises(S3Error, match="InvalidArgument"):
        check_body("nonsense", b"y")


class TestPieces:
    """AWS's example of a body in signed pieces: 65 KiB and a half of the letter a."""

    SIGNATURES = (
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    )
    KIND = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"

    def signed(self) -> Signed:
        request = signed_request(
            "PUT",
            "/examplebucket/chunkObject.txt",
            {
                "host": "s3.amazonaws.com",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
                "content-encoding": "aws-chunked",
                "x-amz-decoded-content-length": "66560",
                "content-length": "66824",
            },
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
            self.KIND,
        )
        signed = check(request)
        assert signed is not None
        return signed

    def body(self) -> bytes:
        first, second, last = self.SIGNATURES
        return (
            f"10000;chunk-signature={first}\r\n{'a' * 65536}\r\n"
            f"400;chunk-signature={second}\r\n{'a' * 1024}\r\n0;chunk-signature={last}\r\n\r\n"
        ).encode()

    def test_example(self) -> None:
        """The pieces are verified and put together."""
        assert len(self.body()) == 66824
        assert decode_pieces(self.body(), self.KIND, 66560, self.signed()) == (b"a" * 66560, {})

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_wrong_signature(self, number: int) -> None:
        """A piece with another signature is refused, the last and empty one too."""
        signature = self.SIGNATURES[number]
        body = self.body().replace(signature.encode(), signature[::-1].encode())
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            decode_pieces(body, self.KIND, 66560, self.signed())

    def test_changed_piece(self) -> None:
        """So is one with other bytes."""
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            decode_pieces(self.body().replace(b"aaaa\r\n0", b"aaab\r\n0"), self.KIND, 66560, self.signed())

    @pytest.mark.parametrize("cut", [10, 200, 65700, 66700, 66740])
    def test_cut(self, cut: int) -> None:
        """A body that ends too early is incomplete, wherever it ends."""
        with pytest.raises(S3Error, match="IncompleteBody"):
            decode_pieces(self.body()[:cut], self.KIND, 66560, self.signed())

    def test_length(self) -> None:
        """The length that was announced must be the one that came."""
        with pytest.raises(S3Error, match="IncompleteBody"):
            decode_pieces(self.body(), self.KIND, 66561, self.signed())

    def test_trailers(self) -> None:
        """Unsigned pieces may end with trailers."""
        body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
        decoded = decode_pieces(body, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", 5, self.signed())
        assert decoded == (b"hello", {"x-amz-checksum-crc32": "NhCmhg=="})

    def test_signed_trailers_must_be_signed(self) -> None:
        """Where pieces are signed, trailers are as well."""
        body = self.body()[:-2] + b"x-amz-checksum-crc32:NhCmhg==\r\n\r\n"
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            decode_pieces(body, self.KIND + "-TRAILER", 66560, self.signed())


def test_odd_paths_and_queries_are_signed_as_they_are_meant() -> None:
    """What is signed is the encoded form of the meaning, however the client chose to write it."""
    request = get_object()
    plain = check(request)
    request.target = "/%74est.txt"
    assert unquote(request.target) == "/test.txt"
    assert check(request) == plain
