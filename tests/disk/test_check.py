"""A check finds every kind of damage that is planted, repairs what loses nothing, and leaves the rest."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Attributes, Bucket, Object
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.offload import inline
from bucketry.codec.pipeline import CRC32C_NAME, PIECES_NAME, BlockCodec
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME, SUPERBLOCK_NAME, BlockNames
from bucketry.disk import lifecycle
from bucketry.disk.check import CheckReport, Repair, check
from bucketry.disk.holding import Place
from bucketry.disk.interface import Device
from bucketry.errors import Busy, CredentialsRefused, Denied, NotFound, Unavailable, WrongPassword
from bucketry.layout.block_0 import stored_geometry
from bucketry.layout.findings import Action, Amount, Finding, Severity
from bucketry.layout.superblock import find_superblock, rewrite_superblock
from bucketry.settings import CacheSettings, LimitSettings, Secret, VolumeFormat, VolumeSettings
from bucketry.testing.faulty_bucket import Fail, FaultyBucket, FlipBit, Truncate

BLOCK = 4096
PLAIN = VolumeFormat(size_bytes=64 * BLOCK, block_size_bytes=BLOCK)
PASSWORD = Secret("correct horse")
ASKED = VolumeSettings()
KNOWN = VolumeSettings(password=PASSWORD)
THEIRS = VolumeSettings(size_bytes=64 * BLOCK, block_size_bytes=BLOCK)
REPAIR = Repair()
ZERO = Repair(zero_damaged=True)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def place_in(bucket: Bucket) -> Place:
    fence = Fence()
    return Place(FencedBucket(bucket, fence), bucket, fence, "vol/", "bucket/vol/")


@pytest.fixture
def place(store: MemoryStore) -> Place:
    return place_in(MemoryBucket(store))


@asynccontextmanager
async def opened(place: Place, asked: VolumeSettings = ASKED) -> AsyncIterator[Device]:
    cache = CacheSettings(memory_bytes=1 << 20, write_delay_seconds=3600.0)
    async with lifecycle.opened(place, asked, cache, offload=inline, uploads_max=4) as disk:
        yield disk


def data(block: int) -> bytes:
    return f"block {block} ".encode().ljust(BLOCK, b".")


async def made(place: Place, volume_format: VolumeFormat = PLAIN, *blocks: int) -> None:
    password = PASSWORD if volume_format.cipher else None
    await lifecycle.create(place, volume_format, password)
    await write(place, *(blocks or (0, 1, 2, 3, 40)), asked=VolumeSettings(password=password))


async def write(place: Place, *blocks: int, asked: VolumeSettings = ASKED) -> None:
    async with opened(place, asked) as disk:
        for block in blocks:
            await disk.write(block * BLOCK, data(block))


@dataclass
class Result:
    """Everything that a check told."""

    findings: list[Finding] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    totals: list[Amount | None] = field(default_factory=list)
    report: CheckReport | None = None

    def kinds(self) -> list[str]:
        return sorted(finding.kind for finding in self.findings)

    def of(self, kind: str) -> Finding:
        (found,) = (finding for finding in self.findings if finding.kind == kind)
        return found

    @property
    def damage(self) -> int:
        assert self.report is not None
        return self.report.damage_count

    def figure(self, name: str) -> int:
        assert self.report is not None
        return self.report.figures[name]


async def checked(
    place: Place, asked: VolumeSettings = ASKED, *, repair: Repair | None = None, measure: bool = False
) -> Result:
    result = Result()
    steps = check(
        place, asked, repair=repair, measure=measure, offload=inline, limits=LimitSettings(requests_max=4)
    )
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, CheckReport):
                result.report = step
            else:
                result.findings += step.findings
                result.actions += step.actions
                result.totals.append(step.total)
    return result


def snapshot(store: MemoryStore) -> dict[str, tuple[bytes, Attributes]]:
    """What is there, but for the lease, which is taken and given back."""
    return {
        key: (body, info.attributes)
        for key, (info, body) in store.objects.items()
        if not key.endswith(LEASE_NAME)
    }


async def put(place: Place, block: int, body: bytes, **attributes: object) -> None:
    """A block as another program would put it."""
    await place.bucket.put(f"vol/{block:08x}", body, attributes=Attributes(**attributes))  # type: ignore[arg-type]


async def damage(place: Place, block: int, body: bytes) -> None:
    """Other bytes, with the attributes of the right ones."""
    key = f"vol/{block:08x}"
    found = await place.bucket.get(key)
    await place.bucket.put(key, body, attributes=found.info.attributes)


async def test_a_sound_volume_has_no_findings(place: Place, store: MemoryStore) -> None:
    """Everything has been read, and nothing changed."""
    await made(place)
    before = snapshot(store)
    result = await checked(place, measure=True)
    assert (result.findings, result.actions, result.damage) == ([], [], 0)
    assert (result.figure("blocks"), result.figure("bytes")) == (5, 5 * BLOCK)
    assert result.totals[-1] == Amount(5, 5 * BLOCK)
    assert snapshot(store) == before


@pytest.mark.parametrize("hash_prefix", [False, True])
@pytest.mark.parametrize("compression", ["none", "deflate", "zstd"])
@pytest.mark.parametrize("cipher", [None, "AES-256-CBC"])
async def test_one_wrong_bit_in_any_block_is_found(
    place: Place, store: MemoryStore, hash_prefix: bool, compression: str, cipher: str | None
) -> None:
    """Whatever the volume's format; the finding names number, key and reason."""
    volume_format = replace(PLAIN, compression=compression, cipher=cipher, block_hash_prefix=hash_prefix)
    await made(place, volume_format, 0, 1, 2, 3)
    asked = KNOWN if cipher else ASKED
    assert (await checked(place, asked)).damage == 0
    names = BlockNames("vol/", 64, hash_prefix)
    for block in (1, 3):
        info, body = store.objects[names.key(block)]
        wrong = body[:-1] + bytes([body[-1] ^ 1])
        await place.bucket.put(info.key, wrong, attributes=info.attributes)
    result = await checked(place, asked)
    found = [finding for finding in result.findings if finding.kind == "damaged block"]
    assert sorted((finding.block, finding.key) for finding in found) == [
        (1, names.key(1)),
        (3, names.key(3)),
    ]
    assert all("crc32c" in finding.message for finding in found)
    assert result.damage == 2


