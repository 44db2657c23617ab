"""The s3backer layout: the contract with every codec, what its objects look like, and hostile ones."""

import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.interface import NO_ATTRIBUTES, Attributes, Bucket, ByteRange, Object
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.wrapper import BucketWrapper
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import inline
from bucketry.codec.pipeline import CRC32C_NAME, HMAC_NAME, PIECES, PIECES_NAME, PLACE_NAME, BlockCodec
from bucketry.core.geometry import Extent, Geometry
from bucketry.core.names import BlockNames
from bucketry.core.priority import Priority
from bucketry.errors import BucketNotFound, Corrupt, Unavailable
from bucketry.layout.interface import Write, Zero
from bucketry.layout.s3backer import S3backerLayout
from bucketry.settings import Secret
from bucketry.testing.faulty_bucket import Fail, FaultyBucket, FlipBit
from bucketry.testing.layout_contract import UNITS, LayoutContract

BLOCK_SIZE = 4096
TEXT = (b"Some words of a block that repeat and repeat. " * 100)[:BLOCK_SIZE]
CIPHER = BlockCipher("AES-128-CBC", Secret("secret"), "bucket/p/")
OTHER_CIPHER = BlockCipher("AES-256-CBC", Secret("secret"), "bucket/p/")


def make_layout(
    bucket: Bucket,
    *,
    compression: str = "none",
    cipher: BlockCipher | None = None,
    hash_prefix: bool = False,
    block_count: int = UNITS,
    has_pieces: bool = False,
    volume_id: str | None = None,
) -> S3backerLayout:
    geometry = Geometry(block_count * BLOCK_SIZE, BLOCK_SIZE)
    names = BlockNames("p/", block_count, hash_prefix)
    codec = BlockCodec(
        BLOCK_SIZE, compression=compression, cipher=cipher, has_pieces=has_pieces, volume_id=volume_id
    )
    return S3backerLayout(bucket, names, geometry, codec, offload=inline, in_flight_max=8)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bucket(store: MemoryStore) -> MemoryBucket:
    return MemoryBucket(store)


class TestContract(LayoutContract):
    """Every compression, with and without encryption, hash prefixes and checksums of pieces."""

    @pytest.fixture(
        params=[
            ("none", None, False, False),
            ("none", None, False, True),
            ("none", None, True, True),
            ("deflate", None, False, False),
            ("deflate", None, False, True),
            ("zstd", None, False, False),
            ("none", CIPHER, False, True),
            ("deflate", CIPHER, False, False),
            ("zstd", OTHER_CIPHER, True, False),
        ],
        ids=str,
    )
    def layout(self, request: pytest.FixtureRequest, bucket: MemoryBucket) -> S3backerLayout:
        compression, cipher, hash_prefix, has_pieces = request.param
        return make_layout(
            bucket, compression=compression, cipher=cipher, hash_prefix=hash_prefix, has_pieces=has_pieces
        )


class TestContractInADirectory(LayoutContract):
    """Attributes that a file system has no place for travel with the bytes."""

    @pytest.fixture
    async def layout(self, tmp_path: Path) -> AsyncIterator[S3backerLayout]:
        bucket = DirectoryBucket(tmp_path, threads_count_max=4)
        yield make_layout(bucket, compression="deflate", cipher=CIPHER)
        await bucket.close()


@pytest.mark.slow
async def test_zeroing_a_huge_range_takes_no_memory_for_it(bucket: MemoryBucket) -> None:
    """Any number of blocks is deleted a thousand at a time, and what is written after them stays."""
    block_count = 100_000
    layout = make_layout(bucket, block_count=block_count)
    await layout.commit([Write(7 * BLOCK_SIZE, TEXT)])
    tracemalloc.start()
    try:
        everything = Zero(Extent(0, block_count * BLOCK_SIZE))
        await layout.commit([Write(0, TEXT), everything, Write(9 * BLOCK_SIZE, TEXT)])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    ((found,),) = [page async for page in layout.survey()]
    assert (found.offset, found.length) == (9 * BLOCK_SIZE, BLOCK_SIZE)


async def test_objects_are_s3backers(bucket: MemoryBucket, store: MemoryStore) -> None:
    """Names, content type, and the geometry on block 0 and on no other."""
    await make_layout(bucket).commit([Write(0, TEXT * 2)])
    assert sorted(store.objects) == ["p/00000000", "p/00000001"]
    for key, geometry in (
        ("p/00000000", {"s3backer-blocksize": "4096", "s3backer-filesize": str(UNITS * BLOCK_SIZE)}),
        ("p/00000001", {}),
    ):
        found = await bucket.get(key)
        assert found.data == TEXT
        assert found.info.attributes.content_type == "application/x-s3backer-block"
        assert found.info.attributes.content_encoding is None
        metadata = dict(found.info.attributes.metadata)
        assert metadata.pop(CRC32C_NAME)
        assert metadata.pop(PLACE_NAME) == key.removeprefix("p/")
        assert metadata == geometry


