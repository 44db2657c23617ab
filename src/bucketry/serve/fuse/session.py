"""A disk served as a file in a directory: mounted, answered for, unmounted."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from bucketry.core.fuse import replies
from bucketry.disk.interface import Device
from bucketry.errors import Closed
from bucketry.serve.fuse import mount as mounting
from bucketry.serve.fuse.connection import Connection
from bucketry.serve.fuse.mount import MountOptions
from bucketry.serve.fuse.operations import Operations
from bucketry.serve.fuse.tree import FILE, Tree
from bucketry.serve.mounts import find_mount
from bucketry.serve.status import render_text
from bucketry.settings import FuseSettings


class FuseSession:
    """One device at one mount point, once: ``mount``, ``serve``, and ``unmount`` from another task or from
    outside."""

    def __init__(
        self,
        device: Device,
        mount_point: Path,
        settings: FuseSettings,
        *,
        statistics: Callable[[], Mapping[str, object]],
        helper: bool | None = None,
    ) -> None:
        """``statistics`` fills the statistics file. ``helper``: whether to mount by fusermount3; None is as
        the user's rights ask for. Raises Invalid for file names that cannot be."""

        def render() -> bytes:
            return render_text(statistics()).encode()

        self._device = device
        self._path = mount_point
        self._settings = settings
        self._helper = helper
        self._operations = Operations(device, Tree(device, settings, render), settings, render)
        self._connection: Connection | None = None
        self._device_number: str | None = None
        self._serving = False

    def mount(self) -> None:
        """Mount; from now on whoever looks there waits for ``serve``. Raises Busy (something is mounted there
        already), NotFound, Invalid (not a directory), Unsupported (no /dev/fuse, no fusermount3),
        NotPermitted."""
        if self._connection is not None:
            raise Closed(f"{self._path}: a session mounts once")
        self._path = mounting.resolve(self._path)
        options = MountOptions(self._settings.source, self._device.read_only, self._settings.allow_other)
        descriptor = mounting.mount(self._path, options, helper=self._helper)
        self._connection = Connection(descriptor, self._device, self._operations)
        mounted = find_mount(str(self._path))
        if mounted is not None:
            self._device_number = mounted.device_number
            mounting.set_read_ahead(mounted.device_number)

    async def serve(self) -> None:
        """Answer until it is unmounted, from outside or by ``unmount``; then wait for changes under way. The
        device is not flushed by this: whoever closes it does.

        Cancelled, it drops everything under way and closes the connection, whereupon the kernel fails what it
        still waits for; the dead mount stays until it is unmounted. Raises Unsupported for a kernel that is
        too old."""
        if self._connection is None or self._connection.ended:
            raise Closed(f"{self._path}: not mounted")
        self._serving = True
        await self._connection.serve()

    async def unmount(self, *, lazy: bool = False) -> None:
        """Unmount, if it still is mounted; ``serve`` then ends by itself. Raises Busy while files are open.
        ``lazy``: take it out of sight at once; ``serve`` goes on until the last file is closed."""
        if await asyncio.to_thread(self.is_mounted):
            # In a thread: the kernel may write out pages of a mapping first, to us.
            await asyncio.to_thread(mounting.unmount, self._path, lazy=lazy, helper=self._helper)
        if self._connection is not None and not self._serving:
            self._connection.close()

    def is_mounted(self) -> bool:
        """Whether what is on the mount point is ours. Somebody may have unmounted it and mounted something
        else, even with the same device number: then it lives, though our connection has ended. Blocks: to be
        called in a thread."""
        mount = find_mount(str(self._path))
        if mount is None or mount.device_number != self._device_number or self._connection is None:
            return False
        return not self._connection.ended or mounting.is_dead(self._path)

    @property
    def device_number(self) -> str | None:
        """The filesystem's, ``MAJOR:MINOR``, as the mount table has it; None before ``mount``."""
        return self._device_number

    @property
    def has_ended(self) -> bool:
        """The kernel has ended the conversation: the filesystem is mounted nowhere, and nobody uses it."""
        return self._connection is None or self._connection.ended

    @property
    def is_open(self) -> bool:
        """Whether anybody has the disk's file open."""
        return bool(self._operations.files)

    async def wait_closed(self) -> None:
        """Return when nobody has the disk's file open."""
        await self._operations.all_closed.wait()

    def invalidate(self) -> None:
        """Have the kernel forget the pages of the file that it holds."""
        if self._connection is not None:
            self._connection.notify(replies.invalidate(FILE))

    def size_changed(self) -> None:
        """The device has another size. Have the kernel ask for it: who looks at the file afterwards sees
        it."""
        if self._connection is not None:
            self._connection.set_size(self._device.size_bytes)
            self._connection.notify(replies.invalidate(FILE, content=False))

    def statistics(self) -> Mapping[str, object]:
        """As Bucket.statistics: requests by operation, errors, bytes, what waits and how long it waited."""
        if self._connection is None:
            return {}
        return self._connection.statistics()
