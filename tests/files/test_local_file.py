"""A local file that is being uploaded."""

import itertools
import os
import threading
from pathlib import Path

import pytest

from bucketry.errors import Busy, Closed
from bucketry.files.local_file import LocalFile


def test_places_of_a_file_are_read(tmp_path: Path) -> None:
    """Any range comes whole; beyond the end the file was changed."""
    (tmp_path / "file").write_bytes(b"0123456789")
    file = LocalFile(tmp_path / "file")
    try:
        assert file.size_bytes == 10
        assert file.read(0, 10) == b"0123456789"
        assert file.read(3, 4) == b"3456"
        assert file.read(10, 0) == b""
        with pytest.raises(Busy, match="file was changed"):
            file.read(9, 2)
        os.truncate(tmp_path / "file", 4)
        with pytest.raises(Busy):
            file.read(3, 4)
    finally:
        file.close()


def test_changes_are_seen_and_links_are_none(tmp_path: Path) -> None:
    """Another size or time is a change; a link, a rename and a removal are not."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    file = LocalFile(path)
    os.link(path, tmp_path / "link")
    path.rename(tmp_path / "renamed")
    (tmp_path / "link").chmod(0o400)
    (tmp_path / "link").unlink()
    file.check_unchanged()
    os.utime(tmp_path / "renamed", ns=(5, 5))
    with pytest.raises(Busy):
        file.check_unchanged()
    file.close()


def test_closing_waits_for_readers(tmp_path: Path) -> None:
    """A descriptor that a thread reads from is not closed under its hands; afterwards everything is Closed,
    and no descriptor is left."""
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = LocalFile(tmp_path / "file")
    outcomes: list[object] = []
    under_way = threading.Barrier(5)

    def read() -> None:
        try:
            for count in itertools.count():
                outcomes.append(len(file.read(0, 1 << 20)))
                if count == 5:
                    under_way.wait(20)
        except Closed as error:
            outcomes.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    under_way.wait(20)
    file.close()
    file.close()
    for thread in threads:
        thread.join()
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} == {1 << 20}
    assert sum(isinstance(outcome, Closed) for outcome in outcomes) == 4
    assert len(list(Path("/proc/self/fd").iterdir())) == before
