"""How an object with its attributes lies in one file."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.bucket.envelope import HEADER_BYTES_MAX, MAGIC, decode_header, encode_header, header_size
from bucketry.bucket.interface import NO_ATTRIBUTES, Attributes
from bucketry.errors import Corrupt

_ETAG = bytes(range(16))


@given(
    st.builds(
        Attributes,
        st.none() | st.text(min_size=1),
        st.none() | st.text(min_size=1),
        st.dictionaries(st.text(), st.text()),
    ),
    st.integers(0, 2**63),
)
def test_round_trip(attributes: Attributes, size_bytes: int) -> None:
    """What a header says comes back."""
    encoded = encode_header(attributes, _ETAG, size_bytes)
    assert header_size(encoded[:40]) == len(encoded)
    header = decode_header(encoded, len(encoded) + size_bytes)
    assert header.attributes == attributes
    assert header.etag == '"000102030405060708090a0b0c0d0e0f"'
    assert (header.data_offset, header.data_size_bytes) == (len(encoded), size_bytes)


def test_the_bytes() -> None:
    """The format is the one that is documented: files written today are read for ever."""
    text = b'{"encoding":"deflate","metadata":{"a":"b"}}'
    checked = bytes.fromhex("0500000000000000") + _ETAG + text
    begin = bytes.fromhex("89426b74790d0a1a" + "53000000") + zlib.crc32(checked).to_bytes(4, "little")
    assert encode_header(Attributes(None, "deflate", {"a": "b"}), _ETAG, 5) == begin + checked


def test_every_flipped_bit_is_found() -> None:
    """A header with any bit flipped is Corrupt, or no header any more."""
    encoded = encode_header(Attributes(None, "deflate", {"a": "b"}), _ETAG, 5)
    for bit in range(len(encoded) * 8):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit < len(MAGIC) * 8:
            assert header_size(bytes(damaged)) == 0
            continue
        with pytest.raises(Corrupt):
            size = header_size(bytes(damaged))
            decode_header(bytes(damaged)[:size], len(damaged) + 5)


def test_every_cut_is_found() -> None:
    """A file that is cut short anywhere is Corrupt, except where nothing of the magic is missing but all."""
    encoded = encode_header(NO_ATTRIBUTES, _ETAG, 5) + b"12345"
    for size in range(len(MAGIC), len(encoded)):
        with pytest.raises(Corrupt):
            decode_header(encoded[: header_size(encoded[:size])][:size], size)


@pytest.mark.parametrize("size", [0, 39, HEADER_BYTES_MAX + 1, 2**32 - 1])
def test_wrong_sizes(size: int) -> None:
    """A header size that cannot be is not believed."""
    encoded = bytearray(encode_header(NO_ATTRIBUTES, _ETAG, 5))
    encoded[8:12] = size.to_bytes(4, "little")
    with pytest.raises(Corrupt):
        header_size(bytes(encoded))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"1", b"{", b'{"type":1}', b'{"metadata":[]}', b'{"metadata":{"a":1}}', b"\xff"]
)
def test_hostile_attributes(text: bytes) -> None:
    """Attributes of the wrong form are Corrupt though their checksum is right."""
    checked = struct.pack("<Q16s", 0, _ETAG) + text
    header = MAGIC + struct.pack("<II", 40 + len(text), zlib.crc32(checked)) + checked
    with pytest.raises(Corrupt):
        decode_header(header, len(header))