@pytest.mark.parametrize(
    ("body", "attributes", "reason"),
    [
        (bytes(100), {}, "100 bytes instead of 4096"),
        (b"", {}, "0 bytes instead"),
        (bytes(1 << 20), {}, "more than a block"),
        (b"no zlib", {"content_encoding": "deflate"}, ""),
        (bytes(BLOCK), {"content_encoding": "gzip"}, "gzip"),
        (bytes(BLOCK), {"content_encoding": "encrypt-AES-128-CBC"}, "encrypted"),
        (bytes(BLOCK), {"metadata": {"bucketry-crc32c": "xyz"}}, "not a crc32c"),
    ],
)
async def test_damage_of_every_kind(
    place: Place, body: bytes, attributes: dict[str, object], reason: str
) -> None:
    """Too short, too long, undecodable, mislabelled."""
    await made(place)
    await put(place, 7, body, **attributes)
    result = await checked(place)
    assert result.kinds()[0] == "damaged block"
    assert reason in result.of("damaged block").message
    assert result.damage == 1


async def test_a_wrong_hmac_is_damage(place: Place) -> None:
    """Blocks without a crc32c are verified by their HMAC."""
    await made(place, replace(PLAIN, cipher="AES-128-CBC"), 1, 2, 3)
    found = await place.bucket.get("vol/00000002")
    metadata = {name: value for name, value in found.info.attributes.metadata.items() if "crc32c" not in name}
    attributes = replace(found.info.attributes, metadata=metadata)
    await place.bucket.put("vol/00000002", found.data, attributes=attributes)
    assert (await checked(place, KNOWN)).kinds() == ["no crc32c"]
    await place.bucket.put("vol/00000002", bytes(BLOCK + 16), attributes=attributes)
    result = await checked(place, KNOWN)
    assert "HMAC" in result.of("damaged block").message


async def test_an_object_in_another_ones_place_is_damage(place: Place, store: MemoryStore) -> None:
    """Though it is sound by itself. One that an earlier version wrote does not say what it is, which is
    told."""
    await made(place, PLAIN, 1, 2, 3)
    found = await place.bucket.get("vol/00000001")
    await place.bucket.put("vol/00000002", found.data, attributes=found.info.attributes)
    result = await checked(place)
    assert (result.damage, result.of("damaged block").block) == (1, 2)
    assert "it is block 1, in the place of block 2" in result.of("damaged block").message
    metadata = {name: found.info.attributes.metadata[name] for name in [CRC32C_NAME]}
    attributes = replace(found.info.attributes, metadata=metadata)
    await place.bucket.put("vol/00000002", found.data, attributes=attributes)
    result = await checked(place)
    assert (result.damage, result.kinds()) == (0, ["no place"])
    assert "1 blocks do not say which block they are" in result.of("no place").message


