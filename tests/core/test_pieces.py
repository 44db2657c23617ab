"""End-to-end checksums of a file."""

import base64
import hashlib
from itertools import pairwise
from random import Random

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.core.pieces import (
    PIECE_SIZE_MIN_BYTES,
    PIECES_MAX,
    TEXT_SIZE_MAX,
    Pieces,
    PieceSummer,
    decode,
    encode,
    piece_count,
    piece_size_for,
    sum_pieces,
)
from bucketry.errors import Corrupt

KIB = 1 << 10
#: Made once with this code and checked by hand: what is in buckets must be readable for ever.
VECTORS = {
    b"": "1-17-47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFX_Jva1",
    b"123456789": "1-17-4waSgykrDQB1ZoMtuUv65onNcNGrdygR_US59J2FUO6epqSUp6glEA",
    b"a" * 131073: "1-17-gTIq8MHQQzAWPy_MjA7Y97HaEV3s2b5T9ocaVH1fkNseMkaRlV3Y1mHHhGo",
}


def test_piece_sizes_at_their_bounds() -> None:
    """The piece size is 128 KiB up to 32 MiB, then doubles whenever 256 pieces are not enough."""
    assert piece_size_for(0) == piece_size_for(1) == piece_size_for(32 << 20) == 128 * KIB
    assert piece_size_for((32 << 20) + 1) == piece_size_for(64 << 20) == 256 * KIB
    assert piece_size_for(5 << 40) == 32 << 30
    for size in (1, 131071, 131072, 131073, 1 << 30, (1 << 30) + 1, 5 << 40):
        assert 1 <= piece_count(size, piece_size_for(size)) <= PIECES_MAX
    assert piece_count(0, PIECE_SIZE_MIN_BYTES) == 0


@pytest.mark.parametrize("size", [0, 1, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 300 * KIB])
def test_sums_are_those_of_the_definition(size: int) -> None:
    """Checksums are crc32c of each piece, the digest SHA-256 of the pieces' SHA-256s, and both come back
    from the text."""
    data = Random(size).randbytes(size)
    parts = [data[start : start + 128 * KIB] for start in range(0, size, 128 * KIB)]
    found = sum_pieces([data])
    assert found.checksums == tuple(google_crc32c.value(part) for part in parts)
    assert found.digest == hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).digest()
    text = encode(found, size)
    assert decode(text, size) == found
    assert text.isascii()
    assert text.isprintable()
    for index, part in enumerate(parts):
        start, end = found.range_of(index, size)
        assert data[start:end] == part
        assert found.verifies(index, part)
        assert found.verifies(index, bytearray(part))
        assert not found.verifies(index, part[:-1] + bytes([part[-1] ^ 1]))


@given(cuts=st.lists(st.integers(0, 300 * KIB), max_size=6))
@settings(max_examples=10, deadline=None)
def test_chunks_of_any_size_give_the_same(cuts: list[int]) -> None:
    """How the file is cut into chunks makes no difference."""
    data = Random(1).randbytes(300 * KIB)
    bounds = [0, *sorted(cuts), len(data)]
    chunks = [memoryview(data)[a:b] for a, b in pairwise(bounds)]
    assert sum_pieces(chunks) == sum_pieces([data])


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_has_no_pieces(change: int) -> None:
    """Who was fed more or less than he was told gives nothing."""
    summer = PieceSummer(1000)
    summer.feed(b"x" * (1000 + change))
    assert summer.finish() is None


def test_the_largest_text_fits() -> None:
    """256 pieces make the longest text, and it leaves a quarter of S3's 2 KiB to others."""
    pieces = Pieces(PIECE_SIZE_MIN_BYTES, (0xFFFFFFFF,) * PIECES_MAX, b"\xff" * 32)
    text = encode(pieces, PIECES_MAX * PIECE_SIZE_MIN_BYTES)
    assert len(text) == TEXT_SIZE_MAX < 1500
    assert decode(text, PIECES_MAX * PIECE_SIZE_MIN_BYTES) == pieces


def test_pieces_of_another_size_are_refused() -> None:
    """The text does not fit an object of another size, not even one with as many pieces."""
    text = encode(sum_pieces([b"x" * 200_000]), 200_000)
    for size in (0, 1, 199_999, 200_001, 262_144, 262_145, 1 << 40, 1 << 62):
        with pytest.raises(Corrupt):
            decode(text, size)


def test_every_changed_character_is_seen() -> None:
    """No single character of the text can be another one."""
    data = b"x" * 200_000
    text = encode(sum_pieces([data]), len(data))
    for index, old in enumerate(text):
        for new in {"A", "1", "-", "é", "\0", " ", "="} - {old}:
            with pytest.raises(Corrupt):
                decode(text[:index] + new + text[index + 1 :], len(data))
    for cut in range(len(text)):
        with pytest.raises(Corrupt):
            decode(text[:cut], len(data))


@given(st.text(max_size=50) | st.from_regex(r"1-[0-9]{1,3}-[A-Za-z0-9_-]{0,60}", fullmatch=True))
@settings(max_examples=50)
def test_any_text_is_refused_or_read(text: str) -> None:
    """What somebody else put there is Corrupt, never another error."""
    for size in (0, 10, 1 << 45):
        with pytest.raises(Corrupt):
            decode(text, size)


def test_huge_texts_cost_nothing() -> None:
    """A text beyond all measure, or with an absurd piece size, is refused by its form."""
    for text in ("1-17-" + "A" * (1 << 20), "1-99-AAAA", "1-²²-AAAA", "1--5-AAAA", "1-00-AAAA", "2-17-AAAA"):
        with pytest.raises(Corrupt):
            decode(text, 1000)


def test_the_format_stays() -> None:
    """Texts made by earlier versions are read by this one, and made alike."""
    for data, text in VECTORS.items():
        assert encode(sum_pieces([data]), len(data)) == text
        assert decode(text, len(data)) == sum_pieces([data])
        raw = base64.urlsafe_b64decode(text[5:] + "=" * (-len(text[5:]) % 4))
        assert raw[-36:-4] == sum_pieces([data]).digest
