"""The bridge from the C side: WiredTiger's calls through the tables, over a storage source in memory."""

import errno
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bucketry.errors import Denied, Unavailable
from bucketry.files.wiredtiger import callbacks
from bucketry.files.wiredtiger.library import Library
from bucketry.files.wiredtiger.options import Options
from bucketry.files.wiredtiger.owner import MARKER, STATE_NAME
from bucketry.files.wiredtiger.patience import patiently
from bucketry.files.wiredtiger.tables import RELEASES, Release, ffi
from wiredtiger_bridge.connection import ModelConnection, ModelEngine
from wiredtiger_bridge.model import ModelSource

RELEASE = RELEASES[11, 3]
READONLY = RELEASE.readonly
#: As WiredTiger itself opens an object.
BY_ENGINE = RELEASE.readonly | RELEASE.fixed
OBJECT = "pfx_t-0000000001.wtobj"
LOCAL = "t-0000000001.wtobj"


class World:
    """A home, a bucket that stays, and connections to them."""

    def __init__(self, directory: Path, release: Release = RELEASE) -> None:
        self.home = directory / "home"
        self.home.mkdir()
        self.directory = directory
        self.release = release
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.sources: list[ModelSource] = []
        self.options: list[Options] = []
        self._count = 0

    def make_source(self, options: Options, home: Path, say: Callable[[int, str], None]) -> ModelSource:
        assert home.is_absolute()
        self.options.append(options)
        self.sources.append(ModelSource(self.buckets))
        return self.sources[-1]

    def library(self, **options: str) -> Library:
        self._count += 1
        path = self.directory / f"lib{self._count}.so"
        return Library(path, options, self.release, self.make_source)

    def connect(self, home: Path | None = None, **options: str) -> ModelEngine:
        """A new connection, with the storage source registered."""
        given = {"patience": "0", "read_patience": "0", "owner": "ignore", **options}
        connection = ModelConnection(self.release, home or self.home, given)
        assert connection.load(self.library().path) == 0, connection.errors
        return ModelEngine(connection, options.get("name", "bucketry"))

    def put_local(self, name: str, data: bytes) -> None:
        (self.home / name).write_bytes(data)

    @property
    def source(self) -> ModelSource:
        return self.sources[-1]

    @property
    def objects(self) -> dict[str, bytes]:
        return self.buckets.setdefault("memory://b", {})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Tables that a test leaves are forgotten: they would be some other test's."""
    yield World(tmp_path)
    for registered in list(callbacks._stores.values()):
        registered.forget()


def fails_with(error: OSError, times: int = 1) -> Callable[[str], None]:
    """To be put into ``ModelSource.fail``."""
    left = [times]

    def fail(_name: str) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return fail


def outage() -> OSError:
    error = OSError(errno.EAGAIN, "the bucket cannot be reached")
    error.__cause__ = Unavailable("connection refused")
    return error


@pytest.mark.parametrize("version", sorted(RELEASES))
def test_a_connection_of_every_release_gets_a_storage_source(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    """The slots of each release are used: the source is registered under the name that was asked for."""
    world = World(tmp_path, RELEASES[version])
    engine = world.connect(name="s3_store")
    assert list(engine.connection.sources) == ["s3_store"]
    assert engine.source.terminate(engine.source, engine.session) == 0
    assert world.source.closed


def test_a_file_goes_to_the_bucket_and_comes_back(world: World) -> None:
    """Flush, finish, list, exist, size, open, read, lock, close, remove: as they were asked for."""
    engine = world.connect()
    files = engine.customize()
    data = bytes(range(256)) * 1024
    world.put_local(LOCAL, data)
    assert engine.flush(files, LOCAL, OBJECT) == 0
    assert engine.flush_finish(files, LOCAL, OBJECT) == 0
    assert world.objects == {OBJECT: data}
    assert engine.names(files) == [OBJECT]
    assert engine.names(files, None, None) == [OBJECT]
    assert engine.names(files, "pfx_", "t") == [LOCAL]
    assert engine.names(files, "pfx_", "u") == []
    there = ffi.new("bool *")
    assert files.fs_exist(files, engine.session, OBJECT.encode(), there) == 0
    assert there[0]
    assert files.fs_exist(files, engine.session, b"other", there) == 0
    assert not there[0]
    size = ffi.new("int64_t *")
    assert files.fs_size(files, engine.session, OBJECT.encode(), size) == 0
    assert size[0] == len(data)
    assert files.fs_size(files, engine.session, b"other", size) == errno.ENOENT
    handle = engine.open(files, OBJECT, READONLY)
    assert ffi.string(handle.name).decode() == OBJECT
    assert handle.files == files
    assert engine.handle_size(handle) == len(data)
    assert handle.fh_lock(handle, engine.session, True) == 0
    assert engine.read(handle, 0, 4096) == data[:4096]
    assert engine.read(handle, 70000, 5000) == data[70000:75000]
    for name in ("fh_write", "fh_truncate", "fh_sync", "fh_map", "fh_extend"):
        assert getattr(handle, name) == ffi.NULL
    assert handle.close(handle, engine.session) == 0
    assert all(opened.is_closed for opened in world.source.files[0].handles)
    assert files.fs_remove(files, engine.session, OBJECT.encode(), 0) == 0
    assert files.fs_remove(files, engine.session, OBJECT.encode(), 0) == 0
    assert world.objects == {}
    assert files.terminate(files, engine.session) == 0
    assert world.source.files[0].is_terminated


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (0, 1),
        (RELEASE.create, 1),
        (READONLY | RELEASE.create, 1),
        (READONLY, 0),
        (READONLY, 2),
        (READONLY, 3),
    ],
)
def test_files_are_opened_for_reading_only(world: World, flags: int, kind: int) -> None:
    """Flags that would write and types that are not in buckets are EINVAL, also if the file exists."""
    engine = world.connect()
    files = engine.customize()
    world.objects[OBJECT] = bytes(8192)
    assert engine.open(files, OBJECT, flags, kind) == errno.EINVAL
    for good in (1, 4):
        assert ffi.typeof(engine.open(files, OBJECT, READONLY, good)).cname == "wt_handle *"


