"""Volumes of s3backer's read and written by us, and ours by s3backer, on SeaweedFS."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.codec.offload import inline
from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import Extent
from bucketry.disk import holding, lifecycle
from bucketry.errors import Busy, Corrupt, Invalid, NotFound, WrongPassword
from bucketry.layout.interface import Change, Layout, Write, Zero
from bucketry.layout.mount_token import check_not_mounted, read_token, release_token, take_token
from bucketry.layout.volume import Volume, create, detect, open_layout, s3backer_salt, unlock
from bucketry.settings import BucketSettings, CacheSettings, Secret, VolumeFormat, VolumeSettings
from interop.s3backer import S3backer, S3backerError
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

BLOCK = 4096
BLOCKS = 64
BLOCK_0 = f"{0:08x}"
PLAIN = VolumeFormat(size_bytes=BLOCKS * BLOCK, block_size_bytes=BLOCK)
PASSWORD = Secret("correct horse")
ASKED_NOTHING = VolumeSettings()


@dataclass(frozen=True)
class Variant:
    """One kind of volume, and what s3backer must be told of it besides its size and block size."""

    name: str
    format: VolumeFormat
    options: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def password(self) -> Secret | None:
        return PASSWORD if self.format.cipher else None

    @property
    def asked(self) -> VolumeSettings:
        """What we must be told: the length of a key is written nowhere."""
        return VolumeSettings(key_length=self.format.key_length)


VARIANTS = [
    Variant("plain", PLAIN),
    Variant("deflate", replace(PLAIN, compression="deflate"), ("--compress",)),
    Variant("aes-128", replace(PLAIN, compression="deflate", cipher="AES-128-CBC"), ("--encrypt",)),
    Variant(
        "aes-256",
        replace(PLAIN, compression="deflate", cipher="AES-256-CBC"),
        ("--encrypt=AES-256-CBC",),
    ),
    Variant(
        "long-key",
        replace(PLAIN, compression="deflate", cipher="AES-128-CBC", key_length=64),
        ("--encrypt", "--keyLength=64"),
    ),
    Variant("hash-prefix", replace(PLAIN, block_hash_prefix=True), ("--blockHashPrefix",)),
    Variant("prefix", PLAIN, ("--prefix=some/disk/",), prefix="some/disk/"),
    Variant(
        "all",
        replace(PLAIN, compression="deflate", cipher="AES-192-CBC", block_hash_prefix=True),
        ("--encrypt=AES-192-CBC", "--blockHashPrefix", "--prefix=a/"),
        prefix="a/",
    ),
]


@dataclass
class Place:
    """A bucket of a test's own, as both programs see it."""

    bucket: Bucket
    bucket_name: str
    s3backer: S3backer

    def their_options(self, variant: Variant) -> list[str]:
        options = list(variant.options)
        if variant.password is not None:
            password_file = self.s3backer.directory / "password"
            password_file.touch(mode=0o600)
            password_file.write_bytes(variant.password.reveal() + b"\n")
            options.append(f"--passwordFile={password_file}")
        return options

    async def create(self, variant: Variant) -> Volume:
        return await create(
            self.bucket,
            variant.prefix,
            variant.format,
            salt=s3backer_salt(self.bucket_name, variant.prefix),
            password=variant.password,
            volume_id="0123456789abcdef0123456789abcdef",
            created="2026-11-21T19:38:00Z",
            created_by="bucketry tests",
        )

    async def detect(self, variant: Variant, asked: VolumeSettings = ASKED_NOTHING) -> Volume:
        salt = s3backer_salt(self.bucket_name, variant.prefix)
        return await detect(self.bucket, variant.prefix, asked, salt=salt)

    async def open(self, variant: Variant, asked: VolumeSettings = ASKED_NOTHING) -> Layout:
        volume = await self.detect(variant, asked)
        cipher = await unlock(self.bucket, volume, variant.password)
        # With checksums of pieces, which s3backer must pass over, on blocks as small as these.
        return open_layout(
            self.bucket, volume, cipher, offload=inline, in_flight_max=8, parts_from_bytes=BLOCK
        )


