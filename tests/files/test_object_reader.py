"""Opening and reading objects through the cache."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from bucketry.bucket.interface import Attributes, ByteRange, Object
from bucketry.core.pieces import PIECES_METADATA, PieceSummer, encode, sum_pieces
from bucketry.errors import (
    Closed,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from bucketry.files import byte_locks, object_reader, object_version
from bucketry.files.object_reader import ObjectReader, OpenObject
from bucketry.testing.faulty_bucket import Delay, Fail, FlipBit, Truncate
from files.reading import (
    BLOCK_BYTES,
    LoopOfItsOwn,
    Place,
    Uploaded,
    cached,
    content,
    cut,
    data_file,
    fetched,
    flip,
    map_file,
    opened,
    read,
    settled,
)

#: The quick check is content with the two that differ.
MODES = ["whole", "ranges", pytest.param("auto", marks=pytest.mark.slow)]
#: Five blocks, the last one short.
SIZE = 4 * BLOCK_BYTES + 1234


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with Place(tmp_path / "cache") as made:
        yield made


# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, SIZE])
async def test_what_was_put_is_read(place: Place, mode: str, size: int) -> None:
    """Objects of all sizes come back in every mode, once from the bucket and then from the cache alone."""
    data = content(size)
    await place.put("a", data)
    reader = place.reader(mode=mode)
    assert await fetched(reader, "a") == data
    gets = place.gets("a")
    assert await fetched(reader, "a") == data
    assert place.gets("a") == gets


@pytest.mark.parametrize("mode", MODES)
async def test_random_reads_agree_with_the_bytes(place: Place, mode: str) -> None:
    """Any range, in any order, is what the object has there; a fresh reader on the same directory agrees."""
    data = content(SIZE)
    await place.put("a", data)
    random = Random(1)
    for _ in range(2):
        async with opened(place.reader(mode=mode), "a") as found:
            assert (found.size_bytes, found.etag) == (SIZE, (await place.bucket.head("a")).etag)
            for _ in range(60):
                start = random.randrange(SIZE)
                length = random.choice([1, 100, 4096, 16384, 20000, BLOCK_BYTES, 3 * BLOCK_BYTES])
                length = min(length, SIZE - start)
                assert await read(found, start, length) == data[start : start + length]


async def test_reads_beyond_the_end_are_errors(place: Place) -> None:
    """A read is all of its bytes or an error: crossing the end, beyond it and before the beginning is
    Invalid."""
    await place.put("a", content(5000))
    async with opened(place.reader(), "a") as found:
        for offset, length in [(0, 5001), (4999, 2), (5001, 0), (6000, 1), (-1, 1), (-5, 10)]:
            with pytest.raises(Invalid):
                found.read_nowait(offset, memoryview(bytearray(length)))
            with pytest.raises(Invalid):
                await found.read(offset, memoryview(bytearray(length)))
        assert await read(found, 5000, 0) == b""


async def test_absent_objects(place: Place) -> None:
    """An object that is not there is NotFound, and nothing of it stays in the directory."""
    reader = place.reader()
    for _ in range(2):
        with pytest.raises(NotFound):
            await reader.open("a", "a")
    assert not list((place.directory / ".bucketry" / "entries").rglob("*.map"))


async def test_closed(place: Place) -> None:
    """Nothing is read after close, and nothing opened after the reader was closed; closing twice is fine."""
    await place.put("a", b"xyz")
    reader = place.reader()
    found = await reader.open("a", "a")
    found.close()
    found.close()
    with pytest.raises(Closed):
        found.read_nowait(0, memoryview(bytearray(1)))
    still = await reader.open("a", "a")
    await reader.close()
    await reader.close()
    with pytest.raises(Closed):
        await reader.open("a", "a")
    assert cached(still, 0, 1) == b"x"  # its first block is with it
    with pytest.raises(Closed):
        await read(still, 1, 1)
    still.close()


async def test_a_buffer_of_another_format(place: Place) -> None:
    """Any writable buffer is filled, byte by byte."""
    data = content(64)
    await place.put("a", data)
    async with opened(place.reader(), "a") as found:
        words = memoryview(bytearray(64)).cast("I")
        assert found.read_nowait(0, words)
        assert words.tobytes() == data


# -- whole files ---------------------------------------------------------------------------------------------


async def test_a_whole_file_is_a_plain_read_only_file(place: Place) -> None:
    """In whole mode the object is a file under its name, parents made, complete and read-only."""
    data = content(SIZE)
    await place.put("dir/sub/a", data)
    async with opened(place.reader(mode="whole"), "dir/sub/a") as found:
        path = place.directory / "dir" / "sub" / "a"
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert cached(found, 0, SIZE) == data
    path.unlink()
    assert await fetched(place.reader(mode="whole"), "dir/sub/a") == data
    assert path.read_bytes() == data


@pytest.mark.parametrize("size", [1000, SIZE])
async def test_auto_decides_by_size(place: Place, size: int) -> None:
    """In auto mode small files are fetched whole when they are opened, and larger ones by ranges."""
    await place.put("a", content(size))
    async with opened(place.reader(mode="auto", whole_max_bytes=3 * BLOCK_BYTES), "a"):
        assert (place.directory / "a").exists() == (size == 1000)


@pytest.mark.parametrize(
    "name", ["../a", "/etc/a", "a/../../b", ".bucketry/lock", "", "x" * 300, "a//b", "."]
)
async def test_names_that_are_no_paths(place: Place, name: str) -> None:
    """A name that leads out of the directory, or is no file name, makes no file; the object is cached all the
    same."""
    data = content(1000)
    await place.put("key", data)
    before = sorted(place.directory.parent.rglob("*"))
    reader = place.reader(mode="whole")
    found = await reader.open("key", name)
    assert await read(found, 0, 1000) == data
    found.close()
    made = {path.relative_to(place.directory).parts[0] for path in place.directory.rglob("*")}
    assert made <= {".bucketry"}
    assert [
        path for path in sorted(place.directory.parent.rglob("*")) if place.directory not in path.parents
    ][:1] == [place.directory]
    assert before in ([], [place.directory])


async def test_a_file_of_another_origin_keeps_its_name(place: Place) -> None:
    """What we did not make is neither replaced nor removed, not by opens, removals or eviction."""
    data = content(SIZE)
    await place.put("a", data)
    cache = place.cache()
    (place.directory / "a").write_text("the only copy of something")
    reader = place.reader(cache, mode="whole")
    assert await fetched(reader, "a") == data
    reader.forget("a", "a")
    assert (place.directory / "a").read_text() == "the only copy of something"


async def test_two_buckets_in_one_directory(place: Place) -> None:
    """Objects of the same name in two buckets are told apart; the first one has the file's name."""
    await place.put("one/a", b"first")
    await place.put("two/a", b"second")
    reader = place.reader(mode="whole")
    for _ in range(2):
        first, second = await reader.open("one/a", "a"), await reader.open("two/a", "a")
        assert await read(first, 0, 5) == b"first"
        assert await read(second, 0, 6) == b"second"
        first.close()
        second.close()
        assert (place.directory / "a").read_bytes() == b"first"


