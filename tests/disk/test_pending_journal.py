"""What a killed process left in its journal is known to the bucket: no next attach, in any mode or place,
passes over it in silence, and nothing older goes over newer data."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bucketry.codec.offload import inline
from bucketry.core import lease as rules
from bucketry.core.bytes_like import BytesLike
from bucketry.core.journal import PAGE_BYTES, RECORD_BYTES
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME
from bucketry.disk import holding, lifecycle
from bucketry.disk.check import Repair, check
from bucketry.disk.interface import Device
from bucketry.disk.resize import resize
from bucketry.errors import Busy, Corrupt, JournalPending, Mismatch, ReadOnly
from bucketry.layout.mount_token import check_not_mounted
from bucketry.settings import LimitSettings, VolumeSettings
from bucketry.testing.memory_files import MemoryFiles
from bucketry.testing.virtual_time import on_virtual_time
from disk_world import BLOCK, BLOCKS, FORMAT, World, killed, new_world

pytestmark = pytest.mark.logs(
    "not in the bucket yet",
    "replayed",
    "taking over the lease",
    "could not be listed",
    "lease could not be renewed",
    "giving up the journal",
    "shown with what is only in",
    "is not shown",
    required=False,
)


@asynccontextmanager
async def crashed(world: World) -> AsyncIterator[Device]:
    """A disk whose process is killed at the end; the bucket is away, so flushes are in the journal alone."""
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        yield disk


async def crashed_world() -> World:
    """A volume whose last process flushed "mine" into its journal and was killed."""
    world = await new_world()
    async with crashed(world) as disk:
        await disk.write(0, b"mine")
        await disk.flush()
    return world


async def has_mine(world: World) -> bool:
    """Whether the right attach brings it back."""
    async with world.opened() as disk:
        return bytes(await disk.read(0, 4)) == b"mine"


REFUSAL = r"flushed writes may be only in the journal in memory on .* \(last heard of at .*--cache-dir"


@pytest.mark.parametrize("durability", ["bucket"])
@on_virtual_time
async def test_an_attach_without_the_directory_is_refused(durability: str) -> None:
    """It names host, directory and size; nothing is changed, and the right attach has everything. The same
    on another machine."""
    world = await crashed_world()
    before = dict(world.store.objects)
    with pytest.raises(JournalPending, match=REFUSAL):
        async with world.opened(durability=durability, has_directory=False):
            pass
    assert world.store.objects == before
    assert await has_mine(world)


@on_virtual_time
async def test_force_gives_a_pending_journal_up_and_it_is_refused_then() -> None:
    """The volume is taken without it. The journal is kept, and replayed only knowingly."""
    world = await crashed_world()
    async with world.opened(durability="bucket", has_directory=False, force=True) as disk:
        await disk.write(4, b"his!")
    with pytest.raises(Mismatch, match=r"somebody else has had the volume since.*--replay"):
        async with world.opened():
            pass
    async with world.opened(adopt=True) as disk:
        assert bytes(await disk.read(0, 8)) == b"minehis!"


@on_virtual_time
async def test_the_other_durability_replays_it_first() -> None:
    """An attach with the directory and durability bucket has everything, in the bucket, and the journal is
    not pending any more."""
    world = await crashed_world()
    async with world.opened(durability="bucket") as disk:
        assert world.blocks()[0][:4] == b"mine"
        assert bytes(await disk.read(0, 4)) == b"mine"
        assert (await holding.look(world.place())).journal is None
    async with world.opened(durability="bucket", has_directory=False) as disk:
        assert bytes(await disk.read(0, 4)) == b"mine"


@pytest.mark.parametrize("durability", ["bucket", "journal"])
@on_virtual_time
async def test_an_attach_that_is_interrupted_while_it_uploads_keeps_the_journal(durability: str) -> None:
    """As by SIGTERM, or a second one: the lease stays and names the journal, as long as that may hold what
    the bucket lacks; and not any longer."""
    world = await crashed_world()
    put, is_uploading = world.faulty.put, asyncio.Event()

    async def hang(key: str, data: BytesLike, **options: Any) -> str:
        if not key.endswith((LEASE_NAME, MOUNT_TOKEN_NAME)):
            is_uploading.set()
            await asyncio.Event().wait()
        return await put(key, data, **options)

    async def attach() -> None:
        async with world.opened(durability=durability):
            pass

    world.faulty.put = hang  # type: ignore[method-assign]
    task = asyncio.create_task(attach())
    await is_uploading.wait()
    task.cancel()
    await asyncio.wait([task])
    world.faulty.put = put  # type: ignore[method-assign]
    with pytest.raises(JournalPending):
        async with world.opened(durability="bucket", has_directory=False):
            pass
    assert await has_mine(world)
    with pytest.raises(RuntimeError, match="after the upload"):
        async with world.opened(durability=durability) as disk:
            await disk.write(4, b"more")
            await disk.flush()
            raise RuntimeError("after the upload")
    async with world.opened(durability="bucket", has_directory=False) as disk:
        assert bytes(await disk.read(0, 8)) == b"minemore"


@on_virtual_time
async def test_a_read_only_attach_shows_it() -> None:
    """With the directory a read-only disk shows the bucket and the journal over it, and changes neither;
    holes are told right. Without it, it says what is not shown."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, bytes(range(256)) * 2 * 4)
    async with crashed(world) as disk:
        await disk.write(BLOCK + 10, b"small")
        await disk.zero(2 * BLOCK, BLOCK)
        await disk.flush()
        await disk.write(BLOCK + 12, b"ALL")
        await disk.write(7 * BLOCK, b"w" * BLOCK)
        await disk.flush()
    before, journal = dict(world.store.objects), world.files.contents()
    expected = bytearray(bytes(range(256)) * 2 * 4 + bytes((BLOCKS - 4) * BLOCK))
    expected[BLOCK + 10 : BLOCK + 15] = b"smALL"
    expected[2 * BLOCK : 3 * BLOCK] = bytes(BLOCK)
    expected[7 * BLOCK : 8 * BLOCK] = b"w" * BLOCK
    async with world.opened(read_only=True) as disk:
        assert bytes(await disk.read(0, BLOCKS * BLOCK)) == expected
        assert bytes(await disk.read(BLOCK + 11, 2)) == b"mA"
        assert disk.read_nowait(BLOCK + 11, 2) is None
        with pytest.raises(ReadOnly):
            await disk.write(0, b"x")
        holes = [(each.offset, each.length, each.is_hole) for each in await disk.extents(0, BLOCKS * BLOCK)]
        assert holes == [
            (0, 2 * BLOCK, False),
            (2 * BLOCK, BLOCK, True),
            (3 * BLOCK, BLOCK, False),
            (4 * BLOCK, 3 * BLOCK, True),
            (7 * BLOCK, BLOCK, False),
            (8 * BLOCK, 8 * BLOCK, True),
        ]
    assert world.store.objects == before
    assert {name: data for name, data in world.files.contents().items() if name != "lock"} == journal
    world.files = killed(world.files)
    async with world.opened() as disk:
        assert bytes(await disk.read(0, BLOCKS * BLOCK)) == expected


