"""How an object with its attributes lies in one file of a directory bucket.

::

    magic 8 bytes | header size u32 | crc32 of what follows up to the data u32 | data size u64 | ETag 16 bytes
    attributes as JSON (header size bytes in all, from the magic on) | data

One file, so that data and attributes can only be replaced together. Integers are little-endian. A file that
does not begin with the magic is a plain object without attributes: what other programs put into the
directory. What we put always has a header, so no data can be taken for one.
"""

import json
import struct
import zlib
from dataclasses import dataclass

from bucketry.bucket.interface import Attributes
from bucketry.errors import Corrupt

#: Not text, not UTF-8, and the line ends show whether somebody translated them: the reasons of PNG's.
MAGIC = b"\x89Bkty\r\n\x1a"
_FIXED = struct.Struct("<8sIIQ16s")
_CHECKED_FROM = 16
ETAG_BYTES = 16
#: S3 allows 2 KiB of metadata, Azure 8, Google 8: more than this in a file is damage.
HEADER_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class Header:
    """What the begin of a file says of the object in it."""

    etag: str
    data_offset: int
    data_size_bytes: int
    attributes: Attributes


def encode_header(attributes: Attributes, etag: bytes, data_size_bytes: int) -> bytes:
    """The bytes before the data."""
    fields = {
        "type": attributes.content_type,
        "encoding": attributes.content_encoding,
        "metadata": dict(attributes.metadata),
    }
    text = json.dumps(
        {name: value for name, value in fields.items() if value}, separators=(",", ":")
    ).encode()
    header_size = _FIXED.size + len(text)
    checked = _FIXED.pack(MAGIC, header_size, 0, data_size_bytes, etag)[_CHECKED_FROM:] + text
    return _FIXED.pack(MAGIC, header_size, zlib.crc32(checked), data_size_bytes, etag) + text


def header_size(begin: bytes) -> int:
    """How many bytes the header has, 0 for a plain file. ``begin`` is the file's first 16 bytes or more, or
    all of it."""
    if not begin.startswith(MAGIC):
        return 0
    if len(begin) < _FIXED.size:
        raise Corrupt("its header is cut short")
    size: int = _FIXED.unpack_from(begin)[1]
    if not _FIXED.size <= size <= HEADER_BYTES_MAX:
        raise Corrupt("its header is damaged")
    return size


def decode_header(header: bytes, file_size_bytes: int | None) -> Header:
    """The header, checked against the file's size unless that is None (it is not finished yet). Raises
    Corrupt, with the end of a sentence."""
    etag, data_size_bytes = decode_without_attributes(header, file_size_bytes)
    size = header_size(header)
    return Header(etag, size, data_size_bytes, _decode_attributes(header[_FIXED.size : size]))


def decode_without_attributes(header: bytes, file_size_bytes: int | None) -> tuple[str, int]:
    """The ETag, and the size of the data; the rest is as in ``decode_header``."""
    if len(header) < _FIXED.size:
        raise Corrupt("its header is cut short")
    _, size, checksum, data_size_bytes, etag = _FIXED.unpack_from(header)
    if len(header) < size:
        raise Corrupt("its header is cut short")
    if zlib.crc32(header[_CHECKED_FROM:size]) != checksum:
        raise Corrupt("its header is damaged")
    if file_size_bytes is not None and size + data_size_bytes != file_size_bytes:
        raise Corrupt(f"it has {file_size_bytes - size} bytes of data, its header says {data_size_bytes}")
    return f'"{etag.hex()}"', data_size_bytes


def _decode_attributes(text: bytes) -> Attributes:
    """The checksum says that these bytes are what was written, not who wrote them."""
    try:
        fields = json.loads(text)
        content_type, content_encoding = fields.get("type"), fields.get("encoding")
        metadata = fields.get("metadata", {})
        texts = [content_type or "", content_encoding or "", *metadata, *metadata.values()]
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise Corrupt("its attributes are not readable") from None
    if not all(isinstance(text, str) for text in texts):
        raise Corrupt("its attributes are not texts")
    return Attributes(content_type, content_encoding, metadata)
