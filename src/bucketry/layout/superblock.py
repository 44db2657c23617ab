"""The superblock: a small JSON object that says what a volume is.

s3backer keeps a volume's geometry on block 0 and loses it whenever that block is zero. Ours is an object of
its own, under a name that s3backer passes over; s3backer volumes have none and do without. docs/format.md
lists its fields.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import google_crc32c

from bucketry.bucket.interface import Attributes, Bucket, ByteRange
from bucketry.codec.pipeline import CRC32C_NAME, check_crc32c
from bucketry.core.geometry import Geometry
from bucketry.core.names import SUPERBLOCK_NAME
from bucketry.errors import BucketNotFound, Corrupt, Invalid, NotFound, Unsupported
from bucketry.layout.put_new import put_new
from bucketry.layout.put_over import put_over
from bucketry.settings import CIPHER_KEY_BYTES, VolumeFormat

T = TypeVar("T")

FORMAT = "bucketry-volume"
VERSION = 1
LAYOUT = "s3backer"
#: Twenty times what we write. Whatever is longer is not ours, and not worth the memory.
SIZE_MAX = 16 << 10
CONTENT_TYPE = "application/json"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_VOLUME_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_CHECK = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What a volume says of itself. ``salt`` and ``password_check`` are None exactly when it is not
    encrypted.

    ``volume_id`` is 32 hexadecimal digits, ``created`` a UTC time like ``2026-11-21T19:38:00Z``,
    ``created_by`` the program and its version.
    """

    volume_id: str
    format: VolumeFormat
    salt: str | None
    password_check: str | None
    created: str
    created_by: str
    #: A resize has begun and not ended: block 0 may still say this size.
    resized_from_bytes: int | None = None

    def __post_init__(self) -> None:
        if not _VOLUME_ID.fullmatch(self.volume_id):
            raise Invalid(f"volume id {self.volume_id!r} is not 32 hexadecimal digits")
        if not _TIME.fullmatch(self.created):
            raise Invalid(f"time {self.created!r} is not like 2026-11-21T19:38:00Z")
        if self.password_check is not None and not _CHECK.fullmatch(self.password_check):
            raise Invalid("the password check is not 40 hexadecimal digits")
        Geometry(self.format.size_bytes, self.format.block_size_bytes)
        if self.resized_from_bytes is not None:
            Geometry(self.resized_from_bytes, self.format.block_size_bytes)

    @property
    def resized_from(self) -> Geometry | None:
        """What block 0 may say instead of the geometry, if anything."""
        if self.resized_from_bytes is None:
            return None
        return Geometry(self.resized_from_bytes, self.format.block_size_bytes)


def encode(superblock: Superblock) -> bytes:
    """The superblock as it is stored."""
    volume = superblock.format
    encryption = None
    if volume.cipher is not None:
        encryption = {
            "cipher": volume.cipher,
            "key_length": volume.key_length or CIPHER_KEY_BYTES[volume.cipher],
            "salt": superblock.salt,
            "password_check": superblock.password_check,
        }
    fields: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "requires": [],
        "layout": LAYOUT,
        "volume_id": superblock.volume_id,
        "size_bytes": volume.size_bytes,
        "block_size_bytes": volume.block_size_bytes,
        "block_hash_prefix": volume.block_hash_prefix,
        "compression": volume.compression,
        "compression_level": volume.compression_level,
        "encryption": encryption,
        "created": superblock.created,
        "created_by": superblock.created_by,
    }
    if superblock.resized_from_bytes is not None:
        fields["resized_from_bytes"] = superblock.resized_from_bytes
    return json.dumps(fields, indent=2).encode() + b"\n"


def decode(body: bytes) -> Superblock:
    """Raises Unsupported when it needs a newer program, Corrupt when it is not a superblock or is damaged."""
    fields = _Fields(_parse(body), "")
    found_format = fields.text("format")
    if found_format != FORMAT:
        raise Corrupt(f"its format is {_short(found_format)}, not {FORMAT!r}")
    # Who wrote it is the one thing worth knowing of a version that we do not understand.
    writer = fields.text("created_by")
    version = fields.number("version")
    if version != VERSION:
        raise Unsupported(
            f"format version {version}, written by {_short(writer)}; this program knows version {VERSION}"
        )
    features = fields.get("requires", list)
    if features:
        raise Unsupported(
            f"it requires {_short(features)}, written by {_short(writer)}; this program is too old for that"
        )
    layout = fields.text("layout")
    if layout != LAYOUT:
        raise Unsupported(
            f"layout {_short(layout)}, written by {_short(writer)}; this program knows {LAYOUT!r}"
        )
    encryption = fields.optional_fields("encryption")
    try:
        return Superblock(
            volume_id=fields.text("volume_id"),
            format=VolumeFormat(
                size_bytes=fields.number("size_bytes"),
                block_size_bytes=fields.number("block_size_bytes"),
                block_hash_prefix=fields.get("block_hash_prefix", bool),
                compression=fields.text("compression"),
                compression_level=fields.optional_number("compression_level"),
                cipher=encryption.text("cipher") if encryption else None,
                key_length=encryption.number("key_length") if encryption else None,
            ),
            salt=encryption.text("salt") if encryption else None,
            password_check=encryption.text("password_check") if encryption else None,
            created=fields.text("created"),
            created_by=writer,
            resized_from_bytes=fields.number_if_any("resized_from_bytes"),
        )
    except Invalid as error:
        raise Corrupt(str(error)) from error


