"""The overlay of a journal: of every byte the newest source is known, and of no other byte anything."""

from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.overlay import Overlay, Piece

_SIZE = 64
_RANGES = st.tuples(st.integers(0, _SIZE - 1), st.integers(0, _SIZE)).map(
    lambda pair: (pair[0], min(pair[1], _SIZE - pair[0]))
)


@given(
    st.lists(st.tuples(_RANGES, st.integers(0, 3))),
    _RANGES,
)
def test_the_newest_source_of_every_byte_is_known(
    added: list[tuple[tuple[int, int], int]], asked: tuple[int, int]
) -> None:
    """Whatever overlaps, an overlay says of each byte what a plain list of bytes says. Source 0 is zeros."""
    overlay: Overlay[int] = Overlay()
    expected: list[tuple[int, int] | None] = [None] * _SIZE
    for number, ((offset, length), kind) in enumerate(added, 1):
        source = None if kind == 0 else number
        overlay.add(Piece(offset, length, source))
        for at in range(offset, offset + length):
            expected[at] = (0, 0) if source is None else (number, at - offset)
    offset, length = asked
    found: list[tuple[int, int] | None] = [None] * _SIZE
    last = offset
    for piece in overlay.pieces(offset, length):
        assert last <= piece.offset < piece.end <= offset + length
        last = piece.end
        for at in range(piece.length):
            source_at = (0, 0) if piece.source is None else (piece.source, piece.start + at)
            found[piece.offset + at] = source_at
    assert found[offset : offset + length] == expected[offset : offset + length]
    assert overlay.touches(offset, length) == any(expected[offset : offset + length])
    assert overlay.size_bytes == sum(each is not None for each in expected)
