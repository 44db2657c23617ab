"""One disk served by this process: from opening it until everything is in the bucket and nothing is left
behind.

Stopping has one order, whoever asks for it (a signal, ``bucketry umount``): the filesystem on the loop
device, the loop device, a flush, the FUSE directory, the disk. Each step may be refused or fail, and then
nothing after it happens and nothing before it need be undone: the disk stays attached, holds its data, and
the next attempt goes on from there."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bucketry.core.units import format_size
from bucketry.disk.interface import Device
from bucketry.errors import BucketryError, Busy, Invalid, Unfinished
from bucketry.serve.control import ControlServer
from bucketry.serve.control_client import Answer
from bucketry.serve.event_loop import become_io_flusher, settle_memory
from bucketry.serve.figures import dirty_bytes
from bucketry.serve.fuse import FuseSession
from bucketry.serve.loop_mount import LoopMount, LoopMountSettings, check_rights
from bucketry.serve.mounts import is_busy, take_away
from bucketry.serve.notify import notify
from bucketry.serve.patient import PatientDevice
from bucketry.serve.reload import Reread, rereading
from bucketry.serve.runtime import Claim, State, process_start_time
from bucketry.settings import FuseSettings

logger = logging.getLogger(__name__)

#: Between two attempts to bring the last data into the bucket. Each has had the bucket's own retries already.
_ATTEMPT_PAUSE_SECONDS = 2.0
#: Unmounting by force takes a moment; a kernel that is stuck is not waited for.
_GIVE_UP_SECONDS = 5.0
#: How soon a bucket that went away is noticed by who waits for a filesystem to be written.
_LOOK_SECONDS = 0.5
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: The exit code of a process that gave up: the command line's code for Unfinished.
GAVE_UP_EXIT_CODE = 6
#: The command line's code for an interruption.
INTERRUPTED_EXIT_CODE = 130


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
#: What the volume says of itself, asked of the bucket at that moment: raises when the bucket cannot be
#: reached.
Describe = Callable[[], Awaitable[Mapping[str, object]]]

#: Raises when the bucket cannot be reached at that moment.
Probe = Callable[[], Awaitable[None]]


async def serve_disk(
    job: Job,
    claim: Claim,
    open_device: OpenDevice,
    describe: Describe,
    probe: Probe,
    reread: Reread,
    ready: Callable[[], None],
) -> None:
    """Serve until asked to stop. ``ready`` is called when the disk can be used; SIGHUP calls ``reread``.

    Returns when everything is in the bucket; raises what kept it from starting, or what closing the disk
    raised. A signal before ``ready`` raises KeyboardInterrupt. The caller still has to give ``claim`` free.
    """
    if job.loop is not None:
        check_rights()
        become_io_flusher()
    served = _ServedDisk(job, claim, describe, probe)
    control = ControlServer(claim.files.socket, served.answer)
    try:
        with served.signals_handled():
            async with rereading(reread, served.is_serving), open_device() as device, served.mounted(device):
                await control.start()
                claim.write(_state_of(job, claim))
                settle_memory()
                served.begin()
                ready()
                await served.wait_left()
    except asyncio.CancelledError:
        if served.interrupted:
            raise KeyboardInterrupt from None
        raise
    except BaseException as error:
        served.end(error)
        raise
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


def _log_failure(ended: asyncio.Task[Answer]) -> None:
    if not ended.cancelled() and (error := ended.exception()):
        logger.error("nobody waits for it any more, and it failed: %s", error)


class _ServedDisk:
    """What ``serve_disk`` runs, and what signals and the control socket ask of it."""

    def __init__(self, job: Job, claim: Claim, describe: Describe, probe: Probe) -> None:
        self._job = job
        self._claim = claim
        self._describe = describe
        self._probe = probe
        self._directory = _disk_directory(job, claim)
        self._main = asyncio.current_task()
        self._device: Device | None = None
        self._session: FuseSession | None = None
        self._serving: asyncio.Task[None] | None = None
        self._loop_mount: LoopMount | None = None
        #: What the session of a mounted filesystem serves; the flushes of our own go to the device below, and
        #: fail.
        self._patient: PatientDevice | None = None
        #: The filesystem failed by itself: there is no more to save than what it wrote.
        self._filesystem_error: BucketryError | None = None
        #: "starting", "serving", "stopping" (asked to by a signal), "draining" (not mounted any more).
        self._state = "starting"
        self._signal_count = 0
        self._stopper: asyncio.Task[None] | None = None
        #: One attempt to stop at a time: two would unmount under each other.
        self._stop_lock = asyncio.Lock()
        self._ended = asyncio.Event()
        self._error: BaseException | None = None

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
        """The disk, and the filesystem on it, are where they should be; on leaving they are no more."""
        self._device = device
        if self._job.loop is not None:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._patient = PatientDevice(device)
        session = FuseSession(
            self._patient or device, self._directory, self._job.fuse, statistics=self._statistics
        )
        session.mount()
        self._session = session
        self._serving = asyncio.create_task(session.serve(), name="fuse session")
        try:
            if self._job.loop is not None:
                self._loop_mount = LoopMount(self._directory / self._job.fuse.file_name, self._job.loop)
                await self._loop_mount.mount(is_empty=self._is_empty)
            yield
        finally:
            if not self._serving.done():
                await self._leave_by_force()

    def begin(self) -> None:
        self._state = "serving"
        logger.info("%s is on %s (%s)", self._job.url, self._job.mount_point, self._job.kind)

    async def wait_left(self) -> None:
        """Wait until nothing is mounted any more, whoever unmounted it, and then until everything is in the
        bucket."""
        assert self._serving is not None
        await asyncio.wait((self._serving,))
        if not self._serving.cancelled() and (error := self._serving.exception()):
            logger.error("the FUSE session ended: %s", error, exc_info=error)
        self._state = "draining"
        while True:
            try:
                await self._flush()
            except Unfinished as error:
                logger.error("%s; trying on", error)
                await asyncio.sleep(_ATTEMPT_PAUSE_SECONDS)
            else:
                break
        if self._filesystem_error is not None:
            raise self._filesystem_error

    def end(self, error: BaseException | None) -> None:
        """The disk is closed; ``error`` says what went wrong with that."""
        self._error = error
        self._ended.set()

    def is_serving(self) -> bool:
        return self._state == "serving"

    @property
    def interrupted(self) -> bool:
        return self._signal_count > 0

    # What the control socket asks.

    async def answer(self, operation: str, request: Mapping[str, object]) -> Answer:
        """Carry out one request of the control socket."""
        assert self._device is not None
        match operation:
            case "status":
                return {"state": self._state, "dirty_bytes": self._dirty_bytes(), "pid": os.getpid()}
            case "statistics":
                return {"statistics": self._statistics()}
            case "info":
                return {"volume": await self._describe()}
            case "flush":
                await self._flush()
                return {}
            case "refresh":
                await self._refresh()
                return {}
            case "resize":
                return await self._resize(request.get("size_bytes"), force=request.get("force") is True)
            case "stop":
                await self._stop(insist=False)
                await self._ended.wait()
                if self._error is not None:
                    raise (
                        self._error
                        if isinstance(self._error, BucketryError)
                        else BucketryError(repr(self._error))
                    )
                return {}
            case _:
                raise Invalid(f"no such operation: {operation[:40]!r}")

    async def _refresh(self) -> None:
        """What another attachment wrote is seen from now on, but for what a mounted filesystem itself
        holds."""
        assert self._device is not None
        assert self._session is not None
        await self._device.refresh()
        self._session.size_changed()
        # In a thread: the kernel waits for reads of its pages that are under way, which we have to answer.
        await asyncio.to_thread(self._session.invalidate)

    async def _resize(self, size_bytes: object, *, force: bool) -> Answer:
        """Make disk, file and what is mounted from it larger. ``problem``: why the filesystem could not
        be."""
        assert self._device is not None
        assert self._session is not None
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
            raise Invalid("size_bytes is a whole number")
        if self._state != "serving":
            raise Busy(f"it is {self._state}")
        # Not cancelled when its client goes away: the kernel has to hear of what the bucket says already.
        growing = asyncio.create_task(self._grow(size_bytes, force=force), name="resize")
        try:
            return await asyncio.shield(growing)
        except asyncio.CancelledError:
            growing.add_done_callback(_log_failure)
            raise

    async def _grow(self, size_bytes: int, *, force: bool) -> Answer:
        assert self._device is not None
        assert self._session is not None
        before = self._device.size_bytes
        async with self._stop_lock:
            await self._device.grow(size_bytes, force=force)
            self._session.size_changed()
            logger.info("%s has %d bytes now instead of %d", self._job.url, size_bytes, before)
            filesystem = problem = None
            path = self._directory / self._job.fuse.file_name
            # In a thread: the kernel asks us for it.
            await asyncio.to_thread(path.stat)
            if self._loop_mount is not None and self._loop_mount.is_mounted():
                filesystem = self._loop_mount.filesystem
                try:
                    await self._loop_mount.grow()
                except BucketryError as error:
                    logger.error("the filesystem could not be made larger: %s", error)
                    problem = str(error)
            return {
                "before_bytes": before,
                "after_bytes": size_bytes,
                "filesystem": filesystem,
                "problem": problem,
            }

    # Stopping.

    def _signalled(self, number: int) -> None:
        self._signal_count += 1
        logger.info("%s", signal.Signals(number).name)
        if self._state == "starting":
            self._interrupt_start()
        elif self._signal_count == 1:
            self._state = "stopping"
            self._stopper = asyncio.create_task(self._stop_whatever_it_takes(), name="stop")
        elif self._signal_count == 2:
            self._stopper = asyncio.create_task(self._give_up(), name="give up")

    def _interrupt_start(self) -> None:
        """Clean up in order; asked again while nothing is mounted yet, leave without waiting for a bucket
        that may not answer."""
        assert self._main is not None
        if self._signal_count > 1 and self._session is None:
            self._claim.forget()
            logging.shutdown()
            os._exit(INTERRUPTED_EXIT_CODE)
        self._main.cancel()

    async def _stop_whatever_it_takes(self) -> None:
        """For signals: what is busy is unmounted lazily, and an unreachable bucket is tried again until it is
        there."""
        notify("STOPPING=1")
        while True:
            try:
                await self._stop(insist=True)
            except BucketryError as error:
                logger.error("%s; trying on", error)
                await asyncio.sleep(_ATTEMPT_PAUSE_SECONDS)
            else:
                return

    async def _stop(self, *, insist: bool) -> None:
        """Unmount everything; ``wait_left`` then sees the rest through. Raises Busy (nothing was done) unless
        ``insist``, Unfinished when not everything is in the bucket: it stays attached."""
        async with self._stop_lock:
            if self._state == "draining":
                await self._flush()
                return
            if self._loop_mount is not None:
                await self._stop_filesystem(self._loop_mount, insist)
            if not insist or self._dirty_bytes():
                await self._flush_or_notice()
            else:
                await self._flush()
            await self._leave_directory(insist)

    async def _stop_filesystem(self, loop_mount: LoopMount, insist: bool) -> None:
        """Bring the filesystem into the bucket while it is still mounted, then unmount it: whatever fails,
        fails while it can still be used. (A filesystem whose last writes fail during unmount loses them with
        its pages.)"""
        if loop_mount.is_mounted():
            if not insist and await asyncio.to_thread(is_busy, self._job.mount_point):
                raise Busy(
                    f"{self._job.mount_point} is in use: files are open on it, or it is somebody's directory"
                )
            if not insist or self._dirty_bytes():
                await self._check_bucket()
            await self._sync_filesystem(loop_mount, insist)
            await self._flush()
        try:
            await loop_mount.unmount()
        except Busy:
            if not insist:
                raise
            logger.warning("%s is in use; unmounted all the same", self._job.mount_point)
            await loop_mount.unmount(lazily=True)

    async def _sync_filesystem(self, loop_mount: LoopMount, insist: bool) -> None:
        """Have the kernel write what it holds. Raises Unfinished when the bucket goes away meanwhile, unless
        ``insist``."""
        assert self._patient is not None
        syncing = asyncio.create_task(loop_mount.sync(), name="sync")
        try:
            while not (await asyncio.wait((syncing,), timeout=_LOOK_SECONDS))[0]:
                if self._patient.trouble is not None and not insist:
                    raise self._unfinished(self._patient.trouble)
            await syncing
        except Unfinished:
            raise
        except BucketryError as error:
            # It turned read-only, or worse. Keeping it mounted would save nothing.
            logger.error("the filesystem on %s has failed: %s", self._job.mount_point, error)
            self._filesystem_error = BucketryError(
                f"unmounted, but the filesystem had failed, and what it could not write is lost: {error}"
            )
        finally:
            syncing.cancel()
            await asyncio.gather(syncing, return_exceptions=True)

    async def _check_bucket(self) -> None:
        """Raises Unfinished when the bucket cannot be reached, before anything is unmounted."""
        try:
            await self._probe()
        except BucketryError as error:
            raise self._unfinished(error) from error

    async def _flush_or_notice(self) -> None:
        """Flush, and look meanwhile whether the bucket can be reached: a flush alone would try for a minute
        what is known in seconds."""
        flushing = asyncio.create_task(self._flush(), name="flush")
        try:
            await self._check_bucket()
            await flushing
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)

    async def _flush(self) -> None:
        assert self._device is not None
        try:
            await self._device.flush()
        except BucketryError as error:
            raise self._unfinished(error) from error

    def _unfinished(self, error: BucketryError) -> Unfinished:
        missing = self._dirty_bytes()
        return Unfinished(f"{format_size(missing)} not yet in the bucket, kept in memory: {error}")

    async def _leave_directory(self, insist: bool) -> None:
        assert self._session is not None
        assert self._serving is not None
        try:
            await self._session.unmount()
        except Busy:
            if not insist:
                raise
            logger.warning("%s is in use; unmounted all the same", self._directory)
            await self._leave_by_force()

    async def _leave_by_force(self) -> None:
        """Unmount whoever uses it. Requests that come later fail; those that were answered are safe in the
        cache."""
        assert self._serving is not None
        if self._loop_mount is not None:
            await self._loop_mount.unmount(lazily=True)
        await asyncio.to_thread(take_away, str(self._directory))
        self._serving.cancel()
        await asyncio.wait((self._serving,))

    async def _give_up(self) -> None:
        """The user asked twice: leave, whatever is lost. Closing the disk in order would wait for the bucket
        again."""
        missing = self._dirty_bytes()
        logger.critical("gave up: %d bytes were not in the bucket and are lost", missing)
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await self._leave_by_force()
        except (BucketryError, TimeoutError) as error:
            logger.warning("left mounted: %s", error)
        self._claim.forget()
        logging.shutdown()
        os._exit(GAVE_UP_EXIT_CODE)

    def _statistics(self) -> Mapping[str, object]:
        assert self._device is not None
        figures = dict(self._device.statistics())
        if self._session is not None:
            figures["fuse"] = self._session.statistics()
        return figures

    def _dirty_bytes(self) -> int:
        assert self._device is not None
        return dirty_bytes(self._device.statistics())

    async def _is_empty(self) -> bool:
        """Whether the disk reads as zeros from end to end."""
        assert self._device is not None
        return all(part.is_hole for part in await self._device.extents(0, self._device.size_bytes))
