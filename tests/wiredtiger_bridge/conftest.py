"""WiredTiger as it was built for the tests, and databases on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.seaweed import Seaweed
from wiredtiger_bridge import wheel
from wiredtiger_bridge.at_work import Databases


def _built(kind: str) -> Path:
    """Where it is. `make test` builds it before: building takes longer than any test may."""
    directory = wheel.module_directory(kind)
    if not directory.exists() or not wheel.source_directory().exists():
        pytest.fail("WiredTiger is not built: make wiredtiger", pytrace=False)
    return directory


@pytest.fixture(scope="session")
def debug_build() -> Path:
    """With all of WiredTiger's assertions; a panic aborts."""
    return _built("debug")


@pytest.fixture(scope="session")
def release_build() -> Path:
    """As an application has it; a panic is an error."""
    return _built("release")


@pytest.fixture(scope="session")
def is_full(request: pytest.FixtureRequest) -> bool:
    """`make test-full`: as long as it takes."""
    return str(request.config.getoption("--hypothesis-profile")) == "full"


@pytest.fixture
def databases(tmp_path: Path, release_build: Path, seaweed: Seaweed) -> Iterator[Databases]:
    """Databases in one bucket."""
    made = Databases(tmp_path, release_build, seaweed)
    yield made
    made.end()
