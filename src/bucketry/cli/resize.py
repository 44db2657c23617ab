"""``bucketry resize``: a disk of another size."""

from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.info import find_serving
from bucketry.cli.options import (
    Connection,
    Volume,
    connection_options,
    refuse_url_options,
    stored_volume_options,
)
from bucketry.cli.output import say
from bucketry.cli.parameters import SIZE, place_argument
from bucketry.cli.progress import progress
from bucketry.cli.secrets import with_password
from bucketry.core.units import format_size
from bucketry.errors import BucketryError
from bucketry.serve import event_loop
from bucketry.serve.control_client import ControlClient
from bucketry.serve.runtime import files_of
from bucketry.settings import BucketSettings, VolumeSettings

if TYPE_CHECKING:
    from bucketry.disk.resize import ResizeStep


@click.command(
    cls=Command,
    examples=["bucketry resize /mnt/data 2T", "bucketry resize s3://bucket/disk 2T"],
    exits=[
        exits.OK,
        exits.FAILED,
        exits.USAGE,
        exits.NOT_FOUND,
        exits.DENIED,
        exits.BUSY,
        exits.LOST,
        exits.INTERRUPTED,
    ],
)
@place_argument
@click.argument("new_size", metavar="SIZE", type=SIZE, required=False)
@click.option("--force", is_flag=True, help="Delete what is stored beyond the end.")
@click.option(
    "--adopt", is_flag=True, help="Growing by URL: what is stored beyond the end becomes part of the disk."
)
@stored_volume_options
@connection_options
def resize(
    where: str | Path,
    new_size: int | None,
    force: bool,
    adopt: bool,
    volume: Volume,
    connection: Connection,
) -> None:
    """Give the disk at URL, or the one that is attached on DIR, another size.

    By its directory an attached disk is made larger while it is in use; what bucketry mount has mounted there
    grows with it. By its URL it gets any size, and must not be attached. Growing adds zeros at the end and
    takes no time. Shrinking is refused while anything but zeros is stored beyond the new end; shrink the
    filesystem first. After a crash the disk opens, with the old size or the new one; the same command, once
    more, ends the work.

    Where an s3backer has made the disk larger its own way, superblock and block 0 disagree: give the size
    that is right, with the URL.
    """
    if force and adopt:
        raise click.UsageError("--force deletes what --adopt keeps: give one of them")
    if new_size is not None and volume.size is not None:
        raise click.UsageError("the new size was given twice: as SIZE and with --size")
    size = volume.size if new_size is None else new_size
    if size is None:
        raise click.UsageError("the new size is missing: bucketry resize URL|DIR SIZE")
    if isinstance(where, Path):
        refuse_url_options(where, besides=("size",))
        if adopt:
            raise click.UsageError("--adopt goes with a URL, of a disk that is not attached")
        _resize_attached(where, size, force=force)
    else:
        _resize_volume(where, size, force, adopt, volume, connection)


def _resize_attached(directory: Path, size: int, *, force: bool) -> None:
    state = find_serving(directory)
    with closing(
        ControlClient(files_of(state.mount_point).socket, "resize", size_bytes=size, force=force)
    ) as client:
        # As long as the bucket needs.
        answer = client.poll(None)
    assert answer is not None, "without a limit of time there is an answer or an error"
    before, after = answer["before_bytes"], answer["after_bytes"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    filesystem, problem = answer["filesystem"], answer["problem"]
    said = _sizes(before, after)
    if problem is not None:
        raise BucketryError(
            f"the disk on {directory} was resized {said}, but its {filesystem} was not: {problem}; "
            "the same command, once more, tries again"
        )
    if filesystem is not None:
        say(f"resized the disk on {directory} {said}, and its {filesystem} with it")
        return
    say(f"resized the disk on {directory} {said}")
    say(
        "what is on it grows by its own programs: losetup --set-capacity LOOP, then resize2fs LOOP, "
        "xfs_growfs DIR or btrfs filesystem resize max DIR",
        err=True,
    )


def _sizes(before: int, after: int) -> str:
    if before == after:
        return f"to {format_size(after)}, which it had"
    return f"from {format_size(before)} to {format_size(after)}"


def _resize_volume(
    url: str, size: int, force: bool, adopt: bool, volume: Volume, connection: Connection
) -> None:
    bucket = connection.settings(url)
    end = with_password(
        volume,
        lambda password: event_loop.run(_resize(bucket, volume.settings(password, force=force), size, adopt)),
    )
    deleted = f"; {end.deleted_count} blocks beyond the end deleted" if end.deleted_count else ""
    say(f"resized {url} {_sizes(end.before_bytes, end.after_bytes)}{deleted}")


async def _resize(
    bucket: BucketSettings, settings: VolumeSettings, size_bytes: int, adopt: bool
) -> "ResizeStep":
    from bucketry.assemble import resize_volume

    end = None
    with progress("blocks deleted", of_bytes=False) as update:
        async with aclosing(resize_volume(bucket, settings, size_bytes, adopt=adopt)) as steps:
            async for step in steps:
                end = step
                update(step.deleted_count, step.delete_count)
    assert end is not None, "the last step always comes"
    return end
