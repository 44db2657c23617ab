"""Finding out what volume lies under a prefix, making a new one, and opening its layout.

What a volume says of itself comes from its superblock; without one, it is s3backer's: its geometry is kept
with block 0, its encryption with any block, and the rest is asked of the caller.
"""

from contextlib import aclosing
from dataclasses import dataclass, replace

from bucketry.bucket.interface import Bucket, ByteRange, ObjectInfo
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import Offload
from bucketry.codec.pipeline import (
    CRC32C_NAME,
    BlockCodec,
    Codings,
    check_crc32c,
    parse_content_encoding,
    parse_hmac,
)
from bucketry.core.geometry import BLOCK_COUNT_MAX, Geometry
from bucketry.core.names import BlockNames
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    Corrupt,
    Invalid,
    Mismatch,
    NotFound,
    WrongPassword,
)
from bucketry.layout.block_0 import stored_geometry
from bucketry.layout.listing import closing_pages, list_blocks
from bucketry.layout.s3backer import S3backerLayout
from bucketry.layout.superblock import Superblock, read_superblock, write_superblock
from bucketry.settings import COMPRESSIONS, Secret, VolumeFormat, VolumeSettings

#: What s3backer takes when nothing tells.
_DEFAULT_BLOCK_SIZE = 4096
_DEFAULT_CIPHER = "AES-128-CBC"
#: Blocks that a password is tried on, before so many being damaged is less likely than that it is wrong.
_PASSWORD_TRIES_MAX = 10
#: Pages of other names, at 1000 each, that are passed over in search of a block.
_SEARCH_PAGES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume as it was found. ``kind`` is "bucketry" when it has a superblock, otherwise "s3backer", and
    then it has neither id nor time. ``sample_block`` is a block that is stored, to try a password on."""

    prefix: str
    kind: str
    format: VolumeFormat
    salt: str
    volume_id: str | None = None
    created: str | None = None
    created_by: str | None = None
    password_check: str | None = None
    sample_block: int | None = None
    #: What block 0 may still say, when a resize was cut short.
    resized_from_bytes: int | None = None

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.format.size_bytes, self.format.block_size_bytes)

    @property
    def names(self) -> BlockNames:
        return BlockNames(self.prefix, self.geometry.block_count, self.format.block_hash_prefix)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A block that is stored, and under which kind of name."""

    block: int
    hash_prefix: bool
    info: ObjectInfo


def s3backer_salt(bucket_name: str, prefix: str) -> str:
    """What s3backer derives keys with, besides the password."""
    return f"{bucket_name}/{prefix}"


async def detect(
    bucket: Bucket,
    prefix: str,
    asked: VolumeSettings,
    *,
    salt: str,
    allow_empty: bool = False,
    compare: bool = True,
) -> Volume:
    """What lies under ``prefix``; needs no password and changes nothing.

    ``salt`` is that of volumes without a superblock. ``allow_empty``: where nothing is, an s3backer volume
    as asked. ``compare``: block 0 must say the same as the superblock. Raises NotFound where no volume is,
    Mismatch when it is not as asked, Invalid when something must be told to open it, Corrupt and Unsupported
    when it cannot be understood.
    """
    where = f"{bucket.url}/{prefix}"
    superblock = await read_superblock(bucket, prefix)
    if superblock is not None:
        return await _detect_ours(bucket, prefix, asked, superblock, where, compare=compare)
    sample = await _find_sample(bucket, prefix, asked.block_hash_prefix)
    if sample is None and asked.block_hash_prefix is not None:
        other = await _find_sample(bucket, prefix, not asked.block_hash_prefix)
        if other is not None:
            _check("hash prefixes are", other.hash_prefix, asked.block_hash_prefix, where)
    if sample is None and not (allow_empty and asked.size_bytes is not None):
        raise NotFound(
            f"{where}: no volume here; make one with bucketry create, "
            "or, for an s3backer volume, check bucket and prefix"
        )
    return _detect_s3backers(prefix, asked, sample, salt, where)


