"""``bucketry journal``: what a journal on local disk holds, and what to do with one that is damaged or not
wanted any more."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.output import confirm_or_abort, say
from bucketry.cli.parameters import EXISTING_DIRECTORY
from bucketry.core.units import format_size
from bucketry.errors import BucketryError, NotFound

if TYPE_CHECKING:
    from bucketry.cache.journal import JournalReport


@click.command(
    cls=Command,
    examples=["bucketry journal /var/cache/disk", "bucketry journal /var/cache/disk --repair"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.BUSY],
)
@click.argument("cache_dir", metavar="CACHE_DIR", type=EXISTING_DIRECTORY)
@click.option(
    "--repair", is_flag=True, help="Cut a damaged journal at the damage; says first what that loses."
)
@click.option("--discard", is_flag=True, help="Remove the journal with all that is in it.")
@click.option("--force", is_flag=True, help="Do not ask.")
def journal(cache_dir: Path, repair: bool, discard: bool, force: bool) -> None:
    """Tell what the journal in CACHE_DIR holds.

    CACHE_DIR is what was given as --cache-dir. The next attach with it brings what the journal holds into the
    bucket; here it is only looked at, unless an option says otherwise.
    """
    if repair and discard:
        raise click.UsageError("--repair and --discard exclude each other")

    from bucketry.cache import journal as journals
    from bucketry.cache.journal_files import DirectoryFiles

    directory = cache_dir / "journal"
    if not directory.is_dir():
        raise NotFound(f"{cache_dir} has no journal")
    files = DirectoryFiles(directory)
    try:
        report = None
        try:
            report = journals.inspect(files)
        except BucketryError as error:
            if not discard:
                raise
            say(f"journal: {error}")
        if report is not None:
            _tell(report)
        elif not discard:
            raise NotFound(f"{cache_dir} has no journal")
        if repair and report is not None and report.damage:
            if not force:
                confirm_or_abort(f"Give up {format_size(report.lost_bytes)} of writes?")
            journals.repair(files)
            say("repaired: what comes before the damage can be replayed")
        elif discard:
            if not force:
                confirm_or_abort("Give up everything in this journal?")
            journals.discard(files)
            say("discarded")
        elif report is not None and report.damage:
            raise BucketryError("the journal is damaged: --repair cuts it at the damage")
    finally:
        files.close()


def _tell(report: "JournalReport") -> None:
    for identity in report.identities:
        say(f"of: {identity}")
    say(f"to be replayed: {format_size(report.data_bytes)} in {report.epoch_count} epochs")
    if report.torn_bytes:
        say(f"torn end, which nobody was promised: {format_size(report.torn_bytes)}")
    if report.damage:
        say(f"damage: {report.damage}")
        epochs = f"epochs {report.lost_first_epoch} to {report.lost_last_epoch}"
        say(f"lost by a repair: {format_size(report.lost_bytes)}, {epochs}")
