"""Seeds are simulated, and every promise is kept; a seed is the same course wherever it runs."""

import subprocess
import sys

import pytest

from bucketry.testing.simulation import simulate, simulate_many


@pytest.mark.parametrize("first", range(1, 41, 8))
def test_every_promise_is_kept(first: int) -> None:
    """Reads, order, durability, one writer, no hang: see docs/semantics.md."""
    violations = [(seed, simulate(seed).violation) for seed in range(first, first + 8)]
    assert [each for each in violations if each[1] is not None] == []


@pytest.mark.slow
@pytest.mark.hangs_after(300)
def test_every_promise_is_kept_by_hundreds_of_seeds() -> None:
    """As above, on all processors; ``make sim`` runs thousands."""
    reports = list(simulate_many(range(41, 341)))
    assert len(reports) == 300
    assert [(report.seed, report.violation) for report in reports if report.violation is not None] == []


def test_a_seed_is_one_course() -> None:
    """In another process, with other hashes of strings, seed 7 is the same to the last line."""
    program = "from bucketry.testing.simulation import simulate; print('\\n'.join(simulate(7).lines))"
    courses = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert courses == {"\n".join(simulate(7).lines) + "\n"}
