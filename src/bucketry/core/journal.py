"""The format of the journal, and what may be believed of one that was left behind.

A journal is a file ``head`` and some *segments*, files of one size that are used again and again. The head
says whose journal it is and carries a *salt*: everything else is valid only under that salt, so a new head
makes all older records void at once.

A segment is a header page and then records, in *commits*: what was made durable by one fdatasync. A commit
begins on a page of its own, so that no page which holds something promised is ever written again. It carries
whole epochs; each epoch ends with a barrier. Records are numbered without gaps, and each says

* ``synced``: the number of the last record that was durable before its commit was begun,
* ``drained``: up to which epoch the bucket had everything by then, and
* ``life``: which use of the journal wrote it.

The first two stay true for ever. ``drained`` is no convenience: changes that were in the bucket before their
epoch was flushed are not in the journal, and replaying an older epoch over them would bring old bytes back.
A new life gives the numbers of what was cut off again, so it begins with a segment of its own.

::

    segment   header | commit                                     | commit            | old records
              page   | WRITE data WRITE data BARRIER ZERO BARRIER | WRITE data BARRIER |
                     |  '------ epoch 7 -----------' '- epoch 8-' | '--- epoch 9 ----' |

Reading stops at the first record that is damaged or is not the next of its life. If a later one proves that
it had been durable, the journal is damaged; otherwise it is the torn end of a commit that was promised to
nobody.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import google_crc32c

from bucketry.core.bytes_like import BytesLike
from bucketry.core.units import format_size
from bucketry.errors import Corrupt, Invalid, Unsupported

#: Of a head that lists segments or names a URL, which programs that know version 1 alone would pass over. The
#: head of a journal that was emptied at a clean end has neither, and version 1: those programs can go on.
HEAD_VERSION = 2
#: Of the head of a journal with sealed records, which older programs would take for its end.
SEALED_HEAD_VERSION = 3
#: Of segments and records.
VERSION = 1
#: What the kernel writes at a time, and the physical sector of today's disks.
PAGE_BYTES = 4096
#: A record carries at most so much: a reader needs no more memory than that, whatever a damaged length says.
PAYLOAD_BYTES_MAX = 1 << 20
#: Room for a header page, a page of data, its barrier, and the page that is kept for a mark.
SEGMENT_BYTES_MIN = 4 * PAGE_BYTES
#: Two identities fit, with URLs as long as keys may be, and two thousand blocks that are kept.
HEAD_COPY_BYTES = 16 * PAGE_BYTES
HEAD_BYTES = 2 * HEAD_COPY_BYTES

#: As in core formats elsewhere here: not text, not UTF-8, and translated line ends show.
_HEAD_MAGIC = b"\x89BktyJ\r\n"
_SEGMENT_MAGIC = b"\x89BktyS\r\n"
_RECORD_MAGIC = b"BkJr"
#: magic, crc32c of what follows, version, length of the text
_HEAD = struct.Struct("<8sIII")
_HEAD_CHECKED_FROM = 12
#: magic, version, crc32c of what follows, size, life, first sequence, synced, drained, newest epoch before
_SEGMENT = struct.Struct("<8sIIQQQQQQ")
#: magic, crc32c of what follows, kind, whether it is sealed, twice nothing, crc32c of the payload, life,
#: sequence, synced, epoch, drained, offset, length
_RECORD = struct.Struct("<4sIBB2xIQQQQQQQ")
_RECORD_BODY = struct.Struct("<BB2xIQQQQQQQ")
RECORD_BYTES = _RECORD.size
#: What a sealed record has beside its data: a nonce and a tag.
SEAL_BYTES = 12 + 16
_CHECKED_FROM = 8
_SEGMENT_CHECKED_FROM = 16
_U64_MAX = (1 << 64) - 1

#: The checksum takes bytes objects only. A copy of so much stays in the processor's cache: 15 GB/s with it.
_CHECKSUM_STEP_BYTES = 64 << 10
#: Scans read ahead by so much.
_WINDOW_BYTES = 1 << 20
_PAD = bytes(PAGE_BYTES)
#: A write is not split for less at the end of a segment: the next one takes it.
_SPLIT_BYTES_MIN = PAGE_BYTES


def checksum(data: BytesLike, start: int = 0) -> int:
    """The crc32c of ``data``, continued from ``start``."""
    view = memoryview(data)
    for at in range(0, len(view), _CHECKSUM_STEP_BYTES):
        start = _extend(start, bytes(view[at : at + _CHECKSUM_STEP_BYTES]))
    return start


def _extend(start: int, data: bytes) -> int:
    crc: int = google_crc32c.extend(start, data)
    return crc


def _page_up(position: int) -> int:
    return -(-position // PAGE_BYTES) * PAGE_BYTES


# -- the head ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalIdentity:
    """Whose journal it is. ``volume``: an id or a URL. ``generation``: the tenure of the lease under which it
    is written; another one in the bucket means that somebody else has had the volume since. ``url``: where
    the volume lies, for a copy of it has the same id; empty in journals of older programs."""

    volume: str
    generation: str
    size_bytes: int
    block_size_bytes: int
    url: str = ""

    def __str__(self) -> str:
        return f"{self.url or self.volume} ({format_size(self.size_bytes)})"


class Kept(NamedTuple):
    """Bytes of the volume whose changes, from ``epoch`` on, the bucket does not have."""

    epoch: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Passed:
    """The bucket has every epoch up to ``epoch``, but for what is ``kept``."""

    epoch: int = 0
    kept: frozenset[Kept] = frozenset()

    def parts_of(self, epoch: int, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Offset and length of what is to be replayed of a change that was made in ``epoch``."""
        if epoch > self.epoch:
            yield offset, length
            return
        for kept in sorted(self.kept):
            start, end = max(offset, kept.offset), min(offset + length, kept.offset + kept.length)
            if start < end and epoch >= kept.epoch:
                yield start, end - start


