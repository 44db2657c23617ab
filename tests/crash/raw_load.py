"""A load on a raw disk that follows from a seed: writes, holes and fsyncs, and what they may leave behind.

Run as a program it does them, and tells on standard output the number of each operation whose fsync returned.
"""

import hashlib
import os
import random
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from ctypes import CDLL, c_int, c_int64, get_errno
from dataclasses import dataclass
from itertools import count as count_from
from itertools import islice

SECTOR = 4096
#: Seed, number of the operation, sector; all else in a sector follows from these.
_STAMP = struct.Struct(">QII")
#: Some operations in a row between two fsyncs, so that epochs hold several blocks; and some alone.
_SYNC_SHARE = 0.2
_HOLE_SHARE = 0.1
#: Up to two blocks at once, from the middle of one to the middle of another.
_SECTORS_MAX = 64
_PUNCH_HOLE = 0x02 | 0x01  # and FALLOC_FL_KEEP_SIZE
_ZEROS = bytes(SECTOR)
_fallocate = CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (c_int, c_int, c_int64, c_int64)
#: What is told of an fsync that failed.
FAILED = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Operation:
    """Sectors written, or made a hole; ``is_synced``: with an fsync after it."""

    number: int
    first_sector: int
    sector_count: int
    is_hole: bool
    is_synced: bool


def operations(seed: int, region: range) -> Iterator[Operation]:
    """What the load with this seed does to the sectors of ``region``, one after the other, without end."""
    prng = random.Random(seed)
    for number in count_from():
        length = prng.choice((1, 1, 2, 8, prng.randint(1, _SECTORS_MAX)))
        yield Operation(
            number,
            prng.randrange(region.start, region.stop - length),
            length,
            prng.random() < _HOLE_SHARE,
            prng.random() < _SYNC_SHARE,
        )


def stamped(seed: int, number: int, sector: int) -> bytes:
    """A sector as one operation writes it."""
    stamp = _STAMP.pack(seed, number, sector)
    return stamp + hashlib.shake_128(stamp).digest(SECTOR - len(stamp))


@dataclass(frozen=True, slots=True)
class Checked:
    """``sector_count`` sectors held something of this load; ``newest``: the last operation that was seen, -1
    when none was."""

    sector_count: int
    newest: int


def check(
    image: Sequence[int], base: bytes, *, seed: int, region: range, synced: int, durable: bool
) -> Checked:
    """Compare what a crash left with what this load may leave on ``base``.

    Every sector must be as it was, or as one operation wrote it. Everything up to the last fsync before the
    newest operation that is seen must be there (order), and with ``durable`` everything up to operation
    ``synced``, the last whose fsync returned; -1: none did. Fails with the first sector that is otherwise.
    """
    history: dict[int, list[Operation]] = defaultdict(list)
    barriers = [-1]
    for operation in operations(seed, region):
        for sector in range(operation.first_sector, operation.first_sector + operation.sector_count):
            history[sector].append(operation)
        if operation.is_synced:
            barriers.append(operation.number)
            if operation.number > synced:
                break  # nothing was begun after an fsync that did not return

    # The newest operation that each sector may be of.
    found: dict[int, int] = {}
    newest = -1
    for sector in region:
        place = slice(sector * SECTOR, (sector + 1) * SECTOR)
        content = bytes(image[place])
        versions = [-1] if content == base[place] else []
        for operation in history[sector]:
            is_this = (
                content == _ZEROS if operation.is_hole else _is_of(content, seed, operation.number, sector)
            )
            if is_this:
                versions.append(operation.number)
                if not operation.is_hole:
                    newest = max(newest, operation.number)
        assert versions, f"sector {sector} holds what nobody wrote: {content[:32].hex()}"
        found[sector] = versions[-1]

    needed = max(barrier for barrier in barriers if barrier < newest) if newest >= 0 else -1
    if durable:
        needed = max(needed, synced)
    for sector, version in found.items():
        least = max((each.number for each in history[sector] if each.number <= needed), default=-1)
        assert version >= least, (
            f"sector {sector} is of operation {version} and should be of {least}: "
            f"fsync returned after {synced}, {newest} is there, so all up to {needed} must be"
        )
    return Checked(sum(version >= 0 for version in found.values()), newest)


def _is_of(content: bytes, seed: int, number: int, sector: int) -> bool:
    # The stamp alone first: it is far cheaper.
    return content.startswith(_STAMP.pack(seed, number, sector)) and content == stamped(seed, number, sector)


def final_content(base: bytes, seed: int, region: range, count: int) -> bytes:
    """The disk after the first ``count`` operations on ``base``."""
    disk = bytearray(base)
    for operation in islice(operations(seed, region), count):
        place = slice(
            operation.first_sector * SECTOR, (operation.first_sector + operation.sector_count) * SECTOR
        )
        disk[place] = bytes(operation.sector_count * SECTOR) if operation.is_hole else _data(seed, operation)
    return bytes(disk)


def _data(seed: int, operation: Operation) -> bytes:
    sectors = range(operation.first_sector, operation.first_sector + operation.sector_count)
    return b"".join(stamped(seed, operation.number, sector) for sector in sectors)


def perform(file: int, seed: int, operation: Operation) -> None:
    """Do an operation, but for its fsync. Raises OSError when the disk fails."""
    offset, length = operation.first_sector * SECTOR, operation.sector_count * SECTOR
    if not operation.is_hole:
        assert os.pwrite(file, _data(seed, operation), offset) == length
    elif _fallocate(file, _PUNCH_HOLE, offset, length) != 0:
        raise OSError(get_errno(), "fallocate")


def run(path: str, seed: int, region: range, count: int | None = None) -> None:
    """Do the first ``count`` operations, or all until the disk fails, which raises OSError. With ``count`` an
    fsync that fails is told (by -1) and tried again."""
    file = os.open(path, os.O_RDWR)
    for operation in islice(operations(seed, region), count):
        perform(file, seed, operation)
        if operation.is_synced:
            while True:
                try:
                    os.fsync(file)
                    break
                except OSError:
                    if count is None:
                        raise
                    os.write(1, FAILED)
                    time.sleep(1)  # as somebody who tries again would
            os.write(1, operation.number.to_bytes(4, "big"))


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    seed, first, end, *counts = map(int, numbers)
    run(path, seed, range(first, end), *counts)
