"""What the last user of a journal left in its directory: found, checked, read, repaired, or deleted.

The format, and what may be believed of it, are ``core.journal``'s. Nothing here changes a file but what says
so. ``cache.journal`` goes on from here when a disk is attached.
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from bucketry.cache.journal_files import Files
from bucketry.cache.seals import RecordSeal
from bucketry.codec.offload import Offload
from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import Extent
from bucketry.core.journal import (
    HEAD_BYTES,
    HEAD_COPY_BYTES,
    PAGE_BYTES,
    Damage,
    EpochPlace,
    Found,
    Head,
    JournalIdentity,
    Kind,
    Passed,
    Place,
    Progress,
    Scan,
    SegmentFile,
    Walk,
    checksum,
    decode_head,
    encode_head,
    is_foreign,
    scan,
)
from bucketry.core.pending_journal import PendingJournal
from bucketry.core.units import format_size
from bucketry.errors import Corrupt, Invalid, Mismatch, Unavailable, Unsupported
from bucketry.layout.interface import Change, Write, Zero

T = TypeVar("T")

HEAD_NAME = "head"
NEW_HEAD_NAME = "head.new"
SEGMENT_NAME = re.compile(r"segment-[0-9]{4}")


@dataclass(frozen=True, slots=True)
class JournalReport:
    """What is in a journal's directory, for people. ``damage``: empty, or one line; then ``lost_…`` says
    what ``repair`` would give up. ``epoch_count`` and ``data_bytes`` are what can be replayed: before the
    damage."""

    identities: tuple[JournalIdentity, ...]
    epoch_count: int
    first_epoch: int
    last_epoch: int
    data_bytes: int
    torn_bytes: int
    size_bytes: int
    damage: str
    lost_first_epoch: int
    lost_last_epoch: int
    lost_bytes: int


class RecoveredEpoch:
    """An epoch that was flushed and may not be in the bucket. Its content is read when asked for, which must
    be before it is noted as drained."""

    def __init__(self, place: EpochPlace, passed: Passed, read: "Reader", offload: Offload) -> None:
        self.number = place.number
        self.data_bytes = place.data_bytes
        #: When it was flushed, in milliseconds since 1970, for people; 0: not known.
        self.time_ms = place.time_ms
        #: What the bucket had, as far as the journal could tell.
        self.passed = passed
        self._place = place
        self._reader = read
        self._offload = offload

    @property
    def is_passed(self) -> bool:
        """Whether the bucket has it, but for what is kept of it."""
        return self.number <= self.passed.epoch

    async def changes(self) -> AsyncIterator[Change]:
        """Its changes in order, at most a MiB of data each. Raises Corrupt when they are not any more what
        they were when the journal was opened, Unavailable when they cannot be read."""
        walk = iter(Walk(self._reader.seed, self._reader.segments, self._reader.read, self._place.place))
        record_count = 0

        def step() -> list[Change] | None:
            nonlocal record_count
            found = next(walk, None)
            if found is None or found.record.epoch != self.number or found.record.kind is Kind.MARK:
                raise Corrupt(f"the journal in {self._reader.files.place} changed while it was replayed")
            record, payload = found.record, self._reader.data_of(found)
            if record.kind is Kind.BARRIER:
                if record.length != record_count:
                    raise Corrupt(f"the journal in {self._reader.files.place} lacks records of a flush")
                return None
            record_count += 1
            changes: list[Change] = []
            for offset, length in self.passed.parts_of(self.number, record.offset, record.length):
                if record.kind is Kind.WRITE:
                    at = offset - record.offset
                    changes.append(Write(offset, bytes(payload[at : at + length])))
                else:
                    changes.append(Zero(Extent(offset, length)))
            return changes

        while (changes := await self._offload(step)) is not None:
            for change in changes:
                yield change

    async def places(self) -> AsyncIterator["PlacedChange"]:
        """Its changes in order, without their bytes. Raises as ``changes`` does."""
        walk = iter(Walk(self._reader.seed, self._reader.segments, self._reader.read, self._place.place))
        while (found := await self._offload(lambda: next(walk, None))) is not None:
            record, _, place = found
            if record.epoch != self.number or record.kind is Kind.MARK:
                break
            if record.kind is Kind.BARRIER:
                return
            for offset, length in self.passed.parts_of(self.number, record.offset, record.length):
                where = place if record.kind is Kind.WRITE else None
                yield PlacedChange(offset, length, where, offset - record.offset)
        raise Corrupt(f"the journal in {self._reader.files.place} changed while it was read")

    async def payload(self, place: Place) -> bytes:
        """The bytes of a record of it. Raises as ``changes`` does."""
        walk = Walk(self._reader.seed, self._reader.segments, self._reader.read, place)
        found = await self._offload(lambda: next(iter(walk), None))
        if found is None or found.record.epoch != self.number:
            raise Corrupt(f"the journal in {self._reader.files.place} changed while it was read")
        return bytes(await self._offload(lambda: self._reader.data_of(found)))


class PlacedChange(NamedTuple):
    """``length`` bytes at ``offset`` of the volume are those of the record at ``place`` from its byte
    ``start`` on; zeros where ``place`` is None."""

    offset: int
    length: int
    place: Place | None
    start: int


async def peek(
    files: Files,
    wanted: Sequence[JournalIdentity],
    *,
    pending: PendingJournal | None,
    passed: Passed | None,
    offload: Offload,
    key: bytes | None = None,
) -> list[RecoveredEpoch]:
    """What ``Journal.open`` would give to be replayed. Changes nothing; the files stay open. Raises as
    ``Journal.open`` does."""

    def begin() -> Left | None:
        left = look(files)
        if left is None:
            if pending is not None:
                raise missing(files, pending)
            return None
        if left.has_something or pending is not None:
            check(files, left, wanted, pending, adopt=False)
        return left

    left = await offload(lambda: translated(files, begin))
    if left is None:
        return []
    reader = Reader(files, left, key)
    return [RecoveredEpoch(each, passed or left.head.passed, reader, offload) for each in left.scan.epochs]


# -- journals that nobody uses -------------------------------------------------------------------------------


async def left_epochs(files: Files, offload: Offload) -> list[RecoveredEpoch]:
    """What a journal holds, before any damage, whoever it belongs to. Changes nothing. Raises as ``inspect``
    does."""
    left = await offload(lambda: translated(files, lambda: look(files)))
    if left is None:
        return []
    reader = Reader(files, left)
    return [RecoveredEpoch(each, left.head.passed, reader, offload) for each in left.scan.epochs]


def inspect(files: Files) -> JournalReport | None:
    """What is there; None: no journal. Changes nothing. Raises as ``Journal.open`` does, but for Mismatch
    and for damage that ``repair`` can cut off."""
    left = translated(files, lambda: look(files))
    if left is None:
        return None
    found, damage = left.scan, left.scan.damage
    return JournalReport(
        identities=left.head.identities,
        epoch_count=len(found.epochs),
        first_epoch=found.epochs[0].number if found.epochs else 0,
        last_epoch=found.epochs[-1].number if found.epochs else 0,
        data_bytes=sum(epoch.data_bytes for epoch in found.epochs),
        torn_bytes=found.torn_bytes,
        size_bytes=sum(files.sizes().values()),
        damage="" if damage is None else str(damage),
        lost_first_epoch=0 if damage is None else damage.first_epoch,
        lost_last_epoch=0 if damage is None else damage.last_epoch,
        lost_bytes=0 if damage is None else damage.lost_bytes,
    )


def repair(files: Files) -> JournalReport | None:
    """Cut a damaged journal at the damage: what comes later is lost, what comes before can be replayed.
    Returns what ``inspect`` said before; None: there is no journal."""
    report = inspect(files)
    if report is not None and report.damage:
        translated(files, lambda: _cut(files))
    return report


def discard(files: Files) -> None:
    """Remove a journal, damaged or not, with all that is in it."""

    def remove() -> None:
        ours = [name for name in files.sizes() if SEGMENT_NAME.fullmatch(name)]
        # The head last: segments without one are refused, not taken for a new journal.
        for name in (*ours, NEW_HEAD_NAME, HEAD_NAME):
            if name in files.sizes():
                files.remove(name)
        files.sync_directory()

    translated(files, remove)


@dataclass(frozen=True, slots=True)
class Left:
    """What a journal's last user left."""

    head: Head
    bad_heads: list[int]
    scan: Scan

    @property
    def has_something(self) -> bool:
        return bool(self.scan.epochs) or self.scan.damage is not None

    @property
    def progress(self) -> Progress:
        """How far it had got, as far as it knows."""
        drained = max(self.scan.drained, self.head.drained, self.head.passed.epoch)
        return Progress(max(self.scan.newest_epoch, drained), drained)


