"""End-to-end checksums of a file, small enough to travel in its object's metadata.

A file is cut into at most 256 *pieces*, each a power of two and not less than 128 KiB (the last one as long
as it is). Kept are the crc32c of every piece, so that a range can be verified without reading the rest, and a
*digest* that says whether two files have the same content: the SHA-256 of the pieces' SHA-256s in their
order.

As text, for one entry of an object's user metadata::

    1-20-<base64url of: crc32c of each piece, 4 bytes each | digest, 32 bytes | crc32c of all before, 4 bytes>

``1`` is the version, ``20`` the binary logarithm of the piece size. The last checksum also covers the file's
size and the piece size (each as 8 bytes, first), which are not in the text: pieces of another file, or of a
file cut short, are refused as a whole. Integers are big-endian. At most 1,411 characters: S3 allows 2 KiB for
all metadata of an object.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import google_crc32c

from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Corrupt

#: The name of the entry in the user metadata.
PIECES_METADATA = "bucketry-pieces"
#: 256 checksums take two thirds of the metadata that S3 allows.
PIECES_MAX = 256
#: What a cold read fetches at least: smaller pieces would not be read alone.
PIECE_SIZE_MIN_BYTES = 128 << 10
#: Larger than any object of any store (256 pieces of it: 2⁵⁶ bytes), so that a damaged text is not believed.
_PIECE_SIZE_LOG2_MAX = 48
_PIECE_SIZE_LOG2_MIN = PIECE_SIZE_MIN_BYTES.bit_length() - 1
_VERSION = "1"
_DIGEST_BYTES = 32
_CHECKSUM_BYTES = 4
_SIZES = struct.Struct(">QQ")
#: Version, two digits, their hyphens, and base64 of all the rest.
TEXT_SIZE_MAX = 5 + -(-(_CHECKSUM_BYTES * (PIECES_MAX + 1) + _DIGEST_BYTES) * 4 // 3)


@dataclass(frozen=True, slots=True)
class Pieces:
    """What is known of a file's content. ``checksums`` are the crc32c of its pieces, in order."""

    piece_size_bytes: int
    checksums: tuple[int, ...]
    digest: bytes

    def range_of(self, index: int, size_bytes: int) -> tuple[int, int]:
        """Where piece ``index`` begins and ends (exclusive) in a file of ``size_bytes``."""
        start = index * self.piece_size_bytes
        return start, min(start + self.piece_size_bytes, size_bytes)

    def verifies(self, index: int, data: BytesLike) -> bool:
        """Whether ``data`` is piece ``index`` as it was."""
        return int(google_crc32c.value(bytes(data))) == self.checksums[index]


def piece_size_for(size_bytes: int) -> int:
    """The least power of two, 128 KiB or more, that cuts a file into no more pieces than fit."""
    piece_size_bytes = PIECE_SIZE_MIN_BYTES
    while piece_size_bytes * PIECES_MAX < size_bytes:
        piece_size_bytes *= 2
    return piece_size_bytes


