"""What a device is: the waist between disks and the faces that serve them (FUSE, NBD, import, export,
Python).

Offsets and lengths are bytes, of any value within the device. The immediate twins (``…_nowait``) are for
event-loop callbacks: they answer from memory or decline, and never wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bucketry.bucket.interface import BytesLike
from bucketry.core.error_cursor import ErrorCursor
from bucketry.errors import BucketryError


@dataclass(frozen=True, slots=True)
class ExtentStatus:
    """A range of bytes that is a hole (reads as zeros, occupies nothing) or data."""

    offset: int
    length: int
    is_hole: bool


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What of a device is not in its bucket. ``journal``: the directory of a journal that has all of it;
    None: it is in memory alone."""

    size_bytes: int
    journal: str | None = None


class Device(Protocol):
    """A block device. Methods raise Invalid for a range beyond its end, ReadOnly for changes to a read-only
    one, Corrupt or Unavailable when the bytes cannot be had or kept, Closed after close."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def block_size_bytes(self) -> int:
        """What requests should best be aligned to."""
        ...

    @property
    def read_only(self) -> bool: ...

    @property
    def allocated_bytes(self) -> int:
        """How much of the device is data, as far as known; holes count nothing."""
        ...

    def read_nowait(self, offset: int, length: int) -> BytesLike | None:
        """The bytes if they are in memory, None if reading must wait. What is returned is valid until the
        caller next gives way to the event loop."""
        ...

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        """Take the bytes if that needs no waiting. True: taken, as by ``write``. False: nothing was done."""
        ...

    async def read(self, offset: int, length: int) -> BytesLike: ...

    async def write(self, offset: int, data: BytesLike) -> None:
        """When it returns, reads see the bytes; a later flush makes them durable. ``data`` may be reused
        then. Writes that overlap in time leave one or the other at every byte."""
        ...

    async def zero(self, offset: int, length: int) -> None:
        """The bytes read as zeros afterwards; whole blocks are freed."""
        ...

    async def trim(self, offset: int, length: int) -> None:
        """The bytes are not needed any more: as zero, for Bucketry frees at once and reads zeros from what is
        freed."""
        ...

    async def flush(self, cursor: ErrorCursor | None = None) -> None:
        """When it returns, everything acknowledged before it was called is durable as docs/semantics.md says.
        Raises when something could not be made durable; that stays in memory, and the next flush tries
        again. With a cursor, writes into damaged blocks that it has been told of before are passed over."""
        ...

    def error_cursor(self) -> ErrorCursor:
        """For one who opens the device now, to flush with."""
        ...

    async def zero_unreadable(self, block: int) -> str | None:
        """If a block is damaged in the bucket, keep its object beside the volume, and make zero what cannot
        be read of it; the kept object's key, None when it is not damaged. Raises Unsupported where that
        cannot be."""
        ...

    async def refresh(self) -> None:
        """Forget what was read, so that what another attachment has written since is seen. Raises Invalid
        unless the device is read-only: nobody else writes to one that is not."""
        ...

    async def grow(self, size_bytes: int, *, force: bool = False) -> None:
        """Make the device larger; new space reads as zeros. Raises Busy for a smaller size, AlreadyExists
        when something that is stored would come into view there (``force`` deletes it), Unsupported for a
        device that cannot."""
        ...

    async def unsaved(self) -> Unsaved:
        """What is not in the bucket, after what can be brought into a journal has been."""
        ...

    async def wait_lost(self) -> BucketryError:
        """Return when somebody else has taken the volume over: what every request fails with from then
        on. Never returns for a device that nobody can take over."""
        ...

    async def extents(self, offset: int, length: int) -> Sequence[ExtentStatus]:
        """What is data and what is a hole, in order, without gaps, neighbours merged; the last one may go on
        beyond ``offset + length``, never beyond the device."""
        ...

    def statistics(self) -> Mapping[str, object]:
        """As Bucket.statistics."""
        ...
