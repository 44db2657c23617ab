"""The journal of an encrypted volume: encrypted, bound to its place, and gone when the bucket has all."""

import struct
from collections.abc import AsyncIterator

import pytest

from bucketry.cache.journal import JOURNAL_BYTES_MIN, Journal
from bucketry.cache.left_journal import RecoveredEpoch, inspect, left_epochs
from bucketry.codec.offload import inline
from bucketry.core.geometry import Extent
from bucketry.core.journal import (
    HEAD_BYTES,
    HEAD_VERSION,
    PAGE_BYTES,
    RECORD_BYTES,
    SEAL_BYTES,
    SEALED_HEAD_VERSION,
    Kind,
    Record,
    checksum,
    decode_head,
    decode_record,
    encode_record,
)
from bucketry.errors import Corrupt, Invalid
from bucketry.layout.interface import Change, Write, Zero
from bucketry.testing.memory_files import MemoryFiles
from cache.journal_model import IDENTITY

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
SECRET = b"what nobody may read " * 20
CHANGES: list[Change] = [Write(100, SECRET), Zero(Extent(4096, 512)), Write(9000, SECRET[:50])]


async def open_journal(
    files: MemoryFiles, key: bytes | None = KEY, size_bytes_max: int = JOURNAL_BYTES_MIN
) -> tuple[Journal, list[RecoveredEpoch]]:
    return await Journal.open(files, IDENTITY, size_bytes_max=size_bytes_max, offload=inline, key=key)


async def crashed(count: int = 3, key: bytes | None = KEY, files: MemoryFiles | None = None) -> MemoryFiles:
    """A journal with some epochs more than before, left as a crash leaves it."""
    files = files or MemoryFiles()
    journal, _ = await open_journal(files, key)
    first = journal.next_epoch
    for epoch in range(first, first + count):
        assert await journal.append(epoch, CHANGES)
    return MemoryFiles.holding(files.contents())


async def all_changes(epochs: list[RecoveredEpoch]) -> AsyncIterator[list[Change]]:
    for epoch in epochs:
        yield [change async for change in epoch.changes()]


def records(contents: dict[str, bytes]) -> list[tuple[str, int, Record]]:
    """Where each record is, by looking at every byte."""
    head, _ = decode_head(contents["head"])
    seed, found = checksum(head.salt), []
    for name, content in contents.items():
        for at in range(len(content) if name.startswith("segment") else 0):
            if content[at : at + 4] == b"BkJr":
                record = decode_record(seed, content[at : at + RECORD_BYTES])
                assert record is not None
                found.append((name, at, record))
    return found


def nonces(contents: dict[str, bytes]) -> list[bytes]:
    return [
        contents[name][at + RECORD_BYTES :][:12] for name, at, record in records(contents) if record.sealed
    ]


async def test_what_was_sealed_is_read_with_the_key_and_is_nowhere_in_the_files() -> None:
    """Data, zeros and barriers of all epochs; and what is written after it was opened again."""
    files = await crashed(3, files=await crashed(2))
    assert not any(SECRET[:20] in content for content in files.contents().values())
    assert all(record.sealed for _, _, record in records(files.contents()) if record.kind is not Kind.MARK)
    journal, epochs = await open_journal(files)
    assert [changes async for changes in all_changes(epochs)] == [CHANGES] * 5
    await journal.close(empty=False)


@pytest.mark.parametrize("key", [KEY, None])
async def test_nothing_is_left_in_a_journal_that_is_closed_empty(key: bytes | None) -> None:
    """Of any volume: the bucket has it. The next attachment begins with a new one."""
    files = await crashed(3, key)
    kept: dict[str, bytes] = {}
    files.close = lambda: kept.update(files.contents())  # type: ignore[method-assign]
    journal, _ = await open_journal(files, key)
    journal.note_drained(3)
    await journal.close(empty=True)
    assert list(kept) == ["head"]
    journal, epochs = await open_journal(MemoryFiles.holding(kept), key)
    assert epochs == []
    assert await journal.append(journal.next_epoch, CHANGES)


async def test_no_nonce_comes_back() -> None:
    """Neither in one journal, nor in two copies of it that go on from the same record."""
    before = await crashed(3)
    copies = [await crashed(3, files=MemoryFiles.holding(before.contents())) for _ in range(2)]
    used = nonces(copies[0].contents())
    more = [nonce for nonce in nonces(copies[1].contents()) if nonce not in nonces(before.contents())]
    assert (len(used), len(more)) == (6 * 4, 3 * 4)
    assert len({*used, *more}) == len(used) + len(more)