@pytest.fixture
async def place(seaweed: Seaweed, tmp_path: Path) -> AsyncIterator[Place]:
    name = seaweed.make_bucket()
    access_file = seaweed.access_file(tmp_path / "passwd")
    bucket = connect(BucketSettings(url=f"s3://{name}", endpoint=seaweed.endpoint, access_file=access_file))
    yield Place(bucket, name, S3backer(seaweed, tmp_path))
    await bucket.close()


def image(seed: int) -> bytes:
    """A volume's content: text, noise and zeros, in blocks at random; block 0 is never zero."""
    prng = random.Random(seed)
    text = b"Some words of a block that repeat and repeat. " * 100
    kinds = [lambda: text[:BLOCK], lambda: prng.randbytes(BLOCK), lambda: bytes(BLOCK)]
    return text[:BLOCK] + b"".join(prng.choice(kinds)() for _ in range(BLOCKS - 1))


def changes_to(content: BytesLike) -> list[Change]:
    return [Write(offset, content[offset : offset + BLOCK]) for offset in range(0, len(content), BLOCK)]


async def content_of(layout: Layout) -> bytes:
    """All of it; read in parts it is the same."""
    size = layout.geometry.size_bytes
    content = bytes(await layout.read(Extent(0, size)) or bytes(size))
    for offset in range(0, size, BLOCK):
        part = await layout.read_part(Extent(offset + BLOCK - 1, 1))
        if part is None:
            assert not any(content[offset : offset + BLOCK])
        else:
            assert part.data == content[part.offset : part.end]
    return content


