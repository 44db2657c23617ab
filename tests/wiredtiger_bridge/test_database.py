"""A real WiredTiger over SeaweedFS: what went to the bucket comes back, whatever happens in between."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servers.proxy import Proxy
from wiredtiger_bridge.at_work import Database, Databases

pytestmark = pytest.mark.system

TABLES = ["ab", "abc", "orders", "words"]
#: Over all tables a million in the long run, a fifth of it otherwise; in four flushes.
ROWS_EACH, ROWS_EACH_QUICK = 250_000, 50_000
FLUSHES = 4
CHUNK_CACHE = "chunk_cache=[enabled=true,type=DRAM,capacity=64MB,chunk_size=1MB]"
#: So small that a scan has to read everything from the store.
SMALL = "cache_size=10MB"


def filled(database: Database, tables: list[str], rows: int, flushes: int = 1) -> None:
    """Rows in the bucket, and no local file but those that are written to."""
    each = rows // flushes
    steps: list[dict[str, object]] = [{"do": "create", "tables": tables}]
    for number in range(flushes):
        steps.append({"do": "insert", "tables": tables, "first": number * each, "count": each})
        steps.append({"do": "flush"})
    database.run(*steps, {"do": "wait_expired", "count": len(tables)})


@pytest.mark.hangs_after(900)
def test_many_rows_come_back(databases: Databases, is_full: bool) -> None:
    """Several tables and flushes, local objects expired, caches empty, new processes: every row is there, in
    scans and in searches of many threads, without WiredTiger's chunk cache and, of two tables, with it."""
    database = databases.make(config="cache_size=200MB")
    rows = ROWS_EACH if is_full else ROWS_EACH_QUICK
    filled(database, TABLES, rows, FLUSHES)
    names = [f"pfx_{table}-{number:010}.wtobj" for table in TABLES for number in range(1, FLUSHES + 1)]
    assert databases.objects() == sorted(names)
    assert len(list(database.home.glob("*.wtobj"))) == len(TABLES)
    for config, tables in ((SMALL, TABLES), (f"{SMALL},{CHUNK_CACHE}", TABLES[:2])):
        database.lose_cache()
        answers = database.run(
            {"do": "scan", "tables": tables, "count": rows},
            {"do": "search", "tables": TABLES, "count": rows, "threads": 8, "each": 500},
            {"do": "statistics"},
            {"do": "orphans"},
            config=config,
        )
        assert answers[0]["rows"] == rows * len(tables)
        assert answers[1]["rows"] == 4000
        # Each object has been read, and not only its beginning.
        assert answers[2]["counters"]["handle_reads"] > 2 * len(names)
        assert (answers[3]["orphans"], answers[3]["missing"]) == ([], [])
        assert answers[3]["found"] == len(names)


@pytest.mark.parametrize("mode", ["whole", "ranges"])
def test_both_ways_of_the_cache_give_the_rows(databases: Databases, mode: str) -> None:
    """Whole files on open and ranges as they are read; the cache is kept from one process to the next."""
    database = databases.make(mode=mode, config=SMALL)
    filled(database, ["t"], 20_000)
    database.lose_cache()
    scan: dict[str, object] = {"do": "scan", "tables": ["t"], "count": 20_000}
    cold = database.run(scan, {"do": "statistics"})[1]
    warm = database.run(scan, {"do": "statistics"})[1]
    assert cold["counters"]["get_objects"] > warm["counters"]["get_objects"]


def test_two_databases_in_one_bucket_do_not_mix(databases: Databases) -> None:
    """The same tables with other rows under another prefix, at the same time."""
    first, second = databases.make("first", prefix="one/"), databases.make("second", prefix="two/")
    for generation, database in enumerate((first, second)):
        database.run(
            {"do": "create", "tables": ["t"]},
            {"do": "insert", "tables": ["t"], "first": 0, "count": 5000, "generation": generation},
            {"do": "flush"},
            {"do": "wait_expired", "count": 1},
        )
        database.lose_cache()
    running = [
        database.start(
            {"do": "open"}, {"do": "scan", "tables": ["t"], "count": 5000, "generation": generation}
        )
        for generation, database in enumerate((first, second))
    ]
    for each in running:
        each.answer()
        assert each.answer()["rows"] == 5000
        assert each.end()[0] == 0
    assert databases.objects() == ["one/t-0000000001.wtobj", "two/t-0000000001.wtobj"]


