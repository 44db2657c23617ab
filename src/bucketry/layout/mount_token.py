"""s3backer's mount token: the object that says that somebody has a volume mounted for writing.

It is a courtesy, not a lock: s3backer looks, and then puts it unconditionally. Among ourselves only one of
two can put it.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from bucketry.bucket.interface import Attributes, Bucket, ByteRange
from bucketry.core.names import MOUNT_TOKEN_NAME
from bucketry.errors import AlreadyExists, BucketNotFound, Busy, NotFound
from bucketry.layout.put_new import put_new

METADATA_NAME = "s3backer-mount-token"
CONTENT_TYPE = "text/plain"
#: The token of volumes that several s3backers share, none of them caching anything.
SHARED = 0x7FFFFFFF
#: What an object without the metadata stands for: old versions wrote only the object.
UNNUMBERED = 1
#: A host name and a time are far shorter; a longer body is not s3backer's.
_BODY_MAX = 4096
_VALUE = re.compile(r'"?([0-9a-f]{1,8})"?', re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MountToken:
    """``value`` identifies a mount; ``host`` and ``since`` are what its owner wrote beside it, if
    anything."""

    value: int
    host: str | None
    since: str | None

    def __str__(self) -> str:
        if self.value == SHARED:
            return "s3backer hosts in shared disk mode"
        return f"{self.host or 'an unknown host'} since {self.since or 'an unknown time'}"


def new_value() -> int:
    """A random token, neither 0 nor SHARED."""
    return secrets.randbelow(SHARED - 1) + 1


async def read_token(bucket: Bucket, prefix: str) -> MountToken | None:
    """The token of the volume under ``prefix``; None when nobody has it mounted for writing."""
    key = prefix + MOUNT_TOKEN_NAME
    try:
        # One request, and no more bytes than a token can have, whatever lies there.
        found = await bucket.get(key, byte_range=ByteRange(0, _BODY_MAX))
    except BucketNotFound:
        raise
    except NotFound:
        return None
    info = found.info
    body = found.data if info.size_bytes <= _BODY_MAX else b""
    match = _VALUE.fullmatch(info.attributes.metadata.get(METADATA_NAME, ""))
    value = (int(match[1], 16) if match else 0) or UNNUMBERED
    lines = bytes(body).decode(errors="replace").splitlines()
    host, since = (_printable(line) for line in [*lines, "", ""][:2])
    return MountToken(value, host, since)


def _printable(text: str) -> str | None:
    """What of a line from outside may go into a message."""
    return "".join(character for character in text if character.isprintable())[:64] or None


async def check_not_mounted(bucket: Bucket, prefix: str) -> None:
    """Raises Busy, naming who, when somebody has the volume mounted for writing."""
    token = await read_token(bucket, prefix)
    if token is not None:
        raise busy(bucket, prefix, token)


def busy(bucket: Bucket, prefix: str, token: MountToken) -> Busy:
    return Busy(
        f"{bucket.url}/{prefix}: in use by {token}; if that is over, "
        "unlock the volume (bucketry unlock) or use --force"
    )


async def take_token(
    bucket: Bucket, prefix: str, value: int, *, host: str, now: datetime, force: bool = False
) -> None:
    """Say that the volume is mounted here. ``now`` is UTC. Raises Busy when somebody else has said so; with
    ``force`` his token is replaced."""
    assert 0 < value < SHARED
    if not force:
        await check_not_mounted(bucket, prefix)
    await put_token(bucket, prefix, value, host=host, now=now, replace=force)


async def put_token(
    bucket: Bucket, prefix: str, value: int, *, host: str, now: datetime, replace: bool
) -> None:
    """As ``take_token``, for who has just looked. A store that does not know conditions may pass over them:
    then that look is all there is, as in s3backer."""
    body = f"{host}\n{now:%Y%m%dT%H%M%SZ}\n".encode()
    attributes = Attributes(content_type=CONTENT_TYPE, metadata={METADATA_NAME: f"{value:08x}"})
    try:
        await put_new(bucket, prefix + MOUNT_TOKEN_NAME, body, attributes, replace=replace)
    except AlreadyExists:
        token = await read_token(bucket, prefix)
        raise busy(bucket, prefix, token or MountToken(UNNUMBERED, None, None)) from None


async def release_token(bucket: Bucket, prefix: str, value: int) -> None:
    """Take our token away, after the last write. Somebody else's, who forced his way in, stays."""
    token = await read_token(bucket, prefix)
    if token is not None and token.value == value:
        await clear_token(bucket, prefix)


async def clear_token(bucket: Bucket, prefix: str) -> None:
    """Take away whatever token there is."""
    await bucket.delete(prefix + MOUNT_TOKEN_NAME)
