"""One disk served by this process: from opening it until everything is in the bucket and nothing is left
behind.

It ends when it is asked to (a signal, ``bucketry umount``), when it has been unmounted by other means and
nobody uses it any more, and when somebody else has taken the volume over."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bucketry.disk.interface import Device, Unsaved
from bucketry.errors import BucketryError, NotFound, TakenOver, Unfinished
from bucketry.serve.answers import Answers, Describe, FindDamaged
from bucketry.serve.control import ControlServer
from bucketry.serve.daemon import INTERRUPTED_EXIT_CODE
from bucketry.serve.event_loop import become_io_flusher, settle_memory
from bucketry.serve.fuse import FuseSession
from bucketry.serve.leaving import Leaving, Probe
from bucketry.serve.left_behind import gave_up, taken_over
from bucketry.serve.loop_mount import LoopMount, LoopMountSettings, check_rights
from bucketry.serve.notify import notify
from bucketry.serve.patient import PatientDevice
from bucketry.serve.reload import Reread, rereading
from bucketry.serve.runtime import Claim, State, process_start_time
from bucketry.settings import FuseSettings

logger = logging.getLogger(__name__)

#: Between two attempts to bring the last data into the bucket. Each has had the bucket's own retries already.
_ATTEMPT_PAUSE_SECONDS = 2.0
#: Unmounting by force takes a moment, and so does writing to a local journal; what is stuck is not waited
#: for.
_GIVE_UP_SECONDS = 5.0
#: Who gives up starting waits no longer than this for a bucket that does not answer.
_START_PATIENCE_SECONDS = 3.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: The exit code of a process that gave up: the command line's code for Unfinished.
GAVE_UP_EXIT_CODE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to serve where."""

    url: str
    mount_point: str
    fuse: FuseSettings
    #: None shows the disk as a file on the mount point; else its filesystem is mounted there.
    loop: LoopMountSettings | None
    #: Where the log is, for people.
    log: str

    @property
    def kind(self) -> str:
        return "attach" if self.loop is None else "mount"


OpenDevice = Callable[[], AbstractAsyncContextManager[Device]]


async def serve_disk(
    job: Job,
    claim: Claim,
    open_device: OpenDevice,
    describe: Describe,
    probe: Probe,
    reread: Reread,
    find_damaged: FindDamaged,
    ready: Callable[[], None],
) -> None:
    """Serve until asked to stop. ``ready`` is called when the disk can be used; SIGHUP calls ``reread``.

    Returns when everything is in the bucket; raises what kept it from starting, or what closing the disk
    raised; TakenOver when somebody else has the volume: then what is mounted stays, fails every use, and
    ``claim`` says so. A signal, or a request to stop, before ``ready`` raises KeyboardInterrupt. The caller
    still has to give ``claim`` free.
    """
    if job.loop is not None:
        check_rights()
        become_io_flusher()
    served = _ServedDisk(job, claim, describe, probe)
    file_path = str(_disk_directory(job, claim) / job.fuse.file_name)
    answers = Answers(job.url, served, file_path, describe, find_damaged)
    control = ControlServer(claim.files.socket, answers.answer)
    try:
        with served.signals_handled():
            await control.start()
            claim.write(_state_of(job, claim))
            async with rereading(reread, served.is_serving), open_device() as device, served.mounted(device):
                settle_memory()
                served.begin()
                ready()
                await served.wait_left()
    except asyncio.CancelledError:
        if served.is_interrupted:
            served.end(NotFound(f"{job.mount_point}: it was only just being attached; that was given up"))
            raise KeyboardInterrupt from None
        raise
    except BaseException as error:
        # Closing the disk fails then too, and says less.
        failure = served.lost or error
        served.end(failure)
        raise failure from error
    else:
        served.end(None)
        logger.info("%s: everything is in the bucket", job.url)
    finally:
        await control.close()


def _state_of(job: Job, claim: Claim) -> State:
    start_time = process_start_time(os.getpid())
    assert start_time is not None, "this process is alive"
    return State(
        pid=os.getpid(),
        start_time=start_time,
        url=job.url,
        mount_point=job.mount_point,
        kind=job.kind,
        disk_directory=str(_disk_directory(job, claim)),
        log=job.log,
    )


def _disk_directory(job: Job, claim: Claim) -> Path:
    """Where the disk is a file: on the mount point, or privately below the filesystem that is mounted
    there."""
    return Path(job.mount_point) if job.loop is None else claim.files.disk_directory


