"""``bucketry journal``: what a journal on local disk holds, and what to do with one that was refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import Connection, Volume, connection_options, stored_volume_options
from bucketry.cli.output import confirm_or_abort, say, say_all, say_json
from bucketry.cli.parameters import EXISTING_DIRECTORY, json_option
from bucketry.cli.secrets import with_password
from bucketry.core.units import format_size
from bucketry.errors import AlreadyExists, BucketryError, NotFound
from bucketry.serve import event_loop

if TYPE_CHECKING:
    from bucketry.cache.journal_files import DirectoryFiles
    from bucketry.cache.left_journal import JournalReport
    from bucketry.settings import Secret


@click.command(
    cls=Command,
    examples=[
        "bucketry journal /var/cache/disk --list",
        "bucketry journal /var/cache/disk --replay s3://bucket/disk",
    ],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.BUSY, exits.UNFINISHED],
)
@click.argument("cache_dir", metavar="CACHE_DIR", type=EXISTING_DIRECTORY)
@click.option("--list", "as_list", is_flag=True, help="List its flushes: number, time, offset, length.")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what it holds to FILE, a sparse image of the disk with nothing else in it.",
)
@click.option(
    "--replay",
    metavar="URL",
    help="Bring what it holds into the volume at URL, even if somebody else has written there since.",
)
@click.option(
    "--repair", is_flag=True, help="Cut a damaged journal at the damage; says first what that loses."
)
@click.option("--discard", is_flag=True, help="Delete the journal with all that is in it.")
@click.option("--force", is_flag=True, help="Do not ask; overwrite FILE.")
@json_option
@stored_volume_options
@connection_options
def journal(
    cache_dir: Path,
    as_list: bool,
    export: Path | None,
    replay: str | None,
    repair: bool,
    discard: bool,
    force: bool,
    as_json: bool,
    volume: Volume,
    connection: Connection,
) -> None:
    """Show what the journal in CACHE_DIR holds.

    CACHE_DIR is what was given as --cache-dir. The next attach with it brings what the journal holds into the
    bucket. If it refuses the journal, --export saves it and --replay brings it in. Without an option nothing
    is changed.
    """
    if sum((as_list, export is not None, replay is not None, repair, discard)) > 1:
        raise click.UsageError("--list, --export, --replay, --repair and --discard exclude each other")
    if replay is not None:
        with _files(cache_dir) as files:
            _replayable(files)
        _replay(cache_dir, replay, volume, connection, force=force)
        return
    with _files(cache_dir) as files:
        if discard:
            _discard(files, force=force)
            return
        report = _report(files)
        if as_list:
            event_loop.run(_list(files, as_json=as_json))
        elif as_json:
            say_json(_fields(report))
        else:
            say_all(_lines(report))
        if export is not None:
            _export(files, report, export, force=force)
        elif repair and report.damage:
            _repair(files, report, force=force)
        elif report.damage:
            raise BucketryError("the journal is damaged: --repair cuts it at the damage")


@contextmanager
def _files(cache_dir: Path) -> Iterator["DirectoryFiles"]:
    from bucketry.cache.journal_files import DirectoryFiles

    directory = cache_dir / "journal"
    if not directory.is_dir():
        raise NotFound(f"{cache_dir} has no journal")
    files = DirectoryFiles(directory)
    try:
        yield files
    finally:
        files.close()


def _report(files: "DirectoryFiles") -> "JournalReport":
    from bucketry.cache import left_journal

    report = left_journal.inspect(files)
    if report is None:
        raise NotFound(f"there is no journal in {files.place}")
    return report


def _fields(report: "JournalReport") -> dict[str, object]:
    return {
        "volumes": [identity.url or identity.volume for identity in report.identities],
        "size_bytes": report.identities[-1].size_bytes,
        "flushes": report.epoch_count,
        "data_bytes": report.data_bytes,
        "torn_bytes": report.torn_bytes,
        "damage": report.damage or None,
        "lost_bytes": report.lost_bytes,
    }


def _lines(report: "JournalReport") -> Iterator[str]:
    for identity in report.identities[-1:]:
        yield f"volume: {identity}"
    yield f"to be replayed: {report.epoch_count} flushes, {format_size(report.data_bytes)}"
    if report.torn_bytes:
        yield f"cut off at the end: {format_size(report.torn_bytes)} of a flush that had not returned"
    if report.damage:
        yield f"damage: {report.damage}"
        epochs = f"flushes {report.lost_first_epoch} to {report.lost_last_epoch}"
        yield f"lost by a repair: {format_size(report.lost_bytes)}, {epochs}"


# -- looking -------------------------------------------------------------------------------------------------


async def _list(files: "DirectoryFiles", *, as_json: bool) -> None:
    from bucketry.cache.left_journal import left_epochs
    from bucketry.codec.offload import inline

    flushes = []
    for epoch in await left_epochs(files, inline):
        changes = [
            {"offset": change.offset, "length": change.length, "zero": change.place is None}
            async for change in epoch.places()
        ]
        if as_json:
            flushes.append({"number": epoch.number, "time": _time(epoch.time_ms), "changes": changes})
            continue
        say(f"flush {epoch.number}, {_time(epoch.time_ms) or 'time unknown'}, {len(changes)} changes")
        for change in changes:
            kind = "zeros" if change["zero"] else "bytes"
            say(f"  offset {change['offset']}: {change['length']} {kind}")
    if as_json:
        say_json({"flushes": flushes})


def _time(time_ms: int) -> str | None:
    from datetime import UTC, datetime

    if not time_ms:
        return None
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}Z"


# -- saving and replaying ------------------------------------------------------------------------------------


def _export(files: "DirectoryFiles", report: "JournalReport", target: Path, *, force: bool) -> None:
    if target.exists() and not force:
        raise AlreadyExists(f"{target} exists; --force overwrites it")
    from bucketry.cache.left_journal import left_epochs
    from bucketry.codec.offload import inline
    from bucketry.layout.interface import Write

    async def write() -> None:
        with target.open("wb") as image:
            image.truncate(report.identities[-1].size_bytes)
            for epoch in await left_epochs(files, inline):
                async for change in epoch.changes():
                    image.seek(change.extent.offset)
                    if isinstance(change, Write):
                        image.write(change.data)
                    else:
                        _write_zeros(image.write, change.extent.length)

    event_loop.run(write())
    say(f"wrote {report.epoch_count} flushes to {target}; what the journal does not have is a hole there")


#: Zeros are written so many at a time.
_ZEROS = bytes(1 << 20)


def _write_zeros(write: Callable[[bytes], object], length: int) -> None:
    while length:
        step = min(length, len(_ZEROS))
        write(_ZEROS[:step])
        length -= step


def _replayable(files: "DirectoryFiles") -> None:
    report = _report(files)
    say_all(_lines(report))
    if report.damage:
        raise BucketryError("the journal is damaged: --repair cuts it at the damage, then it can be replayed")


def _replay(cache_dir: Path, url: str, volume: Volume, connection: Connection, *, force: bool) -> None:
    from bucketry.assemble import open_disk
    from bucketry.settings import CacheSettings

    bucket = connection.settings(url)
    if not force:
        confirm_or_abort(f"Write this over what is in {url} now?")

    async def run(password: "Secret | None") -> None:
        settings = CacheSettings(cache_dir=cache_dir, cache_size_bytes=0, adopt_journal=True)
        async with open_disk(bucket, volume.settings(password), settings):
            pass  # it is in the bucket before the disk is open

    with_password(volume, lambda password: event_loop.run(run(password)))
    say(f"replayed: everything is in {url}")


# -- giving up -----------------------------------------------------------------------------------------------


def _repair(files: "DirectoryFiles", report: "JournalReport", *, force: bool) -> None:
    from bucketry.cache import left_journal

    if not force:
        confirm_or_abort(f"Give up {format_size(report.lost_bytes)} of writes?")
    left_journal.repair(files)
    say("repaired: what comes before the damage can be replayed")


def _discard(files: "DirectoryFiles", *, force: bool) -> None:
    from bucketry.cache import left_journal

    try:
        say_all(_lines(_report(files)))
    except NotFound:
        raise
    except BucketryError as error:
        say(f"journal: {error}")
    if not force:
        confirm_or_abort("Give up everything in this journal?")
    left_journal.discard(files)
    say("discarded")