def test_a_second_database_on_a_prefix_is_told_whose_it_is(databases: Databases) -> None:
    """The connection is refused with the owner's home; with owner=take it is opened."""
    first, second = databases.make("first"), databases.make("second")
    filled(first, ["t"], 10)
    running = second.start({"do": "open"})
    status, errors = running.end()
    assert status == 1
    assert f"belongs to another database: home {first.home} on" in errors
    options = {**second.settings["options"], "owner": "take"}
    second.run({"do": "create", "tables": ["u"]}, options=options)


def test_a_dropped_table_leaves_nothing(databases: Databases) -> None:
    """remove_shared removes exactly that table's objects; without it they stay, are found, and can be
    removed."""
    database = databases.make()
    filled(database, ["ab", "abc", "x"], 2000, 2)
    database.run({"do": "drop", "table": "ab"})
    assert [name for name in databases.objects() if "ab-" in name] == []
    assert len(databases.objects()) == 4
    database.run({"do": "drop", "table": "x", "shared": False})
    orphans = [f"pfx_x-{number:010}.wtobj" for number in (1, 2)]
    (found,) = database.run({"do": "orphans"})
    assert (found["orphans"], found["missing"], found["found"]) == (orphans, [], 2)
    assert set(orphans) < set(databases.objects())
    (found,) = database.run({"do": "orphans", "remove": True})
    assert found["removed"] == orphans
    assert databases.objects() == [f"pfx_abc-{number:010}.wtobj" for number in (1, 2)]
    database.lose_cache()
    database.run({"do": "scan", "tables": ["abc"], "count": 2000})


def test_encrypted_objects_hide_their_rows(databases: Databases, tmp_path: Path) -> None:
    """With a key nothing of the rows is in the bucket; a second flush after a kill is a success all the same,
    and without the key the rows cannot be read."""
    key = tmp_path / "key"
    key.write_text("5a" * 32)
    database = databases.make(encryption_key_file=str(key))
    running = database.start(
        {"do": "open"},
        {"do": "create", "tables": ["t"]},
        {"do": "insert", "tables": ["t"], "first": 0, "count": 2000},
        {"do": "checkpoint"},
        {"do": "kill_after_upload", "number": 1},
        {"do": "flush"},
    )
    assert running.end()[0] == -signal.SIGKILL
    database.run({"do": "flush"}, {"do": "wait_expired", "count": 1})
    sealed = databases.fetch("pfx_t-0000000001.wtobj")
    assert b"the value goes on" not in sealed
    database.lose_cache()
    database.run({"do": "scan", "tables": ["t"], "count": 2000})
    key.write_text("5b" * 32)
    database.lose_cache()
    (found,) = database.run(
        {"do": "search", "tables": ["t"], "count": 2000, "threads": 1, "each": 1, "errors": True},
        options={**database.settings["options"], "owner": "ignore"},
    )
    assert found["failed"] == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_between_the_upload_and_the_metadata(databases: Databases, number: int) -> None:
    """The object is flushed again at the next start, which is a success; nothing is lost."""
    database = databases.make()
    tables = ["a", "b"]
    running = database.start(
        {"do": "open"},
        {"do": "create", "tables": tables},
        {"do": "insert", "tables": tables, "first": 0, "count": 3000},
        {"do": "checkpoint"},
        {"do": "kill_after_upload", "number": number},
        {"do": "flush"},
        {"do": "insert", "tables": tables, "first": 3000, "count": 3000},
        {"do": "flush"},
    )
    status, errors = running.end()
    assert status == -signal.SIGKILL, errors
    assert len(databases.objects()) == number
    rows = 3000 if number < 3 else 6000
    database.run(
        {"do": "scan", "tables": tables, "count": rows},
        {"do": "insert", "tables": tables, "first": rows, "count": 1000},
        {"do": "flush"},
        {"do": "wait_expired", "count": 2},
    )
    database.lose_cache()
    database.run({"do": "scan", "tables": tables, "count": rows + 1000})


