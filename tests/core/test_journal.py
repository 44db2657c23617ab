"""The journal's format, its layout of commits, and what is believed of what was left."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.journal import (
    HEAD_BYTES,
    HEAD_COPY_BYTES,
    PAGE_BYTES,
    PAYLOAD_BYTES_MAX,
    RECORD_BYTES,
    SEGMENT_BYTES_MIN,
    Commit,
    Entry,
    Head,
    JournalIdentity,
    Kept,
    Kind,
    Passed,
    Record,
    Scan,
    SegmentFile,
    SegmentHeader,
    Tail,
    Walk,
    checksum,
    decode_head,
    decode_record,
    decode_segment,
    encode_head,
    encode_record,
    encode_segment,
    is_foreign,
    scan,
)
from bucketry.errors import Corrupt, Invalid, Unsupported

IDENTITY = JournalIdentity("s3://bucket/dísk", "g-1", 1 << 40, 131072)
HEAD = Head(7, bytes(range(16)), (IDENTITY,), 3, Passed(9, frozenset({Kept(4, 0, 512), Kept(5, 1024, 512)})))
SEED = checksum(HEAD.salt)
RECORD = Record(Kind.WRITE, 0x12345678, 2, 9, 8, 5, 3, 4097, 1000)


@dataclass
class Segments:
    """The files of a journal, and where it ends."""

    segment_bytes: int = SEGMENT_BYTES_MIN
    names: Sequence[str] = ("a", "b", "c", "d")
    tail: Tail = Tail(1)  # noqa: RUF009 - it is frozen
    files: dict[str, bytearray] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = list(self.names)

    def begin(self, drained: int = 0) -> Commit:
        return Commit(SEED, self.tail, drained, self.segment_bytes, self.free)

    def put(self, commit: Commit) -> None:
        commit.finish()
        for piece in commit.pieces:
            file = self.files.setdefault(piece.segment, bytearray(self.segment_bytes))
            data = b"".join(piece.buffers)
            file[piece.position : piece.position + len(data)] = data
            if piece.begins:
                self.free.remove(piece.segment)
        self.tail = commit.tail

    def append(self, epoch: int, *entries: Entry, drained: int = 0) -> None:
        commit = self.begin(drained)
        assert commit.add(epoch, entries)
        self.put(commit)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self.files[name][offset : offset + length])

    def scan(self, drained: int = 0) -> Scan:
        head = Head(1, HEAD.salt, (IDENTITY,), drained)
        return scan(head, [SegmentFile(name, len(data)) for name, data in self.files.items()], self.read)

    def epochs(self) -> dict[int, list[Entry]]:
        """What can be replayed."""
        found = self.scan()
        assert found.damage is None
        epochs: dict[int, list[Entry]] = {}
        for place in found.epochs:
            entries = epochs[place.number] = []
            for record, payload, _ in Walk(SEED, found.segments, self.read, place.place):
                if record.kind is Kind.BARRIER:
                    break
                data = bytes(payload) if record.kind is Kind.WRITE else None
                entries.append(Entry(record.offset, record.length, data))
            assert len(entries) == place.record_count
            assert place.data_bytes == sum(entry.length for entry in entries if entry.data is not None)
        return epochs


def write(offset: int, data: bytes) -> Entry:
    return Entry(offset, len(data), memoryview(data))


# -- head, segment header, record ---------------------------------------------------------------------------


def test_a_head_is_read_from_either_copy() -> None:
    """Whatever single byte of a head is damaged, it is read as it was written."""
    page = encode_head(HEAD)
    assert decode_head(page * 2) == (HEAD, [])
    for at in range(len(page.rstrip(b"\0"))):
        damaged = page[:at] + bytes([page[at] ^ 0x55]) + page[at + 1 :]
        assert decode_head(damaged + page) == (HEAD, [0])
        assert decode_head(page + damaged) == (HEAD, [HEAD_COPY_BYTES])
        with pytest.raises(Corrupt):
            decode_head(damaged * 2)


def test_the_newer_copy_of_a_head_counts() -> None:
    """While a head is replaced, the newer copy counts, and the older one is named."""
    newer = Head(8, bytes(16), (IDENTITY, JournalIdentity("v", "", 4096, 4096)), 12)
    assert decode_head(encode_head(HEAD) + encode_head(newer)) == (newer, [0])
    assert decode_head(encode_head(newer) + encode_head(HEAD)) == (newer, [HEAD_COPY_BYTES])


def test_a_head_of_another_version_is_told() -> None:
    """Another version of the format is no damage: it is named."""
    page = bytearray(encode_head(HEAD))
    page[12] = 4
    page[8:12] = checksum(bytes(page[12:]).rstrip(b"\0")).to_bytes(4, "little")
    with pytest.raises(Unsupported, match=r"version 4 .* knows 1 to 3"):
        decode_head(bytes(page) * 2)


@pytest.mark.parametrize("data", [b"", b"x" * HEAD_BYTES, bytes(HEAD_BYTES), encode_head(HEAD)[:100]])
def test_what_is_no_head_is_refused(data: bytes) -> None:
    """Nothing, zeros, foreign bytes and a head that is cut short are refused."""
    with pytest.raises(Corrupt):
        decode_head(data)


def test_the_longest_names_fit_into_a_head() -> None:
    """Two identities with names as long as keys may be fit; longer ones are refused."""
    long = JournalIdentity("ü" * 512, "x" * 1024, (1 << 63) - 1, 1 << 26)
    head = Head(1 << 60, bytes(16), (long, long), 1 << 62)
    assert decode_head(encode_head(head) * 2)[0] == head
    with pytest.raises(Invalid, match="too long"):
        encode_head(Head(1, bytes(16), (JournalIdentity("v" * HEAD_COPY_BYTES, "", 4096, 4096),)))


def test_two_thousand_blocks_that_are_kept_fit_into_a_head() -> None:
    """Of a usual disk; many more are refused."""
    kept = [Kept(1000, block << 17, 1 << 17) for block in range(10_000)]
    head = replace(HEAD, passed=Passed(1000, frozenset(kept[:2000])))
    assert decode_head(encode_head(head) * 2)[0] == head
    with pytest.raises(Invalid, match="10000 blocks that cannot be read are too many for a journal"):
        encode_head(replace(HEAD, passed=Passed(1000, frozenset(kept))))


def test_what_was_passed_brings_back_only_what_was_kept() -> None:
    """Of older epochs the parts of a change that were kept then; of newer ones all of it."""
    passed = HEAD.passed
    assert list(passed.parts_of(10, 0, 4096)) == [(0, 4096)]
    assert list(passed.parts_of(9, 0, 4096)) == [(0, 512), (1024, 512)]
    assert list(passed.parts_of(4, 100, 1000)) == [(100, 412)]
    assert list(passed.parts_of(5, 100, 1000)) == [(100, 412), (1024, 76)]
    assert list(passed.parts_of(3, 0, 4096)) == []
    assert list(passed.parts_of(9, 512, 512)) == []


def test_records_and_segment_headers_are_valid_as_a_whole_or_not_at_all() -> None:
    """A changed bit, another salt, or a missing byte: it is none."""
    header = SegmentHeader(1 << 20, 5, 17, 16, 3, 4)
    page, record = encode_segment(SEED, header), encode_record(SEED, RECORD)
    assert len(record) == RECORD_BYTES
    assert decode_segment(SEED, page) == header
    assert decode_record(SEED, record + b"more") == RECORD
    assert decode_segment(SEED + 1, page) is None
    assert decode_record(SEED + 1, record) is None
    assert decode_segment(SEED, page[:-1]) is None
    assert decode_record(SEED, record[:-1]) is None
    for bit in range(8 * 64):
        damaged = bytearray(page)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_segment(SEED, bytes(damaged)) is None
    for bit in range(8 * RECORD_BYTES):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_record(SEED, damaged) is None


def test_records_that_cannot_be_are_refused() -> None:
    """A kind that does not exist, or more data than a record may have, is no record, even a signed one."""
    body = bytearray(encode_record(SEED, RECORD))
    body[8] = 9
    body[4:8] = checksum(bytes(body[8:]), SEED).to_bytes(4, "little")
    assert decode_record(SEED, body) is None
    assert decode_record(SEED, encode_record(SEED, RECORD._replace(length=PAYLOAD_BYTES_MAX))) is not None
    assert decode_record(SEED, encode_record(SEED, RECORD._replace(length=PAYLOAD_BYTES_MAX + 1))) is None
    assert (
        decode_record(SEED, encode_record(SEED, RECORD._replace(kind=Kind.ZERO, length=1 << 50))) is not None
    )


def test_foreign_files_are_told_from_segments() -> None:
    """A segment of whatever salt, or a file without content, is ours; anything else is not."""
    assert not is_foreign(encode_segment(SEED + 1, SegmentHeader(1 << 20, 1, 1, 0, 0, 0)))
    assert not is_foreign(bytes(PAGE_BYTES))
    assert not is_foreign(b"")
    assert is_foreign(b"PNG and so on")


# -- commits -------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.lists(
            st.one_of(
                st.builds(write, st.integers(0, 1 << 60), st.binary(min_size=1, max_size=9000)),
                st.builds(Entry, st.integers(0, 1 << 60), st.integers(1, 1 << 60), st.none()),
            ),
            max_size=5,
        ),
        max_size=6,
    ),
    st.sets(st.integers(0, 5)),
)
def test_what_is_committed_is_found(epochs: list[list[Entry]], group_ends: set[int]) -> None:
    """Whatever is committed, in groups or one by one, over any number of segments, is found as it was."""
    segments = Segments(names=[str(index) for index in range(40)])
    commit = segments.begin()
    for number, entries in enumerate(epochs, 1):
        assert commit.add(number, entries)
        if number - 1 in group_ends or number == len(epochs):
            segments.put(commit)
            commit = segments.begin()
    found = segments.epochs()
    assert list(found) == list(range(1, len(epochs) + 1))
    for number, entries in enumerate(epochs, 1):
        assert joined(found[number], entries) == [
            (entry.offset, entry.length, entry.data and bytes(entry.data)) for entry in entries
        ]


def joined(parts: list[Entry], wanted: list[Entry]) -> list[tuple[int, int, bytes | None]]:
    """The parts put together again where one of the wanted entries was split."""
    rest, whole = list(parts), []
    for entry in wanted:
        offset, length, data = rest.pop(0)
        content = None if data is None else bytes(data)
        while content is not None and length < entry.length:
            more_offset, more_length, more = rest.pop(0)
            assert more is not None
            assert more_offset == offset + length
            length, content = length + more_length, content + bytes(more)
        whole.append((offset, length, content))
    assert not rest
    return whole


def test_data_is_not_copied() -> None:
    """The buffers to be written are the caller's own memory."""
    data = bytearray(3 * PAYLOAD_BYTES_MAX)
    commit = Segments(segment_bytes=8 << 20).begin()
    assert commit.add(1, [Entry(0, len(data), data)])
    data[0] = data[PAYLOAD_BYTES_MAX] = data[-1] = 77
    written = b"".join(buffer for piece in commit.pieces for buffer in piece.buffers)
    assert written.count(77) >= 3


