"""The local disk of a simulated machine: directories with a journal's files, and what becomes of them."""

import asyncio
import errno
import os
from collections.abc import Callable
from random import Random
from typing import TypeVar

from bucketry.errors import Busy
from bucketry.testing.memory_files import MemoryFiles
from bucketry.testing.simulation.course import Journal
from bucketry.testing.simulation.machines import Process
from bucketry.testing.simulation.witness import Session

_T = TypeVar("_T")


class Directory:
    """A journal's directory. ``origin`` is the session whose writes are in it, None when there is nothing to
    replay. ``is_partial``: it may lack some of them, being an older copy, or damaged; ``floor``: it has what
    was flushed up to this epoch of its origin all the same."""

    def __init__(
        self,
        files: MemoryFiles,
        origin: Session | None = None,
        *,
        is_partial: bool = False,
        floor: int = 0,
    ) -> None:
        self.files = files
        self.origin = origin
        self.is_partial = is_partial
        self.floor = floor
        self.user: Process | None = None
        #: The files before the last power cut.
        self.before_cut: MemoryFiles | None = None
        #: How many changes the files had seen when a flush of a session returned: with its epoch.
        self.flushes: list[tuple[int, Session, int]] = []

    @property
    def is_there(self) -> bool:
        """Whether a process finds a journal in it."""
        return bool(self.files.sizes())

    def note_flushed(self, session: Session, epoch: int) -> None:
        """A flush of the session that has it has returned well."""
        self.flushes.append((len(self.files.history), session, epoch))


class LocalDisk:
    """``directory`` is the one whose name processes are given; others may be put in its place."""

    def __init__(self, journal: Journal, random: Random) -> None:
        self._journal = journal
        self._random = random
        self.directory = self.new()
        #: Directories that were put aside.
        self.shelf: list[Directory] = []
        self.fault_count = 0

    def new(self) -> Directory:
        """An empty directory."""
        return Directory(MemoryFiles(capacity_bytes=self._journal.capacity_bytes))

    def open(self, directory: Directory, process: Process) -> MemoryFiles:
        """The files, for a process. Raises Busy while another one lives that has them."""
        user = directory.user
        if user not in (None, process) and user.is_alive and not directory.files.is_closed:
            raise Busy("the journal is in use by another process")
        directory.user = process
        self._settle(directory, directory.files.at(len(directory.files.history)))
        return directory.files

    async def offload(self, work: Callable[[], _T], /) -> _T:
        """As a thread does: it takes its time."""
        await asyncio.sleep(self._random.uniform(0.0, self._journal.delay_max_seconds))
        return work()

    def lose_power(self) -> None:
        """What was not synced is there or not."""
        directory = self.directory
        directory.before_cut = directory.files
        self._settle(directory, directory.files.power_cut(self._random))
        directory.flushes.clear()

    def lose(self) -> None:
        """The disk is lost, or somebody gave up what is on it."""
        self.directory = self.new()

    def put(self, directory: Directory) -> None:
        """A directory in the place of the one that is there, which is put aside."""
        self.shelf.append(self.directory)
        if directory in self.shelf:
            self.shelf.remove(directory)
        self.directory = directory

    def _settle(self, directory: Directory, files: MemoryFiles) -> None:
        files.capacity_bytes = self._journal.capacity_bytes
        files.fault = self._fail_at_times
        directory.files = files

    def _fail_at_times(self, operation: str, name: str) -> None:
        if operation in ("write", "sync", "allocate") and self._random.random() < self._journal.fail:
            self.fault_count += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)


def older_copy(directory: Directory, random: Random) -> Directory:
    """As it was at a random moment, or just now; at times copied file by file while it was written to."""
    files = directory.files
    flushes: list[tuple[int, Session, int]] = directory.flushes
    is_partial = False
    if directory.before_cut is not None and random.random() < 0.5:
        files, flushes, is_partial = directory.before_cut, [], True
    changes = len(files.history)
    # Shortly before the end most is the same, and hardest to tell apart.
    at = changes - random.choice([0, random.randint(0, min(changes, 12)), random.randint(0, changes)])
    copied = files.at(at).contents()
    is_partial = is_partial or at < changes
    floor = max(
        (epoch for count, session, epoch in flushes if count <= at and session is directory.origin),
        default=0,
    )
    if random.random() < 0.3:
        later = files.at(random.randint(at, changes)).contents()
        names = {name for name in copied if random.random() < 0.5}
        copied |= {name: later[name] for name in names if name in later}
        is_partial, floor = True, 0
    return Directory(MemoryFiles.holding(copied), directory.origin, is_partial=is_partial, floor=floor)


def without_a_file(directory: Directory, random: Random) -> Directory:
    """A copy that lacks one file with what was flushed, or has it empty; the copy of a damaged disk."""
    copied = directory.files.contents()
    names = [name for name in sorted(copied) if name.startswith("segment")]
    if not names:
        return Directory(MemoryFiles.holding(copied), directory.origin)
    name = random.choice(names)
    if random.random() < 0.5:
        del copied[name]
    else:
        copied[name] = b""
    # Whatever is missing, nobody may take it for a journal with less in it.
    floor = 0 if directory.origin is None else directory.origin.history.flushed
    return Directory(MemoryFiles.holding(copied), directory.origin, is_partial=True, floor=floor)
