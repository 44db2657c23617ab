"""The directories that journals live in: a real one, the one in memory that stands for it, and what a killed
process leaves in a real one."""

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from bucketry.cache.journal import Journal
from bucketry.cache.journal_files import DirectoryFiles, Files
from bucketry.cache.left_journal import inspect
from bucketry.codec.offload import inline
from bucketry.errors import Busy, Closed, Invalid
from bucketry.layout.interface import Change, Write
from bucketry.testing.memory_files import SECTOR_BYTES, MemoryFiles
from cache import journal_writer


@pytest.fixture(params=["directory", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    made: Files = DirectoryFiles(tmp_path / "journal") if request.param == "directory" else MemoryFiles()
    yield made
    made.close()


# -- both ----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(files: Files) -> None:
    """Thousands of buffers of any size and kind go behind each other, and reads end with the file."""
    random = Random(1)
    parts = [random.randbytes(random.randrange(100)) for _ in range(3000)]
    kinds: list[Callable[[bytes], bytes | bytearray | memoryview]] = [bytes, bytearray, memoryview]
    files.allocate("a", 10)
    files.write("a", 5, [kinds[index % 3](part) for index, part in enumerate(parts)])
    whole = b"".join(parts)
    assert files.read("a", 5, len(whole) + 1000) == whole
    assert files.read("a", 0, 5) == bytes(5)
    assert files.read("a", 5 + len(whole), 10) == b""
    assert files.sizes() == {"a": 5 + len(whole)}
    files.sync("a")


def test_files_have_the_size_that_is_asked_for(files: Files) -> None:
    """Allocating makes a file, extends it with zeros, or cuts it."""
    files.allocate("a", 8192)
    files.write("a", 0, [b"x" * 8192])
    files.allocate("a", 100)
    files.allocate("a", 200)
    assert files.read("a", 0, 1000) == b"x" * 100 + bytes(100)
    files.allocate("a", 0)
    assert files.sizes() == {"a": 0}


def test_files_are_renamed_and_removed(files: Files) -> None:
    """A new name replaces an old file; what was removed is gone; what does not exist is an error."""
    files.allocate("a", 10)
    files.allocate("b", 20)
    files.write("b", 0, [b"b"])
    files.rename("b", "a")
    files.sync_directory()
    assert files.sizes() == {"a": 20}
    assert files.read("a", 0, 1) == b"b"
    files.remove("a")
    assert files.sizes() == {}
    for call in (lambda: files.read("a", 0, 1), lambda: files.write("a", 0, [b"x"])):
        with pytest.raises(FileNotFoundError):
            call()


# -- a real directory ----------------------------------------------------------------------------------------


def test_only_we_may_look_into_it(tmp_path: Path) -> None:
    """The directory and its files are private, whatever the umask."""
    old = os.umask(0)
    try:
        files = DirectoryFiles(tmp_path / "made" / "journal")
        files.allocate("a", 1)
        files.close()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "made" / "journal").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made/journal").iterdir()}
    assert modes == {"a": 0o600, "lock": 0o600}


def test_a_directory_where_others_may_write_is_refused(tmp_path: Path) -> None:
    """Whoever can write there could make us replay what he likes."""
    tmp_path.chmod(0o777)
    with pytest.raises(Invalid, match="nobody else may write there"):
        DirectoryFiles(tmp_path)


def test_one_process_has_it(tmp_path: Path) -> None:
    """A second user is refused, and told who has it, until the first has closed it."""
    files = DirectoryFiles(tmp_path / "journal")
    with pytest.raises(Busy, match=f"in use by process {os.getpid()}"):
        DirectoryFiles(tmp_path / "journal")
    files.close()
    files.close()
    with pytest.raises(Closed):
        files.read("a", 0, 1)
    DirectoryFiles(tmp_path / "journal").close()


def test_links_and_directories_are_not_files(tmp_path: Path) -> None:
    """A symbolic link is neither seen nor followed, and a directory is no file."""
    (tmp_path / "elsewhere").write_bytes(b"secret")
    files = DirectoryFiles(tmp_path / "journal")
    (tmp_path / "journal" / "segment-0000").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "journal" / "segment-0001").mkdir()
    assert files.sizes() == {}
    with pytest.raises(OSError, match="symbolic links"):
        files.read("segment-0000", 0, 10)
    files.close()


