"""Seeds are simulated, and every promise is kept; a seed is the same course wherever it runs."""

import subprocess
import sys

import pytest

from bucketry.testing.simulation import simulate, simulate_many


def test_every_promise_is_kept() -> None:
    """Reads, order, durability, one writer, no hang: see docs/semantics.md."""
    violations = [(seed, simulate(seed).violation) for seed in range(1, 9)]
    assert [each for each in violations if each[1] is not None] == []


@pytest.mark.slow
@pytest.mark.hangs_after(300)
@pytest.mark.parametrize("first", range(9, 349, 20))
def test_every_promise_is_kept_by_hundreds_of_seeds(first: int) -> None:
    """As above; ``make sim`` runs thousands."""
    violations = [(seed, simulate(seed).violation) for seed in range(first, first + 20)]
    assert [each for each in violations if each[1] is not None] == []


@pytest.mark.slow
def test_seeds_are_simulated_on_all_processors() -> None:
    """Each once, whichever process has it."""
    reports = list(simulate_many(range(1, 9)))
    assert sorted(report.seed for report in reports) == list(range(1, 9))
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