async def test_a_download_is_parallel_ranges_of_one_version(place: Place) -> None:
    """A large file comes in several requests at once, none of them for what another one brings."""
    data = content(70 * BLOCK_BYTES)
    await place.put("a", data)
    hold = place.bucket.hold(operation="get", applied=True)
    opening = asyncio.create_task(fetched(place.reader(mode="whole"), "a"))
    await hold.wait_arrived(1)
    hold.release()
    assert await opening == data
    assert place.gets("a") == 3  # 32 blocks, and 38 in runs of 32
    assert place.cache().counts.fetched_bytes == 0


@pytest.mark.logs("it is opened again")
async def test_an_object_that_changes_while_it_is_fetched(place: Place) -> None:
    """A download begins anew when the object changes midway: what is read is one version, never a mixture."""
    old, new = content(40 * BLOCK_BYTES, 1), content(40 * BLOCK_BYTES, 2)
    await place.put("a", old)
    hold = place.bucket.hold(operation="get", key="a", applied=True)
    opening = asyncio.create_task(fetched(place.reader(mode="whole"), "a"))
    await hold.wait_arrived(1)
    await place.put("a", new)
    hold.release()
    assert await opening == new
    assert (place.directory / "a").read_bytes() == new


@pytest.mark.logs("it is opened again")
async def test_an_object_that_changes_all_the_time(place: Place) -> None:
    """After a few attempts the open is an error."""
    await place.put("a", content(40 * BLOCK_BYTES))
    original = place.bucket.get

    async def get(key: str, **more: object) -> object:
        found = await original(key, **more)  # type: ignore[arg-type]
        await place.put("a", content(40 * BLOCK_BYTES, len(place.bucket.requests)))
        return found

    place.bucket.get = get  # type: ignore[assignment, method-assign]
    with pytest.raises(PreconditionFailed):
        await place.reader(mode="whole").open("a", "a")


