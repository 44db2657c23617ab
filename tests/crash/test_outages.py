"""A bucket that fails by chance, or is away for a while, under write load: nothing is lost, nothing fails
that need not, and what is kept here can be read meanwhile.

BUCKETRY_OUTAGE_SECONDS is how long the bucket is away.
"""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bucketry.testing.s3_server import Fail, FaultRates, LineModel, Outage, S3Server, Stall, StallAt
from crash import raw_load, untar_load
from crash.loop import mounted
from e2e.places import Place
from e2e.program import ENVIRONMENT, Program, run_tool, wait_until
from servers.proxy import Proxy

OUTAGE_SECONDS = float(os.environ.get("BUCKETRY_OUTAGE_SECONDS", "1"))
pytestmark = [pytest.mark.system, pytest.mark.hangs_after(300 + 2 * OUTAGE_SECONDS)]

SIZE = 64 << 20
#: The load writes here; what follows is read while the bucket is away.
REGION = range(6144)
KEPT_OFFSET, KEPT_BYTES = 24 << 20, 40 << 20
#: Less than that; half of it may be dirty, which is more than comes between two fsyncs.
MEMORY = "--memory=32M"
#: Some 9 MiB and 20 fsyncs.
OPERATIONS = 120
#: As docs/semantics.md has it: after so long without a renewal of the lease flushes fail. It is renewed every
#: 10 s, so a shorter outage is not noticed.
LEASE_SECONDS, RENEWAL_SECONDS = 30, 10
#: Each request is tried for so long; its last attempt may last as long as one.
BUDGET_SECONDS, TIMEOUT_SECONDS = 60, 5


@dataclass(frozen=True)
class World:
    """A server, and a proxy before it."""

    server: S3Server
    proxy: Proxy
    place: Place


@pytest.fixture
def world() -> Iterator[World]:
    with S3Server() as server, Proxy(server.port) as proxy:
        server.make_bucket("disk")
        server.set_line(LineModel(latency_seconds=0.002))
        options = ["--endpoint", proxy.endpoint, "--region", "us-east-1", "--anonymous"]
        yield World(server, proxy, Place("s3://disk", [*options, "--timeout", str(TIMEOUT_SECONDS)]))
        server.clear_faults()
        server.release_stalls()


@contextmanager
def _refused(world: World) -> Iterator[None]:
    world.proxy.refuse()
    yield
    world.proxy.accept()


@contextmanager
def _hanging(world: World) -> Iterator[None]:
    world.server.begin_outage(Outage.HANG)
    yield
    world.server.end_outage()


@contextmanager
def _failing(world: World, fault: Fail) -> Iterator[None]:
    world.server.plan(fault, times=None)
    yield
    world.server.clear_faults()


@contextmanager
def _stalling(world: World) -> Iterator[None]:
    """Requests have their effect and are never answered."""
    world.server.plan(Stall(at=StallAt.ANSWER), times=None)
    yield
    world.server.clear_faults()
    world.server.release_stalls()


@contextmanager
def _cut(world: World) -> Iterator[None]:
    """No connection outlives its first request; every other one has its effect."""
    world.proxy.cut_all()
    yield
    world.proxy.accept()


OUTAGES: Mapping[str, Callable[[World], Any]] = {
    "refused": _refused,
    "hanging": _hanging,
    "500": lambda world: _failing(world, Fail("InternalError")),
    "503": lambda world: _failing(world, Fail("SlowDown")),
    "stalling": _stalling,
    "cut": _cut,
}


