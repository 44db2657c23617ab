"""Statistics for people: one screen with labels that are unique, or every figure under its JSON name."""

import re
from collections.abc import Iterator, Mapping

import pytest

from bucketry.assemble import create_volume, open_disk
from bucketry.bucket.memory import shared_store
from bucketry.cli.figures import every_figure, screen
from bucketry.settings import BucketSettings, CacheSettings, VolumeFormat, VolumeSettings

URL = "memory://cli-figures/disk"
BLOCK = 128 << 10


@pytest.fixture
async def statistics() -> dict[str, object]:
    """Of a disk with a journal's, a FUSE session's and a disk cache's figures, as a serving process has."""
    await create_volume(BucketSettings(url=URL), VolumeFormat(size_bytes=4 << 20, block_size_bytes=BLOCK))
    async with open_disk(BucketSettings(url=URL), VolumeSettings(), CacheSettings()) as disk:
        await disk.write(0, b"x" * BLOCK * 3)
        await disk.flush()
        await disk.write(0, b"y")
        found = dict(disk.statistics())
    shared_store("cli-figures").objects.clear()
    return {
        **found,
        "fuse": {"read_bytes": 5000, "written_bytes": 1 << 20, "requests": {"read": 2}, "immediate_reads": 1},
        "journal": {"state": "ready", "used_bytes": 1 << 20, "size_bytes_max": 1 << 28, "lag_bytes": 4096},
        "disk_cache": {"on": True, "held_bytes": 1 << 30, "held_bytes_max": 1 << 31, "hits": 3, "misses": 1},
    }


def leaves(figures: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


async def test_one_screen(statistics: dict[str, object]) -> None:
    """24 lines of 80 characters are enough, no label comes twice, and no bytes are bare numbers."""
    lines = list(screen(statistics))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    told = dict(line.split(":", 1) for line in lines)
    assert len(told) == len(lines)
    assert {label: value.strip() for label, value in told.items()} | {
        "size": "4 MiB in blocks of 128 KiB",
        "stored": "384 KiB that are not known to be zero",
        "read": "4.9 KiB in 2 requests, 1 answered at once",
        "written": "1 MiB in 0 requests, 0 answered at once",
        "uploads": "3 blocks; 0 under way, 0 failed",
        "flushes": "1; 0 failed",
        "disk cache": "1 GiB of 2 GiB; 3 of 4 reads found there (75 %)",
        "journal": "ready; 1 MiB of 256 MiB, 4 KiB not yet in the bucket",
        "retries": "0; given up 0 times",
    } == {label: value.strip() for label, value in told.items()}
    # The block, and what is known of its parts.
    assert re.fullmatch(r" +1[23]\d\.\d KiB of 128 MiB, the oldest for \d.*", told["dirty"])
    assert told["lease"].strip().startswith("held, renewed ")


async def test_the_last_errors_are_on_it(statistics: dict[str, object]) -> None:
    """On one line each, however long they are."""
    assert not [line for line in screen(statistics) if "error:" in line]
    cache = statistics["cache"]
    assert isinstance(cache, Mapping)
    lines = list(screen({**statistics, "cache": {**cache, "last_error": "the bucket is away " * 10}}))
    (error,) = [line for line in lines if "error:" in line]
    assert error.startswith("cache error:    the bucket is away the bucket")
    assert len(error) == 80


async def test_a_disk_without_this_and_that() -> None:
    """What is not there has no line; a read-only disk has nothing dirty."""
    labels = [line.partition(":")[0] for line in screen({"disk": {"read_only": True}})]
    assert labels == ["size", "stored", "read", "written", "memory", "read ahead", "retries"]


async def test_every_figure_has_its_own_name(statistics: dict[str, object]) -> None:
    """The path to it in the JSON object; its unit follows from its name."""
    lines = list(every_figure(statistics))
    assert [line.partition(":")[0] for line in lines] == list(leaves(statistics))
    assert len(set(lines)) == len(lines)
    assert "cache.held_bytes_max: 256 MiB" in lines
    assert "journal.lag_bytes: 4 KiB" in lines
    assert "disk_cache.hits: 3" in lines
    not_zero = list(every_figure(statistics, but_zeros=True))
    assert set(not_zero) < set(lines)
    assert not [line for line in not_zero if line.endswith((": 0", ": 0 B", ": 0 s", ": no", ": -"))]
