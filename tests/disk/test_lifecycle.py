"""Volumes are made, opened and erased, and nothing is written before it may be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.offload import inline
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME, SUPERBLOCK_NAME, BlockNames, kept_key
from bucketry.disk import lifecycle
from bucketry.disk.holding import Place
from bucketry.disk.interface import Device
from bucketry.errors import (
    AlreadyExists,
    Busy,
    Denied,
    Mismatch,
    NotFound,
    Unavailable,
    Unfinished,
    Unsupported,
    WrongPassword,
)
from bucketry.layout import superblock, volume
from bucketry.settings import CacheSettings, Secret, VolumeFormat, VolumeSettings
from bucketry.testing.faulty_bucket import FaultyBucket

PLAIN = VolumeFormat(size_bytes=1 << 20, block_size_bytes=4096)
ENCRYPTED = VolumeFormat(size_bytes=1 << 20, block_size_bytes=4096, cipher="AES-128-CBC", compression="zstd")
PASSWORD = Secret("correct horse")
ASKED = VolumeSettings()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def place_in(bucket: Bucket, prefix: str = "vol/") -> Place:
    fence = Fence()
    return Place(FencedBucket(bucket, fence), bucket, fence, prefix, f"bucket/{prefix}")


@pytest.fixture
def place(store: MemoryStore) -> Place:
    return place_in(MemoryBucket(store))


def names(store: MemoryStore) -> list[str]:
    """What is below the prefix, but for the lease: that stays when it is released, and has tests of its
    own."""
    return sorted(key.removeprefix("vol/") for key in store.objects if not key.endswith(LEASE_NAME))


@asynccontextmanager
async def opened(place: Place, asked: VolumeSettings = ASKED) -> AsyncIterator[Device]:
    cache = CacheSettings(memory_bytes=1 << 20, write_delay_seconds=3600.0)
    async with lifecycle.opened(place, asked, cache, offload=inline, uploads_max=4) as disk:
        yield disk


async def test_what_was_written_is_there_when_the_volume_is_opened_again(
    place: Place, store: MemoryStore
) -> None:
    """Create, write, leave: the bucket has the block and the superblock, and no mount token; the next one
    reads it."""
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        await disk.write(5000, b"hello")
        assert names(store) == [MOUNT_TOKEN_NAME, SUPERBLOCK_NAME]
    assert names(store) == ["00000001", SUPERBLOCK_NAME]
    async with opened(place, VolumeSettings(read_only=True)) as disk:
        assert bytes(await disk.read(5000, 5)) == b"hello"


async def test_a_volume_is_made_only_where_none_is(place: Place) -> None:
    """A second create is refused, whether the first has a superblock or is s3backer's."""
    await lifecycle.create(place, PLAIN, None)
    with pytest.raises(AlreadyExists):
        await lifecycle.create(place, PLAIN, None)
    await place.bucket.put("other/00000007", b"x" * 4096)
    with pytest.raises(AlreadyExists):
        await lifecycle.create(place_in(place.bucket, "other/"), PLAIN, None)


async def test_a_second_writer_is_refused_and_a_reader_is_not(place: Place, store: MemoryStore) -> None:
    """While it is open for writing, others may only read; the refused one changes nothing."""
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        before = dict(store.objects)
        with pytest.raises(Busy, match="in use by"):
            async with opened(place):
                pass
        async with opened(place, VolumeSettings(read_only=True)) as reader:
            assert bytes(await reader.read(0, 10)) == bytes(10)
        assert store.objects == before
        await disk.write(0, b"still mine")
    async with opened(place) as disk:
        assert bytes(await disk.read(0, 10)) == b"still mine"


async def test_force_takes_over_a_token_that_was_left_behind(place: Place, store: MemoryStore) -> None:
    """After a crash the token is there; --force opens all the same and clears it at the end."""
    await lifecycle.create(place, PLAIN, None)
    await place.bucket.put("vol/" + MOUNT_TOKEN_NAME, b"elsewhere\n20260101T000000Z\n")
    with pytest.raises(Busy, match="elsewhere since 20260101T000000Z"):
        async with opened(place):
            pass
    async with opened(place, VolumeSettings(force=True)):
        pass
    assert names(store) == [SUPERBLOCK_NAME]


@pytest.mark.parametrize("password", [None, Secret("wrong")])
async def test_a_wrong_password_is_refused_before_anything_is_written(
    place: Place, store: MemoryStore, password: Secret | None
) -> None:
    """Neither a block nor a mount token is touched with a missing or wrong password."""
    await lifecycle.create(place, ENCRYPTED, PASSWORD)
    before = dict(store.objects)
    with pytest.raises(WrongPassword):
        async with opened(place, VolumeSettings(password=password)):
            pass
    assert store.objects == before


