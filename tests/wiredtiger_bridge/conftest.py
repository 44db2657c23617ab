"""WiredTiger as it was built for the tests, and databases on it."""

import faulthandler
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.seaweed import Seaweed
from wiredtiger_bridge import wheel
from wiredtiger_bridge.at_work import Databases


@pytest.fixture(scope="session")
def builds() -> dict[str, Path]:
    """Each kind of build, and where it is. `make test` builds them beside the tests; this waits until they
    are there, and builds them itself when nobody does."""
    # Building takes longer than any test may; the guard's own limit begins after this.
    faulthandler.cancel_dump_traceback_later()
    try:
        return {kind: wheel.ensure(kind) for kind in wheel.KINDS}
    except wheel.BuildError as error:
        pytest.fail(f"WiredTiger could not be built: {error}", pytrace=False)


@pytest.fixture(scope="session")
def debug_build(builds: dict[str, Path]) -> Path:
    """With all of WiredTiger's assertions; a panic aborts."""
    return builds["debug"]


@pytest.fixture(scope="session")
def release_build(builds: dict[str, Path]) -> Path:
    """As an application has it; a panic is an error."""
    return builds["release"]


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
