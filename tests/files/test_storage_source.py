"""What only this implementation of a storage source does: figures, logs, shared caches, faults, endings."""

import errno
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.bucket.memory import MemoryStore, _stores
from bucketry.errors import BucketNotFound, Denied, NotFound
from bucketry.files import FileHandle, FileSystem, StorageSource, file_system
from bucketry.settings import BucketSettings, FaultSettings, FilesSettings, RetrySettings, Secret
from bucketry.testing.files_contract import fails
from bucketry.testing.s3_server import Credentials, Outage, S3Server, ServiceSettings, Stall

NAME = "storage-source"
URL = f"memory://{NAME}"
KEY = Credentials("AKIDSOURCE", Secret("geheim: for the loopback interface"))
TOKEN = f"{KEY.access_id};{KEY.secret.reveal_text()}"
IMPATIENT = RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001, budget_seconds=0.0)


@pytest.fixture(autouse=True)
def store() -> Iterator[MemoryStore]:
    """What ``URL`` means in a test."""
    store = _stores[NAME] = MemoryStore()
    yield store
    del _stores[NAME]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"content of a")
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server(ServiceSettings(credentials=(KEY,))) as server:
        server.make_bucket("bucket")
        yield server


def on_server(server: S3Server, **settings: object) -> BucketSettings:
    return BucketSettings(url="", endpoint=server.endpoint, **settings)  # type: ignore[arg-type]


def requests(server: S3Server) -> int:
    return sum(server.snapshot().requests.values())


def test_opens_of_one_name_share_one_object(server: S3Server, home: Path) -> None:
    """Sixteen threads that open a cold one at once cost one request for its bytes, and the last of their
    handles closes it."""
    with StorageSource(home, FilesSettings(private_cache=True), on_server(server)) as source:
        files = source.customize_file_system("bucket;us-east-1", TOKEN)
        (home / "big").write_bytes(bytes(200_000))
        files.flush("big", "shared")
        before = server.snapshot().requests.get("GetObject", 0)
        barrier = threading.Barrier(16)
        handles: list[FileHandle] = []

        def work() -> None:
            barrier.wait()
            handle = files.open_file("shared")
            assert handle.read(0, 10) == bytes(10)
            handles.append(handle)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(handles) == 16
        assert files.statistics()["open_names"] == 1
        assert server.snapshot().requests["GetObject"] - before <= 1
        for handle in handles:
            handle.close()
        assert files.statistics()["open_names"] == 0


def test_an_open_that_fails_fails_for_all_and_is_tried_anew(server: S3Server, home: Path) -> None:
    """Nothing of a failed open stays behind."""
    with StorageSource(home, FilesSettings(private_cache=True), on_server(server, retry=IMPATIENT)) as source:
        files = source.customize_file_system("bucket;us-east-1", TOKEN)
        files.flush("a", "fails")
        server.begin_outage(Outage.REFUSE)
        try:
            for _ in range(2):
                with fails(errno.EAGAIN):
                    files.open_file("fails")
            with fails(errno.EAGAIN):
                files.exist("fails")
            with fails(errno.EAGAIN):
                files.flush("a", "other")
        finally:
            server.end_outage()
        assert files.statistics()["open_names"] == 0
        with files.open_file("fails") as handle:
            assert handle.read(0, 12) == b"content of a"


def test_termination_does_not_wait_for_a_store_that_hangs(server: S3Server, home: Path) -> None:
    """Calls that wait for it end with EBADF, in whichever thread; so does one that comes later."""
    source = StorageSource(home, FilesSettings(private_cache=True), on_server(server))
    files = source.customize_file_system("bucket;us-east-1", TOKEN)
    told: list[int | None] = []

    def look() -> None:
        try:
            files.exist("anything")
        except OSError as error:
            told.append(error.errno)

    server.plan(Stall(), operation="HeadObject", times=4)
    before = server.snapshot().requests.get("HeadObject", 0)
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    while server.snapshot().requests.get("HeadObject", 0) < before + 4:
        threading.Event().wait(0.01)
    # What the store's answers are waited for by belongs to the bucket client; it is let go of below.
    ending = threading.Thread(target=source.terminate)
    ending.start()
    for thread in threads:
        thread.join()
    server.release_stalls()
    ending.join()
    assert told == [errno.EBADF] * 4
    with fails(errno.EBADF):
        files.exist("anything")


