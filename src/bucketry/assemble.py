"""The one place that joins components: read it top to bottom for the architecture."""

import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from bucketry.bucket.connect import connect
from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.location import parse_url
from bucketry.bucket.metered import Metered
from bucketry.bucket.retrying import Retrying
from bucketry.bucket.stack import fitted, layered, locate
from bucketry.cache.journal_files import DirectoryFiles
from bucketry.codec.offload import Threads
from bucketry.core.geometry import Geometry
from bucketry.core.lease import DURATION_SECONDS, Timing, timing
from bucketry.disk import holding, lifecycle
from bucketry.disk.check import CheckReport, CheckStep, Repair, check
from bucketry.disk.holding import Holding, Place
from bucketry.disk.interface import Device
from bucketry.disk.lifecycle import Local
from bucketry.disk.resize import ResizeStep, resize
from bucketry.errors import Invalid
from bucketry.layout.volume import s3backer_salt
from bucketry.settings import BucketSettings, CacheSettings, Secret, VolumeFormat, VolumeSettings

#: Of the requests that may be in flight, so many may be uploads: reads then always find a place within the
#: time of one request.
_UPLOAD_SHARE = 3 / 4
#: Less than the time between two renewals of a lease.
_CONTROL_BUDGET_SECONDS = 8.0
#: A shorter lease, so that tests need not wait for a minute. Both sides keep to what the lease says, whatever
#: this says where they run.
_LEASE_VARIABLE = "BUCKETRY_LEASE_SECONDS"
#: Renewed six times in that.
_LEASE_SECONDS_MIN = 2.0
#: For blocks on local disk: while one waits for a write, another reads.
_CACHE_THREADS = 4


@asynccontextmanager
async def open_place(settings: BucketSettings) -> AsyncIterator[Place]:
    """The bucket at ``settings.url``, retrying, limited and metered, and the prefix in it. No request is
    sent."""
    settings = fitted(settings)
    location = locate(settings)
    lease = lease_timing(settings)
    # A request must end within the lease under which it was sent.
    settings = replace(settings, timeout_seconds=lease.request_seconds)
    fence = Fence()
    metered = Metered(connect(settings, fence=fence))
    bucket = layered(FencedBucket(metered, fence), settings)
    # Lease and token are a few requests that must not wait behind others, nor for long.
    control = Retrying(
        metered,
        replace(settings.retry, budget_seconds=min(_CONTROL_BUDGET_SECONDS, settings.retry.budget_seconds)),
    )
    # A directory has no name that outlives a move; its last part is what people would call it.
    name = location.bucket_name if location.directory is None else location.directory.name
    try:
        yield Place(
            bucket, control, fence, location.prefix, s3backer_salt(name, location.prefix), timing=lease
        )
    finally:
        await bucket.close()


def lease_timing(settings: BucketSettings) -> Timing:
    """How long a lease lasts that is held with these requests: a minute, or longer where they may take
    longer; or as long as ``$BUCKETRY_LEASE_SECONDS`` says, for tests. Raises Invalid."""
    given = os.environ.get(_LEASE_VARIABLE)
    if not given:
        return timing(settings.timeout_seconds)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not _LEASE_SECONDS_MIN <= seconds <= DURATION_SECONDS:
        raise Invalid(
            f"{_LEASE_VARIABLE} is {given!r:.40}, not a number of seconds from {_LEASE_SECONDS_MIN:g} to "
            f"{DURATION_SECONDS:g}"
        )
    return timing(settings.timeout_seconds, seconds)


