"""Who uses a mounted filesystem: processes with files on it, other mounts of it, swap files, loop devices.

The answer is for people who want to unmount it. It is taken from ``/proc`` and ``/sys`` and asks the
filesystem itself nothing, for that may be served by this very process, or not be answering at all. What this
user may not look into (other users' processes) is not found.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bucketry.serve.mounts import Mount, read_mounts, read_names

#: A line that names more is not read by anybody.
_NAMED_MAX = 5
#: A program's name in the kernel has 15 bytes; a file's name may be long.
_NAME_MAX = 40


@dataclass(frozen=True, slots=True)
class Users:
    """Who uses a filesystem, in words. ``elsewhere`` are mounts of it that stay when it is unmounted from its
    mount point; ``others`` end when their processes do."""

    elsewhere: Sequence[str] = ()
    others: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.elsewhere or self.others)

    def __str__(self) -> str:
        found = [*self.elsewhere, *self.others]
        if not found:
            return "something that this user cannot see (another user's process, or the kernel: NFS, swap)"
        more = len(found) - _NAMED_MAX
        return ", ".join(found[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def find_users(device_number: str, mount_point: str) -> Users:
    """Who uses the filesystem with this device number (``MAJOR:MINOR``, as the mount table has it), mounted
    on ``mount_point`` or there before. Looks through all processes: to be called in a thread."""
    search = _Search(device_number, mount_point)
    return Users(search.elsewhere(), [*search.below(), *search.processes(), *search.swap(), *search.loops()])


def find_elsewhere(device_number: str, mount_point: str) -> Sequence[str]:
    """Where else, in words, the filesystem is mounted, so that it would stay in use after it is unmounted
    from ``mount_point``: in this mount namespace, and in others."""
    return _Search(device_number, mount_point).elsewhere()


def users_of_loop(name: str) -> Users:
    """Who uses the loop device ``name`` (``loop3``), and the filesystem on it wherever it is mounted."""
    try:
        number = Path("/sys/block", name, "dev").read_text().strip()
    except OSError:
        return Users()
    search = _Search(number, "", source=f"/dev/{name}")
    return Users(search.elsewhere(), [*search.processes(), *_holders(name)])


@dataclass(slots=True)
class _Namespace:
    """A mount namespace, the first process found in it, and its mounts of the filesystem by their numbers."""

    name: str
    pids: list[int] = field(default_factory=list)
    table: Sequence[Mount] = ()
    mounts: Mapping[int, Mount] = field(default_factory=dict)


class _Search:
    """One look through the machine."""

    def __init__(self, device_number: str, mount_point: str, *, source: str | None = None) -> None:
        """``source``: what the mount table calls the device; btrfs has device numbers of its own."""
        self._number = device_number
        self._source = source
        self._mount_point = mount_point
        self._own = _read_link("/proc/self/ns/mnt") or ""
        self._namespaces: dict[str, _Namespace] = {}
        for pid in _pids():
            name = _read_link(f"/proc/{pid}/ns/mnt")
            if name is not None:
                self._namespaces.setdefault(name, _Namespace(name)).pids.append(pid)
        for namespace in self._namespaces.values():
            self._look_into(namespace)

    def _look_into(self, namespace: _Namespace) -> None:
        for pid in namespace.pids:
            try:
                namespace.table = read_mounts(pid)
            except OSError:
                continue  # it ended meanwhile: the next one of the same namespace
            namespace.mounts = {mount.number: mount for mount in namespace.table if self._is_it(mount)}
            return

    def _is_it(self, mount: Mount) -> bool:
        return mount.device_number == self._number or (
            self._source is not None and mount.source == self._source
        )

    # Mounts.

    def elsewhere(self) -> list[str]:
        own = self._namespaces.get(self._own)
        ours = None if own is None else self._main(own)
        found = []
        for namespace in self._namespaces.values():
            for mount in namespace.mounts.values():
                if mount is ours or (
                    ours is not None and own is not None and _follows(own, ours, namespace, mount)
                ):
                    continue
                if namespace is own:
                    found.append(self._in_words(mount, ours))
                else:
                    who = _and_more([_program(pid) for pid in namespace.pids])
                    found.append(
                        f"mounted on {printable(mount.mount_point)} in another mount namespace "
                        f"({namespace.name}: {who})"
                    )
        return found

    def _main(self, own: _Namespace) -> Mount | None:
        """The mount that is to go."""
        at = [mount for mount in own.mounts.values() if mount.mount_point == self._mount_point]
        return at[-1] if at else None

    def _in_words(self, mount: Mount, ours: Mount | None) -> str:
        if ours is not None and mount.mount_point == self._mount_point:
            return f"mounted on {printable(mount.mount_point)} twice"
        return f"also mounted on {printable(mount.mount_point)}"

    def below(self) -> list[str]:
        """What is mounted on directories of the filesystem, or over it."""
        own = self._namespaces.get(self._own)
        ours = None if own is None else self._main(own)
        if own is None or ours is None:
            return []
        return [
            f"{mount.filesystem} is mounted on {printable(mount.mount_point)}"
            for mount in own.table
            if mount.parent == ours.number
        ]

    # Processes.

    def processes(self) -> list[str]:
        found = []
        for namespace in self._namespaces.values():
            for pid in namespace.pids:
                uses = _and_more(list(dict.fromkeys(self._uses(pid, namespace.mounts))))
                if uses:
                    found.append(f"{_program(pid)} ({uses})")
        return found

    def _uses(self, pid: int, mounts: Mapping[int, Mount]) -> Iterator[str]:
        for name, meaning in (("cwd", "working directory"), ("root", "root directory"), ("exe", "program")):
            if self._leads_there(f"/proc/{pid}/{name}", mounts):
                yield meaning
        for descriptor in _names(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{descriptor}"
            if self._leads_there(path, mounts):
                yield f"has {printable(_read_link(path) or 'a file')} open"
        yield from self._mapped(pid)

    def _leads_there(self, path: str, mounts: Mapping[int, Mount]) -> bool:
        place = _where(path)
        if place is None:
            return False
        return place.device_number == self._number or place.mount_number in mounts

    def _mapped(self, pid: int) -> Iterator[str]:
        """Files that are mapped into memory, and perhaps not open any more."""
        major, _, minor = self._number.partition(":")
        wanted = f"{int(major):02x}:{int(minor):02x}"
        try:
            with Path(f"/proc/{pid}/maps").open(errors="surrogateescape") as lines:
                for line in lines:
                    words = line.split(maxsplit=5)
                    if len(words) == 6 and words[3] == wanted:
                        yield f"has {printable(words[5].rstrip())} mapped"
        except OSError:
            return

    # The kernel itself.

    def swap(self) -> list[str]:
        try:
            lines = read_names(Path("/proc/swaps")).split("\n")[1:]
        except OSError:
            return []
        names = [line.split()[0].replace("\\040", " ") for line in lines if line.strip()]
        return [
            f"{printable(name)} is swap space" for name in names if name.startswith(self._mount_point + "/")
        ]

    def loops(self) -> list[str]:
        """Loop devices on files of the filesystem, and who uses those."""
        found = []
        for name, image in _loop_images():
            if self._mount_point and image.startswith(self._mount_point + "/"):
                users = users_of_loop(name)
                found.append(f"/dev/{name} is set up on {printable(image)}" + (f": {users}" if users else ""))
        return found


def loop_devices_on(directory: str) -> list[str]:
    """The loop devices whose file lies in ``directory``, from sysfs: the file itself may not answer any
    more."""
    return [f"/dev/{name}" for name, image in _loop_images() if image.startswith(directory + "/")]


def printable(text: str) -> str:
    """A name from outside, for a line on a terminal: nothing in it moves the cursor, and it ends."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _NAME_MAX else f"…{shown[1 - _NAME_MAX :]}"


