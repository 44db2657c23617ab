"""A bucket whose objects are encrypted before they leave this machine."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import ClassVar

import pytest

from bucketry.bucket.interface import Attributes, Bucket, ByteRange, Entry, IfAbsent
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.sealed_bucket import (
    CHUNK_BYTES,
    SEALED_METADATA,
    SealedBucket,
    plain_size,
    sealed_size,
)
from bucketry.core.pieces import PIECE_SIZE_MIN_BYTES, PIECES_MAX, PIECES_METADATA, Pieces, encode
from bucketry.errors import Corrupt, Invalid, NotFound, UploadGone
from bucketry.settings import Secret
from bucketry.testing.bucket_contract import BucketContract, OpenBucket
from bucketry.testing.upload_contract import UploadContract
from bucketry.testing.virtual_time import on_virtual_time

KEY = Secret(bytes(range(32)))
OTHER_KEY = Secret(bytes(range(1, 33)))
SIZES = [0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]


def _open_sealed() -> OpenBucket:
    store = MemoryStore()

    async def open_bucket() -> Bucket:
        return SealedBucket(MemoryBucket(store), KEY)

    return open_bucket


@pytest.mark.slow
class TestBucketContract(BucketContract):
    """It is a bucket like any other."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return _open_sealed()


@pytest.mark.slow
class TestUploadContract(UploadContract):
    """But for uploads that somebody else goes on with."""

    gaps: ClassVar[Mapping[str, str]] = {
        "test_parts_at_once": "only the bucket that began an upload knows its salt",
        "test_lists_of_uploads_and_parts": "only the bucket that began an upload knows its salt",
    }

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return _open_sealed()


