"""What a layout is: the waist between caches and the way a volume lies in a bucket.

A layout takes *ordered batches of changes*, at any granularity that its ``batch_shape`` allows, and says what
batch it likes. Nothing above assumes one object per block: a log-structured layout would ask for large
batches of small changes.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from bucketry.bucket.interface import BytesLike
from bucketry.core.geometry import Extent, Geometry
from bucketry.core.priority import Priority


@dataclass(frozen=True, slots=True)
class Write:
    """New content: ``data`` at ``offset``. The data must not change until the batch is committed."""

    offset: int
    data: BytesLike

    @property
    def extent(self) -> Extent:
        return Extent(self.offset, len(self.data))


@dataclass(frozen=True, slots=True)
class Zero:
    """The bytes of ``extent`` become zeros, and what held them is freed."""

    extent: Extent


Change: TypeAlias = Write | Zero

#: Says which content is stored in a unit (what a change is at least aligned to): while it stays the same, so
#: does the content. Opaque otherwise; for layouts of one object a unit it is the object's ETag.
Tag: TypeAlias = str


@dataclass(frozen=True, slots=True)
class Tagged:
    """The content of one unit, and its tag."""

    data: BytesLike
    tag: Tag


@dataclass(frozen=True, slots=True)
class Part(Tagged):
    """Some of the content of one unit, from ``offset`` of the volume on, and the unit's tag: parts with the
    same tag are of the same content."""

    offset: int

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Stored(Extent):
    """An extent that is stored, with the tags of its units; None where the store does not tell them in
    passing."""

    tags: Sequence[Tag | None]


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What batches a layout takes, and which it likes.

    ``alignment_bytes``: every change begins and ends on a multiple of it. ``data_bytes``: a batch should
    carry about so much data. ``zeros_max``: and at most so many Zero changes. ``in_flight_max``: so many
    commits may be under way at once; they become durable in any order, so whoever needs order waits for one
    before starting the next.
    """

    alignment_bytes: int
    data_bytes: int
    zeros_max: int
    in_flight_max: int


class Layout(Protocol):
    """A volume in a bucket. Any method may raise what a Bucket raises."""

    @property
    def geometry(self) -> Geometry: ...

    @property
    def batch_shape(self) -> BatchShape: ...

    @property
    def part_bytes(self) -> int:
        """What ``read_part`` fetches where little is wanted: a whole unit, or a fraction of one."""
        ...

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> BytesLike | None:
        """The bytes of ``extent`` (aligned as changes are), verified; None where nothing is stored: zeros.

        Raises Corrupt when what is stored fails a check."""
        ...

    async def read_tagged(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tagged | None:
        """As ``read``, of one unit, with the tag of just these bytes."""
        ...

    async def read_part(self, extent: Extent, *, priority: Priority = Priority.READ) -> Part | None:
        """Bytes of one unit, ``extent`` (of any alignment within the unit) at least among them, verified as
        in ``read``: what around it comes at no great cost, the whole unit where parts cannot be verified.
        None where nothing is stored of the unit."""
        ...

    async def tag(self, extent: Extent, *, priority: Priority = Priority.READ) -> Tag | None:
        """The tag of one unit as it is stored now; None where nothing is."""
        ...

    async def commit(
        self, changes: Sequence[Change], *, priority: Priority = Priority.UPLOAD
    ) -> Mapping[int, Tag]:
        """Make the changes durable in the bucket. When it raises, any part of them may have been made;
        committing them again is always right. Returns the tags of the units that it stored, by their
        offsets."""
        ...

    def doubt(self) -> None:
        """Somebody else may have changed the volume: whatever is cached on the way to the bucket has to be
        compared with it before it is believed again."""
        ...

    def grow(self, geometry: Geometry) -> None:
        """The volume is larger from now on: ``geometry``, of the same blocks. Whatever is committed from now
        on says so where it speaks of it."""
        ...

    def survey(self) -> AsyncIterator[Sequence[Stored]]:
        """What exists: pages of extents that are stored, each once, in no particular order. Extents that are
        not reported, and not changed since the survey began, read as zeros."""
        ...

    def statistics(self) -> Mapping[str, object]:
        """As Bucket.statistics."""
        ...
