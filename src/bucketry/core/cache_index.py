"""The index of the cached blocks, as text: which slot holds which block, one line each.

::

    bucketry-blocks 1 {"block_size": 131072, …}       what all of it is about; other text: another cache
    CRC32C BLOCK SLOT CHECK TAG                        numbers in decimal, CRC32C and CHECK in hexadecimal

A later line for a block, or for a slot, takes the place of earlier ones. CRC32C is of the rest of the line,
so that each line stands for itself: what is torn or damaged is passed over, and the block it spoke of is not
cached.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

_MAGIC = "bucketry-blocks 1 "


@dataclass(frozen=True, slots=True)
class Record:
    """``slot`` holds ``block`` as it was stored under ``tag``; ``check`` tells whether it still does."""

    block: int
    slot: int
    check: bytes
    tag: str


#: crc32c of some bytes.
Checksum = Callable[[bytes], int]


def header_line(about: str) -> bytes:
    """The first line; ``about`` is any text without line breaks."""
    return f"{_MAGIC}{about}\n".encode()


def can_keep(tag: str) -> bool:
    """Whether a tag fits on a line."""
    return tag.isascii() and tag.isprintable()


def record_line(record: Record, checksum: Checksum) -> bytes:
    rest = b"%d %d %s %s" % (record.block, record.slot, record.check.hex().encode(), record.tag.encode())
    return b"%08x %s\n" % (checksum(rest), rest)


def parse_index(
    content: bytes, about: str, *, block_count: int, slot_count: int, checksum: Checksum
) -> tuple[Mapping[int, Record], bool]:
    """The records by block, oldest first, and whether the text is sound: otherwise it should be written anew
    before anything is added to it."""
    header = header_line(about)
    if not content.startswith(header):
        return {}, False
    lines = content[len(header) :].split(b"\n")
    sound = lines.pop() == b""
    records: dict[int, Record] = {}
    owners: dict[int, int] = {}
    for line in lines:
        record = _parse_line(line, checksum)
        if record is None or record.block >= block_count or record.slot >= slot_count:
            sound = False
            continue
        # What this line replaces: the block's former slot, and the slot's former block.
        former = records.pop(record.block, None)
        if former is not None:
            del owners[former.slot]
        owner = owners.pop(record.slot, None)
        if owner is not None:
            del records[owner]
        records[record.block] = record
        owners[record.slot] = record.block
    return records, sound


def _parse_line(line: bytes, checksum: Checksum) -> Record | None:
    if line[:9] != b"%08x " % checksum(line[9:]):
        return None
    try:
        block, slot, check, tag = line[9:].decode("ascii").split(" ", 3)
        return Record(int(block), int(slot), bytes.fromhex(check), tag)
    except ValueError:
        return None


def index_text(about: str, records: Iterable[Record], checksum: Checksum) -> bytes:
    """The whole index."""
    return header_line(about) + b"".join(record_line(record, checksum) for record in records)