@pytest.mark.hangs_after(1800)
def test_killed_at_any_moment(databases: Databases, is_full: bool) -> None:
    """However often a database is killed while it flushes, the next start has every row of the last flush
    that was acknowledged, and goes on; in the end everything comes back from the bucket."""
    database = databases.make()
    dice = random.Random(7)
    step, rows = 400, 0
    database.run({"do": "create", "tables": ["t"]})
    for _ in range(40 if is_full else 4):
        steps: list[dict[str, object]] = []
        for number in range(200):
            steps.append({"do": "insert", "tables": ["t"], "first": rows + number * step, "count": step})
            steps.append({"do": "flush"})
        running = database.start({"do": "open"}, {"do": "check", "table": "t"}, *steps)
        running.answer()
        assert running.answer()["rows"] == rows
        for _ in range(dice.randrange(1, 6)):
            running.answer()
            running.answer()
            rows += step
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(dice.random() * 0.1)
        running.process.kill()
        running.end()
        # What was under way may be there or not: either way the rows are the first so many.
        (found,) = database.run({"do": "check", "table": "t"})
        assert found["rows"] >= rows
        rows = found["rows"]
    database.run({"do": "flush"}, {"do": "wait_expired", "count": 1})
    database.lose_cache()
    assert database.run({"do": "check", "table": "t"}, {"do": "orphans"})[0]["rows"] == rows


@pytest.fixture
def outage_seconds(is_full: bool) -> float:
    """How long the server is away: as long as it takes to be noticed, or a minute."""
    return 60 if is_full else 4


@pytest.mark.parametrize("build", ["debug_build", "release_build"])
def test_the_server_is_away_during_a_flush(
    databases: Databases,
    seaweed_proxy: Proxy,
    request: pytest.FixtureRequest,
    build: str,
    outage_seconds: float,
) -> None:
    """The flush waits, WiredTiger does not panic, and everything arrives when the server is back."""
    database = databases.make(
        build=request.getfixturevalue(build), endpoint=seaweed_proxy.endpoint, retry_budget=1, verbose=-1
    )
    running = database.start(
        {"do": "open"},
        {"do": "create", "tables": ["t"]},
        {"do": "insert", "tables": ["t"], "first": 0, "count": 2000},
        {"do": "wait"},
        {"do": "flush"},
        {"do": "scan", "tables": ["t"], "count": 2000},
        {"do": "close"},
    )
    for _ in range(4):
        running.answer()
    seaweed_proxy.refuse()
    seaweed_proxy.cut()
    running.go_on()
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(outage_seconds)
    assert databases.objects() == []
    seaweed_proxy.accept()
    for _ in range(4):
        running.answer()
    status, errors = running.end()
    assert status == 0, errors
    assert "trying on for 900 s" in errors
    assert databases.objects() == ["pfx_t-0000000001.wtobj"]


@pytest.mark.parametrize("build", ["debug_build", "release_build"])
def test_the_server_is_away_during_cold_reads(
    databases: Databases,
    seaweed_proxy: Proxy,
    request: pytest.FixtureRequest,
    build: str,
    outage_seconds: float,
) -> None:
    """Opens, and reads of what is not in the cache, wait for the server: nobody dies, and no row is wrong."""
    database = databases.make(
        build=request.getfixturevalue(build), endpoint=seaweed_proxy.endpoint, retry_budget=1, mode="ranges"
    )
    filled(database, ["t", "u"], 30_000)
    database.lose_cache()
    running = database.start(
        {"do": "open"},
        {"do": "search", "tables": ["t"], "count": 30_000, "threads": 1, "each": 1},
        {"do": "wait"},
        {"do": "scan", "tables": ["t", "u"], "count": 30_000},
        {"do": "close"},
        config=SMALL,
    )
    for _ in range(3):
        running.answer()
    seaweed_proxy.refuse()
    seaweed_proxy.cut()
    running.go_on()
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(outage_seconds)
    seaweed_proxy.accept()
    running.answer()
    assert running.answer()["rows"] == 60_000
    running.answer()
    status, errors = running.end()
    assert status == 0, errors