def test_an_epoch_that_does_not_fit_leaves_no_trace() -> None:
    """After an epoch without room a commit is what it was, and takes one that fits."""
    segments, twin = Segments(names=("a", "b")), Segments(names=("a", "b"))
    commit, other = segments.begin(), twin.begin()
    for one in (commit, other):
        assert one.add(1, [write(5, b"first")])
    assert not commit.add(2, [write(0, bytes(5000)), write(9, bytes(20000))])
    for one in (commit, other):
        assert one.add(2, [write(7, b"second")])
    segments.put(commit)
    twin.put(other)
    assert segments.files == twin.files
    assert segments.tail == twin.tail


def test_there_is_always_room_for_a_mark() -> None:
    """However an epoch fills the last segment, a mark still fits behind it, and what it says is found."""
    for size in range(3000, 12000, 61):
        segments = Segments(names=("a",))
        commit = segments.begin()
        if not commit.add(1, [write(0, bytes(size))]):
            continue
        segments.put(commit)
        commit = segments.begin(drained=1)
        assert commit.mark()
        segments.put(commit)
        found = segments.scan()
        assert (found.drained, found.epochs, found.damage) == (1, (), None)


def test_commits_begin_on_pages_and_never_touch_an_older_one() -> None:
    """Each commit is written to pages that no earlier one has."""
    segments = Segments(segment_bytes=16 * PAGE_BYTES)
    end = 0
    for epoch in range(1, 6):
        commit = segments.begin()
        assert commit.add(epoch, [write(0, bytes(900 * epoch))])
        commit.finish()
        (piece,) = commit.pieces
        assert piece.position % PAGE_BYTES == piece.end % PAGE_BYTES == 0
        assert piece.position >= end
        end = piece.end
        segments.append(epoch, write(0, bytes(900 * epoch)))


