"""The journal: epochs that were flushed and are not in the bucket yet, on local stable storage.

The decisions and the format are ``core.journal``'s; this module does the waiting and the file operations, all
of which run through one ``offload``. Appends that wait together are made durable together.

What its user has to keep to, or replaying goes wrong:

* Epochs are appended in ascending order, and ``note_drained`` is called *before* an epoch is appended of
  which anything is in the bucket already. Such an epoch is appended even when nothing is left of it: its
  barrier says that the older ones are not to be replayed any more.
* When ``append`` returns False, the flush waits for the bucket, then for ``skip``, and only then returns.
* When ``append`` raises Unavailable, likewise; when ``skip`` does, the journal cannot even be trusted to be
  forgotten: before anything is acknowledged without it, what the bucket names as ``generation`` must change,
  so that this journal is refused and not replayed over what came later.
* Nothing of an epoch goes to the bucket before the journal ``is_settled`` with those before it (``settle``
  sees to that). Then no more than the first of the epochs that are recovered is in the bucket in part, none
  of the others at all, and they are to be taken one after the other, in their order. When ``settle`` raises,
  the bucket may say durably what it has instead (``note_told``; ``open`` is to be given it next time).
* What cannot go with its epoch is named as ``kept``: of epochs that the bucket has otherwise (``is_passed``),
  only that is recovered. It is to be taken together with the first epoch that is not passed, of which the
  bucket may have newer bytes of the same blocks; so while anything is kept, an epoch is appended before
  anything of it goes to the bucket.
* A flush whose epoch is in the journal is over when the journal ``brings_back`` nothing that was kept once
  and has reached the bucket since (``settle`` sees to that, too): the epoch may not have it.
"""

import asyncio
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from bucketry.cache.journal_files import Files
from bucketry.cache.left_journal import (
    SEGMENT_NAME,
    Left,
    Reader,
    RecoveredEpoch,
    begun,
    check,
    create_head,
    heal_head,
    look,
    make_certain,
    missing,
    translated,
    unavailable,
    write_head,
)
from bucketry.cache.seals import RecordSeal
from bucketry.codec.offload import Offload
from bucketry.core.bytes_like import BytesLike
from bucketry.core.histogram import LatencyHistogram
from bucketry.core.journal import (
    HEAD_BYTES,
    PAGE_BYTES,
    SEGMENT_BYTES_MIN,
    Commit,
    Entry,
    Head,
    JournalIdentity,
    Passed,
    Piece,
    Progress,
    Scan,
    Tail,
    checksum,
    encode_head,
)
from bucketry.core.pending_journal import PendingJournal
from bucketry.errors import BucketryError, Closed, Invalid, Unavailable
from bucketry.layout.interface import Change, Write

T = TypeVar("T")

_SALT_BYTES = 16
#: Segments are given back whole, so there should be several; more of them cost more files to sync at once.
_SEGMENT_COUNT = 8
#: Reading a whole segment's pages at the start takes about 0.1 s; larger ones would save nothing.
_SEGMENT_BYTES_MAX = 64 << 20
#: So long after the last commit its end is marked. Short, for only then damage to it is known as such; but
#: not while one flush follows the other.
_MARK_END_SECONDS = 1.0
#: So much of a segment that was never written before is filled at once: 128 flushes of 4 KiB, and hardly
#: longer than one of them takes.
_AHEAD_BYTES = 1 << 20
_ZEROS = bytes(_AHEAD_BYTES)
#: The least that ``size_bytes_max`` may be.
JOURNAL_BYTES_MIN = HEAD_BYTES + _SEGMENT_COUNT * SEGMENT_BYTES_MIN
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """``state``: ``ready``; ``full`` (appends are refused until ``skip``); ``broken`` (see ``last_error``);
    ``closed``. ``size_bytes``: of all files. ``used_bytes``: of segments that cannot be used again yet.
    ``lag_…``: what the bucket is not known to have. ``commits`` were made durable, each in ``commit_latency``
    with laying out and writing; ``marks`` only to say what the bucket has."""

    state: str
    last_error: str
    size_bytes: int
    size_bytes_max: int
    used_bytes: int
    oldest_epoch: int
    lag_epochs: int
    lag_bytes: int
    epochs: int
    records: int
    commits: int
    marks: int
    refused_epochs: int
    skips: int
    commit_latency: dict[str, float]


