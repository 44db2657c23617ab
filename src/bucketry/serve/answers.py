"""What the control socket of a served disk answers."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from bucketry.disk.interface import Device
from bucketry.errors import BucketryError, Busy, Invalid, ReadOnly, TakenOver, Unsupported
from bucketry.serve.control_client import Answer
from bucketry.serve.fuse import FuseSession
from bucketry.serve.leaving import Leaving

logger = logging.getLogger(__name__)

#: What the volume says of itself, asked of the bucket at that moment: raises when the bucket cannot be
#: reached.
Describe = Callable[[], Awaitable[Mapping[str, object]]]


#: The numbers of the blocks that are damaged in the bucket; reads everything that is stored.
FindDamaged = Callable[[], Awaitable[Sequence[int]]]

#: Lines of an answer: it has a limit of a megabyte, and nobody reads more.
_LINES_MAX = 1000


class Served(Protocol):
    """The disk that is asked about. ``state`` is "starting", "serving", "stopping" (asked to by a signal),
    "draining" (not mounted any more); device, session and leaving are there from "serving" on."""

    state: str
    device: Device | None
    session: FuseSession | None
    leaving: Leaving | None

    def interrupt(self) -> None:
        """Give up starting."""
        ...

    async def wait_ended(self) -> None:
        """Return when the disk is closed. Raises what went wrong with that."""
        ...

    def statistics(self) -> Mapping[str, object]: ...


class Answers:
    """Carries out requests of the control socket."""

    def __init__(
        self, url: str, served: Served, file_path: str, describe: Describe, find_damaged: FindDamaged
    ) -> None:
        self._url = url
        self._find_damaged = find_damaged
        self._served = served
        self._file_path = file_path
        self._describe = describe

    async def answer(self, operation: str, request: Mapping[str, object]) -> Answer:
        """Carry out one request."""
        match operation:
            case "status":
                return await self._status()
            case "info":
                return {"volume": await self._describe()}
            case "stop":
                return await self._stop()
        device, session, leaving = self._served.device, self._served.session, self._served.leaving
        if device is None or session is None or leaving is None:
            raise Busy(f"{self._url} is only just being attached")
        match operation:
            case "statistics":
                return {"statistics": self._served.statistics()}
            case "users":
                found = await leaving.users()
                return {"users": [*found.elsewhere, *found.others]}
            case "flush":
                await leaving.flush()
                return {}
            case "refresh":
                await device.refresh()
                session.size_changed()
                # In a thread: the kernel waits for reads of its pages that are under way, which we have to
                # answer. What a mounted filesystem holds itself stays.
                await asyncio.to_thread(session.invalidate)
                return {}
            case "zero_damaged":
                return await self._zero_damaged(device, leaving)
            case "resize":
                size_bytes, force = request.get("size_bytes"), request.get("force") is True
                return await self._resize(device, session, leaving, size_bytes, force=force)
            case _:
                raise Invalid(f"no such operation: {operation[:40]!r}")

    async def _status(self) -> Answer:
        """``is_mounted`` is False when somebody unmounted it by other means, and it is still in use."""
        served = self._served
        is_mounted = True
        if served.leaving is not None and served.state == "serving":
            is_mounted = await served.leaving.is_mounted()
        return {
            "state": served.state,
            "is_mounted": is_mounted,
            "dirty_bytes": 0 if served.leaving is None else served.leaving.dirty_bytes(),
            "pid": os.getpid(),
        }

    async def _stop(self) -> Answer:
        served = self._served
        if served.leaving is None:
            served.interrupt()
        else:
            try:
                await served.leaving.stop(insist=False)
            except TakenOver:
                pass  # it ends by itself, and says more
        await served.wait_ended()
        return {}

    async def _zero_damaged(self, device: Device, leaving: Leaving) -> Answer:
        """Check everything that is stored, keep damaged objects aside and make zero what cannot be read of
        their blocks. ``zeroed`` and ``left`` are lines."""
        if device.read_only:
            raise ReadOnly("the disk is attached read-only")
        zeroed: list[str] = []
        left: list[str] = []
        for block in await self._find_damaged():
            try:
                kept = await device.zero_unreadable(block)
            except Unsupported as error:
                left.append(f"block {block}: {error}")
            else:
                if kept is not None:
                    logger.warning(
                        "block %d: what cannot be read of it is zero now; its object is %s", block, kept
                    )
                    zeroed.append(f"zeroed what cannot be read of block {block}; its object is now {kept}")
        await leaving.flush()
        return {
            "zeroed_count": len(zeroed),
            "left_count": len(left),
            "lines": [*left, *zeroed][:_LINES_MAX],
        }

    async def _resize(
        self, device: Device, session: FuseSession, leaving: Leaving, size_bytes: object, *, force: bool
    ) -> Answer:
        """Make disk, file and what is mounted from it larger. ``problem``: why the filesystem could not
        be."""
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
            raise Invalid("size_bytes is a whole number")
        if self._served.state != "serving":
            raise Busy(f"it is {self._served.state}")
        # Not cancelled when its client goes away: the kernel has to hear of what the bucket says already.
        growing = asyncio.create_task(
            self._grow(device, session, leaving, size_bytes, force=force), name="resize"
        )
        try:
            return await asyncio.shield(growing)
        except asyncio.CancelledError:
            growing.add_done_callback(_log_failure)
            raise

    async def _grow(
        self, device: Device, session: FuseSession, leaving: Leaving, size_bytes: int, *, force: bool
    ) -> Answer:
        before = device.size_bytes
        async with leaving.lock:
            await device.grow(size_bytes, force=force)
            session.size_changed()
            logger.info("%s has %d bytes now instead of %d", self._url, size_bytes, before)
            filesystem = problem = None
            # In a thread: the kernel asks us for it.
            await asyncio.to_thread(os.stat, self._file_path)
            if leaving.loop_mount is not None and leaving.loop_mount.is_mounted():
                filesystem = leaving.loop_mount.filesystem
                try:
                    await leaving.loop_mount.grow()
                except BucketryError as error:
                    logger.error("the filesystem could not be made larger: %s", error)
                    problem = str(error)
            return {
                "before_bytes": before,
                "after_bytes": size_bytes,
                "filesystem": filesystem,
                "problem": problem,
            }


def _log_failure(ended: asyncio.Task[Answer]) -> None:
    if not ended.cancelled() and (error := ended.exception()):
        logger.error("nobody waits for it any more, and it failed: %s", error)
