"""The file of slots: what is written is read, and what is zero or unused takes no space."""

import random
from pathlib import Path

import pytest

from bucketry.cache.slot_file import SlotFile

SLOT = 64 << 10


def used_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("slot_bytes", [512, 4096, SLOT])
def test_slots_hold_what_was_last_written(tmp_path: Path, slot_bytes: int) -> None:
    """Whatever was in them before; neighbours are not touched."""
    prng = random.Random(1)
    file = SlotFile(tmp_path / "data", slot_bytes, 10)
    model = [bytes(slot_bytes)] * 10
    for _ in range(100):
        slot = prng.randrange(10)
        pages = -(-slot_bytes // 4096)
        data = b"".join(
            prng.choice([bytes(4096), prng.randbytes(4096), bytes(4095) + b"x"]) for _ in range(pages)
        )[:slot_bytes]
        file.write(slot, memoryview(data))
        model[slot] = data
        assert [file.read(index) for index in range(10)] == model
    file.free(2, 5)
    assert [file.read(index) for index in range(2, 5)] == [bytes(slot_bytes)] * 3
    assert file.read(5) == model[5]
    file.close()


def test_it_is_sparse(tmp_path: Path) -> None:
    """Empty slots, pages of zeros within slots, and freed slots take no space."""
    path = tmp_path / "data"
    file = SlotFile(path, SLOT, 1000)
    assert path.stat().st_mode & 0o777 == 0o600
    assert used_bytes(path) == 0
    file.write(500, bytes(SLOT // 2) + b"x" * 4096 + bytes(SLOT // 2 - 4096))
    assert 0 < used_bytes(path) <= 8192
    file.write(501, b"x" * SLOT)
    assert used_bytes(path) >= SLOT
    file.write(501, bytes(SLOT))
    file.free(0, 1000)
    assert used_bytes(path) == 0
    file.close()


def test_it_takes_the_size_that_is_asked(tmp_path: Path) -> None:
    """Made smaller, what is beyond the end is gone; made larger again, it is zeros."""
    path = tmp_path / "data"
    for count in (4, 2, 4):
        file = SlotFile(path, SLOT, count)
        assert path.stat().st_size == count * SLOT
        last = file.read(3)
        file.write(1, b"x" * SLOT)
        if count == 4:
            assert last == bytes(SLOT)
            file.write(3, b"y" * SLOT)
        else:
            assert last == b""
        file.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    """The file is ours, or none."""
    (tmp_path / "data").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        SlotFile(tmp_path / "data", SLOT, 1)