class Progress(NamedTuple):
    """How far a journal has got, durably: it has had ``epoch``, and knows that the bucket has everything up
    to ``drained``, but for what is kept. Both only grow, so a journal that knows less is an older copy."""

    epoch: int
    drained: int


@dataclass(frozen=True, slots=True)
class Head:
    """``counter`` grows with each new head. ``identities``: one, or two while the generation is changed.
    ``drained``: as records say it, from one whose segment may be gone. ``segments``: those that were begun
    under this salt, with the first record of each (its sequence number): one that is missing is damage, not
    an empty journal. None: an older program did not say. ``sealed_from``: the first life of which all
    records are sealed, marks apart; None: there is none."""

    counter: int
    salt: bytes
    identities: tuple[JournalIdentity, ...]
    drained: int = 0
    passed: Passed = Passed()
    segments: tuple[tuple[str, int], ...] | None = ()
    sealed_from: int | None = None


def passed_fields(passed: Passed) -> dict[str, object]:
    """As it stands in JSON."""
    return {"epoch": passed.epoch, "kept": sorted(passed.kept)}


def passed_from(fields: Any) -> Passed:
    """Back again. Raises KeyError, TypeError or ValueError when it is something else."""
    passed = Passed(fields["epoch"], frozenset(Kept(*each) for each in fields["kept"]))
    numbers = [passed.epoch, *(number for kept in passed.kept for number in kept)]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a number is none")
    return passed


def encode_head(head: Head) -> bytes:
    """HEAD_COPY_BYTES, which the file holds twice: one copy can be damaged or torn, and the other still
    counts. Raises Invalid when the names do not fit."""
    fields = {
        "counter": head.counter,
        "salt": head.salt.hex(),
        "drained": head.drained,
        "passed": passed_fields(head.passed),
        "identities": [
            {
                "volume": identity.volume,
                "generation": identity.generation,
                "size_bytes": identity.size_bytes,
                "block_size_bytes": identity.block_size_bytes,
                **({"url": identity.url} if identity.url else {}),
            }
            for identity in head.identities
        ],
        "segments": head.segments,
    }
    if head.sealed_from is not None:
        fields["sealed_from"] = head.sealed_from
    text = json.dumps(fields, ensure_ascii=False).encode()
    is_old = not head.segments and not any(identity.url for identity in head.identities)
    version = 1 if is_old else HEAD_VERSION
    if head.sealed_from is not None:
        version = SEALED_HEAD_VERSION
    checked = struct.pack("<II", version, len(text)) + text
    copy = _HEAD_MAGIC + checksum(checked).to_bytes(4, "little") + checked
    if len(copy) > HEAD_COPY_BYTES:
        if head.passed.kept:
            raise Invalid(f"{len(head.passed.kept)} blocks that cannot be read are too many for a journal")
        raise Invalid(f"the name of the volume {head.identities[-1].volume[:100]}… is too long for a journal")
    return copy.ljust(HEAD_COPY_BYTES, b"\0")


