"""Pages over a base, compared with a byte array."""

import random

import pytest

from bucketry.core.pages import ZEROS, completed, compose, page_size_for, patched
from bucketry.core.ranges import Ranges

BLOCK = 64


@pytest.mark.parametrize(("block", "page"), [(512, 128), (4096, 1024), (128 << 10, 4096), (64 << 20, 4096)])
def test_a_block_has_four_pages_or_more(block: int, page: int) -> None:
    """Of 4 KiB, or less where blocks are small."""
    assert page_size_for(block) == page


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_of_any_pages(seed: int) -> None:
    """Some pages over a base, over zeros, or over nothing: every range is what a byte array has there."""
    dice = random.Random(seed)
    page = dice.choice([4, 16, 32])
    base = dice.choice([None, ZEROS, dice.randbytes(BLOCK), memoryview(dice.randbytes(BLOCK))])
    whole = bytearray(base or bytes(BLOCK))
    pages = {}
    for number in dice.sample(range(BLOCK // page), dice.randrange(BLOCK // page + 1)):
        pages[number] = dice.randbytes(page)
        whole[number * page : (number + 1) * page] = pages[number]
    for start in range(BLOCK):
        for end in range(start + 1, BLOCK + 1):
            assert bytes(compose(base, pages, page, start, end)) == whole[start:end]


def test_a_page_is_written_in_the_middle() -> None:
    assert patched(b"abcdef", 2, memoryview(b"XY")) == b"abXYef"


@pytest.mark.parametrize("below", [b"0123456789abcdef", ZEROS])
def test_what_is_not_known_of_a_page_comes_from_below(below: bytes) -> None:
    """A page that begins at byte 8 of its block, of which bytes 9, 10 and 14 are known."""
    known = Ranges()
    for start, end in ((0, 4), (9, 11), (14, 15)):
        known.add(start, end)
    under = below or bytes(16)
    expected = under[8:9] + b"BC" + under[11:14] + b"G" + under[15:16]
    assert completed(b"ABCDEFGH", 8, below, known) == expected
    known.add(8, 16)
    assert completed(b"ABCDEFGH", 8, below, known) == b"ABCDEFGH"
