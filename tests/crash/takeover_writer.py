"""A process that writes a disk over and over, flushes, and says what became of each flush; to be stopped at
any moment."""

import asyncio
import errno
import json
import sys
from contextlib import suppress
from pathlib import Path

from bucketry.assemble import open_disk
from bucketry.errnos import errno_of
from bucketry.errors import BucketryError
from bucketry.settings import BucketSettings, CacheSettings, VolumeSettings

BLOCK_BYTES = 32 << 10
BLOCK_COUNT = 64


def content(writer: str, number: int) -> bytes:
    """A block of it, of which every 16 bytes say whose it is."""
    return f"{writer}{number:>15}".encode() * (BLOCK_BYTES // 16)


def bucket_settings(place: dict[str, str | None]) -> BucketSettings:
    access_file = place["access_file"]
    return BucketSettings(
        url=str(place["url"]),
        endpoint=place["endpoint"],
        access_file=None if access_file is None else Path(access_file),
    )


def cache_settings(directory: str | None) -> CacheSettings:
    if directory is None:
        return CacheSettings(write_delay_seconds=0.0)
    return CacheSettings(write_delay_seconds=0.0, cache_dir=Path(directory), durability="journal")


async def write_for_ever(place: dict[str, str | None], directory: str | None) -> None:
    with suppress(BucketryError):  # what did not reach the bucket
        async with open_disk(bucket_settings(place), VolumeSettings(), cache_settings(directory)) as disk:
            for number in range(1 << 60):
                try:
                    for block in range(BLOCK_COUNT):
                        await disk.write(block * BLOCK_BYTES, content("A", number))
                    await disk.flush()
                except BucketryError as error:
                    print("failed", errno.errorcode[errno_of(error)], error, flush=True)
                    return
                print("flushed", flush=True)


if __name__ == "__main__":
    asyncio.run(write_for_ever(json.loads(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
