"""``bucketry umount``: everything into the bucket, and nothing left behind."""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.parameters import SECONDS_OR_ZERO, directory_argument
from bucketry.cli.progress import Update, progress
from bucketry.core.units import format_size
from bucketry.errors import BucketryError, Closed, NotFound, TakenOver, Unavailable, Unfinished
from bucketry.serve.control_client import ControlClient, ask
from bucketry.serve.mounts import FUSE_TYPE, find_mount, take_away
from bucketry.serve.runtime import State, files_of, find_state, real_mount_point

#: How often the figures of the progress bar are asked for.
_LOOK_SECONDS = 0.2
#: Between two attempts, for who gave a time.
_PAUSE_SECONDS = 1.0
#: A process that accepts no more requests has closed its disk: it ends in a moment.
_ENDING_SECONDS = 5.0


@click.command(
    cls=Command,
    examples=["bucketry umount /mnt/data", "bucketry umount /mnt/data --timeout 300"],
    exits=[
        exits.OK,
        exits.FAILED,
        exits.NOT_FOUND,
        exits.BUSY,
        exits.UNFINISHED,
        exits.LOST,
        exits.INTERRUPTED,
    ],
)
@directory_argument
@click.option(
    "--timeout", type=SECONDS_OR_ZERO, help="Try so long; without it, as long as the bucket is reachable."
)
def umount(directory: Path, timeout: float | None) -> None:
    """Unmount DIR and end the process that serves it.

    Returns 0 only when everything is in the bucket and the process has gone. When the bucket cannot be
    reached nothing is thrown away: the process goes on, holds the data and keeps trying, and a later umount
    succeeds.
    """
    mount_point = real_mount_point(directory)
    state = find_state(mount_point)
    if state is None:
        _take_away_orphan(mount_point)
        raise NotFound(f"nothing of bucketry is mounted on {directory}")
    if not state.alive:
        from bucketry.serve.cleanup import clean_up_after  # rare, and an umount should start quickly

        clean_up_after(state)
        if state.lost:
            raise TakenOver(f"{state.lost}; unmounted now")
        raise BucketryError(_gone(mount_point))
    _stop(state, None if timeout is None else time.monotonic() + timeout)


def _gone(mount_point: str) -> str:
    return f"the process that served {mount_point} had gone; unmounted; what it had not flushed is lost"


def _take_away_orphan(mount_point: str) -> None:
    """A dead mount that no state file speaks of any more."""
    mount = find_mount(mount_point)
    if mount is None or mount.filesystem != FUSE_TYPE:
        return
    try:
        os.stat(mount_point)  # noqa: PTH116 - only whether it answers
    except OSError:
        take_away(mount_point)
        raise BucketryError(_gone(mount_point)) from None


def _stop(state: State, deadline: float | None) -> None:
    """Ask the process to stop and see it go."""
    # From here on the process number cannot come to mean another process.
    process = os.pidfd_open(state.pid)
    try:
        if not state.alive:
            raise Closed(f"the process that served {state.mount_point} ended at this moment")
        try:
            with progress("to upload") as update:
                _wait_for_stop(state, deadline, update)
        except Closed as error:
            has_ended = bool(select.select([process], [], [], _ENDING_SECONDS)[0])
            if not has_ended or find_state(state.mount_point) is not None:
                raise BucketryError(f"{error}; its log is {state.log}") from error
            raise NotFound(
                f"nothing of bucketry is mounted on {state.mount_point} any more, its process ended at this "
                f"moment; its log is {state.log}"
            ) from error
        except TakenOver:
            from bucketry.serve.cleanup import clean_up_after

            select.select([process], [], [], _ENDING_SECONDS)
            clean_up_after(state)
            raise
        if not select.select([process], [], [], _left(deadline))[0]:
            raise Unfinished(f"everything is in the bucket, but process {state.pid} is still there")
    finally:
        os.close(process)


def _wait_for_stop(state: State, deadline: float | None, update: Update) -> None:
    """Ask until it has worked; who gave no time is told of the first failure."""
    socket = files_of(state.mount_point).socket
    most = 0
    reason: Unfinished | None = None

    def show() -> int:
        nonlocal most
        missing = _missing_bytes(socket)
        most = max(most, missing)
        update(most - missing, most)
        return missing

    while True:
        try:
            if _has_stopped(socket, deadline, show):
                return
        except Unfinished as error:
            if deadline is None:
                raise
            reason = error
        left = _left(deadline)
        if not left:
            why = reason or f"{format_size(show())} not yet in the bucket"
            raise Unfinished(
                f"{why}; the time is over, process {state.pid} goes on, and holds what is missing"
            )
        assert left is not None
        time.sleep(min(left, _PAUSE_SECONDS))


def _has_stopped(socket: Path, deadline: float | None, show: Callable[[], object]) -> bool:
    """Ask once. False: the time is over. Raises what the answer says."""
    client = ControlClient(socket, "stop")
    try:
        while True:
            left = _left(deadline)
            if client.poll(_LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)) is not None:
                return True
            if left == 0:
                return False
            show()
    finally:
        client.close()


def _missing_bytes(socket: Path) -> int:
    try:
        missing = ask(socket, "status")["dirty_bytes"]
    except (Closed, Unavailable):
        return 0  # it is going at this moment, or too busy to say; the answer to "stop" will tell
    assert isinstance(missing, int)
    return missing


def _left(deadline: float | None) -> float | None:
    """Seconds until ``deadline``, at least 0; None when there is none. Never 0 for select before it is
    over."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