def test_ctrl_c_during_an_outage_is_delivered_afterwards(databases: Databases, seaweed_proxy: Proxy) -> None:
    """One Ctrl-C while an object is being opened, where WiredTiger does not survive an error, ends the
    program as it ends any other, when the call is over."""
    database = databases.make(endpoint=seaweed_proxy.endpoint, retry_budget=1)
    filled(database, ["t"], 2000)
    database.lose_cache()
    running = database.start({"do": "open"}, {"do": "wait"}, {"do": "scan", "tables": ["t"], "count": 2000})
    running.answer()
    running.answer()
    seaweed_proxy.refuse()
    seaweed_proxy.cut()
    running.go_on()
    running.answer()
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(2)
    running.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(2)
    seaweed_proxy.accept()
    status, errors = running.end()
    # The scan may be over before the signal comes again.
    assert status in (0, -signal.SIGINT), errors
    assert status == 0 or "KeyboardInterrupt" in errors


@pytest.mark.parametrize(
    ("build", "config"), [("debug_build", CHUNK_CACHE), ("release_build", "")], ids=["chunk cache", "plain"]
)
def test_an_outage_longer_than_the_patience_is_an_exception(
    databases: Databases, seaweed_proxy: Proxy, request: pytest.FixtureRequest, build: str, config: str
) -> None:
    """Where WiredTiger itself would crash, at the first open of an object, the cursor gets an error, and the
    same process reads the rows when the server is back."""
    database = databases.make(
        build=request.getfixturevalue(build),
        config=config,
        endpoint=seaweed_proxy.endpoint,
        retry_budget=0.5,
        patience=1,
        read_patience=0,
    )
    filled(database, ["t"], 2000)
    database.lose_cache()
    search: dict[str, object] = {
        "do": "search", "tables": ["t"], "count": 2000, "threads": 1, "each": 2, "errors": True
    }  # fmt: skip
    running = database.start(
        {"do": "open"},
        {"do": "wait"},
        search,
        {"do": "wait"},
        search,
        {"do": "scan", "tables": ["t"], "count": 2000},
        {"do": "close"},
    )
    running.answer()
    running.answer()
    seaweed_proxy.refuse()
    seaweed_proxy.cut()
    running.go_on()
    running.answer()
    assert running.answer()["failed"] == 2
    running.answer()
    seaweed_proxy.accept()
    running.go_on()
    running.answer()
    assert running.answer()["rows"] == 2
    assert running.answer()["rows"] == 2000
    running.answer()
    status, errors = running.end()
    assert status == 0, errors
    assert "its pages cannot be read until that has changed" in errors


def test_an_object_that_has_gone_is_an_exception(databases: Databases, debug_build: Path) -> None:
    """WiredTiger's own answer would be a segmentation fault."""
    database = databases.make(build=debug_build)
    filled(database, ["t"], 2000)
    database.lose_cache()
    data = databases.fetch("pfx_t-0000000001.wtobj")
    databases.delete("pfx_t-0000000001.wtobj")
    (found, missing) = database.run(
        {"do": "search", "tables": ["t"], "count": 2000, "threads": 1, "each": 2, "errors": True},
        {"do": "orphans"},
    )
    assert found["failed"] == 2
    assert missing["missing"] == ["pfx_t-0000000001.wtobj"]
    databases.replace("pfx_t-0000000001.wtobj", data)
    database.run({"do": "scan", "tables": ["t"], "count": 2000})


