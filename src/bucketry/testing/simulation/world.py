"""One simulation: machines, a store, and what befalls them, from a seed.

The director (tasks of no process) lets processes attach the volume one after the other, or one while the
other still has it, and does to each what the course says. At the end the faults stop, and somebody attaches
once more: everything that was promised must be there.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.bucket.limited import Limited
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.metered import Metered
from bucketry.bucket.retrying import Retrying
from bucketry.codec.pipeline import BlockCodec
from bucketry.core.geometry import Geometry
from bucketry.core.lease import DURATION_SECONDS
from bucketry.core.names import BlockNames
from bucketry.disk import lifecycle
from bucketry.disk.holding import Place
from bucketry.disk.interface import Device
from bucketry.disk.lifecycle import Local
from bucketry.errors import BucketryError, Closed, Corrupt, Fenced, JournalPending, Mismatch
from bucketry.layout import volume as volumes
from bucketry.settings import CacheSettings, Secret, VolumeSettings
from bucketry.testing.faulty_bucket import NO_FAULTS, FaultyBucket
from bucketry.testing.simulation.cells import Cells, Numbers
from bucketry.testing.simulation.course import Act, Course, Hand
from bucketry.testing.simulation.hands import PREFIX, Hands, Manner
from bucketry.testing.simulation.history import Violation
from bucketry.testing.simulation.local_cache import LocalCache
from bucketry.testing.simulation.local_disk import Directory, LocalDisk
from bucketry.testing.simulation.machines import Process, SimulatedMachine, SimulationLoop
from bucketry.testing.simulation.network import Line, Network, Observed
from bucketry.testing.simulation.users import READ_SECONDS_MAX, Attachment, User, Waits, check_statistics
from bucketry.testing.simulation.witness import Witness

_T = TypeVar("_T")

SALT = f"bucket/{PREFIX}"
PASSWORD = Secret("a password")
#: As assemble's: lease and token are tried again for less than the time between two renewals.
_CONTROL_BUDGET_SECONDS = 8.0
#: Once the former holder is dead and the line is whole, somebody who tries and tries again has the volume
#: within this: his clock may be such that the lease looks fresh for as long as it lasts, watching it takes as
#: long again, and faults make him try anew.
_ATTACH_SECONDS_MAX = 40 * DURATION_SECONDS
_WATCHDOG_SECONDS = 60.0
#: After so many attempts somebody unlocks the volume, where that may be needed.
_PATIENCE = 20
#: How the refusal begins that misses a pending journal in the directory that it was given.
_MISSING = "the volume's journal is not in"


class World:
    """Everything of one simulation. ``events`` counts what happened, ``lines`` tell it in order."""

    def __init__(self, seed: int, course: Course, loop: SimulationLoop) -> None:
        self.course = course
        self.events: Counter[str] = Counter()
        self.lines: list[str] = []
        self._seed = seed
        self._loop = loop
        self._random = Random(f"world {seed}")  # noqa: S311 - to be repeated
        self.store = MemoryStore()
        self.network = Network(Random(f"network {seed}"), copy_context(), linger=course.linger)  # noqa: S311
        self.machines = [SimulatedMachine(name, loop) for name in ("ant", "bee", "cow")]
        self.geometry = Geometry(course.volume.size_bytes, course.volume.block_size_bytes)
        self.cells = Cells(course.volume.block_size_bytes)
        self._waits = Waits(loop.time)
        #: The local disks; none when nobody has a journal.
        self.disks: dict[SimulatedMachine, LocalDisk] = {}
        if course.journal is not None:
            for machine in self.machines:
                random = Random(f"disk {seed} {machine.name}")  # noqa: S311 - to be repeated
                self.disks[machine] = LocalDisk(course.journal, random)
        #: Where each machine keeps clean blocks; none when nobody does.
        self._caches: dict[SimulatedMachine, LocalCache] = {}
        if course.kept_blocks is not None:
            for machine in self.machines:
                self._caches[machine] = LocalCache(Random(f"cache {seed} {machine.name}"))  # noqa: S311
        #: The journal's directory that a process was given last.
        self._given: dict[Process, Directory | None] = {}
        self._faulty: list[tuple[Process, FaultyBucket]] = []
        self._control: list[tuple[Process, FaultyBucket]] = []
        self._cut: set[SimulatedMachine] = set()
        self._calm = False
        self._last_number = 0
        self._failed: asyncio.Future[None] = loop.create_future()
        self.witness: Witness
        self._processes: list[Process] = []
        self._hands = Hands(self, Random(f"hands {seed}"))  # noqa: S311

    # -- telling ---------------------------------------------------------------------------------------------

    def trace(self, who: str, what: str) -> None:
        self.lines.append(f"{self._loop.time():10.3f} {who:8} {what}")

    def fail(self, error: BaseException) -> None:
        """A promise was broken: the simulation ends."""
        if not self._failed.done():
            self.trace("", f"VIOLATION: {error}")
            self._failed.set_exception(error)

    def _note_unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised, or nobody asked for an error: that is a bug wherever it is."""
        error = context.get("exception") or RuntimeError(context["message"])
        self.fail(error)

    def _changed(self, process: Process, key: str) -> None:
        try:
            self.witness.changed(process, key)
        except Exception as error:  # noqa: BLE001 - it must not look like an answer of the store
            self.fail(error)

    def _damaged(self, process: Process) -> set[str]:
        return {key for reader, faulty in self._faulty if reader is process for key in faulty.damaged}

    def _directory_of(self, process: Process) -> Directory | None:
        return self._given.get(process)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    # -- what a process runs ---------------------------------------------------------------------------------

    def place(self, process: Process, prefix: str = PREFIX) -> Place:
        """As ``assemble.open_place``, on the simulated network."""
        course, name = self.course, f"{process.name} {len(self._faulty)}"
        fence = Fence()
        store = self._bucket(process, is_control=False)
        control_store = self._bucket(process, is_control=True)
        retry = course.retry
        bucket = Retrying(
            Limited(Metered(FencedBucket(store, fence), now=self._loop.time), course.limits),
            retry,
            random=Random(f"retry {self._seed} {name}"),  # noqa: S311
        )
        control = Retrying(
            control_store,
            replace(retry, budget_seconds=min(_CONTROL_BUDGET_SECONDS, retry.budget_seconds)),
            random=Random(f"control {self._seed} {name}"),  # noqa: S311
        )
        return Place(bucket, control, fence, prefix, SALT, process)

    def _bucket(self, process: Process, *, is_control: bool) -> Bucket:
        rates = NO_FAULTS if self._calm else self.course.rates
        if is_control:
            # What a bit that is wrong does to lease and token is for their own tests.
            rates = replace(rates, truncate=0.0, flip_bit=0.0)
        store = MemoryBucket(self.store, page_count_max=self.course.page_entries)
        observed = Observed(store, lambda key: self._changed(process, key))
        faulty = FaultyBucket(
            observed, rates=rates, seed=hash_of(f"line {self._seed} {process.name} {len(self._faulty)}")
        )
        faulty.outage = process.machine in self._cut
        self._faulty.append((process, faulty))
        if is_control:
            self._control.append((process, faulty))
        return Line(faulty, self.network, process)

    def asked(self, *, force: bool = False, read_only: bool = False) -> VolumeSettings:
        wanted = self.course.volume
        password = PASSWORD if wanted.cipher else None
        if not self.course.is_s3backers:
            return VolumeSettings(password=password, force=force, read_only=read_only)
        return VolumeSettings(
            size_bytes=wanted.size_bytes,
            block_size_bytes=wanted.block_size_bytes,
            compression=wanted.compression,
            cipher=wanted.cipher,
            block_hash_prefix=wanted.block_hash_prefix,
            password=password,
            force=force,
            read_only=read_only,
        )

    def cache_settings(self, process: Process) -> CacheSettings:
        """A directory of its own for each attachment, with what the one before has left there."""
        settings = self.course.cache
        if self._caches:
            return replace(settings, cache_dir=self._caches[process.machine].directory_for(process))
        return settings

    async def offload(self, work: Callable[[], _T], /) -> _T:
        """As threads do: it is not done at once."""
        await asyncio.sleep(0)
        return work()

    async def _write_for_a_while(self, process: Process, attached: asyncio.Event, manner: Manner) -> None:
        """The program of a process that tries until it has the volume, works on it and closes it."""
        dice = Random(f"process {self._seed} {process.name}")  # noqa: S311
        try:
            attempts = 0
            force = manner.force
            while not attached.is_set():
                attempts += 1
                # A mount token whose put arrived late, after it had been deleted, is nobody's: who knows that
                # unlocks the volume.
                force = force or (self.course.linger and attempts > _PATIENCE)
                try:
                    await self.attach_and_work(process, attached, dice, replace(manner, force=force))
                except BucketryError as error:
                    self.note_end(process, error)
                    if isinstance(error, Fenced):
                        force = False  # somebody else has taken it from us
                    if self.is_refusal(error):
                        self.check_refusal(process, error)
                        force = self._decide(process, error) or force
                    if attached.is_set():
                        if self.course.is_calm:
                            raise Violation(f"{process.name} failed without a cause: {error}") from error
                        return
                    await asyncio.sleep(dice.uniform(1.0, 40.0))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            self.fail(error)

    async def attach_and_work(
        self, process: Process, attached: asyncio.Event, dice: Random, manner: Manner
    ) -> None:
        """Attach, work for a while and close. Raises what an attach raises, and the closing."""
        if manner.force:
            self.witness.forced.add(process)
        self.trace(process.name, "tries to attach" + (" by force" if manner.force else ""))
        settings = self.cache_settings(process)
        if manner.durability is not None:
            settings = replace(settings, durability=manner.durability)
        async with lifecycle.opened(
            self.place(process),
            self.asked(force=manner.force),
            settings,
            offload=self.offload,
            uploads_max=max(1, self.course.limits.requests_max * 3 // 4),
            local=self.local(process, manner),
            cache_offload=self.offload if self._caches else None,
        ) as disk:
            session = self.witness.session_of(process)
            assert session is not None, "who is attached has the lease"
            self.witness.settled(session)
            session.journal = settings.durability == "journal"
            if session.recovers is not None:
                self.events["journals taken over"] += 1
                self.witness.recovered(session, await self.read_all(disk))
            directory = self._given[process]
            if directory is not None:
                directory.origin = session if session.journal else None
                directory.is_partial = False
            attached.set()
            self.events["attachments"] += 1
            self.trace(process.name, "is attached")
            may_fail = not self.course.is_calm
            attachment = Attachment(process, disk, session, may_fail)
            if manner.check:
                await self._check_everything(attachment)
            async with asyncio.TaskGroup() as group:
                for index in range(self.course.users.count):
                    group.create_task(self._use(self._user(process, index), attachment))
            self.trace(process.name, "closes")
        if session is self.witness.session and not session.released:
            raise Violation(f"{process.name} closed, and the lease was not given back")
        self.trace(process.name, "has closed")
        self.events["closed"] += 1

    def local(self, process: Process, manner: Manner) -> Local | None:
        """What the process has on local disk: as a rule what lies there under the name of the directory."""
        self._given[process] = None
        if not self.disks or not manner.has_directory:
            return None
        disk = self.disks[process.machine]
        directory = disk.directory
        self._given[process] = directory
        return Local(lambda: disk.open(directory, process), lambda: directory.is_there, disk.offload)

    def note_end(self, process: Process, error: BucketryError) -> None:
        """An attachment, or an attempt at one, has ended so."""
        self.trace(process.name, f"ends with {type(error).__name__}: {error}")
        self.events[type(error).__name__] += 1

    def is_refusal(self, error: BucketryError) -> bool:
        """Whether an attach was refused for the sake of a journal."""
        # A block that comes cut short may tell another block size, where only blocks tell it.
        is_of_journal = isinstance(error, Mismatch | Corrupt) and "journal" in str(error)
        return isinstance(error, JournalPending) or is_of_journal

    def is_of_pending(self, error: BucketryError) -> bool:
        """Whether it was refused because the bucket knows of a journal that is not there."""
        return isinstance(error, JournalPending) or _MISSING in str(error)

    def check_refusal(self, process: Process, error: BucketryError) -> None:
        """Raises Violation when an attach should not have been refused."""
        assert self.course.journal is not None
        session = self.witness.session
        if session is not None and (session.released or session.is_over) and self.is_of_pending(error):
            raise Violation("a journal is said to be pending of a volume that was given back")
        directory = self._given[process]
        # One that could not be emptied at a clean end may be refused: everything is in the bucket.
        if self.course.journal.fail or directory is None or directory.is_partial:
            return
        if self.witness.to_recover(directory) is not None:
            raise Violation(f"{process.name}: a journal was refused that nobody has come between: {error}")

    def _decide(self, process: Process, error: BucketryError) -> bool:
        """What who runs the machines does about a refusal; whether he uses force."""
        session = self.witness.session
        if not self.is_of_pending(error):
            # Somebody else has had the volume since, or it is no whole journal.
            self.events["journals refused"] += 1
            if not self._puts_right(process):
                self.disks[process.machine].lose()
            return False
        # Another machine has it, or it is lost. Nobody is robbed of it as long as he lives.
        if (session is not None and session.process.is_alive) or self._puts_right(process):
            return False
        self.events["pending journals given up"] += 1
        return True

    def _puts_right(self, process: Process) -> bool:
        """Whether the journal that is missed lay elsewhere on this machine, and is in its place now."""
        if self.witness.to_recover(self._given[process]) is not None:
            return False  # it was in its place, and its disk had failed so that the bucket disowned it
        disk = self.disks[process.machine]
        for directory in disk.shelf:
            if not directory.is_partial and self.witness.to_recover(directory) is not None:
                disk.put(directory)
                self.events["journals put back"] += 1
                return True
        return False

    async def read_all(self, disk: Device) -> dict[int, Numbers]:
        """What a disk holds, as long as it takes."""
        size = self.geometry.block_size_bytes
        seen: dict[int, Numbers] = {}
        while len(seen) < self.geometry.block_count:
            block = len(seen)
            try:
                seen[block] = self.cells.numbers(0, await disk.read(block * size, size))
            except (Fenced, Closed):
                raise
            except BucketryError:
                await asyncio.sleep(1.0)
        return seen

    async def _use(self, user: User, attachment: Attachment) -> None:
        try:
            await user.work(attachment)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            self.fail(error)

    def _user(self, process: Process, index: int) -> User:
        return User(
            f"{process.name}.{index}",
            Random(f"user {self._seed} {process.name} {index}"),  # noqa: S311
            self.course.users,
            self.geometry,
            self.cells,
            self.witness,
            self._waits,
            next_number=self._next_number,
            trace=self.trace,
        )

    async def _check_everything(self, at: Attachment) -> None:
        """Who attaches when nothing is wrong reads what the store has."""
        size = self.geometry.block_size_bytes
        before = dict(self.witness.content)
        for block in range(self.geometry.block_count):
            reading = at.session.history.begin_read(block, 0, self.cells.count)
            data = await self._waits.limited(
                at.process, f"read of {block}", READ_SECONDS_MAX, at.disk.read(block * size, size)
            )
            at.session.history.check_read(reading, self.cells.numbers(0, data))
        if before != self.witness.content and not at.session.journal:
            raise Violation("reading changed the store")
        check_statistics(at.disk, is_flushed=not at.session.journal)

    async def _read_for_a_while(self, process: Process) -> None:
        """The program of a process that attaches read-only."""
        dice = Random(f"reader {self._seed} {process.name}")  # noqa: S311
        size = self.geometry.block_size_bytes
        try:
            since = self.witness.change_count
            async with lifecycle.opened(
                self.place(process),
                self.asked(read_only=True),
                self.cache_settings(process),
                offload=self.offload,
                uploads_max=1,
                cache_offload=self.offload if self._caches else None,
            ) as disk:
                self.events["readers"] += 1
                for _ in range(20):
                    await asyncio.sleep(dice.uniform(0, self.course.users.pause_max_seconds))
                    block = dice.randrange(self.geometry.block_count)
                    try:
                        data = await self._waits.limited(
                            process, f"read of {block}", READ_SECONDS_MAX, disk.read(block * size, size)
                        )
                        numbers = self.cells.numbers(0, data)
                    except BucketryError as error:
                        if self.course.is_calm:
                            raise Violation(f"{process.name} failed without a cause: {error}") from error
                        continue
                    if not self.witness.was_seen(block, 0, numbers, since):
                        raise Violation(f"{process.name} read block {block} as it never was: {numbers}")
        except BucketryError as error:
            self.trace(process.name, f"ends with {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            self.fail(error)

    # -- what befalls them -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole course. Raises Violation, or whatever else should not have been."""
        self._loop.set_exception_handler(self._note_unhandled)
        await self._create()
        director = asyncio.ensure_future(self._direct())
        watchdog = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait([director, watchdog, self._failed], return_when=asyncio.FIRST_COMPLETED)
            for done in (self._failed, director, watchdog):
                if done.done():
                    done.result()
                    break
        finally:
            self._failed.cancel()
            self._count_faults()
            for task in (director, watchdog):
                task.cancel()
            await asyncio.gather(director, watchdog, return_exceptions=True)
            await self.network.wait_quiet()
            for process in self._processes:
                await process.bury()
            await self.network.wait_quiet()
            for cache in self._caches.values():
                cache.remove()

    def _count_faults(self) -> None:
        for _, faulty in self._faulty:
            figures = faulty.statistics()["faulty"]
            assert isinstance(figures, Mapping)
            self.events.update(figures["faults"])
            self.events["requests"] += int(str(figures["requests"]))
        self.events["requests dropped on the way"] += self.network.dropped_count
        self.events["requests timed out"] += self.network.timeout_count
        self.events["requests applied after their time"] += self.network.lingered_count

    async def _create(self) -> None:
        bucket = MemoryBucket(self.store)
        place = Place(bucket, bucket, Fence(), PREFIX, SALT)
        password = PASSWORD if self.course.volume.cipher else None
        if self.course.is_s3backers:
            made = await volumes.detect(bucket, PREFIX, self.asked(), salt=SALT, allow_empty=True)
        else:
            made = await lifecycle.create(place, self.course.volume, password)
        codec = BlockCodec(
            made.format.block_size_bytes,
            compression=made.format.compression,
            cipher=await volumes.unlock(bucket, made, password),
            volume_id=made.volume_id,
        )
        names = BlockNames(PREFIX, self.geometry.block_count, made.format.block_hash_prefix)
        self.witness = Witness(
            self.store,
            names,
            codec,
            self.cells,
            now=self._loop.time,
            damaged=self._damaged,
            directory_of=self._directory_of,
            has_journals=self.course.journal is not None,
            trace=self.trace,
        )
        self.witness.is_order_promised = not self.course.linger

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCHDOG_SECONDS)
            self._waits.check()

    async def _direct(self) -> None:
        machine = self.machines[0]
        writer, attached = self._start_writer(machine)
        for act, is_early, has_reader, hand in zip(
            self.course.acts, self.course.successors, self.course.readers, self.course.hands, strict=True
        ):
            if hand is Hand.RESTORED:
                self._hands.copy_store()
            await self._wait_attached(writer, attached)
            next_machine = self._random.choice([one for one in self.machines[:2] if one is not machine])
            if act is Act.FORCE:
                writer, attached = await self._force(writer, next_machine)
                machine = writer.machine
                continue
            if has_reader:
                self._start_reader()
            early = None
            if is_early:
                await asyncio.sleep(self._random.uniform(0, 5.0))
                early = self._start_writer(next_machine)
            await self._act(act, writer)
            await writer.stopped.wait()
            if early is not None:
                machine = next_machine
                writer, attached = early
            else:
                if self.course.journal is None or not self.course.journal.stays:
                    machine = self._random.choice(self.machines[:2])
                # What a process of this machine sent just before it died arrives before the next one starts:
                # a client cannot know better (see bucketry.bucket.retrying).
                await self.network.wait_quiet(writer)
                if hand is not None:
                    machine = await self._hands.act(hand, writer.machine)
                writer, attached = self._start_writer(machine)
        await self._wait_attached(writer, attached)
        await writer.stopped.wait()
        await self._end_well()

    async def _end_well(self) -> None:
        """The faults end; somebody attaches, finds everything and closes."""
        self._calm = True
        await self.network.wait_quiet()
        writer, attached = self._start_writer(self.machines[0], check=True)
        await self._wait_attached(writer, attached)
        await writer.stopped.wait()
        for process in self._processes:
            await process.stopped.wait()
        self.trace("", "the end")

    def _start_writer(
        self, machine: SimulatedMachine, *, force: bool = False, check: bool = False
    ) -> tuple[Process, asyncio.Event]:
        process = self.start_process(machine)
        attached = asyncio.Event()
        process.run(self._write_for_a_while(process, attached, Manner(force=force, check=check)))
        return process, attached

    def _start_reader(self) -> None:
        process = self.start_process(self.machines[2])
        process.run(self._read_for_a_while(process))

    def start_process(self, machine: SimulatedMachine) -> Process:
        process = machine.start_process()
        process.on_crash = self._crashed
        self._processes.append(process)
        return process

    def _crashed(self, process: Process) -> None:
        self.trace(process.name, "has crashed")
        self.network.cut(process)

    async def _wait_attached(self, process: Process, attached: asyncio.Event) -> None:
        seconds = _ATTACH_SECONDS_MAX
        try:
            async with asyncio.timeout(seconds):
                await attached.wait()
        except TimeoutError:
            raise Violation(f"{process.name} could not attach within {seconds:.0f} s") from None

    async def _act(self, act: Act, writer: Process) -> None:
        """Do it to a process that is attached; returns when it is done, or has been arranged."""
        self.events[act.value] += 1
        random, machine = self._random, writer.machine
        if act is Act.KILL or (act is Act.POWER and random.random() < 0.5):
            writer.interrupt(self.some_steps(), lambda: self._strike(act, writer))
            return
        await asyncio.sleep(random.expovariate(1.0) * self.course.users.pause_max_seconds)
        match act:
            case Act.POWER:
                self._strike(act, writer)
            case Act.SHORT_PAUSE | Act.LONG_PAUSE:
                is_long = act is Act.LONG_PAUSE
                await self._pause(writer, self._long() if is_long else random.uniform(1, 6))
            case Act.SHORT_CUT | Act.LONG_CUT:
                is_long = act is Act.LONG_CUT
                await self._cut_off(machine, self._long() if is_long else random.uniform(1, 25))
            case Act.LEASE_CUT:
                await self._cut_lease(writer, self._long())
            case Act.CLOCK:
                machine.clock_ahead += timedelta(seconds=random.uniform(-7200, 7200))

    def _strike(self, act: Act, process: Process) -> None:
        if act is Act.KILL:
            process.crash()
            return
        process.machine.lose_power()
        if self._caches:
            self._caches[process.machine].lose_power()
        if self.disks:
            disk = self.disks[process.machine]
            if self._random.random() < 0.3:
                self.events["local disks lost"] += 1
                disk.lose()
            else:
                disk.lose_power()

    def some_steps(self) -> int:
        """From the next step to as many as a process makes in a short life."""
        return int(10 ** self._random.uniform(0.0, 3.5))

    def _long(self) -> float:
        """Seconds that a lease may not outlast."""
        return self._random.choice([self._random.uniform(60, 100), self._random.uniform(60, 300)])

    async def _pause(self, process: Process, seconds: float) -> None:
        if self._random.random() < 0.5:
            process.pause()
        else:
            process.interrupt(self.some_steps(), process.pause)
            await process.halted.wait()
        self.trace(process.name, f"stands still for {seconds:.0f} s")
        await asyncio.sleep(seconds)
        self.trace(process.name, "goes on")
        process.resume()

    async def _cut_lease(self, process: Process, seconds: float) -> None:
        self.trace(process.name, f"cannot renew its lease for {seconds:.0f} s")
        self._waits.line_whole_since = float("inf")
        ours = [control for owner, control in self._control if owner is process]
        for control in ours:
            control.outage = True
        await asyncio.sleep(seconds)
        for control in ours:
            control.outage = False
        self.trace(process.name, "can renew its lease again")
        self._waits.line_whole_since = self._loop.time()

    async def _cut_off(self, machine: SimulatedMachine, seconds: float) -> None:
        self.trace(machine.name, f"is cut off for {seconds:.0f} s")
        self._waits.line_whole_since = float("inf")
        self._cut.add(machine)
        self._set_outages()
        await asyncio.sleep(seconds)
        self.trace(machine.name, "has its line again")
        self._cut.discard(machine)
        self._set_outages()
        self._waits.line_whole_since = self._loop.time()

    def _set_outages(self) -> None:
        for process, faulty in self._faulty:
            faulty.outage = process.machine in self._cut

    async def _force(self, writer: Process, machine: SimulatedMachine) -> tuple[Process, asyncio.Event]:
        """Take the volume from somebody who is alive, and may stand still meanwhile; perhaps take it once
        more from whoever has taken it, or let him die while he waits. Who has it then."""
        self.events[Act.FORCE.value] += 1
        random = self._random
        await asyncio.sleep(random.expovariate(1.0) * self.course.users.pause_max_seconds)
        stands_still = random.random() < 0.5
        cannot_renew = None
        if stands_still:
            self.trace(writer.name, "stands still")
            writer.pause()
            await asyncio.sleep(random.choice([0.0, random.uniform(0, 60)]))
        elif random.random() < 0.5:
            # It goes on writing for as long as it may.
            cannot_renew = asyncio.ensure_future(self._cut_lease(writer, self._long()))
        usurper, attached = self._start_writer(machine, force=True)
        kind = random.choice(["alone", "alone", "again", "dies"])
        # From before the new one has the volume to when he has had it for a while.
        resumes = asyncio.ensure_future(self._go_on(writer, random.uniform(0, 150))) if stands_still else None
        if kind != "alone":
            await asyncio.sleep(random.uniform(0, 90))
            if kind == "dies":
                usurper.crash()
                await self.network.wait_quiet(usurper)
                usurper, attached = self._start_writer(machine)
            else:
                usurper, attached = self._start_writer(self.machines[2], force=True)
        await self._wait_attached(usurper, attached)
        for trouble in (resumes, cannot_renew):
            if trouble is not None:
                await trouble
        await writer.stopped.wait()
        return usurper, attached

    async def _go_on(self, process: Process, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.trace(process.name, "goes on")
        process.resume()


def hash_of(text: str) -> int:
    """A number from a text, the same in every process."""
    return Random(text).getrandbits(64)  # noqa: S311 - to be repeated
