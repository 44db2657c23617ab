"""Which disks this machine serves: one small file for each in the runtime directory, named after its mount
point.

The serving process holds a lock on its file as long as it lives, so two processes never serve one mount
point, and a file without a living process is recognised as stale whatever became of its process number."""

import fcntl
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bucketry.errors import Busy, Invalid, NotFound, NotPermitted
from bucketry.serve.mounts import find_mount

#: 64 bits: mount points on one machine do not collide, and paths of sockets stay short (at most 107 bytes).
_NAME_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Who serves a mount point."""

    pid: int
    #: Field 22 of /proc/PID/stat: together with ``pid`` it names one process for ever.
    start_time: int
    url: str
    mount_point: str
    #: "attach": the mount point shows the disk as a file. "mount": it shows the filesystem on the disk.
    kind: str
    #: Where the disk is a file: the mount point itself, or a private directory.
    disk_directory: str
    log: str
    #: Why the process ended though the disk is mounted still, when somebody else took the volume over; what
    #: it said.
    lost: str = ""

    @property
    def alive(self) -> bool:
        return process_start_time(self.pid) == self.start_time


def runtime_directory() -> Path:
    """The directory for state files, control sockets, logs and private mounts; made when it is not there.

    ``$BUCKETRY_RUNTIME_DIR``, else ``/run/bucketry`` for root, else ``$XDG_RUNTIME_DIR/bucketry``, else a
    directory of the user's own in ``/tmp``. Raises NotPermitted when others may enter it, or it is somebody
    else's."""
    user = os.geteuid()
    if given := os.environ.get("BUCKETRY_RUNTIME_DIR"):
        directory = Path(given).absolute()
    elif user == 0:
        directory = Path("/run/bucketry")
    elif given := os.environ.get("XDG_RUNTIME_DIR"):
        directory = Path(given) / "bucketry"
    else:
        directory = Path(f"/tmp/bucketry-{user}")  # noqa: S108 - checked below to be the user's own
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        raise NotPermitted(
            f"{directory} is not a directory of this user's own; set BUCKETRY_RUNTIME_DIR to one that is"
        )
    if found.st_mode & 0o077:
        raise NotPermitted(
            f"{directory} has mode {found.st_mode & 0o777:04o}, so others may enter it and control the disks "
            f"served from it; run: chmod 700 {directory}"
        )
    return directory


def process_start_time(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot; None when there is none, or only a zombie."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses and may contain anything: count from its end.
    fields = line.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def real_mount_point(directory: Path) -> str:
    """The path under which the kernel lists a mount on ``directory``. Works for dead mounts, which cannot be
    stat'ed."""
    return os.path.realpath(directory)


@dataclass(frozen=True, slots=True)
class Files:
    """Where things of one mount point lie."""

    state: Path
    socket: Path
    log: Path
    disk_directory: Path


def files_of(mount_point: str) -> Files:
    """The files for a mount point as ``real_mount_point`` gives it."""
    name = hashlib.sha256(os.fsencode(mount_point)).hexdigest()[:_NAME_DIGITS]
    directory = runtime_directory()
    return Files(
        directory / f"{name}.json",
        directory / f"{name}.sock",
        directory / f"{name}.log",
        directory / f"{name}.disk",
    )


def find_state(mount_point: str) -> State | None:
    """Who serves, or served before it died, ``mount_point``; None when nobody."""
    try:
        text = files_of(mount_point).state.read_text()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        # A process of another version may say more: what it says besides is passed over.
        known = {field.name for field in fields(State)}
        state = State(**{name: value for name, value in found.items() if name in known})
    except (ValueError, TypeError, AttributeError):
        return None  # empty: being written at this moment
    return state if state.mount_point == mount_point else None


class Claim:
    """The right to serve a mount point. It survives fork: the child that inherits it holds it too."""

    def __init__(self, files: Files, descriptor: int) -> None:
        self.files = files
        self._descriptor = descriptor
        self._is_kept = False

    def write(self, state: State) -> None:
        """Say who serves. Readers see the whole of it or nothing."""
        text = json.dumps(asdict(state)).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def keep(self, state: State) -> None:
        """What is mounted stays there when this process ends, and its state file says why: ``forget`` leaves
        it."""
        self.write(state)
        self._is_kept = True

    def forget(self) -> None:
        """Give the mount point free: its files go, except the log."""
        if self._is_kept:
            self.close()
            return
        self.files.socket.unlink(missing_ok=True)
        try:
            self.files.disk_directory.rmdir()
        except OSError:
            pass  # not there, or something is still mounted on it: a later claim tries again
        self.files.state.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it in this process only."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def claim(mount_point: str) -> Claim:
    """Reserve ``mount_point`` for this process. Raises Busy when it is served, or anything is mounted
    there."""
    files = files_of(mount_point)
    while True:
        descriptor = os.open(files.state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Busy(_in_use(mount_point)) from error
        # Between open and lock the owner may have removed the file: then the lock is on nothing.
        if _is_same_file(descriptor, files.state):
            break
        os.close(descriptor)
    left_over = find_state(mount_point)
    try:
        if left_over is not None and (find_mount(mount_point) or find_mount(left_over.disk_directory)):
            raise Busy(
                f"{mount_point} still holds the mount of a process that has gone; bucketry umount clears it"
            )
        if find_mount(mount_point):
            raise Busy(f"{mount_point} is a mount point already")
    except Busy:
        if left_over is None:
            files.state.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return Claim(files, descriptor)


def _in_use(mount_point: str) -> str:
    state = find_state(mount_point)
    if state is None:
        return f"{mount_point} is in use by another bucketry process"
    return (
        f"{mount_point} is in use by process {state.pid}, which serves {state.url} there; "
        f"bucketry umount {mount_point} ends it"
    )


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def check_mount_point(directory: Path) -> str:
    """The real path of a directory that something is to be mounted on. Raises NotFound or Invalid when it is
    none, Busy when it holds a dead mount."""
    try:
        found = directory.stat()
    except FileNotFoundError as error:
        raise NotFound(f"directory {directory} does not exist") from error
    except OSError as error:
        if find_mount(real_mount_point(directory)):
            raise Busy(f"{directory} holds a dead mount; bucketry umount {directory} clears it") from error
        raise
    if not stat.S_ISDIR(found.st_mode):
        raise Invalid(f"{directory} is not a directory")
    return real_mount_point(directory)