@pytest.mark.parametrize("password", [None, Secret("wrong")])
async def test_the_password_is_tried_first(place: Place, password: Secret | None) -> None:
    """A wrong one would make everything look damaged."""
    await made(place, replace(PLAIN, cipher="AES-128-CBC"))
    with pytest.raises(WrongPassword):
        await checked(place, VolumeSettings(password=password))


async def test_a_damaged_block_0_does_not_make_a_right_password_wrong(place: Place) -> None:
    """On an encrypted s3backer volume a password is tried on a block; others are asked when that one is
    damaged. A wrong password stays wrong."""
    theirs = replace(THEIRS, cipher="AES-128-CBC", password=PASSWORD)
    await write(place, *range(16), asked=theirs)
    await damage(place, 0, b"!" * (BLOCK + 16))
    result = await checked(place, KNOWN)
    assert (result.damage, result.of("damaged block").block) == (1, 0)
    with pytest.raises(WrongPassword):
        await checked(place, VolumeSettings(password=Secret("wrong")))


async def plant(place: Place) -> None:
    """One of each flaw, one damaged block, and what is not ours."""
    await made(place)
    await damage(place, 2, b"!" * BLOCK)
    await put(place, 5, bytes(BLOCK))
    await put(place, 64, bytes(BLOCK))
    await put(place, 65, data(65))
    await put(place, 0xFFFFFFEF, b"far")
    await put(place, 0xFFFFFFF0, bytes(BLOCK))
    found = await place.bucket.get("vol/00000000")
    await place.bucket.put("vol/00000000", found.data)
    for key in ("vol/readme.txt", "vol/0000000A", "vol/other/00000000", "vol/other/00000001", "elsewhere"):
        await place.bucket.put(key, b"x")


PLANTED = [
    *["beyond the end"] * 4, "damaged block", *["foreign"] * 3, "no crc32c", "size missing", "zero block",
]  # fmt: skip


async def test_a_dry_run_tells_everything_and_changes_nothing(place: Place, store: MemoryStore) -> None:
    """Damage, flaws, foreign names; objects outside the prefix are none of its business."""
    await plant(place)
    before = snapshot(store)
    result = await checked(place)
    assert result.kinds() == PLANTED
    assert result.damage == 1
    assert {finding.message for finding in result.findings if finding.kind == "foreign"} == {
        "foreign object vol/0000000A",
        "foreign object vol/readme.txt",
        "2 foreign objects below vol/other/",
    }
    assert snapshot(store) == before


async def test_repair_puts_right_what_loses_nothing(place: Place, store: MemoryStore) -> None:
    """The damaged block, what lies beyond the end and is not zero, and foreign objects stay as they are; each
    action is told."""
    await plant(place)
    before = snapshot(store)
    result = await checked(place, repair=REPAIR)
    assert result.kinds() == PLANTED
    assert sorted(action.message for action in result.actions) == [
        "deleted vol/00000005",
        "deleted vol/00000040",
        "deleted vol/fffffff0",
        f"superblock and block 0 say {64 * BLOCK >> 10} KiB",
    ]
    assert result.report is not None
    assert (result.damage, result.report.flaw_count, result.report.repaired_count) == (1, 2, 4)
    after = snapshot(store)
    assert set(before) - set(after) == {"vol/00000005", "vol/00000040", "vol/fffffff0"}
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"vol/00000000"}
    assert after["vol/00000000"][0] == before["vol/00000000"][0]
    assert stored_geometry(store.objects["vol/00000000"][0]) is not None
    again = await checked(place)
    assert again.kinds() == ["beyond the end"] * 2 + ["damaged block"] + ["foreign"] * 3 + ["no crc32c"]
    assert all("and not zero" in finding.message for finding in again.findings if "beyond" in finding.kind)


