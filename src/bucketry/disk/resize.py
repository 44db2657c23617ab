"""Another size for a volume: any for one that nobody has attached, a larger one for one that we have.

The order is such that after a crash at any point the volume opens, with the old size or the new one, and
whatever lies before both ends is as it was:

* growing: what is stored beyond the old end (a shrink that was cut short, another program) would come into
  view, so it goes first; then the size changes;
* shrinking: the size changes first; from then on nobody sees what is beyond the new end, and it is deleted.

A crash leaves blocks beyond the end at worst. The same command, once more, deletes them.

Growing a volume that is attached is the same from within. Its cache, through which block 0 has to go, knows
the larger size before the bucket does, and its users after it.
"""

from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace

from bucketry.cache.block_cache import BlockCache
from bucketry.codec.offload import Offload
from bucketry.core.geometry import BLOCK_COUNT_MAX, Geometry
from bucketry.core.names import BlockNames
from bucketry.core.priority import Priority
from bucketry.core.units import exact_size
from bucketry.core.zeros import is_zero
from bucketry.disk import holding
from bucketry.disk.holding import Place
from bucketry.disk.journaling import AttachedJournal
from bucketry.errors import AlreadyExists, Busy, Corrupt, Invalid, Mismatch, NotFound
from bucketry.layout import volume
from bucketry.layout.interface import Layout
from bucketry.layout.listing import list_blocks_between
from bucketry.layout.resize import set_size, set_size_in_use
from bucketry.layout.superblock import read_superblock
from bucketry.layout.together import few_at_once
from bucketry.layout.volume import Volume
from bucketry.settings import LimitSettings, Patience, VolumeSettings

#: Keys in one request of a bulk delete: what S3 allows.
_DELETE_BATCH = 1000
#: Bulk deletes under way at once. S3 takes most of a second for one.
_DELETES_MAX = 4
#: Live blocks are counted so far: nobody needs to know how many more a shrink would cut, and each is read for
#: it.
_LIVE_COUNT_MAX = 1000


@dataclass(frozen=True, slots=True)
class ResizeStep:
    """``deleted_count`` of ``delete_count`` blocks beyond the end have gone."""

    before_bytes: int
    after_bytes: int
    deleted_count: int
    delete_count: int


async def resize(
    place: Place,
    asked: VolumeSettings,
    size_bytes: int,
    *,
    adopt: bool = False,
    offload: Offload,
    limits: LimitSettings,
) -> AsyncGenerator[ResizeStep, None]:
    """Give the volume ``size_bytes``; yields how far it is. What ``asked`` says of the size counts for
    nothing. Where block 0 says a larger size than the superblock, what lies before that is the volume's.

    Raises AlreadyExists when that would delete blocks that are not zero, unless ``asked.force``, or bring
    such blocks into view, unless ``adopt`` makes them the volume's; Invalid for a size that cannot be, Busy
    when somebody holds the volume, WrongPassword without its password.
    """
    asked = replace(asked, size_bytes=None)
    found, _ = await _check(place, asked, size_bytes)
    await volume.unlock(place.bucket, found, asked.password)
    try:
        async with holding.held(place, Patience()):
            # Once more: until now somebody else might have changed it.
            found, geometry = await _check(place, asked, size_bytes)
            claimed = await volume.claimed_bytes(place.bucket, found)
            old_count, new_count = claimed // geometry.block_size_bytes, geometry.block_count
            grows = new_count > old_count
            first, stop = (old_count, new_count) if grows else (new_count, BLOCK_COUNT_MAX)
            beyond = _Beyond(place, found, first, stop)
            delete_count = 0 if grows and adopt else await beyond.count()
            if delete_count and not asked.force:
                in_flight_max = limits.blocks_in_flight(geometry.block_size_bytes)
                live = await beyond.count_live(asked, offload, in_flight_max)
                if live:
                    raise AlreadyExists(_refusal(place, live, grows=grows))
            if not grows:
                await set_size(place.bucket, found, geometry)
            step = ResizeStep(found.geometry.size_bytes, geometry.size_bytes, 0, delete_count)
            if delete_count:
                async with aclosing(beyond.delete()) as batches:
                    async for count in batches:
                        step = replace(step, deleted_count=step.deleted_count + count)
                        yield step
            if grows:
                if delete_count and await beyond.count():
                    raise Busy(f"{place.url}: somebody writes blocks beyond the end")
                await set_size(place.bucket, found, geometry)
            yield step
    except Busy as error:
        raise Busy(
            f"{error}. Where it is attached it can be made larger: bucketry resize DIR SIZE"
        ) from error