async def _detect_ours(
    bucket: Bucket, prefix: str, asked: VolumeSettings, superblock: Superblock, where: str, *, compare: bool
) -> Volume:
    found = superblock.format
    _check("hash prefixes are", found.block_hash_prefix, asked.block_hash_prefix, where)
    _check("the block size is", found.block_size_bytes, asked.block_size_bytes, where)
    _check("the cipher is", found.cipher, asked.cipher, where)
    _check("the key length is", found.key_length, asked.key_length, where)
    size_bytes = _choose("the size is", found.size_bytes, asked.size_bytes, where, force=asked.force)
    names = BlockNames(prefix, BLOCK_COUNT_MAX, found.block_hash_prefix)
    if compare and not asked.force:
        stored = stored_geometry(await _look_at(bucket, names.key(0)))
        sizes = Geometry(found.size_bytes, found.block_size_bytes)
        if stored is not None and stored not in (sizes, superblock.resized_from):
            raise Mismatch(
                f"{where}: the superblock says {sizes.size_bytes} bytes in blocks of "
                f"{sizes.block_size_bytes}, block 0 says {stored.size_bytes} in blocks of "
                f"{stored.block_size_bytes}; --force takes the superblock's"
            )
    compression = found.compression if asked.compression is None else asked.compression
    level = asked.compression_level
    if level is None and compression == found.compression:
        level = found.compression_level
    asked_for = replace(found, size_bytes=size_bytes, compression=compression, compression_level=level)
    return _our_volume(prefix, replace(superblock, format=asked_for))


def _our_volume(prefix: str, superblock: Superblock) -> Volume:
    return Volume(
        prefix=prefix,
        kind="bucketry",
        format=superblock.format,
        salt=superblock.salt or "",
        volume_id=superblock.volume_id,
        created=superblock.created,
        created_by=superblock.created_by,
        password_check=superblock.password_check,
        resized_from_bytes=superblock.resized_from_bytes,
    )


def _detect_s3backers(
    prefix: str, asked: VolumeSettings, sample: _Sample | None, salt: str, where: str
) -> Volume:
    stored = stored_geometry(sample.info) if sample is not None and sample.block == 0 else None
    codings = Codings(None, None)
    if sample is not None:
        try:
            codings = parse_content_encoding(sample.info.attributes.content_encoding)
        except Corrupt as error:
            raise Corrupt(f"{where}: block {sample.block} ({sample.info.key}): {error}") from error
    block_size = stored.block_size_bytes if stored is not None else None
    if block_size is None and sample is not None and codings == Codings(None, None):
        # A block that is stored as it is tells its size.
        block_size = sample.info.size_bytes
    if block_size is None:
        block_size = asked.block_size_bytes or _DEFAULT_BLOCK_SIZE
    size_bytes = stored.size_bytes if stored is not None else asked.size_bytes
    if size_bytes is None:
        raise Invalid(
            f"{where}: an s3backer volume whose block 0 is zero does not tell its size: give --size"
        )
    size_bytes = _choose("the size is", size_bytes, asked.size_bytes, where, force=asked.force)
    block_size = _choose("the block size is", block_size, asked.block_size_bytes, where, force=asked.force)
    if sample is None:
        cipher = asked.cipher or (_DEFAULT_CIPHER if asked.password is not None else None)
    else:
        cipher = codings.cipher
        _check("the cipher is", cipher, asked.cipher, where)
    compression = asked.compression
    if compression is None:
        compression = codings.compression if codings.compression in COMPRESSIONS else "none"
    return Volume(
        prefix=prefix,
        kind="s3backer",
        format=VolumeFormat(
            size_bytes=size_bytes,
            block_size_bytes=block_size,
            compression=compression,
            compression_level=asked.compression_level,
            cipher=cipher,
            key_length=asked.key_length,
            block_hash_prefix=sample.hash_prefix if sample is not None else bool(asked.block_hash_prefix),
        ),
        salt=salt,
        sample_block=None if sample is None else sample.block,
    )


