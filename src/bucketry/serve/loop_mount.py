"""A filesystem on a disk's file: made, mounted and unmounted through a loop device by the programs of
util-linux."""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bucketry.errors import BucketryError, Busy, Invalid, Mismatch, NotPermitted, Unsupported
from bucketry.serve.mounts import PROGRAM_ENVIRONMENT, find_mount, read_names
from bucketry.serve.notices import NOTICES

logger = logging.getLogger(__name__)
_notices = logging.getLogger(NOTICES)

#: How each filesystem is made on a disk that is known to read as zeros: nothing discarded, and for ext4 no
#: zeros written over the inode tables, which on a disk of 1 TiB would be 16 GiB of them.
MAKERS: Mapping[str, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4", "-q", "-E", "nodiscard,assume_storage_prezeroed=1"),
    "xfs": ("mkfs.xfs", "-q", "-K"),
    "btrfs": ("mkfs.btrfs", "-q", "-K"),
}
#: How each grows while it is mounted, to all of its device; by the device or by the mount point.
_GROWERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), ("resize2fs", "DEVICE")),
    "xfs": ("xfs_growfs", "MOUNT_POINT"),
    "btrfs": ("btrfs", "filesystem", "resize", "max", "MOUNT_POINT"),
}
#: How each is mounted read-only when its log would have to be replayed first. xfs, too, refuses a filesystem
#: that is mounted on this machine already, by its identity.
_WITHOUT_REPLAY: Mapping[str, tuple[str, ...]] = {
    "ext3": ("noload",),
    "ext4": ("noload",),
    "xfs": ("norecovery", "nouuid"),
    "btrfs": ("rescue=nologreplay",),
    "f2fs": ("norecovery",),
    "nilfs2": ("norecovery",),
}
#: The first Linux that has btrfs's rescue=nologreplay; before, it was called nologreplay.
_BTRFS_RESCUE = (5, 9)
#: Which package brings a program, in Debian's names.
_PACKAGES = {
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "resize2fs": "e2fsprogs",
    "xfs_growfs": "xfsprogs",
    "btrfs": "btrfs-progs",
    "mount": "mount",
    "umount": "mount",
    "losetup": "mount",
    "blkid": "util-linux",
    "sync": "coreutils",
}
#: udev may look at a loop device just when it is let go; it is through in far less.
_DETACH_ATTEMPTS = 50
_DETACH_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopMountSettings:
    """What to mount where."""

    mount_point: str
    #: Make a filesystem of this type when the disk has none.
    mkfs: str | None = None
    #: For mount(8)'s -o.
    options: str | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    output: str
    errors: str


