"""A bucket whose objects are encrypted and authenticated before they leave this machine, and readable by
ranges.

Whoever stands above sees a bucket of plain objects; below there is this (docs/format.md, "Sealed files")::

    body        chunk 0 | chunk 1 | … | last chunk    each a nonce, 64 KiB of plain bytes and a tag; the last
                                                      chunk is shorter, and empty where nothing is left
    metadata    bucketry-sealed: 1-<salt>             the checksums of files are sealed, too

Every chunk is AES-256-GCM under a key of its object's own (derived from the secret key and the salt) and a
nonce of its own, bound to its number, to the object's name and to whether it is the last one: chunks cannot
be changed, exchanged, moved to another object or cut off unseen. Nonces are drawn, not counted: a part of an
upload that is put again with other bytes must not meet an old one. What others see is how many objects there
are, their names and sizes, when they change, and metadata other than the checksums.

An older version of a whole object put back under its name is not seen; files are written once, and have none.

Its place is above the retries: what is sent again is the same ciphertext. An upload in parts can be continued
only by the bucket that began it, since nobody else knows its salt: for others it is gone.
"""

import base64
import binascii
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    ByteRange,
    BytesLike,
    Condition,
    Entry,
    IfMatch,
    Object,
    ObjectInfo,
    Part,
    PartPages,
    UploadLimits,
)
from bucketry.bucket.keys import check_key
from bucketry.bucket.parts import check_part, check_part_size, check_parts
from bucketry.bucket.wrapper import BucketWrapper, close_pages
from bucketry.codec.offload import Offload, inline
from bucketry.core.pieces import PIECES_METADATA
from bucketry.core.priority import Priority
from bucketry.errors import Closed, Corrupt, Invalid, UploadGone
from bucketry.settings import FILES_KEY_BYTES, Secret

_T = TypeVar("_T")

#: The entry of the metadata that says how an object is sealed.
SEALED_METADATA = "bucketry-sealed"
_VERSION = "1"
_ETAG_MARK = "sealed "
_SALT_BYTES = 16
#: What one range reads at least; nonces and tags cost 0.04 % of space.
CHUNK_BYTES = 64 << 10
_NONCE_BYTES = 12
_TAG_BYTES = 16
_MORE_BYTES = _NONCE_BYTES + _TAG_BYTES
_SEALED_CHUNK_BYTES = CHUNK_BYTES + _MORE_BYTES
#: More at once than this leaves the event loop: a fifth of a millisecond.
_INLINE_BYTES = 1 << 20