async def test_an_encrypted_volume_keeps_nothing_in_the_clear(place: Place, store: MemoryStore) -> None:
    """What is written comes back with the password, and no object contains it."""
    text = b"a line that nobody else should read\n" * 100
    await lifecycle.create(place, ENCRYPTED, PASSWORD)
    async with opened(place, VolumeSettings(password=PASSWORD)) as disk:
        await disk.write(100, text)
    assert not any(b"nobody else" in data for _, data in store.objects.values())
    assert not any(PASSWORD.reveal() in data for _, data in store.objects.values())
    async with opened(place, VolumeSettings(password=PASSWORD)) as disk:
        assert bytes(await disk.read(100, len(text))) == text


@pytest.mark.parametrize(
    "asked",
    [VolumeSettings(size_bytes=2 << 20), VolumeSettings(block_size_bytes=8192)],
    ids=["size", "block size"],
)
async def test_another_geometry_than_asked_is_refused(
    place: Place, store: MemoryStore, asked: VolumeSettings
) -> None:
    """The volume is not taken for another one, and not touched."""
    await lifecycle.create(place, PLAIN, None)
    before = dict(store.objects)
    with pytest.raises(Mismatch):
        async with opened(place, asked):
            pass
    assert store.objects == before


async def test_a_newer_superblock_is_refused(place: Place) -> None:
    """A volume of a format that we do not know is left alone, and the message says which."""
    made = await lifecycle.create(place, PLAIN, None)
    assert made.volume_id
    body = bytes((await place.bucket.get("vol/" + SUPERBLOCK_NAME)).data)
    newer = body.replace(b'"version": 1', b'"version": 2')
    assert newer != body
    await place.bucket.put("vol/" + SUPERBLOCK_NAME, newer)
    with pytest.raises(Unsupported, match="version 2"):
        async with opened(place):
            pass
    assert superblock.decode(body).format == PLAIN


async def test_where_nothing_is_nothing_is_opened(place: Place) -> None:
    """An empty prefix is no volume."""
    with pytest.raises(NotFound):
        async with opened(place):
            pass


async def test_an_empty_s3backer_volume_opens_when_its_size_is_given(
    place: Place, store: MemoryStore
) -> None:
    """As with s3backer: size and block size given, an empty bucket is a disk of zeros; block 0 then tells the
    geometry."""
    async with opened(place, VolumeSettings(size_bytes=1 << 20, block_size_bytes=8192)) as disk:
        await disk.write(0, b"x")
    assert names(store) == ["00000000"]
    found, holding = await lifecycle.inspect(place, ASKED)
    assert (found.kind, found.geometry.size_bytes, found.geometry.block_size_bytes) == (
        "s3backer",
        1 << 20,
        8192,
    )
    assert holding.holder is None


async def test_what_is_asked_is_not_told_as_found(place: Place) -> None:
    """The compression of blocks to come, and a length of keys that nobody has tried; with the password it has
    been."""
    new = VolumeSettings(
        size_bytes=1 << 20, block_size_bytes=4096, cipher="AES-128-CBC", key_length=64, password=PASSWORD
    )
    async with opened(place, new) as disk:
        await disk.write(0, b"x" * 4096)
    asked = VolumeSettings(key_length=64, compression="zstd", compression_level=3)
    found, _ = await lifecycle.inspect(place, asked)
    assert (found.format.cipher, found.format.key_length) == ("AES-128-CBC", None)
    assert (found.format.compression, found.format.compression_level) == ("none", None)
    found, _ = await lifecycle.inspect(place, replace(asked, password=PASSWORD))
    assert found.format.key_length == 64
    with pytest.raises(WrongPassword):
        await lifecycle.inspect(place, replace(asked, key_length=16, password=PASSWORD))