class Reader:
    """How recovered epochs are read."""

    def __init__(self, files: Files, left: Left, key: bytes | None = None) -> None:
        """``key``: of an encrypted volume's journal. Without it data of sealed records cannot be read."""
        self.files = files
        self._seal = None if key is None else RecordSeal(key, left.head.salt)
        self._sealed_from = left.head.sealed_from
        self.seed = checksum(left.head.salt)
        self.segments = left.scan.segments

    def data_of(self, found: Found) -> BytesLike:
        """The data of a record. Raises Invalid without the key, Corrupt when it is not what was sealed."""
        record, place = found.record, self.files.place
        if not record.sealed:
            if self._seal is None or self._sealed_from is None or record.life < self._sealed_from:
                return found.payload  # written by an older program, or of a volume that is not encrypted
            raise Corrupt(f"the journal in {place} is damaged: record {record.sequence} is not encrypted")
        if self._seal is None:
            raise Invalid(
                f"the journal in {place} is encrypted with its volume's key: bucketry journal --replay URL "
                "brings it into the volume, and attaching that with --read-only shows it"
            )
        data = self._seal.open(record.context, found.payload)
        if data is None:
            raise Corrupt(
                f"the journal in {place} cannot be decrypted: record {record.sequence} is damaged, or the "
                "password is another one"
            )
        return data

    def read(self, name: str, offset: int, length: int) -> bytes:
        return translated(self.files, lambda: self.files.read(name, offset, length))


