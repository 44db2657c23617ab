"""A Layout in memory that does as it is told: holds commits and reads at a gate, and fails on command."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import google_crc32c

from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import Extent, Geometry
from bucketry.core.priority import Priority
from bucketry.core.zeros import is_zero
from bucketry.errors import BucketryError
from bucketry.layout.interface import BatchShape, Change, Part, Stored, Tag, Tagged, Write


def tag_of(data: BytesLike) -> Tag:
    """The tag that MemoryLayout gives to a block's content."""
    return f'"{google_crc32c.value(bytes(data)):08x}"'


class Gate:
    """Open at first. While it is closed, whoever passes waits; ``waiting`` counts them."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


class MemoryLayout:
    """``blocks`` is what the bucket would hold; ``read_log``, ``part_log``, ``tag_log`` and ``commit_log``
    are what was asked, by block number. ``part_bytes``: what parts are made of; None: there are none."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        in_flight_max: int = 4,
        zeros_max: int = 8,
        part_bytes: int | None = None,
    ) -> None:
        self.geometry = geometry
        self.part_bytes = part_bytes or geometry.block_size_bytes
        self.batch_shape = BatchShape(
            alignment_bytes=geometry.block_size_bytes,
            data_bytes=geometry.block_size_bytes,
            zeros_max=zeros_max,
            in_flight_max=in_flight_max,
        )
        self.blocks: dict[int, bytes] = {}
        self.read_log: list[int] = []
        self.part_log: list[int] = []
        self.tag_log: list[int] = []
        self.commit_log: list[list[int]] = []
        #: For all blocks, and for some in its place.
        self.read_gate = Gate()
        self.read_gates: dict[int, Gate] = {}
        self.commit_gate = Gate()
        self.survey_gate = Gate()
        self.survey_tells_tags = True
        #: While not None, every read, commit or survey raises it (after its gate).
        self.read_error: BucketryError | None = None
        self.commit_error: BucketryError | None = None
        self.survey_error: BucketryError | None = None

    def grow(self, geometry: Geometry) -> None:
        self.geometry = geometry

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> BytesLike | None:
        block = extent.offset // self.geometry.block_size_bytes
        self.read_log.append(block)
        # The answer is of now, however long it takes to come.
        content = self.blocks.get(block)
        await self.read_gates.get(block, self.read_gate).pass_through()
        if self.read_error is not None:
            raise self.read_error
        return content

    async def read_part(self, extent: Extent, *, priority: Priority = Priority.READ) -> Part | None:
        span = self.geometry.within_block(extent)
        self.part_log.append(span.block)
        content = self.blocks.get(span.block)
        await self.read_gates.get(span.block, self.read_gate).pass_through()
        if self.read_error is not None:
            raise self.read_error
        if content is None:
            return None
        step = self.part_bytes
        start, end = span.start // step * step, -(-span.end // step) * step
        offset = span.block * self.geometry.block_size_bytes + start
        return Part(content[start:end], tag_of(content), offset)

    async def read_tagged(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tagged | None:
        data = await self.read(extent, priority=priority)
        return None if data is None else Tagged(data, tag_of(data))

    async def tag(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tag | None:
        block = extent.offset // self.geometry.block_size_bytes
        self.tag_log.append(block)
        await self.read_gate.pass_through()
        if self.read_error is not None:
            raise self.read_error
        return tag_of(self.blocks[block]) if block in self.blocks else None

    async def commit(
        self, changes: Sequence[Change], *, priority: Priority = Priority.UPLOAD
    ) -> Mapping[int, Tag]:
        size = self.geometry.block_size_bytes
        numbers = [change.extent.offset // size for change in changes]
        self.commit_log.append(numbers)
        before = [bytes(change.data) if isinstance(change, Write) else None for change in changes]
        await self.commit_gate.pass_through()
        if self.commit_error is not None:
            raise self.commit_error
        tags: dict[int, Tag] = {}
        for number, change, content in zip(numbers, changes, before, strict=True):
            if isinstance(change, Write):
                assert bytes(change.data) == content, "the data of a commit changed under way"
                assert len(change.data) == size
                assert not is_zero(change.data)
                self.blocks[number] = bytes(change.data)
                tags[change.offset] = tag_of(change.data)
            else:
                assert change.extent.length == size
                self.blocks.pop(number, None)
        return tags

    def doubt(self) -> None:
        pass  # nothing is cached here

    async def survey(self) -> AsyncIterator[Sequence[Stored]]:
        size = self.geometry.block_size_bytes
        page = [
            Stored(block * size, size, [tag_of(self.blocks[block]) if self.survey_tells_tags else None])
            for block in sorted(self.blocks)
        ]
        await self.survey_gate.pass_through()
        if self.survey_error is not None:
            raise self.survey_error
        yield page

    def statistics(self) -> Mapping[str, object]:
        return {}
