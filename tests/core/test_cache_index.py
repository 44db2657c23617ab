"""The index of cached blocks: what is written is read, and what is damaged is passed over."""

import random
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.cache_index import Record, can_keep, header_line, index_text, parse_index, record_line

TAGS = st.text(st.characters(min_codepoint=32, max_codepoint=126))
RECORDS = st.lists(st.builds(Record, st.integers(0, 99), st.integers(0, 9), st.binary(), TAGS), max_size=20)


def parse(content: bytes, about: str = "mine") -> tuple[dict[int, Record], bool]:
    records, sound = parse_index(content, about, block_count=100, slot_count=10, checksum=crc32)
    return dict(records), sound


def current(records: list[Record]) -> dict[int, Record]:
    """The last word on each block and slot."""
    found: dict[int, Record] = {}
    for record in records:
        found = {
            each.block: each
            for each in found.values()
            if each.block != record.block and each.slot != record.slot
        }
        found[record.block] = record
    return found


@given(RECORDS, RECORDS)
def test_later_lines_replace_earlier_ones(written: list[Record], added: list[Record]) -> None:
    """One block has one slot, one slot one block, whatever came before."""
    content = index_text("mine", written, crc32) + b"".join(record_line(each, crc32) for each in added)
    assert parse(content) == (current(written + added), True)


def test_tags_that_do_not_fit_on_a_line_are_known() -> None:
    """They would end the line, or are not what stores give."""
    assert can_keep('"abc-1"')
    assert can_keep("with blank")
    assert not can_keep("a\nb")
    assert not can_keep("č")


def test_other_caches_are_not_taken_for_ours() -> None:
    """Nothing of an index about something else counts, nor of what is none."""
    content = index_text("mine", [Record(1, 2, b"c", "t")], crc32)
    for other in (b"", b"mine", header_line("other")[:-1], content[1:]):
        assert parse(other) == ({}, False)
    assert parse(content, "other") == ({}, False)


def test_numbers_beyond_the_end_do_not_count() -> None:
    """A cache that was made smaller, or a volume that was."""
    records = [Record(100, 1, b"", "t"), Record(1, 10, b"", "t"), Record(99, 9, b"", "t")]
    assert parse(index_text("mine", records, crc32)) == ({99: records[2]}, False)


@given(RECORDS, st.integers(0, 2**32))
def test_what_is_damaged_is_not_there(records: list[Record], seed: int) -> None:
    """Cut, or with bits turned over: every record that is found was written."""
    content = bytearray(index_text("mine", records, crc32))
    prng = random.Random(seed)
    if prng.random() < 0.5:
        del content[prng.randrange(len(content) + 1) :]
    for _ in range(prng.randrange(4) if content else 0):
        content[prng.randrange(len(content))] ^= 1 << prng.randrange(8)
    found, sound = parse(bytes(content))
    assert all(record in records for record in found.values())
    assert not sound or set(found.values()) <= set(records)


def test_a_torn_line_loses_only_itself() -> None:
    """The last of it was not written; it is not sound, so that the next line does not go on where it
    stopped."""
    records = [Record(1, 1, b"a", "t"), Record(2, 2, b"b", "t")]
    content = index_text("mine", records, crc32)
    assert parse(content[:-1]) == ({1: records[0]}, False)
