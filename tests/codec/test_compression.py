"""Compression: both ways, at every level, and bodies that lie."""

import random
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.codec import compression
from bucketry.codec.compression import compressor, decompress
from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Corrupt, Invalid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SIZE = 4096
TEXT = (b"Some words of a block that repeat and repeat. " * 100)[:SIZE]
ALGORITHMS = ["deflate", "zstd"]


@pytest.fixture(params=["isal", "zlib"])
def _either_inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(compression, "_isal", None)


def compress(name: str, data: BytesLike, level: int | None = None) -> bytes:
    function = compressor(name, level)
    assert function is not None
    return function(data)


@pytest.mark.usefixtures("_either_inflater")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_blocks_come_back(name: str) -> None:
    """Whatever is compressed is decompressed to the same bytes, from any kind of buffer."""
    for data in (TEXT, bytes(SIZE), random.Random(1).randbytes(SIZE)):
        for buffer in (data, bytearray(data), memoryview(data)):
            assert decompress(name, compress(name, buffer), SIZE) == data


@pytest.mark.usefixtures("_either_inflater")
@pytest.mark.parametrize("level", range(-1, 10))
def test_deflate_is_a_zlib_stream_at_every_level(level: int) -> None:
    """zlib itself, which s3backer uses, reads what we write, whoever compressed it."""
    body = compress("deflate", TEXT, level)
    assert zlib.decompress(body) == TEXT
    assert body[0] == 0x78


@pytest.mark.parametrize("level", [-5, 1, 3, 19])
def test_zstd_frames_tell_their_size(level: int) -> None:
    """The frame's header carries the content size, as a single-shot compressor writes it."""
    body = compress("zstd", TEXT, level)
    assert zstd.get_frame_info(body).decompressed_size == SIZE
    assert decompress("zstd", body, SIZE) == TEXT


@pytest.mark.parametrize(
    ("name", "level"), [("deflate", 10), ("deflate", -2), ("zstd", 99), ("none", 3), ("lzma", None)]
)
def test_levels_and_names_are_checked(name: str, level: int | None) -> None:
    """A level or an algorithm that does not exist is refused before any block is written."""
    with pytest.raises(Invalid):
        compressor(name, level)


def test_none_compresses_nothing() -> None:
    """Without compression there is no function to call."""
    assert compressor("none", None) is None


@pytest.mark.usefixtures("_either_inflater")
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("cut", [0, 1, 2, 5, 20, -1])
def test_cut_short_is_corrupt(name: str, cut: int) -> None:
    """A body without its end is damaged, however much of it is there."""
    with pytest.raises(Corrupt):
        decompress(name, compress(name, TEXT)[:cut], SIZE)


@pytest.mark.usefixtures("_either_inflater")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_bytes_after_the_end_are_corrupt(name: str) -> None:
    """Nothing may follow the stream, not even another one."""
    body = compress(name, TEXT)
    for more in (b"\0", b"garbage", body, compress(name, b"")):
        with pytest.raises(Corrupt):
            decompress(name, body + more, SIZE)


@pytest.mark.usefixtures("_either_inflater")
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1, 3 * SIZE])
def test_other_lengths_are_corrupt(name: str, size: int) -> None:
    """A body that holds less or more than a block is not a block."""
    with pytest.raises(Corrupt):
        decompress(name, compress(name, bytes(size)), SIZE)


@pytest.mark.usefixtures("_either_inflater")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_bomb_does_not_go_off(name: str) -> None:
    """A small body that would become 64 MiB is refused after one byte more than a block."""
    body = compress(name, bytes(1 << 26))
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="more than"):
            decompress(name, body, SIZE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_raw_deflate_is_corrupt() -> None:
    """``deflate`` is a zlib stream; s3backer refuses a raw one, and so do we."""
    raw = zlib.compressobj(wbits=-15)
    with pytest.raises(Corrupt):
        decompress("deflate", raw.compress(TEXT) + raw.flush(), SIZE)


def test_a_zstd_frame_cannot_ask_for_much_memory() -> None:
    """A frame with a window of 128 MiB is refused, whatever it holds."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    stream = zstd.ZstdCompressor(options=options)
    body = stream.compress(TEXT) + stream.flush()
    with pytest.raises(Corrupt):
        decompress("zstd", body, SIZE)


def test_unknown_names_are_corrupt() -> None:
    """A coding that we do not know is named."""
    with pytest.raises(Corrupt, match="'br'"):
        decompress("br", b"", SIZE)


@pytest.mark.usefixtures("_either_inflater")
@given(st.sampled_from(ALGORITHMS), st.binary(max_size=200))
def test_garbage_is_corrupt_and_nothing_else(name: str, body: bytes) -> None:
    """No sequence of bytes raises anything but Corrupt."""
    with pytest.raises(Corrupt):
        decompress(name, body, SIZE)
