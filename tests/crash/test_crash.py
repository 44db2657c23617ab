"""The serving process killed at random moments under load, again and again on the same volume: what fsync
had returned for is there, each time.

Each chain of rounds goes on with what the crash before left. In each round the process is killed with
SIGKILL, the bucket alone is looked at (what a lost machine leaves), and the volume is attached again (what a
lost process leaves). BUCKETRY_CRASH_ROUNDS is how many rounds there are in all.
"""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucketry.testing.s3_server import LineModel, S3ServerProcess
from crash import raw_load, untar_load
from crash.loop import mounted
from crash.totals import Totals
from e2e.places import Place
from e2e.program import ENVIRONMENT, Program, run_tool, wait_until

pytestmark = pytest.mark.system

KINDS = [("raw", "journal"), ("untar", "journal"), ("untar", "bucket"), ("raw", "bucket")]
ROUNDS = int(os.environ.get("BUCKETRY_CRASH_ROUNDS", "6"))
FIRST_SEED = int(os.environ.get("BUCKETRY_CRASH_SEED", "1"))
#: Longer chains crash more often on what crashes left; but a test should not take minutes.
CHAIN_ROUNDS = max(2, min(10, ROUNDS // len(KINDS)))
CHAINS = [(*KINDS[index % len(KINDS)], FIRST_SEED + index) for index in range(max(1, ROUNDS // CHAIN_ROUNDS))]

#: Enough that requests are under way at any moment.
LINE = LineModel(latency_seconds=0.004, jitter_seconds=0.004)
RAW_BYTES = 24 << 20
UNTAR_BYTES = 256 << 20
#: Two writers, whose sectors meet in the middle of a block.
_SECTORS = RAW_BYTES // raw_load.SECTOR
_MIDDLE = _SECTORS // 2 - 7
REGIONS = (range(_MIDDLE), range(_MIDDLE, _SECTORS))
#: The kill comes after up to so many fsyncs, and then so much later at most: before any upload, between two,
#: in the middle of one.
_ACKNOWLEDGED_MAX = 40
_LATER_SECONDS_MAX = 0.1
#: How often the process that attaches again is killed too, within the time that attaching takes.
_CRASH_AT_START_SHARE = 0.25
_START_SECONDS_MAX = 1.2
_DRAINED_SHARE = 0.5


@dataclass
class Chain:
    """One volume, and the rounds it has been through."""

    program: Program
    place: Place
    directory: Path
    durability: str
    prng: random.Random
    totals: Totals
    is_in_order: bool = True

    @property
    def disk(self) -> Path:
        return self.directory / "disk"

    @property
    def file(self) -> Path:
        return self.disk / "file"

    @property
    def image(self) -> Path:
        """A copy of the disk as the bucket alone has it."""
        return self.directory / "image"

    def attach(self) -> None:
        """With the cache directory, and with settings that crashes before did not have."""
        self.disk.mkdir(exist_ok=True)
        self.program.run("attach", self.place.url, self.disk, *self._options(), *self.place.options)

    def _options(self) -> list[str]:
        options = [
            f"--durability={self.durability}",
            f"--cache-dir={self.directory / 'cache'}",
            f"--write-delay={self.prng.choice(('0', '0.02', '0.25'))}",
            f"--memory={self.prng.choice(('16M', '256M'))}",
        ]
        if self.durability == "journal":
            # The small one is full now and then.
            options.append(f"--journal-size={self.prng.choice(('4M', '256M'))}")
        return options

    def kill_under(self, *commands: Sequence[str]) -> list[int]:
        """Run the loads and kill the serving process at some moment. The last number that each load told, -1
        when it told none."""
        pid = int(self.program.json("info", self.disk)["pid"])
        serving = os.pidfd_open(pid)
        loads = [
            subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for command in commands
        ]
        told = [bytearray() for _ in loads]
        try:
            wanted = self.prng.randrange(_ACKNOWLEDGED_MAX)
            _read_until(loads, told, wanted)
            time.sleep(self.prng.uniform(0, _LATER_SECONDS_MAX))
            signal.pidfd_send_signal(serving, signal.SIGKILL)
            assert select.select([serving], [], [], 60)[0], f"process {pid} outlived a SIGKILL"
        finally:
            os.close(serving)
            for load, numbers in zip(loads, told, strict=True):
                rest, complaints = load.communicate(timeout=60)
                numbers += rest
                assert load.returncode == 0 or b"Errno" in complaints, complaints.decode()
        self.totals.rounds += 1
        self.totals.acknowledged += sum(len(numbers) // 4 for numbers in told)
        return [int.from_bytes(numbers[-4:], "big") if numbers else -1 for numbers in told]

    def clear_away(self) -> None:
        assert "had gone" in self.program.run("umount", self.disk, code=1).stderr

    def attach_again(self) -> None:
        """After a crash; now and then after one more, while it begins. Then ``is_in_order`` says whether the
        bucket alone is what it was at some flush."""
        if self.prng.random() < _CRASH_AT_START_SHARE:
            self._crash_at_start()
        self.attach()
        # What is replayed from a journal goes into the bucket in any order: only when all of it is there the
        # bucket alone is worth looking at.
        self.is_in_order = self.durability == "bucket" or self.prng.random() < _DRAINED_SHARE
        if self.is_in_order:
            wait_until(lambda: self.dirty_bytes() == 0, "the journal is drained")

    def _crash_at_start(self) -> None:
        command = [sys.executable, "-m", "bucketry", "attach", self.place.url, str(self.disk), "--foreground"]
        options = [*self._options(), *self.place.options]
        attaching = subprocess.Popen(
            [*command, *options],
            env=self.program.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            attaching.wait(self.prng.uniform(0.2, _START_SECONDS_MAX))
        except subprocess.TimeoutExpired:
            attaching.kill()
        assert attaching.wait() == -signal.SIGKILL
        self.totals.rounds += 1
        # It may have been killed before there was anything to clear away.
        command = [sys.executable, "-m", "bucketry", "umount", str(self.disk)]
        done = subprocess.run(command, env=self.program.environment, capture_output=True, check=False)
        assert done.returncode in (1, 3), done.stderr

    def dirty_bytes(self) -> int:
        return int(self.program.json("stats", self.disk)["cache"]["dirty_bytes"])

    def export(self) -> Path:
        """What the bucket has without the cache directory."""
        self.image.unlink(missing_ok=True)
        self.program.run("export", "--without-journal", self.place.url, self.image, *self.place.options)
        return self.image


def _read_until(loads: Sequence["subprocess.Popen[bytes]"], told: Sequence[bytearray], wanted: int) -> None:
    """Read what the loads tell until that is ``wanted`` numbers, or one load has ended."""
    outputs = {
        load.stdout.fileno(): numbers for load, numbers in zip(loads, told, strict=True) if load.stdout
    }
    while sum(map(len, told)) < 4 * wanted:
        ready, _, _ = select.select(list(outputs), [], [], 60)
        assert ready, "the loads do not get on"
        for output in ready:
            data = os.read(output, 4096)
            if not data:
                return
            outputs[output] += data


@pytest.fixture
def s3_server() -> Iterator[S3ServerProcess]:
    """A server that outlives all the crashes."""
    with S3ServerProcess() as server:
        server.set_line(LINE)
        yield server


@pytest.mark.parametrize(("load", "durability", "seed"), CHAINS)
def test_what_was_synced_survives_every_kill(
    load: str,
    durability: str,
    seed: int,
    s3_server: S3ServerProcess,
    program: Program,
    crash_totals: Totals,
    tmp_path: Path,
) -> None:
    """kill -9 under load: attached again, everything whose fsync had returned is there and nothing that
    nobody wrote; the bucket alone is some flush and a part of what came after it, and with durability bucket,
    all that was synced; the filesystem on it is clean once its journal is replayed."""
    s3_server.make_bucket("crash")
    place = Place(
        "s3://crash/disk", ["--endpoint", s3_server.endpoint, "--region", "us-east-1", "--anonymous"]
    )
    chain = Chain(program, place, tmp_path, durability, random.Random(seed), crash_totals)
    rounds = _raw_rounds if load == "raw" else _untar_rounds
    rounds(chain, seed)
    program.run("umount", chain.disk)


def _raw_rounds(chain: Chain, seed: int) -> None:
    compression = chain.prng.choice(("none", "zstd"))
    chain.program.create(chain.place, str(RAW_BYTES), "--compress", compression)
    chain.attach()
    base = chain.file.read_bytes()
    for number in range(CHAIN_ROUNDS):
        seeds = [1000 * seed + 10 * number + index for index in range(len(REGIONS))]
        synced = chain.kill_under(
            *(
                [
                    sys.executable,
                    raw_load.__file__,
                    str(chain.file),
                    str(each),
                    str(region.start),
                    str(region.stop),
                ]
                for each, region in zip(seeds, REGIONS, strict=True)
            )
        )
        chain.clear_away()
        alone = chain.export().read_bytes() if chain.is_in_order else None
        chain.attach_again()
        again = chain.file.read_bytes()
        for each, region, last in zip(seeds, REGIONS, synced, strict=True):
            recovered = raw_load.check(again, base, seed=each, region=region, synced=last, durable=True)
            chain.totals.checked += recovered.sector_count
            if alone is not None:
                is_durable = chain.durability == "bucket"
                left = raw_load.check(alone, base, seed=each, region=region, synced=last, durable=is_durable)
                chain.totals.checked += left.sector_count
                assert recovered.newest >= left.newest
        base = again


def _untar_rounds(chain: Chain, seed: int) -> None:
    chain.program.create(chain.place, str(UNTAR_BYTES))
    chain.attach()
    run_tool("mkfs.ext4", "-q", "-E", "nodiscard", chain.file)
    filesystem, copy = chain.directory / "filesystem", chain.directory / "copy"
    archive = chain.directory / "archive"
    synced: list[untar_load.Packed] = []
    for number in range(CHAIN_ROUNDS):
        files = untar_load.make_archive(archive, 300, random.Random(1000 * seed + number))
        name = f"round {number}"
        with mounted(chain.file, filesystem):
            (filesystem / name).mkdir()
            run_tool("sync", "-f", filesystem)
            load_seed = 1000 * seed + number
            (last,) = chain.kill_under(
                [sys.executable, untar_load.__file__, str(archive), str(filesystem / name), str(load_seed)]
            )
        chain.clear_away()
        synced += [
            (f"{name}/{files[index][0]}", files[index][1])
            for index in untar_load.synced_indices(load_seed, last)
        ]
        if chain.is_in_order:
            alone = chain.export()
            with mounted(alone, copy):
                _check_files(chain, copy, synced, is_durable=chain.durability == "bucket")
            run_tool("e2fsck", "-f", "-n", alone)
        chain.attach_again()
        with mounted(chain.file, filesystem):
            _check_files(chain, filesystem, synced, is_durable=True)
        run_tool("e2fsck", "-f", "-n", chain.file)


def _check_files(chain: Chain, root: Path, synced: Sequence[untar_load.Packed], *, is_durable: bool) -> None:
    """All files that were synced, in this order, are there; without ``is_durable`` only all before the last
    of them that is."""
    found = [untar_load.is_whole(root, each) for each in synced]
    lost = [name for (name, _), is_whole in zip(synced, found, strict=True) if not is_whole]
    if is_durable:
        assert lost == [], f"synced and lost: {lost}"
    else:
        assert sorted(found, reverse=True) == found, f"later files are there, these are not: {lost}"
    chain.totals.checked += len(found)
