"""``bucketry unlock`` and what ``info`` tells of who holds a volume, on buckets in memory."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bucketry.bucket.interface import ObjectInfo
from bucketry.bucket.memory import MemoryStore, shared_store
from bucketry.cli.main import run_command
from bucketry.core import lease as rules
from bucketry.core.lease import Holder, Lease
from bucketry.core.names import LEASE_NAME
from bucketry.disk.machine import this_process

NAME = "cli-unlock"
URL = f"memory://{NAME}/disk"
HOLDER = Holder(host="elsewhere", boot_id="another", pid=7, start_time=1, token=0x1234)
LEASE = Lease(epoch=3, holder=HOLDER, taken="2026-11-21T19:38:00Z", renewed="2026-11-21T19:39:00Z")


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """The bucket, with a disk in it."""
    store = shared_store(NAME)
    assert run_command(["create", URL, "--size", "1M"]) == 0
    yield store
    store.objects.clear()


def put_lease(store: MemoryStore, lease: Lease) -> None:
    key, body = "disk/" + LEASE_NAME, rules.encode(lease)
    store.objects[key] = ObjectInfo(key, len(body), store.new_etag()), body


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run_command(["info", URL, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_nothing_to_unlock(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """A volume that nobody holds is said to be free, and left alone."""
    before = dict(store.objects)
    assert run_command(["unlock", URL]) == 0
    assert f"nobody holds {URL}" in capsys.readouterr().out
    assert store.objects == before
    assert report(capsys)["lease"] is None


@pytest.mark.logs("taking over the lease", "taken over from")
def test_force_takes_it_without_asking(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """info tells who holds it before, and that it is free afterwards. What is waited for is said, and how to
    do without."""
    put_lease(store, replace(LEASE, duration_seconds=0.3))
    found = report(capsys)
    assert "process 7 on elsewhere" in str(found["mounted_by"])
    assert found["lease"] == {
        "state": "held",
        "epoch": 3,
        "host": "elsewhere",
        "pid": 7,
        "since": "2026-11-21T19:38:00Z",
        "renewed": "2026-11-21T19:39:00Z",
    }
    assert run_command(["unlock", URL, "--force"]) == 0
    said = capsys.readouterr()
    assert "process 7 on elsewhere since 2026-11-21T19:38:00Z" in said.out
    assert re.search(
        r"^bucketry: memory://.*: taken over from process 7 on elsewhere .* waiting 0 s, until [\d:]{8}, "
        "for it to stop; --old-host-is-dead skips this$",
        said.err,
        re.MULTILINE,
    )
    found = report(capsys)
    assert (found["mounted_by"], found["lease"]) == (None, {"state": "free", "epoch": 4})


def test_without_a_yes_nothing_is_unlocked(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question names the holder; no is the default."""
    put_lease(store, LEASE)
    before = dict(store.objects)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert run_command(["unlock", URL]) == 1
    said = capsys.readouterr()
    assert "process 7 on elsewhere" in said.out + said.err
    assert "nothing was unlocked" in said.err
    assert store.objects == before


@pytest.mark.logs("taking over the lease")
def test_what_a_process_of_this_machine_left_does_not_keep_a_volume_from_being_erased(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease and token go with the volume; a holder that may live is refused."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    put_lease(store, replace(LEASE, renewed=now))
    assert run_command(["erase", URL]) == 5
    ended = replace(this_process(1), start_time=1)
    put_lease(store, replace(LEASE, holder=ended, renewed=now))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run_command(["erase", URL]) == 0
    assert store.objects == {}


def test_a_damaged_lease_is_taken_by_force_alone(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without, the line says how; afterwards the disk can be used, and the lease is of a later epoch than any
    before."""
    key = "disk/" + LEASE_NAME
    store.objects[key] = ObjectInfo(key, 7, store.new_etag()), b"damaged"
    capsys.readouterr()
    assert run_command(["unlock", URL]) == 1
    assert "bucketry unlock --force frees it" in capsys.readouterr().err
    assert run_command(["unlock", URL, "--force", "--old-host-is-dead"]) == 0
    lease = rules.decode(store.objects[key][1])
    assert lease.holder is None
    assert lease.epoch > 1_700_000_000
    assert run_command(["resize", URL, "2M"]) == 0