# -- what was left -------------------------------------------------------------------------------------------


def filled(epoch_count: int, data_bytes: int = 3000) -> Segments:
    segments = Segments(segment_bytes=8 * PAGE_BYTES)
    for epoch in range(1, epoch_count + 1):
        segments.append(epoch, write(epoch * 10_000, bytes([epoch]) * data_bytes))
    return segments


def test_a_torn_end_is_cut() -> None:
    """Any part of the last commit missing costs the last epoch and nothing else."""
    for page in (PAGE_BYTES, 5 * PAGE_BYTES):
        segments = filled(5)
        segments.files["a"][page] ^= 1
        found = segments.scan()
        if page == PAGE_BYTES:
            assert found.damage is not None
        else:
            assert found.damage is None
            assert [epoch.number for epoch in found.epochs] == [1, 2, 3, 4]
            assert found.newest_epoch == 4


def test_a_damaged_middle_is_told() -> None:
    """Damage before something that proves it had been durable is named, with the epochs it costs; what comes
    before it can be replayed."""
    segments = filled(9)
    whole = segments.scan()
    before, place = whole.epochs[2].place, whole.epochs[3].place
    name = whole.segments[place.segment].name
    segments.files[name][place.position + RECORD_BYTES + 100] ^= 1
    found = segments.scan()
    assert found.damage is not None
    assert found.damage.segment == name
    assert before.position + 3000 < found.damage.position <= place.position
    assert (found.damage.first_epoch, found.damage.last_epoch) == (4, 9)
    assert found.damage.lost_bytes > 5 * 3000
    assert [epoch.number for epoch in found.epochs] == [1, 2, 3]


