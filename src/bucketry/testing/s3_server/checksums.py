"""What a body hashes to: Content-MD5, the x-amz-checksum headers, ETags."""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping
from itertools import count
from typing import Literal

import google_crc32c

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server.errors import S3Error

PREFIX = "x-amz-checksum-"
#: ``md5``: as S3 without encryption by KMS. ``fast``: a number per write, as from a store whose ETags are not
#: hashes; then MD5 is not computed at all.
EtagKind = Literal["md5", "fast"]


def _sha1(data: BytesLike) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _sha256(data: BytesLike) -> bytes:
    return hashlib.sha256(data).digest()


def _crc32(data: BytesLike) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def _crc32c(data: BytesLike) -> bytes:
    # The library takes bytes only.
    return int(google_crc32c.value(bytes(data))).to_bytes(4, "big")


ALGORITHMS: Mapping[str, Callable[[BytesLike], bytes]] = {
    "crc32": _crc32,
    "crc32c": _crc32c,
    "sha1": _sha1,
    "sha256": _sha256,
}
#: Headers that begin like a checksum and are none.
_OTHERS = frozenset({"algorithm", "mode", "type"})


def md5(data: BytesLike) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def check_content_md5(value: str | None, body: BytesLike) -> bytes | None:
    """Returns the MD5 when there was one to verify. Raises S3Error."""
    if value is None:
        return None
    expected = _decode(value, 16)
    if expected is None:
        raise S3Error("InvalidDigest")
    actual = md5(body)
    if actual != expected:
        raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
    return actual


def check_checksums(headers: Mapping[str, str], body: BytesLike) -> dict[str, str]:
    """The checksums that came with a body, verified: algorithm → base64. Raises S3Error."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        if not name.startswith(PREFIX) or name[len(PREFIX) :] in _OTHERS:
            continue
        algorithm = name[len(PREFIX) :]
        compute = ALGORITHMS.get(algorithm)
        if compute is None:
            raise S3Error("NotImplemented", f"Checksums by {algorithm} are not implemented.")
        actual = compute(body)
        expected = _decode(value, len(actual))
        if expected is None:
            raise S3Error("InvalidRequest", f"Value for {name} header is invalid.")
        if expected != actual:
            raise S3Error(
                "BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum."
            )
        found[algorithm] = value
    if len(found) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header.")
    return found


def encode(algorithm: str, body: BytesLike) -> str:
    """The checksum as S3 gives it."""
    return base64.b64encode(ALGORITHMS[algorithm](body)).decode()


class Etags:
    """Makes ETags, with the quotes that belong to them."""

    def __init__(self, kind: EtagKind) -> None:
        self._kind = kind
        self._numbers = count(1)

    def of_object(self, body: BytesLike, known_md5: bytes | None = None) -> str:
        if self._kind == "md5":
            return f'"{(known_md5 or md5(body)).hex()}"'
        return f'"{next(self._numbers):032x}"'

    def of_parts(self, etags: list[str]) -> str:
        """S3's rule: the MD5 of the parts' MD5s, and how many there are."""
        joined = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
        digest = md5(joined).hex() if self._kind == "md5" else f"{next(self._numbers):032x}"
        return f'"{digest}-{len(etags)}"'


def _decode(value: str, size: int) -> bytes | None:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if len(decoded) == size else None
