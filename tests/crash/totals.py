"""What all the crashes of a run came to: counted by each test worker, told at the end."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

import pytest

#: How xdist's workers hand theirs to the process that started them.
_KEY = "bucketry_crash_totals"


@dataclass
class Totals:
    """``acknowledged``: fsyncs that had returned; ``checked``: sectors and files that were compared;
    ``hands``: into which unusual hands it came what the killed processes left, and how often."""

    rounds: int = 0
    acknowledged: int = 0
    checked: int = 0
    hands: Counter[str] = field(default_factory=Counter)

    def add(self, rounds: int, acknowledged: int, checked: int, hands: Mapping[str, int]) -> None:
        self.rounds += rounds
        self.acknowledged += acknowledged
        self.checked += checked
        self.hands.update(hands)


_TOTALS = pytest.StashKey[Totals]()


@pytest.fixture
def crash_totals(request: pytest.FixtureRequest) -> Totals:
    """Counted over the whole run, and told at its end."""
    return request.config.stash.setdefault(_TOTALS, Totals())


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None and (totals := session.config.stash.get(_TOTALS, None)) is not None:
        output[_KEY] = (*astuple(totals)[:3], dict(totals.hands))


# xdist's, when it is there.
@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A worker that crashed hands over nothing.
    if (counts := getattr(node, "workeroutput", {}).get(_KEY)) is not None:
        node.config.stash.setdefault(_TOTALS, Totals()).add(*counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    totals = config.stash.get(_TOTALS, None)
    if totals is not None:
        terminalreporter.write_line(
            f"crashes: {totals.rounds} kills, {totals.acknowledged} fsyncs acknowledged before them, "
            f"{totals.checked} sectors and files compared"
        )
        if totals.hands:
            hands = ", ".join(f"{name} {count}" for name, count in sorted(totals.hands.items()))
            terminalreporter.write_line(f"unusual hands: {hands}")