def test_what_is_not_supported_says_so(world: World) -> None:
    """Rename is refused, and remove where the options forbid it, with WiredTiger's own words."""
    engine = world.connect(remove="false")
    files = engine.customize()
    assert files.fs_rename(files, engine.session, b"a", b"b", 0) == errno.EOPNOTSUPP
    assert files.fs_remove(files, engine.session, b"a", 0) == errno.EOPNOTSUPP
    assert any("a: rename of file not supported" in line for line in engine.connection.errors)
    assert any("a: remove of file not supported" in line for line in engine.connection.errors)


def test_remove_can_leave_the_objects(world: World) -> None:
    """With remove=keep a drop succeeds and the object stays."""
    engine = world.connect(remove="keep")
    files = engine.customize()
    world.objects[OBJECT] = b"data"
    assert files.fs_remove(files, engine.session, OBJECT.encode(), 0) == 0
    assert world.objects == {OBJECT: b"data"}


@pytest.mark.parametrize(
    "error", [ValueError("a mistake"), MemoryError(), SystemExit(0), GeneratorExit(), OSError("no number")]
)
def test_no_exception_is_a_success(world: World, error: BaseException) -> None:
    """Whatever is raised below, the answer is an errno and the application is told."""
    engine = world.connect()
    files = engine.customize()
    world.put_local(LOCAL, b"data")

    def fail(_name: str) -> None:
        raise error

    world.source.fail = dict.fromkeys(("flush", "list", "exist", "size", "open", "remove"), fail)
    answer = ffi.new("int64_t *")
    assert engine.flush(files, LOCAL, OBJECT) > 0
    assert isinstance(engine.names(files), int)
    assert files.fs_exist(files, engine.session, b"a", ffi.new("bool *")) > 0
    assert files.fs_size(files, engine.session, b"a", answer) > 0
    assert isinstance(engine.open(files, "a", READONLY), int)
    assert files.fs_remove(files, engine.session, b"a", 0) > 0
    assert len(engine.connection.errors) == 6


@pytest.mark.logs("a callback of WiredTiger's failed")
def test_a_call_that_python_cannot_even_begin_is_an_error(world: World) -> None:
    """What fails round a function (here its very first step) is EIO, not 0."""
    engine = world.connect()
    files = engine.customize()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "address_of", None)
        assert files.fs_remove(files, engine.session, b"a", 0) == errno.EIO


def test_a_terminated_table_is_not_found(world: World) -> None:
    """Calls with a table that was terminated or closed are EBADF."""
    engine = world.connect()
    files = engine.customize()
    world.objects[OBJECT] = bytes(8192)
    handle = engine.open(files, OBJECT, READONLY)
    assert engine.source.terminate(engine.source, engine.session) == 0
    assert engine.names(files) == errno.EBADF
    assert engine.read(handle, 0, 10) == errno.EBADF
    assert engine.source.terminate(engine.source, engine.session) == errno.EBADF


