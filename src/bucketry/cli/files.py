"""``bucketry files …``: write-once files in a bucket, from the shell."""

import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from bucketry.bucket.location import parse_url
from bucketry.cli import exits
from bucketry.cli.command import Command, Group
from bucketry.cli.figures import every_figure
from bucketry.cli.options import Connection, connection_options
from bucketry.cli.output import JsonReport, check_standard_output, say, say_all, say_json
from bucketry.cli.parameters import (
    EXISTING_DIRECTORY,
    EXISTING_FILE,
    SECONDS_OR_ZERO,
    SIZE,
    SIZE_OR_ZERO,
    ExistingPath,
    SectionedOption,
    json_option,
    url_argument,
)
from bucketry.cli.progress import Update, progress
from bucketry.cli.reports import lines
from bucketry.cli.secrets import read_key_file
from bucketry.core.units import format_size
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Corrupt,
    Invalid,
    NotFound,
)
from bucketry.settings import FilesSettings, Secret, UploadSettings

if TYPE_CHECKING:
    from bucketry.files.file_handle import FileHandle
    from bucketry.files.file_system import FileSystem
    from bucketry.files.object_cache import ObjectCache, ScrubReport

#: What is copied at a time: as much as is fetched at once.
_COPY_BYTES = 8 << 20
#: The cache of one command, on its way to a file of the user's: what is read ahead, no copy of everything.
_PASSING_BYTES = 256 << 20
#: Where the key waits between an option and the opening of the bucket.
_KEY_META = "bucketry.files.encryption_key"
_EXITS = [exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.DENIED, exits.INTERRUPTED]

cache_dir_option = click.option(
    "--cache-dir",
    cls=SectionedOption,
    section="Cache",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    metavar="DIR",
    help="Read through a cache that stays; others may use it at the same time.",
)
cache_size_option = click.option(
    "--cache-size",
    cls=SectionedOption,
    section="Cache",
    type=SIZE,
    metavar="SIZE",
    default=FilesSettings().cache_size_bytes,
    show_default="4G",
    help="For what is in it.",
)


def _take_key(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.meta[_KEY_META] = read_key_file(path)


encryption_option = click.option(
    "--encryption-key-file",
    cls=SectionedOption,
    section="Encryption",
    type=EXISTING_FILE,
    metavar="FILE",
    expose_value=False,
    callback=_take_key,
    help="Files are encrypted on this machine: 32 random bytes, or 64 hexadecimal digits.",
)


@click.group(
    "files",
    cls=Group,
    no_args_is_help=False,
    hint="bucketry files --help lists the commands",
    examples=[
        "bucketry files put backup.tar s3://bucket/backups",
        "bucketry files ls s3://bucket/backups",
        "bucketry files get s3://bucket/backups backup.tar",
    ],
)
def files() -> None:
    """Keep write-once files in a bucket: each is put once, whole, and never changes.

    NAME is what comes after URL in the object's key; slashes in it mean nothing special.
    """


@files.command(
    "ls",
    cls=Command,
    examples=["bucketry files ls s3://bucket/tables", "bucketry files ls s3://bucket/tables 2026- --long"],
    exits=_EXITS,
)
@url_argument
@click.argument("beginning", metavar="[PREFIX]", default="")
@click.option("--long", "is_long", is_flag=True, help="Sizes and ETags, too.")
@json_option
@connection_options
@encryption_option
def list_command(url: str, beginning: str, is_long: bool, as_json: bool, connection: Connection) -> None:
    """List the files at URL, those whose names begin with PREFIX.

    Lines come as the bucket sends them, however many there are.
    """
    found: list[dict[str, object]] = []
    size_bytes = 0
    with _opened(url, connection) as file_system:
        for page in file_system.scan("", beginning):
            for entry in page:
                size_bytes += entry.size_bytes
                if as_json:
                    found.append(asdict(entry))
                elif is_long:
                    say(f"{entry.size_bytes:>15}  {entry.etag or '-':<36}  {entry.name}")
                else:
                    say(entry.name)
    if as_json:
        say_json({"url": url, "count": len(found), "size_bytes": size_bytes, "files": found})


@files.command(
    "stat",
    cls=Command,
    examples=["bucketry files stat s3://bucket/tables a-0000000001.wtobj --json"],
    exits=_EXITS,
)
@url_argument
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@json_option
@connection_options
@encryption_option
def stat_command(url: str, names: tuple[str, ...], as_json: bool, connection: Connection) -> None:
    """Tell size, ETag and time of files, and whether checksums of them are kept."""
    reports: list[dict[str, object]] = []
    whole = JsonReport({"url": url, "files": reports})
    with _opened(url, connection) as file_system:
        for name in names:
            info = file_system.info(name)
            report = {
                "name": info.name,
                "size_bytes": info.size_bytes,
                "etag": info.etag,
                "modified": None if info.modified is None else info.modified.isoformat(),
                "has_checksums": info.has_checksums,
            }
            reports.append(report)
            if not as_json:
                say_all(lines(report))
    if as_json:
        whole.end()


@files.command(
    "put",
    cls=Command,
    examples=[
        "bucketry files put backup.tar s3://bucket/backups",
        "bucketry files put *.parquet s3://bucket/tables",
        "bucketry files put /tmp/x.tar s3://bucket/backups --name 2026-11-21.tar",
    ],
    exits=[*_EXITS[:-1], exits.BUSY, exits.INTERRUPTED],
)
@click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=ExistingPath(resolve=False))
@url_argument
@click.option("--name", metavar="NAME", help="Another name than the file's own; for one FILE.")
@json_option
@connection_options
@encryption_option
def put_command(
    sources: tuple[Path, ...], url: str, name: str | None, as_json: bool, connection: Connection
) -> None:
    """Upload each FILE to URL, under its own name.

    A file is in the bucket, whole, when its line is printed. The same content under the same name again is
    fine; another content there is never replaced.
    """
    if name is not None and len(sources) > 1:
        raise click.UsageError("--name is for one FILE")
    reports: list[dict[str, object]] = []
    whole = JsonReport({"url": url, "files": reports})
    with _opened(url, connection) as file_system:
        for source in sources:
            target = name or source.name
            size_bytes = source.stat().st_size
            with progress(f"putting {target}") as update:
                was_there = _put(file_system, source.absolute(), target, size_bytes, update)
            reports.append({"name": target, "size_bytes": size_bytes, "was_there": was_there})
            if not as_json:
                words = "was there already" if was_there else format_size(size_bytes)
                say(f"put {target}: {words}")
    if as_json:
        whole.end()


