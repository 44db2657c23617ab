"""The table of blocks in memory: what each of them holds, what of that the bucket does not have yet, and what
may go to it next.

Everything here is a plain decision over plain data; ``cache.block_cache`` does the waiting.

**Slots.** A block in memory is a Slot: its content as readers see it. A slot may know only parts of its block
(``known``): a small write into a block that was never read needs no reading until somebody asks for the rest,
or the block must be uploaded. A block that is all zeros has no bytes (``data`` is None) and, unless it is
still to be deleted from the bucket, no slot: the zero map alone knows it. The zero map speaks of the disk's
content as its user sees it.

A block of which only parts were read, and nothing was written, has Parts in place of a slot, until it is
written or read whole. They take no more memory than what was read.

**Epochs.** A flush ends an epoch: what is written before it belongs to one that is closed, what comes later
to the next. Only the oldest epoch is uploaded from; the next one's turn comes when the bucket has all of it.
So the bucket always holds everything up to some flush, and of what came after only writes up to the next one:
what a disk with a cache and working barriers would hold.

**Ready.** Most of what is written waits a while for more writes to the same block. A block that was written
from its first byte to its last has had them, and may go at once. A block that is rewritten all the time never
is ready, and waits longer than others: each upload of it is soon outdated.

**Versions.** What a block must become in the bucket, for one epoch, is a Version. A slot's newest version
shares the slot's bytes. A write in a later epoch, or while the version is on its way, leaves that version its
bytes and goes on with a copy: nobody waits, nothing changes under an upload, and the older epoch gets what
was written in it.

::

            write             take              finish(ok)
    (none) --------> WAITING --------> UPLOADING ----------> (gone: the slot is clean)
                        ^   finish(failed) |
                        '------------------'

with another version of the same block and epoch begun meanwhile (the block was rewritten during its upload),
that one is BLOCKED until this upload has ended, well or not; failed, it is not repeated: the newer one
replaces it.

**Set aside.** A version that knows only a part of its block, while the rest of it in the bucket is damaged,
cannot be uploaded at all. It is set aside (ASIDE): kept, and counted as dirty, but nothing waits for it. When
the rest can be read after all, or has been written, it goes like any other.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from bucketry.core.bytes_like import BytesLike
from bucketry.core.eviction import ClockTwoQueue, Eviction
from bucketry.core.parts import Parts
from bucketry.core.ranges import Ranges
from bucketry.core.zero_map import ZeroMap
from bucketry.core.zeros import is_zero

#: What a slot or a version is counted as beside its bytes: the objects it is made of, measured with
#: tracemalloc at about 300.
SLOT_BYTES = 512


class State(Enum):
    """Where a version stands; see the picture above."""

    WAITING = "waiting"
    BLOCKED = "blocked"
    UPLOADING = "uploading"
    ASIDE = "aside"


_WAITING, _BLOCKED, _UPLOADING, _ASIDE = State.WAITING, State.BLOCKED, State.UPLOADING, State.ASIDE


class Version:
    """What one block must become in the bucket. ``data`` None means zeros; ``known`` None means all of it;
    ``changed`` is what was written in its epoch, None when that is not kept, or all of it."""

    __slots__ = (
        "block", "changed", "data", "dirty_since", "epoch", "first_written", "is_rewritten", "known", "state",
        "written_to",
    )  # fmt: skip

    def __init__(
        self,
        block: int,
        epoch: "Epoch",
        data: bytes | bytearray | None,
        known: Ranges | None,
        changed: Ranges | None,
        now: float,
        *,
        is_rewritten: bool,
    ) -> None:
        self.block = block
        #: Whether the one before it was begun only just before.
        self.is_rewritten = is_rewritten
        self.epoch = epoch
        self.data = data
        self.known = known
        self.changed = changed
        #: Since when it waits; anew after each attempt.
        self.dirty_since = now
        self.first_written = now
        self.state = _WAITING
        #: How far it was written from its first byte on, one write after the other; None when nobody minds.
        self.written_to = None if is_rewritten else 0

    @property
    def cost_bytes(self) -> int:
        return SLOT_BYTES if self.data is None else SLOT_BYTES + len(self.data)

    def inherit(self, older: "Version") -> None:
        """This version goes in place of an older one: what that one changed is now this one's to tell."""
        if self.changed is None or older.changed is None:
            self.changed = None
            return
        for start, end in older.changed:
            self.changed.add(start, end)