@pytest.mark.parametrize("block", [0, 2])
async def test_a_damaged_block_is_put_aside_before_it_is_zeroed(
    place: Place, store: MemoryStore, block: int
) -> None:
    """Only when asked; its object is kept byte for byte, and erase takes it with the volume."""
    await made(place)
    await damage(place, block, b"!" * BLOCK)
    key = f"vol/{block:08x}"
    wrong = snapshot(store)[key]
    result = await checked(place, repair=ZERO)
    assert result.damage == 1
    assert f"zeroed block {block}; its object is now vol/damaged/{block:08x}-" in result.actions[0].message
    assert key not in store.objects
    (kept,) = (name for name in store.objects if name.startswith("vol/damaged/"))
    assert snapshot(store)[kept] == wrong
    async with opened(place, VolumeSettings(read_only=True)) as disk:
        assert bytes(await disk.read(block * BLOCK, BLOCK)) == bytes(BLOCK)
    assert (await checked(place)).kinds() == ["kept"]
    await place.bucket.put("vol/damaged/00000001", b"a block of a volume in that folder")
    async for _ in lifecycle.erase(place, ASKED):
        pass
    assert sorted(store.objects) == ["vol/damaged/00000001"]


async def test_the_size_of_an_s3backer_volume_outlives_a_damaged_block_0(
    place: Place, store: MemoryStore
) -> None:
    """It is written nowhere else, so that zeros are stored; and zeros that are stored there are no flaw."""
    await write(place, 0, 1, asked=THEIRS)
    await damage(place, 0, b"!" * BLOCK)
    result = await checked(place, repair=ZERO)
    assert result.kinds() == ["damaged block", "no superblock"]
    info, body = store.objects["vol/00000000"]
    assert body == bytes(BLOCK)
    found = stored_geometry(info)
    assert found is not None
    assert found.size_bytes == 64 * BLOCK
    assert (await checked(place, repair=REPAIR)).kinds() == ["kept", "no superblock"]
    assert "vol/00000000" in store.objects


async def test_a_block_that_cannot_be_put_aside_is_left(place: Place, store: MemoryStore) -> None:
    """Too large to be a block's: nobody's data is thrown away unseen."""
    await made(place)
    await put(place, 9, bytes(1 << 20))
    before = snapshot(store)
    result = await checked(place, repair=ZERO)
    assert [action.done for action in result.actions] == [False]
    assert snapshot(store) == before


async def tell(place: Place, count: int, *, body: bytes | None = None) -> None:
    """Have block 0 say another size."""
    found = await place.bucket.get("vol/00000000")
    metadata = {**found.info.attributes.metadata, "s3backer-filesize": str(count * BLOCK)}
    if body is not None:
        metadata = {name: metadata[name] for name in metadata if "crc32c" not in name}
    attributes = replace(found.info.attributes, metadata=metadata)
    await place.bucket.put("vol/00000000", found.data if body is None else body, attributes=attributes)


async def test_a_smaller_size_on_block_0_is_damage_and_the_superblocks_counts(
    place: Place, store: MemoryStore
) -> None:
    """Such a volume does not open; repair writes what the superblock says on block 0."""
    await made(place)
    await tell(place, 41)
    result = await checked(place)
    assert (result.kinds(), result.damage) == (["size differs"], 1)
    assert (await checked(place, repair=REPAIR)).damage == 0
    assert (await checked(place)).findings == []
    async with opened(place):
        pass


@pytest.mark.parametrize("repair", [REPAIR, ZERO])
@pytest.mark.parametrize("body", [None, bytes(BLOCK)])
async def test_a_larger_size_on_block_0_is_left_to_the_user(
    place: Place, store: MemoryStore, repair: Repair, body: bytes | None
) -> None:
    """s3backer was told to make the volume larger: what it wrote stays, and what tells of it."""
    await made(place)
    await tell(place, 99, body=body)
    for block in (70, 71, 98):
        await put(place, block, data(block))
    await put(place, 80, bytes(BLOCK))
    await put(place, 99, bytes(BLOCK))
    before = snapshot(store)
    del before["vol/00000063"]
    result = await checked(place, repair=repair)
    assert result.damage == 1
    message = result.of("size differs").message
    assert f"bucketry resize memory://anonymous/vol/ {99 * BLOCK} keeps what it wrote" in message
    assert f"bucketry resize memory://anonymous/vol/ {64 * BLOCK} goes back" in message
    beyond = [finding for finding in result.findings if finding.kind == "beyond the end"]
    assert sorted((finding.block, finding.remedy) for finding in beyond if finding.block != 99) == [
        (70, None), (71, None), (80, None), (98, None),
    ]  # fmt: skip
    assert [action.message for action in result.actions] == ["deleted vol/00000063"]
    assert snapshot(store) == before


