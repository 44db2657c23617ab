"""WiredTiger's own tests of tiered storage pass on the bridge, in the place of the stores they know.

Each module is a process and a test of its own. They wait more than they work.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucketry.testing.s3_server import S3ServerProcess
from wiredtiger_bridge import wheel

pytestmark = [pytest.mark.system, pytest.mark.hangs_after(900)]

_DRIVER = Path(__file__).with_name("upstream.py")
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
    """Runs modules in WiredTiger's strict build."""

    def __init__(self, build: Path, directory: Path, endpoint: str) -> None:
        self._build = build
        self._directory = directory
        self._endpoint = endpoint

    def run(self, store: str, module: int) -> Outcome:
        running = subprocess.run(
            [
                *(sys.executable, str(_DRIVER), str(wheel.source_directory()), str(self._directory), store),
                *(json.dumps(self._options(store, module)), f"test_tiered{module:02}"),
            ],
            env={**os.environ, **_KEYS, "PYTHONPATH": str(self._build), "HOME": str(self._directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if running.returncode:
            return Outcome(0, [f"the process ended with {running.returncode}"], [], running.stdout)
        said = json.loads(running.stdout.splitlines()[-1])
        return Outcome(said["run"], said["failed"], said["skipped"], running.stdout)

    def _options(self, store: str, module: int) -> dict[str, object]:
        if store == "dir_store":
            return {"idempotent": False, "owner": "ignore" if module == 20 else "check"}
        # The scenarios of a module share a prefix, and number 06 wants remove refused.
        remove = "false" if module == 6 else "true"
        return {"endpoint": self._endpoint, "owner": "ignore", "remove": remove}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with S3ServerProcess() as server:
        for bucket in ("s3testext-us", "s3testext"):
            server.make_bucket(bucket)
        yield server.endpoint


@pytest.fixture
def upstream(debug_build: Path, tmp_path: Path, endpoint: str) -> Upstream:
    return Upstream(debug_build, tmp_path, endpoint)


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
    check(upstream.run("dir_store", module), SKIPS.get(module, 0))


@pytest.mark.parametrize("module", S3_MODULES)
def test_in_the_place_of_the_s3_store(upstream: Upstream, module: int) -> None:
    """As s3_store, over S3 as our own server speaks it."""
    check(upstream.run("s3_store", module), S3_SKIPS.get(module, 0))