@pytest.mark.logs("not in the bucket yet")
async def test_leaving_without_a_bucket_says_what_is_lost_and_leaves_the_token(store: MemoryStore) -> None:
    """When the last flush fails the error says how much, and the token stays to tell that something is
    missing."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await lifecycle.create(place, PLAIN, None)
    with pytest.raises(Unfinished, match="did not reach the bucket"):
        async with opened(place) as disk:
            await disk.extents(0, 1)  # the survey is over
            await disk.write(0, b"x" * 4096)
            faulty.outage = True
    faulty.outage = False
    assert names(store) == [MOUNT_TOKEN_NAME, SUPERBLOCK_NAME]


async def test_a_refused_token_leaves_the_volume_alone(store: MemoryStore) -> None:
    """Without the right to write, opening for writing is refused, and for reading is not."""

    class ReadOnlyBucket(MemoryBucket):
        async def put(self, *args: object, **kwargs: object) -> str:
            raise Denied("no right to put")

    await lifecycle.create(place_in(MemoryBucket(store)), PLAIN, None)
    place = place_in(ReadOnlyBucket(store))
    with pytest.raises(Denied):
        async with opened(place):
            pass
    async with opened(place, VolumeSettings(read_only=True)) as disk:
        assert bytes(await disk.read(0, 4)) == bytes(4)


async def test_erasing_takes_blocks_orphans_superblock_and_token_and_nothing_else(
    place: Place, store: MemoryStore
) -> None:
    """Everything of the volume goes, also blocks beyond its end; other objects stay."""
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        await disk.write(0, b"x" * (1 << 20))
    for key in ("vol/00ffffff", "vol/readme.txt", "other/00000000"):
        await place.bucket.put(key, b"x")
    counts = [count async for count in lifecycle.erase(place, ASKED)]
    assert counts[-1] == 257
    assert sorted(store.objects) == ["other/00000000", "vol/readme.txt"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("hash_prefix", [False, True])
async def test_erasing_leaves_blocks_of_the_other_kind_of_names(
    place: Place, store: MemoryStore, hash_prefix: bool, force: bool
) -> None:
    """What a check calls foreign stays, put aside or not; also where no superblock tells any more."""
    other = BlockNames("vol/", 1 << 20, not hash_prefix)
    aside = kept_key("vol/", other.key(9), "20261121T193800Z")
    for with_superblock in (True, False):
        await lifecycle.create(place, replace(PLAIN, block_hash_prefix=hash_prefix), None)
        async with opened(place) as disk:
            await disk.write(0, b"x" * 8192)
        for key in (other.key(7), aside):
            await place.bucket.put(key, b"x")
        if not with_superblock:
            await place.bucket.delete("vol/" + SUPERBLOCK_NAME)
        async for _ in lifecycle.erase(place, VolumeSettings(force=force)):
            pass
        assert sorted(store.objects) == sorted([other.key(7), aside])
        store.objects.clear()


async def test_of_two_volumes_in_one_prefix_only_the_one_that_is_named_is_erased(
    place: Place, store: MemoryStore
) -> None:
    """By force too. The superblock goes with the volume that it describes."""
    theirs = VolumeSettings(size_bytes=1 << 20, block_size_bytes=4096, block_hash_prefix=False)
    async with opened(place, theirs) as disk:
        await disk.write(0, b"plain")
    block = await place.bucket.get("vol/00000000")
    await place.bucket.put("vol/c448b72c-00000000", block.data, attributes=block.info.attributes)
    for asked in (ASKED, VolumeSettings(force=True)):
        with pytest.raises(Mismatch, match="two volumes"):
            async for _ in lifecycle.erase(place, asked):
                pass
    async for _ in lifecycle.erase(place, VolumeSettings(block_hash_prefix=False, force=True)):
        pass
    assert names(store) == ["c448b72c-00000000"]

    store.objects.clear()
    async with opened(place, theirs) as disk:
        await disk.write(0, b"plain")
    await volume.create(
        place.bucket, "vol/", replace(PLAIN, block_hash_prefix=True), salt="", password=None,
        volume_id="0" * 32, created="2026-11-21T19:38:00Z", created_by="x", force=True,
    )  # fmt: skip
    async with opened(place) as disk:
        await disk.write(0, b"hashed")
    async for _ in lifecycle.erase(place, VolumeSettings(block_hash_prefix=False, force=True)):
        pass
    assert names(store) == ["c448b72c-00000000", SUPERBLOCK_NAME]
    async for _ in lifecycle.erase(place, ASKED):
        pass
    assert store.objects == {}


async def test_a_mounted_volume_is_not_erased(place: Place, store: MemoryStore) -> None:
    """Erasing needs the mount token for itself."""
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        await disk.write(0, b"x")
        await disk.flush()
        with pytest.raises(Busy):
            async for _ in lifecycle.erase(place, ASKED):
                pass
        assert "00000000" in names(store)


async def test_erasing_fails_when_something_remains(store: MemoryStore) -> None:
    """A delete that fails is an error, and the volume is still known afterwards."""
    faulty = FaultyBucket(MemoryBucket(store))
    place = place_in(faulty)
    await lifecycle.create(place, PLAIN, None)
    async with opened(place) as disk:
        await disk.write(0, b"x" * 8192)
    with pytest.raises(Unavailable):
        async for _ in lifecycle.erase(place, ASKED):
            faulty.outage = True
    faulty.outage = False
    assert SUPERBLOCK_NAME in names(store)


async def test_two_creators_do_not_both_win(place: Place) -> None:
    """Of several that create the same volume at once, one succeeds, and the others are told that it
    exists."""
    outcomes = await asyncio.gather(
        *(lifecycle.create(place, PLAIN, None) for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyExists"] * 4 + ["Volume"]
