"""Who we are to others that want a volume: our process, our machine, and its clocks."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from bucketry.core.lease import Holder
from bucketry.core.printable import printable

#: What a lease takes.
_HOST_NAME_MAX = 255


class Machine(Protocol):
    """A machine on which one process of ours runs."""

    def this_process(self, token: int) -> Holder:
        """Us, as the holder of a lease, with the mount token that we put beside it."""
        ...

    def has_ended(self, holder: Holder) -> bool:
        """Whether the holder was a process of this machine and is no more. False when it may live
        elsewhere."""
        ...

    def lives_here(self, holder: Holder) -> bool:
        """Whether the holder is a process of this machine, and alive. It may be stopped."""
        ...

    def now(self) -> float:
        """Elapsed time in seconds since any moment. It goes on while the machine sleeps."""
        ...

    def utc_now(self) -> datetime:
        """The time for people."""
        ...


class ThisMachine:
    """The machine that we run on."""

    def this_process(self, token: int) -> Holder:
        return this_process(token)

    def has_ended(self, holder: Holder) -> bool:
        return has_ended(holder)

    def lives_here(self, holder: Holder) -> bool:
        return lives_here(holder)

    def now(self) -> float:
        # The event loop's clock stands still while the machine is suspended: whoever wakes up would believe
        # that his lease has just been renewed, when somebody else has had it for hours.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def utc_now(self) -> datetime:
        return datetime.now(UTC)


def host_name() -> str:
    """The name of this machine as text that fits into a lease and into a line of s3backer's token, whatever
    its bytes and the locale are."""
    name = os.fsencode(os.uname().nodename).decode(errors="surrogateescape")
    return printable(name)[:_HOST_NAME_MAX]


def this_process(token: int) -> Holder:
    """Us, as a holder."""
    return Holder(
        host=host_name(),
        boot_id=_boot_id(),
        pid=os.getpid(),
        start_time=_start_time(os.getpid()) or 0,
        token=token,
    )


def has_ended(holder: Holder) -> bool:
    """Whether the holder was a process of this machine and is no more. False when it may live elsewhere."""
    return _is_ours(holder) and _start_time(holder.pid) != holder.start_time


def lives_here(holder: Holder) -> bool:
    """Whether the holder is a process of this machine, and alive."""
    return _is_ours(holder) and _start_time(holder.pid) == holder.start_time


def _is_ours(holder: Holder) -> bool:
    """Whether the holder's process is, or was, one that we can see."""
    return bool(holder.boot_id) and holder.boot_id == _boot_id() and holder.host == host_name()


def _boot_id() -> str:
    """What numbers processes here: this boot of this machine, and the name space of processes (a container
    has its own). Empty when it cannot be known."""
    try:
        return (
            Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            + " "
            + str(Path("/proc/self/ns/pid").readlink())
        )
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; None when there is none, or it is a
    zombie."""
    try:
        # The name of a program may be any bytes.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
