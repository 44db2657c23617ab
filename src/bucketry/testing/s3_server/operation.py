"""What every operation is given, and what all of them need to read from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server.checksums import PREFIX, Etags
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Answer
from bucketry.testing.s3_server.routing import Call
from bucketry.testing.s3_server.store import UNCONDITIONAL, Condition, Store

#: Of 1,000 keys, parts or uploads at most, whatever is asked.
PAGE_MAX = 1000


@dataclass(slots=True)
class Turn:
    """One call and what it works on. ``body`` is decoded, and hashes to what the client signed."""

    call: Call
    body: BytesLike
    trailers: Mapping[str, str]
    store: Store
    etags: Etags
    now: float
    region: str
    part_bytes_min: int

    @property
    def checksum_headers(self) -> Mapping[str, str]:
        """Headers and trailers: a checksum comes in either."""
        return {**self.call.headers, **self.trailers} if self.trailers else self.call.headers

    @property
    def condition(self) -> Condition:
        """That of a write. Raises S3Error for one that S3 does not know."""
        headers = self.call.headers
        if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
        if if_match is None and if_none_match is None:
            return UNCONDITIONAL
        if if_none_match not in (None, "*") or if_match == "*" or (if_match and if_none_match):
            raise S3Error("NotImplemented")
        return Condition(if_match, if_none_match is not None)

    def page_size(self, name: str) -> int:
        """The number that ``max-keys`` and its like ask for, at most 1000. Raises S3Error."""
        text = self.call.query.get(name, "")
        if not text:
            return PAGE_MAX
        # S3 keeps it in 32 bits.
        if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) >= 1 << 31:
            raise S3Error(
                "InvalidArgument",
                f"Provided {name} not an integer or within integer range",
                fields={"ArgumentName": name, "ArgumentValue": text},
            )
        return min(int(text), PAGE_MAX)


Operation: TypeAlias = Callable[[Turn], Answer]


def checksum_headers(checksums: Mapping[str, str]) -> dict[str, str]:
    """As they go into an answer."""
    if not checksums:
        return {}
    return {**{f"{PREFIX}{name}": value for name, value in checksums.items()}, f"{PREFIX}type": "FULL_OBJECT"}