@contextmanager
def _running(*command: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A load; killed when the test fails before it has ended."""
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as load:
        try:
            yield load
        finally:
            if load.poll() is None:
                load.send_signal(signal.SIGKILL)


def _raw_load(file: Path, seed: int) -> list[str | Path]:
    numbers = (seed, REGION.start, REGION.stop, OPERATIONS)
    return [sys.executable, raw_load.__file__, file, *map(str, numbers)]


def _read_numbers(load: "subprocess.Popen[bytes]", count: int) -> bytes:
    """The first ``count`` numbers that a load tells."""
    assert load.stdout is not None
    numbers = b""
    while len(numbers) < 4 * count:
        assert select.select([load.stdout], [], [], 60)[0], "the load does not get on"
        data = os.read(load.stdout.fileno(), 4 * count - len(numbers))
        assert data, "the load has ended"
        numbers += data
    return numbers


def _read_kept(file: Path, copy: Path) -> bytes:
    """What lies beside the load's region, without the kernel's memory."""
    blocks = [f"bs={1 << 20}", f"skip={KEPT_OFFSET >> 20}", f"count={KEPT_BYTES >> 20}"]
    run_tool("dd", f"if={file}", f"of={copy}", "iflag=direct", "status=none", *blocks)
    return copy.read_bytes()


@pytest.mark.parametrize("durability", ["bucket", "journal"])
def test_a_bucket_that_fails_by_chance(
    durability: str, world: World, program: Program, tmp_path: Path
) -> None:
    """Errors, lost answers, resets, stalls, truncated, damaged and slow bodies, each a few in a hundred: no
    write, read or fsync fails, the statistics count the retries, and after umount all is there."""
    disk = tmp_path / "disk"
    program.create(world.place, str(SIZE))
    options = [f"--durability={durability}", f"--cache-dir={tmp_path / 'cache'}", "--cache-size=1M"]
    with program.attached(world.place, disk, *options, "--memory=8M") as file:
        rates = FaultRates(
            fail=0.03, fail_applied=0.03, slow_down=0.03, lose_answer=0.03, reset=0.03, stall=0.01,
            truncate=0.03, flip_bit=0.01, slow_body=0.03, stall_seconds=0.5,
            slow_body_bytes_per_second=500_000,
        )  # fmt: skip
        world.server.set_fault_rates(rates, seed=31)
        with _running(*_raw_load(file, 31)) as load:
            told, complaints = load.communicate(timeout=240)
        assert load.returncode == 0, complaints.decode()
        assert raw_load.FAILED not in told
        expected = raw_load.final_content(bytes(SIZE), 31, REGION, OPERATIONS)
        assert file.read_bytes() == expected
        statistics = program.json("stats", disk)
        assert statistics["bucket"]["retrying"]["retries"] > 0
        assert statistics["bucket"]["retrying"]["exhausted"] == 0
    world.server.clear_faults()
    program.run("export", world.place.url, tmp_path / "image", *world.place.options)
    assert (tmp_path / "image").read_bytes() == expected


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_bucket_that_is_away(kind: str, world: World, program: Program, tmp_path: Path) -> None:
    """Away in the middle of writing: writes wait, reads of what is in the cache directory go on, the
    statistics tell of it; an fsync fails when the lease runs out or the budget is spent, not before, and does
    not hang for longer; with the bucket back the load ends well, umount returns 0, and all is there."""
    disk = tmp_path / "disk"
    seed = 40 + list(OUTAGES).index(kind)
    program.create(world.place, str(SIZE))
    options = [f"--cache-dir={tmp_path / 'cache'}", MEMORY]
    kept = os.urandom(KEPT_BYTES)
    with program.attached(world.place, disk, *options) as file:
        with file.open("r+b") as opened:
            opened.seek(KEPT_OFFSET)
            opened.write(kept)
        # More than the memory takes: from now on it comes from the cache directory.
        assert _read_kept(file, tmp_path / "copy") == kept
        with _running(*_raw_load(file, seed)) as load:
            told = _read_numbers(load, 5)
            with OUTAGES[kind](world):
                away_until = time.monotonic() + OUTAGE_SECONDS
                reads_count = 0
                while time.monotonic() < away_until or reads_count == 0:
                    assert _read_kept(file, tmp_path / "copy") == kept
                    reads_count += 1
                    time.sleep(0.2)  # the machine has other things to do in five minutes
                    assert load.poll() is None, "the load waits for the bucket"
                wait_until(
                    lambda: program.json("stats", disk)["bucket"]["retrying"]["retries"] > 0,
                    "a request is tried again",
                )
                assert program.json("stats", disk)["cache"]["dirty_bytes"] > 0
            rest, complaints = load.communicate(timeout=240)
        assert load.returncode == 0, complaints.decode()
        numbers = told + rest
        failed_count = sum(numbers[at : at + 4] == raw_load.FAILED for at in range(0, len(numbers), 4))
        assert failed_count == 0 or OUTAGE_SECONDS > LEASE_SECONDS - RENEWAL_SECONDS - TIMEOUT_SECONDS
        assert failed_count > 0 or OUTAGE_SECONDS < BUDGET_SECONDS + 2 * TIMEOUT_SECONDS, "an fsync hung"
    program.run("export", world.place.url, tmp_path / "image", *world.place.options)
    base = bytes(KEPT_OFFSET) + kept
    assert (tmp_path / "image").read_bytes() == raw_load.final_content(base, seed, REGION, OPERATIONS)


@pytest.mark.parametrize("durability", ["bucket", "journal"])
def test_a_filesystem_whose_bucket_is_away(
    durability: str, world: World, program: Program, tmp_path: Path
) -> None:
    """The same below a filesystem in which an archive is unpacked with fsyncs: nothing in it fails, however
    long it takes; with a journal fsyncs return though the bucket is away."""
    directory = tmp_path / "disk"
    archive = tmp_path / "archive"
    files = untar_load.make_archive(archive, 60, random.Random(51))
    program.create(world.place, "128M")
    options = ["--mkfs", "ext4", f"--durability={durability}", f"--cache-dir={tmp_path / 'cache'}"]
    with program.mounted(world.place, directory, *options):
        with _running(sys.executable, untar_load.__file__, archive, directory, "51") as load:
            _read_numbers(load, 5)
            with _refused(world):
                if durability == "journal":
                    _read_numbers(load, 20)
                away_until = time.monotonic() + OUTAGE_SECONDS
                while (left := away_until - time.monotonic()) > 0:
                    time.sleep(min(left, 1))
                    (directory / files[0][0]).stat()
            _, complaints = load.communicate(timeout=240)
        assert load.returncode == 0, complaints.decode()
        assert all(untar_load.is_whole(directory, each) for each in files)
    with program.attached(world.place, directory) as file:
        run_tool("e2fsck", "-f", "-n", file)
        with mounted(file, tmp_path / "cold"):
            assert all(untar_load.is_whole(tmp_path / "cold", each) for each in files)
