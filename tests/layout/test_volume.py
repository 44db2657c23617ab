"""Finding, making and unlocking volumes, and every way in which they are not as asked."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bucketry.bucket.interface import Attributes
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import inline
from bucketry.codec.pipeline import CRC32C_NAME
from bucketry.core.geometry import Extent, Geometry
from bucketry.errors import (
    AlreadyExists,
    Busy,
    Corrupt,
    Invalid,
    Mismatch,
    NotFound,
    Unsupported,
    WrongPassword,
)
from bucketry.layout.interface import Write, Zero
from bucketry.layout.mount_token import take_token
from bucketry.layout.volume import Volume, create, detect, open_layout, s3backer_salt, unlock
from bucketry.settings import Secret, VolumeFormat, VolumeSettings

PREFIX = "p/"
SALT = s3backer_salt("bucket", PREFIX)
SIZE = 64 * 4096
TEXT = (b"Some words of a block that repeat and repeat. " * 100)[:4096]
ASKED_NOTHING = VolumeSettings()
PLAIN = VolumeFormat(size_bytes=SIZE, block_size_bytes=4096)
AES = VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, compression="deflate", cipher="AES-128-CBC")
PASSWORD = Secret("secret")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bucket(store: MemoryStore) -> MemoryBucket:
    return MemoryBucket(store)


async def make(bucket: MemoryBucket, volume_format: VolumeFormat = PLAIN, *, force: bool = False) -> Volume:
    """A volume with a superblock."""
    return await create(
        bucket,
        PREFIX,
        volume_format,
        salt=SALT,
        password=PASSWORD if volume_format.cipher else None,
        volume_id="0123456789abcdef0123456789abcdef",
        created="2026-11-21T19:38:00Z",
        created_by="bucketry 0.1.0",
        force=force,
    )


async def write_s3backers(
    bucket: MemoryBucket, volume_format: VolumeFormat = PLAIN, *, blocks: tuple[int, ...] = (0, 5)
) -> None:
    """What s3backer would have written: blocks and no superblock, nor our checksum."""
    volume = Volume(prefix=PREFIX, kind="s3backer", format=volume_format, salt=SALT)
    cipher = (
        BlockCipher(volume_format.cipher, PASSWORD, SALT, volume_format.key_length)
        if volume_format.cipher
        else None
    )
    layout = open_layout(bucket, volume, cipher, offload=inline, in_flight_max=1)
    for block in blocks:
        await layout.commit(
            [Write(block * volume_format.block_size_bytes, TEXT * (volume_format.block_size_bytes // 4096))]
        )
        found = await bucket.get(volume.names.key(block))
        attributes = found.info.attributes
        metadata = {name: value for name, value in attributes.metadata.items() if name != CRC32C_NAME}
        attributes = Attributes(attributes.content_type, attributes.content_encoding, metadata)
        await bucket.put(found.info.key, found.data, attributes=attributes)


async def look(bucket: MemoryBucket, asked: VolumeSettings = ASKED_NOTHING) -> Volume:
    return await detect(bucket, PREFIX, asked, salt=SALT)


# Volumes with a superblock.


@pytest.mark.parametrize(
    "volume_format",
    [
        PLAIN,
        VolumeFormat(size_bytes=1 << 40, block_size_bytes=1 << 17, compression="zstd", compression_level=5),
        VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, block_hash_prefix=True),
        VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, cipher="AES-128-CBC", key_length=64),
    ],
)
async def test_a_volume_describes_itself(bucket: MemoryBucket, volume_format: VolumeFormat) -> None:
    """Nothing needs to be asked, whether it holds anything or not."""
    made = await make(bucket, volume_format)
    found = await look(bucket)
    assert found == made
    assert found.kind == "bucketry"
    assert found.format == volume_format
    assert found.volume_id == "0123456789abcdef0123456789abcdef"
    assert found.geometry == Geometry(volume_format.size_bytes, volume_format.block_size_bytes)


async def test_an_encrypted_volume_opens_with_its_password_only(bucket: MemoryBucket) -> None:
    """The superblock tells, before any block exists, and looking at it needs none."""
    await make(bucket, AES)
    volume = await look(bucket)
    assert volume.format.cipher == "AES-128-CBC"
    assert await unlock(bucket, volume, PASSWORD) is not None
    with pytest.raises(WrongPassword, match="wrong password"):
        await unlock(bucket, volume, Secret("other"))
    with pytest.raises(WrongPassword, match="a password is needed"):
        await unlock(bucket, volume, None)


async def test_an_encrypted_volume_survives_a_move(bucket: MemoryBucket) -> None:
    """Its superblock keeps the salt: a copy under another name decrypts the same."""
    await make(bucket, AES)
    layout = open_layout(
        bucket,
        volume := await look(bucket),
        await unlock(bucket, volume, PASSWORD),
        offload=inline,
        in_flight_max=1,
    )
    await layout.commit([Write(0, TEXT)])
    moved = MemoryBucket()
    for key in ("superblock.bucketry.json", "00000000"):
        found = await bucket.get(PREFIX + key)
        await moved.put("q/" + key, found.data, attributes=found.info.attributes)
    volume = await detect(moved, "q/", ASKED_NOTHING, salt="elsewhere/q/")
    layout = open_layout(
        moved, volume, await unlock(moved, volume, PASSWORD), offload=inline, in_flight_max=1
    )
    assert await layout.read(Extent(0, 4096)) == TEXT


async def test_a_password_for_a_plain_volume_is_refused(bucket: MemoryBucket) -> None:
    """Nobody shall believe that it is encrypted."""
    volume = await make(bucket)
    assert await unlock(bucket, volume, None) is None
    with pytest.raises(Mismatch, match="not encrypted"):
        await unlock(bucket, volume, PASSWORD)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (VolumeSettings(size_bytes=2 * SIZE), "the size is 256 KiB, not 512 KiB"),
        (VolumeSettings(block_size_bytes=8192), "the block size is 4 KiB, not 8 KiB"),
        (VolumeSettings(cipher="AES-256-CBC"), "the volume is encrypted with AES-128-CBC, not AES-256-CBC"),
        (VolumeSettings(key_length=64), "the key has 16 bytes, not 64"),
        (
            VolumeSettings(block_hash_prefix=True),
            "names of its blocks have no hash prefix; one was asked for",
        ),
    ],
)
async def test_other_than_asked_is_refused(bucket: MemoryBucket, asked: VolumeSettings, message: str) -> None:
    """The message names both."""
    await make(bucket, AES)
    with pytest.raises(Mismatch, match=message):
        await look(bucket, asked)


async def test_as_asked_is_fine(bucket: MemoryBucket) -> None:
    """What agrees with the volume may be said."""
    await make(bucket, AES)
    asked = VolumeSettings(
        size_bytes=SIZE, block_size_bytes=4096, cipher="AES-128-CBC", key_length=16, block_hash_prefix=False
    )
    assert (await look(bucket, asked)).format.size_bytes == SIZE


async def test_compression_is_for_the_process_to_choose(bucket: MemoryBucket) -> None:
    """It is per block; what is not asked is the volume's own."""
    await make(bucket, AES)
    found = await look(bucket, VolumeSettings(compression="zstd", compression_level=9))
    assert (found.format.compression, found.format.compression_level) == ("zstd", 9)
    found = await look(bucket, VolumeSettings(compression_level=9))
    assert (found.format.compression, found.format.compression_level) == ("deflate", 9)


