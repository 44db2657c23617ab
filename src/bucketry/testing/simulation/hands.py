"""What is left by a process that has ended comes into unusual hands, before the right one has it again.

Somebody attaches without the journal's directory, or with another one in its place, on another machine, or
after the bucket was restored from a copy. Either he is refused, and the right one finds everything
afterwards, or nothing was missing. The witness knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from bucketry.bucket.interface import ObjectInfo
from bucketry.cache.journal import Journal
from bucketry.core.journal import JournalIdentity
from bucketry.disk import holding, lifecycle
from bucketry.disk.lifecycle import Local
from bucketry.errors import BucketryError
from bucketry.layout.interface import Write
from bucketry.testing.memory_files import MemoryFiles
from bucketry.testing.simulation.course import Hand
from bucketry.testing.simulation.history import Violation
from bucketry.testing.simulation.local_disk import Directory, older_copy, without_a_file
from bucketry.testing.simulation.machines import Process, SimulatedMachine

if TYPE_CHECKING:
    from bucketry.testing.simulation.world import World

#: Where the volume lies, and where a copy of it.
PREFIX = "vol/"
COPY_PREFIX = "copy/"
#: Faults, and leases that are watched, keep somebody out for so many attempts at most.
_ATTEMPTS_MAX = 60
#: What one attachment with its work may take: attaching as long as it may in the world, and then every user's
#: operations and a whole cache to upload, through requests that fail.
_SECONDS_MAX = 10 * 3600.0
_CRASH_SHARE = 0.3
_UNLOCK_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a process attaches. ``durability``: None is the course's; ``has_directory``: it is given that of
    its machine's journal; ``check``: it looks at everything first."""

    force: bool = False
    durability: str | None = None
    has_directory: bool = True
    check: bool = False


