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

    async def read(self, extent: Extent, *, priority: Priority = Priority.READ) -> BytesLike | None:
        """The bytes of ``extent`` (aligned as changes are), verified; None where nothing is stored: zeros.

        Raises Corrupt when what is stored fails a check, WrongPassword when it cannot be decrypted."""
        ...

    async def commit(self, changes: Sequence[Change], *, priority: Priority = Priority.UPLOAD) -> None:
        """Make the changes durable in the bucket. When it raises, any part of them may have been made;
        committing them again is always right."""
        ...

    def survey(self) -> AsyncIterator[Sequence[Extent]]:
        """What exists: pages of extents that are stored, each once, in no particular order. Extents that are
        not reported, and not changed since the survey began, read as zeros."""
        ...

    def statistics(self) -> Mapping[str, object]:
        """As Bucket.statistics."""
        ...