async def grow(
    place: Place,
    asked: VolumeSettings,
    size_bytes: int,
    cache: BlockCache,
    now: Geometry,
    attached: AttachedJournal | None,
    *,
    offload: Offload,
    in_flight_max: int,
) -> Geometry:
    """Give the volume that ``cache`` writes, of ``now``, a larger size; what it is then.

    Raises Busy for a smaller one, AlreadyExists when blocks that are not zero would come into view, unless
    ``asked.force``; Invalid for a size that cannot be, and what the bucket raises. After an error the volume
    opens with the old size or the new one; the same once more ends the work.
    """
    geometry = Geometry(size_bytes, now.block_size_bytes)
    if size_bytes < now.size_bytes:
        raise Busy(
            f"{place.url} is attached: a disk is made smaller while nobody has it, after its filesystem"
        )
    try:
        found, _ = await _check(place, replace(asked, size_bytes=None), size_bytes)
    except (NotFound, Busy) as error:  # Busy: the token there is our own
        raise Invalid(
            f"{place.url}: an s3backer volume says its size on block 0, and nothing is stored yet: write "
            "something there, or attach it anew with the new size"
        ) from error
    if (
        found.geometry not in (now, geometry)
        or await volume.claimed_bytes(place.bucket, found) > found.format.size_bytes
    ):
        raise Mismatch(
            f"{place.url} is attached with {exact_size(now.size_bytes)} and says that it has "
            f"{exact_size(found.format.size_bytes)}: resize it to that, or attach it anew"
        )
    beyond = _Beyond(place, found, now.block_count, geometry.block_count)
    if await beyond.count():
        if not asked.force and (live := await beyond.count_live(asked, offload, in_flight_max)):
            raise AlreadyExists(_refusal(place, live, grows=True))
        async with aclosing(beyond.delete()) as batches:
            async for _ in batches:
                pass
        if await beyond.count():
            raise Busy(f"{place.url}: somebody writes blocks beyond the end")

    async def rewrite_block_0() -> None:
        cache.grow(geometry, zero=True)
        await cache.rewrite(0)

    if found.resized_from_bytes is not None and found.geometry == now:
        await cache.rewrite(0)  # it may say a size that nobody would know of any more
    if attached is not None:
        await attached.relabel(now.size_bytes, size_bytes)
    await set_size_in_use(place.bucket, found, geometry, rewrite_block_0)
    if attached is not None:
        await attached.relabel(size_bytes)
    return geometry


async def look_size(place: Place, asked: VolumeSettings) -> int:
    """What a volume that somebody else may have resized has for its size now."""
    found = await volume.detect(place.bucket, place.prefix, replace(asked, size_bytes=None), salt=place.salt)
    return found.format.size_bytes


async def _check(place: Place, asked: VolumeSettings, size_bytes: int) -> tuple[Volume, Geometry]:
    """The volume, and what it shall be. That block 0 says another size is no obstacle: this is the command
    that makes them agree."""
    try:
        found = await volume.detect(place.bucket, place.prefix, asked, salt=place.salt, compare=False)
        # As it would be opened, but for sizes that disagree.
        await read_superblock(place.bucket, place.prefix, needs_checksum=not asked.force)
    except Mismatch:
        raise
    except Invalid as error:
        if await read_superblock(place.bucket, place.prefix, needs_checksum=False) is not None:
            raise
        raise Invalid(
            f"{place.url}: an s3backer volume says its size on block 0, which does not say it here: there is "
            "nothing to change; give the new size when you attach it"
        ) from error
    return found, Geometry(size_bytes, found.format.block_size_bytes)


def _refusal(place: Place, live: int, *, grows: bool) -> str:
    blocks = "one block is" if live == 1 else f"{live} blocks are"
    if live == _LIVE_COUNT_MAX:
        blocks = f"{live} or more blocks are"
    if grows:
        return (
            f"{place.url}: {blocks} stored beyond the end and not zero: from an earlier and larger size, or "
            "written by another program. --adopt makes them part of the volume, --force deletes them"
        )
    return f"{place.url}: {blocks} not zero beyond the new end; --force deletes them"


class _Beyond:
    """The blocks that are stored from ``first`` to before ``stop``, whatever the volume's size."""

    def __init__(self, place: Place, found: Volume, first: int, stop: int) -> None:
        self._bucket = place.bucket
        block_size = found.format.block_size_bytes
        self._everything = replace(
            found, format=replace(found.format, size_bytes=BLOCK_COUNT_MAX * block_size)
        )
        self._first = first
        self._stop = stop

    @property
    def _names(self) -> BlockNames:
        return self._everything.names

    def _pages(self) -> AsyncGenerator[list[int], None]:
        return list_blocks_between(self._bucket, self._names, self._first, self._stop)

    async def count(self) -> int:
        count = 0
        async with aclosing(self._pages()) as pages:
            async for blocks in pages:
                count += len(blocks)
        return count

    async def count_live(self, asked: VolumeSettings, offload: Offload, in_flight_max: int) -> int:
        """How many of them are not zero, up to _LIVE_COUNT_MAX. One that cannot be read counts."""
        cipher = await volume.unlock(self._bucket, self._everything, asked.password)
        layout = volume.open_layout(
            self._bucket, self._everything, cipher, offload=offload, in_flight_max=in_flight_max
        )
        live = 0
        async with aclosing(few_at_once(self._looks(layout), in_flight_max)) as results:
            async for is_live in results:
                live += is_live
                if live == _LIVE_COUNT_MAX:
                    break
        return live

    async def _looks(self, layout: Layout) -> AsyncGenerator[Coroutine[object, object, bool], None]:
        async with aclosing(self._pages()) as pages:
            async for blocks in pages:
                for block in blocks:
                    yield self._is_live(layout, block)

    async def _is_live(self, layout: Layout, block: int) -> bool:
        try:
            data = await layout.read(self._everything.geometry.extent(block))
        except Corrupt:
            return True
        return data is not None and not is_zero(data)

    async def delete(self) -> AsyncGenerator[int, None]:
        """Delete them; yields how many each request took."""
        async with aclosing(few_at_once(self._deletes(), _DELETES_MAX)) as counts:
            async for count in counts:
                yield count

    async def _deletes(self) -> AsyncGenerator[Coroutine[object, object, int], None]:
        keys: list[str] = []
        async with aclosing(self._pages()) as pages:
            async for blocks in pages:
                keys += map(self._names.key, blocks)
                while len(keys) >= _DELETE_BATCH:
                    yield self._delete(keys[:_DELETE_BATCH])
                    del keys[:_DELETE_BATCH]
        if keys:
            yield self._delete(keys)

    async def _delete(self, keys: list[str]) -> int:
        await self._bucket.delete_many(keys, priority=Priority.UPLOAD)
        return len(keys)
