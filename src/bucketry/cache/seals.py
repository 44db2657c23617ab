"""How a cached block, or a record of the journal, is kept so that nothing else can be taken for it: with a
checksum, or encrypted."""

import hmac
import os
from collections.abc import Callable
from typing import Protocol

import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bucketry.core.bytes_like import BytesLike

_NONCE_BYTES = 12
_GCM_TAG_BYTES = 16


class Seal(Protocol):
    """Turns blocks into what is kept of them, of the same length, and a check, and back."""

    @property
    def name(self) -> str:
        """For the index: what one seal closed another does not open."""
        ...

    def close(self, block: int, tag: str, data: bytes) -> tuple[BytesLike, bytes]: ...

    def open(self, block: int, tag: str, kept: bytes, check: bytes) -> bytes | None:
        """The block; None when this is not what was kept of it."""
        ...


class Plain:
    """As it is, with a crc32c of block, tag and content: against damage and mistakes, not against malice."""

    name = "crc32c of block, tag and content"

    def close(self, block: int, tag: str, data: bytes) -> tuple[BytesLike, bytes]:
        return data, _crc32c(block, tag, data)

    def open(self, block: int, tag: str, kept: bytes, check: bytes) -> bytes | None:
        return kept if _crc32c(block, tag, kept) == check else None


class Encrypted:
    """AES-256-GCM, which binds the content to its block and tag. ``key`` is 32 bytes, of this purpose alone.

    Nonces are random: 2^32 blocks written under one key, half a petabyte of 128 KiB blocks, make a
    repetition as likely as one in 2^32.
    """

    name = "AES-256-GCM"

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, block: int, tag: str, data: bytes) -> tuple[BytesLike, bytes]:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = memoryview(self._cipher.encrypt(nonce, data, _context(block, tag)))
        return sealed[:-_GCM_TAG_BYTES], nonce + bytes(sealed[-_GCM_TAG_BYTES:])

    def open(self, block: int, tag: str, kept: bytes, check: bytes) -> bytes | None:
        nonce, gcm_tag = check[:_NONCE_BYTES], check[_NONCE_BYTES:]
        if len(check) != _NONCE_BYTES + _GCM_TAG_BYTES:
            return None
        try:
            return self._cipher.decrypt(nonce, kept + gcm_tag, _context(block, tag))
        except InvalidTag:
            return None


def _crc32c(block: int, tag: str, data: bytes) -> bytes:
    return int(google_crc32c.extend(google_crc32c.value(_context(block, tag)), data)).to_bytes(4, "big")


class RecordSeal:
    """Seals the records of a journal: AES-256-GCM, which binds the data to the record's header.

    ``key`` is 32 bytes, of this purpose alone; the key that is used comes from it and from the ``salt`` of
    the journal's head. Nonces are random and kept with the data: numbers of records come again after a
    crash, after a commit that failed, and in a copy of the directory. Of 2^32 records under one salt, two
    have the same nonce with a likelihood of 2^-33.
    """

    def __init__(self, key: bytes, salt: bytes, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._cipher = AESGCM(hmac.digest(key, salt, "sha256"))
        self._random_bytes = random_bytes

    def close(self, context: bytes, data: BytesLike) -> bytes:
        """What is kept of the data: SEAL_BYTES more."""
        nonce = self._random_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, context)

    def open(self, context: bytes, kept: BytesLike) -> bytes | None:
        """The data; None when it was sealed by another key, for another record, or is damaged."""
        if len(kept) < _NONCE_BYTES + _GCM_TAG_BYTES:
            return None
        view = memoryview(kept)
        try:
            return self._cipher.decrypt(bytes(view[:_NONCE_BYTES]), view[_NONCE_BYTES:], context)
        except InvalidTag:
            return None


def _context(block: int, tag: str) -> bytes:
    return f"{block} {tag}".encode()