def decode_head(data: bytes) -> tuple[Head, list[int]]:
    """The newer of the valid copies, and the offsets of those that are not it. Raises Unsupported for another
    version, Corrupt when there is no valid one; both with the end of a sentence."""
    found = [_decode_head_copy(data[at : at + HEAD_COPY_BYTES]) for at in (0, HEAD_COPY_BYTES)]
    heads = [head for head in found if head is not None]
    if not heads:
        raise Corrupt("is damaged, or is none")
    newest = max(heads, key=lambda head: head.counter)
    return newest, [index * HEAD_COPY_BYTES for index, head in enumerate(found) if head != newest]


def _decode_head_copy(copy: bytes) -> Head | None:
    if len(copy) < HEAD_COPY_BYTES or not copy.startswith(_HEAD_MAGIC):
        return None
    _, crc, version, length = _HEAD.unpack_from(copy)
    text = copy[_HEAD.size : _HEAD.size + length]
    if checksum(copy[_HEAD_CHECKED_FROM : _HEAD.size + length]) != crc:
        return None
    if version not in (1, HEAD_VERSION, SEALED_HEAD_VERSION):
        raise Unsupported(
            f"has version {version} of the format, this program knows 1 to {SEALED_HEAD_VERSION}"
        )
    try:
        fields = json.loads(text)
        segments = fields.get("segments")
        return Head(
            int(fields["counter"]),
            bytes.fromhex(fields["salt"]),
            tuple(JournalIdentity(**identity) for identity in fields["identities"]),
            int(fields["drained"]),
            passed_from(fields["passed"]),
            None if segments is None else tuple((str(name), int(first)) for name, first in segments),
            int(fields["sealed_from"]) if version == SEALED_HEAD_VERSION else None,
        )
    except (ValueError, TypeError, KeyError):
        return None


# -- segments and records ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """``newest_before``: the newest epoch that has a record before this segment; 0: none."""

    size_bytes: int
    life: int
    first_sequence: int
    synced: int
    drained: int
    newest_before: int


def encode_segment(seed: int, header: SegmentHeader) -> bytes:
    """One page. ``seed`` is the checksum of the head's salt."""
    body = _SEGMENT.pack(
        _SEGMENT_MAGIC,
        VERSION,
        0,
        header.size_bytes,
        header.life,
        header.first_sequence,
        header.synced,
        header.drained,
        header.newest_before,
    )[_SEGMENT_CHECKED_FROM:]
    begin = struct.pack("<8sII", _SEGMENT_MAGIC, VERSION, checksum(body, seed))
    return (begin + body).ljust(PAGE_BYTES, b"\0")


def decode_segment(seed: int, page: bytes) -> SegmentHeader | None:
    """None: not a segment of the journal with this seed."""
    if len(page) < PAGE_BYTES:
        return None
    magic, version, crc, *fields = _SEGMENT.unpack_from(page)
    if magic != _SEGMENT_MAGIC or version != VERSION:
        return None
    if checksum(page[_SEGMENT_CHECKED_FROM : _SEGMENT.size], seed) != crc:
        return None
    return SegmentHeader(*fields)


def is_foreign(page: bytes) -> bool:
    """Whether a file that begins so is somebody else's: neither a segment, of whatever journal, nor empty."""
    return not page.startswith(_SEGMENT_MAGIC) and any(page[: _SEGMENT.size])


class Kind(IntEnum):
    """What a record says: new bytes; zeros; here ends an epoch; nothing but what every record says."""

    WRITE = 1
    ZERO = 2
    BARRIER = 3
    MARK = 4