# -- versions ------------------------------------------------------------------------------------------------


async def test_a_handle_keeps_its_version(place: Place) -> None:
    """A changed object is an error for who has the old one open, but for what is cached; who opens it now
    reads the new one."""
    old, new = content(SIZE, 1), content(SIZE, 2)
    await place.put("a", old)
    reader = place.reader()
    async with opened(reader, "a") as found:
        assert await read(found, 0, 1000) == old[:1000]
        await place.put("a", new)
        with pytest.raises(PreconditionFailed):
            await read(found, 2 * BLOCK_BYTES, 1000)
        assert await read(found, 1000, 1000) == old[1000:2000]
        assert await fetched(reader, "a") == new
        assert await read(found, 1000, 1000) == old[1000:2000]
        with pytest.raises(PreconditionFailed):
            await read(found, 3 * BLOCK_BYTES, 1000)
    assert await fetched(reader, "a") == new


async def test_a_deleted_object(place: Place) -> None:
    """An object that was deleted cannot be opened though it is cached; who has it open reads what is
    cached."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader()
    async with opened(reader, "a") as found:
        await place.bucket.delete("a")
        with pytest.raises(NotFound):
            await reader.open("a", "a")
        assert await read(found, 0, 100) == data[:100]
        with pytest.raises(NotFound):
            await read(found, SIZE - 100, 100)
    assert not list(place.directory.rglob("*.map"))


async def test_forget(place: Place) -> None:
    """What is forgotten is no longer in the directory, but stays for who has it open."""
    data = content(SIZE)
    await place.put("dir/a", data)
    reader = place.reader(mode="whole")
    async with opened(reader, "dir/a") as found:
        reader.forget("dir/a", "dir/a")
        assert [path.name for path in place.directory.iterdir()] == [".bucketry"]
        assert await read(found, 0, SIZE) == data
    assert await fetched(reader, "dir/a") == data


# -- single flight -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_opens_at_once_are_one(place: Place, mode: str) -> None:
    """Sixteen who open and read a cold object at once cause the requests of one."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(mode=mode)
    assert await asyncio.gather(*(fetched(reader, "a") for _ in range(16))) == [data] * 16
    assert reader.statistics()["fetched_bytes"] == SIZE


async def test_readers_in_two_loops_share_a_directory(place: Place) -> None:
    """Two caches of one directory, as two processes have them, fetch every block once."""
    data = content(70 * BLOCK_BYTES)
    await place.put("a", data)
    place.bucket.plan(Delay(0.01), operation="get", times=100)
    readers = [place.reader(place.cache(), mode=mode) for mode in ("whole", "whole", "ranges")]
    assert await asyncio.gather(*(fetched(reader, "a") for reader in readers)) == [data] * 3
    fetched_bytes = [reader.statistics()["fetched_bytes"] for reader in readers]
    assert sum(fetched_bytes) == len(data)  # type: ignore[arg-type]


@pytest.mark.logs("who fetches block 2 does not, so we do")
async def test_who_is_stopped_holds_nobody_up_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that another process has locked, and does not fetch, is fetched all the same after a while."""
    monkeypatch.setattr(object_version, "PATIENCE_SECONDS", 0.01)
    data = content(SIZE)
    await place.put("a", data)
    async with opened(place.reader(), "a") as found:
        entry = place.cache().find("memory://files", "a")
        assert entry is not None
        assert entry.try_claim(2, 3)
        assert await read(found, 2 * BLOCK_BYTES - 10, 20) == data[2 * BLOCK_BYTES - 10 :][:20]
        entry.close()


@pytest.mark.logs("does not get on")
async def test_who_is_stopped_while_he_opens(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open does not wait for ever for another process that opens the same object."""
    monkeypatch.setattr(object_reader, "PATIENCE_SECONDS", 0.01)
    await place.put("a", b"data")
    cache = place.cache()
    key_lock = cache.try_lock_key(cache.entry_id("memory://files", "a"))
    assert key_lock is not None
    assert await fetched(place.reader(), "a") == b"data"
    key_lock.close()


