"""``bucketry create``: a new, empty disk."""

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import Connection, Volume, connection_options, volume_options
from bucketry.cli.output import say
from bucketry.cli.parameters import url_argument
from bucketry.cli.reports import summary, volume_report
from bucketry.cli.secrets import new_password
from bucketry.serve import event_loop


@click.command(
    cls=Command,
    examples=["bucketry create s3://bucket/disk --size 10G --compress zstd --encrypt"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.DENIED, exits.BUSY],
)
@url_argument
@volume_options
@connection_options
def create(url: str, volume: Volume, connection: Connection) -> None:
    """Make an empty disk at URL.

    It takes no time and no space: blocks that were never written are not stored.
    """
    if volume.size is None:
        raise click.UsageError("--size is required for a new volume, for example --size 10G")
    wanted = volume.new_format(volume.size)
    password = new_password(volume)

    from bucketry.assemble import create_volume

    made = event_loop.run(create_volume(connection.settings(url), wanted, password=password))
    say(f"created {url}: {summary(volume_report(made))}")