def test_file_systems_of_one_directory_share_a_cache(home: Path) -> None:
    """Whatever path leads there; it is closed with the last of them. A private one is removed."""
    (home / "link").symlink_to(home / "cache")
    with StorageSource(home) as source:
        one = source.customize_file_system(URL, None, "cache_directory=cache")
        two = source.customize_file_system(URL, None, "cache_directory=link,prefix=p")
        caches = source.statistics()["caches"]
        assert isinstance(caches, dict)
        assert list(caches) == [os.path.realpath(home / "cache")]
        one.flush("a", "a")
        one.terminate()
        two.flush("a", "a")
        with two.open_file("a") as handle:
            assert handle.read(0, 12) == b"content of a"
        two.terminate()
        assert source.statistics()["caches"] == {}


def test_buckets_of_one_name_at_two_endpoints(server: S3Server, home: Path) -> None:
    """Share a cache directory by default, and no content, even where nothing is ever compared."""
    with S3Server() as stranger:
        stranger.make_bucket("bucket")
        for n, (where, content) in enumerate(((server, b"ours"), (stranger, b"theirs"))):
            (home / "same").write_bytes(content)
            with StorageSource(home, FilesSettings(open_check_seconds=0), on_server(where)) as source:
                files = source.customize_file_system("bucket;us-east-1", TOKEN)
                files.flush("same", "one-name")
                with files.open_file("one-name") as handle:
                    assert handle.read(0, len(content)) == content
            assert len(list(home.glob("cache-*"))) == 1, n


def test_a_cache_gives_nothing_to_who_has_not_the_key(home: Path) -> None:
    """Not even where the bucket is not asked: another key, or none, finds nothing in it."""
    (home / "bucket").mkdir()
    for number, key in enumerate((b"k" * 32, b"x" * 32, None)):
        secret = None if key is None else Secret(key)
        settings = FilesSettings(cache_dir=home / "cache", open_check_seconds=0, encryption_key=secret)
        with StorageSource(home, settings) as source:
            files = source.customize_file_system(f"file://{home}/bucket")
            if number == 0:
                files.flush("a", "a")
                files.flush_finish("a", "a")
                with files.open_file("a") as handle:
                    assert handle.read(0, 12) == b"content of a"
            else:
                with pytest.raises(OSError, match=r"sealed with another key|its key was not given"):
                    files.open_file("a")


def test_absence_can_be_remembered(server: S3Server, home: Path) -> None:
    """For as long as the settings say; a flush from here ends it at once."""
    with StorageSource(
        home, FilesSettings(private_cache=True, absent_seconds=3600.0), on_server(server)
    ) as source:
        files = source.customize_file_system("bucket;us-east-1", TOKEN)
        assert not files.exist("remembered")
        before = requests(server)
        for _ in range(5):
            assert not files.exist("remembered")
            with fails(errno.ENOENT):
                files.size("remembered")
        assert requests(server) == before
        files.flush("a", "remembered")
        assert files.exist("remembered")
        counters = source.statistics()["counters"]
        assert isinstance(counters, dict)
        assert counters["absent_remembered"] == 10


@pytest.mark.parametrize(
    ("problem", "number"),
    [
        (NotFound("a part has gone"), errno.EAGAIN),
        (BucketNotFound("the bucket has gone"), errno.ENXIO),
        (Denied("no"), errno.EACCES),
        (FileNotFoundError(errno.ENOENT, "gone meanwhile"), errno.ENOENT),
    ],
)
def test_a_flush_is_never_wrong_about_the_local_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, number: int
) -> None:
    """Whatever the store does not find, ENOENT means the local file alone."""

    async def upload(*arguments: object, **more: object) -> None:
        raise problem

    monkeypatch.setattr(file_system, "upload", upload)
    with StorageSource(home, FilesSettings(private_cache=True)) as source:
        files = source.customize_file_system(URL)
        with fails(number):
            files.flush("a", "a")


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 20))])
def test_everything_is_ended_while_everybody_works(home: Path, seed: int) -> None:
    """Handles, file systems and the source are closed by some threads while others use them: whoever works
    gets what is right, or EBADF, and all of them end."""
    for name in ("one", "two"):
        (home / name).write_bytes(name.encode() * 50_000)
    source = StorageSource(home, FilesSettings(private_cache=True, mode="ranges"))
    systems = [source.customize_file_system(URL, None, {"prefix": f"{n}/"}) for n in range(3)]
    for files in systems:
        for name in ("one", "two"):
            files.flush(name, name)
    shared = [files.open_file(name) for files in systems for name in ("one", "two")]
    strange: list[BaseException] = []

    def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        try:
            for _ in range(200):
                what = dice.randrange(40)
                handle, files = dice.choice(shared), dice.choice(systems)
                if what == 0:
                    handle.close()
                elif what == 1 and number % 4 == 0:
                    files.terminate()
                elif what < 20:
                    at = 3 * dice.randrange(49_000)
                    assert handle.read(at, 3) == handle.name.encode()
                elif what < 36:
                    with files.open_file("one") as mine:
                        assert mine.read(0, 6) == b"oneone"
                else:
                    assert files.directory_list() == ["one", "two"]
        except OSError as error:
            if error.errno != errno.EBADF:
                strange.append(error)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            strange.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    threads[0].join()
    source.terminate()
    for thread in threads:
        thread.join()
    assert strange == []
    assert all(handle.closed for handle in shared)


