"""The zero map on local disk: used once, by who may, when it is whole."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.cache.directory import CacheDirectory
from bucketry.cache.saved_zeros import load_zero_map, save_zero_map
from bucketry.core.zero_map import ZeroMap

COUNT = 100_000


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[CacheDirectory]:
    with CacheDirectory.open(tmp_path, "volume a") as directory:
        yield directory


def a_map() -> ZeroMap:
    zeros = ZeroMap(COUNT)
    zeros.set_zero(10, 90_000)
    zeros.clear(5000)
    return zeros


def test_it_is_used_once(directory: CacheDirectory) -> None:
    """What was kept is what is known; a second time there is none."""
    save_zero_map(directory, a_map(), "7")
    found = load_zero_map(directory, COUNT, "7")
    assert found is not None
    assert found.encode() == a_map().encode()
    assert load_zero_map(directory, COUNT, "7") is None


def test_it_is_not_used_when_somebody_else_has_written(directory: CacheDirectory) -> None:
    """Nor is it there for a later attempt."""
    save_zero_map(directory, a_map(), "7")
    assert load_zero_map(directory, COUNT, "8") is None
    assert load_zero_map(directory, COUNT, "7") is None


def test_it_is_of_one_volume_and_size(tmp_path: Path, directory: CacheDirectory) -> None:
    """A volume that was resized, or another one, is surveyed."""
    save_zero_map(directory, a_map(), "7")
    assert load_zero_map(directory, COUNT + 1, "7") is None
    save_zero_map(directory, a_map(), "7")
    directory.close()
    (tmp_path / "identity.json").unlink()
    with CacheDirectory.open(tmp_path, "volume b") as other:
        assert load_zero_map(other, COUNT, "7") is None


@pytest.mark.parametrize("seed", range(50))
def test_a_damaged_one_is_not_used(directory: CacheDirectory, seed: int) -> None:
    """Cut, extended, or with a bit turned over anywhere."""
    save_zero_map(directory, a_map(), "7")
    prng = random.Random(seed)
    content = bytearray(directory.zeros.read_bytes())
    match seed % 3:
        case 0:
            del content[prng.randrange(len(content)) :]
        case 1:
            content += b"x"
        case _:
            content[prng.randrange(len(content))] ^= 1 << prng.randrange(8)
    directory.zeros.write_bytes(content)
    assert load_zero_map(directory, COUNT, "7") is None


@pytest.mark.logs("the zero map", required=True)
def test_a_local_error_is_no_error(directory: CacheDirectory) -> None:
    """A directory in its place: not kept, not used, one line each."""
    directory.zeros.mkdir()
    save_zero_map(directory, a_map(), "7")
    assert load_zero_map(directory, COUNT, "7") is None
