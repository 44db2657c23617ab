"""Compression of single blocks, as zlib streams (``deflate``) or zstd frames (``zstd``).

Nothing here believes a compressed body: whatever it says of itself, at most one byte more than a block is
produced.
"""

import importlib
import sys
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Corrupt, Invalid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _import_isal() -> ModuleType | None:
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return None


#: Six times as fast as zlib at compressing and three times at decompressing, in the same format; optional.
_isal = _import_isal()
_DEFLATE_ERRORS: tuple[type[Exception], ...] = (zlib.error, *([_isal.IsalError] if _isal else []))

Compressor: TypeAlias = Callable[[BytesLike], bytes]

#: isal's levels that mean what zlib's of the same number do; its 0 does compress, so zlib keeps that one too.
_ISAL_LEVELS = range(1, 4)
#: isal's own default: where its speed still is, and a ratio like zlib's level 1 to 3.
_ISAL_DEFAULT = 2
_ZSTD_LEVELS = zstd.CompressionParameter.compression_level.bounds()
#: What every decoder should accept, says RFC 8878; a larger window would only let a frame ask for memory.
_ZSTD_WINDOW_LOG = 23


def compressor(name: str, level: int | None) -> Compressor | None:
    """How blocks are compressed; None for ``none``. A ``level`` of None is the algorithm's default.

    Raises Invalid when there is no such algorithm or level.
    """
    if name == "none":
        if level is not None:
            raise Invalid("a compression level without compression")
        return None
    if name == "deflate":
        return _deflate(-1 if level is None else level)
    if name == "zstd":
        return _zstd(zstd.COMPRESSION_LEVEL_DEFAULT if level is None else level)
    raise Invalid(f"compression {name!r} is not one of none, deflate, zstd")


def _deflate(level: int) -> Compressor:
    if not -1 <= level <= 9:
        raise Invalid(f"deflate level {level} is not from 0 to 9, or -1 for the default")
    if _isal is not None and (level == -1 or level in _ISAL_LEVELS):
        compress = _isal.compress
        isal_level = _ISAL_DEFAULT if level == -1 else level
        return lambda data: bytes(compress(data, isal_level))
    return lambda data: zlib.compress(data, level)


def _zstd(level: int) -> Compressor:
    low, high = _ZSTD_LEVELS
    if not low <= level <= high:
        raise Invalid(f"zstd level {level} is not from {low} to {high}")
    # In one call, so that the frame tells its content's size: s3backer's decoder is handed a whole block at
    # once.
    return lambda data: zstd.compress(data, level)


def decompress(name: str, body: BytesLike, size_bytes: int) -> bytes:
    """The ``size_bytes`` that ``body`` was made of by ``deflate`` or ``zstd``.

    Raises Corrupt when it is damaged, cut short, followed by something, or of another size; and for any
    other name.
    """
    match name:
        case "deflate":
            return _inflate(body, size_bytes)
        case "zstd":
            return _unzstd(body, size_bytes)
        case _:
            raise Corrupt(f"unknown content encoding {name!r}")


def decompressed_size(name: str, body: BytesLike, size_max_bytes: int) -> int:
    """How many bytes ``body`` was made of. Raises Corrupt as ``decompress``, and for more than
    ``size_max_bytes``."""
    match name:
        case "deflate":
            return len(_inflate(body, size_max_bytes, is_exact=False))
        case "zstd":
            return len(_unzstd(body, size_max_bytes, is_exact=False))
        case _:
            raise Corrupt(f"unknown content encoding {name!r}")


def _inflate(body: BytesLike, size_bytes: int, *, is_exact: bool = True) -> bytes:
    stream = (_isal or zlib).decompressobj()
    try:
        data: bytes = stream.decompress(body, size_bytes + 1)
    except _DEFLATE_ERRORS as error:
        raise Corrupt(f"damaged deflate data: {error}") from error
    _check_end("deflate", data, size_bytes, stream.eof, stream.unused_data, is_exact=is_exact)
    return data


def _unzstd(body: BytesLike, size_bytes: int, *, is_exact: bool = True) -> bytes:
    window_log = max(_ZSTD_WINDOW_LOG, (size_bytes - 1).bit_length())
    stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})
    try:
        data = stream.decompress(body, max_length=size_bytes + 1)
    except zstd.ZstdError as error:
        raise Corrupt(f"damaged zstd data: {error}") from error
    _check_end("zstd", data, size_bytes, stream.eof, stream.unused_data, is_exact=is_exact)
    return data


def _check_end(
    name: str, data: bytes, size_bytes: int, ended: object, rest: bytes, *, is_exact: bool
) -> None:
    if len(data) > size_bytes:
        raise Corrupt(f"{name} data of more than the {size_bytes} bytes of a block")
    if not ended:
        raise Corrupt(f"{name} data cut short after {len(data)} of {size_bytes} bytes")
    if rest:
        raise Corrupt(f"{len(rest)} bytes after the end of the {name} data")
    if is_exact and len(data) != size_bytes:
        raise Corrupt(f"{name} data of {len(data)} bytes instead of {size_bytes}")
