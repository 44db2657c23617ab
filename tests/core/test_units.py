"""Sizes as people write them, read and shown."""

import pytest

from bucketry.core.units import exact_size, format_seconds, format_size, is_decimal_unit, parse_size
from bucketry.errors import Invalid

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("0", 0),
        ("7b", 7),
        ("128K", 128 << 10),
        ("128k", 128 << 10),
        ("10G", 10 * GIB),
        ("10Gi", 10 * GIB),
        ("10GiB", 10 * GIB),
        ("10GB", 10 * GIB),
        ("10gib", 10 * GIB),
        (" 10 GiB ", 10 * GIB),
        ("1T", 1 << 40),
        ("2E", 2 << 60),
    ],
)
def test_every_spelling_of_a_suffix_is_a_power_of_1024(text: str, size_bytes: int) -> None:
    """As s3backer has them."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1.5G", "1e9", "10 G i", "10Gib it", "10X", "1Y", "9" * 5000, "٣"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """Fractions and signs included, and numbers that nobody could store."""
    with pytest.raises(Invalid, match="not a size"):
        parse_size(text)


def test_units_that_others_take_for_powers_of_1000() -> None:
    """KB and the like; the short and the binary ones are clear."""
    assert [text for text in ("1", "1b", "1K", "1Ki", "1KiB", "1KB", "1 mb") if is_decimal_unit(text)] == [
        "1KB",
        "1 mb",
    ]


@pytest.mark.parametrize(
    ("size_bytes", "shown", "exactly"),
    [
        (0, "0 B", "0 B"),
        (1023, "1023 B", "1023 B"),
        (128 << 10, "128 KiB", "128 KiB"),
        (1_500_000, "1.4 MiB", "1500000 bytes"),
        (3 * GIB // 2, "1.5 GiB", "1610612736 bytes"),
        (10 * GIB, "10 GiB", "10 GiB"),
    ],
)
def test_sizes_are_shown_in_their_largest_unit(size_bytes: int, shown: str, exactly: str) -> None:
    """To be read, and to be compared."""
    assert format_size(size_bytes) == shown
    assert exact_size(size_bytes) == exactly


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (3e-7, "0.3 µs"),
        (0.000012, "12 µs"),
        (0.0032, "3.2 ms"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (250, "250 s"),
    ],
)
def test_times_are_shown_in_their_largest_unit(seconds: float, shown: str) -> None:
    """To two or three digits."""
    assert format_seconds(seconds) == shown
