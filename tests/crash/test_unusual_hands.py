"""A process with a journal is killed, and what it leaves comes into unusual hands before the right ones.

In each round the serving process is killed with SIGKILL under load, and then somebody attaches as nobody
should: without the journal's directory, with an older copy of it, at another place. Either he is refused with
a line that names what he lacks, or nothing was missing. Afterwards the right one attaches, with the right
directory, and finds everything whose fsync had returned. BUCKETRY_CRASH_ROUNDS is how many rounds there are.
"""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bucketry.bucket.envelope import header_size
from bucketry.cache.journal_files import DirectoryFiles
from bucketry.cache.left_journal import look
from bucketry.core import lease
from bucketry.core.journal import Progress
from bucketry.core.names import LEASE_NAME
from bucketry.errors import Corrupt
from crash import raw_load
from crash.starter import Started, Starter
from crash.totals import Totals
from e2e.program import ENVIRONMENT, Program

pytestmark = pytest.mark.system

ROUNDS = int(os.environ.get("BUCKETRY_CRASH_ROUNDS", "10"))
FIRST_SEED = int(os.environ.get("BUCKETRY_CRASH_SEED", "1"))
#: Each hand comes once in a chain, and one of them twice.
CHAIN_ROUNDS = min(10, ROUNDS)
SEEDS = range(FIRST_SEED, FIRST_SEED + max(1, ROUNDS // CHAIN_ROUNDS))

SIZE = 8 << 20
REGION = range(SIZE // raw_load.SECTOR)
#: The kill comes after up to so many fsyncs, and then so much later at most.
_ACKNOWLEDGED_MAX = 20
_LATER_SECONDS_MAX = 0.1
#: Exit codes of a refusal: damaged, not what the options say, in use, not everything is in the bucket.
_DAMAGED, _MISMATCH, _BUSY, _PENDING = 1, 2, 5, 6


class Chain:
    """One volume, and the rounds it has been through. ``base``: what was on it at the last look."""

    def __init__(self, directory: Path, starter: Starter, prng: random.Random, totals: Totals) -> None:
        self.directory = directory
        self.starter = starter
        self.prng = prng
        self.totals = totals
        self.bucket = directory / "bucket"
        self.cache = directory / "cache"
        self.base = bytes(SIZE)
        self.synced = -1
        self.seed = 0
        #: The copy of the cache directory that was made in this round, with the last fsync before.
        self.copy: Path | None = None
        self.copied_after = -1

    @property
    def url(self) -> str:
        return f"file://{self.bucket}"

    def journal_options(self, cache: Path | None = None) -> list[str]:
        return ["--durability=journal", "--journal-size=4M", f"--cache-dir={cache or self.cache}"]

    # -- the right one ---------------------------------------------------------------------------------------

    def attach(self, *options: str) -> Started:
        """As it should be: everything whose fsync had returned is there."""
        started = self.starter.attach(self.url, *self.journal_options(), *options)
        assert started.wait_served(), started.said
        self.base = self.check(started, "the right one")
        return started

    def check(self, started: Started, who: str, *, synced: int | None = None) -> bytes:
        """Everything up to an operation is there, by default the last whose fsync returned, and nothing that
        nobody wrote; what is there."""
        found = (started.mount_point / "file").read_bytes()
        wanted = self.synced if synced is None else synced
        try:
            checked = raw_load.check(
                found, self.base, seed=self.seed, region=REGION, synced=wanted, durable=True
            )
        except AssertionError as error:
            raise AssertionError(f"{who}: {error}; it said: {started.said}") from error
        self.totals.checked += checked.sector_count
        return found

    def kill_under_load(self, started: Started, seed: int, *, with_copy: bool) -> None:
        """Write and fsync until the process is killed, at some moment; ``with_copy``: its cache directory is
        copied meanwhile, as a backup does."""
        self.seed, self.synced, self.copy, self.copied_after = seed, -1, None, -1
        count = 0
        copy_after = self.prng.randrange(_ACKNOWLEDGED_MAX) if with_copy else None
        kill_after = self.prng.randrange(_ACKNOWLEDGED_MAX)
        # The bucket must know of more than the copy has; at times it need not.
        is_told = self.prng.random() < 0.75
        later_seconds = self.prng.uniform(0, _LATER_SECONDS_MAX)
        killer: threading.Timer | None = None
        file = os.open(started.mount_point / "file", os.O_RDWR)
        try:
            for operation in raw_load.operations(seed, REGION):
                raw_load.perform(file, seed, operation)
                if not operation.is_synced:
                    continue
                os.fsync(file)
                self.synced = operation.number
                self.totals.acknowledged += 1
                count += 1
                if copy_after is not None and count > copy_after:
                    self._copy_cache()
                    copy_after = None
                if killer is None and count > kill_after and self._may_be_killed(is_told, with_copy):
                    killer = threading.Timer(later_seconds, started.kill)
                    killer.start()
        except OSError:
            assert killer is not None, started.said
        finally:
            with suppress(OSError):  # it tells once more that the disk has gone
                os.close(file)
            if killer is not None:
                killer.join()
        assert started.end(signal.SIGKILL) == -signal.SIGKILL
        self.totals.rounds += 1

    def _may_be_killed(self, is_told: bool, with_copy: bool) -> bool:
        if not with_copy:
            return True
        return self.copy is not None and (not is_told or self.is_copy_known_as_old())

    def _copy_cache(self) -> None:
        self.copied_after = self.synced
        self.copy = self.directory / "older copy"
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.cache, self.copy, copy_function=shutil.copy2)

    def is_copy_known_as_old(self) -> bool:
        """Whether the bucket knows of more than the copy of the journal does, or that is not even whole."""
        assert self.copy is not None
        files = DirectoryFiles(self.copy / "journal")
        try:
            left = look(files)
        except Corrupt:
            return True
        finally:
            files.close()
        known = Progress(0, 0) if left is None else left.progress
        journal = self.lease().journal
        assert journal is not None
        return journal.epoch > known.epoch or journal.drained > known.drained

    def lease(self) -> lease.Lease:
        content = (self.bucket / LEASE_NAME).read_bytes()
        return lease.decode(content[header_size(content) :])

    # -- unusual hands ---------------------------------------------------------------------------------------

    def refuse(
        self,
        codes: int | tuple[int, ...],
        *names: str,
        url: str | None = None,
        options: list[str],
        host: str | None = None,
    ) -> None:
        """An attach that must be refused with this exit code and a line that names all this."""
        started = self.starter.attach(url or self.url, *options, host=host)
        is_served = started.wait_served()
        assert not is_served, f"was not refused: {options} {started.end(signal.SIGKILL)}"
        started.end(signal.SIGTERM)
        codes = (codes,) if isinstance(codes, int) else codes
        assert started.code in codes, f"{options}: exit code {started.code}: {started.said}"
        assert all(name in started.said for name in names), started.said
        assert "Traceback" not in started.said

    def replaced(self, other: Path) -> Path:
        """Another directory in the place of the cache directory; where that is meanwhile."""
        aside = self.directory / "aside"
        self.cache.rename(aside)
        other.rename(self.cache)
        return aside

    def put_back(self, aside: Path) -> None:
        shutil.rmtree(self.cache)
        aside.rename(self.cache)

    def without(self) -> None:
        """No cache directory: refused, with the directory and the host."""
        self.refuse(_PENDING, str(self.cache), os.uname().nodename, options=[])

    def with_durability_bucket(self) -> None:
        """The directory, and another durability: everything is there; now and then it is killed again."""
        started = self.starter.attach(self.url, "--durability=bucket", f"--cache-dir={self.cache}")
        if self.prng.random() < 0.5:
            # While it starts, or brings what the journal holds into the bucket.
            time.sleep(self.prng.uniform(0, 0.5))
        else:
            assert started.wait_served(), started.said
            self.check(started, "durability bucket")
        how = self.prng.choice((signal.SIGKILL, signal.SIGTERM))
        started.end(how)

    def read_only(self) -> None:
        """Read-only with the directory: everything is shown, and nothing changed."""
        before = _contents(self.cache / "journal")
        started = self.starter.attach(self.url, "--read-only", f"--cache-dir={self.cache}")
        assert started.wait_served(), started.said
        self.check(started, "read-only")
        assert started.end(signal.SIGTERM) == 0, started.said
        assert _contents(self.cache / "journal") == before

    def read_only_without(self) -> None:
        """Read-only without it: that something is not shown is said, with the directory."""
        started = self.starter.attach(self.url, "--read-only")
        assert started.wait_served(), started.said
        assert "is not shown" in started.said, started.said
        assert str(self.cache) in started.said
        assert started.end(signal.SIGTERM) == 0, started.said

    def older_copy(self) -> None:
        """An older copy of the directory: refused when the bucket knows of more than it has, and the right
        one has everything; else what it had is there, and the copy is the right one from now on."""
        assert self.copy is not None
        is_known_as_old = self.is_copy_known_as_old()
        aside = self.replaced(self.copy)
        if is_known_as_old:
            started = self.starter.attach(self.url, *self.journal_options())
            is_served = started.wait_served()
            assert not is_served, f"an older copy was not refused; {started.end(signal.SIGKILL)}"
            started.end(signal.SIGTERM)
            assert started.code in (_MISMATCH, _DAMAGED), started.said
            assert "journal" in started.said, started.said
            self.put_back(aside)
            return
        started = self.starter.attach(self.url, *self.journal_options())
        assert started.wait_served(), started.said
        self.base = self.check(started, "an older copy", synced=self.copied_after)
        self.synced = -1
        started.end(signal.SIGKILL)
        shutil.rmtree(aside)

    def empty(self) -> None:
        """An empty directory in its place, as where a file system is not mounted: refused."""
        other = self.directory / "empty"
        other.mkdir(mode=0o700)
        aside = self.replaced(other)
        self.refuse(_MISMATCH, str(self.cache), os.uname().nodename, options=self.journal_options())
        self.put_back(aside)

    def copied_volume(self) -> None:
        """A copy of the volume at another URL does not get the journal, which stays as it is."""
        other = self.directory / "copied bucket"
        shutil.copytree(self.bucket, other)
        before = _contents(self.cache / "journal")
        self.refuse(_MISMATCH, str(self.cache), url=f"file://{other}", options=self.journal_options())
        assert _contents(self.cache / "journal") == before
        shutil.rmtree(other)

    def moved_volume(self) -> None:
        """The volume at another URL, where the journal is not replayed unasked; and back."""
        other = self.directory / "moved bucket"
        self.bucket.rename(other)
        self.refuse(_MISMATCH, str(self.cache), url=f"file://{other}", options=self.journal_options())
        other.rename(self.bucket)

    def other_host(self) -> None:
        """A host of another name, with a cache directory of its own or without: refused, as in use or for
        lack of the journal, with the name of the host that has it."""
        own = self.directory / "cache of the other host"
        options = self.prng.choice((self.journal_options(own), ["--wait=0"]))
        codes = (_MISMATCH, _BUSY, _PENDING)
        self.refuse(codes, os.uname().nodename, options=options, host="another-host")
        shutil.rmtree(own, ignore_errors=True)


HANDS: dict[str, Callable[[Chain], None]] = {
    "no directory": Chain.without,
    "durability bucket": Chain.with_durability_bucket,
    "read-only": Chain.read_only,
    "read-only without the directory": Chain.read_only_without,
    "an older copy": Chain.older_copy,
    "an empty directory": Chain.empty,
    "a copied volume": Chain.copied_volume,
    "a moved volume": Chain.moved_volume,
    "another host": Chain.other_host,
}


def _contents(directory: Path) -> dict[str, bytes]:
    """Of a journal; who locked it last is no part of it."""
    return {each.name: each.read_bytes() for each in directory.iterdir() if each.name != "lock"}


@pytest.fixture
def starter(program: Program, tmp_path: Path) -> Iterator[Starter]:
    runtime = tmp_path / "own run"
    runtime.mkdir(mode=0o700)
    starter = Starter({**ENVIRONMENT, "BUCKETRY_RUNTIME_DIR": str(runtime)}, tmp_path)
    yield starter
    starter.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_whatever_hands_it_comes_into(
    seed: int, program: Program, starter: Starter, crash_totals: Totals, tmp_path: Path
) -> None:
    """After each kill an unusual attach, after that the right one: each hand once in any order, and again."""
    prng = random.Random(seed)
    chain = Chain(tmp_path, starter, prng, crash_totals)
    chain.bucket.mkdir()
    program.run("create", chain.url, "--size", str(SIZE))
    deck: list[str] = []
    for number in range(CHAIN_ROUNDS):
        deck = deck or prng.sample(sorted(HANDS), len(HANDS))
        name = deck.pop()
        is_copied = name == "an older copy"
        delay = prng.choice(("0", "0.02") if is_copied else ("0", "0.25", "600"))
        started = chain.attach(f"--write-delay={delay}")
        chain.kill_under_load(started, 1000 * seed + number, with_copy=is_copied)
        HANDS[name](chain)
        crash_totals.hands[name] += 1
    started = chain.attach()
    assert started.end(signal.SIGTERM) == 0, started.said