def test_damage_in_what_the_bucket_has_is_passed_over() -> None:
    """An epoch that is known to be in the bucket may be damaged: the later ones are found."""
    segments = filled(3)
    segments.append(4, write(1, b"four"), drained=3)
    segments.append(5, write(2, b"five"), drained=3)
    segments.files["a"][2 * PAGE_BYTES + RECORD_BYTES] ^= 1
    found = segments.scan()
    assert found.damage is None
    assert [epoch.number for epoch in found.epochs] == [4, 5]


@pytest.mark.parametrize("lost", ["a", "b"])
def test_a_torn_first_commit_is_no_damage(lost: str) -> None:
    """The very first commit reached over two segments, and a power cut left only one of them."""
    segments = Segments()
    segments.append(1, write(0, bytes(12000)))
    assert set(segments.files) == {"a", "b"}
    segments.files[lost] = bytearray(SEGMENT_BYTES_MIN)
    found = segments.scan()
    assert (found.damage, found.epochs, found.next_sequence, found.newest_epoch) == (None, (), 1, 0)
    assert found.segments == ()


@pytest.mark.parametrize("lost", ["a", "b"])
def test_a_missing_segment_is_told(lost: str) -> None:
    """A segment that is gone, and was not known to be drained, is damage."""
    segments = filled(18)
    assert set(segments.files) == {"a", "b", "c"}
    del segments.files[lost]
    found = segments.scan()
    assert found.damage is not None
    assert found.damage.last_epoch == 18
    assert [epoch.number for epoch in found.epochs] == ([] if lost == "a" else list(range(1, 7)))


def test_a_missing_segment_that_was_drained_is_not_missed() -> None:
    """Segments are used again when all of their epochs are in the bucket; nothing is wrong without them."""
    segments = filled(18)
    segments.append(19, write(1, b"x"), drained=6)
    del segments.files["a"]
    found = segments.scan()
    assert found.damage is None
    assert [epoch.number for epoch in found.epochs] == list(range(7, 20))


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_damaged_segment_header_is_told(name: str) -> None:
    """The records of a segment without a header still prove what had been durable."""
    segments = filled(18)
    segments.files[name][20] ^= 1
    found = segments.scan()
    assert found.damage is not None
    assert found.damage.segment == name


def test_old_records_of_a_segment_that_is_used_again_are_not_seen() -> None:
    """What a segment held in an earlier life does not come back, even right behind the end."""
    segments = filled(12)
    segments.append(13, write(1, b"x"), drained=6)
    segments.free.append("a")
    for epoch in range(14, 20):
        segments.append(epoch, write(epoch, bytes(10)), drained=6)
    found = segments.epochs()
    assert list(found) == list(range(7, 20))
    segments.tail = Tail(2, None, 0, segments.tail.next_sequence, segments.tail.newest_epoch)
    segments.append(20, write(1, b"y"), drained=18)
    found = segments.epochs()
    assert list(found) == [19, 20]


