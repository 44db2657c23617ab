"""Stored blocks as witnesses: what a volume that has no superblock is, its blocks tell.

Block 0 tells the geometry in its metadata. Any block tells its own size, by what it decodes to, and how the
volume is encrypted. One block may be damaged, so several are asked before that is said of the volume.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from bucketry.bucket.interface import Bucket, ByteRange, ObjectInfo
from bucketry.codec.compression import decompressed_size
from bucketry.codec.encryption import PADDING_BYTES, BlockCipher
from bucketry.codec.pipeline import (
    CRC32C_NAME,
    Codings,
    check_crc32c,
    check_place,
    parse_content_encoding,
    parse_hmac,
)
from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import BLOCK_COUNT_MAX, BLOCK_SIZE_MAX, Geometry
from bucketry.core.names import BlockNames
from bucketry.errors import (
    BucketNotFound,
    BucketryError,
    Corrupt,
    Invalid,
    Mismatch,
    NotFound,
    WrongPassword,
)
from bucketry.layout.listing import closing_pages
from bucketry.settings import Secret

#: Blocks that are asked, before so many being damaged is less likely than that the question is wrong (another
#: password, no volume of this kind).
SAMPLES_MAX = 10
#: Pages of other names, at 1000 each, that are passed over in search of a block.
_SEARCH_PAGES_MAX = 20
#: A body is at most this much longer than the largest block: no coding adds more.
_BODY_MAX = BLOCK_SIZE_MAX + (1 << 20)


@dataclass(frozen=True, slots=True)
class Sample:
    """A block that is stored, and under which kind of name."""

    block: int
    hash_prefix: bool
    info: ObjectInfo

    @property
    def codings(self) -> Codings:
        """What was done to it. Raises Corrupt."""
        return parse_content_encoding(self.info.attributes.content_encoding)

    def named(self, bucket: Bucket) -> str:
        """For messages."""
        return f"block {self.block} ({self.info.key} in {bucket.url})"


async def look_at(bucket: Bucket, key: str) -> ObjectInfo | None:
    """What is known of an object, None where there is none. Its first byte is asked for: an answer to HEAD
    does not tell a missing object from a missing bucket, which would have to be asked next."""
    try:
        return (await bucket.get(key, byte_range=ByteRange(0, 1))).info
    except BucketNotFound:
        raise
    except NotFound:
        return None


async def samples(bucket: Bucket, prefix: str, hash_prefix: bool | None) -> AsyncGenerator[Sample, None]:
    """Block 0, then others as they are listed, SAMPLES_MAX at most: all with hash prefixes, all without, or
    (None) all of the kind that is there.

    Raises Mismatch when there are both kinds, Invalid when so many other objects are listed before a block
    that it cannot be said whether there is one.
    """
    kinds = (False, True) if hash_prefix is None else (hash_prefix,)
    names = [BlockNames(prefix, BLOCK_COUNT_MAX, kind) for kind in kinds]
    found = [
        Sample(0, kind.hash_prefix, info)
        for kind in names
        if (info := await look_at(bucket, kind.key(0))) is not None
    ]
    if len(found) > 1:
        raise _two_volumes(bucket, prefix)
    count = 0
    if found:
        yield found[0]
        names = [kind for kind in names if kind.hash_prefix is found[0].hash_prefix]
        count = 1
    async with aclosing(_listed(bucket, prefix, names)) as listed:
        async for sample in listed:
            if sample.block or not found:
                yield sample
                count += 1
            if count == SAMPLES_MAX:
                return


async def _listed(bucket: Bucket, prefix: str, names: Sequence[BlockNames]) -> AsyncGenerator[Sample, None]:
    page_count = 0
    has_any = False
    # Block names begin with a digit or a letter up to f; of what sorts before or after little is looked at.
    listing = bucket.list(prefix=prefix, after=f"{prefix}.~")
    async with closing_pages(listing) as pages:
        async for page in pages:
            blocks = [
                (block, kind, entry.key)
                for entry in page
                for kind in names
                if (block := kind.parse(entry.key)) is not None
            ]
            if len({kind.hash_prefix for _, kind, _ in blocks}) > 1:
                raise _two_volumes(bucket, prefix)
            for block, kind, key in blocks:
                info = await look_at(bucket, key)
                if info is not None:
                    has_any = True
                    names = [kind]
                    yield Sample(block, kind.hash_prefix, info)
            if page[-1].key > f"{prefix}g":
                return
            page_count += 1
            if page_count == _SEARCH_PAGES_MAX and not has_any:
                raise Invalid(
                    f"{bucket.url}/{prefix}: none of the first {page_count * 1000} objects there is a "
                    "block; a volume has a prefix of its own"
                )


def _two_volumes(bucket: Bucket, prefix: str) -> Mismatch:
    return Mismatch(
        f"{bucket.url}/{prefix}: two volumes, one with hash prefixes and one without: "
        "say which with --block-hash-prefix"
    )


class CipherSource:
    """Derives a volume's keys once they are needed, for it takes some milliseconds."""

    def __init__(self, password: Secret | None, salt: str, key_length: int | None) -> None:
        self._password = password
        self._salt = salt
        self._key_length = key_length
        self._ciphers: dict[str, BlockCipher] = {}

    @property
    def has_password(self) -> bool:
        return self._password is not None

    def get(self, name: str) -> BlockCipher | None:
        """None without a password. Raises Corrupt for a cipher that is not known."""
        if self._password is None:
            return None
        if name not in self._ciphers:
            try:
                self._ciphers[name] = BlockCipher(name, self._password, self._salt, self._key_length)
            except Invalid as error:
                raise Corrupt(str(error)) from error
        return self._ciphers[name]


