"""How a block becomes an object's body and back: compress, encrypt, authenticate, add a checksum.

``Content-Encoding`` lists what was done, in order: ``deflate``, ``zstd``, ``encrypt-AES-128-CBC``, or one of
the first two and the last with a comma and a blank between. Everything here is synchronous and pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import google_crc32c

from bucketry.codec.compression import Compressor, compressor, decompress
from bucketry.codec.encryption import BlockCipher
from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Corrupt

#: User metadata that s3backer wants with every encrypted block, its value in double quotes.
HMAC_NAME = "s3backer-hmac"
#: User metadata of ours: crc32c of the body as stored, eight lower-case hexadecimal digits.
CRC32C_NAME = "bucketry-crc32c"
#: User metadata of ours, with large blocks that are stored as they are: the crc32c of each of PIECES equal
#: parts of the body, in their order, as in CRC32C_NAME.
PIECES_NAME = "bucketry-crc32c-pieces"
#: 512 digits, a quarter of what S3 allows for all metadata of an object. A piece of 1 MiB is 16 KiB.
PIECES = 64
#: User metadata of ours: the block's number in eight hexadecimal digits, then a hyphen and the volume's id,
#: where it has one. It tells an object in another one's place, whose checksums are right.
PLACE_NAME = "bucketry-block"
#: s3backer keeps the header in 32 bytes and aborts when it does not fit.
CONTENT_ENCODING_MAX = 31
_ENCRYPT = "encrypt-"
_HMAC = re.compile(r'"?([0-9a-f]{40})"?', re.ASCII | re.IGNORECASE)
_CRC32C = re.compile(r"[0-9a-f]{8}", re.ASCII)
_PLACE = re.compile(r"([0-9a-f]{8})(?:-([0-9a-f]{32}))?", re.ASCII)
_PIECES = re.compile(rf"[0-9a-f]{{{8 * PIECES}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A block as it is stored."""

    body: bytes
    content_encoding: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Codings:
    """What a Content-Encoding says was done to a block: first ``compression``, then encryption with
    ``cipher``; names in lower and upper case."""

    compression: str | None
    cipher: str | None


def parse_content_encoding(text: str | None) -> Codings:
    """Raises Corrupt when it names anything but one compression, one encryption, or the one and then the
    other.

    Blanks and case do not matter. Whether we know the compression is seen when it is undone.
    """
    names = "".join((text or "").split()).split(",")
    if names == [""]:
        return Codings(None, None)
    cipher = None
    if names[-1].lower().startswith(_ENCRYPT):
        cipher = names.pop()[len(_ENCRYPT) :].upper()
    compression = names.pop().lower() if names else None
    if names or compression == "" or (compression or "").startswith(_ENCRYPT):
        raise Corrupt(f"content encoding {text!r} cannot be undone")
    return Codings(compression, cipher)


