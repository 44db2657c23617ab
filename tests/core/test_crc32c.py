"""Checksums of parts make the checksum of the whole."""

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.crc32c import combine


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_parts_make_the_whole(first: bytes, second: bytes) -> None:
    """The combination is the checksum of the parts one behind the other, empty ones included."""
    whole = google_crc32c.value(first + second)
    assert combine(google_crc32c.value(first), google_crc32c.value(second), len(second)) == whole


def test_long_parts() -> None:
    """Lengths beyond 32 bits of bits are right as well: 600 MiB of zeros behind a byte."""
    zeros, length = google_crc32c.value(bytes(1 << 20)), 1 << 20
    whole = google_crc32c.value(b"x")
    for _ in range(600):
        whole = combine(whole, zeros, length)
    doubled, doubled_length = zeros, length
    parts: list[tuple[int, int]] = []
    for _ in range(10):
        parts.append((doubled, doubled_length))
        doubled, doubled_length = combine(doubled, doubled, doubled_length), 2 * doubled_length
    at_once = google_crc32c.value(b"x")
    for index in (3, 4, 6, 9):  # 8 + 16 + 64 + 512 = 600
        at_once = combine(at_once, *parts[index])
    assert at_once == whole