# -- the one in memory ---------------------------------------------------------------------------------------


def test_what_was_synced_survives_a_power_cut() -> None:
    """Content after a sync of the file, names after one of the directory."""
    files = MemoryFiles()
    files.allocate("a", 100)
    files.write("a", 0, [b"x" * 100])
    files.sync("a")
    assert {"a" in files.power_cut(Random(seed)).sizes() for seed in range(20)} == {True, False}
    files.sync_directory()
    for seed in range(20):
        assert files.power_cut(Random(seed)).contents() == {"a": b"x" * 100}


def test_what_was_not_synced_survives_in_any_part() -> None:
    """Each sector may be the old one or any newer one, apart from the others, but never a mixture."""
    files = MemoryFiles.holding({"a": b"0" * (3 * SECTOR_BYTES)})
    for letter in (b"1", b"2"):
        files.write("a", 0, [letter * (3 * SECTOR_BYTES)])
    found = set()
    for seed in range(400):
        content = files.power_cut(Random(seed)).contents()["a"]
        sectors = [content[at : at + SECTOR_BYTES] for at in range(0, len(content), SECTOR_BYTES)]
        assert all(len(set(sector)) == 1 for sector in sectors)
        found.add("".join(chr(sector[0]) for sector in sectors))
    assert {"000", "222", "020", "121", "002"} <= found


def test_a_sync_that_fails_forgets() -> None:
    """After an error what was not durable never will be, though it can still be read, and the next sync
    succeeds."""
    files = MemoryFiles.holding({"a": b"old"})
    files.write("a", 0, [b"new"])

    def fault(operation: str, name: str) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, "")

    files.fault = fault
    with pytest.raises(OSError):
        files.sync("a")
    files.fault = None
    files.sync("a")
    assert files.read("a", 0, 3) == b"new"
    # Reading what the kernel still has cannot tell; the disk can.
    assert files.at(2).power_cut(Random(0)).contents() == {"a": b"old"}


def test_a_directory_can_be_full() -> None:
    """Beyond its capacity nothing is written, and everything else stays."""
    files = MemoryFiles(capacity_bytes=100)
    files.allocate("a", 60)
    with pytest.raises(OSError, match="No space"):
        files.allocate("b", 60)
    with pytest.raises(OSError, match="No space"):
        files.write("a", 50, [bytes(60)])
    assert files.sizes() == {"a": 60}


# -- a process that is killed --------------------------------------------------------------------------------


def append_until_killed(directory: Path, count: int) -> list[int]:
    """The epochs that a writer acknowledged; it was killed when it had come to ``count`` of them."""
    command = [sys.executable, str(Path(journal_writer.__file__)), str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        return acknowledged + [int(line) for line in process.stdout]


def joined(changes: list[Change]) -> list[Change]:
    """Parts of writes that were split put together again."""
    whole: list[Change] = []
    for change in changes:
        last = whole[-1] if whole else None
        if isinstance(change, Write) and isinstance(last, Write) and last.extent.end == change.offset:
            whole[-1] = Write(last.offset, bytes(last.data) + bytes(change.data))
        else:
            whole.append(change)
    return whole


@pytest.mark.system
async def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """Again and again killed at a random moment, a process that appends finds, when it is started again,
    every epoch that was acknowledged and is not drained, and each as it was."""
    random = Random(4)
    directory = tmp_path / "journal"
    last = 0
    for _ in range(12):
        acknowledged = await asyncio.to_thread(append_until_killed, directory, random.randint(1, 1500))
        journal, recovered = await Journal.open(
            DirectoryFiles(directory),
            journal_writer.IDENTITY,
            size_bytes_max=journal_writer.SIZE_BYTES_MAX,
            offload=inline,
        )
        numbers = [epoch.number for epoch in recovered]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[-1] >= max(acknowledged) > last
        assert numbers[0] <= max(1, max(acknowledged) - 19)
        for epoch in recovered:
            found = [change async for change in epoch.changes()]
            assert joined(found) == journal_writer.changes_of(epoch.number)
        last = numbers[-1]
        await journal.close(empty=False)
    files = DirectoryFiles(directory)
    report = inspect(files)
    assert report is not None
    assert (report.last_epoch, report.damage) == (last, "")
    assert sum(files.sizes().values()) <= journal_writer.SIZE_BYTES_MAX
    files.close()