class Record(NamedTuple):
    """``offset``, ``length``: of the volume; a barrier's ``length`` is how many records its epoch has before
    it, its ``offset`` when it was written (milliseconds since 1970; 0: not known). A mark belongs to no
    epoch: 0."""

    kind: Kind
    payload_crc: int
    life: int
    sequence: int
    synced: int
    epoch: int
    drained: int
    offset: int
    length: int
    #: Whether its payload is encrypted, with SEAL_BYTES more; then those without data have one, too.
    sealed: bool = False

    @property
    def data_bytes(self) -> int:
        return self.length if self.kind is Kind.WRITE else 0

    @property
    def payload_bytes(self) -> int:
        return self.data_bytes + (SEAL_BYTES if self.sealed else 0)

    @property
    def context(self) -> bytes:
        """What a seal binds the data to: everything that the header says."""
        return _body(self._replace(payload_crc=0))

    @property
    def begins_commit(self) -> bool:
        return self.synced == self.sequence - 1


_KINDS = {int(kind): kind for kind in Kind}


def _body(record: Record) -> bytes:
    return _RECORD_BODY.pack(record.kind, record.sealed, *record[1:-1])


def encode_record(seed: int, record: Record) -> bytes:
    body = _body(record)
    return _RECORD_MAGIC + _extend(seed, body).to_bytes(4, "little") + body


def decode_record(seed: int, data: BytesLike) -> Record | None:
    """The record whose header begins ``data``; its payload is not looked at. None: there is none."""
    if len(data) < RECORD_BYTES or data[:4] != _RECORD_MAGIC:
        return None
    body = bytes(data[_CHECKED_FROM:RECORD_BYTES])
    if _extend(seed, body).to_bytes(4, "little") != data[4:_CHECKED_FROM]:
        return None
    kind, sealed, *rest = _RECORD_BODY.unpack(body)
    if kind not in _KINDS or sealed > 1:
        return None
    record = Record(_KINDS[kind], *rest)._replace(sealed=bool(sealed))
    return None if record.data_bytes > PAYLOAD_BYTES_MAX else record


# -- writing -------------------------------------------------------------------------------------------------

#: Seals data, bound to a record's ``context``.
Seal = Callable[[bytes, BytesLike], bytes]


