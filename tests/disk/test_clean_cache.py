"""The clean cache of a running disk, from one attachment to the next."""

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bucketry.assemble import create_volume, open_disk
from bucketry.disk.interface import Device
from bucketry.errors import Busy, Mismatch
from bucketry.settings import BucketSettings, CacheSettings, Secret, VolumeFormat, VolumeSettings

BLOCK = 64 << 10
TEXT = b"these words are on the disk and nowhere else" * 1000
PASSWORD = Secret("secret")


async def make_volume(path: Path, *, password: Secret | None = None) -> BucketSettings:
    settings = BucketSettings(url=f"file://{path}")
    volume = VolumeFormat(
        size_bytes=64 * BLOCK, block_size_bytes=BLOCK, cipher="AES-256-CBC" if password else None
    )
    await create_volume(settings, volume, password=password)
    return settings


@asynccontextmanager
async def running(
    bucket: BucketSettings, cache_dir: Path | None, *, password: Secret | None = None, read_only: bool = False
) -> AsyncIterator[Device]:
    settings = CacheSettings(cache_dir=cache_dir, cache_size_bytes=1 << 20, memory_bytes=1 << 20)
    volume = VolumeSettings(password=password, read_only=read_only)
    async with open_disk(bucket, volume, settings) as disk:
        yield disk


def figures(disk: Device) -> Mapping[str, object]:
    found = disk.statistics()["disk_cache"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("password", [None, PASSWORD])
async def test_blocks_outlive_the_process(tmp_path: Path, password: Secret | None) -> None:
    """What was written is read from local disk the next time, and encrypted there if the volume is."""
    bucket = await make_volume(tmp_path / "bucket", password=password)
    cache = tmp_path / "cache"
    async with running(bucket, cache, password=password) as disk:
        await disk.write(100, TEXT)
        await disk.flush()
    async with running(bucket, cache, password=password) as disk:
        assert await disk.read(100, len(TEXT)) == TEXT
        assert figures(disk)["hits"] == 1
        assert figures(disk)["misses"] == 0
    kept = (cache / "blocks/data").read_bytes()
    assert (TEXT[:40] in kept) == (password is None)


async def test_what_another_machine_wrote_is_seen(tmp_path: Path) -> None:
    """A write elsewhere, without this cache, in between: by reads and under partial writes."""
    bucket = await make_volume(tmp_path / "bucket")
    cache = tmp_path / "cache"
    async with running(bucket, cache) as disk:
        await disk.write(0, TEXT)
        await disk.write(BLOCK, TEXT)
    async with running(bucket, None) as disk:
        await disk.write(1000, b"elsewhere")
        await disk.write(BLOCK + 1000, b"elsewhere")
    async with running(bucket, cache) as disk:
        await disk.write(BLOCK, b"here")
        assert await disk.read(1000, 9) == b"elsewhere"
    async with running(bucket, None) as disk:
        assert await disk.read(BLOCK, 1009) == b"here" + TEXT[4:1000] + b"elsewhere"


async def test_what_is_known_to_be_zero_outlives_the_process_only_where_it_may(tmp_path: Path) -> None:
    """With ``exclusive`` holes are known at once the next time; not after somebody else had the volume, and
    not without it."""
    bucket = await make_volume(tmp_path / "bucket")

    async def knows_at_once(*, exclusive: bool, cache_dir: Path | None) -> bool:
        settings = CacheSettings(cache_dir=cache_dir, exclusive=exclusive, memory_bytes=1 << 20)
        async with open_disk(bucket, VolumeSettings(), settings) as disk:
            known = disk.read_nowait(5 * BLOCK, 10) is not None
            await disk.extents(0, 1)  # the survey is over
        return known

    cache = tmp_path / "cache"
    assert not await knows_at_once(exclusive=True, cache_dir=cache)
    assert await knows_at_once(exclusive=True, cache_dir=cache)
    assert not await knows_at_once(exclusive=False, cache_dir=cache)
    assert not await knows_at_once(exclusive=True, cache_dir=cache), "it was not kept without"
    assert not await knows_at_once(exclusive=True, cache_dir=None)
    assert not await knows_at_once(exclusive=True, cache_dir=cache), "another attachment came between"
    assert await knows_at_once(exclusive=True, cache_dir=cache)


async def test_a_cache_is_one_volumes_and_one_attachments(tmp_path: Path) -> None:
    """Another volume is refused, and so is the same one a second time."""
    first = await make_volume(tmp_path / "first")
    second = await make_volume(tmp_path / "second")
    cache = tmp_path / "cache"
    async with running(first, cache):
        with pytest.raises(Busy, match="in use by process"):
            async with running(first, cache, read_only=True):
                pass
    with pytest.raises(Mismatch, match="belongs to another volume"):
        async with running(second, cache):
            pass


async def test_after_a_restore_of_the_bucket_no_kept_hole_is_believed(tmp_path: Path) -> None:
    """One machine keeps what is zero. The bucket goes back to an earlier copy, and another machine writes, so
    that the count of holders is again what it was. The first machine reads what is there, and a small write
    into such a block keeps the rest of it."""
    path = tmp_path / "bucket"
    bucket = await make_volume(path)
    cache = tmp_path / "cache"
    kept = CacheSettings(cache_dir=cache, exclusive=True, memory_bytes=1 << 20)
    async with open_disk(bucket, VolumeSettings(), CacheSettings()) as disk:
        await disk.write(0, TEXT)
    shutil.copytree(path, tmp_path / "backup")
    async with open_disk(bucket, VolumeSettings(), kept) as disk:
        await disk.trim(0, disk.size_bytes)
        await disk.extents(0, 1)
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "backup", path)
    async with open_disk(bucket, VolumeSettings(), CacheSettings()) as disk:
        await disk.write(BLOCK, TEXT)
    async with open_disk(bucket, VolumeSettings(), kept) as disk:
        await disk.write(BLOCK, b"T")
        assert await disk.read(0, len(TEXT)) == TEXT
        assert await disk.read(BLOCK, len(TEXT)) == b"T" + TEXT[1:]