async def test_superblock_and_block_0_must_agree(bucket: MemoryBucket) -> None:
    """s3backer may have been told another size; force takes what is asked, or the superblock's."""
    await make(bucket)
    await write_s3backers(bucket, VolumeFormat(size_bytes=2 * SIZE, block_size_bytes=4096))
    with pytest.raises(Mismatch, match=r"superblock says 256 KiB in .* 4 KiB, block 0 says 512 KiB"):
        await look(bucket)
    assert (await look(bucket, VolumeSettings(force=True))).format.size_bytes == SIZE
    forced = await look(bucket, VolumeSettings(force=True, size_bytes=2 * SIZE))
    assert forced.format.size_bytes == 2 * SIZE


async def test_a_newer_superblock_is_refused(bucket: MemoryBucket) -> None:
    """Even where blocks could be read as s3backer's."""
    await write_s3backers(bucket)
    await bucket.put(
        PREFIX + "superblock.bucketry.json", b'{"format": "bucketry-volume", "version": 2, "created_by": "x"}'
    )
    with pytest.raises(Unsupported, match="version 2"):
        await look(bucket)


async def test_creating_where_something_is(bucket: MemoryBucket) -> None:
    """A volume is never made over another, unless forced."""
    await make(bucket)
    with pytest.raises(AlreadyExists, match="there is a volume already"):
        await make(bucket)
    await make(bucket, AES, force=True)
    assert (await look(bucket)).format.cipher == "AES-128-CBC"


