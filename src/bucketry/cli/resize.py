"""``bucketry resize``: a disk of another size."""

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import Connection, Volume, connection_options, url_argument, volume_options
from bucketry.cli.progress import progress
from bucketry.cli.secrets import with_password
from bucketry.core.units import format_size
from bucketry.serve import event_loop
from bucketry.settings import BucketSettings, VolumeSettings

if TYPE_CHECKING:
    from bucketry.disk.resize import ResizeStep


@click.command(
    cls=Command,
    examples=["bucketry resize s3://bucket/disk --size 2T"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.DENIED, exits.BUSY, exits.INTERRUPTED],
)
@url_argument
@click.option("--force", is_flag=True, help="Delete what is stored beyond the end.")
@volume_options
@connection_options
def resize(url: str, force: bool, volume: Volume, connection: Connection) -> None:
    """Give the disk at URL another size: --size.

    It must not be attached. Growing adds zeros at the end and takes no time. Shrinking is refused while
    anything but zeros is stored beyond the new end; shrink the filesystem first. After a crash the disk
    opens, with the old size or the new one; the same command, once more, ends the work.
    """
    if volume.size is None:
        raise click.UsageError("how large? Give --size")
    size = volume.size
    bucket = connection.settings(url)
    end = with_password(
        volume,
        lambda password: event_loop.run(_resize(bucket, volume.settings(password, force=force), size)),
    )
    deleted = f"; {end.deleted_count} blocks beyond the end deleted" if end.deleted_count else ""
    sizes = f"from {format_size(end.before_bytes)} to {format_size(end.after_bytes)}"
    if end.before_bytes == end.after_bytes:
        sizes = f"to {format_size(end.after_bytes)}, which it had"
    click.echo(f"resized {url} {sizes}{deleted}")


async def _resize(bucket: BucketSettings, settings: VolumeSettings, size_bytes: int) -> "ResizeStep":
    from bucketry.assemble import resize_volume

    end = None
    with progress("blocks deleted", of_bytes=False) as update:
        async with aclosing(resize_volume(bucket, settings, size_bytes)) as steps:
            async for step in steps:
                end = step
                update(step.deleted_count, step.delete_count)
    assert end is not None, "the last step always comes"
    return end