class Slot:
    """One block in memory. ``data`` None means zeros; ``known`` None means that all of it is known.

    ``versions``: what the bucket does not have yet, oldest first; the last one shares the slot's data. Empty:
    the slot is clean.
    """

    __slots__ = ("begun", "block", "data", "known", "lent_count", "versions")

    def __init__(self, block: int, data: BytesLike | None, known: Ranges | None) -> None:
        self.block = block
        self.data = data
        self.known = known
        #: To so many epochs' changes: the data may be read by others, and must not change.
        self.lent_count = 0
        #: When its newest version was begun.
        self.begun = -math.inf
        self.versions: deque[Version] = deque()


class Epoch:
    """The writes between two flushes that the bucket does not have yet."""

    __slots__ = (
        "blocked", "closed", "number", "ready", "rewritten", "rising", "touched", "uploading", "waiting",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False
        #: Whether anything was written in it, even if the bucket has all of that by now.
        self.touched = False
        self.waiting: dict[int, Version] = {}
        #: They are of two kinds, each with the first dirtied first: those that are rewritten, and the others.
        self.rewritten: dict[int, Version] = {}
        self.rising: dict[int, Version] = {}
        #: Those of the latter that need not wait for more writes.
        self.ready: dict[int, Version] = {}
        self.blocked: dict[int, Version] = {}
        self.uploading: dict[int, Version] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self.uploading)

    def wait(self, version: Version) -> None:
        """It waits for its upload, from now on or again."""
        version.state = _WAITING
        self.waiting[version.block] = version
        kind = self.rewritten if version.is_rewritten else self.rising
        kind[version.block] = version

    def take(self, block: int) -> Version:
        """The version of a block that waits; it waits no more."""
        self.rewritten.pop(block, None)
        self.rising.pop(block, None)
        self.ready.pop(block, None)
        return self.waiting.pop(block)


