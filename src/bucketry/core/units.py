"""Sizes, rates and times as people write them: ``128K``, ``1.5 MiB``, ``250 ms``; powers of 1024."""

import re

from bucketry.errors import Invalid

#: s3backer's suffixes, in order of magnitude, each 1024 times the one before.
_SUFFIXES = "kmgtpezy"
_SIZE = re.compile(r"^\s*(\d+)\s*(?:([kmgtpezy])(?:i?b)?|b)?\s*$", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes in ``text``: a whole number with an optional suffix k m g t p e z y, of either case (``128K``,
    ``1T``).

    ``KiB`` and ``KB`` are taken as ``K`` is: s3backer knows only powers of 1024. Raises Invalid for anything
    else.
    """
    match = _SIZE.match(text)
    if match is None:
        raise Invalid(f"not a size: {text!r} (a whole number with an optional suffix, like 4096, 128K or 1T)")
    number, suffix = match.groups()
    power = _SUFFIXES.index(suffix.lower()) + 1 if suffix else 0
    return int(number) << (10 * power)


def format_size(size_bytes: int) -> str:
    """``size_bytes`` for a person: ``0 B``, ``128 KiB``, ``1.5 GiB``; exact when it is a whole number of
    units."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    power = min((size_bytes.bit_length() - 1) // 10, len(_SUFFIXES))
    unit = 1 << (10 * power)
    name = f"{_SUFFIXES[power - 1].upper()}iB"
    if size_bytes % unit == 0:
        return f"{size_bytes // unit} {name}"
    return f"{size_bytes / unit:.1f} {name}"
