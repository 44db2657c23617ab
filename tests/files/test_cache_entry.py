"""The files of one cached object."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from bucketry.core.cache_map import BLOCK_BYTES, UNIT_BYTES, CachedObject
from bucketry.core.cache_room import USED_STEP_SECONDS
from bucketry.core.pieces import PieceSummer
from bucketry.errors import Closed
from bucketry.files.cache_entry import CacheEntry
from bucketry.files.holes import punch_hole
from bucketry.files.object_cache import ObjectCache
from files.reading import content, data_file, flip, map_file

SIZE = 2 * BLOCK_BYTES + 3 * UNIT_BYTES + 100
DATA = content(SIZE)
NOW = 5000


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ObjectCache]:
    with closing(ObjectCache(tmp_path / "cache", size_bytes=1 << 30, now=lambda: float(NOW))) as made:
        yield made


@pytest.fixture
def entry(cache: ObjectCache) -> Iterator[CacheEntry]:
    """An object, all of it there."""
    made = cache.create(CachedObject("s3://bucket", "a", "a", "1", SIZE, None, 1.0))
    assert made is not None
    with closing(made):
        made.write_blocks(0, DATA, NOW)
        yield made


def read(entry: CacheEntry, offset: int, length: int) -> bytes | None:
    buffer = bytearray(length)
    return bytes(buffer) if entry.read_into(offset, memoryview(buffer), NOW) else None


def test_any_range(entry: CacheEntry) -> None:
    """Reads of any place and length are the object's bytes."""
    random = Random(3)
    for _ in range(300):
        offset = random.randrange(SIZE)
        length = min(random.choice([1, 4096, UNIT_BYTES, 40_000, BLOCK_BYTES, SIZE]), SIZE - offset)
        assert read(entry, offset, length) == DATA[offset : offset + length]


