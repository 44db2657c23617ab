"""The one place that joins components: read it top to bottom for the architecture."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bucketry.disk.interface import Device
from bucketry.settings import BucketSettings, CacheSettings, Secret, VolumeFormat, VolumeSettings


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What a volume says of itself."""

    url: str
    format: VolumeFormat
    #: "bucketry" (it has a superblock) or "s3backer" (known by its block 0, or by what was asked).
    kind: str
    volume_id: str | None
    created: str | None
    #: Who has it mounted, as far as the mount token tells; None when nobody has.
    mounted_by: str | None


async def create_volume(
    bucket: BucketSettings, volume: VolumeFormat, *, password: Secret | None = None, force: bool = False
) -> VolumeInfo:
    """Make an empty volume. Raises AlreadyExists where one is."""
    raise NotImplementedError


async def inspect_volume(bucket: BucketSettings, volume: VolumeSettings) -> VolumeInfo:
    """What is at ``bucket.url``. Raises NotFound where no volume is."""
    raise NotImplementedError


@asynccontextmanager
async def open_disk(
    bucket: BucketSettings, volume: VolumeSettings, cache: CacheSettings
) -> AsyncIterator[Device]:
    """The running disk of a volume; on leaving, flushed and closed (which raises when something could not be kept)."""
    raise NotImplementedError
    yield


@dataclass(frozen=True, slots=True)
class EraseProgress:
    """``deleted_count`` objects gone so far."""

    deleted_count: int


async def erase_volume(bucket: BucketSettings, volume: VolumeSettings) -> AsyncIterator[EraseProgress]:
    """Delete a volume: blocks first, superblock and mount token last. Raises when anything remains."""
    raise NotImplementedError
    yield
