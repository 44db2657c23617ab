"""The table of blocks in memory: what each of them holds, what of that the bucket does not have yet, and what
may go to it next.

Everything here is a plain decision over plain data; ``cache.block_cache`` does the waiting.

**Slots.** A block in memory is a Slot: its content as readers see it. That is a base, and the pages that were
written over it (``core.pages``). A slot may know only parts of its block (``known``): a small write into a
block that was never read needs no reading until somebody asks for the rest, or the block must be uploaded. It
has no base until then. A block that is all zeros has no bytes and, unless it is still to be deleted from the
bucket, no slot: the zero map alone knows it. The zero map speaks of the disk's content as its user sees it.

A block of which only parts were read, and nothing was written, has Parts in place of a slot, until it is
written or read whole. They take no more memory than what was read.

**Epochs.** A flush ends an epoch: what is written before it belongs to one that is closed, what comes later
to the next. Only the oldest epoch is uploaded from; the next one's turn comes when the bucket has all of it.
So the bucket always holds everything up to some flush, and of what came after only writes up to the next one:
what a disk with a cache and working barriers would hold.

**Ready.** Most of what is written waits a while for more writes to the same block. A block that was written
from its first byte to its last has had them, and may go at once. A block that is rewritten all the time never
is ready, and waits longer than others: each upload of it is soon outdated.

**Versions.** What a block must become in the bucket, for one epoch, is a Version: the pages that were written
in it, over the version before it, or over a base of its own. A write in a later epoch, or while the version
is on its way, makes another one, of the pages that it touches: nobody waits, nothing changes under an upload,
and the older epoch gets what was written in it. When a version is taken for its upload, its pages become its
base.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from bucketry.core.bytes_like import BytesLike
from bucketry.core.eviction import ClockTwoQueue, Eviction
from bucketry.core.geometry import Span
from bucketry.core.pages import ZEROS, completed, compose, page_size_for, patched
from bucketry.core.parts import Parts
from bucketry.core.ranges import Ranges
from bucketry.core.zero_map import ZeroMap
from bucketry.core.zeros import is_zero

#: What a slot or a version is counted as beside its bytes: the objects it is made of, measured with
#: tracemalloc at about 300.
SLOT_BYTES = 512
#: Up to here, of what may be dirty, a journaled small write keeps the rest of its block, when that is here;
#: beyond, memory is for what was written. Half: then uploads begin to be in a hurry as well.
_WHOLE_SHARE = 1 / 2


class State(Enum):
    """Where a version stands; see the picture above."""

    WAITING = "waiting"
    BLOCKED = "blocked"
    UPLOADING = "uploading"
    ASIDE = "aside"


_WAITING, _BLOCKED, _UPLOADING, _ASIDE = State.WAITING, State.BLOCKED, State.UPLOADING, State.ASIDE


class Version:
    """What one block must become in the bucket. ``known`` None means all of it; ``changed`` is what was
    written in its epoch, None when that is not kept, or all of it.

    ``base``: what the ``pages`` lie over. None: the version before this one, or what is not known yet.
    """

    __slots__ = (
        "base", "block", "changed", "dirty_since", "epoch", "first_written", "is_rewritten", "known", "pages",
        "state", "written_to",
    )  # fmt: skip

    def __init__(
        self,
        block: int,
        epoch: "Epoch",
        base: BytesLike | None,
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
        self.base = base
        self.pages: dict[int, bytes] = {}
        self.known = known
        self.changed = changed
        #: Since when it waits; anew after each attempt.
        self.dirty_since = now
        self.first_written = now
        self.state = _WAITING
        #: How far it was written from its first byte on, one write after the other; None when nobody minds.
        self.written_to = None if is_rewritten else 0

    @property
    def data(self) -> BytesLike | None:
        """All of a version that was taken for its upload; None: zeros."""
        assert self.base is not None, "what is uploaded has a base"
        assert not self.pages, "what is uploaded has no pages any more"
        return self.base or None

    def inherit(self, older: "Version") -> None:
        """This version goes in place of an older one: what that one changed is now this one's to tell."""
        if self.changed is None or older.changed is None:
            self.changed = None
            return
        for start, end in older.changed:
            self.changed.add(start, end)


