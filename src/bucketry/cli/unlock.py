"""``bucketry unlock``: a volume taken from whoever holds it."""

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import Connection, connection_options, old_host_is_dead_option
from bucketry.cli.output import confirm, say
from bucketry.cli.parameters import url_argument
from bucketry.errors import BucketryError
from bucketry.serve import event_loop


@click.command(
    cls=Command,
    examples=["bucketry unlock s3://bucket/disk"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.DENIED, exits.BUSY, exits.INTERRUPTED],
)
@url_argument
@click.option("--force", is_flag=True, help="Do not ask.")
@old_host_is_dead_option
@connection_options
def unlock(url: str, force: bool, old_host_is_dead: bool, connection: Connection) -> None:
    """Free the volume at URL from whoever holds it for writing.

    For volumes whose holder is gone for good: a machine that died, an s3backer that was killed. A holder that
    is alive finds out within seconds, fails every request from then on, and what it has not uploaded is lost.
    Asks first, then takes the volume and waits, about a minute, until the former holder must have stopped.
    A lease that is damaged is taken only with --force. When nobody holds the volume there is nothing to do.
    """
    from bucketry.assemble import find_holding, unlock_volume

    bucket = connection.settings(url)
    seen = event_loop.run(find_holding(bucket, even_damaged=force))
    if seen.holder is None:
        say(f"nobody holds {url}")
        return
    question = f"{url} is in use by {seen.holder}. Take it away?"
    if not force and not confirm(question):
        raise BucketryError("nothing was unlocked")
    event_loop.run(unlock_volume(bucket, seen=seen, old_host_is_dead=old_host_is_dead))
    say(f"unlocked {url}, which was in use by {seen.holder}")
    if seen.journal is not None:
        say(
            f"flushed writes may be only in {seen.journal}: attach it there with --cache-dir, or give them "
            "up with bucketry attach --force"
        )
