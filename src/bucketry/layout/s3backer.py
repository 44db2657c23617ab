"""s3backer's layout: one object per block, and none where a block is zero."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import islice

from bucketry.bucket.interface import Attributes, Bucket, ByteRange, Object
from bucketry.codec.offload import Offload
from bucketry.codec.pipeline import BlockCodec
from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import Extent, Geometry
from bucketry.core.names import BlockNames
from bucketry.core.priority import Priority
from bucketry.core.zeros import is_zero
from bucketry.errors import BucketNotFound, Corrupt, Invalid, NotFound
from bucketry.layout.block_0 import geometry_metadata
from bucketry.layout.interface import BatchShape, Change, Part, Stored, Tag, Tagged, Zero
from bucketry.layout.listing import list_blocks
from bucketry.layout.together import together

CONTENT_TYPE = "application/x-s3backer-block"
#: As many keys as one request can delete.
_ZEROS_MAX = 1000
#: A part is at least so long: half a millisecond at 1 Gbit/s, beside the latency of its request, and some of
#: what follows the page that was asked for is asked for next.
_PART_BYTES = 64 << 10
#: And at most this share of its block: two parts and the rest of a block are three requests.
_PART_SHARE = 1 / 4
#: After a part could not be read by itself, so many are read as whole blocks at once, and twice as many each
#: time up to the second figure: a volume may be of blocks that were stored with another setting.
_WITHOUT_PARTS_MIN = 4
_WITHOUT_PARTS_MAX = 256


class _NoPart(Exception):
    """A block has to be read whole."""


class S3backerLayout:
    """A Layout (see ``bucketry.layout.interface``) that s3backer reads and writes too.

    ``in_flight_max`` commits may be under way at once; the limit of requests is the bucket's own.
    """

    def __init__(
        self,
        bucket: Bucket,
        names: BlockNames,
        geometry: Geometry,
        codec: BlockCodec,
        *,
        offload: Offload,
        in_flight_max: int,
    ) -> None:
        self._bucket = bucket
        self._names = names
        self._geometry = geometry
        self._codec = codec
        self._offload = offload
        self._batch_shape = BatchShape(
            alignment_bytes=geometry.block_size_bytes,
            data_bytes=geometry.block_size_bytes,
            zeros_max=_ZEROS_MAX,
            in_flight_max=in_flight_max,
        )
        piece_bytes = codec.piece_bytes
        self._part_bytes = geometry.block_size_bytes
        if piece_bytes is not None:
            wanted = min(_PART_BYTES, int(geometry.block_size_bytes * _PART_SHARE))
            self._part_bytes = max(piece_bytes, wanted)
        #: So many parts more are read as whole blocks, and so many after the next one that could not be.
        self._without_parts = 0
        self._without_parts_next = _WITHOUT_PARTS_MIN
        self._zeros = bytes(geometry.block_size_bytes)
        self._metadata_of_block_0 = geometry_metadata(geometry)
        self._blocks_read = 0
        self._blocks_read_again = 0
        self._parts_read = 0
        self._parts_refused = 0
        self._absent_blocks_read = 0
        self._blocks_written = 0
        self._blocks_deleted = 0

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def batch_shape(self) -> BatchShape:
        return self._batch_shape

    @property
    def part_bytes(self) -> int:
        return self._part_bytes

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> BytesLike | None:
        blocks = self._blocks(extent)
        if len(blocks) == 1:
            return await self._read_block(blocks[0], priority)
        parts = await together(self._read_block(block, priority) for block in blocks)
        if all(part is None for part in parts):
            return None
        return b"".join(self._zeros if part is None else part for part in parts)

    async def read_tagged(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tagged | None:
        (block,) = self._blocks(extent)
        return await self._read_tagged_block(block, priority)

    async def read_part(self, extent: Extent, *, priority: Priority = Priority.READ) -> Part | None:
        span = self._geometry.within_block(extent)
        block, unit, step = span.block, self._geometry.block_size_bytes, self._part_bytes
        offset = block * unit
        start, end = span.start // step * step, -(-span.end // step) * step
        if end - start < unit:
            if self._without_parts:
                self._without_parts -= 1
            else:
                try:
                    data, tag = await self._read_range(block, ByteRange(start, end), priority)
                except _NoPart:
                    self._parts_refused += 1
                    self._without_parts = self._without_parts_next
                    self._without_parts_next = min(2 * self._without_parts_next, _WITHOUT_PARTS_MAX)
                else:
                    self._without_parts_next = _WITHOUT_PARTS_MIN
                    return None if data is None else Part(data, tag, offset + start)
        found = await self._read_tagged_block(block, priority)
        return None if found is None else Part(found.data, found.tag, offset)

    async def _read_range(
        self, block: int, byte_range: ByteRange, priority: Priority
    ) -> tuple[BytesLike | None, Tag]:
        """A part of a stored block and its tag; None where nothing is stored. Raises _NoPart when only the
        whole block can tell: also when the part is damaged, for it may have been so on its way alone."""
        try:
            found = await self._bucket.get(self._names.key(block), byte_range=byte_range, priority=priority)
        except BucketNotFound:
            raise
        except NotFound:
            self._absent_blocks_read += 1
            return None, ""
        info = found.info
        attributes = info.attributes
        try:
            data = self._codec.decode_part(
                block,
                found.data,
                byte_range.start,
                info.size_bytes,
                attributes.content_encoding,
                attributes.metadata,
            )
        except Corrupt as error:
            raise _NoPart from error
        if data is None or len(data) != byte_range.end - byte_range.start:
            raise _NoPart
        self._parts_read += 1
        return data, info.etag

    async def tag(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tag | None:
        (block,) = self._blocks(extent)
        try:
            return (await self._bucket.head(self._names.key(block), priority=priority)).etag
        except BucketNotFound:
            raise
        except NotFound:
            return None

    async def _read_block(self, block: int, priority: Priority) -> BytesLike | None:
        found = await self._read_tagged_block(block, priority)
        return None if found is None else found.data

    async def _read_tagged_block(self, block: int, priority: Priority) -> Tagged | None:
        try:
            return await self._fetch_block(block, priority)
        except Corrupt:
            # What was damaged on its way is whole when it is asked for again.
            self._blocks_read_again += 1
            return await self._fetch_block(block, priority)

    async def _fetch_block(self, block: int, priority: Priority) -> Tagged | None:
        key = self._names.key(block)
        try:
            found = await self._bucket.get(key, priority=priority)
        except BucketNotFound:
            raise
        except NotFound:
            self._absent_blocks_read += 1
            return None
        self._blocks_read += 1
        try:
            if found.info.attributes.content_encoding:
                data = await self._offload(lambda: self._decode(block, found))
            else:
                data = self._decode(block, found)
        except Corrupt as error:
            raise Corrupt(f"block {block} ({key} in {self._bucket.url}): {error}") from error
        return Tagged(data, found.info.etag)

    def _decode(self, block: int, found: Object) -> BytesLike:
        attributes = found.info.attributes
        return self._codec.decode(block, found.data, attributes.content_encoding, attributes.metadata)

    async def commit(
        self, changes: Sequence[Change], *, priority: Priority = Priority.UPLOAD
    ) -> Mapping[int, Tag]:
        # The last change to a block counts. Zeros stay ranges: there may be many millions of blocks in one.
        written: dict[int, BytesLike] = {}
        zeroed: list[range] = []
        for change in changes:
            blocks = self._blocks(change.extent)
            if isinstance(change, Zero):
                written = {block: data for block, data in written.items() if block not in blocks}
                zeroed.append(blocks)
                continue
            for block, data in zip(blocks, self._split(change.data), strict=True):
                if is_zero(data):
                    written.pop(block, None)
                    zeroed.append(range(block, block + 1))
                else:
                    written[block] = data
        tags: dict[int, Tag] = {}
        work = [self._write_block(block, data, priority, tags) for block, data in written.items()]
        if zeroed:
            absent = (block for blocks in zeroed for block in blocks if block not in written)
            work.append(self._delete_blocks(absent, priority))
        await together(work)
        return tags

    def _split(self, data: BytesLike) -> Iterator[memoryview]:
        """The blocks of ``data``."""
        size = self._geometry.block_size_bytes
        view = memoryview(data)
        return (view[start : start + size] for start in range(0, len(view), size))

    async def _write_block(
        self, block: int, data: BytesLike, priority: Priority, tags: dict[int, Tag]
    ) -> None:
        if self._codec.is_heavy:
            encoded = await self._offload(lambda: self._codec.encode(block, data))
        else:
            encoded = self._codec.encode(block, data)
        metadata = dict(encoded.metadata)
        if block == 0:
            metadata |= self._metadata_of_block_0
        attributes = Attributes(
            content_type=CONTENT_TYPE, content_encoding=encoded.content_encoding, metadata=metadata
        )
        key = self._names.key(block)
        tag = await self._bucket.put(key, encoded.body, attributes=attributes, priority=priority)
        tags[self._geometry.extent(block).offset] = tag
        self._blocks_written += 1

    async def _delete_blocks(self, blocks: Iterator[int], priority: Priority) -> None:
        while keys := [self._names.key(block) for block in islice(blocks, _ZEROS_MAX)]:
            if len(keys) == 1:
                await self._bucket.delete(keys[0], priority=priority)
            else:
                await self._bucket.delete_many(keys, priority=priority)
            self._blocks_deleted += len(keys)

    def doubt(self) -> None:
        pass  # nothing is cached here

    def grow(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._names = replace(self._names, block_count=geometry.block_count)
        self._metadata_of_block_0 = geometry_metadata(geometry)

    async def survey(self) -> AsyncGenerator[Sequence[Stored], None]:
        pages = list_blocks(self._bucket, self._names)
        async with aclosing(pages):
            async for page in pages:
                if page:
                    tags = dict(page)
                    yield [self._stored(run, tags) for run in runs(sorted(tags))]

    def _stored(self, blocks: range, tags: Mapping[int, Tag | None]) -> Stored:
        size = self._geometry.block_size_bytes
        return Stored(blocks.start * size, len(blocks) * size, [tags[block] for block in blocks])

    def statistics(self) -> Mapping[str, object]:
        figures = {
            "blocks_read": self._blocks_read,
            "blocks_read_again": self._blocks_read_again,
            "parts_read": self._parts_read,
            "parts_refused": self._parts_refused,
            "absent_blocks_read": self._absent_blocks_read,
            "blocks_written": self._blocks_written,
            "blocks_deleted": self._blocks_deleted,
        }
        return {"layout": figures, "bucket": self._bucket.statistics()}

    def _blocks(self, extent: Extent) -> range:
        """The numbers of the blocks that ``extent`` consists of."""
        size = self._geometry.block_size_bytes
        self._geometry.check(extent.offset, extent.length)
        if extent.offset % size or extent.length % size:
            raise Invalid(f"{extent.length} bytes at {extent.offset} are not whole blocks of {size}")
        return range(extent.offset // size, extent.end // size)


def runs(blocks: Sequence[int]) -> Iterable[range]:
    """Ascending numbers as ranges without gaps."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or blocks[index] != blocks[index - 1] + 1:
            yield range(blocks[start], blocks[index - 1] + 1)
            start = index
