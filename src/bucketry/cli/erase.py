"""``bucketry erase``: a volume, and every object of it, gone."""

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import (
    Connection,
    Volume,
    connection_options,
    old_host_is_dead_option,
    stored_volume_options,
)
from bucketry.cli.output import confirm, say
from bucketry.cli.parameters import url_argument
from bucketry.cli.progress import progress
from bucketry.cli.reports import summary, volume_report
from bucketry.cli.secrets import given_password
from bucketry.errors import BucketryError
from bucketry.serve import event_loop
from bucketry.settings import BucketSettings, VolumeSettings


@click.command(
    cls=Command,
    examples=["bucketry erase s3://bucket/disk"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.DENIED, exits.BUSY, exits.INTERRUPTED],
)
@url_argument
@click.option(
    "--force", is_flag=True, help="Do not ask; even when it is mounted, or no volume can be recognised."
)
@old_host_is_dead_option
@stored_volume_options
@connection_options
def erase(url: str, force: bool, old_host_is_dead: bool, volume: Volume, connection: Connection) -> None:
    """Delete the volume at URL with all its data.

    Asks first. With --force it takes the volume from whoever has it, and waits, about a minute, until that
    host has stopped writing. Other objects below URL stay. No password is needed.
    """
    bucket = connection.settings(url)
    settings = volume.settings(given_password(volume), force=force, old_host_is_dead=old_host_is_dead)
    if not force:
        question = f"Erase {url} ({_recognise(bucket, settings)}) for ever?"
        if not confirm(question):
            raise BucketryError("nothing was erased")
    deleted = event_loop.run(_erase(bucket, settings))
    say(f"erased {url}: {deleted} objects deleted")


def _recognise(bucket: BucketSettings, settings: VolumeSettings) -> str:
    """The volume in a few words. Raises NotFound when there is none."""
    from bucketry.assemble import inspect_volume

    found = event_loop.run(inspect_volume(bucket, settings))
    words = summary(volume_report(found))
    return words if found.mounted_by is None else f"{words}, in use by {found.mounted_by}"


async def _erase(bucket: BucketSettings, settings: VolumeSettings) -> int:
    from bucketry.assemble import erase_volume

    deleted = 0
    with progress("objects deleted", of_bytes=False) as update:
        async for step in erase_volume(bucket, settings):
            deleted = step.deleted_count
            update(deleted, max(deleted, 1))
    return deleted