async def test_another_process_that_fails_to_fetch(place: Place) -> None:
    """Who waits for a block that another process gives up fetches it himself, and at once."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(read_ahead_bytes=0)
    async with opened(reader, "a") as found:
        entry = place.cache().find("memory://files", "a")
        assert entry is not None
        assert entry.try_claim(1, 4)
        reading = asyncio.create_task(read(found, 0, SIZE))
        while not reader.statistics()["single_flight_waits_elsewhere"]:
            await asyncio.sleep(0)
        entry.release(1, 4)
        assert await reading == data
        entry.close()


async def test_an_open_that_is_given_up(place: Place) -> None:
    """One of two who wait for an open gives up: the other one has it; when both do, nothing stays open."""
    await place.put("a", content(1000))
    reader = place.reader()
    for both in (False, True):
        hold = place.bucket.hold(operation="head" if both else "get", key="a")
        first, second = (asyncio.create_task(reader.open("a", "a")) for _ in range(2))
        await hold.wait_arrived()
        first.cancel()
        if both:
            second.cancel()
            # Who comes now has an open of his own.
            await asyncio.gather(first, second, return_exceptions=True)
            hold.release()
            (await reader.open("a", "a")).close()
        else:
            hold.release()
            (await second).close()
    await asyncio.sleep(0)
    await reader.close()
    assert reader.statistics()["open_objects"] == 0


async def test_adjacent_reads_are_one_request(place: Place) -> None:
    """Reads of neighbouring blocks within one turn of the loop are one request; those far apart are not."""
    data = content(40 * BLOCK_BYTES)
    await place.put("a", data)
    async with opened(place.reader(read_ahead_bytes=0), "a") as found:
        before = place.gets("a")
        blocks = [3, 4, 5, 6, 20]
        parts = await asyncio.gather(*(read(found, block * BLOCK_BYTES + 10, 100) for block in blocks))
        assert parts == [data[block * BLOCK_BYTES + 10 :][:100] for block in blocks]
        assert place.gets("a") == before + 2


async def test_read_ahead(place: Place) -> None:
    """A sequential reader finds most of what he wants in the cache, and what is fetched for him is
    counted."""
    data = content(120 * BLOCK_BYTES)
    await place.put("a", data)
    reader = place.reader(read_ahead_bytes=32 * BLOCK_BYTES)
    async with opened(reader, "a") as found:
        waits = 0
        for start in range(0, len(data) // 2, 16384):
            part = cached(found, start, 16384)
            if part is None:
                waits += 1
                part = await read(found, start, 16384)
            assert part == data[start : start + 16384]
            await asyncio.sleep(0)
            await settled(found)
        assert waits == 2
    await reader.close()
    counts = reader.statistics()
    ahead, used, wasted = (counts[f"ahead_{what}blocks"] for what in ("", "used_", "wasted_"))
    assert isinstance(used, int)
    assert isinstance(wasted, int)
    assert used >= 50
    assert used + wasted == ahead


async def test_no_read_ahead_for_random_readers(place: Place) -> None:
    """Who jumps about is charged what he asked for."""
    await place.put("a", content(120 * BLOCK_BYTES))
    reader = place.reader()
    async with opened(reader, "a") as found:
        for block in (100, 7, 80, 33, 60):
            await read(found, block * BLOCK_BYTES, 4096)
        assert reader.statistics()["fetched_blocks"] == 6


# -- trouble with the bucket ---------------------------------------------------------------------------------


@pytest.mark.logs("its checksums are not those of an object of", "bytes at", required=False)
@pytest.mark.parametrize("mode", MODES)
async def test_short_answers_are_fetched_again(place: Place, mode: str) -> None:
    """An object that seems to end early is an error, unless the next attempt brings all of it."""
    data = content(SIZE)
    await place.put("a", data)
    place.bucket.plan(Truncate(), operation="get", skip=1)
    place.bucket.plan(Truncate(), operation="get")
    reader = place.reader(mode=mode)
    assert await fetched(reader, "a") == data
    assert reader.statistics()["bad_fetches"] == 2


@pytest.mark.logs("bytes at")
async def test_short_for_good(place: Place) -> None:
    """What stays short is Corrupt, and who waited for it is told; the rest can be read."""
    data = content(SIZE)
    await place.put("a", data)
    async with opened(place.reader(), "a") as found:
        place.bucket.plan(Truncate(), operation="get", times=3)
        with pytest.raises(Corrupt):
            await read(found, BLOCK_BYTES, 10)
        assert await read(found, BLOCK_BYTES, 10) == data[BLOCK_BYTES : BLOCK_BYTES + 10]


@pytest.mark.logs("bytes at 131072 of 525522 came")
async def test_an_answer_shorter_than_it_should_be(place: Place) -> None:
    """Bytes that are missing are seen without the object's checksums as well, whatever size is claimed."""
    data = content(SIZE)
    await place.put("a", data, pieces=False)
    async with opened(place.reader(read_ahead_bytes=0), "a") as found:
        original = place.bucket.get

        async def short(key: str, **more: object) -> Object:
            whole = await original(key, **more)  # type: ignore[arg-type]
            return Object(whole.info, whole.data[:-1])

        place.bucket.get = short  # type: ignore[method-assign]
        with pytest.raises(Corrupt):
            await read(found, BLOCK_BYTES, 10)
        place.bucket.get = original  # type: ignore[method-assign]
        assert await read(found, BLOCK_BYTES, 10) == data[BLOCK_BYTES : BLOCK_BYTES + 10]


