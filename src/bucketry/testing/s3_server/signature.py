"""AWS Signature Version 4 as a server sees it: who signed a request, and does the signature fit.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html

Four forms of body: hashed before it was sent, not signed (``UNSIGNED-PAYLOAD``), and in ``aws-chunked``
pieces, each signed with the one before it (``STREAMING-AWS4-HMAC-SHA256-PAYLOAD``) or not at all; pieces may
end with trailers, which hold a checksum.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from bucketry.core.bytes_like import BytesLike
from bucketry.settings import Secret
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Request

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
_STREAMING = "STREAMING-"
#: Signed pieces, signed pieces and trailers, unsigned pieces and trailers. (The fourth kind, ECDSA, is for
#: keys of many regions.)
STREAMINGS = frozenset(
    {
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    }
)
#: S3's own limit.
_SKEW_MAX = timedelta(minutes=15)
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} +Credential=([^/,\s]+)/(\d{{8}})/([^/,\s]*)/s3/aws4_request, *"
    r"SignedHeaders=([^,\s]+), *Signature=([0-9a-f]{64})"
)
_PRESIGNED_CREDENTIAL = re.compile(r"([^/,\s]+)/(\d{8})/([^/,\s]*)/s3/aws4_request")
_SAFE_PATH = re.compile(r"[A-Za-z0-9/._~-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: A week, S3's own limit.
_EXPIRES_SECONDS_MAX = 604800


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key that the server knows. With a ``session_token`` it is valid only together with it."""

    access_id: str
    secret: Secret
    session_token: Secret | None = None


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a request says of its own signature."""

    access_id: str
    date: str
    region: str
    time_text: str
    signed_headers: tuple[str, ...]
    signature: str
    token: str | None
    content_sha256: str
    query: tuple[tuple[str, str], ...]
    expires_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that fits. The key and the signature begin the chain of signed pieces."""

    access_id: str
    signing_key: bytes
    signature: str
    time_text: str
    scope: str


def verify(
    request: Request,
    path: str,
    query: tuple[tuple[str, str], ...],
    credentials: Mapping[str, Credentials],
    *,
    region: str,
    now: datetime,
    has_expired: frozenset[str] = frozenset(),
) -> Signed | None:
    """Whoever signed the head of ``request``; None when nobody did. ``path`` is as sent, ``query`` decoded.

    Raises S3Error. The body's hash is not compared with the body here: see ``check_body``.
    """
    claim = _read_claim(request, query)
    if claim is None:
        return None
    known = credentials.get(claim.access_id)
    if known is None:
        raise S3Error("InvalidAccessKeyId", fields={"AWSAccessKeyId": claim.access_id})
    if claim.region != region:
        message = f"The authorization header is malformed; the region is wrong; expecting '{region}'"
        raise S3Error("AuthorizationHeaderMalformed", message, fields={"Region": region})
    _check_time(claim, now)
    for name in request.headers:
        # Whoever stands between could otherwise add to the request.
        if name.startswith("x-amz-") and name not in claim.signed_headers and claim.expires_seconds is None:
            raise S3Error("AccessDenied", "There were headers present in the request which were not signed")
    scope = f"{claim.date}/{region}/s3/aws4_request"
    to_sign = string_to_sign(
        claim.time_text,
        scope,
        canonical_request(
            request.method, path, claim.query, request.headers, claim.signed_headers, claim.content_sha256
        ),
    )
    key = signing_key(known.secret, claim.date, region)
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    if not hmac.compare_digest(signature, claim.signature):
        raise S3Error("SignatureDoesNotMatch", fields={"AWSAccessKeyId": claim.access_id})
    if claim.access_id in has_expired:
        raise S3Error("ExpiredToken")
    expected_token = known.session_token.reveal_text() if known.session_token else None
    if claim.token != expected_token:
        raise S3Error("InvalidToken")
    return Signed(claim.access_id, key, signature, claim.time_text, scope)