def test_what_is_known_of_an_open_file_is_not_asked_again(server: S3Server, home: Path) -> None:
    """Its size, and what was told of it once; when it is not open, the bucket is asked."""
    with StorageSource(home, FilesSettings(private_cache=True), on_server(server)) as source:
        files = source.customize_file_system("bucket;us-east-1", TOKEN)
        files.flush("a", "known")
        told = files.info("known")
        assert told.has_checksums
        with files.open_file("known") as handle:
            before = requests(server)
            assert files.size("known") == handle.size() == 12
            assert files.info("known") is told
            assert handle.etag == told.etag
            assert requests(server) == before
        files.remove("known")
        with fails(errno.ENOENT):
            files.info("known")


def test_a_hook_is_told_of_errors_and_nothing_secret(server: S3Server, home: Path) -> None:
    """One line for each, with the operation and the name; keys are in none, nor in any repr or message."""
    lines: list[tuple[int, str]] = []
    with StorageSource(
        home,
        FilesSettings(private_cache=True, log_level=5),
        on_server(server, retry=IMPATIENT),
        log=lambda level, line: lines.append((level, line)),
    ) as source:
        files = source.customize_file_system("bucket;us-east-1", TOKEN)
        with fails(errno.ENOENT):
            files.open_file("absent")
        with fails(errno.ENOENT):
            files.flush("missing", "x")
        with pytest.raises(OSError, match="Unable to access") as caught:
            source.customize_file_system("bucket;us-east-1", f"{KEY.access_id};geheim, but wrong")
        with fails(errno.EINVAL):
            source.customize_file_system(TOKEN, "bucket;us-east-1")
        with fails(errno.EINVAL):
            source.customize_file_system("bucket;us-east-1", "geheim")
        shown = [repr(source), repr(files), repr(source.statistics()), str(caught.value), source.prometheus()]
    errors = [line for level, line in lines if level == -3]
    assert errors[0].startswith("open absent: ")
    assert "No such file" in errors[1]
    assert [line for level, line in lines if level == 1 and line.startswith("customize")]
    assert len(errors) == 5
    for text in [line for _, line in lines] + shown:
        assert "geheim" not in text


@pytest.mark.logs("trying again in", required=False)
def test_faults_on_purpose(home: Path) -> None:
    """Below the retries nobody sees them but the figures; above, each reaches the caller, as with
    WiredTiger's directory store."""
    below = FilesSettings(private_cache=True, faults=FaultSettings(force_error=2))
    patient = BucketSettings(
        url="", retry=RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001)
    )
    with StorageSource(home, below, patient) as source:
        files = source.customize_file_system(URL)
        for n in range(4):
            files.flush("a", f"below{n}")
            with files.open_file(f"below{n}") as handle:
                assert handle.read(0, 12) == b"content of a"
        injected = files.statistics()["injected"]
        assert isinstance(injected, dict)
        assert injected["faults"] >= 4
    above = FilesSettings(
        private_cache=True, faults=FaultSettings(force_error=2, operations=("put",), above_retries=True)
    )
    with StorageSource(home, above, patient) as source:
        files = source.customize_file_system(URL)
        files.flush("a", "above0")
        with fails(errno.EAGAIN, "failed on purpose"):
            files.flush("a", "above1")
        files.flush("a", "above1")


def test_figures_never_go_down(home: Path) -> None:
    """What a file system that has ended had asked of its bucket is counted still."""
    with StorageSource(home, FilesSettings(private_cache=True)) as source:
        files = source.customize_file_system(URL)
        files.flush("a", "a")
        with files.open_file("a") as handle:
            handle.read(0, 1)
        before = source.statistics()["counters"]
        files.terminate()
        after = source.statistics()["counters"]
        assert isinstance(before, dict)
        assert isinstance(after, dict)
        assert before["get_objects"] == after["get_objects"] == 1
        assert all(after[name] >= value for name, value in before.items())


