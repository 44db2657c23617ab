"""The contract of write-once files as tests: sources, file systems and handles over any bucket.

Subclass it in a test module, with a fixture ``place`` that says where an empty bucket is (pytest)::

    class TestMine(FilesContract):
        @pytest.fixture
        def place(self):
            return FilesPlace(bucket="s3://mine", missing_bucket="s3://nobody-made-this")

Every failure is an OSError, and its errno is part of the contract.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from bucketry.files.file_system import FileSystem
from bucketry.files.storage_source import StorageSource
from bucketry.settings import BucketSettings, FilesSettings

#: What upstream's unit test of its connection class puts: twelve bytes.
PAYLOAD = b"Test payload"
THREADS_COUNT = 16


@dataclass(frozen=True)
class FilesPlace:
    """Where the suite works: strings for ``customize_file_system``, and how to reach the buckets.

    ``overwrite`` puts an object behind everybody's back; ``drop_bucket`` makes the bucket itself go away
    (None: it cannot)."""

    bucket: str
    missing_bucket: str
    token: str | None = field(default=None, repr=False)
    template: BucketSettings = field(default_factory=lambda: BucketSettings(url=""))
    overwrite: Callable[[str, bytes], None] | None = None
    drop_bucket: Callable[[], None] | None = None

    @property
    def missing_bucket_name(self) -> str:
        """As the message about it says."""
        name = self.missing_bucket
        return (
            name.removeprefix("file://")
            if name.startswith("file://")
            else name.rpartition("//")[2].split(";")[0]
        )


@contextmanager
def fails(number: int, words: str = "") -> Iterator[None]:
    """What is inside must raise an OSError with this errno, with ``words`` in its message."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno decides
        yield
    assert caught.value.errno == number, caught.value
    assert words in str(caught.value)