async def test_without_the_key_everything_but_the_data_is_told() -> None:
    files = await crashed(3)
    report = inspect(files)
    assert report is not None
    assert (report.epoch_count, report.data_bytes) == (3, 3 * (len(SECRET) + 50))
    epoch = (await left_epochs(files, inline))[0]
    assert [(each.offset, each.length) async for each in epoch.places()] == [
        (100, len(SECRET)),
        (4096, 512),
        (9000, 50),
    ]
    with pytest.raises(Invalid, match="encrypted with its volume's key"):
        [change async for change in epoch.changes()]


async def test_another_key_is_refused() -> None:
    _, epochs = await open_journal(await crashed(), OTHER_KEY)
    with pytest.raises(Corrupt, match="or the password is another one"):
        [change async for change in epochs[0].changes()]


def resealed(record: Record, payload: bytes, contents: dict[str, bytes], name: str, at: int) -> None:
    """Put a record in the place of another, with checksums that are right."""
    seed = checksum(decode_head(contents["head"])[0].salt)
    record = record._replace(payload_crc=checksum(payload) if payload else 0)
    content = bytearray(contents[name])
    new = encode_record(seed, record) + payload
    content[at : at + len(new)] = new
    contents[name] = bytes(content)


@pytest.mark.parametrize("what", ["data", "offset", "zeros", "another's", "plain"])
async def test_what_was_changed_is_refused_although_its_checksums_are_right(what: str) -> None:
    """A bit of the data, the place that a write or zeros are for, the data of another epoch's record in its
    place, a record that is not encrypted."""
    contents = (await crashed()).contents()
    found = records(contents)
    name, at, record = found[1] if what == "zeros" else found[4]
    start = at + RECORD_BYTES
    payload = contents[name][start : start + record.payload_bytes]
    if what == "data":
        payload = payload[:30] + bytes([payload[30] ^ 1]) + payload[31:]
    elif what == "offset":
        record = record._replace(offset=record.offset + 512)
    elif what == "zeros":
        record = record._replace(length=record.length + 512)
    elif what == "another's":
        other_name, other_at, other = found[8]
        payload = contents[other_name][other_at + RECORD_BYTES :][: other.payload_bytes]
    else:
        forged = record.length + SEAL_BYTES
        record, payload = record._replace(sealed=False, length=forged), b"x" * forged
    resealed(record, payload, contents, name, at)
    _, epochs = await open_journal(MemoryFiles.holding(contents))
    assert len(epochs) == 3
    with pytest.raises(Corrupt):
        [changes async for changes in all_changes(epochs)]


async def test_a_journal_of_before_is_read_and_goes_on_sealed() -> None:
    """An older program left epochs of an encrypted volume in plain text: they are replayed, what comes is
    encrypted, and older programs refuse the journal from then on."""
    old = await crashed(2, None)
    assert struct.unpack_from("<I", old.contents()["head"], 12) == (HEAD_VERSION,)
    files = await crashed(2, KEY, files=old)
    head = files.read("head", 0, HEAD_BYTES)
    assert struct.unpack_from("<I", head, 12) == (SEALED_HEAD_VERSION,)
    assert [record.sealed for _, _, record in records(files.contents())] == [False] * 8 + [True] * 8
    _, epochs = await open_journal(files)
    assert [changes async for changes in all_changes(epochs)] == [CHANGES] * 4


async def test_writes_of_any_size_fill_segments_to_their_end() -> None:
    """Records are split where a segment ends, seals included."""
    files = MemoryFiles()
    journal, _ = await open_journal(files, size_bytes_max=4 * JOURNAL_BYTES_MIN)
    sizes = [PAGE_BYTES - RECORD_BYTES - SEAL_BYTES + step for step in (-1, 0, 1)] + [
        3 * PAGE_BYTES,
        1,
        20_000,
    ]
    written = [Write(0, bytes([size % 251]) * size) for size in sizes]
    for epoch, change in enumerate(written, 1):
        assert await journal.append(epoch, [change])
    _, epochs = await open_journal(
        MemoryFiles.holding(files.contents()), size_bytes_max=4 * JOURNAL_BYTES_MIN
    )
    joined = [
        b"".join(bytes(change.data) for change in changes if isinstance(change, Write))
        async for changes in all_changes(epochs)
    ]
    assert joined == [bytes(change.data) for change in written]