def check_body(content_sha256: str | None, body: BytesLike) -> None:
    """Raises S3Error unless a hash that was sent is that of the body."""
    if content_sha256 is None or content_sha256 == UNSIGNED:
        return
    if not _SHA256.fullmatch(content_sha256):
        raise S3Error("InvalidArgument", "x-amz-content-sha256 must be a SHA-256 or say what else it is")
    actual = hashlib.sha256(body).hexdigest() if len(body) else _EMPTY_SHA256
    if actual != content_sha256:
        raise S3Error("XAmzContentSHA256Mismatch", fields={"ClientComputedContentSHA256": content_sha256})


def decode_pieces(
    body: BytesLike, content_sha256: str, decoded_length: int | None, signed: Signed | None
) -> tuple[bytes, dict[str, str]]:
    """The bytes of an ``aws-chunked`` body and its trailers. The pieces' signatures are verified when
    ``signed`` is given and they have some. Raises S3Error."""
    is_signed = "-UNSIGNED-" not in content_sha256
    chain = _Chain(signed) if is_signed and signed is not None else None
    view = memoryview(body)
    pieces: list[memoryview] = []
    position = 0
    while True:
        line, position = _read_line(view, position)
        size_text, _, extension = line.partition(";")
        if not size_text or len(size_text) > 15 or size_text.strip("0123456789abcdefABCDEF"):
            raise S3Error("IncompleteBody", "The size of a piece is not one.")
        size = int(size_text, 16)
        piece = view[position : position + size]
        if len(piece) != size:
            raise S3Error("IncompleteBody")
        if chain is not None:
            chain.check("AWS4-HMAC-SHA256-PAYLOAD", extension, f"{_EMPTY_SHA256}\n", piece)
        position += size
        if size == 0:
            break
        pieces.append(piece)
        if bytes(view[position : position + 2]) != b"\r\n":
            raise S3Error("IncompleteBody", "A piece is longer than it says.")
        position += 2
    trailers = _read_trailers(view, position, chain)
    data = b"".join(pieces)
    if decoded_length is not None and len(data) != decoded_length:
        raise S3Error("IncompleteBody")
    return data, trailers


class _Chain:
    """Each piece's signature covers the one before it."""

    def __init__(self, signed: Signed) -> None:
        self._signed = signed
        self._previous = signed.signature

    def check(self, kind: str, extension: str, middle: str, data: BytesLike) -> None:
        name, _, given = extension.partition("=")
        signed = self._signed
        text = (
            f"{kind}\n{signed.time_text}\n{signed.scope}\n{self._previous}\n{middle}"
            f"{hashlib.sha256(data).hexdigest()}"
        )
        expected = hmac.digest(signed.signing_key, text.encode(), "sha256").hex()
        if name not in ("chunk-signature", "x-amz-trailer-signature") or given != expected:
            raise S3Error("SignatureDoesNotMatch")
        self._previous = expected


def _read_line(view: memoryview, position: int) -> tuple[str, int]:
    # Longer than any size with a signature, and than any trailer of ours.
    line, found, _ = bytes(view[position : position + 1024]).partition(b"\r\n")
    if not found:
        raise S3Error("IncompleteBody")
    return line.decode("latin-1"), position + len(line) + 2


def _read_trailers(view: memoryview, position: int, chain: _Chain | None) -> dict[str, str]:
    trailers: dict[str, str] = {}
    signature: str | None = None
    signed_text = ""
    while position < len(view):
        line, position = _read_line(view, position)
        if not line:
            continue
        name, found, value = line.partition(":")
        if not found:
            raise S3Error("IncompleteBody", "A trailer is malformed.")
        name, value = name.lower(), value.strip()
        if name == "x-amz-trailer-signature":
            signature = value
        else:
            trailers[name] = value
            signed_text += f"{name}:{value}\n"
    if chain is not None and trailers:
        chain.check(
            "AWS4-HMAC-SHA256-TRAILER", f"x-amz-trailer-signature={signature}", "", signed_text.encode()
        )
    return trailers