@pytest.mark.parametrize("lost", [True, False], ids=["superblock lost", "superblock there"])
async def test_a_superblock_made_by_force_keeps_the_id_that_blocks_carry(
    bucket: MemoryBucket, lost: bool
) -> None:
    """They stay, and would be another volume's otherwise."""
    former = replace(await make(bucket), volume_id="f" * 32)
    await bucket.delete(PREFIX + "superblock.bucketry.json")
    if lost:
        layout = open_layout(bucket, former, None, offload=inline, in_flight_max=1)
        await layout.commit([Write(3 * 4096, TEXT)])
    else:
        await create(
            bucket, PREFIX, PLAIN, salt=SALT, password=None, volume_id="f" * 32,
            created="2026-11-21T19:38:00Z", created_by="x",
        )  # fmt: skip
    assert (await make(bucket, force=True)).volume_id == "f" * 32
    layout = open_layout(bucket, await look(bucket), None, offload=inline, in_flight_max=1)
    assert await layout.read(Extent(3 * 4096, 4096)) == (TEXT if lost else None)


@pytest.mark.parametrize("hash_prefix", [False, True])
@pytest.mark.parametrize("block", [0, 7])
async def test_creating_where_an_s3backer_volume_is(
    bucket: MemoryBucket, hash_prefix: bool, block: int
) -> None:
    """Its blocks are noticed, of either kind of name, block 0 or not."""
    volume_format = VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, block_hash_prefix=hash_prefix)
    await write_s3backers(bucket, volume_format, blocks=(block,))
    with pytest.raises(AlreadyExists, match="belongs to a volume"):
        await make(bucket)


async def test_creating_what_cannot_be_written(bucket: MemoryBucket, store: MemoryStore) -> None:
    """Nothing is put when the format is not usable."""
    for volume_format, password in (
        (
            VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, compression="deflate", compression_level=77),
            None,
        ),
        (VolumeFormat(size_bytes=5000, block_size_bytes=4096), None),
        (AES, None),
        (PLAIN, PASSWORD),
    ):
        with pytest.raises(Invalid):
            await create(
                bucket, PREFIX, volume_format, salt=SALT, password=password, volume_id="0" * 32,
                created="2026-11-21T19:38:00Z", created_by="x",
            )  # fmt: skip
    assert store.objects == {}


# Volumes of s3backer's.


@pytest.mark.parametrize("hash_prefix", [False, True])
@pytest.mark.parametrize("block_size", [4096, 8192])
async def test_block_0_tells_the_geometry(bucket: MemoryBucket, hash_prefix: bool, block_size: int) -> None:
    """And, by its name, whether there are hash prefixes."""
    volume_format = VolumeFormat(size_bytes=SIZE, block_size_bytes=block_size, block_hash_prefix=hash_prefix)
    await write_s3backers(bucket, volume_format)
    found = await look(bucket)
    assert found.kind == "s3backer"
    assert found.format == volume_format
    assert found.volume_id is None