def test_references_are_counted(world: World) -> None:
    """The source lives until its last reference is given back."""
    engine = world.connect()
    assert engine.source.ss_add_reference(engine.source) == 0
    assert engine.source.terminate(engine.source, engine.session) == 0
    assert not world.source.closed
    assert engine.customize() != errno.EBADF
    assert engine.source.terminate(engine.source, engine.session) == 0
    assert world.source.closed


# --- trouble -----------------------------------------------------------------------------------------------


def test_flush_says_enoent_only_when_the_local_file_has_gone(world: World) -> None:
    """ENOENT from anywhere else becomes EIO: WiredTiger would take the table for dropped."""
    engine = world.connect()
    files = engine.customize()
    assert engine.flush(files, LOCAL, OBJECT) == errno.ENOENT
    world.put_local(LOCAL, b"data")
    world.source.fail["flush"] = fails_with(FileNotFoundError(errno.ENOENT, "some other file"))
    assert engine.flush(files, LOCAL, OBJECT) == errno.EIO
    assert engine.flush(files, LOCAL, OBJECT) == 0


def test_a_second_flush_is_a_success_if_nothing_changed(world: World) -> None:
    """Same content: success. Other content: EEXIST, and the object stays."""
    engine = world.connect()
    files = engine.customize()
    world.put_local(LOCAL, b"data")
    assert engine.flush(files, LOCAL, OBJECT) == 0
    assert engine.flush(files, LOCAL, OBJECT) == 0
    world.put_local(LOCAL, b"other")
    assert engine.flush(files, LOCAL, OBJECT) == errno.EEXIST
    assert world.objects[OBJECT] == b"data"


def test_a_second_flush_is_refused_where_that_is_wanted(world: World) -> None:
    """idempotent=false answers EEXIST as WiredTiger's directory store does."""
    engine = world.connect(idempotent="false")
    files = engine.customize()
    world.put_local(LOCAL, b"data")
    assert engine.flush(files, LOCAL, OBJECT) == 0
    assert engine.flush(files, LOCAL, OBJECT) == errno.EEXIST


def test_flush_finish_never_fails(world: World) -> None:
    """What goes wrong with the cache is a warning."""
    engine = world.connect(verbose="-2")
    files = engine.customize()
    world.source.fail["flush_finish"] = fails_with(OSError(errno.ENOSPC, "No space left on device"))
    assert engine.flush_finish(files, LOCAL, OBJECT) == 0
    assert any("not put into the cache" in line for line in engine.connection.errors)


def test_the_first_block_comes_with_the_open(world: World) -> None:
    """Size and first read ask nobody: an error there would end the process."""
    engine = world.connect()
    files = engine.customize()
    world.objects[OBJECT] = bytes(range(256)) * 400
    handle = engine.open(files, OBJECT, BY_ENGINE)
    before = dict(world.source.calls)
    assert engine.handle_size(handle) == 102_400
    assert engine.read(handle, 0, 4096) == world.objects[OBJECT][:4096]
    assert dict(world.source.calls) == before
    assert engine.read(handle, 4096, 4096) == world.objects[OBJECT][4096:8192]
    assert world.source.calls["read"] == before["read"] + 1


@pytest.mark.parametrize("what", ["open", "handle_size", "read"])
def test_an_object_that_cannot_be_opened_has_a_handle_whose_reads_fail(world: World, what: str) -> None:
    """The engine gets a first block that passes for one, errors from every other read, and the data as soon
    as the trouble has gone."""
    engine = world.connect()
    files = engine.customize()
    world.objects[OBJECT] = bytes(range(256)) * 400
    world.source.fail[what] = fails_with(outage(), times=2)
    handle = engine.open(files, OBJECT, BY_ENGINE)
    assert engine.handle_size(handle) >= 1 << 40
    first = engine.read(handle, 0, 4096)
    assert isinstance(first, bytes)
    assert first[:4] == (120897).to_bytes(4, "little")
    assert engine.read(handle, 8192, 4096) == errno.EAGAIN
    assert engine.read(handle, 8192, 4096) == world.objects[OBJECT][8192:12288]
    assert handle.close(handle, engine.session) == 0


def test_only_the_first_block_is_made_up(world: World) -> None:
    """A chunk that begins at 0 is the object's own, and behind its end are zeros, because WiredTiger does not
    know the end; with nothing to read at all it is an error."""
    engine = world.connect()
    files = engine.customize()
    world.objects[OBJECT] = b"x" * 10_000
    world.source.fail["open"] = fails_with(outage(), times=2)
    handle = engine.open(files, OBJECT, BY_ENGINE)
    assert isinstance(engine.read(handle, 0, 4096), bytes)
    assert engine.read(handle, 0, 1 << 20) == errno.EAGAIN
    assert engine.read(handle, 0, 1 << 20) == (b"x" * 10_000).ljust(1 << 20, b"\0")
    assert engine.read(handle, 8192, 4096) == (b"x" * 1808).ljust(4096, b"\0")
    assert engine.read(handle, 1 << 20, 4096) == errno.EIO


