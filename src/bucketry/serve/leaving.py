"""Taking a served disk off the machine, in one order, whoever asks for it.

The filesystem on the loop device, the loop device, a flush, the FUSE directory. Each step may be refused or
fail, and then nothing after it happens and nothing before it need be undone: the disk stays attached, holds
its data, and the next attempt goes on from there."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from bucketry.core.units import format_size
from bucketry.disk.interface import Device
from bucketry.errors import BucketryError, Busy, Closed, Corrupt, Fenced, TakenOver, Unfinished
from bucketry.serve.figures import dirty_bytes
from bucketry.serve.fuse import FuseSession
from bucketry.serve.loop_mount import LoopMount
from bucketry.serve.mounts import find_cover, is_busy, take_away
from bucketry.serve.patient import PatientDevice
from bucketry.serve.users import Users, find_elsewhere, find_users, users_of_loop

logger = logging.getLogger(__name__)

#: Raises when the bucket cannot be reached at that moment.
Probe = Callable[[], Awaitable[None]]

#: How soon a bucket that went away is noticed by who waits for a filesystem to be written.
_LOOK_SECONDS = 0.5
#: A lease that could not be renewed for a while is tried again every ten seconds; so long a flush waits for
#: that, when the bucket can be reached.
_RENEWAL_SECONDS = 15.0
#: So long programs that make a mount namespace take to let go of what they do not want in it.
_SECOND_LOOK_SECONDS = 1.0
#: The kernel ends the conversation before umount2(2) returns, unless somebody still uses the filesystem.
_END_SECONDS = 1.0


class Leaving:
    """The way out of one disk that is mounted. ``serving`` is the session's task; ``loop_mount`` and
    ``patient`` are there for a mounted filesystem, ``mount_point`` is where people look for the disk."""

    def __init__(
        self,
        mount_point: str,
        directory: Path,
        device: Device,
        session: FuseSession,
        serving: asyncio.Task[None],
        probe: Probe,
        *,
        loop_mount: LoopMount | None = None,
        patient: PatientDevice | None = None,
    ) -> None:
        self._mount_point = mount_point
        self._directory = directory
        self._device = device
        self._session = session
        self._serving = serving
        self._probe = probe
        self.loop_mount = loop_mount
        self._patient = patient
        #: One attempt to stop at a time: two would unmount under each other.
        self.lock = asyncio.Lock()
        #: The filesystem failed by itself: there is no more to save than what it wrote.
        self.filesystem_error: BucketryError | None = None

    async def stop(self, *, insist: bool) -> None:
        """Unmount everything; the session ends by that. Raises Busy, saying who uses it (nothing was done)
        unless ``insist``, Unfinished when not everything is in the bucket: it stays attached; TakenOver when
        nothing can be brought there any more."""
        async with self.lock:
            if self._session.has_ended:
                await self.flush()
                return
            if self.loop_mount is not None:
                await self._stop_filesystem(self.loop_mount, insist)
            elif not insist:
                self._refuse_if_covered(self._session.device_number)
                await self._refuse_if_elsewhere(self._session.device_number)
            await self._bring_into_bucket(insist)
            await self._leave_directory(insist)

    async def end_unused(self) -> None:
        """The filesystem is not in use any more, nor is its loop device: take away the directory below
        it. Raises Busy when somebody looks into that just now."""
        async with self.lock:
            if not self._session.has_ended:
                await self._session.unmount()

    async def _bring_into_bucket(self, insist: bool) -> None:
        if self._device.read_only:
            return  # it has nothing to bring, and need not reach the bucket for that
        if not insist or self.dirty_bytes():
            await self._flush_or_notice()
        else:
            await self.flush()

    async def _stop_filesystem(self, loop_mount: LoopMount, insist: bool) -> None:
        """Bring the filesystem into the bucket while it is still mounted, then unmount it: whatever fails,
        fails while it can still be used. (A filesystem whose last writes fail during unmount loses them with
        its pages.)"""
        if not insist and loop_mount.is_attached():
            self._refuse_if_covered(loop_mount.device_number)
        if loop_mount.is_mounted():
            if not insist:
                await self._refuse_if_elsewhere(loop_mount.device_number)
                if await asyncio.to_thread(is_busy, self._mount_point):
                    raise await self._busy(loop_mount.device_number, self._mount_point)
            if not self._device.read_only and (not insist or self.dirty_bytes()):
                await self._check_bucket()
            await self._sync_filesystem(loop_mount, insist)
            await self.flush()
        try:
            await loop_mount.unmount()
        except Busy:
            if not insist:
                raise await self._busy(loop_mount.device_number, self._mount_point) from None
            logger.warning("%s is in use; unmounted all the same", self._mount_point)
            await loop_mount.unmount(lazily=True)
        if not insist and loop_mount.is_attached():
            raise Busy(
                f"{self._mount_point} is unmounted, but its loop device is still held: "
                f"{await self.users()}; it ends with them"
            )

    async def users(self) -> Users:
        """Who uses the disk, wherever it is or was mounted."""
        if self.loop_mount is not None:
            name = self.loop_mount.device_name
            if name is not None and not self.loop_mount.is_mounted():
                return await asyncio.to_thread(users_of_loop, name)
            number = self.loop_mount.device_number
        else:
            number = self._session.device_number
        if number is None:
            return Users()
        return await asyncio.to_thread(find_users, number, self._mount_point)

    async def is_mounted(self) -> bool:
        """Whether people find the disk, or its filesystem, on the mount point."""
        if self.loop_mount is not None:
            return self.loop_mount.is_mounted()
        return await asyncio.to_thread(self._session.is_mounted)

    def _refuse_if_covered(self, device_number: str | None) -> None:
        """Raises Busy when what is to be unmounted lies under another mount."""
        cover = None if device_number is None else find_cover(device_number, self._mount_point)
        if cover is not None:
            raise Busy(
                f"{self._mount_point} is in use: {cover.filesystem} is mounted over it; unmount that first"
            )

    async def _refuse_if_elsewhere(self, device_number: str | None) -> None:
        """Raises Busy when somebody would go on using what we unmount here."""
        if device_number is None:
            return
        elsewhere = await asyncio.to_thread(find_elsewhere, device_number, self._mount_point)
        if elsewhere:
            # A container that is just being made has all mounts for a moment.
            await asyncio.sleep(_SECOND_LOOK_SECONDS)
            elsewhere = await asyncio.to_thread(find_elsewhere, device_number, self._mount_point)
        if elsewhere:
            raise Busy(f"{self._mount_point} is in use: {Users(elsewhere)}")

    async def _busy(self, device_number: str | None, mount_point: str) -> Busy:
        users = Users()
        if device_number is not None:
            users = await asyncio.to_thread(find_users, device_number, mount_point)
        return Busy(f"{self._mount_point} is in use, files on it are open: {users}")

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
            logger.error("the filesystem on %s has failed: %s", self._mount_point, error)
            self.filesystem_error = BucketryError(
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
        flushing = asyncio.create_task(self.flush(), name="flush")
        try:
            await self._check_bucket()
            await flushing
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)

    async def flush(self) -> None:
        """Bring everything into the bucket. Raises Unfinished when that cannot be done now, TakenOver when
        it never can."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _RENEWAL_SECONDS
        while True:
            try:
                await self._device.flush()
            except TakenOver:
                raise
            except Closed:
                return  # it has been closed in order meanwhile, and how that ended is told by who did
            except Fenced as error:
                if loop.time() >= until:
                    raise self._unfinished(error) from error
                await asyncio.sleep(_LOOK_SECONDS)
            except Corrupt as error:
                raise Unfinished(
                    f"{self._unfinished(error)}. To go on without what cannot be read, run: "
                    f"bucketry check --repair --zero-damaged {self._mount_point}"
                ) from error
            except BucketryError as error:
                raise self._unfinished(error) from error
            else:
                return

    def _unfinished(self, error: BucketryError) -> Unfinished:
        missing = self.dirty_bytes()
        if missing:
            return Unfinished(f"{format_size(missing)} not yet in the bucket, kept in memory: {error}")
        if self.loop_mount is not None and self.loop_mount.is_mounted():
            return Unfinished(
                f"what the filesystem on {self._mount_point} holds is not yet in the bucket, and it stays "
                f"mounted: {error}"
            )
        return Unfinished(
            f"everything written is in the bucket, but the volume cannot be given back there yet: {error}"
        )

    async def _leave_directory(self, insist: bool) -> None:
        try:
            await self._session.unmount()
        except Busy:
            if not insist:
                raise await self._busy(self._session.device_number, str(self._directory)) from None
        # With changes under way its task goes on, but the conversation has ended.
        await asyncio.wait((self._serving,), timeout=_END_SECONDS)
        if self._session.has_ended:
            return
        if not insist:
            # Unmounted lazily, by somebody else: it lives as long as it is used.
            raise await self._busy(self._session.device_number, str(self._directory))
        logger.warning("%s is in use; unmounted all the same", self._directory)
        await self.leave_by_force()

    async def leave_by_force(self) -> None:
        """Unmount whoever uses it. Requests that come later fail; those that were answered are safe in the
        cache."""
        if self.loop_mount is not None:
            await self.loop_mount.unmount(lazily=True)
        if await asyncio.to_thread(self._session.is_mounted):
            await asyncio.to_thread(take_away, str(self._directory))
        await self.abort()

    async def abort(self) -> None:
        """End the conversation with the kernel; what is mounted stays, and every use of it fails."""
        self._serving.cancel()
        await asyncio.wait((self._serving,))

    def dirty_bytes(self) -> int:
        """How much was written to the disk and is not in the bucket."""
        return dirty_bytes(self._device.statistics())