async def test_without_block_0_the_size_must_be_told(bucket: MemoryBucket) -> None:
    """Its metadata is gone with it; another block still tells the rest."""
    volume_format = VolumeFormat(size_bytes=SIZE, block_size_bytes=8192, block_hash_prefix=True)
    await write_s3backers(bucket, volume_format, blocks=(3,))
    with pytest.raises(Invalid, match="--size"):
        await look(bucket)
    assert (await look(bucket, VolumeSettings(size_bytes=SIZE))).format == volume_format


ENCODED = [
    replace(PLAIN, block_size_bytes=8192, compression="zstd"),
    replace(PLAIN, block_size_bytes=8192, compression="deflate"),
    replace(PLAIN, block_size_bytes=8192, compression="deflate", cipher="AES-128-CBC"),
    replace(PLAIN, block_size_bytes=8192, cipher="AES-256-CBC"),
]


@pytest.mark.parametrize("volume_format", ENCODED)
async def test_a_block_is_decoded_to_tell_the_block_size(
    bucket: MemoryBucket, volume_format: VolumeFormat
) -> None:
    """Nothing is guessed: in blocks of another size the first write would destroy what is beside it."""
    await write_s3backers(bucket, volume_format, blocks=(3,))
    asked = VolumeSettings(size_bytes=SIZE, password=PASSWORD if volume_format.cipher else None)
    assert (await look(bucket, asked)).format == volume_format
    with pytest.raises(Mismatch, match="the block size is 8 KiB, not 4 KiB"):
        await look(bucket, replace(asked, block_size_bytes=4096))
    with pytest.raises(Mismatch, match="the block size is 8 KiB, not 4 KiB"):
        await look(bucket, replace(asked, block_size_bytes=4096, force=True))


async def test_without_the_password_only_what_padding_tells_is_known(bucket: MemoryBucket) -> None:
    """Compressed data that is encrypted may be of any size; then the password, or the size, is asked for."""
    asked = VolumeSettings(size_bytes=SIZE)
    await write_s3backers(bucket, ENCODED[3], blocks=(3,))
    assert (await look(bucket, asked)).format == ENCODED[3]
    await write_s3backers(bucket, ENCODED[2], blocks=(3,))
    with pytest.raises(WrongPassword, match="a password is needed, or --block-size"):
        await look(bucket, asked)
    with pytest.raises(WrongPassword, match=r"block 3 .*wrong password"):
        await look(bucket, replace(asked, password=Secret("other")))
    assert (await look(bucket, replace(asked, block_size_bytes=8192))).format == ENCODED[2]


async def test_a_damaged_block_is_not_the_one_that_tells(bucket: MemoryBucket) -> None:
    """The next one is asked; when all are damaged, the user is."""
    await write_s3backers(bucket, ENCODED[0], blocks=(1, 2, 3))
    for block in (1, 2):
        found = await bucket.get(PREFIX + f"{block:08x}")
        await bucket.put(found.info.key, bytes(found.data)[:-20], attributes=found.info.attributes)
    asked = VolumeSettings(size_bytes=SIZE)
    assert (await look(bucket, asked)).format == ENCODED[0]
    await bucket.put(PREFIX + "00000003", TEXT[:1000], attributes=Attributes(content_encoding="zstd"))
    with pytest.raises(Corrupt, match=r"block 1 .*give --size and --block-size"):
        await look(bucket, asked)
    assert (await look(bucket, replace(asked, block_size_bytes=8192))).format == ENCODED[0]


async def test_a_block_0_without_its_encoding_does_not_make_the_volume_plain(bucket: MemoryBucket) -> None:
    """Its length betrays it, and another block tells."""
    volume_format = replace(ENCODED[2], size_bytes=SIZE)
    await write_s3backers(bucket, volume_format, blocks=(0, 5))
    found = await bucket.get(PREFIX + "00000000")
    await bucket.put(
        found.info.key, found.data, attributes=replace(found.info.attributes, content_encoding=None)
    )
    volume = await look(bucket)
    assert volume.format == volume_format
    assert await unlock(bucket, volume, PASSWORD) is not None


