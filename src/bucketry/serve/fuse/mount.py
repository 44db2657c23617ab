"""Mounting and unmounting: mount(2) for root, the setuid ``fusermount3`` for everybody else."""

import array
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bucketry.core.fuse.protocol import READ_AHEAD_BYTES, REQUEST_BYTES_MAX
from bucketry.errors import BucketryError, Busy, Invalid, NotFound, NotPermitted, Unsupported
from bucketry.serve.mounts import FUSE_TYPE, find_mount

#: fusermount3 waits for nothing but the kernel; an unmount writes out the pages of mappings first.
_HELPER_TIMEOUT_SECONDS = 60.0
_DEVICE = "/dev/fuse"
#: As many symbolic links as Linux itself follows.
_LINKS_MAX = 40

# mount(2), umount2(2)
_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """``source`` is what the mount table shows in its first column."""

    source: str
    read_only: bool
    allow_other: bool


def resolve(path: Path) -> Path:
    """``path`` absolute and without symbolic links, checked to be a directory on which nothing is mounted.
    Raises NotFound, Invalid, Busy, NotPermitted."""
    try:
        resolved = _follow(path)
        is_directory = stat.S_ISDIR(resolved.stat().st_mode)
    except FileNotFoundError as problem:
        raise NotFound(f"{path}: no such directory") from problem
    except OSError as problem:
        raise _error_at(path, problem.errno) from problem
    if not is_directory:
        raise Invalid(f"{path}: not a directory")
    return resolved


def _follow(path: Path) -> Path:
    """``path`` without symbolic links. The mount table is asked before the file system is: a look at a mount
    whose process has gone fails, and at one that this process serves never ends. Raises Busy, OSError."""
    following = path
    for _ in range(_LINKS_MAX):
        # Not normalised first: ".." behind a symbolic link is where the link leads.
        last = following.name if following.name != ".." else ""
        following = (following.parent if last else following).resolve(strict=True) / last
        if find_mount(str(following)) is not None:
            raise Busy(f"{path}: something is already mounted there")
        if not following.is_symlink():
            return following
        following = following.parent / following.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def is_dead(path: Path) -> bool:
    """Whether the process that served the mount at ``path`` has gone, or its connection was aborted. Blocks
    until it answers, if it has not."""
    try:
        path.lstat()
    except OSError as problem:
        return problem.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def mount(path: Path, options: MountOptions, *, helper: bool | None = None) -> int:
    """Mount a FUSE file system on ``path`` (as ``resolve`` returns it); the descriptor of its connection,
    non-blocking.

    ``helper``: whether by fusermount3; None is as the user's rights ask for. Raises Busy, NotPermitted,
    Invalid, NotFound, Unsupported.
    """
    if "\0" in options.source or "\n" in options.source:
        raise Invalid(f"{options.source!r} cannot be the source of a mount")
    if helper is None:
        helper = os.geteuid() != 0
    descriptor = _mount_by_helper(path, options) if helper else _mount_directly(path, options)
    os.set_blocking(descriptor, False)
    return descriptor


def set_read_ahead(device_number: str) -> None:
    """Let the kernel read further ahead in a file system that was mounted just now; only root may say so, and
    for others nothing changes. To be called before INIT is answered: the kernel looks then."""
    with suppress(OSError):
        Path(f"/sys/class/bdi/{device_number}/read_ahead_kb").write_text(str(READ_AHEAD_BYTES >> 10))


def unmount(path: Path, *, lazy: bool, helper: bool | None = None) -> None:
    """Take the topmost mount off ``path``. Blocks: the file system may be asked for more until it is done.
    Raises Busy while files are open, unless ``lazy``, which takes it out of sight now and ends it when they
    are closed."""
    if helper is None:
        helper = os.geteuid() != 0
    if helper:
        _run_helper(["-u", *(["-z"] if lazy else []), "--", str(path)], path)
    elif _libc.umount2(os.fsencode(path), (_MNT_DETACH if lazy else 0) | _UMOUNT_NOFOLLOW) != 0:
        if ctypes.get_errno() == errno.EBUSY:
            raise Busy(f"{path}: files on it are open")
        raise _error_at(path, ctypes.get_errno())


