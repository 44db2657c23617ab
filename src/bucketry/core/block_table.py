"""The table of blocks in memory: which are held, which of them the bucket does not have yet, and which go
next.

Everything here is a plain decision over plain data; ``cache.block_cache`` does the waiting. A block that is
held is a Slot:

::

                 write                take_due                 finish(ok)
      (absent) --------> DIRTY ---------------------> UPLOADING ----------> CLEAN (or forgotten, when zero)
         |                 ^  ^                        |   |
         | insert          |  |   finish(failed)       |   | write, zero
         v        write    |  '------------------------'   v
       CLEAN --------------'  '-------------------- REWRITTEN
                                  finish(ok or failed)

An upload reads the very bytes that the slot holds, so a write to an UPLOADING slot first copies them: nobody
waits, and what is being uploaded does not change. A block that is all zeros has no bytes (``data`` is None)
and, unless it is still to be deleted from the bucket, no slot: the zero map alone knows it. The zero map
speaks of the disk's content as its user sees it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from bucketry.core.bytes_like import BytesLike
from bucketry.core.zero_map import ZeroMap
from bucketry.core.zeros import is_zero

#: What a slot is counted as beside its bytes: the objects it is made of, measured with tracemalloc at about
#: 300.
SLOT_BYTES = 512


class State(Enum):
    """Where a slot stands towards the bucket; see the picture above."""

    CLEAN = "clean"
    DIRTY = "dirty"
    UPLOADING = "uploading"
    REWRITTEN = "rewritten"


_CLEAN, _DIRTY, _UPLOADING, _REWRITTEN = State.CLEAN, State.DIRTY, State.UPLOADING, State.REWRITTEN


class Slot:
    """One block in memory. ``data`` None means zeros. ``generation`` counts its changes, ``uploading`` is the
    generation that is under way, ``uploaded`` the last one that the bucket has."""

    __slots__ = ("block", "data", "dirty_since", "generation", "state", "uploaded", "uploading", "urgent")

    def __init__(self, block: int, data: BytesLike | None) -> None:
        self.block = block
        self.data = data
        self.state = _CLEAN
        self.generation = 0
        self.uploading = 0
        self.uploaded = 0
        self.dirty_since = 0.0
        #: A flush waits for the present generation.
        self.urgent = False


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Bytes include SLOT_BYTES for each slot. ``dirty`` counts what the bucket lacks, uploads under way
    included."""

    held_bytes: int
    held_bytes_max: int
    held_count: int
    dirty_bytes: int
    dirty_bytes_max: int
    dirty_count: int
    uploading_count: int
    evicted_count: int