async def test_an_unfinished_resize_does_not_hide_a_larger_size_on_block_0(
    place: Place, store: MemoryStore
) -> None:
    """To end it would write the superblock's size over what s3backer said."""
    await made(place)
    await cut_short(place)
    await tell(place, 99)
    await put(place, 98, data(98))
    before = snapshot(store)
    result = await checked(place, repair=REPAIR)
    assert (result.actions, snapshot(store)) == ([], before)
    assert result.of("unfinished resize").remedy is None


async def test_a_resize_that_was_cut_short_is_ended(place: Place) -> None:
    """The superblock has the new size, block 0 the old one."""
    await made(place)
    await cut_short(place)
    result = await checked(place)
    assert (result.kinds(), result.damage) == (["beyond the end", "unfinished resize"], 0)
    await checked(place, repair=REPAIR)
    assert (await checked(place)).findings == []


async def cut_short(place: Place) -> None:
    """A resize from 64 to 32 blocks, after its first put."""
    found = await find_superblock(place.bucket, "vol/")
    assert found is not None
    cut = replace(
        found.superblock,
        format=replace(found.superblock.format, size_bytes=32 * BLOCK),
        resized_from_bytes=64 * BLOCK,
    )
    await rewrite_superblock(place.bucket, "vol/", cut, found.etag)


async def test_wrong_checksums_of_pieces_are_told_and_no_damage(place: Place) -> None:
    """The block itself is right, and read."""
    await made(place, PLAIN, 1, 2)
    for block, wrong in ((1, False), (2, True)):
        key = f"vol/{block:08x}"
        found = await place.bucket.get(key)
        stored = BlockCodec(BLOCK, has_pieces=True).encode(block, found.data)
        pieces = stored.metadata[PIECES_NAME]
        metadata = {**stored.metadata, PIECES_NAME: "0" * len(pieces) if wrong else pieces}
        attributes = replace(found.info.attributes, metadata=metadata)
        await place.bucket.put(key, stored.body, attributes=attributes)
    result = await checked(place)
    assert result.of("wrong pieces").severity is Severity.NOTE
    assert result.figure("blocks_with_wrong_pieces") == 1
    assert result.damage == 0


async def test_zstd_is_told_and_no_flaw(place: Place) -> None:
    """s3backer 1.5 cannot read it, we can."""
    await made(place, replace(PLAIN, compression="zstd"))
    result = await checked(place)
    assert result.of("zstd").severity is Severity.NOTE
    assert result.figure("zstd_blocks") == 5
    assert result.damage == 0


@pytest.mark.parametrize(
    ("key", "body", "kind", "severity", "words"),
    [
        (MOUNT_TOKEN_NAME, b"there\n20260101T000000Z\n", "mount token", Severity.NOTE, "in use by there"),
        (LEASE_NAME, b"{}", "lease", Severity.DAMAGE, "it is not a lease"),
    ],
)
async def test_who_holds_it_is_told(
    place: Place, key: str, body: bytes, kind: str, severity: Severity, words: str
) -> None:
    """A holder is a note; a lease that nobody can understand keeps everybody out, and is damage."""
    await made(place)
    await place.bucket.put("vol/" + key, body)
    finding = (await checked(place)).of(kind)
    assert finding.severity is severity
    assert words in finding.message


async def test_a_volume_in_use_is_checked_but_not_repaired(place: Place, store: MemoryStore) -> None:
    """The holder is told; repair needs the volume for itself."""
    await made(place)
    async with opened(place):
        result = await checked(place)
        assert result.kinds() == ["lease"]
        assert "in use by process" in result.findings[0].message
        with pytest.raises(Busy):
            await checked(place, repair=REPAIR)


async def test_blocks_that_change_meanwhile_are_no_damage(store: MemoryStore) -> None:
    """One is deleted, one shrunk to nonsense and rewritten, between listing and reading."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await made(place)
    await damage(place, 3, b"half of another version")
    deleted = faulty.hold(operation="get", key="vol/00000001")
    rewritten = faulty.hold(operation="get", key="vol/00000003", applied=True)
    task = asyncio.ensure_future(checked(place))
    await deleted.wait_arrived()
    await rewritten.wait_arrived()
    behind = place_in(MemoryBucket(store))
    await behind.bucket.delete("vol/00000001")
    await damage(behind, 3, data(3))
    deleted.release()
    rewritten.release()
    result = await task
    assert (result.damage, result.findings) == (0, [])
    assert (result.figure("gone_blocks"), result.figure("blocks_read_twice")) == (1, 1)


@pytest.mark.parametrize("fault", [FlipBit(), Truncate()])
async def test_damage_on_the_way_is_not_damage_in_the_bucket(
    store: MemoryStore, fault: FlipBit | Truncate
) -> None:
    """What reads well the second time is well."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await made(place)
    faulty.plan(fault, operation="get", key="vol/00000002")
    result = await checked(place)
    assert (result.findings, result.figure("blocks_read_twice")) == ([], 1)
    faulty.plan(fault, operation="get", key="vol/00000002", times=2)
    assert (await checked(place)).damage == 1


