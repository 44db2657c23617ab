"""The map of a cached object: what is written is read, and nothing else is."""

import json
import struct
from dataclasses import replace

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.core.cache_map import (
    BLOCK_BYTES,
    HEADER_BYTES,
    PRESENT,
    RECORD,
    RECORD_BYTES,
    SEALED,
    SEALED_OFFSET,
    UNIT_BYTES,
    CachedObject,
    Records,
    decode_header,
    encode_header,
    encode_record,
    record_offset,
)
from bucketry.errors import Corrupt

ABOUT = CachedObject(
    store="s3://bucket",
    key="prefix/name",
    name="name",
    etag='"abc"',
    size_bytes=3 * BLOCK_BYTES + 1,
    pieces="1-17-xyz",
    created_seconds=1234.5,
)


def header(about: CachedObject) -> bytes:
    found = encode_header(about, google_crc32c.value)
    assert found is not None
    return found


@settings(max_examples=40)
@given(
    st.builds(
        CachedObject,
        store=st.text(max_size=50),
        key=st.text(max_size=200),
        name=st.text(max_size=200),
        etag=st.text(max_size=50),
        size_bytes=st.integers(0, 1 << 50),
        pieces=st.none() | st.text(max_size=100),
        created_seconds=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_header_is_read_as_written(about: CachedObject) -> None:
    """Whatever an object is called, its header says it again."""
    assert decode_header(header(about), google_crc32c.value) == (about, False)


def test_names_that_do_not_fit() -> None:
    """What is too long for the header is not cached, and the longest of S3 is not too long."""
    longest = "\\" * 1024
    assert encode_header(replace(ABOUT, key=longest, name=longest, pieces="x" * 1411), google_crc32c.value)
    assert encode_header(replace(ABOUT, key=longest * 4), google_crc32c.value) is None


def test_sealed() -> None:
    """The one word that changes later says that the object is sealed; any other value says that it is not."""
    content = bytearray(header(ABOUT))
    struct.pack_into("<I", content, SEALED_OFFSET, SEALED)
    assert decode_header(bytes(content), google_crc32c.value) == (ABOUT, True)
    struct.pack_into("<I", content, SEALED_OFFSET, SEALED + 1)
    assert decode_header(bytes(content), google_crc32c.value) == (ABOUT, False)


def test_every_damaged_bit_is_seen() -> None:
    """A header with one wrong bit where it means something is nobody's."""
    content = header(ABOUT)
    meaning = 20 + struct.unpack_from("<I", content, 12)[0]
    for bit in range(8 * meaning):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_header(bytes(damaged), google_crc32c.value)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "nonsense",
        "[" * 3000,
        '["s","k","n","e",1.5,null,1.0]',
        '["s","k","n","e",true,null,1.0]',
        '["s","k","n","e",-1,null,1.0]',
        '["s","k","n","e",99999999999999999999,null,1.0]',
        '["s","k","n","e",1,null,1.0,1]',
        '["s","k","n","e",1,null,"x"]',
        '["s",1,"n","e",1,null,1.0]',
    ],
)
def test_hostile_text(text: str) -> None:
    """A text with the right checksum and the wrong content is refused as well."""
    content = text.encode()
    forged = struct.pack("<8sIII", b"bkry-map", 1, len(content), google_crc32c.value(content)) + content
    with pytest.raises(Corrupt):
        decode_header(forged.ljust(HEADER_BYTES, b"\0"), google_crc32c.value)


def test_cut_header() -> None:
    """A header that is cut short is refused."""
    for length in (0, 10, 20, HEADER_BYTES - 1):
        with pytest.raises(Corrupt):
            decode_header(header(ABOUT)[:length], google_crc32c.value)


def test_sizes() -> None:
    """An object of no bytes has no blocks; the last block is as long as it is, and costs whole pages."""
    assert replace(ABOUT, size_bytes=0).block_count == 0
    assert replace(ABOUT, size_bytes=BLOCK_BYTES).block_count == 1
    assert ABOUT.block_count == 4
    assert (ABOUT.length_of(0), ABOUT.length_of(3)) == (BLOCK_BYTES, 1)
    assert (ABOUT.cost_of(0), ABOUT.cost_of(3)) == (BLOCK_BYTES, 4096)
    assert ABOUT.map_bytes == record_offset(4) == HEADER_BYTES + 4 * RECORD_BYTES
    assert ABOUT.map_cost_bytes == HEADER_BYTES + 4096


@pytest.mark.parametrize("length", [1, UNIT_BYTES, UNIT_BYTES + 1, BLOCK_BYTES - 1, BLOCK_BYTES])
def test_record(length: int) -> None:
    """A record has the checksums of the block and of each of its units, and when it came."""
    block = (bytes(range(251)) * (length // 251 + 1))[:length]
    record = encode_record(memoryview(block), 77, google_crc32c.value)
    assert len(record) == RECORD_BYTES
    state, used, filled, whole, *units = RECORD.unpack_from(record)
    assert (state, used, filled, whole) == (PRESENT, 77, 77, google_crc32c.value(block))
    count = -(-length // UNIT_BYTES)
    assert units[:count] == [
        google_crc32c.value(block[at : at + UNIT_BYTES]) for at in range(0, length, UNIT_BYTES)
    ]
    assert not any(units[count:])


def test_records_in_a_row() -> None:
    """Which blocks are there, which are not, and what is known of them; a rest that is no record is none."""
    record = encode_record(b"x", 5, google_crc32c.value)
    records = Records(
        bytes(RECORD_BYTES) + record + json.dumps("alien").encode().ljust(RECORD_BYTES) + b"rest"
    )
    assert records.count == 3
    assert records.present() == [1]
    assert records.missing() == [0, 2]
    assert (records.used_seconds(1), records.filled_seconds(1)) == (5, 5)
    assert records.checksum(1) == google_crc32c.value(b"x")