def piece_count(size_bytes: int, piece_size_bytes: int) -> int:
    """How many pieces a file has; none when it is empty."""
    return -(-size_bytes // piece_size_bytes)


def encode(pieces: Pieces, size_bytes: int) -> str:
    """The text for a file of ``size_bytes``."""
    assert len(pieces.checksums) == piece_count(size_bytes, pieces.piece_size_bytes)
    body = struct.pack(f">{len(pieces.checksums)}I", *pieces.checksums) + pieces.digest
    body += struct.pack(">I", _seal(body, pieces.piece_size_bytes, size_bytes))
    return f"{_VERSION}-{pieces.piece_size_bytes.bit_length() - 1}-{_base64(body)}"


def decode(text: str, size_bytes: int) -> Pieces:
    """What ``encode`` made, of an object of ``size_bytes``. Raises Corrupt, with the end of a sentence about
    the object, for everything else."""
    version, _, rest = text.partition("-")
    if version != _VERSION:
        raise Corrupt(f"its checksums are of a version that is not known here ({version[:10]!r})")
    log2, _, encoded = rest.partition("-")
    if len(text) > TEXT_SIZE_MAX or not (log2.isascii() and log2.isdigit() and len(log2) == 2):
        raise Corrupt("its checksums are damaged")
    if not _PIECE_SIZE_LOG2_MIN <= int(log2) <= _PIECE_SIZE_LOG2_MAX:
        raise Corrupt("its checksums are damaged")
    piece_size_bytes = 1 << int(log2)
    count = piece_count(size_bytes, piece_size_bytes)
    if not 0 <= count <= PIECES_MAX:
        raise Corrupt(f"its checksums are not those of an object of {size_bytes} bytes")
    try:
        body = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Corrupt("its checksums are damaged") from None
    if _base64(body) != encoded:
        # Python takes characters and trailing bits that nobody writes.
        raise Corrupt("its checksums are damaged")
    if len(body) != _CHECKSUM_BYTES * (count + 1) + _DIGEST_BYTES:
        raise Corrupt(f"its checksums are not those of an object of {size_bytes} bytes")
    *checksums, seal = struct.unpack(f">{count}I{_DIGEST_BYTES}xI", body)
    if seal != _seal(body[:-_CHECKSUM_BYTES], piece_size_bytes, size_bytes):
        raise Corrupt("its checksums are damaged")
    digest = body[-_CHECKSUM_BYTES - _DIGEST_BYTES : -_CHECKSUM_BYTES]
    return Pieces(piece_size_bytes, tuple(checksums), digest)


class PieceSummer:
    """Sums a file of ``size_bytes`` that is fed from its begin to its end, in chunks of any size. A file that
    grew or shrank meanwhile has no pieces."""

    def __init__(self, size_bytes: int, piece_size_bytes: int | None = None) -> None:
        self.size_bytes = size_bytes
        self.piece_size_bytes = piece_size_bytes or piece_size_for(size_bytes)
        #: How much was fed.
        self.fed_bytes = 0
        self._checksums: list[int] = []
        self._crc = 0
        self._sha = hashlib.sha256()
        self._digest = hashlib.sha256()
        self._left_bytes = self.piece_size_bytes

    def feed(self, chunk: BytesLike) -> None:
        """The next bytes."""
        view = memoryview(chunk)
        self.fed_bytes += len(view)
        while len(view):
            # The extension takes nothing but bytes.
            taken = bytes(view[: self._left_bytes])
            self._crc = google_crc32c.extend(self._crc, taken)
            self._sha.update(taken)
            self._left_bytes -= len(taken)
            if not self._left_bytes:
                self._end_piece()
            view = view[len(taken) :]

    def finish(self) -> Pieces | None:
        """The pieces; None when not exactly ``size_bytes`` were fed."""
        if self.fed_bytes != self.size_bytes:
            return None
        if self._left_bytes < self.piece_size_bytes:
            self._end_piece()
        return Pieces(self.piece_size_bytes, tuple(self._checksums), self._digest.digest())

    def _end_piece(self) -> None:
        self._checksums.append(int(self._crc))
        self._digest.update(self._sha.digest())
        self._crc, self._sha = 0, hashlib.sha256()
        self._left_bytes = self.piece_size_bytes


def sum_pieces(chunks: Sequence[BytesLike]) -> Pieces:
    """The pieces of a file that is in memory."""
    summer = PieceSummer(sum(len(chunk) for chunk in chunks))
    for chunk in chunks:
        summer.feed(chunk)
    found = summer.finish()
    assert found is not None
    return found


def _base64(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def _seal(body: bytes, piece_size_bytes: int, size_bytes: int) -> int:
    return int(google_crc32c.extend(google_crc32c.value(_SIZES.pack(size_bytes, piece_size_bytes)), body))
