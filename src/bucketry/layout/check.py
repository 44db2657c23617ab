"""Looking through a volume in s3backer's layout: every object below its prefix, every block read and
verified."""

from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from bucketry.bucket.interface import Attributes, Bucket, Entry, Object, ObjectInfo
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import Offload
from bucketry.codec.pipeline import CRC32C_NAME, PLACE_NAME, BlockCodec, parse_content_encoding
from bucketry.core.geometry import BLOCK_COUNT_MAX
from bucketry.core.names import (
    KEPT_FOLDER,
    LEASE_NAME,
    MOUNT_TOKEN_NAME,
    SUPERBLOCK_NAME,
    kept_key,
)
from bucketry.core.priority import Priority
from bucketry.core.units import exact_size
from bucketry.core.zeros import is_zero
from bucketry.errors import (
    BucketNotFound,
    Corrupt,
    CredentialsRefused,
    Denied,
    NotFound,
    Unavailable,
)
from bucketry.layout.block_0 import geometry_metadata, head_block_0, stored_geometry
from bucketry.layout.findings import Action, Amount, Finding, LayoutCheck, Remedy, Severity
from bucketry.layout.listing import closing_pages
from bucketry.layout.put_new import put_new
from bucketry.layout.resize import set_size
from bucketry.layout.s3backer import CONTENT_TYPE
from bucketry.layout.superblock import find_superblock
from bucketry.layout.together import few_at_once
from bucketry.layout.volume import Volume, open_codec

#: A body is at most this much longer than twice its block: no coding makes more of it, and what is longer is
#: not worth the memory.
_BODY_SLACK_BYTES = 4096
#: Names of other people's objects that are told; the rest is counted.
_FOREIGN_TOLD_MAX = 20
_CONTROL_NAMES = (SUPERBLOCK_NAME, LEASE_NAME, MOUNT_TOKEN_NAME)


@dataclass(slots=True)
class _Figures:
    """``gone_blocks`` were listed, and deleted before they were read."""

    damaged_blocks: int = 0
    zero_blocks: int = 0
    blocks_beyond_the_end: int = 0
    foreign_objects: int = 0
    foreign_bytes: int = 0
    kept_objects: int = 0
    zstd_blocks: int = 0
    blocks_without_crc32c: int = 0
    blocks_with_wrong_pieces: int = 0
    blocks_without_place: int = 0
    gone_blocks: int = 0
    blocks_read_twice: int = 0


