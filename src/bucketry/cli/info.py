"""``bucketry info`` and ``bucketry stats``: what a volume says of itself, and what a serving process has
counted."""

from collections.abc import Mapping
from pathlib import Path

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.figures import every_figure, screen
from bucketry.cli.options import (
    Connection,
    Volume,
    connection_options,
    refuse_url_options,
    stored_volume_options,
)
from bucketry.cli.output import say_all, say_json
from bucketry.cli.parameters import directory_argument, json_option, place_argument
from bucketry.cli.reports import lines, volume_report
from bucketry.cli.secrets import with_password
from bucketry.errors import BucketryError, Closed, NotFound, TakenOver
from bucketry.serve import event_loop
from bucketry.serve.control_client import ask
from bucketry.serve.runtime import State, files_of, find_state, real_mount_point
from bucketry.settings import Secret


@click.command(
    cls=Command,
    examples=["bucketry info s3://bucket/disk", "bucketry info /mnt/data --json"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.DENIED, exits.BUSY, exits.LOST],
)
@place_argument
@json_option
@stored_volume_options
@connection_options
def info(where: str | Path, as_json: bool, volume: Volume, connection: Connection) -> None:
    """Tell what the volume at URL is, or what is mounted on DIR.

    The size of s3backer's volumes is known by their first block; where that is all zeros, --size says it. An
    encrypted one may need its password then.
    """
    if isinstance(where, Path):
        refuse_url_options(where)
        report = _ask_process(where)
    else:
        report = _ask_bucket(where, volume, connection)
    _show(report, as_json)


@click.command(
    cls=Command,
    examples=["bucketry stats /mnt/data", "bucketry stats /mnt/data --json"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.LOST],
)
@directory_argument
@click.option("--all", "shows_all", is_flag=True, help="Every figure, by the name that it has in JSON.")
@json_option
def stats(directory: Path, shows_all: bool, as_json: bool) -> None:
    """Show what the process that serves DIR has done since it began: reads, writes, caches, requests.

    The most important on one screen; all of it with --all or --json.
    """
    answer = ask(files_of(find_serving(directory).mount_point).socket, "statistics")["statistics"]
    assert isinstance(answer, dict)
    if as_json:
        say_json(answer)
    else:
        say_all(every_figure(answer) if shows_all else screen(answer))


def _ask_bucket(url: str, volume: Volume, connection: Connection) -> Mapping[str, object]:
    def inspect(password: Secret | None) -> Mapping[str, object]:
        from bucketry.assemble import inspect_volume

        return volume_report(
            event_loop.run(inspect_volume(connection.settings(url), volume.settings(password)))
        )

    return with_password(volume, inspect)


def _ask_process(directory: Path) -> Mapping[str, object]:
    state = find_serving(directory)
    socket = files_of(state.mount_point).socket
    status = ask(socket, "status")
    report = {
        "mount_point": state.mount_point,
        "shows": "filesystem" if state.kind == "mount" else "disk",
        "state": status["state"],
        **_still_used(state, status),
        "dirty_bytes": status["dirty_bytes"],
        "pid": state.pid,
        "log": state.log,
    }
    try:
        report["volume"] = ask(socket, "info")["volume"]
    except BucketryError as error:
        # What the process knows by itself matters most just when the bucket cannot be asked.
        report["bucket_error"] = str(error)
    return report


def _still_used(state: State, status: Mapping[str, object]) -> Mapping[str, object]:
    """What there is to say when it was unmounted by other means than ours, and somebody still uses it."""
    # A process of an older version, which an upgrade has left running, does not say.
    if status.get("is_mounted", True):
        return {}
    held = "loop device still held" if state.kind == "mount" else "files on it still open"
    return {
        "state": f"unmounted, {held}",
        "used_by": ask(files_of(state.mount_point).socket, "users")["users"],
    }


def find_serving(directory: Path) -> State:
    """Who serves ``directory``. Raises NotFound, Closed."""
    state = find_state(real_mount_point(directory))
    if state is None:
        raise NotFound(f"nothing of bucketry is mounted on {directory}")
    if not state.alive and state.lost:
        raise TakenOver(f"{state.lost}; bucketry umount {directory} clears up after it")
    if not state.alive:
        raise Closed(
            f"the process that served {directory} has gone; bucketry umount {directory} clears up after it"
        )
    return state


def _show(report: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        say_json(report)
    else:
        say_all(lines(report))