@dataclass(frozen=True, slots=True)
class Work:
    """What to do next: versions to upload together (now UPLOADING), and blocks whose rest must be read
    first."""

    uploads: list[Version]
    incomplete: list[int]


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Bytes include SLOT_BYTES for each slot or version. ``dirty`` counts versions: what the bucket lacks,
    uploads under way included."""

    held_bytes: int
    held_bytes_max: int
    held_count: int
    dirty_bytes: int
    dirty_bytes_max: int
    dirty_count: int
    uploading_count: int
    epochs: int
    aside_count: int
    evicted_count: int


class BlockTable:
    """The slots of one disk. Not thread safe: one event loop owns it.

    ``held_bytes_max`` bounds clean and dirty bytes together, ``dirty_bytes_max`` the dirty ones (one block of
    each is always allowed). Callers ask ``can_write`` before they change a block; clean slots are evicted to
    fit, as ``core.eviction`` says. Dirty ones stay, and come back to it when they are clean.
    """

    def __init__(
        self,
        block_size_bytes: int,
        zeros: ZeroMap,
        held_bytes_max: int,
        dirty_bytes_max: int,
        *,
        keep_changes: bool = False,
        rest_seconds: float = math.inf,
        rewritten_delays: float = 1.0,
    ) -> None:
        """``keep_changes``: ``changes`` shall tell what was written in an epoch, for a journal.
        ``rest_seconds``: a block that was begun again within so long is one that is rewritten; it always
        waits for more writes, ``rewritten_delays`` times as long as others."""
        self._keep_changes = keep_changes
        self._rest_seconds = rest_seconds
        self._rewritten_delays = rewritten_delays
        self.block_size_bytes = block_size_bytes
        self.zeros = zeros
        self._one = block_size_bytes + SLOT_BYTES
        self._held_bytes_max = max(held_bytes_max, self._one)
        self._dirty_bytes_max = max(min(dirty_bytes_max, self._held_bytes_max), self._one)
        self._slots: dict[int, Slot] = {}
        #: Of blocks that have no slot.
        self._parts: dict[int, Parts] = {}
        #: The slots that are clean, and the parts.
        self._clean: Eviction = ClockTwoQueue()
        self._touch = self._clean.touch
        #: Oldest first; the last one is open, those before it are closed and not empty.
        self._epochs: deque[Epoch] = deque([Epoch(1)])
        #: Blocks with a version that is set aside: it is the first of its slot.
        self._aside: set[int] = set()
        #: Blocks that were set aside and have not been uploaded since, with the last epoch whose changes told
        #: of them.
        self._held: dict[int, int] = {}
        #: By epoch, whose data others may be reading.
        self._lent: dict[int, list[Slot]] = {}
        #: How often a version was set aside.
        self.set_aside_count = 0
        self._dirty_bytes = 0
        self._dirty_count = 0
        self._evicted_count = 0

    # -- what there is ---------------------------------------------------------------------------------------

    def peek(self, block: int) -> Slot | None:
        """The slot of ``block``, used just now; None when there is none."""
        slot = self._slots.get(block)
        if slot is not None and not slot.versions:
            self._touch(block)
        return slot

    def peek_part(self, block: int, start: int, end: int) -> memoryview | None:
        """Bytes of a block without a slot, if they were read as a part of it; used just now."""
        parts = self._parts.get(block)
        found = None if parts is None else parts.find(start, end)
        if found is not None:
            self._touch(block)
        return found

    def part_count(self, block: int) -> int:
        """How many parts of a block are here that is not here as a whole."""
        return len(self._parts.get(block, ()))

    def is_known(self, block: int) -> bool:
        """Whether all of ``block`` is known here; does not count as a use."""
        slot = self._slots.get(block)
        return self.zeros.is_zero(block) if slot is None else slot.known is None

    @property
    def dirty_bytes(self) -> int:
        return self._dirty_bytes

    @property
    def dirty_ratio(self) -> float:
        """How full of dirty bytes the table is, 0 to about 1."""
        return self._dirty_bytes / self._dirty_bytes_max

    def can_write(self, block: int) -> bool:
        """Whether ``block`` may be changed now. One that is dirty already and not on its way always may."""
        slot = self._slots.get(block)
        if slot is not None and slot.versions and self._is_open(slot.versions[-1]):
            return True
        return self._dirty_bytes == 0 or self._dirty_bytes + self._one <= self._dirty_bytes_max

    def has_room(self, count: int) -> bool:
        """Whether any ``count`` blocks may be changed now."""
        return self._dirty_bytes + count * self._one <= self._dirty_bytes_max

    @property
    def room_blocks(self) -> int:
        """How many blocks may be changed now, whichever they are."""
        room = (self._dirty_bytes_max - self._dirty_bytes) // self._one
        return max(room, 0 if self._dirty_bytes else 1)

    def _is_open(self, version: Version) -> bool:
        """Whether more may be written into this version."""
        return version.epoch is self._epochs[-1] and version.state is not _UPLOADING

    def forget_clean(self) -> None:
        """Forget every block that the bucket has."""
        while self._clean:
            self._forget(self._clean.evict())

    def _forget(self, block: int) -> None:
        """Something clean has been evicted."""
        if self._slots.pop(block, None) is None:
            del self._parts[block]

    # -- changes ---------------------------------------------------------------------------------------------

    def insert(self, block: int, data: BytesLike | None) -> None:
        """Take note of what the bucket holds of a block; None: nothing. What was written meanwhile stays over
        it."""
        slot = self._slots.get(block)
        if slot is not None:
            # The newest version may be known whole, and one of an older epoch not.
            if slot.known is not None or (slot.versions and slot.versions[0].known is not None):
                self._complete(slot, data)
            return
        if data is None:
            self._drop_parts(block)
            self.zeros.set_zero(block, block + 1)
            return
        self.zeros.clear(block)
        self._drop_parts(block)
        if self._dirty_bytes + self._one > self._held_bytes_max:
            return  # full of dirty blocks: whoever asked has the bytes, the cache goes without
        slot = self._slots[block] = Slot(block, data, None)
        self._clean.add(block, self._cost(slot))
        self._evict()

    def insert_part(self, block: int, start: int, data: BytesLike, tag: str) -> None:
        """Take note of bytes that the bucket holds of a block without a slot, while its tag is ``tag``. What
        was known of it under another tag is forgotten."""
        assert block not in self._slots, "who has a slot needs no parts"
        self.zeros.clear(block)
        parts = self._parts.get(block)
        if parts is not None:
            self._clean.remove(block)
        if parts is None or parts.tag != tag:
            parts = self._parts[block] = Parts(tag)
        parts.add(start, data)
        self._clean.add(block, SLOT_BYTES + parts.size_bytes)
        self._evict()

    def _drop_parts(self, block: int) -> None:
        """The block is written, or known whole, from now on."""
        if self._parts.pop(block, None) is not None:
            self._clean.remove(block)

    def _complete(self, slot: Slot, below: BytesLike | None) -> None:
        """Put what the bucket holds under what is known of a slot, in each of its versions."""
        for version in slot.versions:
            if version.known is None:
                continue
            if below is not None:
                assert isinstance(version.data, bytearray), "zeros and whole blocks are always known"
                target, source = memoryview(version.data), memoryview(below)
                for start, end in version.known.gaps(self.block_size_bytes):
                    target[start:end] = source[start:end]
            version.known = None
        slot.known = None
        self._take_back(slot)

    def write(self, block: int, start: int, data: BytesLike, now: float) -> bool:
        """Put ``data`` into ``block`` from byte ``start`` on. Whether the block has got ready by that."""
        slot = self._slots.get(block)
        end = start + len(data)
        whole = len(data) == self.block_size_bytes
        if slot is None or slot.data is None:
            is_zero_now = self.zeros.is_zero(block)
            if is_zero_now and is_zero(data):
                return False
            self.zeros.clear(block)
            if slot is None:
                self._drop_parts(block)
                slot = self._slots[block] = Slot(block, None, None if is_zero_now else Ranges())
        version, has_data = self._open_version(slot, now, data if whole else None)
        if not has_data:
            assert isinstance(version.data, bytearray)
            memoryview(version.data)[start:end] = data  # a bytearray's own slice would copy twice
        if version.changed is not None:
            if whole:
                version.changed = None
            else:
                version.changed.add(start, end)
        if slot.known is not None:
            slot.known.add(start, end)
            if slot.known.covers(0, self.block_size_bytes):
                slot.known = version.known = None
                self._take_back(slot)
        if start != version.written_to:
            return False
        version.written_to = end
        if end != self.block_size_bytes or version.state is not _WAITING:
            return False
        version.epoch.ready[block] = version
        return True

    def _open_version(self, slot: Slot, now: float, whole: BytesLike | None) -> tuple[Version, bool]:
        """The version that a write goes into, with bytes of its own: those that were there before. When the
        write replaces the ``whole`` block they may be these at once; then the second value says so. They are
        kept as bytes then, which cannot change: no copy is needed to send them."""
        versions = slot.versions
        newest = versions[-1] if versions else None
        if newest is not None and self._is_open(newest):
            before = newest.data
            if before is None:
                self._dirty_bytes += self.block_size_bytes
                self._evict()
            if type(before) is bytearray:
                return newest, False
            if whole is not None:
                newest.data = slot.data = bytes(whole)
                return newest, True
            newest.data = slot.data = bytearray(self.block_size_bytes if before is None else before)
            return newest, False
        held = slot.data
        has_data = False
        data: bytes | bytearray
        if whole is not None:
            data = bytes(whole)  # half the time of making room first and copying then
            has_data = True
        elif newest is None and type(held) is bytearray and not slot.lent_count:
            data = held  # nobody else has it
        else:
            data = bytearray(self.block_size_bytes if held is None else held)
        version = self._add_version(slot, data, None if slot.known is None else slot.known.copy(), now)
        return version, has_data

    def _add_version(
        self, slot: Slot, data: bytes | bytearray | None, known: Ranges | None, now: float
    ) -> Version:
        block, versions, epoch = slot.block, slot.versions, self._epochs[-1]
        epoch.touched = True
        changed = Ranges() if self._keep_changes and data is not None else None
        is_rewritten = now - slot.begun <= self._rest_seconds
        version = Version(block, epoch, data, known, changed, now, is_rewritten=is_rewritten)
        slot.begun = now
        if not versions and block in self._clean:
            self._clean.remove(block)
        if versions and versions[-1].epoch is epoch:
            version.state = _BLOCKED
            epoch.blocked[block] = version
        else:
            epoch.wait(version)
        versions.append(version)
        slot.data, slot.known = data, known
        self._dirty_bytes += version.cost_bytes
        self._dirty_count += 1
        self._evict()
        return version

    def zero(self, block: int, now: float) -> None:
        """All of ``block`` becomes zeros."""
        if self.zeros.is_zero(block):
            return  # nor is there anything left to do in the bucket that a version does not know of
        self.zeros.set_zero(block, block + 1)
        slot = self._slots.get(block)
        if slot is None:
            self._drop_parts(block)
            slot = self._slots[block] = Slot(block, None, None)
        if slot.versions and self._is_open(slot.versions[-1]):
            newest = slot.versions[-1]
            self._forget_bytes(newest)
            slot.data = slot.known = newest.known = newest.changed = None
            self._take_back(slot)
        else:
            self._add_version(slot, None, None, now)

    def _forget_bytes(self, version: Version) -> None:
        """The version is all zeros: keep that fact instead of the bytes."""
        before = version.cost_bytes
        version.data = None
        self._dirty_bytes += version.cost_bytes - before

    # -- uploads ---------------------------------------------------------------------------------------------

    def next_work(
        self, now: float, delay_seconds: float, data_bytes: int, zeros_max: int, incomplete_max: int
    ) -> Work:
        """The next batch to upload, now UPLOADING, of the oldest epoch: all of it when it is closed, else
        what has been dirty for ``delay_seconds`` or longer, and what is ready; about ``data_bytes`` of data
        and at most ``zeros_max`` zero blocks. And up to ``incomplete_max`` blocks that are due and cannot go
        because only a part of them is known. With a delay without end nothing of an open epoch goes."""
        epoch = self._epochs[0]
        work = Work([], [])
        data_left, zeros_left = data_bytes, zeros_max
        for version in self._due(epoch, now, delay_seconds):
            if version.known is not None:
                work.incomplete.append(version.block)
                if len(work.incomplete) >= incomplete_max:
                    break
                continue
            if version.data is not None and is_zero(version.data):
                self._turn_to_zero(version)
            if version.data is None:
                zeros_left -= 1
            else:
                data_left -= len(version.data)
            work.uploads.append(version)
            if data_left <= 0 or zeros_left <= 0:
                break
        for version in work.uploads:
            self._drop_before(version)
            epoch.take(version.block)
            epoch.uploading[version.block] = version
            version.state = _UPLOADING
        return work

    def _due(self, epoch: Epoch, now: float, delay_seconds: float) -> Iterator[Version]:
        """What may go of an epoch: first what has waited long enough, then what need not wait."""
        for versions, delay in self._kinds(epoch, delay_seconds):
            for version in versions.values():
                # The very sum that timers are set for: a difference may be rounded the other way, and the
                # timer come a moment too early, for nothing.
                if not epoch.closed and version.dirty_since + delay > now:
                    break
                yield version
        if epoch.closed:
            return
        for version in epoch.ready.values():
            if now < version.dirty_since + delay_seconds < math.inf:  # else it was among the first
                yield version

    def _kinds(self, epoch: Epoch, delay_seconds: float) -> tuple[tuple[dict[int, Version], float], ...]:
        """What waits in an epoch, and how long each kind does."""
        return (epoch.rising, delay_seconds), (epoch.rewritten, self._rewritten_delays * delay_seconds)

    def _turn_to_zero(self, version: Version) -> None:
        slot = self._slots[version.block]
        if version is slot.versions[-1]:
            slot.data = None
            self.zeros.set_zero(version.block, version.block + 1)
        self._forget_bytes(version)

    def due_at(self, delay_seconds: float) -> float | None:
        """When the next version may go, by the clock of ``now``: inf if it has to wait until its epoch is
        closed, -inf if a flush waits for it or it is ready; None when there is none."""
        epoch = self._epochs[0]
        if epoch.waiting and (epoch.closed or (epoch.ready and delay_seconds < math.inf)):
            return -math.inf
        due = None
        for versions, delay in self._kinds(epoch, delay_seconds):
            for version in versions.values():
                due = version.dirty_since + delay if due is None else min(due, version.dirty_since + delay)
                break
        return due

    def finish(self, version: Version, *, ok: bool, now: float) -> None:
        """The upload of ``version`` has ended."""
        epoch, block = version.epoch, version.block
        del epoch.uploading[block]
        newer = epoch.blocked.pop(block, None)
        if newer is not None:
            if not ok:
                newer.inherit(version)
            newer.dirty_since = now
            epoch.wait(newer)
        if not ok and newer is None:
            version.dirty_since = now
            epoch.wait(version)
            return
        slot = self._slots[block]
        assert slot.versions[0] is version, "versions of a block go in their order"
        self._held.pop(block, None)  # what was set aside is in every later version
        self._drop_oldest(slot)
        if not slot.versions:
            if slot.data is None:
                del self._slots[block]
            else:
                self._clean.add(block, self._cost(slot))
                self._evict()
        self._retire_epochs()

    def _drop_oldest(self, slot: Slot) -> None:
        self._dirty_bytes -= slot.versions.popleft().cost_bytes
        self._dirty_count -= 1

    def _retire_epochs(self) -> None:
        while self._epochs[0].closed and self._epochs[0].is_empty:
            self._epochs.popleft()

    # -- versions that are set aside -------------------------------------------------------------------------

    def set_aside(self, block: int) -> None:
        """The rest of ``block`` cannot be read: nothing shall wait for its version that is due."""
        epoch, slot = self._epochs[0], self._slots.get(block)
        version = epoch.waiting.get(block)
        if slot is None or version is None or version.known is None:
            return  # it has been written whole meanwhile
        epoch.take(block)
        version.state = _ASIDE
        self._drop_before(version)
        self._aside.add(block)
        # Of what was set aside in it before, an older epoch may be the last that told of it.
        self._held.setdefault(block, epoch.number)
        self.set_aside_count += 1
        self._retire_epochs()

    def aside_blocks(self) -> list[int]:
        """The blocks that have a version set aside."""
        return list(self._aside)

    def _drop_before(self, version: Version) -> None:
        """Older versions than one that is on its way can only be one that is set aside, which this one
        contains; until it has arrived it has to tell what that one changed."""
        slot = self._slots[version.block]
        while slot.versions[0] is not version:
            assert slot.versions[0].state is _ASIDE, "versions of a block go in their order"
            version.inherit(slot.versions[0])
            self._drop_oldest(slot)
            self._aside.discard(version.block)

    def _take_back(self, slot: Slot) -> None:
        """All of the block is known now: what was set aside may go, unless a newer version of its epoch is
        there. If its epoch is over, it goes with the oldest."""
        block = slot.block
        if block not in self._aside or slot.versions[0].known is not None:
            return
        version = slot.versions[0]
        self._aside.discard(block)
        epoch = version.epoch if version.epoch in self._epochs else self._epochs[0]
        if len(slot.versions) > 1 and slot.versions[1].epoch is epoch:
            slot.versions[1].inherit(version)
            self._drop_oldest(slot)
            return
        version.epoch = epoch
        epoch.touched = True
        epoch.wait(version)

    def oldest_written(self) -> float | None:
        """When the oldest write that the bucket lacks was made; None when it lacks none. For statistics: it
        looks at all of the oldest epoch."""
        epoch = self._epochs[0]
        versions = [*epoch.waiting.values(), *epoch.uploading.values()]
        versions += [self._slots[block].versions[0] for block in self._aside]
        return min((version.first_written for version in versions), default=None)

    def begin_flush(self) -> int:
        """End the epoch: the number of the one that must be drained for everything written so far to be in
        the bucket. One in which nothing was written goes on."""
        epoch = self._epochs[-1]
        if not epoch.touched:
            return epoch.number - 1
        epoch.closed = True
        self._epochs.append(Epoch(epoch.number + 1))
        self._retire_epochs()
        return epoch.number

    def close_oldest(self) -> int:
        """End the oldest epoch if it is open, as ``begin_flush`` does; its number."""
        return self._epochs[0].number if self._epochs[0].closed else self.begin_flush()

    @property
    def drained_epoch(self) -> int:
        """The newest epoch of which, as of all before it, the bucket has everything."""
        return self._epochs[0].number - 1

    @property
    def journal_epoch(self) -> int:
        """Up to which epoch the bucket has everything, what was set aside included: a journal may forget
        these."""
        return min([self.drained_epoch, *(epoch - 1 for epoch in self._held.values())])

    @property
    def held(self) -> Mapping[int, int]:
        """The blocks that ``lend_changes`` tells of although they are of older epochs, each with the last
        epoch that is sure to have told of them."""
        return self._held

    @property
    def is_drained_but_open(self) -> bool:
        """Whether the bucket has everything of before the epoch that is open."""
        return len(self._epochs) == 1

    def hold_since(self, blocks: Iterable[int], epoch_number: int) -> None:
        """The changes of this epoch, with what is held of these blocks, are in the journal."""
        for block in blocks:
            if block in self._held:
                self._held[block] = max(self._held[block], epoch_number)

    def hold(self, block: int, epoch_number: int) -> None:
        """Something of this epoch was set aside in ``block`` before a crash, and written into it again."""
        slot = self._slots.get(block)
        if slot is not None and slot.versions:
            self._held.setdefault(block, epoch_number)

    def number_from(self, epoch_number: int) -> None:
        """The epoch that begins now, with nothing written yet, has this number. Numbers only grow."""
        epoch = self._epochs[-1]
        assert not epoch.touched, "an epoch is numbered before anything is written in it"
        assert epoch_number >= epoch.number, "epochs are numbered upwards"
        epoch.number = epoch_number

    def lend_changes(self, epoch_number: int) -> list[tuple[int, int, BytesLike | None]]:
        """What was written in a closed epoch and is not in the bucket: block, first byte, bytes (None: all of
        it zeros), each block's in the order in which they were written. Before that what was set aside in
        older epochs, and written into the same blocks since. The bytes do not change before
        ``take_back_changes``, not even when the bucket gets them first and the block is written again."""
        changes: list[tuple[int, int, BytesLike | None]] = []
        lent = self._lent.setdefault(epoch_number, [])
        for version in self._versions_to_journal(epoch_number):
            slot = self._slots[version.block]
            slot.lent_count += 1
            lent.append(slot)
            changes += _changes_of(version)
        return changes

    def take_back_changes(self, epoch_number: int) -> None:
        """Nobody reads what was lent of an epoch any more."""
        for slot in self._lent.pop(epoch_number, ()):
            slot.lent_count -= 1

    def _versions_to_journal(self, epoch_number: int) -> Iterator[Version]:
        for block in self._held:
            for version in self._slots[block].versions:
                if version.epoch.number <= epoch_number:
                    yield version
        for epoch in self._epochs:
            if epoch.number == epoch_number:
                assert epoch.closed, "the epoch is over"
                # A block that is on its way may be BLOCKED in a newer version too.
                for versions in (epoch.uploading, epoch.waiting, epoch.blocked):
                    yield from versions.values()

    def is_drained(self, epoch_number: int) -> bool:
        """Whether the bucket has everything of this epoch and those before it."""
        return self._epochs[0].number > epoch_number

    def dirty_blocks(self) -> Iterator[int]:
        """The numbers of the blocks that the bucket does not have as they are here."""
        return (block for block, slot in self._slots.items() if slot.versions)

    # -- room ------------------------------------------------------------------------------------------------

    @staticmethod
    def _cost(slot: Slot) -> int:
        return SLOT_BYTES if slot.data is None else SLOT_BYTES + len(slot.data)

    def _evict(self) -> None:
        while self._clean and self._clean.held_bytes + self._dirty_bytes > self._held_bytes_max:
            self._forget(self._clean.evict())
            self._evicted_count += 1

    def statistics(self) -> TableStatistics:
        return TableStatistics(
            held_bytes=self._clean.held_bytes + self._dirty_bytes,
            held_bytes_max=self._held_bytes_max,
            held_count=len(self._slots) + len(self._parts),
            dirty_bytes=self._dirty_bytes,
            dirty_bytes_max=self._dirty_bytes_max,
            dirty_count=self._dirty_count,
            uploading_count=sum(len(epoch.uploading) for epoch in self._epochs),
            epochs=len(self._epochs),
            aside_count=len(self._aside),
            evicted_count=self._evicted_count,
        )


def _changes_of(version: Version) -> Iterator[tuple[int, int, BytesLike | None]]:
    if version.data is None:
        yield version.block, 0, None
    elif version.changed is None:
        yield version.block, 0, version.data
    else:
        view = memoryview(version.data)
        for start, end in version.changed:
            yield version.block, start, view[start:end]
