"""The fsspec face: fsspec's own suites, and what is ours about it."""

import gc
import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import fsspec.tests.abstract as abstract
import pytest

from bucketry.bucket.interface import ObjectInfo
from bucketry.bucket.memory import MemoryStore, _stores
from bucketry.errors import Invalid
from bucketry.files.fsspec_face import (
    BucketryFileSystem,
    BucketryMemoryFileSystem,
    BucketryS3FileSystem,
)
from bucketry.settings import RetrySettings, Secret
from servers.seaweed import Seaweed


@pytest.fixture
def store() -> Iterator[str]:
    """The name of an empty store in memory."""
    name = "fsspec-tests"
    _stores[name] = MemoryStore()
    yield name
    del _stores[name]


@pytest.fixture
def fs(store: str) -> Iterator[BucketryFileSystem]:
    fs = BucketryFileSystem(url=f"memory://{store}/prefix")
    yield fs
    fs.close()


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """What fsspec's suites ask for."""

    @pytest.fixture
    def fs(self, store: str) -> Iterator[BucketryFileSystem]:
        fs = BucketryFileSystem(url=f"memory://{store}/prefix")
        yield fs
        fs.close()

    @pytest.fixture
    def fs_path(self) -> str:
        return "suite"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


@pytest.mark.slow
class TestCopy(Fixtures, abstract.AbstractCopyTests):  # type: ignore[misc]
    """fsspec's own."""


@pytest.mark.slow
class TestGet(Fixtures, abstract.AbstractGetTests):  # type: ignore[misc]
    """fsspec's own."""


@pytest.mark.slow
class TestPut(Fixtures, abstract.AbstractPutTests):  # type: ignore[misc]
    """fsspec's own."""


class TestOpen(Fixtures, abstract.AbstractOpenTests):  # type: ignore[misc]
    """fsspec's own."""


class TestPipe(Fixtures, abstract.AbstractPipeTests):  # type: ignore[misc]
    """fsspec's own."""


def test_files_are_written_once(fs: BucketryFileSystem) -> None:
    """The same again is fine; another content is FileExistsError and changes nothing, whichever way it comes,
    unless the call says otherwise."""
    fs.pipe_file("a", b"one")
    fs.pipe_file("a", b"one")
    with pytest.raises(FileExistsError):
        fs.pipe_file("a", b"two")
    with pytest.raises(FileExistsError):
        fs.pipe_file("a", b"one", mode="create")
    with pytest.raises(FileExistsError), fs.open("a", "wb") as file:
        file.write(b"two")
    with fs.open("a", "wb") as file:
        file.write(b"one")
    assert fs.cat("a") == b"one"
    fs.pipe_file("a", b"two", mode="overwrite")
    assert fs.cat("a") == b"two"
    with pytest.raises(OSError, match="nothing can be appended"):
        fs.open("a", "ab")


def test_a_file_system_that_overwrites(store: str) -> None:
    """By its option."""
    fs = BucketryFileSystem(url=f"memory://{store}", overwrite=True)
    for content in (b"one", b"two"):
        with fs.open("a", "wb") as file:
            file.write(content)
        assert fs.cat("a") == content
    fs.close()


def test_an_exception_while_writing_leaves_nothing(fs: BucketryFileSystem) -> None:
    """Half a file is none. Neither is one that nobody closed, nor one of a transaction that failed."""
    with pytest.raises(ZeroDivisionError), fs.open("a", "wb") as file:
        file.write(b"half")
        raise ZeroDivisionError
    fs.open("b", "wb").write(b"half")
    gc.collect()
    with pytest.raises(ZeroDivisionError), fs.transaction:
        with fs.open("c", "wb") as file:
            file.write(b"whole")
        raise ZeroDivisionError
    assert fs.find("") == []
    with fs.transaction:
        with fs.open("d", "wb") as file:
            file.write(b"whole")
        assert not fs.exists("d")
    assert fs.cat("d") == b"whole"


def test_reading_a_file(fs: BucketryFileSystem) -> None:
    """Seek, read, readinto, lines, and the end; a closed one refuses."""
    content = b"".join(b"line %d\n" % n for n in range(1000))
    fs.pipe_file("lines", content)
    with fs.open("lines") as file:
        assert file.read(6) == b"line 0"
        file.seek(-5, 2)
        assert file.read() == content[-5:]
        assert file.read(10) == b""
        buffer = bytearray(10)
        file.seek(len(content) - 4)
        assert file.readinto(buffer) == 4
        assert file.readinto(buffer) == 0
        file.seek(len(content) + 100)
        assert file.readinto(buffer) == 0
        assert file.read(10) == file.read() == b""
        file.seek(0)
        assert sum(1 for _ in file) == 1000
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    assert fs.cat_file("lines", 5, 7) == content[5:7]
    assert fs.cat_file("lines", -7) == content[-7:]
    assert fs.cat_ranges(["lines"] * 2, [0, 3], [2, 5]) == [content[0:2], content[3:5]]