@files.command(
    "get",
    cls=Command,
    examples=[
        "bucketry files get s3://bucket/backups backup.tar",
        "bucketry files get s3://bucket/backups 2026-11-21.tar /tmp/x.tar",
    ],
    exits=_EXITS,
)
@url_argument
@click.argument("name", metavar="NAME")
@click.argument("target", metavar="[FILE]", default="", type=click.Path(dir_okay=True))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@json_option
@cache_dir_option
@cache_size_option
@connection_options
@encryption_option
def get_command(
    url: str,
    name: str,
    target: str,
    force: bool,
    as_json: bool,
    cache_dir: Path | None,
    cache_size: int,
    connection: Connection,
) -> None:
    """Download the file NAME to FILE, a directory, or the working directory.

    It appears under its name only when it is complete and verified. To write to standard output use bucketry
    files cat.
    """
    path = Path(target or ".")
    if path.is_dir():
        path /= name.rpartition("/")[2]
    if path.exists() and not force:
        raise AlreadyExists(f"{path} exists; --force overwrites it")
    with (
        _opened(url, connection, _reading(cache_dir, cache_size)) as file_system,
        file_system.open_file(name) as handle,
        _complete_or_not(path) as file,
        progress(f"getting {name}") as update,
    ):
        _copy(handle, 0, handle.size(), file, update)
    size_bytes = path.stat().st_size
    if as_json:
        say_json({"url": url, "name": name, "file": str(path), "size_bytes": size_bytes})
    else:
        say(f"got {path}: {format_size(size_bytes)}")