def _loop_images() -> Iterator[tuple[str, str]]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            image = read_names(backing).removesuffix("\n")
        except OSError:
            continue  # it went away while we looked
        yield backing.parent.parent.name, image


def _holders(name: str) -> list[str]:
    """Devices that are made of a loop device: partitions that are mounted aside, LVM, LUKS, RAID."""
    return [f"/dev/{holder} is made of it" for holder in _names(f"/sys/block/{name}/holders")]


def _follows(own: _Namespace, ours: Mount, namespace: _Namespace, mount: Mount) -> bool:
    """Whether unmounting ``ours`` unmounts the other one, too: the mount that it is on passes that on."""
    above = {each.number: each for each in own.table}.get(ours.parent)
    above_it = {each.number: each for each in namespace.table}.get(mount.parent)
    if above is None or above_it is None or not above.peers:
        return False
    return above.peers in (above_it.peers, above_it.masters)


def _pids() -> list[int]:
    return [int(name) for name in _names("/proc") if name.isdecimal()]


def _names(directory: str) -> list[str]:
    """What is in a directory of the kernel's; nothing when it has gone, or may not be looked at."""
    try:
        return os.listdir(directory)  # noqa: PTH208 - names, many thousands of them, and no paths
    except OSError:
        return []


def _program(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        name = "a process"
    return f"{printable(name)}, pid {pid}"


def _and_more(words: Sequence[str]) -> str:
    more = len(words) - _NAMED_MAX
    return "; ".join(words[:_NAMED_MAX]) + (f"; {more} more" if more > 0 else "")


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - some of them are no paths
    except OSError:
        return None


# statx(2): what a descriptor of a process is on, without asking its filesystem.

_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
#: In struct statx: stx_mode, stx_rdev_major (and _minor), stx_dev_major (and _minor), stx_mnt_id.
_MODE_OFFSET = 28
_RDEV_OFFSET = 128
_DEV_OFFSET = 136
_MOUNT_OFFSET = 144
_STATX_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Whereabouts:
    """``device_number`` is that of the filesystem, or of the device that a device node is."""

    device_number: str
    mount_number: int


def _where(path: str) -> _Whereabouts | None:
    """None when it cannot be told. Asked for nothing, and told not to look for changes, a FUSE filesystem
    answers from what the kernel has."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    # musl has had it since 1.2.4.
    if (
        not hasattr(_libc, "statx")
        or _libc.statx(_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, 0, buffer) != 0
    ):
        return None

    def word(offset: int, length: int = 4) -> int:
        return int.from_bytes(buffer.raw[offset : offset + length], sys.byteorder)

    at = _RDEV_OFFSET if stat.S_ISBLK(word(_MODE_OFFSET, 2)) else _DEV_OFFSET
    return _Whereabouts(f"{word(at)}:{word(at + 4)}", word(_MOUNT_OFFSET, 8))