async def decoded_size(bucket: Bucket, sample: Sample, ciphers: CipherSource) -> int | None:
    """What the block decodes to, in bytes; None when only a password could tell, and none was given.

    Raises Corrupt when it is damaged, WrongPassword when it cannot be decrypted, NotFound when it has gone.
    """
    codings = sample.codings
    if sample.info.size_bytes > _BODY_MAX:
        raise Corrupt(f"{sample.info.size_bytes} bytes: more than a block can be")
    found = await bucket.get(sample.info.key)
    metadata = found.info.attributes.metadata
    body: BytesLike = found.data
    check_place(sample.block, None, metadata)
    check_body(body, metadata)
    size: int
    if codings.cipher is not None:
        cipher = ciphers.get(codings.cipher)
        if cipher is not None:
            verify_hmac(cipher, sample.block, body, metadata)
            body = cipher.decrypt(sample.block, body)
        elif codings.compression is not None:
            return None
    if codings.compression is not None:
        size = decompressed_size(codings.compression, body, BLOCK_SIZE_MAX)
    elif codings.cipher is not None and not ciphers.has_password:
        size = len(body) - PADDING_BYTES  # blocks are multiples of it, so all of it is added
    else:
        size = len(body)
    try:
        Geometry(size, size)
    except Invalid as error:
        raise Corrupt(f"it has {size} bytes, which no block has") from error
    return size


def check_body(body: BytesLike, metadata: Mapping[str, str]) -> bool:
    """Whether a checksum vouches for the body as it is stored. Raises Corrupt when it does not fit."""
    if CRC32C_NAME not in metadata:
        return False
    check_crc32c(body, metadata[CRC32C_NAME])
    return True


def verify_hmac(cipher: BlockCipher, block: int, body: BytesLike, metadata: Mapping[str, str]) -> None:
    """Raises Corrupt when there is no HMAC, WrongPassword when it does not fit: then the password is another
    one, or, where no checksum vouches for the body, the block is damaged."""
    if not cipher.verify(block, body, parse_hmac(metadata)):
        raise WrongPassword("wrong password, or another key length, or the volume was moved")


async def try_password(bucket: Bucket, prefix: str, hash_prefix: bool, cipher: BlockCipher) -> None:
    """See whether ``cipher`` has the volume's password: one stored block that it fits is enough.

    Raises WrongPassword when it fits none, Corrupt when all are damaged.
    """
    where = f"{bucket.url}/{prefix}"
    reason: BucketryError | None = None
    async with aclosing(samples(bucket, prefix, hash_prefix)) as found:
        async for sample in found:
            try:
                stored = await bucket.get(sample.info.key)
                is_intact = check_body(stored.data, stored.info.attributes.metadata)
                try:
                    verify_hmac(cipher, sample.block, stored.data, stored.info.attributes.metadata)
                except WrongPassword as error:
                    reason = WrongPassword(f"{where}: {error}")
                    if is_intact:
                        break
                else:
                    return
            except BucketNotFound:
                raise
            except NotFound:
                continue  # deleted meanwhile
            except Corrupt as error:
                # Of several reasons a wrong password says more than damage.
                reason = reason or Corrupt(f"{sample.named(bucket)}: {error}")
    if reason is not None:
        raise reason
