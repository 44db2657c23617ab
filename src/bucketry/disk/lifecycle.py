"""The life of a volume: made, opened as a running disk, erased.

Everything here works on a bucket and a prefix in it; ``assemble`` says which.
"""

import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from bucketry import __version__
from bucketry.bucket.interface import Bucket
from bucketry.cache.block_cache import BlockCache
from bucketry.codec.offload import Offload
from bucketry.core.geometry import BLOCK_COUNT_MAX
from bucketry.core.names import MOUNT_TOKEN_NAME, SUPERBLOCK_NAME, BlockNames
from bucketry.core.priority import Priority
from bucketry.core.units import format_size
from bucketry.disk.disk import Disk
from bucketry.errors import BucketryError, Unfinished
from bucketry.layout import mount_token, volume
from bucketry.layout.volume import Volume
from bucketry.settings import CacheSettings, Secret, VolumeFormat, VolumeSettings

_log = logging.getLogger(__name__)

#: Keys in one request of a bulk delete: what S3 allows, and what progress is told in.
_ERASE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a volume lies. ``salt`` is what its keys are derived with, when it does not say so itself."""

    bucket: Bucket
    prefix: str
    salt: str

    @property
    def url(self) -> str:
        return f"{self.bucket.url}/{self.prefix}"


async def create(place: Place, volume_format: VolumeFormat, password: Secret | None) -> Volume:
    """Make an empty volume. Raises AlreadyExists where one is, Busy where s3backer has an empty one
    mounted."""
    await mount_token.check_not_mounted(place.bucket, place.prefix)
    return await volume.create(
        place.bucket,
        place.prefix,
        volume_format,
        salt=place.salt,
        password=password,
        volume_id=uuid4().hex,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        created_by=f"bucketry {__version__}",
    )


async def inspect(place: Place, asked: VolumeSettings) -> tuple[Volume, mount_token.MountToken | None]:
    """What a volume says of itself, and who has it mounted. Needs no password. Raises NotFound where none
    is."""
    found = await volume.detect(place.bucket, place.prefix, asked, salt=place.salt)
    return found, await mount_token.read_token(place.bucket, place.prefix)


@asynccontextmanager
async def opened(
    place: Place, asked: VolumeSettings, cache_settings: CacheSettings, *, offload: Offload, uploads_max: int
) -> AsyncIterator[Disk]:
    """The running disk of a volume. Nothing is written before the volume and the password have been found
    right and, for writing, the mount token is ours.

    On leaving everything is flushed, and the token taken back. When the flush fails the dirty data is lost
    with the process: Unfinished is raised saying how much, and the token stays as a sign of it. Flush first,
    and leave when that has worked.
    """
    found = await volume.detect(
        place.bucket, place.prefix, asked, salt=place.salt, allow_empty=asked.size_bytes is not None
    )
    cipher = await volume.unlock(place.bucket, found, asked.password)
    layout = volume.open_layout(place.bucket, found, cipher, offload=offload, in_flight_max=uploads_max)
    token = mount_token.new_value()
    if not asked.read_only:
        now = datetime.now(UTC)
        await mount_token.take_token(
            place.bucket, place.prefix, token, host=socket.gethostname(), now=now, force=asked.force
        )
    cache = BlockCache(layout, cache_settings, read_only=asked.read_only)
    try:
        cache.start()
        yield Disk(cache, layout.geometry, read_only=asked.read_only)
    finally:
        await _close(cache)
        if not asked.read_only:
            await mount_token.release_token(place.bucket, place.prefix, token)


async def _close(cache: BlockCache) -> None:
    try:
        await cache.close()
    except BucketryError as error:
        lost_bytes = await cache.abandon()
        raise Unfinished(
            f"{format_size(lost_bytes)} did not reach the bucket and are lost: {error}"
        ) from error
    finally:
        await cache.abandon()


async def erase(place: Place, asked: VolumeSettings) -> AsyncGenerator[int, None]:
    """Delete a volume: its blocks, also those beyond its end, then superblock and mount token; yields how
    many objects have gone so far. Objects of other names stay.

    Nobody can mount the volume meanwhile: its mount token is ours. Raises NotFound where no volume is and
    Busy where somebody has it mounted, unless ``asked.force``; Unfinished when anything is left at the end.
    """
    if not asked.force:
        await volume.detect(place.bucket, place.prefix, asked, salt=place.salt)
    await mount_token.take_token(
        place.bucket,
        place.prefix,
        mount_token.new_value(),
        host=socket.gethostname(),
        now=datetime.now(UTC),
        force=asked.force,
    )
    deleted_count = 0
    async with aclosing(_block_keys(place)) as batches:
        async for keys in batches:
            await place.bucket.delete_many(keys, priority=Priority.UPLOAD)
            deleted_count += len(keys)
            yield deleted_count
    async with aclosing(_block_keys(place)) as batches:
        async for keys in batches:
            raise Unfinished(
                f"{place.url}: {keys[0]} and perhaps others came back while erasing: erase once more"
            )
    for name in (SUPERBLOCK_NAME, MOUNT_TOKEN_NAME):
        await place.bucket.delete(place.prefix + name)
    yield deleted_count


async def _block_keys(place: Place) -> AsyncGenerator[list[str], None]:
    """The keys of all blocks under the prefix, with hash prefixes or without, in batches."""
    kinds = [BlockNames(place.prefix, BLOCK_COUNT_MAX, hash_prefix) for hash_prefix in (False, True)]
    keys: list[str] = []
    async for page in place.bucket.list(prefix=place.prefix):
        keys += [entry.key for entry in page if any(names.parse(entry.key) is not None for names in kinds)]
        while len(keys) >= _ERASE_BATCH:
            yield keys[:_ERASE_BATCH]
            keys = keys[_ERASE_BATCH:]
    if keys:
        yield keys