@files.command(
    "cat",
    cls=Command,
    examples=[
        "bucketry files cat s3://bucket/backups backup.tar | tar t",
        "bucketry files cat s3://bucket/tables a.wtobj --offset 4K --length 512",
    ],
    exits=_EXITS,
)
@url_argument
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--offset", type=SIZE_OR_ZERO, metavar="SIZE", default=0, help="Where to begin in each file.")
@click.option(
    "--length", type=SIZE_OR_ZERO, metavar="SIZE", help="How much of each file; to its end otherwise."
)
@cache_dir_option
@cache_size_option
@connection_options
@encryption_option
def cat_command(
    url: str,
    names: tuple[str, ...],
    offset: int,
    length: int | None,
    cache_dir: Path | None,
    cache_size: int,
    connection: Connection,
) -> None:
    """Write files to standard output, one after the other."""
    check_standard_output()
    output = sys.stdout.buffer
    with _opened(url, connection, _reading(cache_dir, cache_size)) as file_system:
        for name in names:
            with (
                file_system.open_file(name) as handle,
                _progress_beside_output(f"reading {name}") as update,
            ):
                size_bytes = handle.size()
                wanted = max(0, size_bytes - offset) if length is None else length
                if offset + wanted > size_bytes:
                    raise Invalid(f"{name} has {size_bytes} bytes: {wanted} at {offset} are not within it")
                _copy(handle, offset, wanted, output, update)
    output.flush()


@files.command(
    "rm",
    cls=Command,
    examples=["bucketry files rm s3://bucket/backups 2025-11-21.tar"],
    exits=_EXITS,
)
@url_argument
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="A file that is not there is no error.")
@json_option
@connection_options
def remove_command(
    url: str, names: tuple[str, ...], force: bool, as_json: bool, connection: Connection
) -> None:
    """Delete files. They cannot be brought back."""
    removed: list[str] = []
    whole = JsonReport({"url": url, "removed": removed})
    with _opened(url, connection) as file_system:
        if not force:
            # All of them first: half a command is worse than none.
            for name in names:
                file_system.info(name)
        for name in names:
            file_system.remove(name)
            removed.append(name)
            if not as_json:
                say(f"removed {name}")
    if as_json:
        whole.end()


@files.command(
    "sweep",
    cls=Command,
    examples=[
        "bucketry files sweep s3://bucket/tables",
        "bucketry files sweep s3://bucket --older-than 3600",
    ],
    exits=_EXITS,
)
@url_argument
@click.option(
    "--older-than",
    type=SECONDS_OR_ZERO,
    default=UploadSettings().stale_after_seconds,
    show_default="a day",
    help="Leave those alone that began later.",
)
@json_option
@connection_options
def sweep_command(url: str, older_than: float, as_json: bool, connection: Connection) -> None:
    """Abort uploads in parts that nobody completes.

    A process that is killed while it puts a large file leaves parts in the bucket, which no listing shows
    and which are paid for. The next put of the same file goes on with them, or removes them; this removes
    those of files that nobody puts again. An upload that is still alive begins anew.
    """
    with _opened(url, connection) as file_system:
        count = file_system.sweep(older_than_seconds=older_than)
    if as_json:
        say_json({"url": url, "aborted": count})
    else:
        say(f"{count} uploads aborted")


@files.command(
    "scrub",
    cls=Command,
    examples=[
        "bucketry files scrub /var/cache/tables",
        "bucketry files scrub /var/cache/tables --compare s3://bucket/tables",
    ],
    exits=_EXITS,
)
@click.argument("cache_dir", metavar="CACHE_DIR", type=EXISTING_DIRECTORY)
@click.option(
    "--compare", "url", metavar="URL", help="Ask the bucket, too, and drop what has gone or changed there."
)
@json_option
@connection_options
def scrub_command(cache_dir: Path, url: str | None, as_json: bool, connection: Connection) -> None:
    """Verify everything that is cached in CACHE_DIR, and drop what is damaged.

    A read would notice, too: this is for a disk that is not trusted any more, and for what was left by
    processes that were killed. Others may use the cache meanwhile. What is dropped comes from the bucket
    again when it is read.
    """
    with (
        closing(_scrub(cache_dir, url, connection)) as reports,
        progress("entries verified", of_bytes=False) as update,
    ):
        for report in reports:
            update(report.entries, report.entries_total)
    shown = asdict(report)
    problems = shown.pop("problems")
    shown["verified_bytes"] = shown.pop("bytes")
    if as_json:
        say_json({**shown, "problems": problems})
    else:
        say_all(lines(shown))
        for problem in problems:
            say(problem, err=True)
    if problems:
        raise Corrupt(f"{cache_dir}: {len(problems)} entries could not be verified")


