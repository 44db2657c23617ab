"""Blocks to bodies and back, every combination, and bodies that are not what they say."""

import random
import zlib
from collections.abc import Mapping

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.codec.encryption import BlockCipher
from bucketry.codec.pipeline import (
    CONTENT_ENCODING_MAX,
    CRC32C_NAME,
    HMAC_NAME,
    PIECES,
    PIECES_NAME,
    PLACE_NAME,
    BlockCodec,
    Codings,
    parse_content_encoding,
)
from bucketry.core.geometry import Geometry
from bucketry.errors import Corrupt
from bucketry.layout.block_0 import geometry_metadata
from bucketry.settings import CIPHER_KEY_BYTES, COMPRESSIONS, Secret

SIZE = 4096
TEXT = (b"Some words of a block that repeat and repeat. " * 100)[:SIZE]
NOISE = random.Random(1).randbytes(SIZE)
CIPHERS = {name: BlockCipher(name, Secret("secret"), "bucket/") for name in CIPHER_KEY_BYTES}
AES = CIPHERS["AES-128-CBC"]


def codec(compression: str = "none", cipher: BlockCipher | None = None) -> BlockCodec:
    return BlockCodec(SIZE, compression=compression, cipher=cipher)


@pytest.mark.parametrize("cipher", [None, *CIPHERS])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_combination_comes_back(compression: str, cipher: str | None) -> None:
    """What is encoded is decoded to the same block, by a codec that writes with another compression too."""
    block_cipher = CIPHERS[cipher] if cipher else None
    writer = codec(compression, block_cipher)
    for data in (TEXT, NOISE, bytes(SIZE), bytearray(TEXT), memoryview(NOISE)):
        stored = writer.encode(7, data)
        for reader in (writer, codec("none", block_cipher), codec("zstd", block_cipher)):
            assert reader.decode(7, stored.body, stored.content_encoding, stored.metadata) == data


@pytest.mark.parametrize("cipher", [None, *CIPHERS])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_is_written_about_a_body(compression: str, cipher: str | None) -> None:
    """Names and case of the encodings are s3backer's and fit its 31 characters; the HMAC is in double
    quotes."""
    stored = codec(compression, CIPHERS[cipher] if cipher else None).encode(7, TEXT)
    names = [name for name in (compression, cipher and f"encrypt-{cipher}") if name and name != "none"]
    assert stored.content_encoding == (", ".join(names) or None)
    assert len(stored.content_encoding or "") <= CONTENT_ENCODING_MAX
    assert stored.metadata[CRC32C_NAME] == f"{google_crc32c.value(stored.body):08x}"
    if cipher:
        assert stored.metadata[HMAC_NAME] == f'"{CIPHERS[cipher].authenticate(7, stored.body)}"'
    else:
        assert HMAC_NAME not in stored.metadata


def test_a_block_that_does_not_shrink_is_stored_as_it_is() -> None:
    """Compression that gains nothing is left out, with its name."""
    assert codec("deflate").encode(0, NOISE).body == NOISE
    assert codec("zstd").encode(0, NOISE).content_encoding is None
    assert codec("zstd", AES).encode(0, NOISE).content_encoding == "encrypt-AES-128-CBC"


def test_only_real_work_is_heavy() -> None:
    """Plain blocks are encoded in the event loop; compression and encryption are worth a thread."""
    assert not codec().is_heavy
    assert codec("zstd").is_heavy
    assert codec("none", AES).is_heavy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Codings(None, None)),
        ("", Codings(None, None)),
        (" ", Codings(None, None)),
        ("deflate", Codings("deflate", None)),
        ("ZSTD", Codings("zstd", None)),
        ("encrypt-AES-128-CBC", Codings(None, "AES-128-CBC")),
        ("deflate, encrypt-AES-128-CBC", Codings("deflate", "AES-128-CBC")),
        (" zstd ,\tENCRYPT-aes-256-cbc ", Codings("zstd", "AES-256-CBC")),
        ("br", Codings("br", None)),
    ],
)
def test_content_encodings_are_read_leniently(text: str | None, expected: Codings) -> None:
    """Blanks and case do not matter."""
    assert parse_content_encoding(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "deflate,deflate", "deflate, zstd", "encrypt-AES-128-CBC, deflate", ",", "deflate,", ",deflate",
        "encrypt-AES-128-CBC, encrypt-AES-128-CBC", "deflate, encrypt-AES-128-CBC, aws-chunked",
    ],
)  # fmt: skip
def test_content_encodings_that_cannot_be_undone(text: str) -> None:
    """Decompression must be the last step, decryption the only one before it."""
    with pytest.raises(Corrupt, match="cannot be undone"):
        parse_content_encoding(text)


@pytest.mark.parametrize("name", ["br", "gzip", "identity", "aws-chunked"])
def test_unknown_encodings_are_named(name: str) -> None:
    """An encoding that we do not know is an error that says which."""
    with pytest.raises(Corrupt, match=name):
        codec().decode(0, TEXT, name, {})
    stored = codec("none", AES).encode(0, TEXT)
    with pytest.raises(Corrupt, match=name):
        codec("none", AES).decode(0, stored.body, f"{name}, encrypt-AES-128-CBC", stored.metadata)