@asynccontextmanager
async def open_disk(
    bucket: BucketSettings, volume: VolumeSettings, cache: CacheSettings
) -> AsyncIterator[Device]:
    """The running disk of a volume; on leaving, flushed and closed.

    Raises what keeps it from opening: NotFound, Mismatch, WrongPassword, Busy, Denied, Unavailable …; on
    leaving, Unfinished when something could not be uploaded.
    """
    bucket = fitted(bucket)
    threads = Threads(os.cpu_count() or 1)
    journal_thread = Threads(1)
    cache_threads = Threads(_CACHE_THREADS)
    local = None
    if cache.cache_dir is not None:
        journal_directory = cache.cache_dir / "journal"
        local = Local(lambda: DirectoryFiles(journal_directory), journal_directory.is_dir, journal_thread)
    uploads_max = max(1, int(bucket.limits.requests_max * _UPLOAD_SHARE))
    try:
        async with (
            open_place(bucket) as place,
            lifecycle.opened(
                place,
                volume,
                cache,
                offload=threads,
                uploads_max=uploads_max,
                local=local,
                # A journal that is adopted comes alone: its directory may be another volume's otherwise.
                cache_offload=None if cache.adopt_journal else cache_threads,
            ) as disk,
        ):
            yield disk
    finally:
        threads.close()
        journal_thread.close()
        cache_threads.close()


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What a volume says of itself."""

    url: str
    format: VolumeFormat
    #: "bucketry" (it has a superblock) or "s3backer" (known by its blocks, or by what was asked).
    kind: str
    volume_id: str | None
    created: str | None
    #: Who holds it for writing, as its lease and mount token say.
    holding: Holding

    @property
    def mounted_by(self) -> str | None:
        """The same for people; None when nobody does."""
        return self.holding.holder


async def create_volume(
    bucket: BucketSettings, volume: VolumeFormat, *, password: Secret | None = None
) -> VolumeInfo:
    """Make an empty volume; a missing directory of a ``file://`` URL too, below one that exists. Raises
    AlreadyExists where a volume is."""
    Geometry(volume.size_bytes, volume.block_size_bytes)  # refuses what cannot be before anything is made
    directory = parse_url(bucket.url).directory
    if directory is not None and directory.parent.is_dir():
        directory.mkdir(exist_ok=True)
    async with open_place(bucket) as place:
        made = await lifecycle.create(place, volume, password)
        nobody = Holding(None, None)
        return VolumeInfo(place.url, made.format, made.kind, made.volume_id, made.created, nobody)


async def inspect_volume(bucket: BucketSettings, volume: VolumeSettings) -> VolumeInfo:
    """What is at ``bucket.url``. Needs no password; one that is given must be right. Raises NotFound where no
    volume is."""
    async with open_place(bucket) as place:
        found, holder = await lifecycle.inspect(place, volume)
        return VolumeInfo(place.url, found.format, found.kind, found.volume_id, found.created, holder)


@dataclass(frozen=True, slots=True)
class EraseProgress:
    """``deleted_count`` objects gone so far."""

    deleted_count: int


async def erase_volume(bucket: BucketSettings, volume: VolumeSettings) -> AsyncIterator[EraseProgress]:
    """Delete a volume: blocks first, superblock and mount token last. Raises when anything remains."""
    async with open_place(bucket) as place:
        async for deleted_count in lifecycle.erase(place, volume):
            yield EraseProgress(deleted_count)


async def find_holding(bucket: BucketSettings, *, even_damaged: bool = False) -> Holding:
    """Who holds the volume at ``bucket.url`` for writing. Raises Corrupt when its lease is damaged, unless
    ``even_damaged``."""
    async with open_place(bucket) as place:
        return await holding.look(place, even_damaged=even_damaged)


async def unlock_volume(
    bucket: BucketSettings, *, seen: Holding | None = None, old_host_is_dead: bool = False
) -> str | None:
    """Take a volume from whoever holds it for writing, wait until he can write no more (unless
    ``old_host_is_dead``), and leave it free. Who held it; None when nobody did. Raises Busy when that is
    somebody else than was ``seen``."""
    async with open_place(bucket) as place:
        return await holding.unlock(place, seen=seen, old_host_is_dead=old_host_is_dead)


async def check_volume(
    bucket: BucketSettings, volume: VolumeSettings, *, repair: Repair | None = None, measure: bool = False
) -> AsyncGenerator[CheckStep | CheckReport, None]:
    """Read and verify all that is stored of a volume; the report comes last. Nothing is changed without
    ``repair``. ``measure`` finds out how much there is to read, too."""
    threads = Threads(os.cpu_count() or 1)
    try:
        async with (
            open_place(bucket) as place,
            aclosing(
                check(place, volume, repair=repair, measure=measure, offload=threads, limits=bucket.limits)
            ) as steps,
        ):
            async for step in steps:
                yield step
    finally:
        threads.close()


async def resize_volume(
    bucket: BucketSettings, volume: VolumeSettings, size_bytes: int, *, adopt: bool = False
) -> AsyncGenerator[ResizeStep, None]:
    """Give a volume another size. Raises AlreadyExists when that would delete data, unless
    ``volume.force``; or bring data beyond its end into view, unless that is to ``adopt``."""
    threads = Threads(os.cpu_count() or 1)
    try:
        async with (
            open_place(bucket) as place,
            aclosing(
                resize(place, volume, size_bytes, adopt=adopt, offload=threads, limits=bucket.limits)
            ) as steps,
        ):
            async for step in steps:
                yield step
    finally:
        threads.close()