class Slot:
    """One block in memory: ``pages`` over a ``base``, which is None while it is not known. ``known`` None
    means that all of it is.

    ``versions``: what the bucket does not have yet, oldest first; the slot is what they come to. Empty: the
    slot is clean, and has no pages.
    """

    __slots__ = ("base", "begun", "block", "known", "pages", "versions")

    def __init__(self, block: int, base: BytesLike | None, known: Ranges | None) -> None:
        self.block = block
        self.base = base
        self.pages: dict[int, bytes] = {}
        self.known = known
        #: When its newest version was begun.
        self.begun = -math.inf
        self.versions: deque[Version] = deque()

    @property
    def is_zero(self) -> bool:
        """Whether it is known to be all zeros."""
        return not self.pages and self.base is not None and not self.base

    def become(self, base: BytesLike) -> None:
        """From now on all of it is this."""
        self.base, self.pages, self.known = base, {}, None


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
    each is always allowed, and one more that is completed or uploaded). Callers ask ``can_write`` before they
    change a block; clean slots are evicted to fit, as ``core.eviction`` says. Dirty ones stay, and come back
    to it when they are clean.
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
        """``keep_changes``: ``changes_of_epoch`` shall tell what was written in an epoch, for a journal.
        ``rest_seconds``: a block that was begun again within so long is one that is rewritten; it always
        waits for more writes, ``rewritten_delays`` times as long as others."""
        self._keep_changes = keep_changes
        self._rest_seconds = rest_seconds
        self._rewritten_delays = rewritten_delays
        self.block_size_bytes = block_size_bytes
        self._page_bytes = page_size_for(block_size_bytes)
        self.zeros = zeros
        self._one = block_size_bytes + SLOT_BYTES
        #: What one write can make dirty at most: pages beside the block as it was.
        self._most = self._one + block_size_bytes
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
        #: Blocks with a version that is set aside: it is the first of its slot. Each with ``set_aside_count``
        #: as it was then.
        self._aside: dict[int, int] = {}
        #: Blocks that were set aside and have not been uploaded since, with the last epoch whose changes told
        #: of them.
        self._held: dict[int, int] = {}
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

    def view(self, slot: Slot, start: int, end: int) -> BytesLike | None:
        """Bytes of a slot; None when they are not all known. They do not change any more."""
        if slot.known is not None and not slot.known.covers(start, end):
            return None
        return compose(slot.base, slot.pages, self._page_bytes, start, end)

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

    def can_write(self, block: int, start: int = 0, end: int | None = None) -> bool:
        """Whether these bytes of ``block`` may be changed now; ``end`` None: all of it. Those of pages that
        are dirty already and not on their way always may."""
        if self._dirty_bytes == 0 or self._dirty_bytes + self._most <= self._dirty_bytes_max:
            return True
        growth = self._growth(block, start, self.block_size_bytes if end is None else end)
        return growth <= 0 or self._dirty_bytes + growth <= self._dirty_bytes_max

    def _growth(self, block: int, start: int, end: int) -> int:
        """By how many bytes at most there is more that is dirty when these bytes are written."""
        size, page = self.block_size_bytes, self._page_bytes
        slot = self._slots.get(block)
        is_whole = end - start == size
        if slot is None or not slot.versions or not self._is_open(slot.versions[-1]):
            if is_whole:
                return self._one
            if slot is not None and slot.versions and slot.known is not None:
                return self._one  # with what older versions have it may be whole by that
            stays = slot is not None and slot.base and not slot.versions and not self._lets_go_of_rests
            return SLOT_BYTES + page * (-(-end // page) - start // page) + (size if stays else 0)
        newest = slot.versions[-1]
        if is_whole or (slot.known is not None and len(slot.versions) > 1):
            return size - self._data_bytes(newest)
        return page * sum(number not in newest.pages for number in range(start // page, -(-end // page)))

    @property
    def _lets_go_of_rests(self) -> bool:
        """Whether a small write that no flush waits for in the bucket lets go of the rest of its block, which
        can be read again: so many blocks would be kept whole that there was no room for other writes."""
        return self._keep_changes and self._dirty_bytes + self._one > self._dirty_bytes_max * _WHOLE_SHARE

    def has_room(self, spans: Sequence[Span]) -> bool:
        """Whether all of these bytes, each block once, may be changed now."""
        room = self._dirty_bytes_max - self._dirty_bytes
        if len(spans) * self._most <= room:
            return True
        return sum(max(0, self._growth(span.block, span.start, span.end)) for span in spans) <= room

    @property
    def room_blocks(self) -> int:
        """How many blocks may be changed now, whichever they are."""
        room = (self._dirty_bytes_max - self._dirty_bytes) // self._one
        return max(room, 0 if self._dirty_bytes else 1)

    def _data_bytes(self, version: Version) -> int:
        base = version.base
        return (0 if base is None else len(base)) + self._page_bytes * len(version.pages)

    def _cost_bytes(self, version: Version) -> int:
        return SLOT_BYTES + self._data_bytes(version)

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

    def insert(self, block: int, data: BytesLike | None, *, for_upload: bool = False) -> BytesLike | None:
        """Take note of what the bucket holds of a block, and tell what the block is now; both None: zeros.
        What was written meanwhile stays over it. Of a block that is dirty and known in part what is around
        that is kept ``for_upload``, or as long as there is room."""
        slot = self._slots.get(block)
        if slot is not None:
            # The newest version may be known whole, and one of an older epoch not.
            if slot.known is not None or (slot.versions and slot.versions[0].known is not None):
                if not for_upload and self._dirty_bytes + self._one > self._dirty_bytes_max:
                    return self._over(slot, data)
                self._complete(slot, data)
            return self.view(slot, 0, self.block_size_bytes) if slot.base or slot.pages else None
        if data is None:
            self._drop_parts(block)
            self.zeros.set_zero(block, block + 1)
            return None
        self.zeros.clear(block)
        self._drop_parts(block)
        if self._dirty_bytes + self._one > self._held_bytes_max:
            return data  # full of dirty blocks: whoever asked has the bytes, the cache goes without
        slot = self._slots[block] = Slot(block, data, None)
        self._clean.add(block, self._cost(slot))
        self._evict()
        return data

    def _over(self, slot: Slot, below: BytesLike | None) -> BytesLike:
        """What a slot comes to over what the bucket holds, without keeping that."""
        size, known = self.block_size_bytes, slot.known
        pages = slot.pages
        if known is not None:
            at = self._page_bytes
            pages = {
                number: completed(page, number * at, below or ZEROS, known) for number, page in pages.items()
            }
        return compose(below if slot.base is None else slot.base, pages, self._page_bytes, 0, size)

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
        base = below or ZEROS
        if slot.known is not None:
            slot.base = base
        slot.versions[0].base = base
        self._dirty_bytes += len(base)
        for version in slot.versions:
            if version.known is None:
                break  # it, and what is over it, is known whole
            for number, page in version.pages.items():
                whole = completed(page, number * self._page_bytes, base, version.known)
                version.pages[number] = whole
                if slot.pages.get(number) is page:
                    slot.pages[number] = whole
            version.known = None
        slot.known = None
        self._take_back(slot)
        self._evict()

    def write(self, block: int, start: int, data: BytesLike, now: float) -> bool:
        """Put ``data`` into ``block`` from byte ``start`` on. Whether the block has got ready by that."""
        slot = self._slots.get(block)
        end = start + len(data)
        size = self.block_size_bytes
        if slot is None or slot.is_zero:
            is_zero_now = self.zeros.is_zero(block)
            if is_zero_now and is_zero(data):
                return False
            self.zeros.clear(block)
            if slot is None:
                self._drop_parts(block)
                slot = self._slots[block] = Slot(block, *((ZEROS, None) if is_zero_now else (None, Ranges())))
        whole = end - start == size
        version = self._open_version(slot, now, whole=whole)
        if whole:
            self._put_whole(slot, version, bytes(data))
        else:
            self._put(slot, version, start, data)
        if start != version.written_to:
            return False
        version.written_to = end
        if end != size or version.state is not _WAITING:
            return False
        version.epoch.ready[block] = version
        return True

    def _put_whole(self, slot: Slot, version: Version, data: bytes) -> None:
        """All of a block is written; ``data`` is kept as it is."""
        self._dirty_bytes += len(data) - self._data_bytes(version)
        version.base, version.pages = data, {}
        version.changed = None
        version.known = None
        was_known = slot.known is None
        slot.become(data)
        if not was_known:
            self._take_back(slot)
        self._evict()

    def _put(self, slot: Slot, version: Version, start: int, data: BytesLike) -> None:
        """A part of a block is written."""
        size = self._page_bytes
        view = memoryview(data)
        end = start + len(view)
        pages, before = version.pages, len(version.pages)
        for number in range(start // size, -(-end // size)):
            at = number * size
            low, high = max(start, at), min(end, at + size)
            piece = view[low - start : high - start]
            if high - low == size:
                page = bytes(piece)
            else:
                under = compose(slot.base, slot.pages, size, at, at + size)
                page = patched(bytes(under), low - at, piece)
            pages[number] = slot.pages[number] = page
        self._dirty_bytes += size * (len(pages) - before)
        if version.changed is not None:
            version.changed.add(start, end)
        if slot.known is not None:
            assert version.known is not None, "the newest version knows what its slot does"
            slot.known.add(start, end)
            version.known.add(start, end)
            if slot.known.covers(0, self.block_size_bytes):
                self._make_whole(slot, version)
                self._take_back(slot)
        elif len(pages) * size == self.block_size_bytes:
            self._make_whole(slot, version)
        self._evict()

    def _make_whole(self, slot: Slot, version: Version) -> None:
        """A slot's newest version needs no older one any more: it gets a base of its own."""
        self._dirty_bytes -= self._data_bytes(version)
        base = compose(slot.base, slot.pages, self._page_bytes, 0, self.block_size_bytes)
        version.base, version.pages, version.known = base, {}, None
        slot.become(base)
        self._dirty_bytes += len(base)

    def _open_version(self, slot: Slot, now: float, *, whole: bool) -> Version:
        """The version that a write goes into."""
        versions = slot.versions
        if versions and self._is_open(versions[-1]):
            return versions[-1]
        if not versions and not whole and slot.base and self._lets_go_of_rests:
            self._clean.remove(slot.block)
            slot.base, slot.known = None, Ranges()
        return self._add_version(slot, None if versions else slot.base, now)

    def _add_version(
        self, slot: Slot, base: BytesLike | None, now: float, *, tells_all: bool = False
    ) -> Version:
        block, versions, epoch = slot.block, slot.versions, self._epochs[-1]
        epoch.touched = True
        known = None if slot.known is None else slot.known.copy()
        changed = Ranges() if self._keep_changes and not tells_all else None
        is_rewritten = now - slot.begun <= self._rest_seconds
        version = Version(block, epoch, base, known, changed, now, is_rewritten=is_rewritten)
        slot.begun = now
        if not versions and block in self._clean:
            self._clean.remove(block)
        if versions and versions[-1].epoch is epoch:
            version.state = _BLOCKED
            epoch.blocked[block] = version
        else:
            epoch.wait(version)
        versions.append(version)
        self._dirty_bytes += self._cost_bytes(version)
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
            slot = self._slots[block] = Slot(block, ZEROS, None)
        is_open = bool(slot.versions) and self._is_open(slot.versions[-1])
        slot.become(ZEROS)
        if is_open:
            newest = slot.versions[-1]
            self._dirty_bytes -= self._data_bytes(newest)
            newest.base, newest.pages = ZEROS, {}
            newest.known = newest.changed = None
            self._take_back(slot)
        else:
            self._add_version(slot, ZEROS, now, tells_all=True)

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
        # What is read around small writes has to be in memory until it is uploaded. One always may be.
        room = (self._held_bytes_max - self._dirty_bytes) // self.block_size_bytes
        incomplete_max = min(incomplete_max, max(room, 0 if epoch.uploading else 1))
        for version in self._due(epoch, now, delay_seconds):
            if version.known is not None:
                if len(work.incomplete) >= incomplete_max:
                    break
                work.incomplete.append(version.block)
                continue
            growth = self.block_size_bytes - self._data_bytes(version)
            if self._dirty_bytes + growth > self._held_bytes_max and (work.uploads or epoch.uploading):
                break
            self._freeze(version)
            if version.data is None:
                zeros_left -= 1
            else:
                data_left -= len(version.data)
            work.uploads.append(version)
            if data_left <= 0 or zeros_left <= 0:
                break
        for version in work.uploads:
            epoch.take(version.block)
            epoch.uploading[version.block] = version
            version.state = _UPLOADING
        self._evict()
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

    def _freeze(self, version: Version) -> None:
        """The version is to be uploaded: all of it becomes its base."""
        slot = self._slots[version.block]
        self._drop_before(version)
        assert version.base is not None, "the oldest version has a base when all of it is known"
        base = compose(version.base, version.pages, self._page_bytes, 0, self.block_size_bytes)
        if is_zero(base):
            base = ZEROS
        newest = slot.versions[-1]
        if version is newest:
            slot.become(base)
            if not base:
                self.zeros.set_zero(version.block, version.block + 1)
        elif all(each.base is None for each in slot.versions if each is not version):
            for number, page in version.pages.items():
                if slot.pages.get(number) is page:
                    del slot.pages[number]
            slot.base = base
        self._dirty_bytes -= self._data_bytes(version)
        version.base, version.pages = base, {}
        self._dirty_bytes += len(base)

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
            if slot.is_zero:
                del self._slots[block]
            else:
                self._clean.add(block, self._cost(slot))
        self._evict()
        self._retire_epochs()

    def _drop_oldest(self, slot: Slot) -> None:
        """The oldest version has arrived, or the next one goes in its place: that takes over what it lies
        over."""
        oldest = slot.versions.popleft()
        self._dirty_bytes -= self._cost_bytes(oldest)
        self._dirty_count -= 1
        if slot.versions and (following := slot.versions[0]).base is None:
            before = self._data_bytes(following)
            following.base = oldest.base
            if oldest.pages:
                following.pages = {**oldest.pages, **following.pages}
            self._dirty_bytes += self._data_bytes(following) - before

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
        # Of what was set aside in it before, an older epoch may be the last that told of it.
        self._held.setdefault(block, epoch.number)
        self.set_aside_count += 1
        self._aside[block] = self.set_aside_count
        self._retire_epochs()

    def is_aside(self, block: int) -> bool:
        """Whether a version of the block is set aside."""
        return block in self._aside

    def aside_blocks(self) -> list[int]:
        """The blocks that have a version set aside."""
        return list(self._aside)

    def has_aside_since(self, count: int) -> bool:
        """Whether a version is aside that was set aside after ``set_aside_count`` had this value."""
        return any(number > count for number in self._aside.values())

    def _drop_before(self, version: Version) -> None:
        """Older versions than one that is on its way can only be one that is set aside, which this one
        contains; until it has arrived it has to tell what that one changed."""
        slot = self._slots[version.block]
        while slot.versions[0] is not version:
            assert slot.versions[0].state is _ASIDE, "versions of a block go in their order"
            version.inherit(slot.versions[0])
            self._drop_oldest(slot)
            self._aside.pop(version.block, None)

    def _take_back(self, slot: Slot) -> None:
        """All of the block is known now: what was set aside may go, unless a newer version of its epoch is
        there. If its epoch is over, it goes with the oldest."""
        block = slot.block
        if block not in self._aside or slot.versions[0].known is not None:
            return
        version = slot.versions[0]
        del self._aside[block]
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
        """The blocks that ``changes_of_epoch`` tells of although they are of older epochs, each with the last
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

    def changes_of_epoch(self, epoch_number: int) -> list[tuple[int, int, BytesLike | None]]:
        """What was written in a closed epoch and is not in the bucket: block, first byte, bytes (None: all of
        it zeros), each block's in the order in which they were written. Before that what was set aside in
        older epochs, and written into the same blocks since. The bytes do not change any more."""
        changes: list[tuple[int, int, BytesLike | None]] = []
        for version in self._versions_to_journal(epoch_number):
            changes += self._changes_of(version)
        return changes

    def _changes_of(self, version: Version) -> Iterator[tuple[int, int, BytesLike | None]]:
        base, pages, size = version.base, version.pages, self._page_bytes
        if version.changed is not None:
            for start, end in version.changed:
                yield version.block, start, compose(base, pages, size, start, end)
            return
        assert base is not None, "who tells all has all"
        if base:
            yield version.block, 0, compose(base, pages, size, 0, self.block_size_bytes)
            return
        yield version.block, 0, None
        for number, page in pages.items():
            yield version.block, number * size, page

    def _versions_to_journal(self, epoch_number: int) -> Iterator[Version]:
        for block in self._held:
            for version in self._slots[block].versions:
                if version.epoch.number <= epoch_number:
                    yield version
        for epoch in reversed(self._epochs):  # there may be thousands, and it is among the last
            if epoch.number <= epoch_number:
                if epoch.number < epoch_number:
                    return
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
        return SLOT_BYTES if slot.base is None else SLOT_BYTES + len(slot.base)

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