class BlockCodec:
    """Encodes and decodes the blocks of one volume.

    Writes with one compression (see ``compressor``) and reads any; encryption is the same for all blocks, or
    none.
    """

    def __init__(
        self,
        block_size_bytes: int,
        *,
        compression: str = "none",
        level: int | None = None,
        cipher: BlockCipher | None = None,
        has_pieces: bool = False,
        volume_id: str | None = None,
    ) -> None:
        """``volume_id``: 32 hexadecimal digits; None where the volume has none. ``has_pieces``: what is
        stored as it is gets checksums of its pieces, so that parts of it can be verified."""
        self._block_size_bytes = block_size_bytes
        self._has_pieces = has_pieces
        self._volume_id = volume_id
        self._compression = compression
        self._compress: Compressor | None = compressor(compression, level)
        self._cipher = cipher
        assert len(self._content_encoding(compression) or "") <= CONTENT_ENCODING_MAX

    @property
    def is_heavy(self) -> bool:
        """Whether encoding costs enough to be done in a thread."""
        return self._compress is not None or self._cipher is not None

    @property
    def piece_bytes(self) -> int | None:
        """What a part of a stored block begins and ends on a multiple of; None when what this codec stores
        has no parts."""
        return self._block_size_bytes // PIECES if self._has_pieces and not self.is_heavy else None

    def encode(self, block: int, data: BytesLike) -> Encoded:
        """``data``, one whole block, as it is stored. A block that compression does not shrink is stored
        without."""
        assert len(data) == self._block_size_bytes
        # A copy of what can change, once: the checksum must be of the very bytes that are sent.
        body = bytes(data)
        compression = None
        if self._compress is not None:
            compressed = self._compress(body)
            if len(compressed) < len(body):
                body = compressed
                compression = self._compression
        metadata = {PLACE_NAME: f"{block:08x}" + (f"-{self._volume_id}" if self._volume_id else "")}
        if self._cipher is not None:
            body = self._cipher.encrypt(block, body)
            metadata[HMAC_NAME] = f'"{self._cipher.authenticate(block, body)}"'
        metadata[CRC32C_NAME] = f"{google_crc32c.value(body):08x}"
        content_encoding = self._content_encoding(compression)
        if self._has_pieces and content_encoding is None:
            size = self._block_size_bytes // PIECES
            starts = range(0, len(body), size)
            metadata[PIECES_NAME] = "".join(
                f"{google_crc32c.value(body[start : start + size]):08x}" for start in starts
            )
        return Encoded(body, content_encoding, metadata)

    def decode(
        self, block: int, body: BytesLike, content_encoding: str | None, metadata: Mapping[str, str]
    ) -> BytesLike:
        """The block that was stored. Its messages name neither key nor block; the caller does.

        Raises Corrupt when any check fails, one of them that it is encrypted as the volume is.
        """
        check_place(block, self._volume_id, metadata)
        checksum = metadata.get(CRC32C_NAME)
        if checksum is not None:
            check_crc32c(body, checksum)
        codings = parse_content_encoding(content_encoding)
        if codings.cipher is not None:
            body = self._decrypt(block, body, codings.cipher, metadata)
        elif self._cipher is not None:
            raise Corrupt(f"not encrypted, on a volume encrypted with {self._cipher.name}")
        if codings.compression is not None:
            return decompress(codings.compression, body, self._block_size_bytes)
        if len(body) != self._block_size_bytes:
            raise Corrupt(f"{len(body)} bytes instead of {self._block_size_bytes}")
        return body

    def decode_part(
        self,
        block: int,
        part: BytesLike,
        start: int,
        body_bytes: int,
        content_encoding: str | None,
        metadata: Mapping[str, str],
    ) -> BytesLike | None:
        """The bytes of ``block`` from ``start`` on, of a stored body of ``body_bytes``; None when a part does
        not tell them, or cannot be verified as the whole could. ``start`` and the length of ``part`` are
        multiples of a piece.

        Raises Corrupt when a check fails.
        """
        if self._cipher is not None or parse_content_encoding(content_encoding) != Codings(None, None):
            return None
        check_place(block, self._volume_id, metadata)
        if body_bytes != self._block_size_bytes:
            raise Corrupt(f"{body_bytes} bytes instead of {self._block_size_bytes}")
        pieces = metadata.get(PIECES_NAME)
        if pieces is None:
            # A block that carries no checksum at all (s3backer's) is verified by its length, whole or not.
            return None if CRC32C_NAME in metadata else part
        if _PIECES.fullmatch(pieces) is None:
            raise Corrupt(f"{pieces[:20]!r}… are not the crc32c of {PIECES} pieces")
        size = self._block_size_bytes // PIECES
        assert start % size == 0
        view = memoryview(part)
        for at in range(0, len(view), size):
            index = (start + at) // size
            check_crc32c(view[at : at + size], pieces[8 * index : 8 * index + 8])
        return part

    def pieces_fit(
        self, block: int, body: BytesLike, content_encoding: str | None, metadata: Mapping[str, str]
    ) -> bool:
        """Whether the checksums of pieces that a stored body carries, if any, are right."""
        try:
            if PIECES_NAME in metadata:
                self.decode_part(block, body, 0, len(body), content_encoding, metadata)
        except Corrupt:
            return False
        return True

    def _decrypt(self, block: int, body: BytesLike, cipher: str, metadata: Mapping[str, str]) -> bytes:
        if self._cipher is None:
            raise Corrupt(f"it says that it is encrypted with {cipher}, and the volume is not")
        if cipher != self._cipher.name:
            raise Corrupt(f"encrypted with {cipher} instead of {self._cipher.name}")
        if not self._cipher.verify(block, body, parse_hmac(metadata)):
            raise Corrupt("the HMAC is wrong: damaged, or written with another password")
        return self._cipher.decrypt(block, body)

    def _content_encoding(self, compression: str | None) -> str | None:
        names = [] if compression in (None, "none") else [compression]
        if self._cipher is not None:
            names.append(_ENCRYPT + self._cipher.name)
        return ", ".join(names) or None


def parse_hmac(metadata: Mapping[str, str]) -> str:
    """The HMAC of an encrypted block. Raises Corrupt when there is none."""
    match = _HMAC.fullmatch(metadata.get(HMAC_NAME, ""))
    if match is None:
        raise Corrupt(f"encrypted, but without a valid {HMAC_NAME}")
    return match[1].lower()


def check_place(block: int, volume_id: str | None, metadata: Mapping[str, str]) -> None:
    """Raises Corrupt when the metadata says that this is another block, or a block of another volume.

    Blocks that s3backer wrote say nothing, and those of a volume that had no id do not say which volume.
    """
    text = metadata.get(PLACE_NAME)
    if text is None:
        return
    match = _PLACE.fullmatch(text)
    if match is None:
        raise Corrupt(f"{text[:60]!r} does not say which block it is")
    number, volume = int(match[1], 16), match[2]
    if number != block:
        raise Corrupt(f"it is block {number}, in the place of block {block}")
    if None not in (volume, volume_id) and volume != volume_id:
        raise Corrupt(f"it is a block of the volume {volume}, and this is {volume_id}")


def carried_volume_id(metadata: Mapping[str, str]) -> str | None:
    """Of which volume the metadata says that the block is, if it does."""
    match = _PLACE.fullmatch(metadata.get(PLACE_NAME, ""))
    return None if match is None else match[2]


def check_crc32c(body: BytesLike, expected: str) -> None:
    """Raises Corrupt unless ``expected`` is the crc32c of ``body``."""
    if _CRC32C.fullmatch(expected) is None:
        raise Corrupt(f"the checksum {expected[:20]!r} is not a crc32c")
    found = f"{google_crc32c.value(bytes(body)):08x}"
    if found != expected:
        raise Corrupt(f"the crc32c is {found}, was {expected} when written")