@pytest.mark.slow
async def test_a_prefix_full_of_other_objects_is_not_searched_for_ever(bucket: MemoryBucket) -> None:
    """What sorts before and after block names is not looked at; of what lies between there is a limit."""
    for number in range(30_000):
        await bucket.put(f"{PREFIX}-{number}", b"")
        await bucket.put(f"{PREFIX}photo-{number}", b"")
    with pytest.raises(NotFound, match="no volume here"):
        await look(bucket)
    await write_s3backers(bucket, blocks=(0x10,))
    assert (await look(bucket, VolumeSettings(size_bytes=SIZE))).format == PLAIN
    await bucket.delete(f"{PREFIX}00000010")
    for number in range(30_000):
        await bucket.put(f"{PREFIX}0-{number}", b"")
    with pytest.raises(Invalid, match="none of the first 20000 objects there is a block"):
        await look(bucket)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "lacks the metadata s3backer-filesize and s3backer-blocksize"),
        ({"s3backer-blocksize": "4096"}, "lacks the metadata s3backer-filesize"),
        (
            {"s3backer-blocksize": "4k", "s3backer-filesize": "1"},
            "has the metadata s3backer-blocksize with the value '4k'",
        ),
        (
            {"s3backer-blocksize": "0", "s3backer-filesize": "0"},
            "has the metadata s3backer-filesize with the value '0'",
        ),
    ],
)
async def test_incomplete_metadata_is_none(
    bucket: MemoryBucket, metadata: dict[str, str], message: str
) -> None:
    """As s3backer takes it: both numbers, or nothing; what is wrong with them is said."""
    await bucket.put(PREFIX + "00000000", TEXT, attributes=Attributes(metadata=metadata))
    with pytest.raises(Invalid, match=f"p/00000000 {message}: give --size"):
        await look(bucket)
    assert (await look(bucket, VolumeSettings(size_bytes=SIZE))).format == PLAIN


async def test_impossible_metadata_is_corrupt(bucket: MemoryBucket) -> None:
    """Numbers that are no geometry."""
    metadata = {"s3backer-blocksize": "1000", "s3backer-filesize": "5000"}
    await bucket.put(PREFIX + "00000000", TEXT, attributes=Attributes(metadata=metadata))
    with pytest.raises(Corrupt, match="block size of 1000 B is not a power of two from 512 B to 64 MiB"):
        await look(bucket)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (VolumeSettings(size_bytes=2 * SIZE), "the size is 256 KiB, not 512 KiB"),
        (VolumeSettings(block_size_bytes=8192), "the block size is 4 KiB, not 8 KiB"),
        (VolumeSettings(cipher="AES-128-CBC"), "the volume is not encrypted; AES-128-CBC was asked for"),
        (
            VolumeSettings(block_hash_prefix=True),
            "names of its blocks have no hash prefix; one was asked for",
        ),
    ],
)
async def test_s3backers_other_than_asked_is_refused(
    bucket: MemoryBucket, asked: VolumeSettings, message: str
) -> None:
    """As with our own."""
    await write_s3backers(bucket)
    with pytest.raises(Mismatch, match=message):
        await look(bucket, asked)


async def test_force_takes_what_is_asked(bucket: MemoryBucket) -> None:
    """s3backer's way to grow a volume."""
    await write_s3backers(bucket)
    found = await look(bucket, VolumeSettings(size_bytes=2 * SIZE, force=True))
    assert found.geometry == Geometry(2 * SIZE, 4096)


async def test_force_does_not_change_the_size_of_blocks_that_are_stored(bucket: MemoryBucket) -> None:
    """It may only overrule what block 0 says of them, when they are not so."""
    await write_s3backers(bucket)
    asked = VolumeSettings(block_size_bytes=8192, force=True)
    with pytest.raises(Mismatch, match="the block size is 4 KiB, not 8 KiB"):
        await look(bucket, asked)
    await write_s3backers(bucket, replace(PLAIN, block_size_bytes=8192, compression="zstd"))
    found = await bucket.get(PREFIX + "00000000")
    metadata = {"s3backer-blocksize": "4096", "s3backer-filesize": str(SIZE)}
    await bucket.put(found.info.key, found.data, attributes=replace(found.info.attributes, metadata=metadata))
    assert (await look(bucket, asked)).geometry == Geometry(SIZE, 8192)


