"""Text from outside is escaped: what a terminal would act on shows as what it is."""

import pytest

from bucketry.core.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, élan, 東京", "plain words, élan, 東京"),
        ("", ""),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("two\nlines\r\ttab", "two\\nlines\\r\\ttab"),
        ("bell\x07 del\x7f c1\x9b", "bell\\x07 del\\x7f c1\\x9b"),
        # It turns the direction of what follows, which makes one name look like another.
        ("a\u202eb\u200bc\u2028", "a\\u202eb\\u200bc\\u2028"),
        ("tag\U000e0041", "tag\\U000e0041"),
        # Bytes that are no UTF-8, and a half of a pair that nobody can encode.
        ("latin \udce9", "latin \\xe9"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_nothing_moves_a_cursor(text: str, shown: str) -> None:
    """Escapes for what is not printable, and everything else as it is."""
    assert printable(text) == shown
    shown.encode()


def test_lines_stay_lines() -> None:
    """For tracebacks, whose line ends are our own."""
    assert printable_lines("a\x1b\nb\r\n\nc") == "a\\x1b\nb\\r\n\nc"
