"""``bucketry import`` and ``bucketry export``: disks from images, and images from disks."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import click

from bucketry.bucket.location import parse_url
from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import (
    DEFAULT_BLOCK_SIZE,
    Connection,
    Volume,
    connection_options,
    stored_volume_options,
    volume_options,
)
from bucketry.cli.output import check_standard_output, say
from bucketry.cli.parameters import EXISTING_DIRECTORY, url_argument
from bucketry.cli.progress import progress
from bucketry.cli.secrets import new_password, with_password
from bucketry.core.units import exact_size, format_size
from bucketry.errors import AlreadyExists, BucketNotFound, Invalid, NotFound, WrongPassword
from bucketry.serve import event_loop
from bucketry.serve.images import export_image, image_size, import_image
from bucketry.settings import BucketSettings, CacheSettings, Secret

_EXITS = [
    exits.OK,
    exits.FAILED,
    exits.USAGE,
    exits.NOT_FOUND,
    exits.DENIED,
    exits.BUSY,
    exits.INTERRUPTED,
]
_IMAGE = click.argument("image", metavar="IMAGE", type=click.Path(dir_okay=False, allow_dash=True))


@click.command(
    "import",
    cls=Command,
    examples=[
        "bucketry import disk.img s3://bucket/disk",
        "zcat disk.img.gz | bucketry import - s3://bucket/disk --size 20G",
    ],
    exits=_EXITS,
)
@_IMAGE
@url_argument
@click.option("--force", is_flag=True, help="Overwrite the volume that is there.")
@click.option(
    "--allow-short", is_flag=True, help="A stream may end before the disk does; the rest is zeros then."
)
@volume_options
@connection_options
def import_command(
    image: str, url: str, force: bool, allow_short: bool, volume: Volume, connection: Connection
) -> None:
    """Copy IMAGE, a file, a block device or - for standard input, to the disk at URL.

    The disk is made when it is not there, with the size of the image rounded up to whole blocks; that of a
    stream is not known before its end, and has to be given as --size. Holes are not stored. Returns 0 only
    when everything is in the bucket. After a failure start again with --force.
    """
    bucket = connection.settings(url)
    with _open_image(image) as source:
        size = image_size(source)
        blank = not event_loop.run(_exists(bucket, volume))
        if blank:
            password = _create_for(size, bucket, volume)
            copied = _import(source, bucket, volume, password, blank=True, allow_short=allow_short)
        elif force:
            copied = with_password(
                volume,
                lambda known: _import(source, bucket, volume, known, blank=False, allow_short=allow_short),
            )
        else:
            raise AlreadyExists(f"there is a volume at {url}; --force overwrites it")
    say(f"imported {format_size(copied)} to {url}")


@click.command(
    "export",
    cls=Command,
    examples=[
        "bucketry export s3://bucket/disk disk.img",
        "bucketry export s3://bucket/disk - | gzip > disk.img.gz",
    ],
    exits=_EXITS,
)
@url_argument
@_IMAGE
@click.option("--force", is_flag=True, help="Overwrite IMAGE.")
@click.option(
    "--cache-dir",
    type=EXISTING_DIRECTORY,
    metavar="DIR",
    help="Export what a journal in DIR holds, too, after a crash of the process that had it.",
)
@click.option(
    "--without-journal",
    is_flag=True,
    help="Export what the bucket holds, although flushed writes may be only in a journal.",
)
@stored_volume_options
@connection_options
def export_command(
    url: str,
    image: str,
    force: bool,
    cache_dir: Path | None,
    without_journal: bool,
    volume: Volume,
    connection: Connection,
) -> None:
    """Copy the disk at URL to IMAGE, a file, a block device or - for standard output.

    Holes stay holes. A file appears under its name only when it is complete. The disk is opened for reading
    only: it may be mounted meanwhile, and then the image is what the bucket held block by block, not of one
    moment.
    """
    bucket = connection.settings(url)
    if image != "-" and not force and Path(image).exists() and not Path(image).is_block_device():
        raise AlreadyExists(f"{image} exists; --force overwrites it")

    # Blocks that are read once are not kept.
    cache = CacheSettings(cache_dir=cache_dir, cache_size_bytes=0, require_journal=not without_journal)

    def copy(password: Secret | None) -> None:
        with _image_to_write(image) as target:
            event_loop.run(_export(target, bucket, volume, password, cache))

    with_password(volume, copy)
    say(f"exported {url} to {image}", err=image == "-")


async def _exists(bucket: BucketSettings, volume: Volume) -> bool:
    from bucketry.assemble import inspect_volume

    try:
        await inspect_volume(bucket, replace(volume.settings(None), size_bytes=None))
    except BucketNotFound:
        if parse_url(bucket.url).directory is None:
            raise
        return False  # the volume is made with its directory, as bucketry create does
    except NotFound:
        return False
    except WrongPassword:
        pass  # one that only its password opens
    return True


def _create_for(image_bytes: int | None, bucket: BucketSettings, volume: Volume) -> Secret | None:
    """Make the volume for an image of ``image_bytes`` (None: not known); returns its password."""
    from bucketry.assemble import create_volume

    if volume.size is None and image_bytes is None:
        raise Invalid("the size of a stream is not known before its end: give --size")
    block_size = DEFAULT_BLOCK_SIZE if volume.block_size is None else volume.block_size
    size = -(-(image_bytes or 0) // block_size) * block_size if volume.size is None else volume.size
    if image_bytes is not None and size < image_bytes:
        raise Invalid(f"the image has {exact_size(image_bytes)}: more than --size {exact_size(size)}")
    password = new_password(volume)
    event_loop.run(create_volume(bucket, volume.new_format(size), password=password))
    return password


def _import(
    source: int,
    bucket: BucketSettings,
    volume: Volume,
    password: Secret | None,
    *,
    blank: bool,
    allow_short: bool,
) -> int:
    async def run() -> int:
        from bucketry.assemble import open_disk

        with progress("importing") as update:
            settings = replace(volume.settings(password), size_bytes=None)
            async with open_disk(bucket, settings, CacheSettings()) as device:
                return await import_image(
                    source, device, blank=blank, progress=update, allow_short=allow_short
                )

    return event_loop.run(run())


async def _export(
    target: int, bucket: BucketSettings, volume: Volume, password: Secret | None, cache: CacheSettings
) -> None:
    from bucketry.assemble import open_disk

    with progress("exporting") as update:
        async with open_disk(bucket, volume.settings(password, read_only=True), cache) as device:
            await export_image(device, target, progress=update)


@contextmanager
def _open_image(image: str) -> Iterator[int]:
    if image == "-":
        yield 0
        return
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind) or stat.S_ISFIFO(kind)):
            raise Invalid(f"{image} is not a file, a block device or a pipe")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _image_to_write(image: str) -> Iterator[int]:
    """A descriptor for the image. A regular one is written beside its name and takes it when all is well."""
    if image == "-":
        check_standard_output()
        yield 1
        return
    # Where a link leads: that the link becomes a file is what nobody wants, /dev/stdout least of all.
    path = Path(os.path.realpath(image))
    in_place = path.exists() and not path.is_file()
    # A name that nobody else uses, whatever lies in the directory and however long the image's own is.
    part = path if in_place else path.with_name(f".bucketry-export-{os.getpid()}-{token_hex(4)}.part")
    # O_EXCL on a block device: not while it is mounted.
    how = os.O_EXCL if in_place else os.O_CREAT | os.O_EXCL
    descriptor = os.open(part, os.O_WRONLY | os.O_CLOEXEC | how, 0o666)
    try:
        yield descriptor
        if not in_place:
            part.replace(path)
    except BaseException:
        if not in_place:
            part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