def _check(what: str, found: object, asked: object, where: str) -> None:
    if asked is not None and asked != found:
        raise Mismatch(f"{where}: {what} {found}, not {asked}")


def _choose(what: str, found: int, asked: int | None, where: str, *, force: bool) -> int:
    """s3backer's rule: what was asked must be what was found; with ``force`` it wins."""
    if asked is None or force:
        return asked or found
    _check(what, found, asked, where)
    return found


async def _look_at(bucket: Bucket, key: str) -> ObjectInfo | None:
    """What is known of an object, None where there is none. Its first byte is asked for: an answer to HEAD
    does not tell a missing object from a missing bucket, which would have to be asked next."""
    try:
        return (await bucket.get(key, byte_range=ByteRange(0, 1))).info
    except BucketNotFound:
        raise
    except NotFound:
        return None


async def _find_sample(bucket: Bucket, prefix: str, hash_prefix: bool | None) -> _Sample | None:
    """Block 0, or the first that is listed: with hash prefixes, without, or (None) either."""
    kinds = (False, True) if hash_prefix is None else (hash_prefix,)
    both = [BlockNames(prefix, BLOCK_COUNT_MAX, kind) for kind in kinds]
    found = [
        _Sample(0, names.hash_prefix, info)
        for names in both
        if (info := await _look_at(bucket, names.key(0))) is not None
    ]
    if len(found) > 1:
        raise Mismatch(
            f"{bucket.url}/{prefix}: two volumes, one with hash prefixes and one without: "
            "say which with --block-hash-prefix"
        )
    return found[0] if found else await _search(bucket, prefix, both)


async def _search(bucket: Bucket, prefix: str, both: list[BlockNames]) -> _Sample | None:
    page_count = 0
    async with closing_pages(bucket.list(prefix=prefix)) as pages:
        async for page in pages:
            for entry in page:
                for names in both:
                    block = names.parse(entry.key)
                    info = None if block is None else await _look_at(bucket, entry.key)
                    if block is not None and info is not None:
                        return _Sample(block, names.hash_prefix, info)
            page_count += 1
            if page_count == _SEARCH_PAGES_MAX:
                break
    return None


async def unlock(bucket: Bucket, volume: Volume, password: Secret | None) -> BlockCipher | None:
    """What encrypts and decrypts the volume's blocks; None when they are not encrypted.

    Raises WrongPassword when a password is needed and missing, or is not the volume's; Mismatch when one was
    given for a volume that is not encrypted, so that nobody believes that it is.
    """
    where = f"{bucket.url}/{volume.prefix}"
    cipher_name = volume.format.cipher
    if cipher_name is None:
        if password is not None:
            raise Mismatch(f"{where}: a password was given, but the volume is not encrypted")
        return None
    if password is None:
        raise WrongPassword(f"{where}: the volume is encrypted with {cipher_name}: a password is needed")
    cipher = BlockCipher(cipher_name, password, volume.salt, volume.format.key_length)
    if volume.password_check is not None:
        if not cipher.check_password(volume.password_check):
            raise WrongPassword(f"{where}: wrong password")
    elif volume.sample_block is not None:
        await _try_password(bucket, volume, volume.sample_block, cipher)
    return cipher


async def unlock_damaged(bucket: Bucket, volume: Volume, password: Secret | None) -> BlockCipher | None:
    """As ``unlock``; but where only blocks can tell whether the password is right, one of several does."""
    try:
        return await unlock(bucket, volume, password)
    except (Corrupt, WrongPassword) as error:
        if password is None or volume.password_check is not None:
            raise
        reason = error
        tried = 0
        async with aclosing(list_blocks(bucket, volume.names)) as pages:
            async for page in pages:
                for block, _ in page[: _PASSWORD_TRIES_MAX - tried]:
                    tried += 1
                    try:
                        return await unlock(bucket, replace(volume, sample_block=block), password)
                    except WrongPassword as other:
                        reason = other
                    except (Corrupt, NotFound):
                        continue
                if tried == _PASSWORD_TRIES_MAX:
                    break
        raise reason from None


