"""WiredTiger's own tests of tiered storage pass on the bridge, in the place of the stores they know.

Each module is a process of its own. They wait more than they work, so that some run at the same time, all the
while until their tests come to look at what happened.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucketry.testing.s3_server import S3ServerProcess
from servers import process
from wiredtiger_bridge import wheel

pytestmark = [pytest.mark.system, pytest.mark.hangs_after(900)]

_DRIVER = Path(__file__).with_name("upstream.py")
#: More would compete for the processors with the time-outs in their tests.
_AT_ONCE = 3
#: All that pass with WiredTiger's own store in a directory, the long ones first. It expects a second flush to
#: be refused, and number 20 two databases on one prefix: both are options of ours.
DIRECTORY_MODULES = (8, 4, 20, 12, 16, 2, 3, 6, 7, 9, 10, 11, 13, 15, 17, 18, 21, 22, 23)
#: Random changes, checkpoints, flushes and restarts, for six minutes.
LONG_MODULE = 14
#: With S3 in its place: 07 and 23 have no tests for it; 14 begins every scenario with the objects of the one
#: before, which a store that never overwrites refuses; and 08 has nothing of its own but fifty seconds.
S3_MODULES = (4, 20, 12, 16, 2, 3, 6, 9, 10, 11, 13, 15, 17, 18, 21, 22)
#: Upstream's own, word for word: how many tests of a module skip themselves.
SKIPS = {3: 2, 15: 8, 20: 1}
S3_SKIPS = {**SKIPS, 20: 2}
_KEYS = {"aws_sdk_s3_ext_access_key": "AKID", "aws_sdk_s3_ext_secret_key": "SECRET"}


@dataclass(frozen=True)
class Outcome:
    """What the driver says of one module."""

    run_count: int
    failed: list[str]
    skipped: list[str]
    output: str


class Upstream:
    """Runs modules, some at once."""

    def __init__(self, build: Path, directory: Path, endpoint: str) -> None:
        self._build = build
        self._directory = directory
        self._endpoint = endpoint
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._started: dict[tuple[str, int], Future[Outcome]] = {}

    def start(self, store: str, module: int) -> None:
        self._started[store, module] = self._pool.submit(self._run, store, module)

    def outcome(self, store: str, module: int) -> Outcome:
        """Waits for it, and starts it if nobody has."""
        if (store, module) not in self._started:
            self.start(store, module)
        return self._started[store, module].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _options(self, store: str, module: int) -> dict[str, object]:
        if store == "dir_store":
            return {"idempotent": False, "owner": "ignore" if module == 20 else "check"}
        # The scenarios of a module share a prefix, and number 06 wants remove refused.
        remove = "false" if module == 6 else "true"
        return {"endpoint": self._endpoint, "owner": "ignore", "remove": remove}

    def _run(self, store: str, module: int) -> Outcome:
        work = self._directory / f"{store}-{module}"
        work.mkdir()
        running = subprocess.Popen(
            [
                *(sys.executable, str(_DRIVER), str(wheel.source_directory()), str(work), store),
                *(json.dumps(self._options(store, module)), f"test_tiered{module:02}"),
            ],
            env={**os.environ, **_KEYS, "PYTHONPATH": str(self._build), "HOME": str(work)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # It belongs to the session: tests end while others' modules go on.
        process.running.add(running.pid)
        output, _ = running.communicate()
        process.running.discard(running.pid)
        if running.returncode:
            return Outcome(0, [f"the process ended with {running.returncode}"], [], output)
        said = json.loads(output.splitlines()[-1])
        return Outcome(said["run"], said["failed"], said["skipped"], output)


@pytest.fixture(scope="module")
def upstream(
    debug_build: Path, tmp_path_factory: pytest.TempPathFactory, is_full: bool
) -> Iterator[Upstream]:
    """All modules on their way, in WiredTiger's strict build."""
    with S3ServerProcess() as server:
        for bucket in ("s3testext-us", "s3testext"):
            server.make_bucket(bucket)
        found = Upstream(debug_build, tmp_path_factory.mktemp("upstream"), server.endpoint)
        for module in (LONG_MODULE, *DIRECTORY_MODULES) if is_full else DIRECTORY_MODULES:
            found.start("dir_store", module)
        for module in S3_MODULES:
            found.start("s3_store", module)
        yield found
        found.close()


def check(outcome: Outcome, skips: int) -> None:
    assert outcome.failed == [], outcome.output[-5000:]
    assert outcome.run_count > 0
    assert len(outcome.skipped) == skips, outcome.skipped


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long module has its test in the long run, and is not mentioned otherwise."""
    if metafunc.function is test_in_the_place_of_the_directory_store:
        is_full = metafunc.config.getoption("--hypothesis-profile") == "full"
        metafunc.parametrize("module", (LONG_MODULE, *DIRECTORY_MODULES) if is_full else DIRECTORY_MODULES)


def test_in_the_place_of_the_directory_store(upstream: Upstream, module: int) -> None:
    """As dir_store every module passes, and skips no more than it does there."""
    check(upstream.outcome("dir_store", module), SKIPS.get(module, 0))


@pytest.mark.parametrize("module", S3_MODULES)
def test_in_the_place_of_the_s3_store(upstream: Upstream, module: int) -> None:
    """As s3_store, over S3 as our own server speaks it."""
    check(upstream.outcome("s3_store", module), S3_SKIPS.get(module, 0))