class BlockTable:
    """The slots of one disk. Not thread safe: one event loop owns it.

    ``held_bytes_max`` bounds clean and dirty slots together, ``dirty_bytes_max`` the dirty ones (at least one
    block of each is always allowed). Callers ask ``has_room`` before they make a slot dirty; clean slots are
    evicted to fit, oldest use first.
    """

    def __init__(
        self, block_size_bytes: int, zeros: ZeroMap, held_bytes_max: int, dirty_bytes_max: int
    ) -> None:
        self.block_size_bytes = block_size_bytes
        self.zeros = zeros
        one = block_size_bytes + SLOT_BYTES
        self._held_bytes_max = max(held_bytes_max, one)
        self._dirty_bytes_max = max(min(dirty_bytes_max, self._held_bytes_max), one)
        self._slots: dict[int, Slot] = {}
        self._clean: OrderedDict[int, Slot] = OrderedDict()
        #: First dirtied first; and those that a flush waits for, which go before.
        self._dirty: dict[int, Slot] = {}
        self._urgent: dict[int, Slot] = {}
        self._uploading: dict[int, Slot] = {}
        self._held_bytes = 0
        self._dirty_bytes = 0
        self._evicted_count = 0

    # -- what there is ---------------------------------------------------------------------------------------

    def peek(self, block: int) -> Slot | None:
        """The slot of ``block``, used just now; None when there is none."""
        slot = self._slots.get(block)
        if slot is not None and slot.state is _CLEAN:
            self._clean.move_to_end(block)
        return slot

    def is_known(self, block: int) -> bool:
        """Whether the content of ``block`` is known here, without counting as a use."""
        return block in self._slots or self.zeros.is_zero(block)

    @property
    def dirty_bytes(self) -> int:
        return self._dirty_bytes

    @property
    def dirty_ratio(self) -> float:
        """How full of dirty bytes the table is, 0 to about 1."""
        return self._dirty_bytes / self._dirty_bytes_max

    def has_room(self, block: int) -> bool:
        """Whether a write to ``block`` may make it dirty now. A block that is dirty already always has
        room."""
        slot = self._slots.get(block)
        if slot is not None and slot.state is not _CLEAN:
            return True
        return (
            self._dirty_bytes == 0
            or self._dirty_bytes + self.block_size_bytes + SLOT_BYTES <= self._dirty_bytes_max
        )

    # -- changes ---------------------------------------------------------------------------------------------

    def insert(self, block: int, data: BytesLike | None) -> None:
        """Keep what the bucket holds of an unknown block; None (nothing stored) goes to the zero map."""
        assert block not in self._slots, "a block that is held is newer than what the bucket says"
        if data is None:
            self.zeros.set_zero(block, block + 1)
            return
        if self._dirty_bytes + self._cost(data) > self._held_bytes_max:
            return  # full of dirty blocks: whoever asked has the bytes, the cache goes without
        self.zeros.clear(block)
        slot = Slot(block, data)
        self._slots[block] = self._clean[block] = slot
        self._held_bytes += self._cost(data)
        self._evict()

    def write(self, block: int, start: int, data: BytesLike, now: float) -> None:
        """Put ``data`` into ``block`` from byte ``start`` on. The block must be known, unless ``data`` is all
        of it."""
        slot = self._slots.get(block)
        held = None if slot is None else slot.data
        whole = len(data) == self.block_size_bytes
        if held is None:
            if self.zeros.is_zero(block):
                if is_zero(data):
                    return
            else:
                assert whole, "a partial write needs the rest of the block"
            self.zeros.clear(block)
        if slot is None:
            slot = self._slots[block] = Slot(block, None)
            self._held_bytes += SLOT_BYTES
        if type(held) is bytearray and slot.state is not _UPLOADING:
            private = held
            memoryview(private)[start : start + len(data)] = data  # a bytearray's own slice would copy twice
        elif whole:
            private = bytearray(data)
        else:
            private = bytearray(self.block_size_bytes) if held is None else bytearray(held)
            private[start : start + len(data)] = data
        self._change(slot, private, now)

    def zero(self, block: int, now: float) -> None:
        """All of ``block`` becomes zeros."""
        if self.zeros.is_zero(block):
            return  # nor is there anything left to do in the bucket that a slot does not know of
        slot = self._slots.get(block)
        if slot is None:
            slot = self._slots[block] = Slot(block, None)
            self._held_bytes += SLOT_BYTES
        self.zeros.set_zero(block, block + 1)
        self._change(slot, None, now)

    def _change(self, slot: Slot, data: bytearray | None, now: float) -> None:
        before = self._cost(slot.data)
        after = self._cost(data)
        slot.data = data
        slot.generation += 1
        self._held_bytes += after - before
        state = slot.state
        if state is _CLEAN:
            self._clean.pop(slot.block, None)
            self._dirty_bytes += after
            slot.state = _DIRTY
            slot.dirty_since = now
            self._dirty[slot.block] = slot
        else:
            self._dirty_bytes += after - before
            if state is _UPLOADING:
                slot.state = _REWRITTEN
        if self._held_bytes > self._held_bytes_max:
            self._evict()

    # -- uploads ---------------------------------------------------------------------------------------------

    def take_due(self, dirty_before: float, data_bytes: int, zeros_max: int) -> list[Slot]:
        """The next batch to upload, now UPLOADING: slots that a flush waits for, then those dirty since
        ``dirty_before`` or longer; about ``data_bytes`` of data and at most ``zeros_max`` zero blocks. Empty
        when none is due."""
        batch: list[Slot] = []
        data_left, zeros_left = data_bytes, zeros_max
        for slot in self._due(dirty_before):
            if slot.data is not None and is_zero(slot.data):
                self._forget_bytes(slot)
            if slot.data is None:
                zeros_left -= 1
            else:
                data_left -= len(slot.data)
            batch.append(slot)
            if data_left <= 0 or zeros_left <= 0:
                break
        for slot in batch:
            (self._urgent if slot.urgent else self._dirty).pop(slot.block)
            self._uploading[slot.block] = slot
            slot.state = _UPLOADING
            slot.uploading = slot.generation
            slot.urgent = False
        return batch

    def _due(self, dirty_before: float) -> Iterator[Slot]:
        yield from self._urgent.values()
        for slot in self._dirty.values():
            if slot.dirty_since > dirty_before:
                return
            yield slot

    def _forget_bytes(self, slot: Slot) -> None:
        """The slot turned out to hold only zeros: keep that fact instead of the bytes."""
        cost = self._cost(slot.data) - SLOT_BYTES
        slot.data = None
        self._held_bytes -= cost
        self._dirty_bytes -= cost
        self.zeros.set_zero(slot.block, slot.block + 1)

    def oldest_dirty_since(self) -> float | None:
        """Since when the first of the waiting dirty slots has been dirty; None when none waits."""
        for slot in self._dirty.values():
            return slot.dirty_since
        return None

    @property
    def has_urgent(self) -> bool:
        """Whether slots that a flush waits for are ready to be taken."""
        return bool(self._urgent)

    def finish(self, slot: Slot, *, ok: bool, now: float) -> None:
        """The upload of ``slot`` has ended."""
        del self._uploading[slot.block]
        rewritten = slot.state is _REWRITTEN
        if ok:
            slot.uploaded = slot.uploading
        if rewritten or not ok:
            slot.state = _DIRTY
            slot.dirty_since = now
            (self._urgent if slot.urgent else self._dirty)[slot.block] = slot
            return
        slot.state = _CLEAN
        self._dirty_bytes -= self._cost(slot.data)
        if slot.data is None:
            del self._slots[slot.block]
            self._held_bytes -= SLOT_BYTES
        else:
            self._clean[slot.block] = slot
            self._evict()

    def begin_flush(self) -> dict[int, int]:
        """What a flush that begins now has to wait for: block numbers, and the generation of each that must
        be uploaded. All of them go before other dirty slots from now on."""
        self._urgent.update(self._dirty)
        self._dirty.clear()
        for slot in self._urgent.values():
            slot.urgent = True
        awaited = {block: slot.generation for block, slot in self._urgent.items()}
        for block, slot in self._uploading.items():
            awaited[block] = slot.generation
            slot.urgent = slot.state is _REWRITTEN
        return awaited

    def dirty_blocks(self) -> Iterable[int]:
        """The numbers of the blocks that the bucket does not have as they are here."""
        yield from self._urgent
        yield from self._dirty
        yield from self._uploading

    # -- room ------------------------------------------------------------------------------------------------

    @staticmethod
    def _cost(data: BytesLike | None) -> int:
        return SLOT_BYTES if data is None else SLOT_BYTES + len(data)

    def _evict(self) -> None:
        while self._held_bytes > self._held_bytes_max and self._clean:
            block, slot = self._clean.popitem(last=False)
            del self._slots[block]
            self._held_bytes -= self._cost(slot.data)
            self._evicted_count += 1

    def statistics(self) -> TableStatistics:
        return TableStatistics(
            held_bytes=self._held_bytes,
            held_bytes_max=self._held_bytes_max,
            held_count=len(self._slots),
            dirty_bytes=self._dirty_bytes,
            dirty_bytes_max=self._dirty_bytes_max,
            dirty_count=len(self._dirty) + len(self._urgent) + len(self._uploading),
            uploading_count=len(self._uploading),
            evicted_count=self._evicted_count,
        )
