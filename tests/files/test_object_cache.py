"""The cache directory: its limit, eviction, scrub, and what else may lie there."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from bucketry.core.cache_map import BLOCK_BYTES, CachedObject
from bucketry.core.cache_room import USED_STEP_SECONDS
from bucketry.core.pieces import encode, sum_pieces
from bucketry.files.byte_locks import lock, try_lock, unlock
from bucketry.files.cache_entry import CacheEntry
from bucketry.files.object_cache import ObjectCache, ScrubReport
from files.reading import content, cut, data_file, flip, map_file

STORE = "memory://files"


class Clock:
    """Seconds since 1970, as a test wants them."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Caches:
    """Caches of one directory, closed at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self._open: list[ObjectCache | CacheEntry] = []

    def cache(self, blocks: int = 1000, **more: object) -> ObjectCache:
        """Room for so many blocks, and for the maps of ten small objects."""
        size_bytes = blocks * BLOCK_BYTES + 10 * 12288
        made = ObjectCache(
            self.directory,
            size_bytes=size_bytes,
            now=self.clock,
            **more,  # type: ignore[arg-type]
        )
        self._open.append(made)
        return made

    def entry(
        self, cache: ObjectCache, key: str, blocks: int, *, seal: bool = False, keep: bool = False
    ) -> bytes:
        """Keep an object of so many blocks; returns its bytes."""
        data = content(blocks * BLOCK_BYTES, hash(key))
        self.clock.seconds += 1
        about = CachedObject(STORE, key, key, "1", len(data), None, self.clock.seconds)
        made = cache.create(about)
        assert made is not None
        for block in range(blocks):
            cache.store(made, block, data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
        if seal:
            assert cache.seal(made)
        if keep:
            self._open.append(made)
        else:
            made.close()
        return data

    def close(self) -> None:
        for each in reversed(self._open):
            each.close()


@pytest.fixture
def caches(tmp_path: Path) -> Iterator[Caches]:
    with closing(Caches(tmp_path / "cache")) as made:
        yield made


def taken(directory: Path) -> int:
    """What the data of all entries takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*.data"))


def present(cache: ObjectCache, key: str) -> list[int]:
    """Which blocks of an object are there."""
    found = cache.find(STORE, key)
    if found is None:
        return []
    with closing(found):
        return found.records().present()


def scrubbed(cache: ObjectCache, **more: object) -> ScrubReport:
    *_, report = cache.scrub(**more)  # type: ignore[arg-type]
    return report


# -- the directory -------------------------------------------------------------------------------------------


def test_one_level_is_made(tmp_path: Path) -> None:
    """A missing directory is made, for its user alone; with its parent missing that is ENOENT."""
    ObjectCache(tmp_path / "one", size_bytes=1).close()
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    with pytest.raises(OSError) as found:
        ObjectCache(tmp_path / "two" / "three", size_bytes=1)
    assert found.value.errno == errno.ENOENT