def test_a_file_that_nobody_closes(fs: BucketryFileSystem) -> None:
    """Is closed when nobody has it any more, without the garbage collector."""
    fs.pipe_file("a", b"x")
    gc.disable()
    try:
        assert fs.open("a").read() == b"x"
        (files,) = fs._shared.file_systems.values()
        while files.statistics()["open_handles"]:
            threading.Event().wait(0.005)
        assert fs.open("a", cache_type="readahead").read() == b"x"
    finally:
        gc.enable()
    gc.collect()
    while files.statistics()["open_handles"]:
        threading.Event().wait(0.005)


@pytest.mark.logs("not listed: the key 'prefix/a//b' has an empty part")
def test_a_key_that_can_be_no_name_hides_no_other(store: str, fs: BucketryFileSystem) -> None:
    """Another program may have put it; it is told of once, and passed over."""
    fs.pipe_file("a/c", b"x")
    _stores[store].objects["prefix/a//b"] = ObjectInfo("prefix/a//b", 1, '"etag"'), b"x"
    for _ in range(2):
        fs.invalidate_cache()
        assert fs.ls("a", detail=False) == ["a/c"]
    assert fs.find("") == ["a/c"]


def test_directories_are_what_slashes_suggest(fs: BucketryFileSystem) -> None:
    """Listed, walked, globbed, sized and removed as such; an empty one is none."""
    for name in ("a/b/c", "a/b/d", "a/e", "f", "ab"):
        fs.pipe_file(name, name.encode())
    assert fs.ls("", detail=False) == ["a", "ab", "f"]
    assert fs.ls("a", detail=False) == ["a/b", "a/e"]
    assert [(entry["name"], entry["type"], entry["size"]) for entry in fs.ls("a")] == [
        ("a/b", "directory", 0), ("a/e", "file", 3)
    ]  # fmt: skip
    assert (fs.isdir("a/b"), fs.isfile("a/b"), fs.isdir("a/e"), fs.isfile("a/e")) == (
        True,
        False,
        False,
        True,
    )
    assert fs.find("a") == ["a/b/c", "a/b/d", "a/e"]
    assert sorted(fs.glob("a/*/c")) == ["a/b/c"]
    assert fs.glob("**/c") == ["a/b/c"]
    assert [(root, sorted(dirs), sorted(names)) for root, dirs, names in fs.walk("a")] == [
        ("a", ["b"], ["e"]), ("a/b", [], ["c", "d"])
    ]  # fmt: skip
    assert fs.du("a") == 13
    with pytest.raises(FileNotFoundError):
        fs.ls("nothing")
    with pytest.raises(IsADirectoryError):
        fs.rm("a")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("a")
    fs.rm("a", recursive=True)
    assert fs.find("") == ["ab", "f"]
    fs.mkdir("new")
    assert not fs.exists("new")
    with pytest.raises(FileNotFoundError):
        fs.rm_file("a/e")
    assert fs.modified("f") == fs.info("f")["LastModified"]
    assert fs.checksum("f") != fs.checksum("ab")


def test_the_bucket_in_the_path(store: str) -> None:
    """bucketry+memory:// and its like: one file system for all buckets, URLs as they come."""
    _stores["other"] = MemoryStore()
    fs = BucketryMemoryFileSystem()
    fs.pipe({f"bucketry+memory://{store}/x/a": b"1", "other/x/a": b"2"})
    assert fs.cat([f"{store}/x/a", "bucketry+memory://other/x/a"]) == {
        f"{store}/x/a": b"1",
        "other/x/a": b"2",
    }
    assert fs.ls(store, detail=False) == [f"{store}/x"]
    assert fs.unstrip_protocol("other/x/a") == "bucketry+memory://other/x/a"
    fs.cp(f"{store}/x/a", "other/copy")
    assert fs.find("other") == ["other/copy", "other/x/a"]
    with fsspec.open(f"bucketry+memory://{store}/x/a", "rb") as file:
        assert file.read() == b"1"
    with pytest.raises(OSError, match="buckets cannot be listed"):
        fs.ls("")
    fs.close()
    for left in list(BucketryMemoryFileSystem._cache.values()):
        left.close()
    del _stores["other"]