async def run_program(*argv: str) -> _Ended:
    """Run a program to its end. Raises Unsupported when it is not installed. Cancelling kills it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=PROGRAM_ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        package = _PACKAGES.get(argv[0], argv[0])
        raise Unsupported(f"{argv[0]} is not installed: it comes with the package {package}") from error
    try:
        output, complaints = await process.communicate()
    except asyncio.CancelledError:
        if process.returncode is None:
            process.kill()
        raise
    assert process.returncode is not None
    text = " ".join(complaints.decode(errors="replace").split())
    logger.debug("%s: exit code %d %s", " ".join(argv), process.returncode, text)
    return _Ended(process.returncode, output.decode(errors="replace").strip(), text)


async def _run_well(*argv: str) -> None:
    ended = await run_program(*argv)
    if ended.code != 0:
        raise Unsupported(f"{argv[0]}: {ended.errors or f'ended with exit code {ended.code}'}")


async def find_signature(path: str) -> str | None:
    """What a file or device begins with, in blkid's words (``ext4``, ``LVM2_member``, ``dos`` for a partition
    table); None when blkid knows nothing in it. Raises Unsupported when it cannot tell."""
    ended = await run_program("blkid", "--probe", "--output", "export", path)
    if ended.code == 2:
        return None
    found = dict(line.partition("=")[::2] for line in ended.output.splitlines())
    signature = found.get("TYPE") or found.get("PTTYPE")
    if ended.code != 0 or signature is None:
        raise Unsupported(f"cannot tell what is on the disk: {ended.errors or 'blkid finds several things'}")
    return signature


def check_rights() -> None:
    """Raises NotPermitted unless this process may make loop devices and mount."""
    if os.geteuid() != 0:
        raise NotPermitted(
            "mounting a filesystem needs root; bucketry attach shows the disk as a file without it"
        )


class LoopMount:
    """The filesystem on the disk that ``image`` shows. Every step can be repeated: what is done is not done
    twice."""

    def __init__(self, image: Path, settings: LoopMountSettings) -> None:
        self._image = image
        self._settings = settings
        self._device: str | None = None
        #: What is mounted, in blkid's words.
        self.filesystem: str | None = None
        #: The filesystem's, ``MAJOR:MINOR``, as the mount table has it; None before it is mounted.
        self.device_number: str | None = None

    async def mount(self, *, is_empty: Callable[[], Awaitable[bool]]) -> None:
        """Mount it, after making a filesystem if that is asked for and the disk reads as zeros
        (``is_empty``).

        Raises Invalid when there is no filesystem and none is to be made, Mismatch when there is another than
        the one to make, Busy, Unsupported with what the programs say. Nothing is left behind then."""
        settings = self._settings
        filesystem = await find_signature(str(self._image))
        make = _what_to_make(filesystem, settings.mkfs)
        if make is not None and settings.read_only:
            raise Invalid("a filesystem cannot be made on a disk that is read-only")
        if make is not None and not await is_empty():
            raise Mismatch(
                f"there are data on the disk, though no filesystem that blkid knows: not made into {make}"
            )
        try:
            self._device = await self._set_up()
            if make is not None:
                await self._make(make, self._device)
            kind = make or filesystem
            assert kind is not None
            await self._mount(kind, self._device)
            self.filesystem = kind
            mounted = find_mount(settings.mount_point)
            self.device_number = None if mounted is None else mounted.device_number
            # In use, the device is not detached by this, but by its last user's end: also when the filesystem
            # is unmounted by other means, or this process is killed.
            await run_program("losetup", "--detach", self._device)
        except BaseException:
            await self._detach()
            raise

    @property
    def device_name(self) -> str | None:
        """The loop device, ``loop3``; None when there is none, or it was let go."""
        return None if self._device is None else Path(self._device).name

    def is_attached(self) -> bool:
        """Whether the loop device is there, and shows our image."""
        return self._device is not None and _is_backed_by(_backing(self._device), self._image)

    async def _mount(self, kind: str, device: str) -> None:
        """Raises Unsupported with what mount(8) says."""
        settings = self._settings
        options = [option for option in ("ro" if settings.read_only else "", settings.options) if option]
        without = _without_replay(kind, options) if settings.read_only else ()
        ended = await _run_mount(kind, options, device, settings.mount_point)
        if ended.code != 0 and without:
            first = ended
            ended = await _run_mount(kind, [*options, *without], device, settings.mount_point)
            if ended.code == 0:
                _notices.warning(
                    "the %s is in use elsewhere, or was not unmounted: mounted with %s, so that changes "
                    "which only its journal has are not seen",
                    kind,
                    ",".join(without),
                )
            else:
                ended = first
        if ended.code != 0:
            raise Unsupported(ended.errors or f"mount ended with exit code {ended.code}")

    async def sync(self) -> None:
        """Write what the kernel holds of this filesystem to the disk. Raises BucketryError when that
        failed."""
        if self.is_mounted():
            ended = await run_program("sync", "--file-system", self._settings.mount_point)
            if ended.code != 0:
                raise BucketryError(ended.errors)

    async def grow(self) -> None:
        """The image has become larger: make loop device and filesystem so. Raises Unsupported with what the
        programs say, when either cannot be; then doing it again is right."""
        assert self._device is not None, "it is mounted"
        await _run_well("losetup", "--set-capacity", self._device)
        if self._settings.read_only:
            return
        grower = _GROWERS.get(self.filesystem or "")
        if grower is None:
            raise Unsupported(f"{self.filesystem} has to be made larger by its own program")
        places = {"DEVICE": self._device, "MOUNT_POINT": self._settings.mount_point}
        await _run_well(*(places.get(word, word) for word in grower))

    async def unmount(self, *, lazily: bool = False) -> None:
        """Unmount the filesystem and let the loop device go. Raises Busy when somebody uses it, and has done
        nothing then; ``lazily`` takes it out of the directory tree all the same."""
        if self.is_mounted():
            ended = await run_program("umount", *(["--lazy"] if lazily else []), self._settings.mount_point)
            if ended.code != 0 and self.is_mounted():
                kind = Busy if "busy" in ended.errors else Unsupported
                raise kind(ended.errors)
        await self._detach(wait=not lazily)

    def is_mounted(self) -> bool:
        """Whether our filesystem, and not something mounted over it or in its place, is what the mount point
        shows."""
        mount = find_mount(self._settings.mount_point)
        return mount is not None and mount.source == self._device

    async def _set_up(self) -> str:
        """A new loop device on the image; its path."""
        read_only = ["--read-only"] if self._settings.read_only else []
        # Direct I/O: the filesystem's pages are cache enough, the loop device need not keep them a second
        # time.
        argv = ["losetup", "--find", "--show", *read_only]
        ended = await run_program(*argv, "--direct-io=on", str(self._image))
        if ended.code != 0:
            logger.warning("no direct I/O for the loop device: %s", ended.errors)
            ended = await run_program(*argv, str(self._image))
        if ended.code != 0:
            raise Unsupported(f"no loop device: {ended.errors}")
        return ended.output

    async def _make(self, filesystem: str, device: str) -> None:
        ended = await run_program(*MAKERS[filesystem], device)
        if ended.code != 0:
            raise Unsupported(f"{MAKERS[filesystem][0]} failed: {ended.errors}")

    async def _detach(self, *, wait: bool = True) -> None:
        """Let the loop device go, and wait until the kernel has: until then it holds the disk's file open.
        Without ``wait``, and when it is still in use then, it goes with its last user."""
        device = self._device
        if device is None:
            return
        backing = _backing(device)
        for _ in range(_DETACH_ATTEMPTS if wait else 1):
            if not _is_backed_by(backing, self._image):
                break
            await run_program("losetup", "--detach", device)
            if wait and _is_backed_by(backing, self._image):
                await asyncio.sleep(_DETACH_PAUSE_SECONDS)
        if _is_backed_by(backing, self._image):
            logger.warning("%s is still in use; it goes with its last user", device)
        else:
            self._device = None


def _backing(device: str) -> Path:
    return Path("/sys/block", Path(device).name, "loop/backing_file")


async def _run_mount(kind: str, options: Sequence[str], device: str, mount_point: str) -> _Ended:
    words = ["-o", ",".join(options)] if options else []
    return await run_program("mount", "-t", kind, *words, device, mount_point)


def _without_replay(kind: str, options: Sequence[str], release: str | None = None) -> Sequence[str]:
    """What mounts a filesystem of this kind without replaying its log, which a disk that is read-only cannot
    do, and beside another one of the same identity; what ``options`` have already is left out. Empty for
    kinds that need nothing. ``release`` is the kernel's."""
    wanted = _WITHOUT_REPLAY.get(kind, ())
    if kind == "btrfs" and _version(os.uname().release if release is None else release) < _BTRFS_RESCUE:
        wanted = ("nologreplay",)
    given = {option for text in options for option in text.split(",")}
    return [option for option in wanted if option not in given]


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def _is_backed_by(backing: Path, image: Path) -> bool:
    try:
        return read_names(backing).removesuffix("\n") == str(image)
    except FileNotFoundError:
        return False


def _what_to_make(found: str | None, asked: str | None) -> str | None:
    """The filesystem to make, or None to mount what is there. See LoopMount.mount for what it raises."""
    if found is not None:
        if asked is not None and asked != found:
            raise Mismatch(f"there is {found} on the disk already: not made into {asked}")
        return None
    if asked is None:
        raise Invalid("there is no filesystem on the disk; --mkfs ext4 makes one")
    return asked