class S3backerCheck:
    """A LayoutCheck. ``in_flight_max`` blocks are in memory at once; ``stamp`` is a time that the names of
    objects which are put aside end with."""

    def __init__(
        self,
        bucket: Bucket,
        volume: Volume,
        codec: BlockCodec,
        *,
        offload: Offload,
        in_flight_max: int,
        stamp: str,
    ) -> None:
        self._bucket = bucket
        self._volume = volume
        self._names = volume.names
        self._every_name = replace(self._names, block_count=BLOCK_COUNT_MAX)
        self._block_count = volume.geometry.block_count
        self._block_size = volume.format.block_size_bytes
        self._codec = codec
        self._offload = offload
        self._in_flight_max = in_flight_max
        self._stamp = stamp
        self._done = Amount()
        self._figures = _Figures()
        #: Other people's objects by the first part of their names, as many as are told.
        self._foreign: dict[str, int] = {}
        self._resized_from_bytes: int | None = None
        #: What block 0 says, if that is more than the superblock does: one of them is wrong, and which one is
        #: not for a check to decide. Nothing is repaired by which the other's data could be lost.
        self._told_larger_bytes: int | None = None

    @property
    def done(self) -> Amount:
        return self._done

    def figures(self) -> Mapping[str, int]:
        return {
            "blocks": self._done.blocks,
            "bytes": self._done.size_bytes,
            **{name: getattr(self._figures, name) for name in _Figures.__slots__},
        }

    async def measure(self) -> Amount:
        blocks = size_bytes = 0
        async with closing_pages(self._bucket.list(prefix=self._volume.prefix)) as pages:
            async for page in pages:
                for entry in page:
                    if self._names.parse(entry.key) is not None:
                        blocks += 1
                        size_bytes += entry.size_bytes
        return Amount(blocks, size_bytes)

    # -- looking ---------------------------------------------------------------------------------------------

    async def look(self) -> AsyncGenerator[Sequence[Finding], None]:
        yield await self._look_at_superblock()
        async with aclosing(few_at_once(self._looks(), self._in_flight_max)) as results:
            async for findings in results:
                yield findings
        yield list(self._sum_up())

    async def _look_at_superblock(self) -> list[Finding]:
        found = await find_superblock(self._bucket, self._volume.prefix)
        if found is None:
            note = "there is no superblock: an s3backer volume, known by its blocks"
            return [Finding(Severity.NOTE, "no superblock", note)]
        self._resized_from_bytes = found.superblock.resized_from_bytes
        await self._look_for_larger_size()
        remedy = Remedy.REWRITE if self._told_larger_bytes is None else None
        findings = []
        if not found.has_checksum:
            note = "the superblock carries no checksum: another program has changed it"
            findings.append(Finding(Severity.FLAW, "superblock without checksum", note, remedy=remedy))
        if self._resized_from_bytes is not None:
            note = f"a resize from {exact_size(self._resized_from_bytes)} was cut short"
            findings.append(Finding(Severity.FLAW, "unfinished resize", note, remedy=remedy))
        return findings

    async def _look_for_larger_size(self) -> None:
        try:
            told = stored_geometry(await head_block_0(self._bucket, self._names))
        except Corrupt:
            return  # nobody's size
        ours = self._volume.geometry
        if (
            told is not None
            and told.block_size_bytes == ours.block_size_bytes
            and told.size_bytes > ours.size_bytes
            and told.size_bytes != self._resized_from_bytes
        ):
            self._told_larger_bytes = told.size_bytes

    async def _looks(self) -> AsyncGenerator[Coroutine[object, object, Sequence[Finding]], None]:
        async with closing_pages(self._bucket.list(prefix=self._volume.prefix)) as pages:
            async for page in pages:
                for entry in page:
                    yield self._look_at(entry)

    async def _look_at(self, entry: Entry) -> Sequence[Finding]:
        block = self._every_name.parse(entry.key)
        if block is None:
            self._note_other(entry)
            return ()
        if block >= self._block_count:
            return [await self._look_beyond(block, entry)]
        findings = await self._look_at_block(block, entry)
        self._done = Amount(self._done.blocks + 1, self._done.size_bytes + entry.size_bytes)
        return findings

    async def _look_beyond(self, block: int, entry: Entry) -> Finding:
        """A block beyond the end. It goes only if nobody can miss it: another program may have made the
        volume larger, and this is its data."""
        self._figures.blocks_beyond_the_end += 1
        named = f"block {block} ({entry.key}) is beyond the end"
        remedy: Remedy | None = Remedy.DELETE
        if block * self._block_size < (self._told_larger_bytes or 0):
            named = f"block {block} ({entry.key}) is beyond the superblock's end and before that of block 0"
            remedy = None
        elif block * self._block_size < (self._resized_from_bytes or 0):
            named += ", left by the resize that was cut short"
        elif not await self._is_zero(entry):
            named += (
                " and not zero: bucketry resize makes it part of the volume (--adopt) or deletes it (--force)"
            )
            remedy = None
        return Finding(Severity.FLAW, "beyond the end", named, block, entry.key, remedy)

    async def _is_zero(self, entry: Entry) -> bool:
        """False too when nobody can tell."""
        try:
            _, is_zero_block, _ = await self._read(entry)
        except BucketNotFound:
            raise
        except NotFound:
            return True
        except Corrupt:
            return False
        return is_zero_block

    def _note_other(self, entry: Entry) -> None:
        name = entry.key.removeprefix(self._volume.prefix)
        if name in _CONTROL_NAMES:
            return
        if self._every_name.is_kept(entry.key):
            self._figures.kept_objects += 1
            return
        self._figures.foreign_objects += 1
        self._figures.foreign_bytes += entry.size_bytes
        head, slash, _ = name.partition("/")
        if head + slash in self._foreign or len(self._foreign) < _FOREIGN_TOLD_MAX:
            self._foreign[head + slash] = self._foreign.get(head + slash, 0) + 1

    async def _look_at_block(self, block: int, entry: Entry) -> Sequence[Finding]:
        """Read it, and once more if it is not right: somebody may have written or deleted it meanwhile."""
        reason = ""
        for is_second in (False, True):
            self._figures.blocks_read_twice += is_second
            try:
                return self._judge(block, *await self._read(entry))
            except BucketNotFound:
                raise
            except NotFound:
                if not await self._is_listed(entry.key):
                    self._figures.gone_blocks += 1
                    return ()
                reason = "the store lists it, and does not have it"
            except Corrupt as error:
                reason = str(error)
            except CredentialsRefused:
                raise  # of keys that have ended: says nothing of the block
            except (Denied, Unavailable) as error:
                # Is it this object, or the store? That may be back already: then the second look tells.
                await self._is_listed(entry.key)
                reason = f"cannot be read: {error}"
        self._figures.damaged_blocks += 1
        message = f"block {block} ({entry.key}): {reason}"
        return [Finding(Severity.DAMAGE, "damaged block", message, block, entry.key, Remedy.ZERO)]

    async def _is_listed(self, key: str) -> bool:
        async with closing_pages(self._bucket.list(prefix=key)) as pages:
            async for page in pages:
                return any(entry.key == key for entry in page)
        return False

    async def _read(self, entry: Entry) -> tuple[Object, bool, bool]:
        """The object, whether its block is zero, and whether the checksums of its pieces, if it has any, fit.
        Raises Corrupt."""
        block = self._every_name.parse(entry.key)
        assert block is not None
        size_bytes = entry.size_bytes
        if size_bytes > self._body_max:
            size_bytes = (await self._bucket.head(entry.key, priority=Priority.BACKGROUND)).size_bytes
        if size_bytes > self._body_max:
            raise Corrupt(f"{size_bytes} bytes: more than a block of {self._block_size} can be")
        found = await self._bucket.get(entry.key, priority=Priority.BACKGROUND)
        attributes = found.info.attributes

        def decode() -> tuple[bool, bool]:
            encoding, metadata = attributes.content_encoding, attributes.metadata
            data = self._codec.decode(block, found.data, encoding, metadata)
            return is_zero(data), self._codec.pieces_fit(block, found.data, encoding, metadata)

        return found, *await self._offload(decode)

    @property
    def _body_max(self) -> int:
        return 2 * self._block_size + _BODY_SLACK_BYTES

    def _judge(self, block: int, found: Object, is_zero_block: bool, pieces_fit: bool) -> Sequence[Finding]:
        """What there is to say of a block that can be read."""
        info = found.info
        codings = parse_content_encoding(info.attributes.content_encoding)
        self._figures.zstd_blocks += codings.compression == "zstd"
        self._figures.blocks_without_crc32c += CRC32C_NAME not in info.attributes.metadata
        self._figures.blocks_with_wrong_pieces += not pieces_fit
        # An HMAC is of the block's number too; what lacks a crc32c is told as s3backer's.
        self._figures.blocks_without_place += (
            CRC32C_NAME in info.attributes.metadata
            and PLACE_NAME not in info.attributes.metadata
            and codings.cipher is None
        )
        findings = list(self._judge_block_0(info)) if block == 0 else []
        # The size of an s3backer volume is written on its block 0: that stays.
        # And what block 0 says where it disagrees with the superblock must be seen by who decides.
        is_needed = block == 0 and (self._volume.kind == "s3backer" or self._told_larger_bytes is not None)
        if is_zero_block and not is_needed:
            self._figures.zero_blocks += 1
            message = f"block {block} ({info.key}) is stored, though it is zero"
            findings.append(Finding(Severity.FLAW, "zero block", message, block, info.key, Remedy.DELETE))
        return findings

    def _judge_block_0(self, info: ObjectInfo) -> Sequence[Finding]:
        geometry = self._volume.geometry
        try:
            told = stored_geometry(info)
        except Corrupt as error:
            return [self._wrong_geometry(info, str(error))]
        if told is None:
            message = f"block 0 ({info.key}) does not say the volume's size, which s3backer looks for there"
            return [Finding(Severity.FLAW, "size missing", message, 0, info.key, Remedy.REWRITE)]
        if told.size_bytes == self._told_larger_bytes:
            where = f"{self._bucket.url}/{self._volume.prefix}"
            message = (
                f"block 0 ({info.key}) says {exact_size(told.size_bytes)}, the superblock "
                f"{exact_size(geometry.size_bytes)}: an s3backer was told to make the volume larger. "
                f"bucketry resize {where} {told.size_bytes} keeps what it wrote, bucketry resize "
                f"{where} {geometry.size_bytes} goes back"
            )
            return [Finding(Severity.DAMAGE, "size differs", message, 0, info.key)]
        is_unfinished = told == replace(geometry, size_bytes=self._resized_from_bytes or geometry.size_bytes)
        if told == geometry or is_unfinished:
            return []
        message = f"block 0 ({info.key}) says {told}, the superblock {geometry}"
        return [self._wrong_geometry(info, message)]

    @staticmethod
    def _wrong_geometry(info: ObjectInfo, message: str) -> Finding:
        return Finding(Severity.DAMAGE, "size differs", message, 0, info.key, Remedy.REWRITE)

    def _sum_up(self) -> Sequence[Finding]:
        figures = self._figures
        told = [
            (name, f"{count} foreign objects below {self._volume.prefix}{name}" if name.endswith("/")
             else f"foreign object {self._volume.prefix}{name}")
            for name, count in self._foreign.items()
        ]  # fmt: skip
        notes = [Finding(Severity.NOTE, "foreign", message, key=name) for name, message in told]
        untold = figures.foreign_objects - sum(self._foreign.values())
        if untold:
            notes.append(Finding(Severity.NOTE, "foreign", f"{untold} more foreign objects"))
        if figures.kept_objects:
            message = f"{figures.kept_objects} objects in {KEPT_FOLDER}: damaged blocks that were put aside"
            notes.append(Finding(Severity.NOTE, "kept", message))
        if figures.zstd_blocks:
            message = f"{figures.zstd_blocks} blocks are compressed with zstd, which s3backer 1.5 cannot read"
            notes.append(Finding(Severity.NOTE, "zstd", message))
        if figures.blocks_without_crc32c:
            message = f"{figures.blocks_without_crc32c} blocks carry no crc32c: s3backer wrote them"
            notes.append(Finding(Severity.NOTE, "no crc32c", message))
        if figures.blocks_without_place:
            message = (
                f"{figures.blocks_without_place} blocks do not say which block they are: an earlier "
                "version wrote them. One in another's place would go unnoticed"
            )
            notes.append(Finding(Severity.NOTE, "no place", message))
        if figures.blocks_with_wrong_pieces:
            message = (
                f"{figures.blocks_with_wrong_pieces} blocks are right and the checksums of their pieces are "
                "not: they are read whole where a part would do"
            )
            notes.append(Finding(Severity.NOTE, "wrong pieces", message))
        return notes

    # -- repairing -------------------------------------------------------------------------------------------

    async def repair(self, findings: Sequence[Finding]) -> Sequence[Action]:
        actions: list[Action] = []
        unneeded = [finding for finding in findings if finding.remedy is Remedy.DELETE]
        if unneeded:
            await self._bucket.delete_many([_key(finding) for finding in unneeded])
            actions += [Action(finding, True, f"deleted {finding.key}") for finding in unneeded]
        wrong = [finding for finding in findings if finding.remedy is Remedy.REWRITE]
        if wrong:
            geometry = self._volume.geometry
            await set_size(self._bucket, self._volume, geometry)
            actions += [
                Action(finding, True, f"superblock and block 0 say {exact_size(geometry.size_bytes)}")
                for finding in wrong
            ]
        damaged = [finding for finding in findings if finding.remedy is Remedy.ZERO]
        actions += [await self._zero(finding) for finding in damaged]
        return actions

    async def _zero(self, finding: Finding) -> Action:
        """Put the object aside as it is, then make its block zero."""
        key = _key(finding)
        kept = kept_key(self._volume.prefix, key, self._stamp)
        try:
            if (await self._bucket.head(key)).size_bytes > self._body_max:
                return Action(finding, False, f"left {key}: it is too large to be put aside")
            found = await self._bucket.get(key)
        except (NotFound, Denied, Unavailable, Corrupt) as error:
            return Action(finding, False, f"left {key}: it cannot be put aside: {error}")
        await put_new(self._bucket, kept, found.data, found.info.attributes)
        if finding.block == 0 and self._volume.kind == "s3backer":
            await self._put_zero_block_0(key)
        else:
            await self._bucket.delete(key)
        return Action(finding, True, f"zeroed block {finding.block}; its object is now {kept}")

    async def _put_zero_block_0(self, key: str) -> None:
        """Zeros that are stored, since the size of an s3backer volume is written on them."""
        encoded = self._codec.encode(0, bytes(self._block_size))
        metadata = {**encoded.metadata, **geometry_metadata(self._volume.geometry)}
        attributes = Attributes(CONTENT_TYPE, encoded.content_encoding, metadata)
        await self._bucket.put(key, encoded.body, attributes=attributes)


def open_check(
    bucket: Bucket,
    volume: Volume,
    cipher: BlockCipher | None,
    *,
    offload: Offload,
    in_flight_max: int,
    stamp: str,
) -> LayoutCheck:
    """What looks through a volume that was detected, with what ``unlock`` returned for it."""
    codec = open_codec(volume, cipher)
    return S3backerCheck(bucket, volume, codec, offload=offload, in_flight_max=in_flight_max, stamp=stamp)


def _key(finding: Finding) -> str:
    assert finding.key is not None
    return finding.key