def test_figures_in_a_file_while_it_works(home: Path) -> None:
    """Written again and again, always whole."""
    path = home / "figures.json"
    with StorageSource(
        home, FilesSettings(private_cache=True, statistics_file=path, statistics_seconds=0.01)
    ) as source:
        files = source.customize_file_system(URL)
        files.flush("a", "a")
        while not path.exists() or json.loads(path.read_bytes())["counters"]["put_objects"] != 1:
            threading.Event().wait(0.01)
    assert list(home.glob(".figures*")) == []


@pytest.mark.logs("No such file or directory")
def test_a_file_for_figures_that_cannot_be_written(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is a warning, and no more."""
    settings = FilesSettings(
        private_cache=True, statistics_file=home / "no" / "figures", statistics_seconds=0.01
    )
    with StorageSource(home, settings) as source:
        assert source.customize_file_system(URL).directory_list() == []
        while not caplog.records:
            threading.Event().wait(0.01)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_an_abandoned_listing(home: Path, store: MemoryStore) -> None:
    """Who stops reading pages leaves nothing behind that keeps the source from ending."""
    with StorageSource(home, FilesSettings(private_cache=True)) as source:
        files = source.customize_file_system(URL)
        for n in range(5):
            files.flush("a", f"name{n}")
        pages = files.scan(batch_size=2)
        assert [entry.name for entry in next(pages)] == ["name0", "name1"]
        del pages
        held = files.scan(batch_size=2)
        next(held)
        with pytest.raises(OSError, match="closed"):
            files.terminate()
            list(held)


PROGRAM = """
import sys, os, threading, time, signal
from bucketry.files import StorageSource
from bucketry.settings import FilesSettings
home, what = sys.argv[1:]
source = StorageSource(home, FilesSettings(private_cache=True))
files = source.customize_file_system(f"file://{home}/bucket")
files.flush("a", "a")
handle = files.open_file("a")
if what == "forgets":
    print(handle.read(0, 7))
elif what == "forks":
    pid = os.fork()
    if pid == 0:
        try:
            files.exist("a")
        except OSError as error:
            print(error.errno, flush=True)
        try:
            files.open_file("b")
        except OSError as error:
            print(error.errno, flush=True)
        handle.close()
        files.terminate()
        source.terminate()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print(files.exist("a"), handle.read(0, 7), source.references)
    with files.open_file("a") as again:
        assert again.read(0, 12) == b"content of a"
    source.terminate()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "output"), [("forgets", "b'content'\n"), ("forks", "9\n9\nTrue b'content' 1\n")]
)
def test_programs_that_end_as_they_please(home: Path, what: str, output: str) -> None:
    """One that terminates nothing ends quietly; in a forked child calls are refused instead of hanging, and
    whatever it ends or closes, the parent goes on."""
    (home / "bucket").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(home), what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_names_are_exported() -> None:
    """``bucketry.files`` has the three classes, and says so of others."""
    import bucketry.files

    assert (StorageSource.__name__, FileSystem.__name__) == ("StorageSource", "FileSystem")
    with pytest.raises(AttributeError):
        _ = bucketry.files.Nothing


def test_a_cache_directory_with_plain_files_alone(home: Path) -> None:
    """Everything else of a cache can lie beside its directory, for who lists that."""
    with StorageSource(home, FilesSettings(mode="whole", cache_state_beside=True)) as source:
        files = source.customize_file_system(URL)
        files.flush("a", "dir/a")
        files.flush_finish("a", "dir/a")
        cache = home / f"cache-{NAME}"
        assert [path.name for path in cache.rglob("*")] == ["dir", "a"]
        assert (cache / "dir" / "a").read_bytes() == b"content of a"
        files.remove("dir/a")
        assert list(cache.iterdir()) == []
        assert (home / f".cache-{NAME}.bucketry").is_dir()


def test_buckets_of_one_name_on_two_servers(home: Path) -> None:
    """A cache directory that two of them share keeps them apart, though neither is asked again."""
    settings = FilesSettings(open_check_seconds=0.0, cache_dir=home / "cache")
    for content in (b"of the one", b"of the other"):
        with S3Server() as other:
            other.make_bucket("bucket")
            (home / "source").write_bytes(content)
            with StorageSource(home, settings, bucket=on_server(other)) as source:
                files = source.customize_file_system("bucket;us-east-1", TOKEN)
                files.flush("source", "name")
                with files.open_file("name") as handle:
                    assert handle.read(0, len(content)) == content