def look(files: Files) -> Left | None:
    """What is there; None: no journal. Raises Corrupt, Unsupported, OSError."""
    sizes = files.sizes()
    segments = [SegmentFile(name, sizes[name]) for name in sorted(sizes) if SEGMENT_NAME.fullmatch(name)]
    if HEAD_NAME not in sizes:
        if segments:
            raise Corrupt(f"the journal in {files.place} has lost its head: nothing in it can be read")
        return None
    try:
        head, bad_heads = decode_head(files.read(HEAD_NAME, 0, HEAD_BYTES))
        for name, _ in segments:
            if is_foreign(files.read(name, 0, PAGE_BYTES)):
                raise Corrupt(f"has a file {name} that is none of its own, or is damaged")
        found = scan(head, segments, files.read)
    except (Corrupt, Unsupported) as error:
        raise type(error)(f"the journal in {files.place} {error}") from None
    return Left(head, bad_heads, found)


def check(
    files: Files,
    left: Left,
    wanted: Sequence[JournalIdentity],
    pending: PendingJournal | None,
    *,
    adopt: bool,
) -> None:
    """Raises Mismatch or Corrupt unless what is there may be replayed; see ``Journal.open``."""
    found = left.head.identities
    if adopt:
        if all(each.size_bytes > wanted[0].size_bytes for each in found):
            raise Mismatch(f"the journal in {files.place} is that of a larger volume: {found[-1]}")
    elif not any(each in found for each in wanted):
        if left.has_something or pending is None:
            raise Mismatch(_mismatch_line(files, left, wanted[0]))
        raise missing(files, pending)
    if left.scan.damage is not None:
        raise Corrupt(_damage_line(files, left.scan.damage))
    known, reached = left.progress, None if pending is None else pending.progress
    if reached is None or adopt or (known.epoch >= reached.epoch and known.drained >= reached.drained):
        return
    raise Mismatch(
        f"the journal in {files.place} lacks what it had: the volume knows of flush {reached.epoch} in it, "
        f"and of {reached.drained} as uploaded, the journal of {known.epoch} and {known.drained}. It is an "
        f"older copy of the directory, or its end is damaged; {_advice(files)}"
    )