@pytest.mark.parametrize("error", [Unavailable, Denied])
async def test_a_store_that_is_back_at_once_is_no_damage(
    store: MemoryStore, error: type[Denied] | type[Unavailable]
) -> None:
    """A block that could not be read and can be at the second look is well; keys that have ended say nothing
    of any block, and end the check."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await made(place)
    faulty.plan(Fail(error), operation="get", key="vol/00000001")
    assert (await checked(place)).findings == []
    faulty.plan(Fail(CredentialsRefused), operation="get", key="vol/00000001", times=1000)
    with pytest.raises(CredentialsRefused):
        await checked(place)


@pytest.mark.parametrize("error", [Unavailable, Denied])
async def test_one_object_that_the_store_refuses_is_damage_and_the_rest_is_checked(
    store: MemoryStore, error: type[Denied] | type[Unavailable]
) -> None:
    """But when the store refuses everything, the check fails."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await made(place)
    await damage(place, 40, b"!" * BLOCK)
    faulty.plan(Fail(error), operation="get", key="vol/00000001", times=1000)
    result = await checked(place)
    assert sorted(finding.block or 0 for finding in result.findings) == [1, 40]
    faulty.outage = True
    with pytest.raises(Unavailable):
        await checked(place)


async def test_an_object_that_is_listed_and_not_there_is_damage(store: MemoryStore) -> None:
    """A store that lost it says so only when asked for its bytes."""

    class Losing(MemoryBucket):
        async def get(self, key: str, **more: object) -> Object:
            if key == "vol/00000002":
                raise NotFound("lost")
            return await super().get(key, **more)  # type: ignore[arg-type]

    await made(place_in(MemoryBucket(store)))
    result = await checked(place_in(Losing(store)))
    assert "lists it, and does not have it" in result.of("damaged block").message


async def test_a_crash_while_repairing_loses_nothing(store: MemoryStore) -> None:
    """At any request: what is readable stays as it is, and a damaged object is there at least once."""
    crash_count = 0
    while True:
        store = MemoryStore()
        place = place_in(MemoryBucket(store))
        await plant(place)
        wrong = snapshot(store)["vol/00000002"]
        faulty = FaultyBucket(MemoryBucket(store))
        faulty.plan(Fail(Denied), skip=crash_count, times=1_000_000)
        crashed = False
        try:
            await checked(place_in(faulty), repair=ZERO)
        except Denied:
            crashed = True
        after = snapshot(store)
        kept = [value for key, value in after.items() if key.startswith("vol/damaged/")]
        assert wrong in [after.get("vol/00000002"), *kept], crash_count
        for block in (0, 1, 3, 40):
            assert after[f"vol/{block:08x}"][0] == data(block)
        for key in ("vol/readme.txt", "vol/0000000A", "vol/other/00000000"):
            assert key in after
        if not crashed:
            break
        crash_count += 1
    assert crash_count >= 15


async def test_many_names_are_not_held_in_memory(place: Place, store: MemoryStore) -> None:
    """Of thousands of foreign objects twenty are told and the rest is counted; repairs go in batches."""
    await made(place, replace(PLAIN, size_bytes=8 * BLOCK), 0)
    for number in range(3000):
        await place.bucket.put(f"vol/note {number}", b"x")
        await put(place, 8 + number, bytes(BLOCK))
    result = await checked(place, repair=REPAIR)
    told = [finding.message for finding in result.findings if finding.kind == "foreign"]
    assert len(told) == 21
    assert told[-1] == "2980 more foreign objects"
    assert len(result.actions) == 3000
    assert {key for key in store.objects if key.startswith("vol/0000")} == {"vol/00000000"}
    assert "vol/" + SUPERBLOCK_NAME in store.objects