@dataclass(frozen=True, slots=True)
class StoredSuperblock:
    """A superblock as it is stored. ``has_checksum``: it carries one, and that fits."""

    superblock: Superblock
    etag: str
    has_checksum: bool


async def read_superblock(bucket: Bucket, prefix: str, *, needs_checksum: bool = True) -> Superblock | None:
    """The superblock under ``prefix``, None where there is none. Raises as ``decode``, naming the object, and
    Corrupt when its checksum does not fit or, if it ``needs_checksum``, is missing."""
    found = await find_superblock(bucket, prefix)
    if found is None:
        return None
    if needs_checksum and not found.has_checksum:
        raise Corrupt(
            f"superblock {prefix}{SUPERBLOCK_NAME} in {bucket.url}: it carries no checksum, so another "
            "program has changed it. If it is right, bucketry check --repair gives it one; --force takes it "
            "as it is"
        )
    return found.superblock


async def find_superblock(bucket: Bucket, prefix: str) -> StoredSuperblock | None:
    """The same with what there is to know of its object; it needs no checksum."""
    try:
        return await _find(bucket, prefix)
    except Corrupt:
        return await _find(bucket, prefix)  # it may have been damaged on its way


async def _find(bucket: Bucket, prefix: str) -> StoredSuperblock | None:
    key = prefix + SUPERBLOCK_NAME
    try:
        found = await bucket.get(key, byte_range=ByteRange(0, SIZE_MAX + 1))
    except BucketNotFound:
        raise
    except NotFound:
        return None
    body, metadata = bytes(found.data), found.info.attributes.metadata
    try:
        if CRC32C_NAME in metadata and len(body) <= SIZE_MAX:
            check_crc32c(body, metadata[CRC32C_NAME])
        return StoredSuperblock(decode(body), found.info.etag, CRC32C_NAME in metadata)
    except (Corrupt, Unsupported) as error:
        raise type(error)(f"superblock {key} in {bucket.url}: {error}") from error


async def write_superblock(
    bucket: Bucket, prefix: str, superblock: Superblock, *, replace: bool = False
) -> None:
    """Raises AlreadyExists where one is, unless it is to be replaced."""
    body = encode(superblock)
    await put_new(bucket, prefix + SUPERBLOCK_NAME, body, _attributes(body), replace=replace)


async def rewrite_superblock(bucket: Bucket, prefix: str, superblock: Superblock, etag: str) -> str:
    """Put it in place of the one with this ETag; returns the new one. Raises PreconditionFailed when that has
    been changed."""
    body = encode(superblock)
    return await put_over(bucket, prefix + SUPERBLOCK_NAME, body, _attributes(body), etag)


def _attributes(body: bytes) -> Attributes:
    return Attributes(content_type=CONTENT_TYPE, metadata={CRC32C_NAME: f"{google_crc32c.value(body):08x}"})


def _parse(body: bytes) -> object:
    if len(body) > SIZE_MAX:
        raise Corrupt(f"it is longer than {SIZE_MAX} bytes")
    try:
        return json.loads(body)
    # Nesting deeper than the parser likes is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"it is not JSON: {error}") from error


def _short(value: object) -> str:
    """Something from outside, in a message: on one line, and not for long."""
    return repr(value)[:60]


class _Fields:
    """A JSON object whose fields are asked for by name and type. Raises Corrupt when one is missing or of
    another type."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, Mapping):
            raise Corrupt(f"{name or 'it'} is not a JSON object")
        self._value = value
        self._name = name

    def get(self, name: str, kind: type[T]) -> T:
        value = self._value.get(name)
        # Not isinstance: True is no number.
        if type(value) is not kind:
            raise Corrupt(f"its field {self._name}{name} is {_short(value)}, not of type {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        return self.get(name, str)

    def number(self, name: str) -> int:
        return self.get(name, int)

    def optional_number(self, name: str) -> int | None:
        return None if self._is_null(name) else self.number(name)

    def number_if_any(self, name: str) -> int | None:
        """Of a field that is rarely there."""
        return self.number(name) if name in self._value else None

    def optional_fields(self, name: str) -> "_Fields | None":
        return None if self._is_null(name) else _Fields(self._value[name], f"{name}.")

    def _is_null(self, name: str) -> bool:
        """A field may say that there is nothing, but not be missing: a damaged superblock is no plain
        volume."""
        if name not in self._value:
            raise Corrupt(f"its field {self._name}{name} is missing")
        return self._value[name] is None