def make_certain(files: Files, left: Left) -> None:
    """Make certain what was found, before anybody relies on it: after a mere kill it may not be durable."""
    for name in left.scan.beyond:
        files.remove(name)
    for segment in left.scan.segments:
        files.sync(segment.name)
    files.sync_directory()


def begun(found: Scan) -> tuple[tuple[str, int], ...]:
    """The segments that the head is to know."""
    return tuple((segment.name, segment.header.first_sequence) for segment in found.segments)


def _cut(files: Files) -> None:
    # What is damaged in two places shows the second when the first is gone.
    while (left := look(files)) is not None and (damage := left.scan.damage) is not None:
        kept = replace(left.head, counter=left.head.counter + 1, segments=begun(left.scan))
        heal_head(files, left)
        write_head(files, encode_head(kept))
        keep = [segment.name for segment in left.scan.segments]
        if damage.segment in keep:
            del keep[keep.index(damage.segment) + 1 :]
        for name in files.sizes():
            if SEGMENT_NAME.fullmatch(name) and name not in keep and name != damage.segment:
                files.remove(name)
        files.sync_directory()
        sizes = [each.header.size_bytes for each in left.scan.segments if each.name == damage.segment]
        # Zeros from there on, and as long as it was made, or it would be damaged again.
        for size_bytes in (damage.position, *sizes) if sizes else (0,):
            files.allocate(damage.segment, size_bytes)
        files.sync(damage.segment)


def create_head(files: Files, head: Head) -> None:
    """The head of a new journal, there as a whole or not at all."""
    page = encode_head(head)
    files.allocate(NEW_HEAD_NAME, HEAD_BYTES)
    files.write(NEW_HEAD_NAME, 0, [page, page])
    files.sync(NEW_HEAD_NAME)
    files.rename(NEW_HEAD_NAME, HEAD_NAME)
    files.sync_directory()


def heal_head(files: Files, left: Left) -> None:
    """Before another head is written both copies must be whole, for that is done one after the other."""
    for offset in left.bad_heads:
        files.write(HEAD_NAME, offset, [encode_head(left.head)])
        files.sync(HEAD_NAME)


def write_head(files: Files, page: bytes) -> None:
    """One copy after the other: at any moment one is whole. In the end both say the same, so that damage to
    one does not bring back what the older head stood for."""
    for offset in (HEAD_COPY_BYTES, 0):
        files.write(HEAD_NAME, offset, [page])
        files.sync(HEAD_NAME)


def unavailable(files: Files, error: OSError) -> Unavailable:
    """An error of local storage, as the user of a journal gets it."""
    return Unavailable(f"the journal in {files.place}: {error.strerror or error}")


def translated(files: Files, work: Callable[[], T]) -> T:
    """What ``work`` returns; its OSError as Unavailable."""
    try:
        return work()
    except OSError as error:
        raise unavailable(files, error) from error


def _cache_dir(files: Files) -> str:
    """What is given as --cache-dir."""
    return files.place.removesuffix("/journal")


def _advice(files: Files) -> str:
    where = _cache_dir(files)
    return (
        f"bucketry journal {where} shows what it holds, and saves, replays or discards it "
        "(--export, --replay, --discard)"
    )


def _mismatch_line(files: Files, left: Left, identity: JournalIdentity) -> str:
    theirs = left.head.identities[-1]
    size = format_size(sum(epoch.data_bytes for epoch in left.scan.epochs))
    what = f"the journal in {files.place} holds {len(left.scan.epochs)} flushes ({size}) of {theirs}"
    if left.scan.damage is not None:
        what += ", and is damaged"
    if theirs.volume != identity.volume or (theirs.url and theirs.url != identity.url):
        why = f"this is {identity}"
    else:
        why = "somebody else has had the volume since, so that replaying it could undo what they wrote"
    return f"{what}, but {why}; {_advice(files)}"


def missing(files: Files, pending: PendingJournal) -> Mismatch:
    """The refusal of a directory without the journal that the bucket knows of."""
    return Mismatch(
        f"the volume's journal is not in {files.place}: flushed writes may be only in {pending}. Is the "
        "filesystem mounted that has it? To give them up use --force"
    )


def _damage_line(files: Files, damage: Damage) -> str:
    return f"the journal in {files.place} is {damage}. Repairing it (bucketry journal --repair) gives them up"
