"""Sizes, rates and times as people write them: ``128K``, ``1.5 MiB``, ``250 ms``; powers of 1024."""

import re

from bucketry.errors import Invalid

#: s3backer's suffixes, in order of magnitude, each 1024 times the one before.
_SUFFIXES = "kmgtpezy"
_SIZE = re.compile(r"^\s*(\d+)\s*(?:([kmgtpezy])(i?b?)|b)?\s*$", re.IGNORECASE | re.ASCII)
#: A volume has at most 2**58 bytes; far above it, and the digits of an answer stay countable.
_SIZE_MAX = 1 << 80


def parse_size(text: str) -> int:
    """Bytes in ``text``: a whole number with an optional suffix k m g t p e z y, of either case (``128K``,
    ``1T``).

    ``K``, ``Ki``, ``KB`` and ``KiB`` are the same: s3backer knows only powers of 1024. Raises Invalid for
    anything else.
    """
    match = _SIZE.match(text)
    if match is None:
        raise Invalid(f"not a size: {text!r} (a whole number with an optional suffix, like 4096, 128K or 1T)")
    number, suffix = match.group(1), match.group(2)
    power = _SUFFIXES.index(suffix.lower()) + 1 if suffix else 0
    size_bytes = int(number) << (10 * power) if len(number) <= len(str(_SIZE_MAX)) else _SIZE_MAX
    if size_bytes >= _SIZE_MAX:
        raise Invalid(f"not a size: {text[:40]!r} is more than any disk or cache can have")
    return size_bytes


def is_decimal_unit(text: str) -> bool:
    """Whether a size ends in ``KB``, ``MB``, …, which to many means powers of 1000."""
    match = _SIZE.match(text)
    return match is not None and (match.group(3) or "").lower() == "b"


def format_seconds(seconds: float) -> str:
    """A time for a person, to two or three digits: ``0 s``, ``12 µs``, ``3.2 ms``, ``1.5 s``, ``250 s``."""
    if not seconds:
        return "0 s"
    if seconds >= 1:
        value, unit = seconds, "s"
    elif seconds >= 1e-3:
        value, unit = seconds * 1e3, "ms"
    else:
        value, unit = seconds * 1e6, "µs"
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def exact_size(size_bytes: int) -> str:
    """``size_bytes`` for a person who compares: as ``format_size`` where that is exact, otherwise in
    bytes."""
    text = format_size(size_bytes)
    return f"{size_bytes} bytes" if "." in text else text


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