class Hands:
    """Those of one simulated ``world``; all choices are from ``random``."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        #: What was in the store, and whether that was before the process that has just ended.
        self._copied: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._is_copied_before = True
        self._copying: asyncio.Task[None] | None = None

    async def act(self, hand: Hand, machine: SimulatedMachine) -> SimulatedMachine:
        """Everything that comes before the right process; on which machine that is to be. No other process
        that writes is alive, and none of their requests is under way."""
        world, random = self._world, self._random
        world.trace(machine.name, f"somebody {hand.value}")
        world.events[f"somebody {hand.value}"] += 1
        if world.disks and random.random() < _UNLOCK_SHARE:
            await self._unlock(random.choice(world.machines[:2]))
        durability = "bucket" if random.random() < 0.3 else None
        match hand:
            case Hand.WITHOUT:
                await self._attach(machine, Manner(durability="bucket", has_directory=False))
            case Hand.BUCKET:
                await self._attach(machine, Manner(durability="bucket"))
            case Hand.READER:
                await self._read(random.choice([machine, machine, self._other(machine)]))
            case Hand.OTHER_MACHINE:
                await self._attach(self._other(machine), Manner(durability=durability))
            case Hand.OLDER_COPY:
                copy = older_copy(world.disks[machine].directory, random)
                await self._attach_with(machine, copy, durability)
            case Hand.DAMAGED:
                copy = without_a_file(world.disks[machine].directory, random)
                await self._attach_with(machine, copy, durability)
            case Hand.EMPTY:
                await self._attach_with(machine, world.disks[machine].new(), durability)
            case Hand.FOREIGN:
                if await self._attach_with(machine, await self._foreign(), durability):
                    raise Violation(f"{machine.name}: the journal of another volume was not refused")
            case Hand.COPIED_VOLUME:
                await self._attach_copy(machine)
            case Hand.RESTORED:
                await self._restore(machine)
        return machine

    def _other(self, machine: SimulatedMachine) -> SimulatedMachine:
        return next(one for one in self._world.machines if one is not machine)

    # -- who attaches ----------------------------------------------------------------------------------------

    async def _attach(self, machine: SimulatedMachine, manner: Manner, *, insists: bool = False) -> bool:
        """Let somebody attach, work for a while and close, or crash at some step; whether he was not refused.
        He ``insists``: then by force."""
        process = self._world.start_process(machine)
        attached = asyncio.Event()
        if self._random.random() < _CRASH_SHARE:
            process.interrupt(self._world.some_steps(), process.crash)
        await self._run(process, self._try(process, attached, manner, insists=insists))
        return attached.is_set()

    async def _run(self, process: Process, program: Coroutine[Any, Any, None]) -> None:
        process.run(program)
        try:
            async with asyncio.timeout(_SECONDS_MAX):
                await process.stopped.wait()
        except TimeoutError:
            raise Violation(f"{process.name} does not end") from None
        await self._world.network.wait_quiet(process)

    async def _try(self, process: Process, attached: asyncio.Event, manner: Manner, *, insists: bool) -> None:
        """The program of that process."""
        world = self._world
        dice = Random(f"hand {process.name}")  # noqa: S311 - to be repeated, not to be secret
        try:
            for _ in range(_ATTEMPTS_MAX):
                try:
                    await world.attach_and_work(process, attached, dice, manner)
                except BucketryError as error:
                    world.note_end(process, error)
                    if attached.is_set():
                        return
                    if world.is_refusal(error):
                        world.check_refusal(process, error)
                        if not insists:
                            return
                        if not manner.force and not world.is_of_pending(error):
                            world.disks[process.machine].lose()
                        manner = replace(manner, force=True)
                    await asyncio.sleep(dice.uniform(1.0, 40.0))
                else:
                    return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            world.fail(error)

    async def _attach_with(
        self, machine: SimulatedMachine, directory: Directory, durability: str | None
    ) -> bool:
        """The same with another directory in the place of the machine's; afterwards the right one is there
        again, as a rule."""
        disk = self._world.disks[machine]
        right = disk.directory
        disk.put(directory)
        is_attached = await self._attach(machine, Manner(durability=durability))
        if not is_attached or self._random.random() < 0.5:
            disk.put(right)
        return is_attached

    async def _unlock(self, machine: SimulatedMachine) -> None:
        """Somebody breaks the lease, who does not know better: a journal that is pending stays so."""
        process = self._world.start_process(machine)
        self._world.witness.unlocking.add(process)

        async def program() -> None:
            try:
                await holding.unlock(self._world.place(process))
            except BucketryError as error:
                self._world.note_end(process, error)

        await self._run(process, program())

    async def _read(self, machine: SimulatedMachine) -> None:
        """Somebody attaches read-only, with the machine's directory or without: with it he sees what is in
        the journal, if it is the right one, and changes nothing."""
        process = self._world.start_process(machine)
        directory = self._world.disks[machine].directory if self._random.random() < 0.7 else None
        await self._run(process, self._look(process, directory))

    async def _look(self, process: Process, directory: Directory | None) -> None:
        world = self._world
        disk = world.disks[process.machine]
        local = None
        if directory is not None:
            local = Local(lambda: disk.open(directory, process), lambda: directory.is_there, disk.offload)
        before = None if directory is None else directory.files.contents()
        try:
            async with lifecycle.opened(
                world.place(process),
                world.asked(read_only=True),
                world.cache_settings(process),
                offload=world.offload,
                uploads_max=1,
                local=local,
            ) as device:
                seen = await world.read_all(device)
            world.witness.shown(directory, seen)
            if directory is not None and directory.files.contents() != before:
                raise Violation(f"{process.name} attached read-only, and changed the journal")
        except BucketryError as error:
            world.note_end(process, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            world.fail(error)

    # -- another volume --------------------------------------------------------------------------------------

    async def _foreign(self) -> Directory:
        """A directory with a flush of another volume in its journal."""
        world = self._world
        geometry = world.geometry
        files = MemoryFiles()
        identity = JournalIdentity(
            "another volume", "a tenure", geometry.size_bytes, geometry.block_size_bytes, "memory://another"
        )
        journal, _ = await Journal.open(
            files, identity, size_bytes_max=world.course.cache.journal_bytes, offload=world.offload
        )
        await journal.append(1, [Write(0, b"another volume's")])
        await journal.close(empty=False)
        return Directory(MemoryFiles.holding(files.contents()))

    async def _attach_copy(self, machine: SimulatedMachine) -> None:
        """Somebody attaches a copy of the volume with the journal of the original: that must keep it."""
        world = self._world
        objects = world.store.objects
        for key, (info, data) in list(objects.items()):
            if key.startswith(PREFIX):
                copied = COPY_PREFIX + key.removeprefix(PREFIX)
                objects[copied] = replace(info, key=copied), data
        process = world.start_process(machine)
        await self._run(process, self._try_copy(process))
        for key in [key for key in objects if key.startswith(COPY_PREFIX)]:
            del objects[key]

    async def _try_copy(self, process: Process) -> None:
        world = self._world
        disk = world.disks[process.machine]
        is_pending = world.witness.to_recover(disk.directory) is not None
        settings = replace(world.course.cache, cache_size_bytes=0, exclusive=False)
        try:
            async with lifecycle.opened(
                world.place(process, COPY_PREFIX),
                world.asked(),
                settings,
                offload=world.offload,
                uploads_max=1,
                local=Local(
                    lambda: disk.open(disk.directory, process), lambda: disk.directory.is_there, disk.offload
                ),
            ):
                if is_pending:
                    raise Violation(f"{process.name} attached a copy with the journal of the original")
        except BucketryError as error:
            world.note_end(process, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            world.fail(error)

    # -- a bucket of before ----------------------------------------------------------------------------------

    def copy_store(self) -> None:
        """Keep what is in the store, now or when some time has passed, to be restored later."""
        self._copied = dict(self._world.store.objects)
        self._is_copied_before = self._random.random() < 0.5
        if not self._is_copied_before:
            pause_seconds = self._random.expovariate(0.5) * self._world.course.users.pause_max_seconds
            self._copying = asyncio.ensure_future(self._copy_later(pause_seconds))

    async def _copy_later(self, pause_seconds: float) -> None:
        await asyncio.sleep(pause_seconds)
        self._copied = dict(self._world.store.objects)

    async def _restore(self, machine: SimulatedMachine) -> None:
        """The bucket is what it was. What is kept locally is of a later time, also when numbers repeat."""
        world = self._world
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.gather(self._copying, return_exceptions=True)
            self._copying = None
        world.store.objects.clear()
        world.store.objects.update(self._copied)
        world.store.uploads.clear()
        world.witness.restored()
        # What is restored may say that the journal is pending, and nothing tells that it is of a later time:
        # then somebody else comes first, who gives it up.
        if not self._is_copied_before or self._random.random() < 0.5:
            await self._attach(self._other(machine), Manner(), insists=True)