@pytest.mark.parametrize("has_directory", [False, True])
@on_virtual_time
async def test_a_read_only_attach_says_what_it_does_not_show(
    has_directory: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the directory, or with another one in its place."""
    world = await crashed_world()
    real, world.files = world.files, MemoryFiles()
    if has_directory:
        world.files = MemoryFiles.holding({"head": real.contents()["head"]})
    async with world.opened(read_only=True, has_directory=has_directory) as disk:
        assert bytes(await disk.read(0, 4)) == bytes(4)
    notices = [record.getMessage() for record in caplog.records if record.name == "bucketry.notices"]
    assert len(notices) == 1
    assert "is not shown" in notices[0]
    world.files = real
    assert await has_mine(world)


@pytest.mark.parametrize("what", ["empty", "new", "of another volume"])
@pytest.mark.parametrize("durability", ["journal", "bucket"])
@on_virtual_time
async def test_another_directory_in_its_place_is_refused(what: str, durability: str) -> None:
    """An empty directory (its filesystem is not mounted), a fresh journal, and that of another volume; then
    the real one is still right."""
    world = await crashed_world()
    real = world.files
    world.files = MemoryFiles()
    if what != "empty":
        other = await new_world()
        async with other.opened_and_killed() as disk:
            if what == "of another volume":
                other.faulty.outage = True
                await disk.write(0, b"theirs")
                await disk.flush()
        world.files = killed(other.files)
    before = dict(world.store.objects)
    line = (
        "holds 1 flushes"
        if what == "of another volume"
        else "may be only in the journal in .* on .* heard of"
    )
    with pytest.raises((Mismatch, JournalPending), match=line):
        async with world.opened(durability=durability):
            pass
    assert world.store.objects == before
    world.files = real
    assert await has_mine(world)


@on_virtual_time
async def test_a_missing_segment_is_damage() -> None:
    """A segment that is gone, or cut to nothing, is not taken for a journal that had nothing."""
    for how in ("removed", "emptied"):
        world = await crashed_world()
        contents = dict(world.files.contents())
        (segment,) = (name for name in contents if name.startswith("segment") and contents[name])
        contents[segment] = b""
        if how == "removed":
            del contents[segment]
        real, world.files = world.files, MemoryFiles.holding(contents)
        with pytest.raises(Corrupt, match=f"damaged in {segment}"):
            async with world.opened():
                pass
        world.files = killed(real)
        assert await has_mine(world)


@pytest.mark.parametrize("after_seconds", [1.5, 14.0])
@on_virtual_time
async def test_damage_to_the_last_flush_is_no_torn_end(after_seconds: float) -> None:
    """A second after the flush a mark behind it proves that it was whole."""
    world = await new_world()
    async with crashed(world) as disk:
        for n in range(12):
            await disk.write(n * BLOCK, b"record %d" % n)
            await disk.flush()
        await asyncio.sleep(after_seconds)
    contents = {name: bytearray(data) for name, data in world.files.contents().items()}
    (segment,) = (name for name in contents if name.startswith("segment") and any(contents[name]))
    at = contents[segment].index(b"record 11")
    contents[segment][at] ^= 1
    world.files = MemoryFiles.holding({name: bytes(data) for name, data in contents.items()})
    with pytest.raises(Corrupt, match="epochs 12 to 12"):
        async with world.opened():
            pass


@pytest.mark.parametrize("is_flushed", [True, False])
@on_virtual_time
async def test_an_older_copy_of_the_directory_is_refused(is_flushed: bool) -> None:
    """A copy from before later writes that are in the bucket, flushed or not, would bring older bytes back
    over them. It is kept."""
    world = await new_world()
    async with world.opened_and_killed() as disk:
        world.faulty.outage = True
        await disk.write(0, b"old!")
        await disk.flush()
        copy = killed(world.files)
        world.faulty.outage = False
        await disk.write(0, b"new!")
        if is_flushed:
            await disk.flush()
        await asyncio.sleep(7200.0)
        assert world.blocks()[0][:4] == b"new!"
    real, world.files = world.files, copy
    kept = copy.contents()
    with pytest.raises(Mismatch, match="an older copy of the directory"):
        async with world.opened():
            pass
    assert world.files.contents() == kept
    assert world.blocks()[0][:4] == b"new!"
    world.files = killed(real)
    async with world.opened() as disk:
        assert bytes(await disk.read(0, 4)) == b"new!"


@on_virtual_time
async def test_a_journal_that_was_emptied_and_a_lease_that_could_not_be_given_back_agree() -> None:
    """At a clean end the journal is emptied first. When the lease cannot be given back after that, it still
    names the journal: the next attach with it is not refused."""
    world = await new_world()
    async with world.opened() as disk:
        await disk.write(0, b"mine")
        await disk.flush()
        held = {key: world.store.objects[f"vol/{key}"] for key in (LEASE_NAME, MOUNT_TOKEN_NAME)}
    world.store.objects.update({f"vol/{key}": found for key, found in held.items()})
    assert await has_mine(world)


@on_virtual_time
async def test_a_copy_of_the_volume_does_not_take_the_journal() -> None:
    """Under another URL the same volume is another one: its journal is refused there, and is replayed where
    it belongs."""
    world = await crashed_world()
    for key, found in list(world.store.objects.items()):
        if key.startswith("vol/"):
            world.store.objects["copy/" + key.removeprefix("vol/")] = found
    kept = world.files.contents()
    with pytest.raises(Mismatch, match=r"copy/ .*--replay|--replay.*"):
        async with world.opened(prefix="copy/"):
            pass
    with pytest.raises(JournalPending):
        async with world.opened(prefix="copy/", durability="bucket", has_directory=False):
            pass
    assert world.files.contents() == kept
    world.files = killed(world.files)
    assert await has_mine(world)


@on_virtual_time
async def test_after_a_restore_of_the_bucket_nothing_kept_locally_is_believed() -> None:
    """The bucket goes back to an earlier copy; another machine writes and unmounts cleanly, so that the count
    of holders repeats. The journal of the later time is refused and kept."""
    world = await new_world()
    async with world.opened():
        pass
    backup = dict(world.store.objects)
    async with crashed(world) as disk:
        await disk.write(0, b"late")
        await disk.flush()
    world.store.objects.clear()
    world.store.objects.update(backup)
    real, world.files = world.files, MemoryFiles()
    async with world.opened() as disk:
        await disk.write(0, b"his!")
    world.files = killed(real)
    with pytest.raises(Mismatch, match="holds 1 flushes"):
        async with world.opened():
            pass
    assert world.blocks()[0][:4] == b"his!"
    assert world.files.contents() == real.contents()


@on_virtual_time
async def test_unlock_keeps_the_journal_pending() -> None:
    """Unlocking gives the volume to nobody: others are still refused, s3backer too, and the journal is
    replayed where it lies."""
    world = await crashed_world()
    await holding.unlock(world.place())
    found = await holding.look(world.place())
    assert found.holder is None
    assert found.journal is not None
    with pytest.raises(Busy):
        await check_not_mounted(world.faulty, "vol/")
    with pytest.raises(JournalPending):
        async with world.opened(durability="bucket", has_directory=False):
            pass
    assert await has_mine(world)
    assert (await holding.look(world.place())).journal is None
    await check_not_mounted(world.faulty, "vol/")


@on_virtual_time
async def test_what_an_s3backer_wrote_after_unlock_is_not_overwritten() -> None:
    """It takes the mount token away that was left for it."""
    world = await crashed_world()
    await holding.unlock(world.place())
    del world.store.objects["vol/" + MOUNT_TOKEN_NAME]
    with pytest.raises(Mismatch, match="s3backer"):
        async with world.opened():
            pass


@on_virtual_time
async def test_repair_and_resize_and_erase_ask_first() -> None:
    """Each is refused as an attach is, and voids nothing."""
    world = await crashed_world()

    async def repaired() -> None:
        repair = Repair(zero_damaged=False)
        limits = LimitSettings()
        async for _ in check(
            world.place(), VolumeSettings(), repair=repair, measure=False, offload=inline, limits=limits
        ):
            pass

    async def resized() -> None:
        async for _ in resize(
            world.place(),
            VolumeSettings(),
            2 * FORMAT.size_bytes,
            offload=inline,
            limits=LimitSettings(),
        ):
            pass

    async def erased() -> None:
        async for _ in lifecycle.erase(world.place(), VolumeSettings()):
            pass

    for work in (repaired, resized, erased):
        with pytest.raises(JournalPending, match=REFUSAL):
            await work()
    assert await has_mine(world)


@on_virtual_time
async def test_check_tells_of_a_pending_journal() -> None:
    """What a check reads is not all that was flushed, and it says so."""
    world = await crashed_world()
    findings = [
        str(finding.message)
        async for step in check(
            world.place(),
            VolumeSettings(),
            repair=None,
            measure=False,
            offload=inline,
            limits=LimitSettings(),
        )
        for finding in getattr(step, "findings", ())
    ]
    assert any("flushed writes may be only in the journal in memory" in text for text in findings), findings


@on_virtual_time
async def test_a_journal_of_the_version_before_is_replayed() -> None:
    """A lease and a head without tenure, URL and segments: what a killed older program left is not lost."""
    world = await crashed_world()
    key = "vol/" + LEASE_NAME
    info, body = world.store.objects[key]
    lease = rules.decode(bytes(body))
    old = dataclasses.replace(lease, tenure="", journal=None)
    fields = json.loads(rules.encode(old))
    del fields["tenure"]
    world.store.objects[key] = (info, json.dumps(fields).encode())
    # Its head: the generation was the lease's epoch.
    from bucketry.core.journal import HEAD_COPY_BYTES, decode_head, encode_head

    contents = {name: bytearray(data) for name, data in world.files.contents().items()}
    head, _ = decode_head(bytes(contents["head"]))
    identities = tuple(
        dataclasses.replace(each, generation=str(lease.epoch), url="") for each in head.identities
    )
    page = encode_head(dataclasses.replace(head, identities=identities, segments=None))
    contents["head"][:HEAD_COPY_BYTES] = contents["head"][HEAD_COPY_BYTES:] = page
    world.files = MemoryFiles.holding({name: bytes(data) for name, data in contents.items()})
    assert PAGE_BYTES > RECORD_BYTES
    assert await has_mine(world)


@on_virtual_time
async def test_an_export_is_refused_unless_it_has_everything() -> None:
    """What must be whole is not read without the journal: refused without the directory, and with another one
    in its place; with it everything is there."""
    world = await crashed_world()
    real = world.files
    with pytest.raises(JournalPending, match=REFUSAL):
        async with world.opened(read_only=True, has_directory=False, required=True):
            pass
    world.files = MemoryFiles.holding({"head": real.contents()["head"]})
    with pytest.raises((Mismatch, Corrupt)):
        async with world.opened(read_only=True, required=True):
            pass
    world.files = real
    async with world.opened(read_only=True, required=True) as disk:
        assert bytes(await disk.read(0, 4)) == b"mine"
