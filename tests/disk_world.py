"""A store, a machine's way to it, and that machine's disks: one process after the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.offload import Offload, inline
from bucketry.core.lease import Holder
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME, SUPERBLOCK_NAME
from bucketry.disk import lifecycle
from bucketry.disk.holding import Place
from bucketry.disk.interface import Device
from bucketry.disk.lifecycle import Local
from bucketry.disk.machine import ThisMachine
from bucketry.errors import Unfinished
from bucketry.settings import CacheSettings, Secret, VolumeFormat, VolumeSettings
from bucketry.testing.faulty_bucket import FaultyBucket
from bucketry.testing.memory_files import Fault, MemoryFiles

BLOCK = 512
BLOCKS = 16
FORMAT = VolumeFormat(size_bytes=BLOCKS * BLOCK, block_size_bytes=BLOCK)
JOURNAL_BYTES = 1 << 20


def killed(files: MemoryFiles) -> MemoryFiles:
    """What the next process finds when this one is gone, but the machine is not."""
    return MemoryFiles.holding(files.contents())


class Machine(ThisMachine):
    """A machine on which one process runs after the other; each has ended when the next one looks."""

    def __init__(self) -> None:
        self._count = 0

    def this_process(self, token: int) -> Holder:
        self._count += 1
        return Holder(host="here", boot_id="now", pid=self._count, start_time=1, token=token)

    def has_ended(self, holder: Holder) -> bool:
        return holder.host == "here"

    def now(self) -> float:
        return asyncio.get_running_loop().time()


class World:
    """A store, one machine's way to it, and that machine's local files."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyBucket(MemoryBucket(self.store))
        self.files = MemoryFiles()
        self.machine = Machine()
        #: The volume's, if it is encrypted.
        self.password: Secret | None = None
        #: What the local files do.
        self.fault: Fault | None = None

    def place(self, prefix: str = "vol/") -> Place:
        fence = Fence()
        return Place(FencedBucket(self.faulty, fence), self.faulty, fence, prefix, "salt", self.machine)

    def blocks(self) -> dict[int, bytes]:
        """What is in the bucket."""
        return {
            int(key[-8:], 16): bytes(data)
            for key, (_, data) in self.store.objects.items()
            if not key.endswith((LEASE_NAME, MOUNT_TOKEN_NAME, SUPERBLOCK_NAME))
        }

    @asynccontextmanager
    async def opened(
        self,
        *,
        force: bool = False,
        read_only: bool = False,
        durability: str = "journal",
        has_directory: bool = True,
        adopt: bool = False,
        required: bool = False,
        prefix: str = "vol/",
        journal_bytes: int = JOURNAL_BYTES,
        dirty_max_bytes: int = 1 << 20,
        write_delay_seconds: float = 3600.0,
        offload: Offload = inline,
    ) -> AsyncIterator[Device]:
        settings = CacheSettings(
            memory_bytes=1 << 20,
            dirty_max_bytes=dirty_max_bytes,
            write_delay_seconds=write_delay_seconds,
            durability=durability,
            cache_dir=Path("/nowhere"),
            journal_bytes=journal_bytes,
            adopt_journal=adopt,
            require_journal=required,
        )
        self.files = killed(self.files)  # what the process before left
        self.files.fault = self.fault
        local = Local(lambda: self.files, lambda: bool(self.files.sizes()), offload)
        asked = VolumeSettings(force=force, read_only=read_only, password=self.password)
        async with lifecycle.opened(
            self.place(prefix),
            asked,
            settings,
            offload=inline,
            uploads_max=4,
            local=local if has_directory else None,
        ) as disk:
            yield disk

    @asynccontextmanager
    async def opened_and_killed(self) -> AsyncIterator[Device]:
        """As ``opened``, but at the end the process is gone: nothing reaches the bucket any more, and the
        next process finds the files as they are."""
        with pytest.raises(Unfinished):
            async with self.opened() as disk:
                await disk.extents(0, 1)  # the survey is over
                yield disk
                self.faulty.outage = True
                # Something that the journal must not have: it was not flushed.
                await disk.write(15 * BLOCK, b"unflushed")
                left = killed(self.files)
        self.files = left
        self.faulty.outage = False


async def new_world(password: Secret | None = None) -> World:
    """A world with an empty volume, encrypted if there is a password."""
    world = World()
    world.password = password
    volume_format = FORMAT if password is None else replace(FORMAT, cipher="AES-256-CBC")
    await lifecycle.create(world.place(), volume_format, password)
    return world