@pytest.mark.logs("not what was uploaded")
@pytest.mark.parametrize("mode", MODES)
async def test_damage_on_the_way_is_seen(place: Place, mode: str) -> None:
    """A wrong bit in what arrives is found by the checksums kept with the object, and fetched again."""
    data = content(SIZE)
    await place.put("a", data)
    place.bucket.plan(FlipBit(), operation="get", times=2)
    assert await fetched(place.reader(mode=mode), "a") == data
    assert place.cache().find("memory://files", "b") is None


@pytest.mark.logs("not what was uploaded")
@pytest.mark.parametrize("mode", ["whole", "ranges"])
async def test_damage_in_the_bucket_is_an_error(place: Place, mode: str) -> None:
    """An object whose bytes are not those of its checksums is never read, and not cached as sound."""
    data = content(SIZE)
    wrong = bytearray(data)
    wrong[3 * BLOCK_BYTES + 5] ^= 1
    await place.put("a", data)
    info = await place.bucket.head("a")
    await place.bucket.put("a", bytes(wrong), attributes=info.attributes)
    reader = place.reader(mode=mode)
    with pytest.raises(Corrupt):
        async with opened(reader, "a") as found:
            assert await read(found, 0, 10) == data[:10]
            await read(found, 3 * BLOCK_BYTES, 10)


@pytest.mark.slow
@pytest.mark.logs("not what was uploaded")
async def test_damage_in_a_file_of_large_pieces(place: Place) -> None:
    """Pieces larger than a request are compared when all of the file is here, by the checksums of its
    blocks."""
    data = content(10 << 20)
    summer = PieceSummer(len(data), 8 << 20)
    summer.feed(data)
    pieces = summer.finish()
    assert pieces is not None
    attributes = Attributes(metadata={PIECES_METADATA: encode(pieces, len(data))})
    wrong = bytearray(data)
    wrong[5 << 20] ^= 1
    await place.bucket.put("a", bytes(wrong), attributes=attributes)
    reader = place.reader(mode="whole")
    with pytest.raises(Corrupt):
        await reader.open("a", "a")
    assert not (place.directory / "a").exists()
    await place.bucket.put("a", data, attributes=attributes)
    assert await fetched(reader, "a") == data
    assert (place.directory / "a").read_bytes() == data


@pytest.mark.logs("its checksums are")
async def test_damaged_checksums_of_an_object(place: Place) -> None:
    """Checksums that are not to be read are an error: nobody knows what the object should be."""
    await place.bucket.put("a", b"x", attributes=Attributes(metadata={PIECES_METADATA: "1-17-abc"}))
    with pytest.raises(Corrupt, match="object a: its checksums are"):
        await place.reader().open("a", "a")


async def test_objects_without_checksums(place: Place) -> None:
    """What others have put is read all the same."""
    data = content(SIZE)
    await place.put("a", data, pieces=False)
    assert await fetched(place.reader(mode="whole"), "a") == data


@pytest.mark.logs("used unchecked")
@pytest.mark.parametrize("mode", MODES)
async def test_an_outage_after_the_first_open(place: Place, mode: str) -> None:
    """A cached object is opened, and its first block read, while the bucket is away; what is not cached is
    Unavailable."""
    data = content(SIZE)
    await place.put("a", data)
    async with opened(place.reader(mode=mode, whole_max_bytes=0), "a"):
        pass
    place.bucket.outage = True
    reader = place.reader(mode=mode, whole_max_bytes=0)
    async with opened(reader, "a") as found:
        assert cached(found, 0, 4096) == data[:4096]
        assert found.size_bytes == SIZE
        if mode == "whole":
            assert cached(found, 0, SIZE) == data
        else:
            with pytest.raises(Unavailable):
                await read(found, SIZE - 1, 1)
    with pytest.raises(Unavailable):
        await reader.open("b", "b")
    assert reader.statistics()["opens_unchecked"] == 1


