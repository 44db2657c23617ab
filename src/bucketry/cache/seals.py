"""How a cached block is kept so that nothing else can be taken for it: with a checksum, or encrypted."""

import os
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


def _context(block: int, tag: str) -> bytes:
    return f"{block} {tag}".encode()