@pytest.mark.parametrize("torn", [RECORD_BYTES, 2 * RECORD_BYTES + 3000])
def test_a_commit_behind_a_cut_end_continues_it(torn: int) -> None:
    """After a torn commit the next one goes to a new segment, and nothing of the torn one is believed."""
    segments = filled(2)
    good = segments.tail
    commit = segments.begin()
    assert commit.add(3, [write(0, b"c" * 3000), write(0, b"C" * 3000)])
    assert commit.add(4, [write(0, b"d" * 3000)])
    segments.put(commit)
    segments.files["a"][good.position + torn] ^= 1
    found = segments.scan()
    assert (found.damage, found.newest_epoch, found.next_sequence) == (None, 2, good.next_sequence)
    segments.tail = Tail(2, None, 0, found.next_sequence, found.newest_epoch)
    segments.append(3, write(0, b"new"))
    segments.append(4, write(0, b"newer"))
    assert {number: bytes(entries[0].data or b"") for number, entries in segments.epochs().items()} == {
        1: b"\1" * 3000,
        2: b"\2" * 3000,
        3: b"new",
        4: b"newer",
    }


def test_records_of_a_torn_commit_are_not_taken_for_later_ones() -> None:
    """A commit was torn so that the header of its segment is gone and its records are not. They do not
    continue what the next life writes over their beginning, even where the numbers fit; and they are told, so
    that the file can be removed."""
    segments = Segments(segment_bytes=8 * PAGE_BYTES)
    commit = segments.begin()
    # Each of these records is a page.
    assert commit.add(1, [write(0, b"o" * (PAGE_BYTES - RECORD_BYTES)) for _ in range(5)])
    segments.put(commit)
    segments.files["a"][:PAGE_BYTES] = bytes(PAGE_BYTES)
    found = segments.scan()
    assert (found.damage, found.free, found.beyond) == (None, (), ("a",))
    segments.free.insert(0, "a")
    segments.tail = Tail(2)
    segments.append(1, write(0, b"n" * (PAGE_BYTES + 1)))
    third = decode_record(SEED, segments.files["a"][3 * PAGE_BYTES :])
    assert third is not None
    assert third.sequence == segments.tail.next_sequence == 3
    assert list(segments.epochs()) == [1]
    assert segments.scan().next_sequence == 3


def test_what_two_lives_lost_does_not_make_an_epoch() -> None:
    """A commit was torn in the middle of an epoch, and in the next life another with the same numbers, where
    the header that said so was lost: the beginning of one and the end of the other are no epoch."""
    segments = Segments()
    segments.append(1, write(0, b"one"))
    commit = segments.begin()
    assert commit.add(2, [write(0, b"x"), write(10, b"y" * 12000)])
    segments.put(commit)
    del segments.files["b"], segments.files["c"]
    found = segments.scan()
    assert (found.damage, found.newest_epoch, found.next_sequence) == (None, 1, 3)
    segments.free = ["b", "c"]
    segments.tail = Tail(2, None, 0, 3, 1)
    commit = segments.begin()
    # One record in b, as the torn commit has one in a; and all others in c.
    assert commit.add(2, [write(0, b"z" * 12000)])
    segments.put(commit)
    segments.files["b"] = bytearray(SEGMENT_BYTES_MIN)
    found = segments.scan()
    assert found.damage is None
    assert [epoch.number for epoch in found.epochs] == [1]


def test_damage_is_told_behind_what_was_cut_off_too() -> None:
    """Records that were cut off and look right do not hide that what came instead of them is damaged."""
    segments = Segments()
    segments.append(1, write(0, b"one"))
    commit = segments.begin()
    assert commit.add(2, [write(0, b"x"), write(10, b"y" * 12000)])
    segments.put(commit)
    del segments.files["b"], segments.files["c"]
    segments.free = ["b", "c"]
    segments.tail = Tail(2, None, 0, 3, 1)
    segments.append(2)
    segments.append(3, write(0, b"three"))
    assert list(segments.epochs()) == [1, 2, 3]
    segments.files["b"][30] ^= 1
    assert segments.scan().damage is not None


def test_a_copy_of_the_journal_in_its_own_data_proves_nothing() -> None:
    """Data that looks like records of this journal, as when its files are copied to the disk, is data."""
    segments = filled(6)
    copy = bytes(segments.files["a"])
    segments.append(7, write(0, copy[PAGE_BYTES - RECORD_BYTES : 3 * PAGE_BYTES]))
    assert list(segments.epochs()) == list(range(1, 8))
    place = segments.scan().epochs[-1].place
    name = segments.scan().segments[place.segment].name
    segments.files[name][place.position + RECORD_BYTES] ^= 1
    found = segments.scan()
    assert found.damage is None
    assert [epoch.number for epoch in found.epochs] == list(range(1, 7))


def test_what_the_head_says_is_drained_is_not_replayed() -> None:
    """The head's own note of what the bucket has counts like that of a record."""
    segments = filled(5)
    assert [epoch.number for epoch in segments.scan(drained=3).epochs] == [4, 5]