def test_what_cannot_be_made() -> None:
    """A rooted one without a URL, another one with it, options of nobody's."""
    with pytest.raises(Invalid, match="needs url="):
        BucketryFileSystem()
    with pytest.raises(Invalid, match="takes no url="):
        BucketryS3FileSystem(url="s3://b")
    with pytest.raises(Invalid, match="not as a Secret"):
        BucketryS3FileSystem(key="id", secret=Secret("geheim"))
    with pytest.raises(Invalid, match="colour is not an option"):
        BucketryFileSystem(url="memory://x", colour="red")


def test_other_keys_are_another_file_system() -> None:
    """Nobody gets requests signed with the keys of somebody else; none of them shows in a repr."""
    one = BucketryS3FileSystem(key="id", secret="geheim1")
    two = BucketryS3FileSystem(key="id", secret="geheim2")
    same = BucketryS3FileSystem(key="id", secret="geheim1")
    assert one is same
    assert one is not two
    assert one.source is not two.source
    assert "geheim" not in f"{one!r} {one.source!r} {one.source.statistics()}"
    one.close()
    two.close()


def test_options_that_are_mappings() -> None:
    """Tags as a dictionary, as everybody would write them."""
    fs = BucketryS3FileSystem(key="id", secret="geheim", tags={"b": "2", "a": "1"})
    fs.close()


def test_trouble_is_not_absence() -> None:
    """A store that cannot be reached says so, where the base class would say that the file does not exist."""
    fs = BucketryS3FileSystem(
        key="id", secret="geheim", endpoint="http://127.0.0.1:9", retry=RetrySettings(budget_seconds=0.0)
    )
    with pytest.raises(OSError, match="Unable to reach bucket"):
        fs.exists("bucket/x")
    assert "geheim" not in repr(fs)
    fs.close()


def test_file_systems_with_the_same_options_share_a_source(fs: BucketryFileSystem, store: str) -> None:
    """In every thread, and after pickling; closing one leaves the others open; closing twice is fine."""
    fs.pipe_file("a", b"x")
    other = BucketryFileSystem(url=f"memory://{store}", skip_instance_cache=True)
    assert other.source is fs.source
    copy: Any = pickle.loads(pickle.dumps(fs))
    assert copy.cat("a") == b"x"
    other.close()
    other.close()
    assert fs.cat("a") == b"x"
    assert fs.source.references == 1


def test_local_files_come_and_go(fs: BucketryFileSystem, tmp_path: Path) -> None:
    """put and get of files and trees, by name and by open file."""
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "a").write_bytes(b"a" * 100_000)
    fs.put(str(tmp_path / "tree"), "tree", recursive=True)
    assert fs.find("") == ["tree/deep/a"]
    fs.get("tree", str(tmp_path / "back"), recursive=True)
    assert (tmp_path / "back" / "deep" / "a").read_bytes() == b"a" * 100_000
    with (tmp_path / "open").open("wb") as file:
        fs.get_file("tree/deep/a", file)
    assert (tmp_path / "open").stat().st_size == 100_000


_numbers = itertools.count()


@pytest.fixture(scope="module")
def lake(seaweed: Seaweed) -> str:
    return seaweed.make_bucket()


class SeaweedFixtures(Fixtures):
    """The bucket in the path, on a real server. Patterns are left out, a hundred of them: fsspec matches them
    against names by itself, and the names are the same."""

    @pytest.fixture
    def fs(self, seaweed: Seaweed) -> Iterator[BucketryFileSystem]:
        fs = BucketryS3FileSystem(
            endpoint_url=seaweed.endpoint, key=seaweed.access_key, secret=seaweed.secret_key
        )
        yield fs
        fs.close()

    @pytest.fixture
    def fs_path(self, lake: str) -> str:
        return f"{lake}/{next(_numbers)}"


@pytest.mark.system
class TestCopyOnSeaweed(SeaweedFixtures, abstract.AbstractCopyTests):  # type: ignore[misc]
    """fsspec's own."""

    test_copy_glob_edge_cases = None


@pytest.mark.system
class TestGetOnSeaweed(SeaweedFixtures, abstract.AbstractGetTests):  # type: ignore[misc]
    """fsspec's own."""

    test_get_glob_edge_cases = None


@pytest.mark.system
class TestPutOnSeaweed(SeaweedFixtures, abstract.AbstractPutTests):  # type: ignore[misc]
    """fsspec's own."""

    test_put_glob_edge_cases = None


@pytest.mark.system
class TestOpenOnSeaweed(SeaweedFixtures, abstract.AbstractOpenTests):  # type: ignore[misc]
    """fsspec's own."""


@pytest.mark.system
class TestPipeOnSeaweed(SeaweedFixtures, abstract.AbstractPipeTests):  # type: ignore[misc]
    """fsspec's own."""