def test_an_object_that_is_not_there_is_told_apart(world: World) -> None:
    """The engine gets a handle whose reads are ENOENT; everybody else gets ENOENT from the open."""
    engine = world.connect()
    files = engine.customize()
    assert engine.open(files, OBJECT, READONLY) == errno.ENOENT
    assert any("does not exist in the bucket" in line for line in engine.connection.errors)
    handle = engine.open(files, OBJECT, BY_ENGINE)
    assert engine.read(handle, 4096, 4096) == errno.ENOENT
    world.objects[OBJECT] = bytes(8192)
    assert engine.read(handle, 4096, 4096) == bytes(4096)


def test_a_read_beyond_the_end_is_an_error(world: World) -> None:
    """Never a buffer that is filled in part."""
    engine = world.connect()
    files = engine.customize()
    world.objects[OBJECT] = bytes(5000)
    handle = engine.open(files, OBJECT, READONLY)
    assert engine.read(handle, 4096, 4096) == errno.EIO
    assert engine.read(handle, 0, 8192) == errno.EIO


@pytest.mark.parametrize("what", ["open", "flush", "remove", "read"])
def test_trouble_that_passes_is_not_seen(world: World, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are repeated while the bucket is away, or refuses, and the application is told once."""
    monkeypatch.setattr("bucketry.files.wiredtiger.patience._PAUSE_FIRST_SECONDS", 0.001)
    engine = world.connect(patience="1000", read_patience="1000", verbose="-1")
    files = engine.customize()
    world.put_local(LOCAL, bytes(8192))
    refused = PermissionError(errno.EACCES, "the key has expired")
    refused.__cause__ = Denied("the key has expired")
    if what == "flush":
        world.source.fail[what] = fails_with(refused, times=3)
    assert engine.flush(files, LOCAL, OBJECT) == 0
    if what == "open":
        world.source.fail[what] = fails_with(outage(), times=3)
    handle = engine.open(files, OBJECT, BY_ENGINE)
    if what == "read":
        world.source.fail[what] = fails_with(outage(), times=3)
    assert engine.read(handle, 4096, 4096) == bytes(4096)
    if what == "remove":
        world.source.fail[what] = fails_with(outage(), times=3)
    assert files.fs_remove(files, engine.session, OBJECT.encode(), 0) == 0
    assert len([line for line in engine.connection.errors if "trying on" in line]) == 1
    assert any("it worked after all" in line for line in engine.connection.messages)


# --- configuration -----------------------------------------------------------------------------------------


def test_options_of_the_connection_win(world: World) -> None:
    """The library's options hold where the connection's say nothing."""
    connection = ModelConnection(RELEASE, world.home, {"name": "mine", "cache_size": "1G"})
    assert connection.load(world.library(name="yours", mode="whole", cache_size="2G").path) == 0
    assert list(connection.sources) == ["mine"]
    assert world.options[-1].files.mode == "whole"
    assert world.options[-1].files.cache_size_bytes == 1 << 30


def test_options_that_are_not_understood_are_refused(world: World) -> None:
    """The connection is not opened, and the line names the option."""
    connection = ModelConnection(RELEASE, world.home, {"cache_sise": "1G"})
    assert connection.load(world.library().path) == errno.EINVAL
    assert connection.errors == ["bucketry: unknown option cache_sise: did you mean cache_size?"]
    assert connection.sources == {}


def test_a_name_that_is_taken_is_refused(world: World) -> None:
    """Two sources of one connection need two names; with two names there are two."""
    connection = ModelConnection(RELEASE, world.home)
    assert connection.load(world.library(name="s3_store").path) == 0
    assert connection.load(world.library(name="s3_store").path) == errno.EEXIST
    assert world.source.closed
    assert connection.load(world.library(name="dir_store").path) == 0
    assert sorted(connection.sources) == ["dir_store", "s3_store"]


def test_directories_are_buckets_for_the_directory_store(world: World) -> None:
    """As dir_store a bucket's name is a directory, below the home unless it is absolute."""
    engine = world.connect(name="dir_store")
    engine.customize("bucket1", "Secret")
    engine.customize("/some/where")
    assert [files.bucket for files in world.source.files] == [
        f"file://{world.home}/bucket1", "file:///some/where"
    ]  # fmt: skip


def test_garbage_in_the_configuration_of_a_bucket_is_passed_over(world: World) -> None:
    """WiredTiger gives whatever its memory held, if nothing was configured."""
    for name in ("s3_store", "dir_store"):
        engine = world.connect(name=name)
        for garbage in (b"/lib/x.so\xff\xfe(((", b'=,=,"', bytes(range(1, 256)), b"(" * 5000):
            assert ffi.typeof(engine.customize("b", None, garbage)).cname == "wt_files *"


def test_the_application_hears_of_trouble_before_the_call_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that waits for a quarter of an hour says so when it begins to."""
    heard: list[list[str]] = []
    engine = world.connect(patience="1000", verbose="-2")
    files = engine.customize()
    world.put_local(LOCAL, b"data")
    world.source.fail["flush"] = fails_with(outage())
    monkeypatch.setattr("time.sleep", lambda _: heard.append(list(engine.connection.errors)))
    monkeypatch.setattr(
        "bucketry.files.wiredtiger.store.patiently", functools.partial(patiently, sleep=time.sleep)
    )
    assert engine.flush(files, LOCAL, OBJECT) == 0
    assert len(heard) == 1
    assert "trying on for 1000 s" in heard[0][-1]


def test_several_connections_do_not_mix(world: World) -> None:
    """Each connection of a library has a source of its own."""
    library = world.library()
    engines = []
    for _ in range(3):
        connection = ModelConnection(RELEASE, world.home)
        assert connection.load(library.path) == 0
        engines.append(ModelEngine(connection, "bucketry"))
    assert len(world.sources) == 3
    assert engines[1].source.terminate(engines[1].source, engines[1].session) == 0
    assert [source.closed for source in world.sources] == [False, True, False]
    assert engines[2].names(engines[2].customize()) == []


# --- owners ------------------------------------------------------------------------------------------------


def test_a_second_database_is_refused_before_it_makes_a_table(world: World) -> None:
    """The first flush marks the prefix; another home's create is told whose it is; the marker is in no
    listing."""
    first = world.connect(owner="check")
    files = first.customize()
    assert first.names(files, "pfx_", "t") == []
    world.put_local(LOCAL, b"data")
    assert first.flush(files, LOCAL, OBJECT) == 0
    assert set(world.objects) == {OBJECT, "pfx_" + MARKER}
    assert first.names(files) == [OBJECT]
    other_home = world.directory / "other"
    other_home.mkdir()
    second = world.connect(other_home, owner="check")
    second_files = second.customize()
    assert second.names(second_files, "pfx_", "u") == errno.EEXIST
    assert any(f"home {world.home} on" in line for line in second.connection.errors)
    assert second.names(second_files, "pfx2_", "u") == []
    # The first one's objects are safe from the second's drop.
    assert second_files.fs_remove(second_files, second.session, OBJECT.encode(), 0) == 0
    assert OBJECT in world.objects
    # A restart of the first is still the first.
    again = world.connect(owner="check")
    assert again.names(again.customize(), "pfx_", "u") == []


def test_a_database_can_be_refused_when_it_is_opened(world: World) -> None:
    """With bucket_prefix among the options the owner is settled before there is a connection."""
    first = world.connect(owner="check", bucket_prefix="pfx_")
    assert first.customize() != errno.EEXIST
    assert set(world.objects) == {"pfx_" + MARKER}
    other_home = world.directory / "other"
    other_home.mkdir()
    second = world.connect(other_home, owner="check", bucket_prefix="pfx_")
    assert second.customize() == errno.EEXIST
    assert world.source.files[-1].is_terminated
    third = world.connect(other_home, owner="take", bucket_prefix="pfx_")
    assert third.customize() != errno.EEXIST
    assert str(other_home) in world.objects["pfx_" + MARKER].decode()
    # Now the first has lost it.
    assert world.connect(owner="check", bucket_prefix="pfx_").customize() == errno.EEXIST


def test_a_damaged_marker_is_somebodys(world: World) -> None:
    """What cannot be read is not ours."""
    world.objects["pfx_" + MARKER] = b"\xff not JSON"
    engine = world.connect(owner="check", bucket_prefix="pfx_")
    assert engine.customize() == errno.EEXIST


def test_a_damaged_state_file_makes_another_database(world: World) -> None:
    """The home's file is checked like everything from outside."""
    assert world.connect(owner="check", bucket_prefix="pfx_").customize() != errno.EEXIST
    (world.home / STATE_NAME).write_text('{"database": 7, "owned": [], "foreign": []}')
    assert world.connect(owner="check", bucket_prefix="pfx_").customize() == errno.EEXIST