@pytest.mark.parametrize("mode", ["whole", "ranges"])
def test_a_damaged_cache_is_fetched_again(databases: Databases, mode: str) -> None:
    """Bytes of cached files that changed on the local disk are never given to WiredTiger: single bits, an end
    that is missing, all of it."""
    database = databases.make(mode=mode, config=SMALL)
    filled(database, ["t"], 20_000)
    database.lose_cache()
    scan: dict[str, object] = {"do": "scan", "tables": ["t"], "count": 20_000}
    database.run(scan)
    dice = random.Random(1)
    for damage in ("flip", "truncate", "empty"):
        cached = [path for path in database.cache().rglob("*") if path.is_file()]
        large = [path for path in cached if path.stat().st_size > 100_000]
        assert large
        for path in large:
            path.chmod(0o600)
            data = bytearray(path.read_bytes())
            if damage == "flip":
                for _ in range(50):
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            else:
                del data[len(data) // 3 if damage == "truncate" else 0 :]
            path.write_bytes(data)
        database.run(scan)


def test_an_object_that_changed_is_not_mixed(databases: Databases, release_build: Path) -> None:
    """Another object under the name while it is open: what is read is the old one's, or an error."""
    # A cache of ours that holds nearly nothing, so that reads need the bucket.
    database = databases.make(mode="ranges", config=SMALL, read_patience=0, read_ahead="0", cache_size="1M")
    filled(database, ["t"], 50_000)
    database.lose_cache()
    running = database.start(
        {"do": "open"},
        {"do": "search", "tables": ["t"], "count": 50_000, "threads": 1, "each": 1},
        {"do": "wait"},
        {"do": "search", "tables": ["t"], "count": 50_000, "threads": 2, "each": 50, "errors": True},
        {"do": "close"},
    )
    for _ in range(3):
        running.answer()
    name = "pfx_t-0000000001.wtobj"
    data = bytearray(databases.fetch(name))
    # Every page of the new one has a wrong byte: WiredTiger would notice, but it must not have to.
    data[::4096] = bytes(len(data[::4096]))
    databases.replace(name, bytes(data))
    running.go_on()
    running.answer()
    found = running.answer()
    assert found["failed"] > 0
    running.answer()
    status, errors = running.end()
    assert status == 0, errors
    assert "Stale file handle" in errors
    assert "checksum" not in errors


def test_a_program_that_forgets_to_close_ends_all_the_same(databases: Databases, debug_build: Path) -> None:
    """The interpreter ends, with status 0, while WiredTiger's threads are there; nothing is lost."""
    database = databases.make(build=debug_build)
    running = database.start(
        {"do": "open"},
        {"do": "create", "tables": ["t"]},
        {"do": "insert", "tables": ["t"], "first": 0, "count": 2000},
        {"do": "flush"},
        {"do": "leave"},
    )
    assert running.end()[0] == 0
    database.run({"do": "scan", "tables": ["t"], "count": 2000})


def test_wrong_options_and_wrong_buckets_say_so(databases: Databases, tmp_path: Path) -> None:
    """What cannot be is refused before there is a database, in one line that names it."""
    nowhere = databases.make("nowhere")
    nowhere.settings["bucket"] = "s3://there-is-none"
    status, errors = nowhere.start({"do": "open"}).end()
    assert status == 1
    assert "there-is-none : No such bucket." in errors
    wrong = databases.make("wrong", cache_sise="1G")
    status, errors = wrong.start({"do": "open"}).end()
    assert status == 1
    assert "unknown option cache_sise: did you mean cache_size?" in errors


def test_the_library_without_this_process_is_an_error(release_build: Path, tmp_path: Path) -> None:
    """A process that never imported the bridge, and finds the library in a database's configuration, gets an
    error instead of a crash."""
    code = """
import sys, wiredtiger
from bucketry.files.wiredtiger.loadable import write_library
from pathlib import Path
library = write_library(Path(sys.argv[1]) / "a.so")
try:
    wiredtiger.wiredtiger_open(sys.argv[1], f'create,extensions=["{library}"]')
except wiredtiger.WiredTigerError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"PYTHONPATH": str(release_build)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "refused: Operation not supported" in done.stdout