@pytest.mark.parametrize("block", [0, 7])
@pytest.mark.parametrize("cipher", ["AES-128-CBC", "AES-256-CBC"])
async def test_a_wrong_password_is_noticed_on_any_block(
    bucket: MemoryBucket, cipher: str, block: int
) -> None:
    """s3backer would write on; we try the password on what is there."""
    await write_s3backers(
        bucket, VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, cipher=cipher), blocks=(block,)
    )
    volume = await look(bucket, VolumeSettings(size_bytes=SIZE))
    assert volume.format.cipher == cipher
    assert await unlock(bucket, volume, PASSWORD) is not None
    with pytest.raises(WrongPassword, match="wrong password"):
        await unlock(bucket, volume, Secret("other"))
    with pytest.raises(WrongPassword, match=f"encrypted with {cipher}: a password is needed"):
        await unlock(bucket, volume, None)


async def test_the_key_length_of_old_volumes_is_asked(bucket: MemoryBucket) -> None:
    """s3backer before 1.3.6 made longer keys, and wrote that nowhere."""
    await write_s3backers(
        bucket, VolumeFormat(size_bytes=SIZE, block_size_bytes=4096, cipher="AES-128-CBC", key_length=64)
    )
    with pytest.raises(WrongPassword, match="another key length"):
        await unlock(bucket, await look(bucket), PASSWORD)
    assert await unlock(bucket, await look(bucket, VolumeSettings(key_length=64)), PASSWORD) is not None


async def test_a_damaged_sample_is_not_a_wrong_password(bucket: MemoryBucket) -> None:
    """Where the block carries our checksum, that is the difference."""
    await write_without_superblock(bucket, 0)
    await flip(bucket, 0)
    with pytest.raises(Corrupt, match=r"block 0 .*crc32c"):
        await unlock(bucket, await look(bucket), PASSWORD)


async def test_one_damaged_block_0_does_not_lock_the_volume(bucket: MemoryBucket) -> None:
    """The password is tried on another block, checksum or not; a wrong one stays wrong."""
    await write_s3backers(bucket, AES, blocks=(0, 5))
    await flip(bucket, 0)
    volume = await look(bucket)
    cipher = await unlock(bucket, volume, PASSWORD)
    with pytest.raises(WrongPassword, match="wrong password"):
        await unlock(bucket, volume, Secret("other"))
    layout = open_layout(bucket, volume, cipher, offload=inline, in_flight_max=1)
    assert await layout.read(Extent(5 * 4096, 4096)) == TEXT
    with pytest.raises(Corrupt, match="block 0"):
        await layout.read(Extent(0, 4096))
    await write_without_superblock(bucket, 0, 7)
    await flip(bucket, 0)
    await bucket.delete(PREFIX + "00000005")
    assert await unlock(bucket, await look(bucket), PASSWORD) is not None
    with pytest.raises(WrongPassword, match="wrong password"):
        await unlock(bucket, await look(bucket), Secret("other"))


async def write_without_superblock(bucket: MemoryBucket, *blocks: int) -> None:
    """Encrypted blocks that carry our checksum, on what is s3backer's volume by now."""
    volume = Volume(prefix=PREFIX, kind="s3backer", format=AES, salt=SALT)
    cipher = BlockCipher("AES-128-CBC", PASSWORD, SALT)
    layout = open_layout(bucket, volume, cipher, offload=inline, in_flight_max=1)
    for block in blocks:
        await layout.commit([Write(block * 4096, TEXT)])


async def flip(bucket: MemoryBucket, block: int) -> None:
    """One bit of a stored body."""
    found = await bucket.get(PREFIX + f"{block:08x}")
    body = bytearray(found.data)
    body[9] ^= 4
    await bucket.put(found.info.key, bytes(body), attributes=found.info.attributes)