class Entry(NamedTuple):
    """A change of ``length`` bytes at ``offset``; ``data`` None: they become zeros."""

    offset: int
    length: int
    data: BytesLike | None


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a journal ends. ``segment`` None: the next commit begins one. ``life``: one for each time that
    the journal is opened."""

    life: int
    segment: str | None = None
    position: int = 0
    next_sequence: int = 1
    newest_epoch: int = 0


@dataclass(slots=True)
class Piece:
    """Bytes for one place of a segment; ``begins``: it is used anew. ``newest_epoch`` has records in it."""

    segment: str
    position: int
    begins: bool
    newest_epoch: int
    buffers: list[BytesLike] = field(default_factory=list)
    size_bytes: int = 0
    #: Of the first record, if it ``begins``.
    first_sequence: int = 0

    def add(self, *buffers: BytesLike) -> None:
        for buffer in buffers:
            self.buffers.append(buffer)
            self.size_bytes += len(buffer)

    @property
    def end(self) -> int:
        return self.position + self.size_bytes


class Commit:
    """Records laid out to be written and made durable together; nothing else changes until the caller has
    done so and takes over ``tail``.

    ``free``: segments that may be used, in this order, each of ``segment_bytes``. ``time_ms``: when, in
    milliseconds since 1970, for people; 0: not known.
    """

    def __init__(
        self,
        seed: int,
        tail: Tail,
        drained: int,
        segment_bytes: int,
        free: Sequence[str],
        time_ms: int = 0,
        seal: Seal | None = None,
    ) -> None:
        assert segment_bytes >= SEGMENT_BYTES_MIN
        assert segment_bytes % PAGE_BYTES == 0
        self._seed = seed
        self._time_ms = time_ms
        self._seal = seal
        #: What a record takes beside its data.
        self._record_bytes = RECORD_BYTES if seal is None else RECORD_BYTES + SEAL_BYTES
        self.tail = tail
        self._first_sequence = tail.next_sequence
        self.drained = drained
        self._segment_bytes = segment_bytes
        self._free = free
        self._life = tail.life
        self._synced = tail.next_sequence - 1
        self._sequence = tail.next_sequence
        self._newest_epoch = tail.newest_epoch
        self.pieces: list[Piece] = []
        if tail.segment is not None:
            self.pieces.append(Piece(tail.segment, tail.position, False, tail.newest_epoch))

    @property
    def record_count(self) -> int:
        return self._sequence - self._first_sequence

    def add(self, epoch: int, entries: Sequence[Entry]) -> bool:
        """An epoch, later than all before. False: it does not fit, and nothing of it is there."""
        assert epoch > self._newest_epoch, "epochs go in their order"
        sequence, newest, pieces = self._sequence, self._newest_epoch, len(self.pieces)
        buffers, size_bytes = (len(self.pieces[-1].buffers), self.pieces[-1].size_bytes) if pieces else (0, 0)
        if self._add(epoch, entries):
            return True
        self._sequence, self._newest_epoch = sequence, newest
        del self.pieces[pieces:]
        if pieces:
            last = self.pieces[-1]
            del last.buffers[buffers:]
            last.size_bytes, last.newest_epoch = size_bytes, newest
        return False

    def _add(self, epoch: int, entries: Sequence[Entry]) -> bool:
        first = self._sequence
        for offset, length, data in entries:
            if data is None:
                if not self._put(Kind.ZERO, epoch, offset, length):
                    return False
                continue
            view = memoryview(data)
            at = 0
            while at < length:
                least = min(length - at, _SPLIT_BYTES_MIN) + self._record_bytes
                room = self._room(least) - self._record_bytes
                if room < 0:
                    return False
                step = min(length - at, room, PAYLOAD_BYTES_MAX)
                self._put(Kind.WRITE, epoch, offset + at, step, view[at : at + step])
                at += step
        return self._put(Kind.BARRIER, epoch, self._time_ms, self._sequence - first)

    def mark(self, *, reserve_bytes: int = 0) -> bool:
        """A record that says what every record says. False: it does not fit; the first in a segment that
        holds none in its last page always does, unless that is to stay free (``reserve_bytes``)."""
        return self._put(Kind.MARK, 0, 0, 0, reserve_bytes=reserve_bytes)

    def _put(
        self,
        kind: Kind,
        epoch: int,
        offset: int,
        length: int,
        payload: memoryview | None = None,
        reserve_bytes: int = PAGE_BYTES,
    ) -> bool:
        # Marks are read without the key, and say nothing that the head does not.
        seal = None if kind is Kind.MARK else self._seal
        if self._room(RECORD_BYTES if seal is None else self._record_bytes, reserve_bytes) < 0:
            return False
        record = Record(
            kind, 0, self._life, self._sequence, self._synced, epoch, self.drained, offset, length,
            seal is not None,
        )  # fmt: skip
        kept: BytesLike | None = payload
        if seal is not None:
            kept = seal(record.context, payload or b"")
        if kept is not None:
            record = record._replace(payload_crc=checksum(kept))
        piece = self.pieces[-1]
        piece.add(encode_record(self._seed, record))
        if kept is not None:
            piece.add(kept)
        self._sequence += 1
        self._newest_epoch = piece.newest_epoch = max(epoch, self._newest_epoch)
        return True

    def _room(self, needed_bytes: int, reserve_bytes: int = PAGE_BYTES) -> int:
        """How many bytes the last piece can take, with a new segment if it is fewer than needed; -1: there is
        none. A page at the end is kept for a mark, which is what frees others."""
        if self.pieces:
            room = self._segment_bytes - reserve_bytes - self.pieces[-1].end
            if room >= needed_bytes:
                return room
        begun = sum(piece.begins for piece in self.pieces)
        if begun == len(self._free):
            return -1
        piece = Piece(self._free[begun], 0, True, 0, first_sequence=self._sequence)
        header = SegmentHeader(
            self._segment_bytes, self._life, self._sequence, self._synced, self.drained, self._newest_epoch
        )
        piece.add(encode_segment(self._seed, header))
        self.pieces.append(piece)
        return self._segment_bytes - reserve_bytes - piece.end

    def finish(self) -> None:
        """Fill up the pages, which spares the kernel reading what is there. ``tail`` is then that after this
        commit."""
        self.pieces = [piece for piece in self.pieces if piece.size_bytes]
        for piece in self.pieces:
            piece.add(_PAD[: _page_up(piece.end) - piece.end])
        last = self.pieces[-1]
        self.tail = Tail(self._life, last.segment, last.end, self._sequence, self._newest_epoch)


# -- reading what was left -----------------------------------------------------------------------------------


class SegmentFile(NamedTuple):
    """A file that has the name of a segment."""

    name: str
    size_bytes: int


#: File name, offset, length → the bytes; fewer at the end of the file.
Read = Callable[[str, int, int], bytes]


@dataclass(frozen=True, slots=True)
class Segment:
    name: str
    size_bytes: int
    header: SegmentHeader


class Place(NamedTuple):
    """Where a record may be found: a position in a segment, and the number it must have."""

    segment: int
    position: int
    sequence: int


@dataclass(frozen=True, slots=True)
class EpochPlace:
    """A complete epoch: where its first record is, and how many there are before its barrier."""

    number: int
    place: Place
    record_count: int
    data_bytes: int
    #: When it was flushed, in milliseconds since 1970; 0: not known.
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """A record that had been durable is not readable: at ``position`` of ``segment`` or on the next page,
    and what follows is of no use without it: epochs ``first_epoch`` to ``last_epoch``, at least
    ``lost_bytes`` of the journal."""

    segment: str
    position: int
    sequence: int
    first_epoch: int
    last_epoch: int
    lost_bytes: int

    def __str__(self) -> str:
        return (
            f"damaged in {self.segment} at byte {self.position} (record {self.sequence}): epochs "
            f"{self.first_epoch} to {self.last_epoch}, {self.lost_bytes} bytes of it, cannot be replayed"
        )


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a journal. ``epochs``: complete and not known to be in the bucket, oldest first.
    ``segments``: those in use, oldest first, and ``newest_epochs`` that have a record in each. ``free``:
    files with nothing of use, in the order in which they are to be used again. ``beyond``: files with what
    comes after the end. ``torn_bytes``: about what was cut off there, of a commit that was under way."""

    segments: tuple[Segment, ...]
    newest_epochs: tuple[int, ...]
    free: tuple[str, ...]
    beyond: tuple[str, ...]
    epochs: tuple[EpochPlace, ...]
    drained: int
    next_sequence: int
    newest_epoch: int
    torn_bytes: int
    damage: Damage | None