class FilesContract:
    """Fixtures and tests."""

    @pytest.fixture
    def place(self) -> FilesPlace:
        raise NotImplementedError

    @pytest.fixture(params=["auto"])
    def settings(self, request: pytest.FixtureRequest) -> FilesSettings:
        """Of most tests."""
        return FilesSettings(mode=request.param)

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        """Where local files and caches are."""
        (tmp_path / "home").mkdir()
        return tmp_path / "home"

    @pytest.fixture
    def source(self, place: FilesPlace, home: Path, settings: FilesSettings) -> Iterator[StorageSource]:
        with StorageSource(home, settings, place.template) as source:
            yield source

    @pytest.fixture
    def files(self, place: FilesPlace, source: StorageSource) -> FileSystem:
        """The file system of most tests."""
        return source.customize_file_system(place.bucket, place.token)

    @pytest.fixture
    def put(self, home: Path, files: FileSystem) -> Callable[..., bool]:
        """Flushes an object of this content."""

        def put(name: str, content: bytes = PAYLOAD) -> bool:
            (home / "local").write_bytes(content)
            return files.flush("local", name)

        return put

    # -- sources and their references --------------------------------------------------------------------

    def test_references(self, place: FilesPlace, home: Path) -> None:
        """A source begins with one reference, and ends when as many were given back as there were; after that
        both adding and giving back are EINVAL."""
        source = StorageSource(home, None, place.template)
        files = source.customize_file_system(place.bucket, place.token)
        source.add_reference()
        source.add_reference()
        assert source.references == 3
        source.terminate()
        source.terminate()
        assert files.exist("anything") is False
        source.terminate()
        assert (source.references, source.closed, files.closed) == (0, True, True)
        with fails(errno.EINVAL, "no reference left"):
            source.add_reference()
        with fails(errno.EINVAL, "no reference left"):
            source.terminate()
        with fails(errno.EBADF, "closed"):
            source.customize_file_system(place.bucket, place.token)

    def test_termination_closes_what_is_left(
        self,
        place: FilesPlace,
        home: Path,
        put: Callable[..., bool],
        source: StorageSource,
        files: FileSystem,
    ) -> None:
        """Handles and file systems that nobody closed are closed; every later use of them is EBADF, and their
        own closing is no error."""
        put("a")
        handle = files.open_file("a")
        other = source.customize_file_system(place.bucket, place.token, {"prefix": "other/"})
        source.terminate()
        assert handle.closed
        assert other.closed
        for use in (
            lambda: handle.read(0, 1),
            handle.size,
            lambda: handle.lock(True),
            lambda: files.exist("a"),
            lambda: files.size("a"),
            lambda: files.open_file("a"),
            lambda: files.directory_list(),
            lambda: files.directory_list_single(),
            lambda: list(files.scan()),
            lambda: files.remove("a"),
            lambda: files.flush("local", "b"),
            lambda: files.flush_finish("local", "a"),
            lambda: other.exist("a"),
        ):
            with fails(errno.EBADF):
                use()
        handle.close()
        files.terminate()
        other.terminate()

    def test_file_systems_end_on_their_own(
        self, place: FilesPlace, put: Callable[..., bool], source: StorageSource, files: FileSystem
    ) -> None:
        """One is terminated while others live, with its handles; twice is fine; the source may be terminated
        with others open."""
        other = source.customize_file_system(place.bucket, place.token, {"prefix": "other/"})
        put("a")
        handle = files.open_file("a")
        files.terminate()
        files.terminate()
        assert handle.closed
        with fails(errno.EBADF):
            files.exist("a")
        assert other.exist("a") is False
        again = source.customize_file_system(place.bucket, place.token)
        assert again.exist("a")

    def test_threads_that_end_it_all_at_once(self, place: FilesPlace, home: Path) -> None:
        """However many terminate while others work: each reference is given back once, nothing hangs, nothing
        crashes, and who works gets results or EBADF."""
        source = StorageSource(home, None, place.template)
        files = source.customize_file_system(place.bucket, place.token)
        (home / "local").write_bytes(PAYLOAD * 1000)
        files.flush("local", "a")
        for _ in range(3):
            source.add_reference()
        begin = threading.Barrier(12)
        strange: list[BaseException] = []
        refused = []

        def work() -> None:
            try:
                begin.wait()
                while True:
                    with files.open_file("a") as handle:
                        assert handle.read(12, 12) == PAYLOAD
                    files.exist("a")
                    files.directory_list()
            except OSError as error:
                if error.errno != errno.EBADF:
                    strange.append(error)
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                strange.append(error)

        def end() -> None:
            begin.wait()
            try:
                source.terminate()
            except OSError as error:
                refused.append(error.errno)

        threads = [threading.Thread(target=work) for _ in range(6)]
        threads += [threading.Thread(target=end) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert strange == []
        assert refused == [errno.EINVAL] * 2
        assert source.closed

    # -- customize ---------------------------------------------------------------------------------------

    def test_a_bucket_that_does_not_exist(self, place: FilesPlace, source: StorageSource) -> None:
        """EINVAL, and exactly this message."""
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno decides
            source.customize_file_system(place.missing_bucket, place.token)
        assert caught.value.errno == errno.EINVAL
        assert caught.value.strerror == f"{place.missing_bucket_name} : No such bucket."
        assert source.statistics()["file_systems"] == 0

    def test_strings_of_another_form(self, place: FilesPlace, source: StorageSource) -> None:
        """EINVAL for bucket and token, and nothing of a token in any message."""
        for bucket in ("", "name", ";region", "name;"):
            with fails(errno.EINVAL):
                source.customize_file_system(bucket, "id;geheim")
        for token in ("", None, "geheim", "geheim;", ";geheim"):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno decides
                source.customize_file_system("name;region", token)
            assert caught.value.errno == errno.EINVAL
            assert "geheim" not in str(caught.value)

    @pytest.mark.parametrize(
        "config",
        [None, "", "/usr/lib/libext.so", "\x07\x80(((=,", b"\xff\x00garbage", "a" * 5000, "cache=1)"],
    )
    def test_garbage_for_a_config(
        self, place: FilesPlace, source: StorageSource, config: str | bytes | None
    ) -> None:
        """A scratch buffer that nobody wrote to harms nothing."""
        files = source.customize_file_system(place.bucket, place.token, config)
        assert files.exist("anything") is False

    def test_the_cache_directory(self, place: FilesPlace, source: StorageSource, home: Path) -> None:
        """One level is made, below the home or where an absolute path says; a missing parent is ENOENT, a
        file EINVAL."""
        source.customize_file_system(place.bucket, place.token, "cache_directory=mine")
        assert (home / "mine").is_dir()
        source.customize_file_system(place.bucket, place.token, f'cache_directory="{home}/absolute"')
        assert (home / "absolute").is_dir()
        with fails(errno.ENOENT):
            source.customize_file_system(place.bucket, place.token, "cache_directory=no/such")
        (home / "file").write_bytes(b"")
        with fails(errno.EINVAL):
            source.customize_file_system(place.bucket, place.token, "cache_directory=file")

    def test_the_default_of_the_cache_directory(
        self, source: StorageSource, files: FileSystem, home: Path
    ) -> None:
        """``cache-`` and the bucket's name, in the home."""
        (found,) = [path.name for path in home.iterdir() if path.name != "local"]
        assert found.startswith("cache-")
        assert found.removeprefix("cache-") in files.url

    def test_prefixes_keep_file_systems_apart(
        self, place: FilesPlace, source: StorageSource, home: Path, files: FileSystem
    ) -> None:
        """Two of one bucket with prefixes of their own: names, lists, contents and open files do not mix; one
        without a prefix sees both."""
        one = source.customize_file_system(place.bucket, place.token, "prefix=one/")
        two = source.customize_file_system(place.bucket, place.token, "prefix=two-")
        for file_system, content in ((one, b"first"), (two, b"second")):
            (home / "local").write_bytes(content)
            source.flush(file_system, "local", "same")
            source.flush_finish(file_system, "local", "same")
        with one.open_file("same") as first, two.open_file("same") as second:
            assert (first.read(0, 5), second.read(0, 6)) == (b"first", b"second")
        assert one.directory_list() == two.directory_list() == ["same"]
        assert sorted(files.directory_list()) == ["one/same", "two-same"]
        one.remove("same")
        assert (one.exist("same"), two.exist("same")) == (False, True)

    def test_a_prefix_that_no_key_can_have(self, place: FilesPlace, source: StorageSource) -> None:
        """EINVAL."""
        for prefix in ("a/../b/", "/a", "a//"):
            with fails(errno.EINVAL):
                source.customize_file_system(place.bucket, place.token, {"prefix": prefix})

    # -- flush -------------------------------------------------------------------------------------------

    def test_flush(self, source: StorageSource, files: FileSystem, home: Path) -> None:
        """The object is not there before, and is there, whole, when flush returns; ``./`` before a local name
        means nothing."""
        (home / "a.wt").write_bytes(PAYLOAD)
        assert not files.exist("a.wtobj")
        assert files.directory_list() == []
        source.flush(files, "./a.wt", "a.wtobj")
        assert files.exist("a.wtobj")
        assert files.size("a.wtobj") == len(PAYLOAD) == 12
        assert files.directory_list() == ["a.wtobj"]
        with files.open_file("a.wtobj") as handle:
            assert handle.read(0, 12) == PAYLOAD

    def test_flush_of_a_local_file_that_is_missing(self, files: FileSystem) -> None:
        """ENOENT, said so, and nothing is made."""
        with fails(errno.ENOENT, "No such file"):
            files.flush("missing", "a")
        assert not files.exist("a")
        assert files.directory_list() == []

    def test_flush_of_a_directory(self, files: FileSystem, home: Path) -> None:
        """Neither ENOENT nor an object."""
        (home / "directory").mkdir()
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno decides
            files.flush("directory", "a")
        assert caught.value.errno in (errno.EISDIR, errno.EINVAL)
        assert not files.exist("a")

    def test_flush_twice(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """The same content again is a success; another one is EEXIST and changes nothing."""
        assert put("a", b"one" * 1000) is False
        assert put("a", b"one" * 1000) is True
        for other in (b"two" * 1000, b"one", b""):
            with fails(errno.EEXIST):
                put("a", other)
        with files.open_file("a") as handle:
            assert handle.read(0, 3000) == b"one" * 1000

    def test_flush_into_a_bucket_that_has_gone(
        self, place: FilesPlace, files: FileSystem, home: Path
    ) -> None:
        """Never ENOENT, which would mean that the local file is missing."""
        if place.drop_bucket is None:
            pytest.skip("this bucket cannot be taken away")
        (home / "local").write_bytes(PAYLOAD)
        place.drop_bucket()
        with fails(errno.ENXIO):
            files.flush("local", "a")

    def test_flush_finish(self, files: FileSystem, home: Path, put: Callable[..., bool]) -> None:
        """Succeeds after a flush, twice, without one, and without the local file; what it keeps survives the
        local file's end and change."""
        put("a", PAYLOAD * 5000)
        files.flush_finish("local", "a")
        files.flush_finish("local", "a")
        put("b", PAYLOAD)
        (home / "local").write_bytes(b"changed")
        (home / "local").unlink()
        files.flush_finish("local", "b")
        files.flush_finish("local", "never-flushed")
        with files.open_file("a") as handle:
            assert handle.read(12 * 4999, 12) == PAYLOAD
        with files.open_file("b") as handle:
            assert handle.read(0, 12) == PAYLOAD

    def test_another_sources_file_system(self, place: FilesPlace, source: StorageSource, home: Path) -> None:
        """EINVAL."""
        with StorageSource(home, None, place.template) as stranger:
            files = stranger.customize_file_system(place.bucket, place.token)
            with fails(errno.EINVAL, "another storage source"):
                source.flush(files, "local", "a")
            with fails(errno.EINVAL, "another storage source"):
                source.flush_finish(files, "local", "a")

    # -- names -------------------------------------------------------------------------------------------

    def test_exist_and_size(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """Absent: no, which is no error, and no size (ENOENT); present: yes, twelve bytes; removed: as
        before."""
        assert files.exist("object") is False
        with fails(errno.ENOENT):
            files.size("object")
        put("object")
        assert files.exist("object") is True
        assert files.size("object") == 12
        assert files.info("object").size_bytes == 12
        files.remove("object")
        assert files.exist("object") is False
        with fails(errno.ENOENT):
            files.size("object")
        with fails(errno.ENOENT):
            files.info("object")

    def test_remove(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """An absent object is removed with success; after a remove the name can be flushed and opened anew,
        with another content."""
        files.remove("absent")
        put("a", b"old")
        with files.open_file("a") as handle:
            assert handle.read(0, 3) == b"old"
        files.remove("a")
        with fails(errno.ENOENT):
            files.open_file("a")
        put("a", b"newer")
        with files.open_file("a") as handle:
            assert handle.read(0, 5) == b"newer"

    def test_a_name_that_comes_anew_while_the_old_file_is_open(
        self, place: FilesPlace, home: Path, settings: FilesSettings, put: Callable[..., bool]
    ) -> None:
        """Removed, by us or by somebody else, and flushed with another content: who opens the name then gets
        that, and who has the old one open never sees it."""
        with StorageSource(home, settings, place.template) as other:
            for number, remover in enumerate((other.customize_file_system(place.bucket, place.token), None)):
                files = other.customize_file_system(place.bucket, place.token)
                name = f"again{number}"
                put(name, b"old" * 1000)
                with files.open_file(name) as old:
                    assert old.read(0, 6) == b"oldold"
                    (remover or files).remove(name)
                    (home / "new").write_bytes(b"new" * 1000)
                    assert files.flush("new", name) is False
                    with files.open_file(name) as new:
                        assert new.read(1500, 6) == b"newnew"
                    try:
                        assert old.read(1500, 6) == b"oldold"
                    except OSError as error:
                        assert error.errno in (errno.ESTALE, errno.ENOENT)  # noqa: PT017 - or no error

    def test_remove_can_be_refused(
        self, place: FilesPlace, home: Path, put: Callable[..., bool], settings: FilesSettings
    ) -> None:
        """ENOTSUP, and the object stays."""
        put("a")
        with StorageSource(home, replace(settings, allow_remove=False), place.template) as source:
            files = source.customize_file_system(place.bucket, place.token)
            with fails(errno.EOPNOTSUPP, "remove of file not supported"):
                files.remove("a")
            assert files.exist("a")

    def test_rename(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """ENOTSUP, and nothing is changed."""
        put("a")
        with fails(errno.ENOTSUP, "rename of file not supported"):
            files.rename("a", "b")
        assert files.directory_list() == ["a"]

    def test_names_that_cannot_be(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """EINVAL everywhere."""
        for name in ("", "a//b", "../a", "/a", "a\nb"):
            for use in (files.exist, files.size, files.open_file, files.remove, put):
                with fails(errno.EINVAL):
                    use(name)

    # -- listing -----------------------------------------------------------------------------------------

    def test_listing_nothing(self, files: FileSystem) -> None:
        """Both ways give nothing, and None means the empty string."""
        assert files.directory_list() == files.directory_list(None, None) == []
        assert files.directory_list_single("x", "y") == files.directory_list_single(None, None) == []
        assert list(files.scan()) == []

    def test_listing_twenty(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """All are 20, single is 1, the prefix _1 matches 11; in batches of 10 they are 20 in two pages, and
        single is 1 still."""
        names = [f"list/object_{number}.txt" for number in range(20)]
        for name in names:
            put(name)
        assert sorted(files.directory_list("", "list/")) == sorted(names)
        assert len(files.directory_list_single("", "list/")) == 1
        assert len(files.directory_list("", "list/object_1")) == 11
        assert files.directory_list("", "list/nothing") == []
        assert files.directory_list_single("", "list/nothing") == []
        assert sorted(files.directory_list("", "list/", batch_size=10)) == sorted(names)
        pages = list(files.scan("", "list/", batch_size=10))
        assert [len(page) for page in pages] == [10, 10]
        assert sorted(entry.name for page in pages for entry in page) == sorted(names)
        assert {entry.size_bytes for page in pages for entry in page} == {12}
        with fails(errno.EINVAL):
            files.directory_list(batch_size=0)

    def test_the_directory_is_a_plain_prefix(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """It is taken off the names, no slash is put behind it, and what WiredTiger looks for before it makes
        a table is found by its name's length."""
        for name in (
            "p/table-0000000001.wtobj",
            "p/table-0000000002.wtobj",
            "p/tables-0000000001.wtobj",
            "q",
        ):
            put(name)
        found = files.directory_list("p/", "table")
        assert "table-0000000001.wtobj" in found
        assert len(found) == 3
        assert sorted(files.directory_list("p/ta", "bles")) == ["bles-0000000001.wtobj"]
        assert files.directory_list("p", "") == ["/" + name for name in files.directory_list("p/")]
        assert files.directory_list_single("q", "") == [""]

    def test_listing_as_the_s3_store_does(
        self, place: FilesPlace, home: Path, put: Callable[..., bool], settings: FilesSettings
    ) -> None:
        """With the compatibility switch: a slash behind a directory longer than one character, and the
        directory stays in the names."""
        for name in ("pp/a", "ppp", "xy", "x-y"):
            put(name)
        with StorageSource(home, replace(settings, list_like_s3_store=True), place.template) as source:
            files = source.customize_file_system(place.bucket, place.token)
            assert files.directory_list("pp") == files.directory_list("pp/") == ["pp/a"]
            assert files.directory_list("pp", "b") == []
            assert sorted(files.directory_list("x")) == ["x-y", "xy"]
            prefixed = source.customize_file_system(place.bucket, place.token, "prefix=p")
            assert prefixed.directory_list("p/") == ["p/a"]

    # -- opening and reading -----------------------------------------------------------------------------

    def test_what_can_be_opened(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """Data and regular files, to read; everything else is EINVAL."""
        put("a")
        for kind in ("data", "regular"):
            files.open_file("a", kind).close()
        for kind in ("checkpoint", "directory", "log", ""):
            with fails(errno.EINVAL):
                files.open_file("a", kind)
        with fails(errno.EINVAL):
            files.open_file("a", read_only=False)
        with fails(errno.EINVAL):
            files.open_file("new", create=True)
        assert not files.exist("new")

    def test_opening_what_is_not_there(self, files: FileSystem) -> None:
        """ENOENT with the name, as often as it is tried."""
        for _ in range(2):
            with pytest.raises(FileNotFoundError, match="absent"):
                files.open_file("absent")
        assert files.statistics()["open_names"] == 0

    @pytest.mark.parametrize("mode", ["whole", "ranges", "auto"])
    def test_reading(
        self, place: FilesPlace, home: Path, put: Callable[..., bool], settings: FilesSettings, mode: str
    ) -> None:
        """A thousand pages of 4 KiB: a range of 8 bytes at 2, everything, at random and backwards, warm and
        cold: each is what was written."""
        pages = [_random(number).randbytes(4096) for number in range(250)]
        content = b"".join(pages)
        put("a", content)
        chosen = replace(settings, mode=mode, whole_max_bytes=1 << 20, cache_dir=home / f"cold-{mode}")
        with StorageSource(home, chosen, place.template) as source:
            files = source.customize_file_system(place.bucket, place.token)
            with files.open_file("a") as handle:
                assert handle.read(2, 8) == content[2:10]
                for number in [*_random(1).sample(range(250), 60), *range(249, 200, -1)]:
                    assert handle.read(number * 4096, 4096) == pages[number]
                assert handle.read(0, len(content)) == content
                buffer = bytearray(10_000)
                assert handle.readinto(123, memoryview(buffer)) == 10_000
                assert buffer == content[123:10_123]
            with files.open_file("a") as handle:
                assert handle.read(0, len(content)) == content

    def test_ranges_outside_of_the_file(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """EINVAL, never a short read; nothing at its very end is nothing."""
        put("a")
        with files.open_file("a") as handle:
            for offset, length in (
                (0, 13),
                (11, 2),
                (12, 1),
                (-1, 1),
                (-1, 0),
                (13, 0),
                (100, 1),
                (0, -1),
                (0, 1 << 40),
            ):
                with fails(errno.EINVAL):
                    handle.read(offset, length)
            buffer = bytearray(b"untouched")
            with fails(errno.EINVAL):
                handle.readinto(8, buffer)
            assert buffer == b"untouched"
            assert handle.read(12, 0) == b""
            assert handle.read(0, 0) == b""

    def test_an_empty_file(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """Has a size of 0 and nothing to read."""
        put("empty", b"")
        put("empty", b"")
        assert files.size("empty") == 0
        with files.open_file("empty") as handle:
            assert handle.size() == 0
            assert handle.read(0, 0) == b""
            with fails(errno.EINVAL):
                handle.read(0, 1)

    def test_handles(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """Size and locks; closing twice is fine; after that EBADF. Handles of one name do not close each
        other."""
        put("a")
        one, two = files.open_file("a"), files.open_file("a")
        assert files.statistics()["open_names"] == 1
        assert one.size() == 12
        assert files.size("a") == 12
        one.lock(True)
        one.lock(False)
        assert one.file_system is files
        one.close()
        one.close()
        uses: list[Callable[[], object]] = [lambda: one.read(0, 1), one.size, lambda: one.lock(True)]
        for use in uses:
            with fails(errno.EBADF):
                use()
        assert two.read(0, 12) == PAYLOAD
        two.close()
        assert files.statistics()["open_names"] == 0

    def test_writing_is_refused(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """ENOTSUP for everything that is not reading."""
        put("a")
        with files.open_file("a") as handle:
            uses: list[Callable[[], None]] = [
                lambda: handle.write(0, b"x"),
                lambda: handle.truncate(0),
                lambda: handle.extend(100),
                handle.sync,
                handle.map,
            ]
            for use in uses:
                with fails(errno.ENOTSUP):
                    use()
            assert handle.read(0, 12) == PAYLOAD

    def test_a_cache_that_was_deleted(
        self, place: FilesPlace, home: Path, put: Callable[..., bool], settings: FilesSettings
    ) -> None:
        """Costs requests, and nothing else."""
        put("a", PAYLOAD * 1000)
        for _ in range(2):
            with StorageSource(home, replace(settings, cache_dir=home / "c"), place.template) as source:
                files = source.customize_file_system(place.bucket, place.token)
                with files.open_file("a") as handle:
                    assert handle.read(0, 12_000) == PAYLOAD * 1000
            _delete(home / "c")

    def test_an_object_that_changes_while_it_is_open(
        self, place: FilesPlace, home: Path, put: Callable[..., bool], settings: FilesSettings
    ) -> None:
        """Reads that need the bucket are ESTALE and never a mixture; who opens the name then gets what is
        there now."""
        if place.overwrite is None:
            pytest.skip("nobody can change this bucket behind our back")
        old, new = b"o" * 3_000_000, b"n" * 3_000_000
        put("a", old)
        chosen = replace(settings, mode="ranges", read_ahead_bytes=0, cache_dir=home / "cold")
        with StorageSource(home, chosen, place.template) as source:
            files = source.customize_file_system(place.bucket, place.token)
            with files.open_file("a") as handle:
                assert handle.read(0, 100) == b"o" * 100
                place.overwrite("a", new)
                with fails(errno.ESTALE):
                    handle.read(2_900_000, 1000)
                with files.open_file("a") as again:
                    assert again.read(2_900_000, 1000) == b"n" * 1000
                with fails(errno.ESTALE):
                    handle.read(2_900_000, 1000)

    # -- many at once ------------------------------------------------------------------------------------

    def test_sixteen_threads(
        self, place: FilesPlace, source: StorageSource, home: Path, files: FileSystem
    ) -> None:
        """Flush, list, open, read, size, remove: each thread sees its own objects as if it were alone, and
        all see the shared one; at the end nothing is open."""
        shared = _random(0).randbytes(300_000)
        (home / "shared").write_bytes(shared)
        files.flush("shared", "shared")
        failures: list[BaseException] = []

        def work(number: int) -> None:
            dice = _random(number)
            try:
                for turn in range(3):
                    content = dice.randbytes(dice.randrange(1, 50_000))
                    name = f"thread{number:02}-{turn}"
                    (home / name).write_bytes(content)
                    source.flush(files, name, name)
                    source.flush_finish(files, name, name)
                    with files.open_file(name) as mine, files.open_file("shared") as ours:
                        for _ in range(5):
                            at = dice.randrange(len(content))
                            assert mine.read(at, len(content) - at) == content[at:]
                            at = dice.randrange(290_000)
                            assert ours.read(at, 10_000) == shared[at : at + 10_000]
                    assert files.directory_list(f"thread{number:02}") == [f"-{turn}"]
                    assert files.size(name) == len(content)
                    files.remove(name)
                    assert not files.exist(name)
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS_COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert files.directory_list() == ["shared"]
        figures = files.statistics()
        assert (figures["open_names"], figures["open_handles"]) == (0, 0)

    # -- figures -----------------------------------------------------------------------------------------

    def test_figures(self, source: StorageSource, files: FileSystem, put: Callable[..., bool]) -> None:
        """Every operation is counted as it is done, live, and shown as Prometheus text, too."""
        put("a")
        put("a")
        with files.open_file("a") as handle:
            handle.read(0, 12)
            handle.read(3, 4)
            assert source.statistics()["buckets"][files.url]["open_handles"] == 1  # type: ignore[index]
        files.exist("a")
        files.directory_list()
        with fails(errno.ENOENT):
            files.size("b")
        counters = source.statistics()["counters"]
        assert isinstance(counters, dict)
        wanted = {
            "list_objects": 1,
            "put_objects": 2,
            "object_exists": 2,
            "handle_opens": 1,
            "handle_closes": 1,
            "handle_reads": 2,
            "handle_read_bytes": 16,
            "objects_uploaded": 1,
            "objects_already_there": 1,
        }
        assert {name: counters[name] for name in wanted} == wanted
        text = source.prometheus()
        assert 'bucketry_files_operations_count{operation="read"} 2' in text
        assert 'bucketry_files_operations_errors{operation="size",error="NotFound"} 1' in text
        assert 'bucketry_files_operations_latency_seconds_count{operation="flush"} 2' in text


def _random(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - to be repeated, not to be secret


def _delete(directory: Path) -> None:
    """A directory with all that is in it, whatever its modes."""
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    directory.rmdir()