@pytest.mark.parametrize("length", [0, 1, SIZE - 1, SIZE + 1, 2 * SIZE])
@pytest.mark.parametrize("cipher", [None, AES])
def test_wrong_lengths_are_corrupt(length: int, cipher: BlockCipher | None) -> None:
    """A stored block of another length is refused, even when it is authentic."""
    stored = BlockCodec(length, cipher=cipher).encode(0, bytes(length))
    with pytest.raises(Corrupt, match=f"{length} bytes instead of {SIZE}"):
        codec("none", cipher).decode(0, stored.body, stored.content_encoding, stored.metadata)


@pytest.mark.parametrize("cipher", [None, AES])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(bit=st.integers(0))
def test_a_flipped_bit_is_never_passed_on(compression: str, cipher: BlockCipher | None, bit: int) -> None:
    """Any bit of a body that we wrote: the checksum, or without it the HMAC or the stream's own check."""
    both = codec(compression, cipher)
    stored = both.encode(3, TEXT)
    body = bytearray(stored.body)
    body[bit // 8 % len(body)] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match="crc32c"):
        both.decode(3, body, stored.content_encoding, stored.metadata)
    if cipher is not None:
        metadata = {HMAC_NAME: stored.metadata[HMAC_NAME]}
        with pytest.raises(Corrupt, match="HMAC"):
            both.decode(3, body, stored.content_encoding, metadata)


@given(bit=st.integers(0))
def test_deflate_never_passes_garbage_on(bit: int) -> None:
    """A block that s3backer compressed carries no checksum of ours; zlib's own stands in."""
    body = bytearray(zlib.compress(TEXT))
    body[bit // 8 % len(body)] ^= 1 << bit % 8
    try:
        data = codec().decode(3, body, "deflate", {})
    except Corrupt:
        return
    # Some bits of a stream mean nothing: two of its header, those that fill its last byte.
    assert data == TEXT


def test_a_truncated_body_is_corrupt() -> None:
    """The checksum covers the length too."""
    for compression in COMPRESSIONS:
        stored = codec(compression).encode(3, TEXT)
        with pytest.raises(Corrupt):
            codec().decode(3, stored.body[:-1], stored.content_encoding, stored.metadata)
        with pytest.raises(Corrupt):
            codec().decode(3, stored.body[:-1], stored.content_encoding, {})


@pytest.mark.parametrize("metadata", [{}, {HMAC_NAME: ""}, {HMAC_NAME: '"abc"'}, {HMAC_NAME: "g" * 40}])
def test_an_encrypted_block_needs_its_hmac(metadata: Mapping[str, str]) -> None:
    """Without one nothing is decrypted."""
    stored = codec("none", AES).encode(3, TEXT)
    with pytest.raises(Corrupt, match="without a valid"):
        codec("none", AES).decode(3, stored.body, stored.content_encoding, metadata)


def test_blocks_of_an_encrypted_volume_cannot_be_swapped() -> None:
    """A whole object, with all its metadata, under another number is refused."""
    stored = codec("deflate", AES).encode(3, TEXT)
    for names in ([HMAC_NAME], [HMAC_NAME, CRC32C_NAME]):
        metadata = {name: stored.metadata[name] for name in names}
        with pytest.raises(Corrupt, match="HMAC"):
            codec("deflate", AES).decode(4, stored.body, stored.content_encoding, metadata)


ID, OTHER_ID = "0123456789abcdef" * 2, "f" * 32


@pytest.mark.parametrize("volume_id", [None, ID])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_plain_blocks_cannot_be_swapped_either(compression: str, volume_id: str | None) -> None:
    """A whole object, with all its metadata, is refused under another number, and in another volume."""
    writer = BlockCodec(SIZE, compression=compression, volume_id=volume_id)
    stored = writer.encode(3, TEXT)
    assert stored.metadata[PLACE_NAME] == ("00000003" if volume_id is None else f"00000003-{ID}")
    with pytest.raises(Corrupt, match="it is block 3, in the place of block 4"):
        writer.decode(4, stored.body, stored.content_encoding, stored.metadata)
    other = BlockCodec(SIZE, volume_id=OTHER_ID)
    if volume_id is None:  # nothing says that it is not
        assert other.decode(3, stored.body, stored.content_encoding, stored.metadata) == TEXT
    else:
        with pytest.raises(Corrupt, match=f"a block of the volume {ID}, and this is {OTHER_ID}"):
            other.decode(3, stored.body, stored.content_encoding, stored.metadata)
    # Its superblock may be lost, and nobody knows the id any more.
    assert BlockCodec(SIZE).decode(3, stored.body, stored.content_encoding, stored.metadata) == TEXT


def test_blocks_that_do_not_say_what_they_are_are_read() -> None:
    """An earlier version wrote them, or s3backer."""
    stored = BlockCodec(SIZE, volume_id=ID).encode(3, TEXT)
    metadata = {name: stored.metadata[name] for name in stored.metadata if name != PLACE_NAME}
    assert BlockCodec(SIZE, volume_id=ID).decode(4, stored.body, None, metadata) == TEXT


@pytest.mark.parametrize(
    "place", ["", "3", "0000003", "00000003-", f"00000003-{ID}x", f"0000000A-{ID}", f"00000003-{ID[:-1]}"]
)
def test_a_malformed_place_is_corrupt(place: str) -> None:
    """Like a malformed checksum."""
    with pytest.raises(Corrupt, match="does not say which block it is"):
        BlockCodec(SIZE, volume_id=ID).decode(3, TEXT, None, {PLACE_NAME: place})


def test_encryption_must_be_as_expected() -> None:
    """Encrypted on a plain volume, plain on an encrypted one, another cipher: each is damage, and says so."""
    stored = codec("deflate", AES).encode(3, TEXT)
    with pytest.raises(Corrupt, match="encrypted with AES-128-CBC, and the volume is not"):
        codec().decode(3, stored.body, stored.content_encoding, stored.metadata)
    with pytest.raises(Corrupt, match="AES-128-CBC instead of AES-256-CBC"):
        codec("none", CIPHERS["AES-256-CBC"]).decode(3, stored.body, stored.content_encoding, stored.metadata)
    with pytest.raises(Corrupt, match="not encrypted"):
        codec("none", AES).decode(3, TEXT, None, {})


@pytest.mark.parametrize("checksum", ["", "1234567", "0X123456", "zzzzzzzz", "123456789"])
def test_a_malformed_checksum_is_corrupt(checksum: str) -> None:
    """Metadata is checked like everything else that comes from outside."""
    with pytest.raises(Corrupt, match="not a crc32c"):
        codec().decode(3, TEXT, None, {CRC32C_NAME: checksum})


def test_bodies_without_our_checksum_are_read() -> None:
    """s3backer writes none."""
    assert codec().decode(3, TEXT, None, {}) == TEXT
    assert codec().decode(3, zlib.compress(TEXT), "deflate", {}) == TEXT


@given(
    body=st.one_of(st.binary(max_size=64), st.sampled_from([TEXT, zlib.compress(TEXT), bytes(SIZE + 16)])),
    content_encoding=st.one_of(
        st.none(),
        st.text(max_size=40),
        st.lists(
            st.sampled_from(["deflate", "zstd", "encrypt-AES-128-CBC", "encrypt-", "br", ""]), max_size=3
        ).map(", ".join),
    ),
    metadata=st.dictionaries(
        st.sampled_from([HMAC_NAME, CRC32C_NAME, PLACE_NAME, "other"]), st.text(max_size=45), max_size=3
    ),
    cipher=st.sampled_from([None, AES]),
)
def test_whatever_lies_in_the_bucket_is_a_block_or_an_error_of_ours(
    body: bytes, content_encoding: str | None, metadata: dict[str, str], cipher: BlockCipher | None
) -> None:
    """No body and no attributes raise anything but Corrupt, or give another length."""
    try:
        data = codec("none", cipher).decode(0, body, content_encoding, metadata)
    except Corrupt:
        return
    assert len(data) == SIZE
    assert cipher is None


def test_pieces_are_checksums_of_what_is_stored_as_it_is() -> None:
    """Every part of a plain block is verified by them, and told from any other; encoded blocks have none."""
    data = random.Random(5).randbytes(SIZE)
    codec = BlockCodec(SIZE, has_pieces=True)
    stored = codec.encode(3, data)
    piece = codec.piece_bytes or 0
    assert piece == SIZE // PIECES
    assert len(stored.metadata[PIECES_NAME]) == 8 * PIECES
    for start in range(0, SIZE, piece):
        part = codec.decode_part(3, data[start : start + piece], start, SIZE, None, stored.metadata)
        assert part == data[start : start + piece]
    for start in range(piece, SIZE, piece):
        with pytest.raises(Corrupt):
            codec.decode_part(3, data[:piece], start, SIZE, None, stored.metadata)
    with pytest.raises(Corrupt, match="it is block 3, in the place of block 4"):
        codec.decode_part(4, data[:piece], 0, SIZE, None, stored.metadata)
    for encoding in (BlockCodec(SIZE, compression="zstd", has_pieces=True), BlockCodec(SIZE)):
        assert PIECES_NAME not in encoding.encode(3, bytes(SIZE)).metadata
        assert encoding.piece_bytes is None


def test_pieces_fit_the_metadata_of_every_store() -> None:
    """With all that a block can carry beside them: S3 allows 2 KiB, names and values together."""
    metadata = dict(BlockCodec(SIZE, has_pieces=True, volume_id=ID).encode(0, bytes(SIZE)).metadata)
    metadata |= geometry_metadata(Geometry(SIZE * ((1 << 32) - 1), SIZE))
    assert sum(len(name) + len(value) for name, value in metadata.items()) < 1 << 10