@files.command(
    "stats",
    cls=Command,
    examples=["bucketry files stats /run/tables.json", "bucketry files stats /var/cache/tables --json"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND],
)
@click.argument("where", metavar="FILE|CACHE_DIR", type=ExistingPath(directory=True, resolve=False))
@click.option("--all", "shows_all", is_flag=True, help="Every figure, by the name that it has in JSON.")
@json_option
def stats_command(where: Path, shows_all: bool, as_json: bool) -> None:
    """Show the figures that a storage source writes to FILE (its statistics_file), or how full CACHE_DIR
    is.

    What is 0 is left out, but for --all and --json.
    """
    report = _cache_figures(where) if where.is_dir() else _read_figures(where)
    if as_json:
        say_json(report)
    else:
        say_all(every_figure(report, but_zeros=not shows_all))


# -- what they share -----------------------------------------------------------------------------------------


@contextmanager
def _opened(
    url: str, connection: Connection, settings: FilesSettings | None = None
) -> "Iterator[FileSystem]":
    """The files at ``url``. Raises a BucketryError in place of each OSError that has one for its cause."""
    from bucketry.files.storage_source import StorageSource

    if "://" not in url:
        parse_url(url)  # a source takes other names of buckets as well; a command does not
    bucket = connection.settings(url)
    key: Secret | None = click.get_current_context().meta.get(_KEY_META)
    chosen = replace(settings or _reading(None, 0), encryption_key=key)
    with _told(), StorageSource(settings=chosen, bucket=bucket) as source:
        yield source.customize_file_system(url)


def _reading(cache_dir: Path | None, cache_size: int) -> FilesSettings:
    if cache_dir is None:
        return FilesSettings(private_cache=True, mode="ranges", cache_size_bytes=_PASSING_BYTES)
    return FilesSettings(cache_dir=cache_dir, cache_size_bytes=cache_size)


@contextmanager
def _told() -> Iterator[None]:
    """An OSError of the files' API becomes what it was before: that has its exit code."""
    try:
        yield
    except OSError as error:
        cause: BaseException | None = error
        found = None
        while cause is not None:
            if isinstance(cause, BucketryError) and (found is None or isinstance(cause, BucketNotFound)):
                found = cause
            cause = cause.__cause__
        if found is None:
            raise
        raise type(found)(str(error.strerror)) from found


def _put(file_system: "FileSystem", source: Path, name: str, size_bytes: int, update: Update) -> bool:
    def put_so_far(done_bytes: int) -> None:
        update(done_bytes, size_bytes)

    return file_system.flush(source, name, progress=put_so_far)


def _tell_nobody(done: int, total: int | None, words: str = "", /) -> None:
    pass


def _copy(handle: "FileHandle", offset: int, length: int, file: BinaryIO, update: Update) -> None:
    buffer = memoryview(bytearray(min(length, _COPY_BYTES)))
    for done in range(0, length, _COPY_BYTES):
        part = buffer[: length - done]
        handle.readinto(offset + done, part)
        file.write(part)
        update(done + len(part), length)


@contextmanager
def _progress_beside_output(description: str) -> Iterator[Update]:
    """A bar, unless what is written goes to the same terminal."""
    if sys.stdout.isatty():
        yield _tell_nobody
    else:
        with progress(description) as update:
            yield update


@contextmanager
def _complete_or_not(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its name when all is well."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _scrub(cache_dir: Path, url: str | None, connection: Connection) -> "Generator[ScrubReport]":
    _check_cache(cache_dir)
    if url is None:
        with _told(), closing(_open_cache(cache_dir)) as cache:
            yield from cache.scrub()
    else:
        settings = FilesSettings(cache_dir=cache_dir)
        with _opened(url, connection, settings) as file_system:
            yield from file_system.scrub(compare=True)


def _check_cache(directory: Path) -> None:
    from bucketry.files.object_cache import STATE_NAME

    if not (directory / STATE_NAME).is_dir():
        raise NotFound(f"{directory} is not a cache of files")


def _open_cache(directory: Path) -> "ObjectCache":
    from bucketry.files.object_cache import ObjectCache

    _check_cache(directory)
    return ObjectCache(directory, size_bytes=0)


def _cache_figures(directory: Path) -> dict[str, object]:
    with _told():
        cache = _open_cache(directory)
        try:
            figures = cache.statistics()
        finally:
            cache.close()
    return {"directory": str(directory), "used_bytes": figures["used_bytes"]}


def _read_figures(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Invalid(f"{path} does not hold the figures of a storage source (as JSON)")
    return found