async def test_encodings_are_written_and_mixed_ones_read(bucket: MemoryBucket) -> None:
    """Each block says how it is encoded, so blocks of one volume may differ."""
    expected = {"none": None, "deflate": "deflate", "zstd": "zstd"}
    for block, compression in enumerate(expected):
        await make_layout(bucket, compression=compression).commit([Write(block * BLOCK_SIZE, TEXT)])
        info = await bucket.head(f"p/{block:08x}")
        assert info.attributes.content_encoding == expected[compression]
    assert await make_layout(bucket).read(Extent(0, 3 * BLOCK_SIZE)) == TEXT * 3


async def test_a_zero_block_zero_takes_the_geometry_with_it(bucket: MemoryBucket, store: MemoryStore) -> None:
    """As with s3backer: block 0 is an object like all others."""
    layout = make_layout(bucket)
    await layout.commit([Write(0, TEXT)])
    await layout.commit([Zero(Extent(0, BLOCK_SIZE))])
    assert store.objects == {}


async def test_statistics_count_blocks(bucket: MemoryBucket) -> None:
    """What was read, absent, written and deleted."""
    layout = make_layout(bucket)
    await layout.commit([Write(0, TEXT), Zero(Extent(BLOCK_SIZE, 2 * BLOCK_SIZE))])
    await layout.read(Extent(0, 2 * BLOCK_SIZE))
    assert layout.statistics()["layout"] == {
        "blocks_read": 1,
        "blocks_read_again": 0,
        "parts_read": 0,
        "parts_refused": 0,
        "absent_blocks_read": 1,
        "blocks_written": 1,
        "blocks_deleted": 2,
    }


@pytest.mark.parametrize("times", [1, 2])
async def test_a_block_that_is_damaged_on_its_way_is_asked_for_again(
    bucket: MemoryBucket, times: int
) -> None:
    """Once: what is damaged twice is damaged in the bucket."""
    faulty = FaultyBucket(bucket)
    layout = make_layout(faulty)
    await layout.commit([Write(0, TEXT)])
    faulty.plan(FlipBit(), operation="get", times=times)
    if times == 1:
        assert await layout.read(Extent(0, BLOCK_SIZE)) == TEXT
    else:
        with pytest.raises(Corrupt):
            await layout.read(Extent(0, BLOCK_SIZE))
    assert figure(layout, "blocks_read_again") == 1


def figure(layout: S3backerLayout, name: str) -> int:
    figures = layout.statistics()["layout"]
    assert isinstance(figures, dict)
    return int(figures[name])


async def test_a_part_moves_little_more_than_was_asked_for(bucket: MemoryBucket) -> None:
    """Of a plain block with checksums of its pieces a quarter is fetched, as often as asked."""
    layout = make_layout(bucket, has_pieces=True)
    await layout.commit([Write(0, TEXT)])
    assert layout.part_bytes == BLOCK_SIZE // 4
    for start in (0, 1023, 4095):
        part = await layout.read_part(Extent(start, 1))
        assert part is not None
        assert len(part.data) == BLOCK_SIZE // 4
    assert (figure(layout, "parts_read"), figure(layout, "blocks_read")) == (3, 0)