@pytest.mark.parametrize("at", [0, UNIT_BYTES + 7, BLOCK_BYTES - 1, 2 * BLOCK_BYTES + 3 * UNIT_BYTES + 99])
def test_a_wrong_bit_is_never_read(entry: CacheEntry, cache: ObjectCache, at: int) -> None:
    """A read that touches the unit with a wrong bit is a miss, whether it wants that byte or not; all others
    are served."""
    flip(data_file(cache.directory), at)
    random = Random(at)
    refused = 0
    for _ in range(300):
        offset = random.choice([at // 1000 * 1000, random.randrange(SIZE)])
        length = min(random.choice([1, 100, 4096, UNIT_BYTES, 40_000]), SIZE - offset)
        found = read(entry, offset, length)
        if found is None:
            refused += 1
            assert offset // UNIT_BYTES <= at // UNIT_BYTES <= (offset + length - 1) // UNIT_BYTES
        else:
            assert found == DATA[offset : offset + length]
            assert not offset <= at < offset + length
    assert refused > 20
    assert cache.counts.corrupt == refused
    assert [entry.damaged(block) for block in range(3)] == [block == at // BLOCK_BYTES for block in range(3)]
    block = at // BLOCK_BYTES
    entry.write_blocks(block, DATA[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES], NOW)
    assert read(entry, 0, SIZE) == DATA


def test_a_wrong_checksum_of_a_unit(entry: CacheEntry, cache: ObjectCache) -> None:
    """A record that is damaged where small reads look is found by a scrub that reads whole blocks."""
    flip(map_file(cache.directory), 8192 + 64 + 16)
    assert read(entry, BLOCK_BYTES, 10) is None
    assert entry.damaged(1)


def test_what_is_not_there(entry: CacheEntry) -> None:
    """A block that was dropped is a miss and not damage, and takes no space."""
    before = entry.data_status().st_blocks
    entry.drop_block(1)
    assert entry.missing() == [1]
    assert not entry.has(1)
    assert read(entry, BLOCK_BYTES, 1) is None
    assert read(entry, BLOCK_BYTES - 1, 2) is None
    assert read(entry, 0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    assert not entry.damaged(1)
    assert before - entry.data_status().st_blocks == BLOCK_BYTES // 512


def test_use_is_noted_once_a_minute(entry: CacheEntry) -> None:
    """A hit writes down when it was, if that was not written down lately."""
    buffer = memoryview(bytearray(1))
    assert entry.read_into(0, buffer, NOW + USED_STEP_SECONDS - 1)
    assert entry.records().used_seconds(0) == NOW
    assert entry.read_into(0, buffer, NOW + USED_STEP_SECONDS)
    records = entry.records()
    assert (records.used_seconds(0), records.filled_seconds(0)) == (NOW + USED_STEP_SECONDS, NOW)
    assert records.used_seconds(1) == NOW
    assert read(entry, 0, SIZE) == DATA


def test_sealed(entry: CacheEntry) -> None:
    """A sealed file is read-only for everybody, and repaired all the same."""
    entry.sync()
    entry.seal()
    assert stat.S_IMODE(entry.data_status().st_mode) == 0o444
    entry.write_blocks(2, DATA[2 * BLOCK_BYTES :], NOW)
    assert stat.S_IMODE(entry.data_status().st_mode) == 0o444
    assert read(entry, 0, SIZE) == DATA


def test_pieces_are_compared_without_reading(entry: CacheEntry) -> None:
    """The checksums of an upload are compared with those of the blocks: pieces of several blocks, and a last
    one that is short."""
    for piece_bytes in (BLOCK_BYTES, 2 * BLOCK_BYTES, 4 * BLOCK_BYTES):
        for wrong in (None, 0, SIZE - 1):
            changed = bytearray(DATA)
            if wrong is not None:
                changed[wrong] ^= 1
            summer = PieceSummer(SIZE, piece_bytes)
            summer.feed(changed)
            pieces = summer.finish()
            assert pieces is not None
            assert entry.bad_pieces(pieces) == ([] if wrong is None else [wrong // piece_bytes])


def test_a_source_with_the_same_bytes(entry: CacheEntry, tmp_path: Path) -> None:
    """Bytes that a local file has too are copied from there."""
    source = tmp_path / "source"
    source.write_bytes(b"xyz" + DATA)
    with source.open("rb") as file:
        entry.drop_block(0)
        entry.write_blocks(0, DATA[:BLOCK_BYTES], NOW, source=(file.fileno(), 3))
    assert read(entry, 0, SIZE) == DATA


def test_a_source_that_changes_meanwhile(entry: CacheEntry, tmp_path: Path) -> None:
    """What was copied is not what was summed: a miss, not wrong bytes."""
    source = tmp_path / "source"
    source.write_bytes(bytes(SIZE))
    with source.open("rb") as file:
        entry.write_blocks(0, DATA[:BLOCK_BYTES], NOW, source=(file.fileno(), 0))
    assert read(entry, 0, 1) is None


def test_closed(entry: CacheEntry) -> None:
    """Nothing works after close; closing twice is fine."""
    entry.close()
    entry.close()
    with pytest.raises(Closed):
        read(entry, 0, 1)
    with pytest.raises(Closed):
        entry.write_blocks(0, DATA[:BLOCK_BYTES], NOW)


def test_close_waits_for_reads(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors are closed after the last read that uses them: their numbers may be another file's a moment
    later."""
    entry = cache.create(CachedObject("s3://bucket", "b", "b", "1", 10, None, 1.0))
    assert entry is not None
    entry.write_blocks(0, DATA[:10], NOW)
    reads, goes_on, closed = threading.Event(), threading.Event(), []
    pread, close = os.pread, os.close

    def slow(file: int, length: int, offset: int) -> bytes:
        reads.set()
        goes_on.wait()
        return pread(file, length, offset)

    def noted(file: int) -> None:
        closed.append(file)
        close(file)

    found: list[bytes | None] = []
    monkeypatch.setattr(os, "pread", slow)
    thread = threading.Thread(target=lambda: found.append(read(entry, 0, 10)))
    thread.start()
    reads.wait()
    monkeypatch.setattr(os, "close", noted)
    entry.close()
    assert closed == []
    goes_on.set()
    thread.join()
    assert found == [DATA[:10]]
    assert len(closed) == 2


def test_holes(tmp_path: Path) -> None:
    """A hole is zeros that take no space; a file that cannot be written to is an error."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 65536)
    with path.open("r+b") as file:
        assert punch_hole(file.fileno(), 4096, 8192)
    assert path.read_bytes() == b"x" * 4096 + bytes(8192) + b"x" * (65536 - 12288)
    assert path.stat().st_blocks * 512 <= 65536 - 8192
    with path.open("rb") as file, pytest.raises(OSError):
        punch_hole(file.fileno(), 0, 4096)