async def _try_password(bucket: Bucket, volume: Volume, block: int, cipher: BlockCipher) -> None:
    key = volume.names.key(block)
    found = await bucket.get(key)
    metadata = found.info.attributes.metadata
    try:
        if CRC32C_NAME in metadata:
            # Tells a damaged block from a wrong password.
            check_crc32c(found.data, metadata[CRC32C_NAME])
        code = parse_hmac(metadata)
    except Corrupt as error:
        raise Corrupt(f"block {block} ({key} in {bucket.url}): {error}") from error
    if not cipher.verify(block, found.data, code):
        raise WrongPassword(
            f"{bucket.url}/{volume.prefix}: wrong password, or another key length, or the volume was moved"
        )


async def create(
    bucket: Bucket,
    prefix: str,
    volume_format: VolumeFormat,
    *,
    salt: str,
    password: Secret | None,
    volume_id: str,
    created: str,
    created_by: str,
    force: bool = False,
) -> Volume:
    """Make an empty volume, by writing its superblock. Raises AlreadyExists where one is, or where blocks
    are.

    ``force`` writes the superblock over whatever is there: blocks stay, and become this volume's.
    """
    if not force:
        # A damaged or newer one raises what is wrong with it.
        if await read_superblock(bucket, prefix) is not None:
            raise AlreadyExists(f"{bucket.url}/{prefix}: there is a volume already; erase that first")
        sample = await _find_sample(bucket, prefix, None)
        if sample is not None:
            raise AlreadyExists(
                f"{bucket.url}/{prefix}: {sample.info.key} belongs to a volume; erase that first"
            )
    cipher = None
    if volume_format.cipher is not None:
        if password is None:
            raise Invalid("an encrypted volume needs a password")
        cipher = BlockCipher(volume_format.cipher, password, salt, volume_format.key_length)
        volume_format = replace(volume_format, key_length=cipher.key_length)
    elif password is not None:
        raise Invalid("a password, but no cipher")
    # Refuses levels that no block could be written with.
    BlockCodec(
        volume_format.block_size_bytes,
        compression=volume_format.compression,
        level=volume_format.compression_level,
    )
    superblock = Superblock(
        volume_id=volume_id,
        format=volume_format,
        salt=None if cipher is None else salt,
        password_check=None if cipher is None else cipher.password_check(),
        created=created,
        created_by=created_by,
    )
    await write_superblock(bucket, prefix, superblock, replace=force)
    return _our_volume(prefix, superblock)


def open_layout(
    bucket: Bucket,
    volume: Volume,
    cipher: BlockCipher | None,
    *,
    offload: Offload,
    in_flight_max: int,
    parts_from_bytes: int | None = None,
) -> S3backerLayout:
    """The layout of a volume that was detected, with what ``unlock`` returned for it. Blocks of
    ``parts_from_bytes`` and more are stored so that parts of them can be read; None: none are."""
    return S3backerLayout(
        bucket,
        volume.names,
        volume.geometry,
        open_codec(volume, cipher, parts_from_bytes=parts_from_bytes),
        offload=offload,
        in_flight_max=in_flight_max,
    )


def open_codec(
    volume: Volume, cipher: BlockCipher | None, *, parts_from_bytes: int | None = None
) -> BlockCodec:
    """What encodes and decodes the blocks of a volume."""
    volume_format = volume.format
    return BlockCodec(
        volume_format.block_size_bytes,
        compression=volume_format.compression,
        level=volume_format.compression_level,
        cipher=cipher,
        has_pieces=parts_from_bytes is not None and volume_format.block_size_bytes >= parts_from_bytes,
    )