@pytest.mark.logs("used unchecked: no answer")
async def test_a_bucket_that_does_not_answer(place: Place) -> None:
    """An open does not wait for a bucket that is silent when what it needs is cached."""
    await place.put("a", b"data")
    await fetched(place.reader(), "a")
    hold = place.bucket.hold(operation="head")
    async with opened(place.reader(open_check_seconds=0.01), "a") as found:
        assert cached(found, 0, 4) == b"data"
    hold.release()


async def test_no_check_at_all(place: Place) -> None:
    """With a check of no seconds a cached object costs no request, changed or not."""
    await place.put("a", b"old")
    await fetched(place.reader(), "a")
    await place.put("a", b"new")
    count = len(place.bucket.requests)
    assert await fetched(place.reader(open_check_seconds=0.0), "a") == b"old"
    assert len(place.bucket.requests) == count


async def test_an_open_that_is_denied(place: Place) -> None:
    """A bucket that refuses is heard, whatever is cached."""
    await place.put("a", b"data")
    await fetched(place.reader(), "a")
    place.bucket.plan(Fail(Denied), operation="head")
    with pytest.raises(Denied):
        await place.reader().open("a", "a")


async def test_the_first_block_is_there_after_open(place: Place) -> None:
    """The first read after an open needs neither the bucket nor the cache, whatever is evicted meanwhile."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader()
    async with opened(reader, "a") as found:
        place.bucket.outage = True
        reader.forget("a", "a")
        data_file_gone = place.directory / "nothing"
        assert not data_file_gone.exists()
        assert cached(found, 0, 4096) == data[:4096]


# -- trouble with the cache ----------------------------------------------------------------------------------


def _flip_data(directory: Path) -> None:
    flip(data_file(directory), 2 * BLOCK_BYTES + 77)


def _truncate_data(directory: Path) -> None:
    cut(data_file(directory), BLOCK_BYTES)


def _replace_data(directory: Path) -> None:
    path = data_file(directory)
    path.unlink()
    path.write_bytes(b"something else " * 50_000)


def _remove_data(directory: Path) -> None:
    data_file(directory).unlink()


def _link_data(directory: Path) -> None:
    path = data_file(directory)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _directory_for_data(directory: Path) -> None:
    path = data_file(directory)
    path.unlink()
    path.mkdir()


def _flip_header(directory: Path) -> None:
    flip(map_file(directory), 40)


def _flip_record(directory: Path) -> None:
    flip(map_file(directory), 8192 + 2 * 64 + 12)


def _truncate_map(directory: Path) -> None:
    cut(map_file(directory), 8192 + 64)


def _empty_map(directory: Path) -> None:
    cut(map_file(directory), 0)


def _pipe_for_map(directory: Path) -> None:
    path = map_file(directory)
    path.unlink()
    os.mkfifo(path)


def _link_map(directory: Path) -> None:
    path = map_file(directory)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _forget_map(directory: Path) -> None:
    map_file(directory).unlink()


DAMAGES = [
    _flip_data, _truncate_data, _replace_data, _remove_data, _link_data, _directory_for_data, _flip_header,
    _flip_record, _truncate_map, _empty_map, _pipe_for_map, _link_map, _forget_map,
]  # fmt: skip


@pytest.mark.logs("fetched again", "could not", "is removed", required=False)
@pytest.mark.parametrize("mode", [pytest.param("whole", marks=pytest.mark.slow), "ranges"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_in_the_cache_is_a_miss(place: Place, mode: str, damage: object) -> None:
    """Whatever somebody has done to the cached files, what is read is what is in the bucket; it is fetched
    again, and then cached anew."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(mode=mode)
    assert await fetched(reader, "a") == data
    await reader.close()
    damage(place.directory)  # type: ignore[operator]
    reader = place.reader(mode=mode)
    assert await fetched(reader, "a") == data
    await reader.close()
    assert place.gets("a") > 1
    gets = place.gets("a")
    fresh = place.reader(mode=mode)
    async with opened(fresh, "a") as found:
        assert cached(found, 0, SIZE) == data
    assert place.gets("a") == gets
    if damage not in (_remove_data, _forget_map):
        counts = reader.statistics()
        assert counts["corrupt"] or counts["alien"]


@pytest.mark.logs("its map is that of another object")
async def test_entries_that_were_exchanged(place: Place) -> None:
    """The files of one object under the name of another one are not taken for it."""
    one, other = content(SIZE, 1), content(SIZE, 2)
    await place.put("one", one)
    await place.put("other", other)
    reader = place.reader()
    for key in ("one", "other"):
        await fetched(reader, key)
    await reader.close()
    cache = place.cache()
    paths = [cache._paths(cache.entry_id("memory://files", key)) for key in ("one", "other")]
    for first, second in zip(*paths, strict=True):
        aside = first.with_name("aside")
        first.rename(aside)
        second.rename(first)
        aside.rename(second)
    reader = place.reader(cache)
    assert await fetched(reader, "one") == one
    assert await fetched(reader, "other") == other
    assert reader.statistics()["alien"] == 2