class _ServedDisk:
    """What ``serve_disk`` runs, and what signals and the control socket ask of it; see ``answers.Served``."""

    def __init__(self, job: Job, claim: Claim, describe: Describe, probe: Probe) -> None:
        self._job = job
        self._claim = claim
        self._describe = describe
        self._probe = probe
        self._directory = _disk_directory(job, claim)
        self._main = asyncio.current_task()
        self.state = "starting"
        self.device: Device | None = None
        self.session: FuseSession | None = None
        self.leaving: Leaving | None = None
        self._serving: asyncio.Task[None] | None = None
        self._signal_count = 0
        self.is_interrupted = False
        self._stopper: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._error: BaseException | None = None
        #: Why this process will never write to the volume again, and what is lost by that.
        self.lost: TakenOver | None = None

    # The life, in the order in which serve_disk goes through it.

    @contextmanager
    def signals_handled(self) -> Iterator[None]:
        """The first signal stops, or interrupts the start; one more gives up."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in _STOP_SIGNALS:
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def mounted(self, device: Device) -> AsyncIterator[None]:
        """The disk, and the filesystem on it, are where they should be; on leaving they are no more, unless
        the volume is lost."""
        job, directory = self._job, self._directory
        patient = None
        if job.loop is not None:
            directory.mkdir(mode=0o700, exist_ok=True)
            # What the session of a mounted filesystem serves; our own flushes go to the device, and fail.
            patient = PatientDevice(device)
        session = FuseSession(patient or device, directory, job.fuse, statistics=self.statistics)
        self.device, self.session = device, session
        session.mount()
        serving = self._serving = asyncio.create_task(session.serve(), name="fuse session")
        loop_mount = None if job.loop is None else LoopMount(directory / job.fuse.file_name, job.loop)
        leaving = Leaving(
            job.mount_point,
            directory,
            device,
            session,
            serving,
            self._probe,
            loop_mount=loop_mount,
            patient=patient,
        )
        try:
            if loop_mount is not None:
                await loop_mount.mount(is_empty=self._is_empty)
            self.leaving = leaving
            yield
        finally:
            if not serving.done():
                await leaving.leave_by_force()

    def begin(self) -> None:
        self.state = "serving"
        logger.info("%s is on %s (%s)", self._job.url, self._job.mount_point, self._job.kind)

    async def wait_left(self) -> None:
        """Wait until nothing is mounted any more, whoever unmounted it, and then until everything is in the
        bucket. Raises TakenOver when that can never be."""
        assert self.device is not None
        assert self._serving is not None
        losing = asyncio.create_task(self.device.wait_lost(), name="lost")
        unused = asyncio.create_task(self._end_with_filesystem(), name="filesystem")
        try:
            await asyncio.wait((self._serving, losing), return_when=asyncio.FIRST_COMPLETED)
            if not losing.done():
                self._log_end_of_session(self._serving)
                await self._drain()
            lost = losing.result() if losing.done() else None
        except TakenOver as error:
            lost = error
        finally:
            for task in (losing, unused):
                task.cancel()
            await asyncio.gather(losing, unused, return_exceptions=True)
        if lost is not None:
            await self._lose(lost)

    @staticmethod
    def _log_end_of_session(serving: asyncio.Task[None]) -> None:
        if not serving.cancelled() and (error := serving.exception()):
            logger.error("the FUSE session ended: %s", error, exc_info=error)

    async def _drain(self) -> None:
        assert self.leaving is not None
        self.state = "draining"
        while True:
            try:
                await self.leaving.flush()
            except Unfinished as error:
                logger.error("%s; trying on", error)
                await asyncio.sleep(_ATTEMPT_PAUSE_SECONDS)
            else:
                break
        if self.leaving.filesystem_error is not None:
            raise self.leaving.filesystem_error

    async def _end_with_filesystem(self) -> None:
        """When a mounted filesystem was unmounted by other means, and nobody uses it any more, its loop
        device goes by itself, and so do we."""
        assert self.session is not None
        assert self.leaving is not None
        if self._job.loop is None:
            return
        while True:
            await self.session.wait_closed()
            logger.info("the filesystem on %s is not in use any more", self._job.mount_point)
            try:
                await self.leaving.end_unused()
            except BucketryError as error:
                logger.warning("%s", error)
                await asyncio.sleep(_ATTEMPT_PAUSE_SECONDS)
            else:
                return

    async def _lose(self, error: BucketryError) -> None:
        """Somebody else has the volume. What is mounted stays, and fails every use: were it unmounted,
        programs would go on writing into the directory below it. Raises TakenOver."""
        assert self.leaving is not None
        assert self.session is not None
        unsaved = await self._unsaved()
        self.lost = TakenOver(taken_over(error, unsaved, await self._who_has_it()))
        self.state = "lost"
        if not self.session.has_ended:
            self._claim.keep(replace(_state_of(self._job, self._claim), lost=str(self.lost)))
        await self.leaving.abort()
        raise self.lost from error

    async def _who_has_it(self) -> str | None:
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                holder = (await self._describe()).get("mounted_by")
        except (BucketryError, TimeoutError):
            return None
        return None if holder is None else str(holder)

    async def _unsaved(self) -> Unsaved | None:
        """What is not in the bucket; None when that cannot be found out in time."""
        assert self.device is not None
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                return await self.device.unsaved()
        except (BucketryError, TimeoutError) as error:
            logger.error("the journal does not answer: %r", error)
            return None

    def end(self, error: BaseException | None) -> None:
        """The disk is closed; ``error`` says what went wrong with that."""
        self._error = error
        self._ended.set()

    def is_serving(self) -> bool:
        return self.state == "serving"

    async def wait_ended(self) -> None:
        """Return when the disk is closed. Raises what went wrong with that."""
        await self._ended.wait()
        if isinstance(self._error, BucketryError):
            raise self._error
        if self._error is not None:
            raise BucketryError(repr(self._error))

    # Stopping.

    def _signalled(self, number: int) -> None:
        self._signal_count += 1
        logger.info("%s", signal.Signals(number).name)
        if self.state == "starting":
            self._interrupt_start()
        elif self._signal_count == 1:
            self.state = "stopping"
            self._stopper = asyncio.create_task(self._stop_whatever_it_takes(), name="stop")
        elif self._signal_count == 2:
            self._stopper = asyncio.create_task(self._give_up(), name="give up")

    def _interrupt_start(self) -> None:
        """Clean up in order; asked again while nothing is mounted yet, leave without waiting for a bucket
        that may not answer."""
        if self._signal_count > 1:
            self._leave_start()
        self.interrupt()

    def interrupt(self) -> None:
        """Give up starting; soon, also when a bucket does not answer."""
        assert self._main is not None
        self.is_interrupted = True
        self._main.cancel()
        asyncio.get_running_loop().call_later(_START_PATIENCE_SECONDS, self._leave_start)

    def _leave_start(self) -> None:
        if self.session is None:
            self._claim.forget()
            logging.shutdown()
            os._exit(INTERRUPTED_EXIT_CODE)

    async def _stop_whatever_it_takes(self) -> None:
        """For signals: what is busy is unmounted lazily, and an unreachable bucket is tried again until it is
        there."""
        assert self.leaving is not None
        notify("STOPPING=1")
        while True:
            try:
                await self.leaving.stop(insist=True)
            except TakenOver:
                return  # it ends by itself
            except BucketryError as error:
                logger.error("%s; trying on", error)
                await asyncio.sleep(_ATTEMPT_PAUSE_SECONDS)
            else:
                return

    async def _give_up(self) -> None:
        """The user asked twice: leave, and say what is where. Closing the disk in order would wait for the
        bucket again."""
        assert self.leaving is not None
        is_left = False
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await self.leaving.leave_by_force()
                is_left = True
        except (BucketryError, TimeoutError) as error:
            logger.warning("left mounted: %s", error)
        kernel_holds = self._job.mount_point if self._job.loop is not None and not is_left else None
        logger.critical("%s", gave_up(await self._unsaved(), kernel_holds))
        self._claim.forget()
        logging.shutdown()
        os._exit(GAVE_UP_EXIT_CODE)

    def statistics(self) -> Mapping[str, object]:
        assert self.device is not None
        figures = dict(self.device.statistics())
        if self.session is not None:
            figures["fuse"] = self.session.statistics()
        return figures

    async def _is_empty(self) -> bool:
        """Whether the disk reads as zeros from end to end."""
        assert self.device is not None
        return all(part.is_hole for part in await self.device.extents(0, self.device.size_bytes))
