"""What tests of crashes and faults share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.totals import Totals
from e2e.program import Program

_TOTALS = pytest.StashKey[Totals]()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The bucketry program; what a failed test leaves mounted is taken away."""
    program = Program(tmp_path)
    yield program
    program.clean_up()


@pytest.fixture
def crash_totals(request: pytest.FixtureRequest) -> Totals:
    """Counted over the whole run, and told at its end."""
    return request.config.stash.setdefault(_TOTALS, Totals())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    totals = config.stash.get(_TOTALS, None)
    if totals is not None:
        terminalreporter.write_line(
            f"crashes: {totals.rounds} kills, {totals.acknowledged} fsyncs acknowledged before them, "
            f"{totals.checked} sectors and files compared"
        )