@pytest.mark.parametrize("size", SIZES)
def test_sizes_can_be_told_from_each_other(size: int) -> None:
    """The plain size follows from the sealed one; a sealed object that is cut at a chunk's end has none."""
    assert plain_size(sealed_size(size)) == size
    assert plain_size(sealed_size(size) // (CHUNK_BYTES + 28) * (CHUNK_BYTES + 28)) is None


@pytest.mark.parametrize("size", SIZES)
def test_every_range_comes_back(size: int) -> None:
    """Whole and in ranges at and around the chunks' bounds; also when it was put in parts."""

    @on_virtual_time
    async def run() -> None:
        data = Random(size).randbytes(size)
        store = MemoryStore()
        bucket = SealedBucket(MemoryBucket(store), KEY)
        await bucket.put("put", data)
        keys = ["put"]
        if size:
            upload_id = await bucket.create_upload("parts", part_size_bytes=CHUNK_BYTES)
            parts = [
                await bucket.put_part("parts", upload_id, number + 1, data[start : start + CHUNK_BYTES])
                for number, start in enumerate(range(0, size, CHUNK_BYTES))
            ]
            await bucket.complete_upload("parts", upload_id, parts, condition=IfAbsent())
            keys.append("parts")
        points = sorted(
            {*range(0, size + 1, CHUNK_BYTES), 1, CHUNK_BYTES - 1, CHUNK_BYTES + 1, size, size + 5}
        )
        for key in keys:
            assert len(store.objects[key][1]) == sealed_size(size)
            assert (await bucket.head(key)).size_bytes == size
            assert (await bucket.get(key)).data == data
            for start in points:
                for end in points:
                    if start <= end:
                        found = await bucket.get(key, byte_range=ByteRange(start, end))
                        assert found.data == data[start:end]
                        assert found.info.size_bytes == size
        listed = [entry async for page in bucket.list() for entry in page]
        assert {entry.size_bytes for entry in listed} == {size}

    run()


@on_virtual_time
async def test_nothing_of_the_content_is_in_the_store() -> None:
    """Neither bytes nor checksums; and the same content is never stored alike."""
    store = MemoryStore()
    bucket = SealedBucket(MemoryBucket(store), KEY)
    data = b"a very secret line " * 10_000
    pieces = Pieces(PIECE_SIZE_MIN_BYTES, (1, 2), b"d" * 32)
    text = encode(pieces, len(data))
    for key in ("a", "b"):
        await bucket.put(key, data, attributes=Attributes(metadata={PIECES_METADATA: text, "n": "1"}))
        assert dict((await bucket.head(key)).attributes.metadata) == {PIECES_METADATA: text, "n": "1"}
    (info_a, stored_a), (info_b, stored_b) = store.objects["a"], store.objects["b"]
    assert b"secret" not in stored_a
    assert stored_a != stored_b
    metadata = [info.attributes.metadata for info in (info_a, info_b)]
    assert metadata[0][PIECES_METADATA] != metadata[1][PIECES_METADATA]
    assert all(text not in value for each in metadata for value in each.values())


@on_virtual_time
async def test_a_part_that_is_put_again_has_new_nonces() -> None:
    """The same part with other bytes: no nonce of the first is used again."""
    store = MemoryStore()
    bucket = SealedBucket(MemoryBucket(store), KEY)
    upload_id = await bucket.create_upload("key", part_size_bytes=CHUNK_BYTES)
    seen = set()
    for data in (b"one", b"two", b"one"):
        await bucket.put_part("key", upload_id, 1, data)
        seen.add(store.uploads[upload_id].parts[1][1][:12])
    assert len(seen) == 3


@on_virtual_time
async def test_the_largest_checksums_fit_into_the_metadata() -> None:
    """With all that we put beside them they stay below S3's 2 KiB, and leave half a KiB to others."""
    store = MemoryStore()
    bucket = SealedBucket(MemoryBucket(store), KEY)
    text = encode(
        Pieces(PIECE_SIZE_MIN_BYTES, (0xFFFFFFFF,) * PIECES_MAX, b"\xff" * 32),
        PIECES_MAX * PIECE_SIZE_MIN_BYTES,
    )
    await bucket.put("key", b"", attributes=Attributes(metadata={PIECES_METADATA: text}))
    stored = store.objects["key"][0].attributes.metadata
    assert sum(len(name) + len(value) for name, value in stored.items()) < 1536
    for odd in ("", "x", "1-17-é", "1-17-====", "damaged text of another program"):
        await bucket.put("key", b"", attributes=Attributes(metadata={PIECES_METADATA: odd}))
        assert (await bucket.head("key")).attributes.metadata[PIECES_METADATA] == odd


def test_every_change_in_the_store_is_seen() -> None:
    """Flipped bits, exchanged, doubled and missing chunks, cuts, another object's bytes, another name,
    metadata: Corrupt, and never a wrong byte."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        bucket = SealedBucket(MemoryBucket(store), KEY)
        data = Random(1).randbytes(3 * CHUNK_BYTES + 100)
        await bucket.put("key", data)
        await bucket.put("other", data)
        info, sealed = store.objects["key"]
        step = CHUNK_BYTES + 28
        chunks = [sealed[start : start + step] for start in range(0, len(sealed), step)]
        changed = [
            b"".join([chunks[1], chunks[0], *chunks[2:]]),
            b"".join([chunks[0], chunks[0], *chunks[2:]]),
            b"".join([chunks[0], *chunks[2:]]),
            b"".join([*chunks[:3], chunks[1][:128]]),
            b"".join(chunks[:3]),
            b"".join([*chunks, chunks[3]]),
            sealed[:-1],
            sealed + b"x",
            sealed[: 2 * step + 500],
            b"",
            store.objects["other"][1],
        ]
        changed += [
            sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
            for position in (0, 5, 12, 5000, step - 1, step, len(sealed) - 1)
        ]
        for content in changed:
            store.objects["key"] = replace(info, size_bytes=len(content)), content
            with pytest.raises(Corrupt):
                await bucket.get("key")
            for start in range(0, 4 * CHUNK_BYTES, CHUNK_BYTES):
                try:
                    found = await bucket.get("key", byte_range=ByteRange(start, start + CHUNK_BYTES))
                except Corrupt:
                    continue
                assert found.data == data[start : start + len(found.data)]
        store.objects["moved"] = replace(info, key="moved"), sealed
        with pytest.raises(Corrupt):
            await bucket.get("moved")
        for value in ("", "1-", "2-AAAA", "1-!!", "1-AAAAAAAAAAAAAAAAAAAAAA"):
            metadata = {**info.attributes.metadata, SEALED_METADATA: value}
            store.objects["key"] = replace(info, attributes=Attributes(metadata=metadata)), sealed
            with pytest.raises(Corrupt):
                await bucket.get("key")

    run()


@on_virtual_time
async def test_another_key_opens_nothing() -> None:
    """Neither data nor checksums; and what is not sealed is told to be so."""
    store = MemoryStore()
    text = encode(Pieces(PIECE_SIZE_MIN_BYTES, (1,), b"d" * 32), 4)
    await SealedBucket(MemoryBucket(store), KEY).put(
        "key", b"data", attributes=Attributes(metadata={PIECES_METADATA: text})
    )
    other = SealedBucket(MemoryBucket(store), OTHER_KEY)
    for call in (lambda: other.get("key"), lambda: other.head("key")):
        with pytest.raises(Corrupt, match="another key"):
            await call()
    await MemoryBucket(store).put("plain", b"data")
    with pytest.raises(Corrupt, match="is not sealed"):
        await other.get("plain")
    with pytest.raises(NotFound):
        await other.get("absent")
    assert [entry async for page in other.list(prefix="plain") for entry in page] == [
        Entry("plain", 4, "sealed " + (await MemoryBucket(store).head("plain")).etag)
    ]


@on_virtual_time
async def test_sealed_and_plain_bytes_are_two_versions() -> None:
    """Their ETags differ, so that no cache takes one for the other."""
    store = MemoryStore()
    bucket = SealedBucket(MemoryBucket(store), KEY)
    etag = await bucket.put("key", b"data")
    assert etag == (await bucket.head("key")).etag == (await bucket.get("key")).info.etag
    assert etag != (await MemoryBucket(store).head("key")).etag


@pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 33])
def test_keys_have_32_bytes(secret: bytes) -> None:
    """Another length is refused before anything is stored, and the key is not in the message."""
    with pytest.raises(Invalid, match="has 32 bytes") as caught:
        SealedBucket(MemoryBucket(), Secret(secret))
    assert "xxx" not in str(caught.value)


@on_virtual_time
async def test_an_upload_of_another_process_is_gone() -> None:
    """Its salt is known to nobody: who would go on with it is told to begin anew, and can abort it."""
    store = MemoryStore()
    upload_id = await SealedBucket(MemoryBucket(store), KEY).create_upload("key", part_size_bytes=CHUNK_BYTES)
    later = SealedBucket(MemoryBucket(store), KEY)
    with pytest.raises(UploadGone):
        await later.put_part("key", upload_id, 1, b"x")
    with pytest.raises(UploadGone):
        [page async for page in later.list_parts("key", upload_id)]
    await later.abort_upload("key", upload_id)
    assert store.uploads == {}
    with pytest.raises(Invalid, match="multiples"):
        await later.create_upload("key", part_size_bytes=CHUNK_BYTES + 1)
    await asyncio.sleep(0)
