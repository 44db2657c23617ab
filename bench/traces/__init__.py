"""What real programs asked of a disk: recorded traces, and how to read and write them.

A trace is a text file, compressed with xz: one request a line, ``r``, ``w`` or ``z`` (read, write, zero), its
first page and the number of pages of 4 KiB that it touches. ``python -m bench.record`` makes them anew.
"""

import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path

from bucketry.testing.recording_device import Access

PAGE_BYTES = 4096
#: As they were recorded, one after the other on one disk.
ORDER = ("mkfs", "untar", "tar", "clone", "git", "commit")
_DIRECTORY = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in _DIRECTORY.glob("*.xz"))


def read(name: str) -> Iterator[tuple[str, int, int]]:
    """Kind, first page and number of pages of each request."""
    for line in lzma.decompress((_DIRECTORY / f"{name}.xz").read_bytes()).decode().splitlines():
        kind, first, count = line.split()
        yield kind, int(first), int(count)


def write(name: str, accesses: Sequence[Access]) -> None:
    lines = []
    for access in accesses:
        first = access.offset // PAGE_BYTES
        count = -(-(access.offset + access.length) // PAGE_BYTES) - first
        lines.append(f"{access.kind} {first} {count}\n")
    (_DIRECTORY / f"{name}.xz").write_bytes(lzma.compress("".join(lines).encode(), preset=9))