def _mount_directly(path: Path, options: MountOptions) -> int:
    try:
        descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as problem:
        raise NotPermitted(f"{_DEVICE}: {problem.strerror}") from problem
    except OSError as problem:
        raise Unsupported(f"{_DEVICE}: {problem.strerror}: this machine has no FUSE") from problem
    try:
        data = [
            f"fd={descriptor}",
            f"rootmode={stat.S_IFDIR:o}",
            f"user_id={os.geteuid()}",
            f"group_id={os.getegid()}",
            "default_permissions",
            f"max_read={REQUEST_BYTES_MAX}",
        ]
        if options.allow_other:
            data.append("allow_other")
        flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if options.read_only else 0)
        result = _libc.mount(
            os.fsencode(options.source),
            os.fsencode(path),
            FUSE_TYPE.encode(),
            ctypes.c_ulong(flags),
            ",".join(data).encode(),
        )
        if result != 0:
            raise _error_at(path, ctypes.get_errno())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


#: What the system calls say of a mount point; everything else means that it cannot be done here.
_ERRORS: dict[int | None, type[BucketryError]] = {
    errno.EBUSY: Busy,
    # A mount whose process has gone.
    errno.ENOTCONN: Busy,
    errno.EPERM: NotPermitted,
    errno.EACCES: NotPermitted,
    errno.ENOENT: NotFound,
    errno.ENOTDIR: Invalid,
    errno.EINVAL: Invalid,
    errno.ELOOP: Invalid,
    errno.ENAMETOOLONG: Invalid,
}


def _error_at(path: Path, number: int | None) -> BucketryError:
    return _ERRORS.get(number, Unsupported)(f"{path}: {os.strerror(number or 0)}")


def _mount_by_helper(path: Path, options: MountOptions) -> int:
    # fusermount3 splits at commas unless they are escaped.
    source = re.sub(r"([\\,])", r"\\\1", options.source)
    words = [
        "nosuid",
        "nodev",
        "default_permissions",
        f"max_read={REQUEST_BYTES_MAX}",
        f"subtype={FUSE_TYPE.partition('.')[2]}",
        f"fsname={source}",
        "ro" if options.read_only else "rw",
    ]
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            _run_helper(["-o", ",".join(words), "--", str(path)], path, theirs.fileno())
        return _receive_descriptor(ours, path)


def _receive_descriptor(sock: socket.socket, path: Path) -> int:
    """The descriptor that fusermount3 sends, beside one byte, before it exits."""
    item_bytes = array.array("i").itemsize
    _, ancillary, *_ = sock.recvmsg(1, socket.CMSG_SPACE(item_bytes), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", data[:item_bytes])[0]
    raise Unsupported(f"{path}: fusermount3 sent no descriptor")


def _run_helper(arguments: list[str], path: Path, descriptor: int | None = None) -> None:
    program = shutil.which("fusermount3")
    if program is None:
        raise Unsupported("fusermount3 is not installed (package fuse3); without it only root can mount")
    environment = dict(os.environ, LC_ALL="C")
    if descriptor is not None:
        environment["_FUSE_COMMFD"] = str(descriptor)
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            pass_fds=() if descriptor is None else (descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_HELPER_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise Busy(f"{path}: fusermount3 did not finish within {_HELPER_TIMEOUT_SECONDS:.0f} s") from problem
    if done.returncode != 0:
        message = " ".join(os.fsdecode(done.stderr).split()) or f"fusermount3 exited with {done.returncode}"
        raise _helper_error(message)(f"{path}: {message}")


def _helper_error(message: str) -> type[BucketryError]:
    """fusermount3 has one exit code and says the rest in words, here in English."""
    text = message.lower()
    if "busy" in text:
        return Busy
    if any(
        word in text for word in ("permission denied", "not permitted", "only allowed", "no write access")
    ):
        return NotPermitted
    return Unsupported