async def stored_blocks(layout: Layout) -> set[int]:
    return {
        block
        async for page in layout.survey()
        for extent in page
        for block in range(extent.offset // BLOCK, extent.end // BLOCK)
    }


def nonzero_blocks(content: BytesLike) -> set[int]:
    return {block for block in range(BLOCKS) if any(content[block * BLOCK : (block + 1) * BLOCK])}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_their_volume_is_read_and_changed_by_us(place: Place, variant: Variant) -> None:
    """We find out what it is, read every byte, write into it, and s3backer reads that."""
    options = place.their_options(variant)
    content = bytearray(image(1))
    new = [f"--size={BLOCKS * BLOCK // 1024}k", "--blockSize=4k"]
    with place.s3backer.mounted(place.bucket_name, *options, *new) as file:
        file.write_bytes(content)
    volume = await place.detect(variant, variant.asked)
    assert volume.kind == "s3backer"
    assert volume.format == replace(variant.format, compression=volume.format.compression)
    assert volume.format.compression in ("none", variant.format.compression)
    layout = await place.open(variant, variant.asked)
    assert await content_of(layout) == content
    assert await stored_blocks(layout) == nonzero_blocks(content)

    content[3 * BLOCK : 5 * BLOCK] = random.Random(2).randbytes(2 * BLOCK)
    content[0:BLOCK] = b"block zero".ljust(BLOCK, b".")
    content[7 * BLOCK : 9 * BLOCK] = bytes(2 * BLOCK)
    await layout.commit([*changes_to(content[: 7 * BLOCK]), Zero(Extent(7 * BLOCK, 2 * BLOCK))])
    with place.s3backer.mounted(place.bucket_name, *options, "--readOnly") as file:
        assert file.read_bytes() == content


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_our_volume_is_read_and_changed_by_them(place: Place, variant: Variant) -> None:
    """s3backer finds its size by itself, reads every byte, writes into it, and we read that."""
    await place.create(variant)
    content = bytearray(image(3))
    await (await place.open(variant)).commit(changes_to(content))
    options = place.their_options(variant)
    with place.s3backer.mounted(place.bucket_name, *options) as file:
        assert file.read_bytes() == content
        content[2 * BLOCK : 4 * BLOCK] = random.Random(4).randbytes(2 * BLOCK)
        content[5 * BLOCK : 6 * BLOCK] = bytes(BLOCK)
        content[100:200] = b"!" * 100
        with file.open("r+b") as opened:
            opened.write(content[: 6 * BLOCK])
    volume = await place.detect(variant)
    assert volume.kind == "bucketry"
    layout = await place.open(variant)
    assert await content_of(layout) == content
    assert await stored_blocks(layout) == nonzero_blocks(content)


async def test_our_zstd_is_more_than_they_read(place: Place) -> None:
    """Debian's s3backer knows no zstd: it reports an error, and no garbage."""
    variant = Variant("zstd", replace(PLAIN, compression="zstd"))
    await place.create(variant)
    await (await place.open(variant)).commit(changes_to(image(5)))
    with (
        place.s3backer.mounted(place.bucket_name, "--readOnly", "--maxRetryPause=200") as file,
        pytest.raises(OSError),
    ):
        file.read_bytes()


async def test_a_volume_whose_block_0_is_zero(place: Place) -> None:
    """Ours still describes itself to us; theirs does not, to either of us."""
    variant = VARIANTS[0]
    content = bytes(BLOCK) + image(6)[BLOCK:]
    size = f"--size={BLOCKS * BLOCK // 1024}k"
    with place.s3backer.mounted(place.bucket_name, size) as file:
        file.write_bytes(content)
    with pytest.raises(Invalid, match="--size"):
        await place.open(variant)
    assert await content_of(await place.open(variant, VolumeSettings(size_bytes=BLOCKS * BLOCK))) == content

    ours = Variant("ours", PLAIN, prefix="ours/")
    await place.create(ours)
    await (await place.open(ours)).commit(changes_to(content))
    assert await content_of(await place.open(ours)) == content
    with (
        pytest.raises(S3backerError, match="size"),
        place.s3backer.mounted(place.bucket_name, "--prefix=ours/"),
    ):
        pytest.fail("s3backer took a volume without a size")
    with place.s3backer.mounted(place.bucket_name, "--prefix=ours/", size) as file:
        assert file.read_bytes() == content


async def test_whoever_has_it_mounted_keeps_the_other_out(place: Place) -> None:
    """Their token is seen by us, ours by them; when it is gone, so is the obstacle."""
    variant = VARIANTS[0]
    size = f"--size={BLOCKS * BLOCK // 1024}k"
    now = datetime(2026, 11, 21, 18, 19, 17, tzinfo=UTC)
    with place.s3backer.mounted(place.bucket_name, size) as file:
        file.write_bytes(image(7))
        with pytest.raises(Busy, match=r"in use by \S+ since \d{8}T\d{6}Z"):
            await check_not_mounted(place.bucket, variant.prefix)
        with pytest.raises(Busy):
            await take_token(place.bucket, variant.prefix, 5, host="here", now=now)
    assert await read_token(place.bucket, variant.prefix) is None

    await take_token(place.bucket, variant.prefix, 5, host="here", now=now)
    with pytest.raises(S3backerError, match="mounted"), place.s3backer.mounted(place.bucket_name):
        pytest.fail("s3backer mounted what is mounted here")
    token = await read_token(place.bucket, variant.prefix)
    assert token is not None
    assert token.value == 5
    await release_token(place.bucket, variant.prefix, 5)
    with place.s3backer.mounted(place.bucket_name) as file:
        assert file.read_bytes() == image(7)


async def test_a_wrong_password_for_their_volume_is_refused(place: Place) -> None:
    """s3backer would take it, and mix keys; we try it on what is there, and write nothing."""
    variant = VARIANTS[2]
    size = f"--size={BLOCKS * BLOCK // 1024}k"
    with place.s3backer.mounted(place.bucket_name, *place.their_options(variant), size) as file:
        file.write_bytes(image(8))
    volume = await place.detect(variant)
    assert await unlock(place.bucket, volume, PASSWORD) is not None
    for password in (Secret("wrong"), None):
        with pytest.raises(WrongPassword):
            await unlock(place.bucket, volume, password)


async def test_their_erase_leaves_our_superblock(place: Place) -> None:
    """They know only blocks and the token: what is left is an empty volume of ours."""
    variant = VARIANTS[0]
    await place.create(variant)
    await (await place.open(variant)).commit(changes_to(image(9)))
    place.s3backer.run(place.bucket_name, "--erase", "--force")
    layout = await place.open(variant)
    assert await stored_blocks(layout) == set()
    assert await content_of(layout) == bytes(BLOCKS * BLOCK)


#: As a btrfs leaves it: nothing in the first 64 KiB, so that block 0 is not stored.
LARGE = replace(PLAIN, block_size_bytes=16 * BLOCK)
WITHOUT_BLOCK_0 = [
    Variant("plain", LARGE),
    Variant("deflate", replace(LARGE, compression="deflate"), ("--compress",)),
    Variant("aes", replace(LARGE, compression="deflate", cipher="AES-128-CBC"), ("--encrypt",)),
    Variant(
        "hashed",
        replace(LARGE, compression="deflate", cipher="AES-256-CBC", block_hash_prefix=True),
        ("--encrypt=AES-256-CBC", "--blockHashPrefix"),
    ),
]


@pytest.mark.parametrize("variant", WITHOUT_BLOCK_0, ids=lambda variant: variant.name)
async def test_their_block_size_is_found_out_without_block_0(place: Place, variant: Variant) -> None:
    """From a block that is stored; a part that is written then leaves the rest of its block as it was."""
    options = place.their_options(variant)
    content = bytearray(bytes(16 * BLOCK) + image(11)[16 * BLOCK :])
    new = [f"--size={BLOCKS * BLOCK // 1024}k", "--blockSize=64k"]
    with place.s3backer.mounted(place.bucket_name, *options, *new) as file:
        file.write_bytes(content)
    asked = VolumeSettings(size_bytes=len(content), password=variant.password)
    volume = await place.detect(variant, asked)
    assert volume.format == replace(variant.format, compression=volume.format.compression)
    salt = s3backer_salt(place.bucket_name, variant.prefix)
    fence = Fence()
    where = holding.Place(FencedBucket(place.bucket, fence), place.bucket, fence, variant.prefix, salt)
    async with lifecycle.opened(where, asked, CacheSettings(), offload=inline, uploads_max=4) as disk:
        assert bytes(await disk.read(0, len(content))) == content
        await disk.write(20 * BLOCK + 7, b"a part")
    content[20 * BLOCK + 7 : 20 * BLOCK + 13] = b"a part"
    with place.s3backer.mounted(place.bucket_name, *options, *new, "--readOnly") as file:
        assert file.read_bytes() == content


async def test_their_volume_with_a_damaged_block_0_opens(place: Place) -> None:
    """The password is tried on another block: all but that one can be read."""
    variant = VARIANTS[2]
    content = image(12)
    size = f"--size={BLOCKS * BLOCK // 1024}k"
    with place.s3backer.mounted(place.bucket_name, *place.their_options(variant), size) as file:
        file.write_bytes(content)
    found = await place.bucket.get(BLOCK_0)
    body = bytearray(found.data)
    body[5] ^= 1
    await place.bucket.put(BLOCK_0, bytes(body), attributes=found.info.attributes)
    layout = await place.open(variant)
    assert bytes(await layout.read(Extent(BLOCK, len(content) - BLOCK)) or b"") == content[BLOCK:]
    with pytest.raises(Corrupt, match=r"block 0 .*HMAC"):
        await layout.read(Extent(0, BLOCK))


async def test_their_empty_volume_is_known_by_its_token(place: Place) -> None:
    """Nothing is stored yet, and it is in use all the same."""
    variant = VARIANTS[0]
    with (
        place.s3backer.mounted(place.bucket_name, f"--size={BLOCKS * BLOCK // 1024}k"),
        pytest.raises(Busy, match=r"empty so far, in use by \S+ since \d{8}T\d{6}Z"),
    ):
        await place.detect(variant)
    with pytest.raises(NotFound, match="no volume here"):
        await place.detect(variant)
