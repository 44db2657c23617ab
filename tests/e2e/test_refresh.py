"""A reader beside a writer, told to look again."""

from pathlib import Path

import pytest

from e2e.places import Place
from e2e.program import Program, run_tool

pytestmark = pytest.mark.system


def test_a_reader_sees_what_was_written_when_it_is_refreshed(
    program: Program, place: Place, tmp_path: Path
) -> None:
    """Before, it may see what it had read; afterwards, through the kernel's cache too, what the writer has
    flushed. The writer itself has nothing to refresh."""
    program.create(place, "4M")
    with (
        program.attached(place, tmp_path / "writer") as written,
        program.attached(place, tmp_path / "reader", "--read-only") as seen,
    ):
        assert seen.read_bytes() == bytes(4 << 20)
        run_tool(
            "dd", "if=/dev/urandom", f"of={written}", "bs=64K", "count=16", "seek=8", "conv=notrunc,fsync"
        )
        program.run("refresh", tmp_path / "reader")
        assert seen.read_bytes() == written.read_bytes() != bytes(4 << 20)
        program.run("refresh", tmp_path / "writer", code=2)