async def test_nothing_there(bucket: MemoryBucket) -> None:
    """An empty prefix is not a volume, unless the caller makes it one by naming a size."""
    await bucket.put("p/readme.txt", b"x")
    await bucket.put("00000000", TEXT)
    with pytest.raises(NotFound, match="no volume here"):
        await look(bucket)
    with pytest.raises(NotFound):
        await look(bucket, VolumeSettings(size_bytes=SIZE))
    with pytest.raises(NotFound):
        await detect(bucket, PREFIX, ASKED_NOTHING, salt=SALT, allow_empty=True)
    with pytest.raises(NotFound, match="needs --size and --block-size"):
        await detect(bucket, PREFIX, VolumeSettings(size_bytes=SIZE), salt=SALT, allow_empty=True)
    asked = VolumeSettings(
        size_bytes=SIZE,
        block_size_bytes=4096,
        block_hash_prefix=True,
        compression="deflate",
        password=PASSWORD,
    )
    found = await detect(bucket, PREFIX, asked, salt=SALT, allow_empty=True)
    assert found.format == VolumeFormat(
        size_bytes=SIZE,
        block_size_bytes=4096,
        compression="deflate",
        cipher="AES-128-CBC",
        block_hash_prefix=True,
    )
    assert await unlock(bucket, found, PASSWORD) is not None


async def test_an_empty_volume_that_s3backer_has_mounted(bucket: MemoryBucket) -> None:
    """It is said so, wherever there would be no volume otherwise."""
    now = datetime(2026, 11, 21, 18, 19, 17, tzinfo=UTC)
    await take_token(bucket, PREFIX, 5, host="there", now=now)
    for asked in (ASKED_NOTHING, VolumeSettings(size_bytes=SIZE)):
        with pytest.raises(Busy, match=r"empty so far, in use by there since 20261121T181917Z"):
            await look(bucket, asked)
        with pytest.raises(Busy, match="empty so far, in use by there"):
            await detect(bucket, PREFIX, asked, salt=SALT, allow_empty=True)


@pytest.mark.parametrize("block", [0, 3])
async def test_two_volumes_in_one_place(bucket: MemoryBucket, block: int) -> None:
    """With and without hash prefixes they do not collide, but one must be named."""
    await write_s3backers(bucket, blocks=(block,))
    hashed = VolumeFormat(size_bytes=2 * SIZE, block_size_bytes=4096, block_hash_prefix=True)
    await write_s3backers(bucket, hashed, blocks=(block,))
    with pytest.raises(Mismatch, match="--block-hash-prefix"):
        await look(bucket)
    asked = VolumeSettings(block_hash_prefix=True, size_bytes=2 * SIZE)
    assert (await look(bucket, asked)).format == hashed
    assert (await look(bucket, VolumeSettings(block_hash_prefix=False, size_bytes=SIZE))).format == PLAIN


async def test_an_encoding_that_cannot_be_understood_is_corrupt(bucket: MemoryBucket) -> None:
    """Of the block that is to tell whether the volume is encrypted."""
    await bucket.put(PREFIX + "00000000", TEXT, attributes=Attributes(content_encoding="deflate, deflate"))
    with pytest.raises(Corrupt, match="block 0"):
        await look(bucket, VolumeSettings(size_bytes=SIZE))


async def test_a_volume_whose_block_0_is_zero_still_opens(bucket: MemoryBucket) -> None:
    """What the superblock is for."""
    volume = await make(bucket)
    layout = open_layout(bucket, volume, None, offload=inline, in_flight_max=1)
    await layout.commit([Write(0, TEXT * 2)])
    await layout.commit([Zero(Extent(0, 4096))])
    found = await look(bucket)
    layout = open_layout(bucket, found, await unlock(bucket, found, None), offload=inline, in_flight_max=1)
    assert await layout.read(Extent(0, 8192)) == bytes(4096) + TEXT