async def test_parts_of_a_block_without_any_checksum(bucket: MemoryBucket) -> None:
    """s3backer's plain blocks are verified by their length, whole or not."""
    layout = make_layout(bucket, has_pieces=True)
    await bucket.put("p/00000000", TEXT, attributes=NO_ATTRIBUTES)
    part = await layout.read_part(Extent(5, 1))
    assert part is not None
    assert part.data == TEXT[: BLOCK_SIZE // 4]
    await bucket.put("p/00000000", TEXT + b"x", attributes=NO_ATTRIBUTES)
    with pytest.raises(Corrupt, match="block 0"):
        await layout.read_part(Extent(5, 1))


@pytest.mark.parametrize(
    "stored",
    [{}, {"compression": "deflate", "has_pieces": True}],
    ids=["without checksums of pieces", "compressed"],
)
async def test_what_has_no_parts_is_read_whole_without_asking_for_long(
    bucket: MemoryBucket, stored: dict[str, Any]
) -> None:
    """A part that cannot be verified costs a request, so that after the first ones no more is tried for a
    while."""
    await make_layout(bucket, **stored).commit([Write(0, TEXT * 10)])
    layout = make_layout(bucket, has_pieces=True)
    for block in range(10):
        part = await layout.read_part(Extent(block * BLOCK_SIZE + 5, 1))
        assert part is not None
        assert (part.offset, part.data) == (block * BLOCK_SIZE, TEXT)
    assert (figure(layout, "parts_refused"), figure(layout, "blocks_read")) == (2, 10)


@pytest.mark.parametrize(("compression", "has_pieces"), [("none", False), ("none", True), ("zstd", False)])
async def test_an_object_in_another_ones_place_is_not_read(
    bucket: MemoryBucket, compression: str, has_pieces: bool
) -> None:
    """Neither whole nor in part, neither that of another block nor of another volume."""
    layout = make_layout(bucket, compression=compression, has_pieces=has_pieces, volume_id="a" * 32)
    await layout.commit([Write(0, TEXT), Write(BLOCK_SIZE, b"other".ljust(BLOCK_SIZE, b"."))])
    one, two = await bucket.get("p/00000000"), await bucket.get("p/00000001")
    await bucket.put(one.info.key, two.data, attributes=two.info.attributes)
    await bucket.put(two.info.key, one.data, attributes=one.info.attributes)
    for block in (0, 1):
        message = rf"block {block} \(p/{block:08x} .*: it is block {1 - block}, in the place of block {block}"
        with pytest.raises(Corrupt, match=message):
            await layout.read(Extent(block * BLOCK_SIZE, BLOCK_SIZE))
        with pytest.raises(Corrupt, match=message):
            await layout.read_part(Extent(block * BLOCK_SIZE + 5, 1))
    await bucket.put(one.info.key, one.data, attributes=one.info.attributes)
    assert await layout.read(Extent(0, BLOCK_SIZE)) == TEXT
    other = make_layout(bucket, compression=compression, has_pieces=has_pieces, volume_id="b" * 32)
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"it is a block of the volume a{32}, and this is b{32}"):
            await other.read_part(Extent(5, 1))


@pytest.mark.parametrize("damage", ["bytes", "checksum", "no checksums", "pieces of another block"])
async def test_a_damaged_part_is_asked_for_with_its_block(
    bucket: MemoryBucket, store: MemoryStore, damage: str
) -> None:
    """What was damaged on its way is whole then; what is damaged in the bucket is an error, wherever it is
    seen; what is not damaged is read."""
    layout = make_layout(bucket, has_pieces=True)
    await layout.commit([Write(0, TEXT)])
    info, data = store.objects["p/00000000"]
    metadata = dict(info.attributes.metadata)
    if damage == "bytes":
        data = b"\0" + data[1:]
    elif damage == "checksum":
        metadata[PIECES_NAME] = "00000000" + metadata[PIECES_NAME][8:]
    elif damage == "no checksums":
        metadata[PIECES_NAME] = "no checksums"
    else:
        metadata[PIECES_NAME] = metadata[PIECES_NAME][::-1]
    store.objects["p/00000000"] = replace(info, attributes=replace(info.attributes, metadata=metadata)), data
    if damage == "bytes":
        with pytest.raises(Corrupt, match="block 0"):
            await layout.read_part(Extent(5, 1))
    else:
        part = await layout.read_part(Extent(5, 1))
        assert part is not None
        assert part.data == TEXT
    last = await make_layout(bucket, has_pieces=True).read_part(Extent(BLOCK_SIZE - 1, 1))
    assert last is not None
    assert last.data == TEXT[last.offset :]


async def test_a_part_that_is_cut_on_its_way_is_not_believed(bucket: MemoryBucket) -> None:
    """Too few bytes of a part, and then the whole block."""
    await make_layout(bucket, has_pieces=True).commit([Write(0, TEXT)])
    layout = make_layout(_Cutting(bucket), has_pieces=True)
    part = await layout.read_part(Extent(5, 1))
    assert part is not None
    assert part.data == TEXT


