"""What is mounted where, as the kernel's table says, and taking dead mounts away."""

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bucketry.errors import Unsupported

#: How ``/proc/self/mountinfo`` writes blanks, tabs, line ends and backslashes.
_OCTAL = re.compile(r"\\([0-7]{3})")
#: The type under which our FUSE sessions stand in the mount table.
FUSE_TYPE = "fuse.bucketry"
#: Programs run with this environment only: fixed messages, and nothing of the caller's secrets.
PROGRAM_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table. ``device_number`` is the filesystem's own while it lives. ``peers`` is the
    group that mounts and unmounts below it are passed on to, ``masters`` the one they are received from; 0:
    none."""

    device_number: str
    mount_point: str
    filesystem: str
    source: str
    number: int = 0
    parent: int = 0
    peers: int = 0
    masters: int = 0


def parse_mounts(text: str) -> list[Mount]:
    """The lines of ``/proc/self/mountinfo``, in order; see proc(5)."""

    def plain(field: str) -> str:
        return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)

    mounts = []
    # Of all that ends a line elsewhere the kernel escapes the line feed only.
    for line in text.split("\n"):
        if not line:
            continue
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        groups = dict(field.partition(":")[::2] for field in left[6:])
        mounts.append(
            Mount(
                left[2],
                plain(left[4]),
                right[0],
                plain(right[1]),
                number=int(left[0]),
                parent=int(left[1]),
                peers=int(groups.get("shared", 0)),
                masters=int(groups.get("master", 0)),
            )
        )
    return mounts


def read_mounts(process: int | str = "self") -> list[Mount]:
    """The mount table that a process sees. Raises OSError when it has gone, or may not be looked at."""
    return parse_mounts(read_names(Path(f"/proc/{process}/mountinfo")))


def read_names(path: Path) -> str:
    """A file of the kernel's with paths in it, as Python has them: any bytes, and a carriage return is a part
    of a name."""
    return os.fsdecode(path.read_bytes())


def find_mount(mount_point: str) -> Mount | None:
    """What is mounted on exactly this absolute path without symbolic links; of several the uppermost."""
    return next((mount for mount in reversed(read_mounts()) if mount.mount_point == mount_point), None)


def find_cover(device_number: str, mount_point: str) -> Mount | None:
    """What is mounted over a filesystem on the same path, the uppermost; None when the filesystem is to be
    seen there, or is not there at all."""
    found = [mount for mount in read_mounts() if mount.mount_point == mount_point]
    if found and found[-1].device_number != device_number:
        return found[-1] if any(mount.device_number == device_number for mount in found) else None
    return None


def take_away(mount_point: str) -> None:
    """Unmount what is on ``mount_point`` at once, whoever still uses it. For mounts whose process has gone.
    Raises Unsupported with what the program says when that fails."""
    import subprocess  # rare, and commands that only look at the table should start quickly

    argv = (
        ["umount", "--lazy", mount_point] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", mount_point]
    )
    try:
        done = subprocess.run(
            argv, env=PROGRAM_ENVIRONMENT, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError as error:
        raise Unsupported(
            f"{argv[0]} is missing: install the package {'mount' if argv[0] == 'umount' else 'fuse3'}"
        ) from error
    # Two who clear up at once meet here: what is gone is gone.
    if done.returncode != 0 and find_mount(mount_point) is not None:
        raise Unsupported(f"cannot unmount {mount_point}: {' '.join(done.stderr.split())}")


#: umount2(2): does nothing but mark an idle mount, on the first call after the mount was last used.
_MNT_EXPIRE = 4


def is_busy(mount_point: str) -> bool:
    """Whether a mount has open files or working directories on it, found without unmounting it. Needs
    root."""
    os.stat(mount_point)  # noqa: PTH116 - a use: it clears the mark that an earlier question left
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mount_point), _MNT_EXPIRE) == 0:
        return False
    return ctypes.get_errno() == errno.EBUSY
