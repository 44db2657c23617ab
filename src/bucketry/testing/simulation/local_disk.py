"""The local disk of a simulated machine: the files of a journal, and what becomes of them."""

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


class LocalDisk:
    """``origin`` is the session whose writes are in the journal, None when there is nothing to replay."""

    def __init__(self, journal: Journal, random: Random) -> None:
        self._journal = journal
        self._random = random
        self._files = self._empty()
        self._user: Process | None = None
        self.origin: Session | None = None
        self.fault_count = 0

    def _empty(self) -> MemoryFiles:
        return MemoryFiles(capacity_bytes=self._journal.capacity_bytes)

    def open(self, process: Process) -> MemoryFiles:
        """The files, for a process. Raises Busy while another one lives that has them."""
        if self._user not in (None, process) and self._user.is_alive and not self._files.is_closed:
            raise Busy("the journal is in use by another process")
        self._user = process
        self._settle(self._files.at(len(self._files.history)))
        return self._files

    async def offload(self, work: Callable[[], _T], /) -> _T:
        """As a thread does: it takes its time."""
        await asyncio.sleep(self._random.uniform(0.0, self._journal.delay_max_seconds))
        return work()

    def lose_power(self) -> None:
        """What was not synced is there or not."""
        self._settle(self._files.power_cut(self._random))

    def lose(self) -> None:
        """The disk is lost, or somebody gave up what is on it."""
        self._settle(self._empty())
        self.origin = None

    def _settle(self, files: MemoryFiles) -> None:
        files.capacity_bytes = self._journal.capacity_bytes
        files.fault = self._fail_at_times
        self._files = files

    def _fail_at_times(self, operation: str, name: str) -> None:
        if operation in ("write", "sync", "allocate") and self._random.random() < self._journal.fail:
            self.fault_count += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