def canonical_request(
    method: str,
    path: str,
    query: tuple[tuple[str, str], ...],
    headers: Mapping[str, str],
    signed_headers: tuple[str, ...],
    content_sha256: str,
) -> str:
    """What both sides hash. Paths are encoded once: S3 alone among AWS's services wants it so."""
    if not _SAFE_PATH.fullmatch(path):
        path = quote(unquote_to_bytes(path), safe="/~")
    query_text = "&".join(sorted(f"{quote(n, safe='~')}={quote(v, safe='~')}" for n, v in query))
    header_text = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed_headers)
    return f"{method}\n{path}\n{query_text}\n{header_text}\n{';'.join(signed_headers)}\n{content_sha256}"


def string_to_sign(time_text: str, scope: str, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode("latin-1", "surrogateescape")).hexdigest()
    return f"{ALGORITHM}\n{time_text}\n{scope}\n{digest}"


@lru_cache(maxsize=64)
def signing_key(secret: Secret, date: str, region: str) -> bytes:
    """The key of one day, region and service."""
    key = b"AWS4" + secret.reveal()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _read_claim(request: Request, query: tuple[tuple[str, str], ...]) -> _Claim | None:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        return _read_header(request.headers, authorization, query)
    asked = dict(query)
    if "X-Amz-Algorithm" in asked or "X-Amz-Signature" in asked:
        return _read_presigned(asked, query)
    return None


def _read_header(
    headers: Mapping[str, str], authorization: str, query: tuple[tuple[str, str], ...]
) -> _Claim:
    found = _AUTHORIZATION.fullmatch(authorization)
    if found is None:
        raise S3Error("AuthorizationHeaderMalformed")
    content_sha256 = headers.get("x-amz-content-sha256")
    if content_sha256 is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    signed_headers = tuple(found[4].split(";"))
    if "host" not in signed_headers:
        raise S3Error("AuthorizationHeaderMalformed", "The Host header must be signed.")
    return _Claim(
        found[1], found[2], found[3], headers.get("x-amz-date", ""), signed_headers, found[5],
        headers.get("x-amz-security-token"), content_sha256, query,
    )  # fmt: skip


def _read_presigned(asked: Mapping[str, str], query: tuple[tuple[str, str], ...]) -> _Claim:
    found = _PRESIGNED_CREDENTIAL.fullmatch(asked.get("X-Amz-Credential", ""))
    expires = asked.get("X-Amz-Expires", "")
    signed_headers = tuple(asked.get("X-Amz-SignedHeaders", "").split(";"))
    if (
        asked.get("X-Amz-Algorithm") != ALGORITHM
        or found is None
        or not (expires.isascii() and expires.isdigit() and 0 < int(expires[:9]) <= _EXPIRES_SECONDS_MAX)
        or "host" not in signed_headers
    ):
        raise S3Error("AuthorizationHeaderMalformed", "The query's signature is malformed.")
    return _Claim(
        found[1], found[2], found[3], asked.get("X-Amz-Date", ""), signed_headers,
        asked.get("X-Amz-Signature", ""), asked.get("X-Amz-Security-Token"), UNSIGNED,
        tuple(pair for pair in query if pair[0] != "X-Amz-Signature"), int(expires),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _check_time(claim: _Claim, now: datetime) -> None:
    signed_at = _parse_time(claim.time_text)
    if signed_at is None:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    if claim.time_text[:8] != claim.date:
        raise S3Error(
            "AuthorizationHeaderMalformed", "The date of the credential is not that of the request."
        )
    if claim.expires_seconds is not None:
        if now > signed_at + timedelta(seconds=claim.expires_seconds):
            raise S3Error("AccessDenied", "Request has expired")
        if signed_at > now + _SKEW_MAX:
            raise S3Error("RequestTimeTooSkewed")
    elif abs(now - signed_at) > _SKEW_MAX:
        raise S3Error("RequestTimeTooSkewed", fields={"RequestTime": claim.time_text})