def sealed_size(size_bytes: int) -> int:
    """How long an object of so many plain bytes is in the store."""
    return size_bytes + _MORE_BYTES * (size_bytes // CHUNK_BYTES + 1)


def plain_size(size_bytes: int) -> int | None:
    """How many plain bytes an object has that is so long in the store; None when no sealed object is."""
    rest_bytes = size_bytes % _SEALED_CHUNK_BYTES
    if rest_bytes < _MORE_BYTES:
        return None
    return size_bytes // _SEALED_CHUNK_BYTES * CHUNK_BYTES + rest_bytes - _MORE_BYTES


class _Sealer:
    """Seals and opens the chunks of one object."""

    def __init__(self, secret: Secret, salt: bytes, key: str) -> None:
        derived = HKDF(SHA256(), FILES_KEY_BYTES, salt, b"bucketry sealed object 1").derive(secret.reveal())
        self._cipher = AESGCM(derived)
        self._name = key.encode()

    def seal(self, data: BytesLike, first_index: int, *, has_end: bool) -> bytes:
        """``data`` from a chunk's begin on. ``has_end``: the object ends with it, and so does its last
        chunk."""
        view = memoryview(data)
        count = len(view) // CHUNK_BYTES + 1 if has_end else -(-len(view) // CHUNK_BYTES)
        nonces = memoryview(os.urandom(_NONCE_BYTES * count))
        sealed: list[BytesLike] = []
        for number in range(count):
            nonce = nonces[number * _NONCE_BYTES : (number + 1) * _NONCE_BYTES]
            chunk = view[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            bound = self._bound(first_index + number, is_last=has_end and number == count - 1)
            sealed += (nonce, self._cipher.encrypt(nonce, chunk, bound))
        return b"".join(sealed)

    def open(self, data: BytesLike, first_index: int, last_index: int) -> bytes:
        """Plain bytes of whole sealed chunks; ``last_index`` is that of the object's last one. Raises
        InvalidTag."""
        view = memoryview(data)
        opened = []
        for offset in range(0, len(view), _SEALED_CHUNK_BYTES):
            index = first_index + offset // _SEALED_CHUNK_BYTES
            chunk = view[offset : offset + _SEALED_CHUNK_BYTES]
            if len(chunk) < _MORE_BYTES:
                raise InvalidTag
            bound = self._bound(index, is_last=index == last_index)
            opened.append(self._cipher.decrypt(chunk[:_NONCE_BYTES], chunk[_NONCE_BYTES:], bound))
        return b"".join(opened)

    def seal_text(self, text: bytes) -> str:
        """What goes into the metadata."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text, self._bound(None))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open_text(self, text: str) -> bytes:
        """Raises InvalidTag, ValueError."""
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if len(sealed) < _MORE_BYTES:
            raise InvalidTag
        return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._bound(None))

    def _bound(self, index: int | None, *, is_last: bool = False) -> bytes:
        """What a chunk (None: the metadata) is bound to."""
        place = b"metadata" if index is None else index.to_bytes(8, "big")
        return (b"last\0" if is_last else b"more\0") + place + self._name


@dataclass(slots=True)
class _Upload:
    key: str
    sealer: _Sealer
    part_size_bytes: int
    #: By number: as they are above, and as they are below.
    parts: dict[int, tuple[Part, Part]] = field(default_factory=dict)


class SealedBucket(BucketWrapper):
    """A Bucket over ``below``; ``secret`` is 32 random bytes. ``offload`` runs work on much data. Objects
    that are not sealed, or with another key, are Corrupt."""

    def __init__(self, below: Bucket, secret: Secret, *, offload: Offload = inline) -> None:
        super().__init__(below)
        if len(secret.reveal()) != FILES_KEY_BYTES:
            raise Invalid(f"an encryption key has {FILES_KEY_BYTES} bytes, this one {len(secret.reveal())}")
        self._secret = secret
        self._offload = offload
        self._uploads: dict[str, _Upload] = {}
        self._is_closed = False
        self._limits = _plain_limits(below.upload_limits)

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        return self._opened(await self._below.head(key, priority=priority))[0]

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        if byte_range is None:
            found = await self._below.get(key, priority=priority)
            return await self._plain(found, 0, None)
        start, end = byte_range.start, byte_range.end
        if not 0 <= start <= end:
            raise Invalid(f"{byte_range} is not a range of bytes")
        first_index = start // CHUNK_BYTES
        chunks_end = -(-end // CHUNK_BYTES) if end > start else first_index
        sealed_range = ByteRange(first_index * _SEALED_CHUNK_BYTES, chunks_end * _SEALED_CHUNK_BYTES)
        found = await self._below.get(key, byte_range=sealed_range, priority=priority)
        return await self._plain(found, first_index, byte_range)

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        sealer, sealed_attributes = self._seal_attributes(key, attributes)
        sealed = await self._run(len(data), lambda: sealer.seal(data, 0, has_end=True))
        return _above(
            await self._below.put(
                key, sealed, attributes=sealed_attributes, condition=_below(condition), priority=priority
            )
        )

    async def list(
        self, *, prefix: str = "", after: str = "", priority: Priority = Priority.BACKGROUND
    ) -> AsyncIterator[list[Entry]]:
        pages = self._below.list(prefix=prefix, after=after, priority=priority)
        try:
            async for page in pages:
                yield [_plain_entry(entry) for entry in page]
        finally:
            await close_pages(pages)

    @property
    def upload_limits(self) -> UploadLimits:
        return self._limits

    async def create_upload(
        self,
        key: str,
        *,
        part_size_bytes: int,
        attributes: Attributes = NO_ATTRIBUTES,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        check_part_size(self._limits, part_size_bytes)
        if part_size_bytes % CHUNK_BYTES:
            raise Invalid(f"parts of {part_size_bytes} bytes: sealed ones are multiples of {CHUNK_BYTES}")
        sealer, sealed_attributes = self._seal_attributes(key, attributes)
        upload_id = await self._below.create_upload(
            key,
            part_size_bytes=_sealed_part_size(part_size_bytes),
            attributes=sealed_attributes,
            priority=priority,
        )
        self._uploads[upload_id] = _Upload(key, sealer, part_size_bytes)
        return upload_id

    async def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        data: BytesLike,
        *,
        priority: Priority = Priority.UPLOAD,
    ) -> Part:
        upload = self._upload(key, upload_id)
        check_part(self._limits, number, len(data))
        if len(data) > upload.part_size_bytes:
            raise Invalid(f"part {number} of object {key} is larger than the upload's parts")
        first_index = (number - 1) * upload.part_size_bytes // CHUNK_BYTES
        # A part as long as all others may be the last one or not: then its end comes with the completion.
        has_end = len(data) < upload.part_size_bytes
        sealed = await self._run(len(data), lambda: upload.sealer.seal(data, first_index, has_end=has_end))
        below = await self._below.put_part(key, upload_id, number, sealed, priority=priority)
        part = Part(number, len(data), below.tag, int(google_crc32c.value(bytes(data))))
        upload.parts[number] = part, below
        return part

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        upload = self._upload(key, upload_id)
        check_parts(parts)
        sealed_parts = []
        for part in parts:
            known = upload.parts.get(part.number)
            if known is None or known[0].tag != part.tag:
                raise Invalid(f"{self.url}: object {key}: part {part.number} is not the one that was put")
            sealed_parts.append(known[1])
        if parts[-1].size_bytes == upload.part_size_bytes:
            last_index = len(parts) * upload.part_size_bytes // CHUNK_BYTES
            end = upload.sealer.seal(b"", last_index, has_end=True)
            sealed_parts.append(
                await self._below.put_part(key, upload_id, len(parts) + 1, end, priority=priority)
            )
        etag = await self._below.complete_upload(
            key, upload_id, sealed_parts, condition=_below(condition), priority=priority
        )
        self._uploads.pop(upload_id, None)
        return _above(etag)

    async def abort_upload(
        self, key: str, upload_id: str, *, priority: Priority = Priority.BACKGROUND
    ) -> None:
        await self._below.abort_upload(key, upload_id, priority=priority)
        self._uploads.pop(upload_id, None)

    async def list_parts(
        self, key: str, upload_id: str, *, priority: Priority = Priority.UPLOAD
    ) -> PartPages:
        upload = self._upload(key, upload_id)
        pages = self._below.list_parts(key, upload_id, priority=priority)
        try:
            async for page in pages:
                known = (upload.parts.get(part.number) for part in page)
                yield [
                    mine[0]
                    for mine, part in zip(known, page, strict=True)
                    if mine is not None and mine[1].tag == part.tag
                ]
        finally:
            await close_pages(pages)

    async def close(self) -> None:
        self._is_closed = True
        await super().close()

    def _upload(self, key: str, upload_id: str) -> _Upload:
        check_key(key)
        if self._is_closed:
            raise Closed(f"{self.url} is closed")
        upload = self._uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise UploadGone(
                f"{self.url}: object {key}: its upload in parts has ended, or was begun elsewhere"
            )
        return upload

    async def _run(self, size_bytes: int, work: Callable[[], _T]) -> _T:
        return work() if size_bytes <= _INLINE_BYTES else await self._offload(work)

    def _seal_attributes(self, key: str, attributes: Attributes) -> tuple[_Sealer, Attributes]:
        """A sealer for a new object, and the attributes that it is put with."""
        check_key(key)
        salt = os.urandom(_SALT_BYTES)
        sealer = _Sealer(self._secret, salt, key)
        encoded = base64.urlsafe_b64encode(salt).rstrip(b"=").decode()
        metadata = {**attributes.metadata, SEALED_METADATA: f"{_VERSION}-{encoded}"}
        if PIECES_METADATA in metadata:
            metadata[PIECES_METADATA] = sealer.seal_text(_pack(metadata[PIECES_METADATA]))
        return sealer, replace(attributes, metadata=metadata)

    def _opened(self, info: ObjectInfo) -> tuple[ObjectInfo, _Sealer]:
        """The plain info of a sealed object, and what opens it. Raises Corrupt."""
        metadata = dict(info.attributes.metadata)
        version, _, encoded = metadata.pop(SEALED_METADATA, "").partition("-")
        size_bytes = plain_size(info.size_bytes)
        if not version:
            raise Corrupt(f"{self.url}: object {info.key} is not sealed, and a key was given")
        if version != _VERSION or size_bytes is None:
            raise Corrupt(f"{self.url}: object {info.key} is not sealed in a way that is known here")
        try:
            salt = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            sealer = _Sealer(self._secret, salt, info.key)
            if PIECES_METADATA in metadata:
                metadata[PIECES_METADATA] = _unpack(sealer.open_text(metadata[PIECES_METADATA]))
        except (InvalidTag, ValueError):
            raise self._does_not_open(info.key) from None
        attributes = replace(info.attributes, metadata=metadata)
        etag = _above(info.etag)
        return replace(info, size_bytes=size_bytes, etag=etag, attributes=attributes), sealer

    async def _plain(self, found: Object, first_index: int, byte_range: ByteRange | None) -> Object:
        info, sealer = self._opened(found.info)
        last_index = found.info.size_bytes // _SEALED_CHUNK_BYTES
        try:
            data = await self._run(len(found.data), lambda: sealer.open(found.data, first_index, last_index))
        except InvalidTag:
            raise self._does_not_open(info.key) from None
        if byte_range is None:
            return Object(info, data)
        start = byte_range.start - first_index * CHUNK_BYTES
        return Object(info, memoryview(data)[start : start + byte_range.end - byte_range.start])

    def _does_not_open(self, key: str) -> Corrupt:
        return Corrupt(f"{self.url}: object {key} does not open: it is damaged, or sealed with another key")


def _pack(text: str) -> bytes:
    """The text of pieces in fewer bytes: without its base64. Other texts as they are."""
    try:
        head, body = text[:5], base64.urlsafe_b64decode(text[5:] + "=" * (-len(text[5:]) % 4))
        packed = b"p" + head.encode() + body
    except (ValueError, binascii.Error):
        packed = b""
    return packed if packed and _unpack(packed) == text else b"t" + text.encode()


def _unpack(packed: bytes) -> str:
    """Raises ValueError."""
    if packed[:1] == b"t":
        return packed[1:].decode()
    return packed[1:6].decode() + base64.urlsafe_b64encode(packed[6:]).rstrip(b"=").decode()


def _plain_entry(entry: Entry) -> Entry:
    """What is not sealed keeps its size: a listing opens nothing."""
    size_bytes = plain_size(entry.size_bytes)
    etag = None if entry.etag is None else _above(entry.etag)
    return replace(entry, size_bytes=entry.size_bytes if size_bytes is None else size_bytes, etag=etag)


def _above(etag: str) -> str:
    """Another ETag than the store's: who keeps what he has read must not take sealed bytes for plain ones,
    should somebody read the object without the key."""
    return f"{_ETAG_MARK}{etag}"


def _below(condition: Condition) -> Condition:
    if isinstance(condition, IfMatch):
        return IfMatch(condition.etag.removeprefix(_ETAG_MARK))
    return condition


def _sealed_part_size(part_size_bytes: int) -> int:
    return part_size_bytes // CHUNK_BYTES * _SEALED_CHUNK_BYTES


def _plain_limits(below: UploadLimits) -> UploadLimits:
    """What fits when it is sealed. One part is kept for the end."""
    return replace(
        below,
        put_size_max_bytes=below.put_size_max_bytes // _SEALED_CHUNK_BYTES * CHUNK_BYTES,
        parts_max=max(0, below.parts_max - 1),
        part_size_min_bytes=-(-below.part_size_min_bytes // CHUNK_BYTES) * CHUNK_BYTES,
        part_size_max_bytes=below.part_size_max_bytes // _SEALED_CHUNK_BYTES * CHUNK_BYTES,
    )