@dataclass(slots=True)
class _Pending:
    epoch: int
    changes: Sequence[Change]
    done: asyncio.Future[bool]


@dataclass(slots=True)
class _Counts:
    epochs: int = 0
    records: int = 0
    commits: int = 0
    marks: int = 0
    refused_epochs: int = 0
    skips: int = 0


class Journal:
    """The journal of one attached disk, owned by one event loop: ``open`` makes one."""

    def __init__(
        self,
        files: Files,
        head: Head,
        state: "Left | None",
        size_bytes_max: int,
        offload: Offload,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        key: bytes | None = None,
    ) -> None:
        self._files = files
        self._head = head
        self._seed = checksum(head.salt)
        self._key = key
        self._seal = None if key is None else RecordSeal(key, head.salt, random_bytes)
        self._size_bytes_max = size_bytes_max
        self._segment_bytes = _segment_bytes(size_bytes_max)
        self._offload = offload
        self._clock = clock
        self._random_bytes = random_bytes
        self._names = _segment_names(size_bytes_max)
        self._sizes = {name: size for name, size in files.sizes().items() if SEGMENT_NAME.fullmatch(name)}
        #: How much of each segment was ever written, of those that were used.
        self._written: dict[str, int] = {}
        #: Segments with records, oldest first, each with the newest epoch in it.
        self._segments: dict[str, int] = {}
        self._free: list[str] = list(self._names)
        self._tail = Tail(head.counter)
        #: Epochs that are in the journal and not known to be in the bucket, with their bytes.
        self._lag: deque[tuple[int, int]] = deque()
        #: Epochs that after a crash may be found and replayed: asked for, and not durably said to be in the
        #: bucket.
        self._replayable: deque[int] = deque()
        self._drained = head.drained
        #: The greatest ``drained`` that the journal itself is sure to tell after a crash.
        self._durable_drained = head.drained
        if state is not None:
            self._take_over(state.scan)
        # An epoch that was passed may not be in the journal; its number is used up all the same.
        self._newest_asked = max(self._tail.newest_epoch, head.passed.epoch, head.drained)
        #: What the bucket itself says that it has; what the head says does not count then.
        self._told: Passed | None = None
        #: Whether anything was written under this head.
        self._is_used = state is not None
        #: The newest epoch that was refused, until it is skipped.
        self._refused: int | None = None
        self._error: BucketryError | None = None
        self._head_error: BucketryError | None = None
        self._pending: list[_Pending] = []
        self._committer: asyncio.Task[None] | None = None
        #: Whether it was of one of the identities that were asked for.
        self.is_wanted = False
        #: What was cut off at its end when it was opened.
        self.torn_bytes = 0 if state is None else state.scan.torn_bytes
        #: When nothing more comes, the end is marked.
        self._end_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._closed = False
        self._counts = _Counts()
        self._latency = LatencyHistogram()

    # -- life ------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        files: Files,
        identity: JournalIdentity,
        *,
        also: Sequence[JournalIdentity] = (),
        adopt: bool = False,
        give_up: bool = False,
        pending: PendingJournal | None = None,
        passed: Passed | None = None,
        size_bytes_max: int,
        offload: Offload,
        clock: Callable[[], float] = time.perf_counter,
        random_bytes: Callable[[int], bytes] = os.urandom,
        key: bytes | None = None,
    ) -> tuple["Journal", list[RecoveredEpoch]]:
        """The journal in ``files``, which it closes, and what is to be replayed from it, oldest first; a new
        one where there is none. ``identity`` is what the bucket says; a journal of one of ``also`` will
        do, and with ``adopt`` any of a volume of this size. ``pending`` is the journal as the bucket
        knows it (None: of none); with ``give_up`` a new one may take its place.
        ``passed`` is what the bucket says that it has of it, instead of what the journal says. The files
        never take more than ``size_bytes_max`` (at least JOURNAL_BYTES_MIN). ``offload`` must
        run one call at a time. ``key``: 32 bytes for this purpose; what is written from now on is encrypted
        with it.

        Raises Mismatch when something is to be replayed that belongs to another volume, or to this one
        before somebody else had it, or when the journal never got as far as that (an empty one, an older
        copy); Corrupt when the journal is damaged (``repair`` cuts it there); Unsupported for another
        version; Unavailable when the files cannot be read or written.
        """
        if size_bytes_max < JOURNAL_BYTES_MIN:
            raise Invalid(f"a journal needs at least {JOURNAL_BYTES_MIN} bytes, not {size_bytes_max}")

        wanted = (identity, *also)

        def begin() -> tuple[Head, Left | None, bool]:
            left = look(files)
            may_be_new = pending is None or give_up or adopt
            if left is None:
                if pending is not None and not may_be_new:
                    raise missing(files, pending)
                head = Head(1, random_bytes(_SALT_BYTES), (identity,), sealed_from=None if key is None else 1)
                create_head(files, head)
                return head, None, False
            life = left.head.counter + 1
            sealed_from = None if key is None else life
            is_wanted = any(each in left.head.identities for each in wanted)
            if left.has_something or not may_be_new:
                check(files, left, wanted, pending, adopt=adopt)
            if left.has_something:
                make_certain(files, left)
                head = replace(
                    left.head,
                    counter=life,
                    identities=(identity,),
                    drained=left.scan.drained,
                    passed=(passed if is_wanted else None) or left.head.passed,
                    segments=begun(left.scan),
                    sealed_from=sealed_from if left.head.sealed_from is None else left.head.sealed_from,
                )
            else:
                # Numbers of epochs go on, so that the bucket's word on how far it got stays true.
                salt = random_bytes(_SALT_BYTES)
                head = Head(life, salt, (identity,), left.progress.epoch, sealed_from=sealed_from)
            heal_head(files, left)
            write_head(files, encode_head(head))
            return head, left if left.has_something else None, is_wanted

        try:
            head, left, is_wanted = await offload(lambda: translated(files, begin))
            journal = cls(files, head, left, size_bytes_max, offload, clock, random_bytes, key)
            journal.is_wanted = is_wanted
            await offload(lambda: translated(files, journal._trim))
        except BaseException:
            files.close()
            raise
        if left is None:
            return journal, []
        reader = Reader(files, left, key)
        found = head.passed
        return journal, [RecoveredEpoch(place, found, reader, offload) for place in left.scan.epochs]

    def _take_over(self, found: Scan) -> None:
        self._segments = dict(
            zip((segment.name for segment in found.segments), found.newest_epochs, strict=True)
        )
        first = [name for name in found.free if name in self._names]
        rest = [name for name in self._names if name not in self._segments and name not in first]
        self._free = first + rest
        self._tail = Tail(self._head.counter, None, 0, found.next_sequence, found.newest_epoch)
        self._lag.extend((epoch.number, epoch.data_bytes) for epoch in found.epochs)
        self._replayable.extend(epoch.number for epoch in found.epochs)
        self._drained = self._durable_drained = found.drained

    def _trim(self) -> None:
        """Remove files that a larger journal left behind, and are of no use any more."""
        extra = [name for name in self._sizes if name not in self._segments and name not in self._names]
        for name in extra:
            self._files.remove(name)
            del self._sizes[name]

    @property
    def progress(self) -> Progress:
        """What the journal will know of itself after a crash, at least."""
        drained = max(self._durable_drained, self._head.passed.epoch)
        return Progress(max(self._tail.newest_epoch, drained), drained)

    @property
    def lag_epochs(self) -> int:
        """How many epochs it has that the bucket is not known to have."""
        return len(self._lag)

    @property
    def lag_bytes(self) -> int:
        """What the bucket is not known to have."""
        return sum(size_bytes for _, size_bytes in self._lag)

    @property
    def place(self) -> str:
        """The directory that it is in, for people."""
        return self._files.place

    @property
    def next_epoch(self) -> int:
        """The number that the first epoch of this attachment may have, or any greater one."""
        return self._newest_asked + 1

    async def close(self, *, empty: bool) -> None:
        """Close the files. ``empty``: the bucket has everything, so nothing is to be replayed. Closing twice
        is fine. Raises Unavailable when that could not be written down; the files are closed anyway."""
        if not self._closed:
            self._closed = True
            if self._end_timer is not None:
                self._end_timer.cancel()
            await self._finish(self._close(empty))

    async def _close(self, empty: bool) -> None:
        try:
            if self._committer is not None:
                await asyncio.wait([self._committer])
            async with self._lock:
                if empty and (self._is_used or self._head_error is None):
                    # Without the URL, and with nothing sealed, it is one that older programs know.
                    identities = tuple(replace(each, url="") for each in self._head.identities)
                    await self._renew(identities, at_end=True)
                    await self._offload(lambda: translated(self._files, self._remove_segments))
        finally:
            await self._offload(self._files.close)

    def _remove_segments(self) -> None:
        """What was written stays in files that are used again, and the bucket has it."""
        for name in self._files.sizes():
            if SEGMENT_NAME.fullmatch(name):
                self._files.remove(name)
        self._files.sync_directory()

    def _begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="journal")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(self, work: Coroutine[object, object, None]) -> None:
        """Run something to its end, even when whoever waits for it is cancelled: what was half done in the
        files and not at all in memory would be wrong later."""
        await asyncio.shield(self._begin(work))

    # -- appending -------------------------------------------------------------------------------------------

    async def append(self, epoch: int, changes: Sequence[Change]) -> bool:
        """Put what the bucket lacks of an epoch into the journal; it is durable when this returns True.
        False: there is no room, in the bounded size or on the disk, and nothing of it is in the journal; so
        it is for all later epochs until ``skip``. The data must not change until this returns.

        Raises Unavailable when writing fails: from then on always."""
        if self._closed:
            raise Closed("the journal is closed")
        if self._error is not None:
            raise self._error
        assert epoch > self._newest_asked, "epochs are appended in their order, each once"
        self._newest_asked = epoch
        self._replayable.append(epoch)
        loop = asyncio.get_running_loop()
        pending = _Pending(epoch, changes, loop.create_future())
        self._pending.append(pending)
        if self._committer is None:
            self._committer = self._begin(self._commit_pending())
        return await pending.done

    async def _commit_pending(self) -> None:
        try:
            async with self._lock:
                while self._pending:
                    group, self._pending = self._pending, []
                    await self._commit_group(group)
        finally:
            self._committer = None
            self._mark_end_later()

    def _mark_end_later(self) -> None:
        """A damaged last commit looks as if cut short by a crash. A mark behind it proves that it was not."""
        if self._end_timer is not None:
            self._end_timer.cancel()
        if not self._closed and self._tail.segment is not None:
            loop = asyncio.get_running_loop()
            self._end_timer = loop.call_later(_MARK_END_SECONDS, self._begin_marking_end)

    def _begin_marking_end(self) -> None:
        self._end_timer = None
        self._begin(self._mark_end())

    async def _mark_end(self) -> None:
        async with self._lock:
            if self._pending or self._closed or self._error is not None or self._refused is not None:
                return
            if self._tail.segment is not None:
                self._counts.marks += 1
                await self._mark()

    async def _commit_group(self, group: list[_Pending]) -> None:
        try:
            while group:
                count = await self._commit_some(group)
                for pending in group[:count]:
                    _answer(pending.done, True)
                if not count and self._refused is not None:
                    break
                del group[:count]
            for pending in group:
                self._refused = pending.epoch
                self._counts.refused_epochs += 1
                _answer(pending.done, False)
        except BaseException as error:
            failure = error if isinstance(error, BucketryError) else Unavailable(f"journal: {error!r}")
            for pending in group:
                if not pending.done.done():
                    pending.done.set_exception(failure)
            if failure is not error:
                raise

    async def _commit_some(self, group: list[_Pending]) -> int:
        """Make as many of the first epochs durable as fit into one commit, and say how many. With none,
        either room was made, or the first is refused."""
        if self._error is not None:
            raise self._error
        if self._refused is not None:
            return 0
        if not self._has_anything() and not any(pending.changes for pending in group):
            unwritten = {pending.epoch for pending in group}
            self._replayable = deque(epoch for epoch in self._replayable if epoch not in unwritten)
            return len(group)  # nothing is there that could be replayed over it
        self._recycle()
        time_ms = time.time_ns() // 1_000_000
        seal = None if self._seal is None else self._seal.close
        commit = Commit(self._seed, self._tail, self._drained, self._segment_bytes, self._free, time_ms, seal)
        would_recycle = bool(self._recyclable(self._drained))
        self._is_used = True
        begun = self._clock()
        try:
            sizes = await self._offload(lambda: self._write_commit(commit, group, would_recycle))
        except OSError as error:
            if error.errno not in _NO_ROOM:
                # A sync that failed is not tried again: the kernel may have dropped what it could not write,
                # and would call the next one a success.
                self._error = unavailable(self._files, error)
                raise self._error from error
            sizes = None
        if sizes is None:
            self._refused = group[0].epoch
            return 0
        self._latency.add(self._clock() - begun)
        self._committed(commit)
        for pending, size_bytes in zip(group, sizes, strict=False):
            if pending.epoch > self._drained:
                self._lag.append((pending.epoch, size_bytes))
        self._counts.epochs += len(sizes)
        return len(sizes)

    def _committed(self, commit: Commit) -> None:
        self._head = self._head_after(commit)
        self._tail = commit.tail
        self._is_durably_drained(commit.drained)
        for piece in commit.pieces:
            if piece.begins:
                self._free.remove(piece.segment)
            self._segments[piece.segment] = piece.newest_epoch
        self._counts.commits += 1
        self._counts.records += commit.record_count

    def _is_durably_drained(self, epoch: int) -> None:
        self._durable_drained = max(self._durable_drained, epoch)
        while self._replayable and self._replayable[0] <= epoch:
            self._replayable.popleft()

    def _has_anything(self) -> bool:
        """Whether after a crash anything would be replayed."""
        return self._tail.newest_epoch > self._durable_drained

    def _write_commit(
        self, commit: Commit, group: Sequence[_Pending], would_recycle: bool
    ) -> list[int] | None:
        """Lay out and make durable as many epochs as fit, or else a mark if that makes room; the data bytes
        of each epoch that is in. None: no room, and nothing was written. Raises OSError."""
        sizes = []
        for pending in group:
            entries = [_entry(change) for change in pending.changes]
            if not commit.add(pending.epoch, entries):
                break
            sizes.append(sum(entry.length for entry in entries if entry.data is not None))
        if not sizes and not (would_recycle and commit.mark()):
            return None
        self._write(commit)
        return sizes

    def _write(self, commit: Commit) -> None:
        """Make it durable. Raises OSError."""
        commit.finish()
        for piece in commit.pieces:
            if piece.begins and self._sizes.get(piece.segment) != self._segment_bytes:
                self._files.allocate(piece.segment, self._segment_bytes)
                self._files.sync_directory()
                self._sizes[piece.segment] = self._segment_bytes
                self._written.pop(piece.segment, None)
        for piece in commit.pieces:
            self._files.write(piece.segment, piece.position, [*piece.buffers, *self._ahead_of(piece)])
        for piece in commit.pieces:
            self._files.sync(piece.segment)
        head = self._head_after(commit)
        if head != self._head:
            # Or nobody would know, if the segment got lost as a whole, that there had been anything.
            write_head(self._files, encode_head(head))

    def _head_after(self, commit: Commit) -> Head:
        """The head that knows the segments that a commit begins."""
        begun = {piece.segment: piece.first_sequence for piece in commit.pieces if piece.begins}
        if not begun:
            return self._head
        segments = dict(self._head.segments or ()) | begun
        return replace(self._head, counter=self._head.counter + 1, segments=tuple(segments.items()))

    def _ahead_of(self, piece: Piece) -> list[BytesLike]:
        """Zeros to write behind a piece, where nothing was ever written: a sync of space that is only
        allocated has to write down for the file system that it is in use. So it does that seldom."""
        name, end = piece.segment, piece.end
        written = self._written.get(name)
        if written is None:
            written = self._files.written_bytes(name)
        if end <= written:
            self._written[name] = written
            return []
        self._written[name] = min(-(-end // _AHEAD_BYTES) * _AHEAD_BYTES, self._segment_bytes)
        return [memoryview(_ZEROS)[: self._written[name] - end]]

    # -- space -----------------------------------------------------------------------------------------------

    def note_drained(self, epoch: int) -> None:
        """The bucket has everything up to ``epoch``. Costs nothing: the next commit writes it down."""
        self._drained = max(self._drained, epoch)
        while self._lag and self._lag[0][0] <= self._drained:
            self._lag.popleft()

    def note_told(self, passed: Passed) -> None:
        """The bucket says durably what it has: who opens this journal is to be told. From now on the head
        does not need to be written for that."""
        self._told = passed

    @property
    def _durably_passed(self) -> Passed:
        return self._told or self._head.passed

    def is_settled(self, passed: Passed) -> bool:
        """Whether a crash now would bring back nothing up to an epoch but what is kept of it."""
        if not self._replayable or self._replayable[0] > passed.epoch:
            return True
        durable = self._durably_passed
        if passed.epoch < durable.epoch:
            return True  # what an earlier use of the journal has passed is being replayed, in its order
        newest = next(epoch for epoch in reversed(self._replayable) if epoch <= passed.epoch)
        return newest <= durable.epoch and durable.kept <= passed.kept

    def brings_back(self, passed: Passed) -> bool:
        """Whether after a crash something would be replayed that was kept and is not any more."""
        durable = self._durably_passed
        is_old = bool(self._replayable) and self._replayable[0] <= durable.epoch <= passed.epoch
        return is_old and not durable.kept <= passed.kept

    async def settle(self, passed: Passed) -> None:
        """Make durable what was noted as drained, so that none of it is replayed any more, and what the
        bucket has beyond that. Works on a full journal, and on a broken one if the disk lets it.

        Raises Unavailable when it could not be written down, or too much is kept for that."""
        if self._closed:
            raise Closed("the journal is closed")
        await self._finish(self._settle(passed))

    async def _settle(self, passed: Passed) -> None:
        async with self._lock:
            if self.is_settled(passed):
                return  # a commit has said it meanwhile
            self._counts.marks += 1
            if not passed.kept and self._error is None and await self._mark():
                return
            drained = self._drained
            await self._put_head(
                replace(self._head, counter=self._head.counter + 1, drained=drained, passed=passed)
            )
            self._is_durably_drained(drained)

    async def _mark(self) -> bool:
        """A commit that says only what is drained. False: there is no room for it."""
        self._recycle()
        commit = Commit(self._seed, self._tail, self._drained, self._segment_bytes, self._free)
        # The page at the end of a segment is kept for a mark that frees others.
        if not commit.mark(reserve_bytes=PAGE_BYTES):
            return False
        self._is_used = True
        begun = self._clock()
        try:
            await self._offload(lambda: self._write(commit))
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self._error = unavailable(self._files, error)
            return False
        self._latency.add(self._clock() - begun)
        self._committed(commit)
        return True

    def _recyclable(self, drained: int) -> list[str]:
        """The oldest segments whose epochs are all drained, but never the newest one: that it is there proves
        that nothing is missing."""
        found = []
        for name, newest in list(self._segments.items())[:-1]:
            if newest > drained:
                break
            found.append(name)
        return found

    def _recycle(self) -> None:
        for name in self._recyclable(self._durable_drained):
            del self._segments[name]
            if name in self._names:
                self._free.append(name)

    async def skip(self, epoch: int) -> None:
        """Everything up to ``epoch``, the last in the journal or not in it, is in the bucket: forget it all,
        durably. No later epoch may have been appended with success. Works on a broken journal too, if the
        disk lets it.

        Raises Unavailable when it could not be written down."""
        if self._closed:
            raise Closed("the journal is closed")
        await self._finish(self._skip(epoch))

    async def _skip(self, epoch: int) -> None:
        async with self._lock:
            assert epoch >= self._tail.newest_epoch, "no later epoch is in the journal"
            self._newest_asked = max(self._newest_asked, epoch)
            self.note_drained(epoch)
            if self._is_used:
                await self._renew(self._head.identities)
            self._counts.skips += 1
            if self._refused is not None and epoch >= self._refused:
                self._refused = None

    async def _renew(self, identities: tuple[JournalIdentity, ...], *, at_end: bool = False) -> None:
        """A new head, under which all there is is void; ``at_end``: nothing more is written under it."""
        salt = self._random_bytes(_SALT_BYTES)
        drained = max(self._drained, self.progress.epoch)
        life = self._head.counter + 1
        sealed_from = None if self._key is None or at_end else life
        await self._put_head(Head(life, salt, identities, drained, sealed_from=sealed_from))
        self._seed = checksum(salt)
        self._seal = None if self._key is None else RecordSeal(self._key, salt, self._random_bytes)
        self._is_used = False
        self._tail = Tail(self._head.counter)
        self._drained = drained
        self._is_durably_drained(drained)  # others may wait to be appended
        self._segments.clear()
        self._free = list(self._names)

    async def _put_head(self, head: Head) -> None:
        if self._head_error is not None:
            raise self._head_error
        try:
            page = encode_head(head)
        except Invalid as error:
            raise Unavailable(f"the journal in {self._files.place}: {error}") from error
        try:
            await self._offload(lambda: write_head(self._files, page))
        except OSError as error:
            self._error = self._head_error = unavailable(self._files, error)
            raise self._head_error from error
        self._head = head

    async def relabel(self, *identities: JournalIdentity) -> None:
        """Whose journal this is from now on. Before the generation in the bucket is changed: the old identity
        and the new one, so that either will do after a crash; afterwards the new one alone.

        Raises Unavailable when it could not be written down."""
        if self._closed:
            raise Closed("the journal is closed")
        await self._finish(self._relabel(identities))

    async def _relabel(self, identities: tuple[JournalIdentity, ...]) -> None:
        async with self._lock:
            head = self._head
            await self._put_head(replace(head, counter=head.counter + 1, identities=identities))

    # -- looking ---------------------------------------------------------------------------------------------

    def statistics(self) -> Mapping[str, object]:
        """The fields of JournalStatistics."""
        state = "ready" if self._refused is None else "full"
        if self._error is not None:
            state = "broken"
        figures = JournalStatistics(
            state="closed" if self._closed else state,
            last_error="" if self._error is None else str(self._error),
            size_bytes=HEAD_BYTES + sum(self._sizes.values()),
            size_bytes_max=self._size_bytes_max,
            used_bytes=sum(self._sizes.get(name, 0) for name in self._segments),
            oldest_epoch=self._lag[0][0] if self._lag else 0,
            lag_epochs=len(self._lag),
            lag_bytes=self.lag_bytes,
            epochs=self._counts.epochs,
            records=self._counts.records,
            commits=self._counts.commits,
            marks=self._counts.marks,
            refused_epochs=self._counts.refused_epochs,
            skips=self._counts.skips,
            commit_latency=self._latency.statistics(),
        )
        return asdict(figures)


def _segment_bytes(size_bytes_max: int) -> int:
    share = (size_bytes_max - HEAD_BYTES) // _SEGMENT_COUNT // PAGE_BYTES * PAGE_BYTES
    return min(share, _SEGMENT_BYTES_MAX)


def _segment_names(size_bytes_max: int) -> list[str]:
    count = (size_bytes_max - HEAD_BYTES) // _segment_bytes(size_bytes_max)
    return [f"segment-{index:04d}" for index in range(count)]


def _entry(change: Change) -> Entry:
    if isinstance(change, Write):
        return Entry(change.offset, len(change.data), change.data)
    return Entry(change.extent.offset, change.extent.length, None)


def _answer(done: asyncio.Future[bool], answer: bool) -> None:
    if not done.done():  # whoever asked may have been cancelled
        done.set_result(answer)
