"""The life of a volume: made, opened as a running disk, erased.

Everything here works on a place in a bucket; ``assemble`` says which.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import uuid4

from bucketry import __version__
from bucketry.cache.block_cache import BlockCache
from bucketry.cache.directory import CacheDirectory
from bucketry.cache.journal_files import Files
from bucketry.cache.saved_zeros import load_zero_map, save_zero_map
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import Offload, inline
from bucketry.core.geometry import Geometry
from bucketry.core.names import LEASE_NAME, SUPERBLOCK_NAME, BlockNames
from bucketry.core.priority import Priority
from bucketry.core.units import format_size
from bucketry.core.zero_map import ZeroMap
from bucketry.disk import clean_cache, holding, resize
from bucketry.disk.damaged import keep_damaged
from bucketry.disk.disk import Disk
from bucketry.disk.holding import Holding, Place
from bucketry.disk.interface import Device
from bucketry.disk.journaling import AttachedJournal, look_at_journal
from bucketry.disk.lease_keeper import LeaseKeeper
from bucketry.disk.overlaid import OverlaidDisk
from bucketry.errors import BucketryError, Busy, Fenced, TakenOver, Unfinished
from bucketry.layout import mount_token, volume
from bucketry.layout.interface import Layout
from bucketry.layout.listing import closing_pages
from bucketry.layout.together import both
from bucketry.layout.volume import Volume
from bucketry.settings import CacheSettings, Secret, VolumeFormat, VolumeSettings

_log = logging.getLogger(__name__)
#: What somebody at a terminal should know at once.
_notices = logging.getLogger("bucketry.notices")

#: Keys in one request of a bulk delete: what S3 allows, and what progress is told in.
_ERASE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Local:
    """The local storage of one attachment. ``journal_files`` opens the journal's files and makes them if need
    be, ``has_journal`` tells whether there are any; ``offload`` runs what is done with them, one call at a
    time."""

    journal_files: Callable[[], Files]
    has_journal: Callable[[], bool]
    offload: Offload


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


async def inspect(place: Place, asked: VolumeSettings) -> tuple[Volume, Holding]:
    """What a volume says of itself, and who holds it. Needs no password; one that is given must be right.
    Raises NotFound where no volume is, WrongPassword, and Mismatch for a password that nothing needs.

    What is asked of an s3backer volume and written nowhere is not repeated as if it had been found.
    """
    asked = replace(asked, compression=None, compression_level=None)
    found, held = await both(
        volume.detect(place.bucket, place.prefix, asked, salt=place.salt), holding.look(place)
    )
    if asked.password is not None:
        await volume.unlock(place.bucket, found, asked.password)
    elif found.kind == "s3backer":
        # Only the password could show whether it is right.
        found = replace(found, format=replace(found.format, key_length=None))
    return found, held


@asynccontextmanager
async def opened(
    place: Place,
    asked: VolumeSettings,
    cache_settings: CacheSettings,
    *,
    offload: Offload,
    uploads_max: int,
    local: Local | None = None,
    cache_offload: Offload | None = None,
) -> AsyncIterator[Device]:
    """The running disk of a volume. Nothing is written before the volume and the password have been found
    right and, for writing, lease and mount token are ours. What a journal was left with is taken over before
    the disk can be used. ``cache_offload`` runs what is done with the files of the cache directory, the
    journal's apart; None: nothing else is kept there.

    On leaving everything is brought into the bucket, and the volume given back. When that fails Unfinished is
    raised saying how much is missing, and lease and token stay as they are; without a journal it is lost with
    the process. Flush first, and leave when that has worked.
    """
    found = await volume.detect(place.bucket, place.prefix, asked, salt=place.salt, allow_empty=True)
    cipher = await volume.unlock(place.bucket, found, asked.password)
    stored = volume.open_layout(
        place.bucket,
        found,
        cipher,
        offload=offload,
        in_flight_max=uploads_max,
        parts_from_bytes=cache_settings.parts_from_bytes,
    )
    with clean_cache.open_directory(place, found, cache_settings, cache_offload) as directory:
        async with (
            clean_cache.over(stored, directory, cipher, cache_settings, cache_offload) as layout,
            _attached(
                place, found, asked, layout, cipher, cache_settings, local, directory, offload, uploads_max
            ) as disk,
        ):
            yield disk


@asynccontextmanager
async def _read_only(
    place: Place,
    found: Volume,
    asked: VolumeSettings,
    layout: Layout,
    cipher: BlockCipher | None,
    cache_settings: CacheSettings,
    local: Local | None,
) -> AsyncIterator[Device]:
    files = local.journal_files() if local is not None and local.has_journal() else None
    try:
        cache = BlockCache(layout, cache_settings, read_only=True)
        epochs = await look_at_journal(
            place,
            found,
            files,
            inline if local is None else local.offload,
            required=cache_settings.require_journal,
            cipher=cipher,
        )
        async with _running(cache):
            disk = Disk(
                cache,
                layout.geometry,
                read_only=True,
                look_size=None if asked.size_bytes else lambda: resize.look_size(place, asked),
            )
            yield await OverlaidDisk.over(disk, epochs) if epochs else disk
    finally:
        if files is not None:
            files.close()


@asynccontextmanager
async def _attached(
    place: Place,
    found: Volume,
    asked: VolumeSettings,
    layout: Layout,
    cipher: BlockCipher | None,
    cache_settings: CacheSettings,
    local: Local | None,
    directory: CacheDirectory | None,
    offload: Offload,
    uploads_max: int,
) -> AsyncIterator[Device]:
    if asked.read_only:
        async with _read_only(place, found, asked, layout, cipher, cache_settings, local) as device:
            yield device
        return
    disk: Disk | None = None

    async def grow(size_bytes: int, now: Geometry, force: bool) -> Geometry:
        return await resize.grow(
            place,
            replace(asked, force=force),
            size_bytes,
            cache,
            now,
            attached,
            offload=offload,
            in_flight_max=uploads_max,
        )

    def on_lost(error: Fenced) -> None:
        if disk is not None:
            disk.fail(TakenOver(str(error)))

    patience = asked.patience
    has_journal = local is not None and (cache_settings.durability == "journal" or local.has_journal())
    turn = await holding.wait_for_turn(place, patience, has_journal=has_journal)
    async with (
        _journal(place, found, asked, cipher, cache_settings, local) as attached,
        holding.held(
            place,
            patience,
            on_lost=on_lost,
            own=attached,
            owes=lambda: attached is not None and attached.owes,
            turn=turn,
        ) as keeper,
    ):
        if not turn.was_found_at_once or keeper.has_waited:
            await _check_unchanged(place, found, asked)
        if not cache_settings.exclusive:
            directory = None
        zeros = _kept_zeros(directory, layout, keeper)
        if attached is not None:
            await attached.confirm(keeper)
            if cache_settings.durability != "journal":
                await _drained(place, attached, layout, cache_settings, keeper)
                attached = None
        if attached is None:
            cache = BlockCache(layout, cache_settings, zeros=zeros)
        else:
            cache = BlockCache(
                layout, cache_settings, journal=attached.journal, journal_owner=attached, zeros=zeros
            )
        disk = Disk(
            cache,
            layout.geometry,
            companions={"lease": keeper.statistics},
            grow=grow,
            # Without a journal it is the bucket that a flush waits for, and the fence that says so.
            assure=None if attached is None else keeper.assure,
            keep_damaged=lambda geometry, block: keep_damaged(place.bucket, found, layout, geometry, block),
        )
        if keeper.is_lost:
            keeper.check()  # before there was a disk to be told
        async with _running(cache):
            if attached is not None:
                await _replay(place, attached, cache)
            yield disk
        if attached is not None:
            await attached.empty()
        if directory is not None and cache.zeros.surveyed:
            save_zero_map(directory, cache.zeros, keeper.tenure)


async def _check_unchanged(place: Place, found: Volume, asked: VolumeSettings) -> None:
    """Raises Busy unless the volume is what it was before its former holder was waited for."""
    now = await volume.detect(
        place.bucket, place.prefix, asked, salt=place.salt, allow_empty=asked.size_bytes is not None
    )
    if now != found:
        raise Busy(f"{place.url}: whoever had the volume has changed its size or format meanwhile; try again")


async def _drained(
    place: Place,
    attached: AttachedJournal,
    layout: Layout,
    cache_settings: CacheSettings,
    keeper: LeaseKeeper,
) -> None:
    """Bring into the bucket what a journal holds, for an attachment without one."""
    cache = BlockCache(layout, cache_settings, journal=attached.journal, journal_owner=attached)
    async with _running(cache):
        await _replay(place, attached, cache)
    await attached.empty()
    await keeper.tell_journal()


async def _replay(place: Place, attached: AttachedJournal, cache: BlockCache) -> None:
    waiting_bytes = sum(epoch.data_bytes for epoch in attached.epochs)
    if waiting_bytes:
        _notices.info("%s: replaying %s from the journal", place.url, format_size(waiting_bytes))
    try:
        replayed_bytes = await cache.recover(attached.epochs)
    except BaseException:
        # Nothing is flushed: half an epoch in the bucket would be taken for the whole.
        await cache.abandon()
        raise
    if replayed_bytes:
        _log.warning("%s: replayed %s from the journal", place.url, format_size(replayed_bytes))


def _kept_zeros(directory: CacheDirectory | None, layout: Layout, keeper: LeaseKeeper) -> ZeroMap | None:
    """What was known to be zero at the end of the attachment before, if that was the last one and gave the
    volume back in order."""
    previous = keeper.previous
    if directory is None or previous is None or previous.holder is not None or not previous.tenure:
        return None
    return load_zero_map(directory, layout.geometry.block_count, previous.tenure)


@asynccontextmanager
async def _journal(
    place: Place,
    found: Volume,
    asked: VolumeSettings,
    cipher: BlockCipher | None,
    cache_settings: CacheSettings,
    local: Local | None,
) -> AsyncIterator[AttachedJournal | None]:
    """The journal that goes with an attachment: one that was left behind, whatever the attachment's own
    durability, or a new one when that asks for one."""
    if local is None or (cache_settings.durability != "journal" and not local.has_journal()):
        assert cache_settings.durability != "journal", "a journal needs local storage"
        yield None
        return
    attached = await AttachedJournal.open(
        place,
        found,
        local.journal_files(),
        size_bytes_max=cache_settings.journal_bytes,
        offload=local.offload,
        adopt=cache_settings.adopt_journal,
        give_up=asked.force,
        cipher=cipher,
    )
    try:
        yield attached
    finally:
        await attached.close()


@asynccontextmanager
async def _running(cache: BlockCache) -> AsyncIterator[None]:
    try:
        cache.start()
        yield
    finally:
        await _close(cache)


async def _close(cache: BlockCache) -> None:
    try:
        await cache.close()
    except BucketryError as error:
        in_journal = await cache.is_in_journal()
        missing = format_size(await cache.abandon())
        if in_journal:
            text = f"{missing} did not reach the bucket; the journal keeps them for the next attach: {error}"
        else:
            text = f"{missing} did not reach the bucket and are lost: {error}"
        raise Unfinished(text) from error
    finally:
        await cache.abandon()


async def erase(place: Place, asked: VolumeSettings) -> AsyncGenerator[int, None]:
    """Delete a volume: its blocks, also those beyond its end, then superblock and mount token; yields how
    many objects have gone so far. Objects of other names stay, blocks with the other kind of names among
    them.

    Nobody can mount the volume meanwhile: lease and mount token are ours. Raises NotFound where no volume is
    and Busy where somebody has it mounted, unless ``asked.force``; Mismatch when it is not clear which of two
    volumes is meant; Unfinished when anything is left at the end. No password is needed, but one that is
    given must be right, by force too.
    """
    if not asked.force or asked.password is not None:
        found = await volume.detect(place.bucket, place.prefix, asked, salt=place.salt)
        if asked.password is not None:
            await volume.unlock(place.bucket, found, asked.password)
    naming = await volume.find_naming(place.bucket, place.prefix, asked)
    deleted_count = 0
    async with holding.held(place, asked.patience):
        async with aclosing(_block_keys(place, naming.names)) as batches:
            async for keys in batches:
                await place.bucket.delete_many(keys, priority=Priority.UPLOAD)
                deleted_count += len(keys)
                yield deleted_count
        async with aclosing(_block_keys(place, naming.names)) as batches:
            async for keys in batches:
                raise Unfinished(
                    f"{place.url}: {keys[0]} and perhaps others came back while erasing: erase once more"
                )
        if naming.owns_superblock:
            await place.bucket.delete(place.prefix + SUPERBLOCK_NAME)
    if naming.owns_superblock:
        await place.bucket.delete(place.prefix + LEASE_NAME)
    yield deleted_count


async def _block_keys(place: Place, names: BlockNames) -> AsyncGenerator[list[str], None]:
    """The keys of all blocks under the prefix, and of those that a check put aside, in batches."""
    keys: list[str] = []
    async with closing_pages(place.bucket.list(prefix=place.prefix)) as pages:
        async for page in pages:
            keys += [
                entry.key for entry in page if names.parse(entry.key) is not None or names.is_kept(entry.key)
            ]
            while len(keys) >= _ERASE_BATCH:
                yield keys[:_ERASE_BATCH]
                keys = keys[_ERASE_BATCH:]
    if keys:
        yield keys
