"""What tests of crashes and faults share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The bucketry program; what a failed test leaves mounted is taken away."""
    program = Program(tmp_path)
    yield program
    program.clean_up()
