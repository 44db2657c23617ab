"""The check of what a crash left on a raw disk finds what is wrong."""

import pytest

from crash.raw_load import SECTOR, Operation, check, operations, stamped

REGION = range(4, 200)
BASE = bytes(200 * SECTOR)
SEED = 5


def _first(count: int) -> list[Operation]:
    numbers = operations(SEED, REGION)
    return [next(numbers) for _ in range(count)]


def _after(count: int) -> bytearray:
    """The disk after the first ``count`` operations."""
    disk = bytearray(BASE)
    for operation in _first(count):
        for sector in range(operation.first_sector, operation.first_sector + operation.sector_count):
            content = bytes(SECTOR) if operation.is_hole else stamped(SEED, operation.number, sector)
            disk[sector * SECTOR : (sector + 1) * SECTOR] = content
    return disk


def _synced(count: int) -> int:
    """The last operation with an fsync among the first ``count``."""
    return max(each.number for each in _first(count) if each.is_synced)


def test_what_a_power_cut_may_leave_passes() -> None:
    """All that was synced, and some of what was written after it."""
    for count in range(20, 60):
        checked = check(_after(count), BASE, seed=SEED, region=REGION, synced=_synced(count), durable=True)
        assert checked.newest == max(each.number for each in _first(count) if not each.is_hole)


def test_a_lost_operation_is_found() -> None:
    """Synced and not there: an error with durability, none for a bucket that is behind."""
    synced = _synced(60)
    before = _synced(synced)
    left = _after(before + 1)
    with pytest.raises(AssertionError, match="should be of"):
        check(left, BASE, seed=SEED, region=REGION, synced=synced, durable=True)
    check(left, BASE, seed=SEED, region=REGION, synced=synced, durable=False)


def test_a_wrong_order_is_found() -> None:
    """Something from after an fsync is there, and something from before it is not."""
    synced = _synced(60)
    disk, old = _after(61), _after(20)
    newest = max(each.number for each in _first(61) if not each.is_hole)
    sectors = [
        sector for sector in REGION if disk[sector * SECTOR :][:12] == stamped(SEED, newest, sector)[:12]
    ]
    assert newest > synced
    for sector in set(REGION) - set(sectors):
        disk[sector * SECTOR : (sector + 1) * SECTOR] = old[sector * SECTOR : (sector + 1) * SECTOR]
    with pytest.raises(AssertionError, match="should be of"):
        check(disk, BASE, seed=SEED, region=REGION, synced=synced, durable=False)


@pytest.mark.parametrize("at", [0, 13, 100, SECTOR - 1])
def test_a_damaged_sector_is_found(at: int) -> None:
    """One bit of a sector that was written is another."""
    disk = _after(30)
    sector = next(each for each in REGION if any(disk[each * SECTOR : (each + 1) * SECTOR]))
    disk[sector * SECTOR + at] ^= 4
    with pytest.raises(AssertionError, match="nobody wrote"):
        check(disk, BASE, seed=SEED, region=REGION, synced=_synced(30), durable=True)