@pytest.mark.logs("is not a file of this user")
async def test_files_of_somebody_else(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to another user is nothing of ours."""
    await place.put("a", b"data")
    await fetched(place.reader(), "a")
    cache = place.cache()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.find("memory://files", "a") is None


async def test_damage_under_an_open_handle(place: Place) -> None:
    """A file that is damaged while it is open is repaired by the next read of it, in place and read-only
    again."""
    data = content(SIZE)
    await place.put("a", data)
    async with opened(place.reader(mode="whole"), "a") as found:
        path = place.directory / "a"
        flip(path, 2 * BLOCK_BYTES)
        assert cached(found, 0, SIZE) is None
        assert await read(found, 0, SIZE) == data
        await settled(found)
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        cut(path, 100)
        assert await read(found, 0, SIZE) == data
        await settled(found)
        assert path.read_bytes() == data
        assert cached(found, 0, SIZE) == data


@pytest.mark.logs("could not")
@pytest.mark.parametrize("mode", MODES)
async def test_a_full_disk(place: Place, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing can be written to the local disk, everything is read all the same, and sixteen blocks in a
    row from memory the second time."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(mode=mode)

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    async with opened(reader, "a") as found:
        assert await read(found, 0, SIZE) == data
        gets = place.gets("a")
        assert cached(found, 0, SIZE) == data
        assert place.gets("a") == gets
    assert not (place.directory / "a").exists()


@pytest.mark.parametrize("mode", MODES)
async def test_a_disk_that_shall_stay_free(place: Place, mode: str) -> None:
    """Nothing is kept where less would stay free than should; reads do not notice."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(place.cache(keep_free_bytes=1 << 60), mode=mode)
    assert await fetched(reader, "a") == data
    assert not list(place.directory.rglob("*.data"))
    assert reader.statistics()["used_bytes"] == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_disk_that_is_too_slow(place: Place, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more waits to be stored than may wait, what is read by ranges is not stored; what is fetched whole
    is."""
    monkeypatch.setattr(object_version, "BACKLOG_BYTES_MAX", -1)
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(mode=mode)
    assert await fetched(reader, "a") == data
    await reader.close()
    counts = reader.statistics()
    if mode == "ranges":
        assert (counts["stored_blocks"], counts["not_stored_blocks"]) == (0, 5)
    else:
        assert counts["stored_blocks"] == 5
        assert (place.directory / "a").read_bytes() == data


@pytest.mark.logs("keeps a lock")
@pytest.mark.parametrize("mode", ["whole", "ranges"])
async def test_a_process_that_is_stopped_while_it_stores(
    place: Place, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who keeps the lock of those who store keeps nobody from reading."""
    monkeypatch.setattr(byte_locks.lock, "__kwdefaults__", {"shared": False, "patience_seconds": 0.01})
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(mode=mode)
    with (place.directory / ".bucketry" / "lock").open("r+b") as stopped:
        assert byte_locks.try_lock(stopped.fileno(), 1)
        assert await fetched(reader, "a") == data
    assert reader.statistics()["stored_blocks"] == 0


@pytest.mark.parametrize("limit", [3 * BLOCK_BYTES, SIZE + 50_000])
async def test_a_file_larger_than_the_cache(place: Place, limit: int) -> None:
    """In whole mode a file that does not fit, or would only just, is read by ranges."""
    data = content(SIZE)
    await place.put("a", data)
    reader = place.reader(place.cache(limit), mode="whole")
    assert await fetched(reader, "a") == data
    assert not (place.directory / "a").exists()


# -- threads and the loop ------------------------------------------------------------------------------------


def test_a_cached_read_does_not_need_the_loop(tmp_path: Path) -> None:
    """What is cached is read by sixteen threads while the event loop stands still."""
    data = content(SIZE)
    runner = LoopOfItsOwn()
    place = Place(tmp_path / "cache")
    try:

        async def prepare() -> OpenObject:
            await place.put("a", data)
            found = await place.reader(mode="ranges").open("a", "a")
            await read(found, 0, SIZE)
            await settled(found)
            return found

        found = runner.run(prepare())
        go_on = runner.stand_still()
        wrong: list[int] = []

        def look(seed: int) -> None:
            random = Random(seed)
            for _ in range(50):
                start = random.randrange(SIZE - 5000)
                if cached(found, start, 5000) != data[start : start + 5000]:
                    wrong.append(start)

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        go_on.set()
        assert wrong == []
        found.close()
    finally:
        runner.run(place.__aexit__(None, None, None))
        runner.close()


def test_a_scrub_that_asks_the_bucket(tmp_path: Path) -> None:
    """A scrub in any thread learns from a reader which objects are still as they are cached; what cannot be
    asked is told, and stays."""
    runner = LoopOfItsOwn()
    place = Place(tmp_path / "cache")
    try:

        async def prepare() -> ObjectReader:
            reader = place.reader(mode="whole")
            for key in ("same", "changed", "gone", "denied"):
                await place.put(key, b"old")
                await fetched(reader, key)
            await place.put("changed", b"new")
            await place.bucket.delete("gone")
            place.bucket.plan(Fail(Denied), operation="head", key="denied")
            return reader

        reader = runner.run(prepare())
        cache = place.cache()
        *_, report = cache.scrub(lambda store, key: runner.run(reader.current_etag(store, key)))
        assert (report.outdated, len(report.problems)) == (2, 1)
        assert report.problems[0].startswith("denied: ")
        plain = {path.name for path in place.directory.iterdir()}
        assert plain == {".bucketry", "same", "denied"}
        with pytest.raises(LookupError):
            runner.run(reader.current_etag("s3://other", "same"))
    finally:
        runner.run(place.__aexit__(None, None, None))
        runner.close()


# -- adopting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_adopted_files_are_not_fetched(place: Place, tmp_path: Path, mode: str) -> None:
    """A local file that was uploaded is in the cache afterwards, as a file of its own: what happens to the
    source does not matter. Once more is fine."""
    data = content(SIZE)
    source = tmp_path / "source"
    source.write_bytes(data)
    etag = await place.put("a", data)
    uploaded = Uploaded(etag, SIZE, sum_pieces([data]))
    reader = place.reader(mode=mode)
    for _ in range(2):
        assert await reader.adopt("a", "a", source, uploaded)
    source.write_bytes(b"changed")
    assert await fetched(reader, "a") == data
    assert place.gets("a") == 0
    if mode != "ranges":
        path = place.directory / "a"
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert path.stat().st_ino != source.stat().st_ino
    assert reader.statistics()["adopted"] == 1


@pytest.mark.logs("changed after it was uploaded")
async def test_a_source_that_has_changed_is_not_adopted(place: Place, tmp_path: Path) -> None:
    """What is not what was uploaded is not kept, nor is a source of another length."""
    data = content(SIZE)
    etag = await place.put("a", data)
    source = tmp_path / "source"
    reader = place.reader(mode="whole")
    for wrong in (content(SIZE, 9), data[:-1]):
        source.write_bytes(wrong)
        assert not await reader.adopt("a", "a", source, Uploaded(etag, SIZE, sum_pieces([data])))
    with pytest.raises(FileNotFoundError):
        await reader.adopt("a", "a", tmp_path / "nothing", Uploaded(etag, SIZE, None))
    assert await fetched(reader, "a") == data


async def test_what_is_half_fetched_is_completed_by_adopting(place: Place, tmp_path: Path) -> None:
    """Blocks that are there already stay."""
    data = content(SIZE)
    etag = await place.put("a", data)
    source = tmp_path / "source"
    source.write_bytes(data)
    reader = place.reader()
    async with opened(reader, "a") as found:
        await read(found, 2 * BLOCK_BYTES, 1)
        gets = place.gets("a")
        assert await reader.adopt("a", "a", source, Uploaded(etag, SIZE, None))
        assert cached(found, 0, SIZE) == data
        assert place.gets("a") == gets


async def test_byte_ranges_are_exact(place: Place) -> None:
    """No request asks for more than the object has, once its size is known."""
    await place.put("a", content(SIZE))
    asked: list[ByteRange] = []
    original = place.bucket.get

    async def get(key: str, *, byte_range: ByteRange, **more: object) -> object:
        asked.append(byte_range)
        return await original(key, byte_range=byte_range, **more)  # type: ignore[arg-type]

    place.bucket.get = get  # type: ignore[assignment, method-assign]
    async with opened(place.reader(), "a") as found:
        await read(found, SIZE - 1, 1)
    assert asked == [ByteRange(0, BLOCK_BYTES), ByteRange(4 * BLOCK_BYTES, SIZE)]
