"""Finding out what volume lies under a prefix, making a new one, and opening its layout.

What a volume says of itself comes from its superblock; without one, it is s3backer's: its geometry is kept
with block 0, its encryption with any block, and the rest is asked of the caller.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from bucketry.bucket.interface import Bucket
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import Offload
from bucketry.codec.pipeline import BlockCodec, Codings, carried_volume_id, parse_hmac
from bucketry.core.geometry import BLOCK_COUNT_MAX, Geometry
from bucketry.core.names import BlockNames
from bucketry.core.units import exact_size
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    Busy,
    Corrupt,
    Invalid,
    Mismatch,
    NotFound,
    Unsupported,
    WrongPassword,
)
from bucketry.layout.block_0 import flaw_of_metadata, stored_geometry
from bucketry.layout.mount_token import read_token
from bucketry.layout.s3backer import S3backerLayout
from bucketry.layout.samples import CipherSource, Sample, decoded_size, look_at, samples, try_password
from bucketry.layout.superblock import Superblock, read_superblock, write_superblock
from bucketry.settings import COMPRESSIONS, Secret, VolumeFormat, VolumeSettings

#: What s3backer takes when nothing tells.
_DEFAULT_CIPHER = "AES-128-CBC"


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
    """What lies under ``prefix``; changes nothing. A password is needed only where an encrypted block must
    tell its size.

    ``salt`` is that of volumes without a superblock. ``allow_empty``: where nothing is stored, an s3backer
    volume of the size and block size that are asked. ``compare``: block 0 must say the same as the
    superblock, and that must carry its checksum.

    Raises NotFound where no volume is, Busy where s3backer has an empty one mounted, Mismatch when it is not
    as asked, Invalid when something must be told to open it, WrongPassword when that takes a password,
    Corrupt and Unsupported when it cannot be understood.
    """
    where = f"{bucket.url}/{prefix}"
    superblock = await read_superblock(bucket, prefix, needs_checksum=compare and not asked.force)
    if superblock is not None:
        return await _detect_ours(bucket, prefix, asked, superblock, where, compare=compare)
    return await _detect_s3backers(bucket, prefix, asked, salt, where, allow_empty=allow_empty)


async def _detect_ours(
    bucket: Bucket, prefix: str, asked: VolumeSettings, superblock: Superblock, where: str, *, compare: bool
) -> Volume:
    found = superblock.format
    _check_names(found.block_hash_prefix, asked.block_hash_prefix, where)
    _check_size("the block size is", found.block_size_bytes, asked.block_size_bytes, where)
    _check_cipher(found.cipher, asked, where)
    if asked.key_length is not None and asked.key_length != found.key_length:
        raise Mismatch(f"{where}: the key has {found.key_length} bytes, not {asked.key_length}")
    size_bytes = _choose_size(found.size_bytes, asked.size_bytes, where, force=asked.force)
    names = BlockNames(prefix, BLOCK_COUNT_MAX, found.block_hash_prefix)
    if compare and not asked.force:
        stored = stored_geometry(await look_at(bucket, names.key(0)))
        sizes = Geometry(found.size_bytes, found.block_size_bytes)
        if stored is not None and stored not in (sizes, superblock.resized_from):
            raise Mismatch(
                f"{where}: the superblock says {sizes}, block 0 says {stored}. bucketry "
                "resize makes them agree; --force takes the superblock's"
            )
    compression = found.compression if asked.compression is None else asked.compression
    level = asked.compression_level
    if level is None and compression == found.compression:
        level = found.compression_level
    asked_for = replace(found, size_bytes=size_bytes, compression=compression, compression_level=level)
    return _our_volume(prefix, replace(superblock, format=asked_for))


async def claimed_bytes(bucket: Bucket, volume: Volume) -> int:
    """How far the volume reaches: where superblock and block 0 disagree, the larger size of the two. An
    s3backer was told to grow it, perhaps, and what it wrote lies before that end.

    A size that block 0 still says from before a resize does not count. Raises Mismatch when the two disagree
    on the size of blocks.
    """
    try:
        told = stored_geometry(await look_at(bucket, volume.names.key(0)))
    except Corrupt:
        told = None  # no volume can be so
    size_bytes = volume.format.size_bytes
    if told is None or told.size_bytes in (size_bytes, volume.resized_from_bytes):
        return size_bytes
    _check_size(
        "by the superblock the block size is",
        volume.format.block_size_bytes,
        told.block_size_bytes,
        f"{bucket.url}/{volume.prefix}",
    )
    return max(size_bytes, told.size_bytes)


@dataclass(frozen=True, slots=True)
class Naming:
    """Which objects below a prefix are a volume's. ``owns_superblock``: the superblock there, if any, is its
    too, and not that of another volume with the other kind of names."""

    names: BlockNames
    owns_superblock: bool


async def find_naming(bucket: Bucket, prefix: str, asked: VolumeSettings) -> Naming:
    """What of all that lies below ``prefix`` is to be erased, whatever state it is in.

    Raises Mismatch when nothing but ``asked`` could tell and it does not.
    """
    wanted = asked.block_hash_prefix
    try:
        superblock = await read_superblock(bucket, prefix, needs_checksum=False)
    except (Corrupt, Unsupported):
        superblock = None
    if superblock is not None:
        found = superblock.format.block_hash_prefix
        wanted = found if wanted is None else wanted
        return Naming(BlockNames(prefix, BLOCK_COUNT_MAX, wanted), owns_superblock=wanted is found)
    if wanted is None:
        async with aclosing(samples(bucket, prefix, None)) as stored:
            sample = await anext(stored, None)
        wanted = sample is not None and sample.hash_prefix
    return Naming(BlockNames(prefix, BLOCK_COUNT_MAX, wanted), owns_superblock=True)


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


async def _detect_s3backers(
    bucket: Bucket, prefix: str, asked: VolumeSettings, salt: str, where: str, *, allow_empty: bool
) -> Volume:
    ciphers = CipherSource(asked.password, salt, asked.key_length)
    async with aclosing(samples(bucket, prefix, asked.block_hash_prefix)) as found:
        first = await anext(found, None)
        if first is None:
            await _refuse_empty(bucket, prefix, asked, where, allow_empty=allow_empty)
            is_encrypted = asked.encrypted or asked.password is not None
            cipher = asked.cipher or (_DEFAULT_CIPHER if is_encrypted else None)
            witness = _Witness(None, Codings(None, None), None)
            told = None
        else:
            told = _told_by_block_0(first, asked)
            block_size = told.block_size_bytes if told is not None else None
            if asked.force and asked.block_size_bytes not in (None, block_size):
                block_size = None  # the blocks decide, not what the one says or the other asks
            witness = await _ask_samples(bucket, first, found, block_size, ciphers)
            cipher = witness.codings.cipher
            _check_cipher(cipher, asked, where)
    size_bytes = told.size_bytes if told is not None else asked.size_bytes
    if size_bytes is None:
        raise Invalid(f"{where}: {_why_no_size(first)}: give --size")
    size_bytes = _choose_size(size_bytes, asked.size_bytes, where, force=asked.force)
    block_size = witness.block_size_bytes
    if block_size is not None:
        # Not even by force: a write in other blocks than the volume's would destroy what is beside it.
        _check_size("the block size is", block_size, asked.block_size_bytes, where)
    elif asked.block_size_bytes is not None:
        block_size = asked.block_size_bytes
    elif witness.error is None:
        raise WrongPassword(
            f"{where}: encrypted with {cipher}, and only a block that is decrypted tells the block size: a "
            "password is needed, or --block-size"
        )
    elif isinstance(witness.error, WrongPassword):
        raise witness.error
    else:
        raise Corrupt(f"{witness.error}; no block tells the block size: give --size and --block-size")
    compression = asked.compression
    if compression is None:
        found_compression = witness.codings.compression
        compression = found_compression if found_compression in COMPRESSIONS else "none"
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
            block_hash_prefix=bool(asked.block_hash_prefix) if first is None else first.hash_prefix,
        ),
        salt=salt,
        sample_block=None if witness.sample is None else witness.sample.block,
    )


async def _refuse_empty(
    bucket: Bucket, prefix: str, asked: VolumeSettings, where: str, *, allow_empty: bool
) -> None:
    """Nothing is stored. Raises what is to be said of that, unless ``asked`` tells all that blocks would."""
    if asked.block_hash_prefix is not None:
        async with aclosing(samples(bucket, prefix, not asked.block_hash_prefix)) as found:
            async for other in found:
                _check_names(other.hash_prefix, asked.block_hash_prefix, where)
    if allow_empty and asked.size_bytes is not None and asked.block_size_bytes is not None:
        return
    token = await read_token(bucket, prefix)
    if token is not None:
        raise Busy(
            f"{where}: an s3backer volume that is empty so far, in use by {token}; if that is over, "
            "unlock the volume (bucketry unlock)"
        )
    raise NotFound(
        f"{where}: no volume here; make one with bucketry create, or, for an s3backer volume, check bucket "
        "and prefix (one that is empty so far needs --size and --block-size)"
    )


@dataclass(frozen=True, slots=True)
class _Witness:
    """What the first stored block that is not damaged tells. ``block_size_bytes`` is None when that could not
    be found out: without ``error`` for want of a password."""

    sample: Sample | None
    codings: Codings
    block_size_bytes: int | None
    error: Corrupt | WrongPassword | None = None


async def _ask_samples(
    bucket: Bucket,
    first: Sample,
    others: AsyncIterator[Sample],
    told_bytes: int | None,
    ciphers: CipherSource,
) -> _Witness:
    """``told_bytes``: the block size, if it is known. Raises Corrupt when no block can be understood."""
    understood: tuple[Sample, Codings] | None = None
    problem: Corrupt | WrongPassword | None = None
    sample: Sample | None = first
    while sample is not None:
        try:
            codings = sample.codings
            if codings.cipher is not None:
                parse_hmac(sample.info.attributes.metadata)
            understood = understood or (sample, codings)
            if told_bytes is None:
                return _Witness(sample, codings, await decoded_size(bucket, sample, ciphers))
            if codings != Codings(None, None) or sample.info.size_bytes == told_bytes:
                return _Witness(sample, codings, told_bytes)
            raise Corrupt(f"{sample.info.size_bytes} bytes instead of {told_bytes}")
        except BucketNotFound:
            raise
        except NotFound:
            pass  # deleted meanwhile
        except (Corrupt, WrongPassword) as error:
            if problem is None or isinstance(error, WrongPassword) > isinstance(problem, WrongPassword):
                problem = type(error)(f"{sample.named(bucket)}: {error}")
        sample = await anext(others, None)
    if understood is None:
        raise problem or NotFound(f"{bucket.url}: the volume's blocks are being deleted")
    return _Witness(*understood, told_bytes, problem)


def _told_by_block_0(sample: Sample, asked: VolumeSettings) -> Geometry | None:
    if sample.block:
        return None
    try:
        return stored_geometry(sample.info)
    except Corrupt:
        if asked.force and asked.size_bytes is not None:
            return None
        raise


def _why_no_size(first: Sample | None) -> str:
    if first is None or first.block:
        return "an s3backer volume tells its size on block 0, which is zero and not stored"
    return f"an s3backer volume tells its size on block 0; {first.info.key} {flaw_of_metadata(first.info)}"


def _check_names(found: bool, asked: bool | None, where: str) -> None:
    """Of block objects, with hash prefix or without."""
    if asked is not None and asked != found:
        has, other = ("a", "none") if found else ("no", "one")
        raise Mismatch(f"{where}: names of its blocks have {has} hash prefix; {other} was asked for")


def _check_cipher(found: str | None, asked: VolumeSettings, where: str) -> None:
    wanted = asked.cipher or ("encryption" if asked.encrypted or asked.key_length is not None else None)
    if found is None and wanted is not None:
        raise Mismatch(f"{where}: the volume is not encrypted; {wanted} was asked for")
    if asked.cipher is not None and asked.cipher != found:
        raise Mismatch(f"{where}: the volume is encrypted with {found}, not {asked.cipher}")


def _check_size(what: str, found: int, asked: int | None, where: str) -> None:
    if asked is not None and asked != found:
        raise Mismatch(f"{where}: {what} {exact_size(found)}, not {exact_size(asked)}")


def _choose_size(found: int, asked: int | None, where: str, *, force: bool) -> int:
    """s3backer's rule: what was asked must be what was found; with ``force`` it wins."""
    if not force:
        _check_size("the size is", found, asked, where)
    return found if asked is None else asked


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
        await try_password(bucket, volume.prefix, volume.format.block_hash_prefix, cipher)
    return cipher


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

    ``force`` writes the superblock over whatever is there: blocks stay, and become this volume's. So it gets
    the id that they carry, or that the superblock before has, instead of ``volume_id``.
    """
    if force:
        volume_id = await _former_id(bucket, prefix, volume_format) or volume_id
    if not force:
        # A damaged or newer one raises what is wrong with it.
        if await read_superblock(bucket, prefix) is not None:
            raise AlreadyExists(f"{bucket.url}/{prefix}: there is a volume already; erase that first")
        async with aclosing(samples(bucket, prefix, None)) as found:
            async for sample in found:
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


async def _former_id(bucket: Bucket, prefix: str, volume_format: VolumeFormat) -> str | None:
    """The id of the volume whose blocks lie there; None where they carry none."""
    with suppress(Corrupt, Unsupported):
        former = await read_superblock(bucket, prefix, needs_checksum=False)
        if former is not None:
            return former.volume_id
    async with aclosing(samples(bucket, prefix, volume_format.block_hash_prefix)) as found:
        async for sample in found:
            if (carried := carried_volume_id(sample.info.attributes.metadata)) is not None:
                return carried
    return None


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
        volume_id=volume.volume_id,
        has_pieces=parts_from_bytes is not None and volume_format.block_size_bytes >= parts_from_bytes,
    )