class _Cutting(BucketWrapper):
    """Whose ranges are too short by one piece."""

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, priority: Priority = Priority.READ
    ) -> Object:
        found = await self._below.get(key, byte_range=byte_range, priority=priority)
        if byte_range is None:
            return found
        return replace(found, data=found.data[: len(found.data) - BLOCK_SIZE // PIECES])


async def test_a_missing_bucket_is_not_an_empty_volume(bucket: MemoryBucket) -> None:
    """Zeros are read only where the store says that the object, not the bucket, is absent."""
    faulty = FaultyBucket(bucket)
    faulty.plan(Fail(BucketNotFound))
    with pytest.raises(BucketNotFound):
        await make_layout(faulty).read(Extent(0, BLOCK_SIZE))


async def test_a_failing_commit_leaves_nothing_under_way(bucket: MemoryBucket, store: MemoryStore) -> None:
    """The first error is raised after the other puts of the batch have ended."""
    faulty = FaultyBucket(bucket)
    faulty.plan(Fail(Unavailable))
    with pytest.raises(Unavailable):
        await make_layout(faulty).commit([Write(0, TEXT * 3)])
    assert sorted(store.objects) == ["p/00000001", "p/00000002"]


HOSTILE: list[tuple[str, bytes, Attributes, type[Exception], str]] = [
    ("empty", b"", NO_ATTRIBUTES, Corrupt, "0 bytes instead of 4096"),
    ("truncated", TEXT[:-1], NO_ATTRIBUTES, Corrupt, "4095 bytes instead of 4096"),
    ("too long", TEXT + b"x", NO_ATTRIBUTES, Corrupt, "4097 bytes instead of 4096"),
    ("unknown encoding", TEXT, Attributes(content_encoding="br"), Corrupt, "unknown content encoding 'br'"),
    ("chunked", TEXT, Attributes(content_encoding="aws-chunked"), Corrupt, "encoding 'aws-chunked'"),
    ("not deflate", TEXT, Attributes(content_encoding="deflate"), Corrupt, "damaged deflate"),
    ("not zstd", TEXT, Attributes(content_encoding="zstd"), Corrupt, "damaged zstd"),
    ("wrong order", TEXT, Attributes(content_encoding="encrypt-A, deflate"), Corrupt, "cannot be undone"),
    ("flipped bit", TEXT, Attributes(metadata={CRC32C_NAME: "00000000"}), Corrupt, "the crc32c is"),
    ("encrypted", TEXT, Attributes(content_encoding="encrypt-AES-128-CBC"), Corrupt, "the volume is not"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "attributes", "error", "message"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE]
)
async def test_hostile_objects_are_errors_that_name_the_block(
    bucket: MemoryBucket, body: bytes, attributes: Attributes, error: type[Exception], message: str
) -> None:
    """Whatever is wrong, the error says what, in which block and which object; other blocks are read as
    ever."""
    layout = make_layout(bucket)
    await layout.commit([Write(0, TEXT)])
    await bucket.put("p/0000001f", body, attributes=attributes)
    with pytest.raises(error, match=message) as caught:
        await layout.read(Extent(31 * BLOCK_SIZE, BLOCK_SIZE))
    assert str(caught.value).startswith("block 31 (p/0000001f in memory://")
    assert await layout.read(Extent(0, BLOCK_SIZE)) == TEXT


@pytest.mark.parametrize(("source", "target"), [(1, 2), (2, 1)], ids=["forwards", "backwards"])
async def test_swapped_objects_of_an_encrypted_volume(bucket: MemoryBucket, source: int, target: int) -> None:
    """An authentic object in another block's place is refused, also if s3backer wrote it."""
    layout = make_layout(bucket, compression="deflate", cipher=CIPHER)
    await layout.commit([Write(BLOCK_SIZE, TEXT), Write(2 * BLOCK_SIZE, TEXT[::-1])])
    found = await bucket.get(f"p/{source:08x}")
    attributes = found.info.attributes
    attributes = replace(attributes, metadata={HMAC_NAME: attributes.metadata[HMAC_NAME]})
    await bucket.put(f"p/{target:08x}", found.data, attributes=attributes)
    with pytest.raises(Corrupt, match="HMAC is wrong"):
        await layout.read(Extent(target * BLOCK_SIZE, BLOCK_SIZE))


async def test_an_encrypted_volume_takes_nothing_else(bucket: MemoryBucket) -> None:
    """A plain object, or one without its HMAC, is refused: whoever can put objects cannot make blocks."""
    layout = make_layout(bucket, cipher=CIPHER)
    await layout.commit([Write(BLOCK_SIZE, TEXT)])
    await bucket.put("p/00000000", TEXT)
    with pytest.raises(Corrupt, match="not encrypted"):
        await layout.read(Extent(0, BLOCK_SIZE))
    found = await bucket.get("p/00000001")
    metadata = {name: value for name, value in found.info.attributes.metadata.items() if name != HMAC_NAME}
    encoding = found.info.attributes.content_encoding
    await bucket.put("p/00000001", found.data, attributes=Attributes(None, encoding, metadata))
    with pytest.raises(Corrupt, match="without a valid s3backer-hmac"):
        await layout.read(Extent(BLOCK_SIZE, BLOCK_SIZE))