class _Window:
    """Reads ahead, so that walking over small records asks the file seldom."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._name = ""
        self._start = 0
        self._bytes = b""

    def at(self, name: str, position: int, length: int) -> memoryview:
        """Shorter only at the end of the file."""
        end = position + length
        if name != self._name or position < self._start or end > self._start + len(self._bytes):
            self._name, self._start = name, position
            self._bytes = self._read(name, position, max(length, _WINDOW_BYTES))
        return memoryview(self._bytes)[position - self._start : end - self._start]


class Found(NamedTuple):
    record: Record
    payload: memoryview
    place: Place


class Walk:
    """The valid records from a place on, one after the other. When it has ended, ``place`` is where the next
    one should have been."""

    def __init__(self, seed: int, segments: Sequence[Segment], read: Read, start: Place) -> None:
        self._seed = seed
        self._segments = segments
        self._window = _Window(read)
        self.place = start
        self._is_between_epochs = True

    def __iter__(self) -> Iterator[Found]:
        while (found := self._next()) is not None:
            record, _, place = found
            self._is_between_epochs = record.kind in (Kind.BARRIER, Kind.MARK)
            end = place.position + RECORD_BYTES + record.payload_bytes
            self.place = Place(place.segment, end, record.sequence + 1)
            yield found

    def _next(self) -> Found | None:
        index, position, sequence = self.place
        if index + 1 < len(self._segments):
            header = self._segments[index + 1].header
            if header.first_sequence == sequence:
                # Even if something that looks right comes here: it was cut off when that segment was begun.
                # But what was cut off in the middle of an epoch may itself have led here, and ends here.
                if header.life == self._segments[index].header.life or self._is_between_epochs:
                    return self._at(Place(index + 1, PAGE_BYTES, sequence))
                return None
        found = self._at(self.place)
        if found is None and position % PAGE_BYTES:
            found = self._at(Place(index, _page_up(position), sequence))
        return found

    def _at(self, place: Place) -> Found | None:
        segment = self._segments[place.segment]
        record = decode_record(self._seed, self._window.at(segment.name, place.position, RECORD_BYTES))
        if record is None or (record.life, record.sequence) != (segment.header.life, place.sequence):
            return None
        length = record.payload_bytes
        payload = self._window.at(segment.name, place.position + RECORD_BYTES, length)
        if len(payload) != length or (length and checksum(payload) != record.payload_crc):
            return None
        return Found(record, payload, place)


def scan(head: Head, files: Sequence[SegmentFile], read: Read) -> Scan:
    """What may be believed of the segments of a journal. Raises whatever ``read`` does."""
    seed = checksum(head.salt)
    segments: list[Segment] = []
    headless: list[SegmentFile] = []
    for file in files:
        header = decode_segment(seed, read(file.name, 0, PAGE_BYTES))
        if header is None:
            headless.append(file)
        else:
            segments.append(Segment(file.name, min(file.size_bytes, header.size_bytes), header))
    segments.sort(key=lambda segment: segment.header.first_sequence)
    return _Scanner(seed, head, segments, headless, read).run()


class _Scanner:
    def __init__(
        self, seed: int, head: Head, segments: list[Segment], headless: list[SegmentFile], read: Read
    ) -> None:
        self._listed = head.segments
        self._seed = seed
        self._read = read
        self._headless = headless
        #: What every valid header says, wherever it stands, is true.
        self._drained = max([head.drained, *(segment.header.drained for segment in segments)])
        self._synced = max((segment.header.synced for segment in segments), default=0)
        # Segments whose epochs are all in the bucket are left over, and may be damaged as they like.
        self._free: list[str] = []
        while len(segments) > 1 and segments[1].header.newest_before <= self._drained:
            self._free.append(segments[0].name)
            segments = segments[1:]
        self._segments = segments
        self._epochs: list[EpochPlace] = []
        self._newest = [0] * len(segments)
        self._next_sequence = segments[0].header.first_sequence if segments else 1
        self._newest_epoch = segments[0].header.newest_before if segments else 0

    def run(self) -> Scan:
        damage: Damage | None = None
        if not self._segments:
            start = end = Place(0, 0, 1)
        else:
            header = self._segments[0].header
            start = Place(0, PAGE_BYTES, header.first_sequence)
            end = self._walk(start, beheaded_epoch=header.newest_before)
        later = self._look_beyond(end)
        if later.synced >= self._next_sequence:
            # Harmless if everything that is damaged is in the bucket.
            restart = later.restart(self._drained)
            if restart is not None:
                self._epochs.clear()
                end = self._walk(restart, beheaded_epoch=0)
                later = self._look_beyond(end)
            if later.synced >= self._next_sequence:
                damage = self._damage(end, later)
        elif self._segments and self._segments[0].header.newest_before > self._drained:
            # What came before is missing. If anything had been durable, the segment of the last of it would
            # be there: it is not used again before there is a newer one.
            self._newest_epoch, self._next_sequence = self._drained, 1
            if max(self._synced, later.synced):
                for file in self._headless:
                    self._look_through(file.name, file.size_bytes, None, PAGE_BYTES, 1, later)
                later.epochs.extend(epoch.number for epoch in self._epochs)
                later.bytes += sum(epoch.data_bytes for epoch in self._epochs)
                damage = self._damage(start._replace(position=0), later)
            self._epochs.clear()
        if damage is None:
            damage = self._lost_end(end)
        used = sum(segment.header.first_sequence < self._next_sequence for segment in self._segments)
        return Scan(
            segments=tuple(self._segments[:used]),
            newest_epochs=tuple(self._newest[:used]),
            free=(
                *self._free,
                *(file.name for file in self._headless if file.name not in later.headless),
            ),
            beyond=(*(segment.name for segment in self._segments[used:]), *later.headless),
            epochs=tuple(epoch for epoch in self._epochs if epoch.number > self._drained),
            drained=self._drained,
            next_sequence=self._next_sequence,
            newest_epoch=self._newest_epoch,
            torn_bytes=later.bytes if damage is None else 0,
            damage=damage,
        )

    def _walk(self, start: Place, beheaded_epoch: int) -> Place:
        """Collect the epochs from ``start`` on; the place where the walk ended. Of ``beheaded_epoch`` the
        beginning is missing."""
        first: Place | None = None
        count = data_bytes = 0
        self._next_sequence = start.sequence
        walk = Walk(self._seed, self._segments, self._read, start)
        for record, _, place in walk:
            self._drained = max(self._drained, record.drained)
            self._synced = max(self._synced, record.synced)
            self._newest[place.segment] = max(self._newest[place.segment], record.epoch)
            if record.kind is Kind.MARK:
                self._next_sequence = record.sequence + 1
                continue
            if first is None:
                first = place
            if record.kind is not Kind.BARRIER:
                count += 1
                data_bytes += record.data_bytes
                continue
            if record.epoch != beheaded_epoch:
                if record.length != count:
                    raise Corrupt(
                        f"epoch {record.epoch} has {count} records, its barrier says {record.length}"
                    )
                self._epochs.append(EpochPlace(record.epoch, first, count, data_bytes, record.offset))
            self._next_sequence = record.sequence + 1
            self._newest_epoch = max(self._newest_epoch, record.epoch)
            first, count, data_bytes = None, 0, 0
        return walk.place

    def _look_beyond(self, end: Place) -> "_Beyond":
        """What can be known of everything after ``end``. Commits begin on pages, so every one of them is seen
        whose first header is whole."""
        beyond = _Beyond()
        for index, segment in enumerate(self._segments):
            if index > end.segment:
                beyond.synced = max(beyond.synced, segment.header.synced)
            if index >= end.segment:
                start = PAGE_BYTES if index > end.segment else end.position // PAGE_BYTES * PAGE_BYTES
                self._look_through(segment.name, segment.size_bytes, index, start, end.sequence, beyond)
        for file in self._headless:
            self._look_through(file.name, file.size_bytes, None, PAGE_BYTES, end.sequence, beyond)
        return beyond

    def _look_through(
        self, name: str, size_bytes: int, index: int | None, start: int, sequence: int, beyond: "_Beyond"
    ) -> None:
        window = _Window(self._read)
        for position in range(start, size_bytes, PAGE_BYTES):
            record = decode_record(self._seed, window.at(name, position, RECORD_BYTES))
            if record is None or record.sequence < sequence:
                continue  # nothing, or left over from an earlier use of the segment
            self._drained = max(self._drained, record.drained)
            beyond.synced = max(beyond.synced, record.synced)
            beyond.bytes += RECORD_BYTES + record.payload_bytes
            if index is None and name not in beyond.headless:
                beyond.headless.append(name)
            if record.epoch:
                beyond.epochs.append(record.epoch)
                if record.begins_commit and index is not None:
                    place = Place(index, position, record.sequence)
                    beyond.commits.append((record.epoch, place))

    def _lost_end(self, end: Place) -> Damage | None:
        """A segment that had records after the end, and is gone, or is shorter than it was made."""
        if self._listed is None:
            return None
        first = max(self._newest_epoch, self._drained) + 1
        for name, first_sequence in self._listed:
            if first_sequence >= self._next_sequence:
                return Damage(name, 0, self._next_sequence, first, first, 0)
        if self._segments:
            last = self._segments[end.segment]
            if last.size_bytes < last.header.size_bytes:
                lost_bytes = last.header.size_bytes - last.size_bytes
                return Damage(last.name, end.position, self._next_sequence, first, first, lost_bytes)
        return None

    def _damage(self, at: Place, later: "_Beyond") -> Damage:
        first = max(self._newest_epoch, self._drained) + 1
        last = max(later.epochs, default=first)
        if later.headless:
            return Damage(later.headless[0], 0, at.sequence, first, max(first, last), later.bytes)
        name = self._segments[at.segment].name
        return Damage(name, at.position, at.sequence, first, max(first, last), later.bytes)


@dataclass(slots=True)
class _Beyond:
    """What valid headers beyond the end say. ``headless``: files whose header is damaged, with records."""

    synced: int = 0
    headless: list[str] = field(default_factory=list)
    bytes: int = 0
    epochs: list[int] = field(default_factory=list)
    commits: list[tuple[int, Place]] = field(default_factory=list)

    def restart(self, drained: int) -> Place | None:
        """The last commit that begins with an epoch before which the bucket has everything."""
        fit = [place for epoch, place in self.commits if epoch <= drained + 1]
        return max(fit, key=lambda place: place.sequence, default=None)