@pytest.mark.parametrize("below", ["", "below"])
def test_no_directory(tmp_path: Path, below: str) -> None:
    """A file in its place, or in its parent's, is EINVAL."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as found:
        ObjectCache(tmp_path / "file" / below, size_bytes=1)
    assert found.value.errno == errno.EINVAL


def test_a_directory_that_others_may_write_to(tmp_path: Path) -> None:
    """Where others could change what is cached, or put links in our way, nothing is cached: EACCES."""
    tmp_path.chmod(0o777)
    with pytest.raises(OSError) as found:
        ObjectCache(tmp_path, size_bytes=1)
    assert found.value.errno == errno.EACCES


def test_a_private_cache_goes_with_its_owner(tmp_path: Path) -> None:
    """Without a directory there is a temporary one until close."""
    cache = ObjectCache(None, size_bytes=1 << 20)
    assert cache.directory.is_dir()
    cache.close()
    cache.close()
    assert not cache.directory.exists()


def test_state_elsewhere(tmp_path: Path) -> None:
    """With a place of its own for everything else, the directory holds plain files and nothing besides."""
    cache = ObjectCache(tmp_path / "cache", size_bytes=1 << 20, state_directory=tmp_path / "state")
    data = content(1000)
    entry = cache.create(CachedObject(STORE, "a", "a", "1", 1000, None, 1.0))
    assert entry is not None
    with closing(cache), closing(entry):
        assert cache.store(entry, 0, data)
        assert cache.seal(entry)
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a"]
        assert (tmp_path / "cache" / "a").read_bytes() == data


# -- the limit -----------------------------------------------------------------------------------------------


def test_the_limit_holds(caches: Caches) -> None:
    """However much is stored, no more than the limit is taken, on the disk and in the account."""
    cache = caches.cache(20)
    for number in range(8):
        caches.entry(cache, str(number), 5)
        used = cache.statistics()["used_bytes"]
        assert isinstance(used, int)
        assert used <= cache.size_bytes
        assert taken(caches.directory) <= cache.size_bytes
    assert present(cache, "7") == [0, 1, 2, 3, 4]
    assert present(cache, "0") == []
    assert cache.counts.evicted_blocks >= 20


@pytest.mark.slow
def test_what_is_used_stays(caches: Caches) -> None:
    """Blocks that are read now and then survive any number of blocks that are read once."""
    cache = caches.cache(40)
    data = caches.entry(cache, "used", 8)
    for number in range(40):
        caches.clock.seconds += USED_STEP_SECONDS
        entry = cache.find(STORE, "used")
        assert entry is not None
        with closing(entry):
            for block in range(8):
                assert (
                    entry.read_block(block, cache.now_seconds())
                    == data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                )
        caches.entry(cache, f"scan{number}", 4)
    assert present(cache, "used") == list(range(8))


def test_the_first_block_stays_longest(caches: Caches) -> None:
    """Of an object that is used at its end, the first block, which every open needs, does not go before."""
    cache = caches.cache(20)
    caches.entry(cache, "a", 8)
    for number in range(10):
        caches.clock.seconds += USED_STEP_SECONDS
        entry = cache.find(STORE, "a")
        assert entry is not None
        with closing(entry):
            assert entry.read_block(7, cache.now_seconds())
        caches.entry(cache, str(number), 4)
    assert present(cache, "a")[0] == 0


def test_whole_files_go_as_a_whole(caches: Caches) -> None:
    """A sealed file is evicted with its plain file and the directories that it was in, or stays whole."""
    cache = caches.cache(20)
    for number in range(8):
        caches.entry(cache, f"dir{number}/file", 5, seal=True)
        for other in range(number + 1):
            assert len(present(cache, f"dir{other}/file")) in (0, 5)
            assert (caches.directory / f"dir{other}").exists() == bool(present(cache, f"dir{other}/file"))
    assert cache.counts.evicted_files >= 4


def test_whole_files_that_are_open_stay(caches: Caches) -> None:
    """No sealed file goes while somebody has it open; the others share what is left."""
    cache, elsewhere = caches.cache(20), caches.cache(20)
    caches.entry(cache, "open", 15, seal=True, keep=True)
    caches.entry(elsewhere, "more", 15)
    assert len(present(cache, "open")) == 15
    assert len(present(cache, "more")) <= 5
    assert taken(caches.directory) <= cache.size_bytes


def test_only_what_is_whole_is_sealed(caches: Caches) -> None:
    """A file that lacks a block, or has been removed, does not get its plain name."""
    cache = caches.cache()
    about = CachedObject(STORE, "a", "a", "1", 3 * BLOCK_BYTES, None, 1.0)
    entry = cache.create(about)
    assert entry is not None
    with closing(entry):
        cache.store(entry, 0, bytes(2 * BLOCK_BYTES))
        assert not cache.seal(entry)
        assert cache.store(entry, 2, bytes(BLOCK_BYTES))
        cache.remove(STORE, "a")
        assert not cache.seal(entry)
        assert not cache.store(entry, 0, bytes(BLOCK_BYTES))
    assert not (caches.directory / "a").exists()


def test_what_is_removed_or_replaced_is_not_counted(caches: Caches) -> None:
    """The account tells what is there, to the byte, after removals and new versions."""
    cache = caches.cache()
    caches.entry(cache, "a", 3)
    used = cache.statistics()["used_bytes"]
    caches.entry(cache, "a", 3)
    assert cache.statistics()["used_bytes"] == used
    caches.entry(cache, "b", 2, seal=True)
    cache.remove(STORE, "b")
    assert cache.statistics()["used_bytes"] == used
    cache.remove(STORE, "a")
    cache.remove(STORE, "a")
    assert cache.statistics()["used_bytes"] == 0


def test_open_ranges_may_go(caches: Caches) -> None:
    """Blocks of an object that is read by ranges go though it is open; then they are a miss, not damage."""
    cache = caches.cache(20)
    about = CachedObject(STORE, "a", "a", "1", 15 * BLOCK_BYTES, None, 1.0)
    entry = cache.create(about)
    assert entry is not None
    with closing(entry):
        assert cache.store(entry, 0, bytes(15 * BLOCK_BYTES))
        for number in range(4):
            caches.entry(cache, str(number), 5)
        assert entry.missing()
        for block in entry.missing():
            assert entry.read_block(block, 1) is None
    assert cache.counts.corrupt == 0


def test_a_lost_account_is_made_anew(caches: Caches) -> None:
    """When the account is damaged, what is there is counted."""
    cache = caches.cache(20)
    caches.entry(cache, "a", 15)
    used = cache.statistics()["used_bytes"]
    for damage in (b"", b"x" * 16, b"bkry-sum"):
        (caches.directory / ".bucketry" / "account").write_bytes(damage)
        caches.entry(cache, "b", 1)
        cache.remove(STORE, "b")
        scrubbed(cache)
        assert cache.statistics()["used_bytes"] == used


@pytest.mark.slow
def test_many_processes_keep_one_limit(caches: Caches) -> None:
    """Threads with caches of their own, as processes have them, store and read at random: the limit holds all
    the time, nobody ever reads wrong bytes, and what is taken is what the account says."""
    wrong: list[str] = []
    keys = [f"key{number}" for number in range(6)]
    about = {key: CachedObject(STORE, key, key, "1", 8 * BLOCK_BYTES, None, 1.0) for key in keys}
    bytes_of = {key: content(8 * BLOCK_BYTES, number) for number, key in enumerate(keys)}
    opened = caches.cache(20)
    for key in keys:
        made = opened.create(about[key])
        assert made is not None
        made.close()

    def work(seed: int) -> None:
        random = Random(seed)
        cache = ObjectCache(caches.directory, size_bytes=opened.size_bytes)
        for _ in range(60):
            key, block = random.choice(keys), random.randrange(8)
            key_lock = cache.try_lock_key(cache.entry_id(STORE, key))
            if key_lock is None:
                continue
            with closing(key_lock):
                entry = cache.find(STORE, key) or cache.create(about[key])
            if entry is None:
                continue
            with closing(entry):
                wanted = bytes_of[key][block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                found = entry.read_block(block, cache.now_seconds())
                if found is None:
                    cache.store(entry, block, wanted)
                elif found != wanted:
                    wrong.append(key)
            used = cache.statistics()["used_bytes"]
            if not isinstance(used, int) or used > cache.size_bytes:
                wrong.append(f"used {used}")
        cache.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert taken(caches.directory) <= opened.size_bytes
    before = opened.statistics()["used_bytes"]
    report = scrubbed(opened)
    assert (report.bad_blocks, report.problems) == (0, [])
    after = opened.statistics()["used_bytes"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after <= before


def test_who_evicts_has_his_turn(caches: Caches) -> None:
    """While somebody waits to evict, nobody else begins to store; so it does not matter how many do."""
    cache = caches.cache()
    path = caches.directory / ".bucketry" / "lock"
    with cache._storing(), path.open("r+b") as looking:
        thread = threading.Thread(target=cache.remove, args=(STORE, "a"))
        thread.start()
        while try_lock(looking.fileno(), 2, shared=True):
            unlock(looking.fileno(), 2)
        with pytest.raises(TimeoutError):
            lock(looking.fileno(), 2, shared=True, patience_seconds=0.01)
    thread.join()
    with cache._storing():
        pass
    assert cache.counts.local_errors == 0


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_room_taken_for_ever(caches: Caches) -> None:
    """Room that a killed process had taken and not used is free again when room is needed."""
    cache = caches.cache(20)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bucketry.files.object_cache import ObjectCache\n"
        "cache = ObjectCache(Path(sys.argv[1]), size_bytes=int(sys.argv[2]))\n"
        "assert cache._make_room(1)\n"
        "with cache._storing():\n"
        "    assert cache._take(19 * 131072)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    arguments = [sys.executable, "-c", program, str(caches.directory), str(cache.size_bytes)]
    assert subprocess.run(arguments, check=False).returncode == -9
    used = cache.statistics()["used_bytes"]
    assert isinstance(used, int)
    assert used >= 19 * BLOCK_BYTES
    caches.entry(cache, "a", 15)
    assert len(present(cache, "a")) == 15


class _Killed(BaseException):
    """The end of a process, as far as the files are concerned."""


@pytest.mark.slow
@pytest.mark.logs("a process that has ended", required=False)
@pytest.mark.parametrize("seal", [False, True])
def test_an_end_at_any_moment(caches: Caches, seal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call into the system is the last one of a process that makes, fills and seals an entry: who
    comes after it finds no wrong byte, no plain file that is not whole, and room for the same again."""
    data = content(3 * BLOCK_BYTES)
    about = CachedObject(STORE, "dir/a", "dir/a", "1", len(data), None, 1.0)
    calls = ("pwrite", "ftruncate", "replace", "link", "fchmod", "fsync", "mkdir", "open")
    originals = {name: getattr(os, name) for name in calls}
    left = 0

    def last_call(name: str) -> object:
        def call(*arguments: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise _Killed
            if left < 0:
                raise OSError(errno.EIO, "a process that has ended does nothing any more")
            return originals[name](*arguments, **more)

        return call

    count, ended = 0, False
    while not ended:
        count += 1
        cache = caches.cache(7)
        left = count
        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, last_call(name))
            try:
                entry = cache.create(about)
                if entry is not None:
                    caches._open.append(entry)
                    for block in range(3):
                        cache.store(entry, block, data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
                    if seal:
                        cache.seal(entry)
                ended = left > 0
            except _Killed:
                pass
        plain = caches.directory / "dir" / "a"
        if plain.exists():
            assert plain.read_bytes() == data
        fresh = caches.cache(7)
        found = fresh.find(STORE, "dir/a")
        if found is not None:
            with closing(found):
                for block in found.records().present():
                    wanted = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                    assert found.read_block(block, 1) == wanted
        assert scrubbed(fresh).bad_blocks == 0
        fresh.remove(STORE, "dir/a")
        assert not plain.exists()
        caches.entry(fresh, "other", 6)
        assert len(present(fresh, "other")) == 6
        fresh.remove(STORE, "other")
    assert count > 20


@pytest.mark.logs("No space left")
@pytest.mark.parametrize("present_before", [False, True])
def test_blocks_that_cannot_be_written(
    caches: Caches, present_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full in the middle of storing, room and space are given back, and blocks that were
    there before are still good."""
    cache = caches.cache()
    data = content(4 * BLOCK_BYTES)
    entry = cache.create(CachedObject(STORE, "a", "a", "1", len(data), None, 1.0))
    assert entry is not None
    with closing(entry):
        if present_before:
            assert cache.store(entry, 1, data[BLOCK_BYTES : 2 * BLOCK_BYTES])
        used, space = cache.statistics()["used_bytes"], taken(caches.directory)
        pwrite = os.pwrite

        def full(file: int, view: memoryview, offset: int) -> int:
            if len(view) > 3 * BLOCK_BYTES:
                return pwrite(file, view[: BLOCK_BYTES + BLOCK_BYTES // 2], offset)
            if len(view) > BLOCK_BYTES:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(file, view, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            assert not cache.store(entry, 0, data)
        assert cache.statistics()["used_bytes"] == used
        if present_before:
            assert entry.read_block(1, 1) == data[BLOCK_BYTES : 2 * BLOCK_BYTES]
        else:
            assert taken(caches.directory) == space
        assert entry.missing() == [block for block in range(4) if not (present_before and block == 1)]


def test_data_without_a_map_goes_when_room_is_needed(caches: Caches) -> None:
    """What a process was about to remove when it was killed does not take space for ever."""
    cache = caches.cache(20)
    caches.entry(cache, "a", 10)
    map_file(caches.directory).unlink()
    before = taken(caches.directory)
    assert cache._make_room(20 * BLOCK_BYTES - 4096)
    assert before - taken(caches.directory) == 10 * BLOCK_BYTES


@pytest.mark.parametrize("by_scrub", [False, True])
def test_what_was_written_and_not_noted(caches: Caches, by_scrub: bool) -> None:
    """Space that a killed process has filled without saying so in the map is given back, and no other."""
    cache = caches.cache(20)
    data = content(10 * BLOCK_BYTES)
    entry = cache.create(CachedObject(STORE, "a", "a", "1", len(data), None, 1.0))
    assert entry is not None
    with closing(entry):
        assert cache.store(entry, 3, data[3 * BLOCK_BYTES : 4 * BLOCK_BYTES])
        before = taken(caches.directory)
        data_file(caches.directory).write_bytes(data)
        assert taken(caches.directory) > before
        if by_scrub:
            scrubbed(cache)
        else:
            assert cache._make_room(20 * BLOCK_BYTES - 4096)
        assert taken(caches.directory) <= before
        assert entry.read_block(3, 1) == (data[3 * BLOCK_BYTES : 4 * BLOCK_BYTES] if by_scrub else None)


# -- scrub ---------------------------------------------------------------------------------------------------


def test_scrub_of_a_sound_cache(caches: Caches) -> None:
    """Everything is read, nothing is dropped, and the report grows on the way."""
    cache = caches.cache()
    for number in range(3):
        caches.entry(cache, str(number), 20, seal=number == 1)
    seen = [(report.entries, report.blocks, report.bytes) for report in cache.scrub()]
    assert seen[0] == (0, 0, 0)
    assert seen == sorted(seen)
    assert seen[-1] == (3, 60, 60 * BLOCK_BYTES)
    assert len(seen) > 4
    report = scrubbed(cache)
    assert (report.bad_blocks, report.alien, report.stale_temporary, report.problems) == (0, 0, 0, [])


@pytest.mark.parametrize("seal", [False, True])
def test_scrub_drops_bad_blocks(caches: Caches, seal: bool) -> None:
    """A damaged block is dropped, the others stay; the room is given back."""
    cache = caches.cache()
    data = caches.entry(cache, "a", 5, seal=seal)
    flip(data_file(caches.directory), 2 * BLOCK_BYTES + 100_000)
    cut(data_file(caches.directory), 4 * BLOCK_BYTES + 10)
    assert scrubbed(cache).bad_blocks == 2
    assert present(cache, "a") == [0, 1, 3]
    entry = cache.find(STORE, "a")
    assert entry is not None
    with closing(entry):
        assert cache.store(entry, 2, data[2 * BLOCK_BYTES : 3 * BLOCK_BYTES])
        assert entry.read_block(2, 1) == data[2 * BLOCK_BYTES : 3 * BLOCK_BYTES]
    assert scrubbed(cache).bad_blocks == 0


def test_scrub_compares_with_what_was_uploaded(caches: Caches) -> None:
    """A file that is whole, agrees with its map and not with the object's own checksums is dropped, the
    pieces that are wrong."""
    cache = caches.cache()
    data = content(3 * BLOCK_BYTES)
    pieces = encode(sum_pieces([data]), len(data))
    entry = cache.create(CachedObject(STORE, "a", "a", "1", len(data), pieces, 1.0))
    assert entry is not None
    with closing(entry):
        cache.store(entry, 0, data[: 2 * BLOCK_BYTES])
        cache.store(entry, 2, bytes(BLOCK_BYTES))
    report = scrubbed(cache)
    assert (report.bad_files, report.bad_blocks) == (1, 0)
    assert present(cache, "a") == [0, 1]


@pytest.mark.logs("is removed")
def test_scrub_removes_what_nobody_can_use(caches: Caches) -> None:
    """Maps that are none, data without a map and what killed processes left are removed; what others are
    making stays."""
    cache = caches.cache()
    caches.entry(cache, "a", 2)
    flip(map_file(caches.directory), 30)
    entries = caches.directory / ".bucketry" / "entries"
    (entries / "00").mkdir(exist_ok=True)
    (entries / "00" / ("0" * 40 + ".data")).write_bytes(b"lost")
    temporary = caches.directory / ".bucketry" / "tmp"
    (temporary / "left").write_bytes(b"x")
    (temporary / "busy").write_bytes(b"x")
    with (temporary / "busy").open("r+b") as busy:
        lock(busy.fileno(), 0, shared=True)
        report = scrubbed(cache)
        assert (report.alien, report.stale_temporary) == (2, 1)
        assert [path.name for path in temporary.iterdir()] == ["busy"]
    assert not list(entries.rglob("*.data"))
    assert cache.statistics()["used_bytes"] == 0


@pytest.mark.logs("it has no data", "Too many open files")
def test_a_map_without_data_and_one_that_cannot_be_read(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map whose data has gone is removed; one that cannot be read just now stays."""
    cache = caches.cache()
    caches.entry(cache, "a", 1)
    data_file(caches.directory).unlink()
    assert scrubbed(cache).alien == 1
    assert not list(caches.directory.rglob("*.map"))
    caches.entry(cache, "b", 1)
    path, real = map_file(caches.directory), os.open

    def refuse(opened: object, *arguments: object, **more: object) -> int:
        if opened == path:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(opened, *arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert scrubbed(cache).alien == 0
    assert present(cache, "b") == [0]


def test_scrub_asks_the_bucket(caches: Caches) -> None:
    """Objects that have gone or changed are removed from the cache; those of other buckets are left alone."""
    cache = caches.cache()
    for key in ("same", "changed", "gone", "unknown"):
        caches.entry(cache, key, 1, seal=True)

    def compare(store: str, key: str) -> str | None:
        assert store == STORE
        if key == "unknown":
            raise LookupError(store)
        return {"same": "1", "changed": "2"}.get(key)

    assert scrubbed(cache, compare=compare).outdated == 2
    plain = {path.name for path in caches.directory.iterdir()}
    assert plain == {".bucketry", "same", "unknown"}
