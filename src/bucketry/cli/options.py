"""The options that several commands share, and the settings they become.

Each group is a decorator: it adds its options to a command and hands the command one value in place of them.
"""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from bucketry.cli.parameters import (
    BARE,
    EXISTING_FILE,
    MODE,
    SECONDS,
    SECONDS_OR_ZERO,
    SIZE,
    SIZE_OR_ZERO,
    OptionalValue,
    SectionedOption,
)
from bucketry.errors import Invalid
from bucketry.settings import (
    CIPHER_KEY_BYTES,
    COMPRESSIONS,
    DURABILITIES,
    BucketSettings,
    CacheSettings,
    FuseSettings,
    LimitSettings,
    RetrySettings,
    Secret,
    VolumeFormat,
    VolumeSettings,
)

#: The cipher of a new volume for which none is named. s3backer's is AES-128-CBC: it has to be told this one.
DEFAULT_CIPHER = "AES-256-CBC"
#: s3backer's is 4 KiB, which is slow and dear; 128 KiB is what its documentation recommends and the kernel
#: reads ahead.
DEFAULT_BLOCK_SIZE = 128 << 10

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the bucket, as given."""

    endpoint: str | None
    region: str | None
    access_file: Path | None
    access_id: str | None
    anonymous: bool
    profile: str | None
    sse: str | None
    sse_key_id: str | None
    storage_class: str | None
    tag: tuple[str, ...]
    ca_file: Path | None
    insecure: bool
    path_style: bool | None
    timeout: float
    upload_limit: int | None
    download_limit: int | None
    prefix: str | None

    def settings(self, url: str) -> BucketSettings:
        return BucketSettings(
            url=url,
            prefix=self.prefix,
            endpoint=self.endpoint,
            region=self.region,
            path_style=self.path_style,
            ca_file=self.ca_file,
            insecure=self.insecure,
            anonymous=self.anonymous,
            access_file=self.access_file,
            access_id=self.access_id,
            profile=self.profile,
            sse=self.sse,
            sse_key_id=self.sse_key_id,
            storage_class=self.storage_class,
            tags=tuple((name, value) for name, _, value in (tag.partition("=") for tag in self.tag)),
            timeout_seconds=self.timeout,
            limits=LimitSettings(
                upload_bytes_per_second=self.upload_limit, download_bytes_per_second=self.download_limit
            ),
        )


@dataclass(frozen=True, slots=True)
class Volume:
    """What is said of the volume, as given."""

    size: int | None
    block_size: int | None
    compress: str | None
    compress_level: int | None
    #: A cipher, or BARE for whichever it is.
    encrypt: str | None
    key_length: int | None
    block_hash_prefix: bool | None
    password_file: Path | None
    password_fd: int | None

    def settings(
        self,
        password: Secret | None,
        *,
        read_only: bool = False,
        force: bool = False,
        old_host_is_dead: bool = False,
        wait_seconds: float | None = None,
    ) -> VolumeSettings:
        """To open a volume with."""
        return VolumeSettings(
            size_bytes=self.size,
            block_size_bytes=self.block_size,
            compression=self.compress,
            compression_level=self.compress_level,
            cipher=None if self.encrypt == BARE else self.encrypt,
            encrypted=None if self.encrypt is None else True,
            key_length=self.key_length,
            block_hash_prefix=self.block_hash_prefix,
            password=password,
            read_only=read_only,
            force=force,
            old_host_is_dead=old_host_is_dead,
            wait_seconds=wait_seconds,
        )

    def new_format(self, size_bytes: int) -> VolumeFormat:
        """To create a volume with. Raises Invalid."""
        return VolumeFormat(
            size_bytes=size_bytes,
            block_size_bytes=DEFAULT_BLOCK_SIZE if self.block_size is None else self.block_size,
            compression=self.compress or "none",
            compression_level=self.compress_level,
            cipher=DEFAULT_CIPHER if self.encrypt == BARE else self.encrypt,
            key_length=self.key_length,
            block_hash_prefix=bool(self.block_hash_prefix),
        )


@dataclass(frozen=True, slots=True)
class Process:
    """How a disk is served, as given."""

    foreground: bool
    log: str | None
    read_only: bool
    force: bool
    old_host_is_dead: bool
    wait: float | None
    memory: int
    cache_dir: Path | None
    cache_size: int
    durability: str
    journal_size: int
    exclusive: bool
    write_delay: float

    def cache(self) -> CacheSettings:
        # Half for dirty blocks, as the defaults have it; never read further ahead than a quarter of the
        # memory holds.
        defaults = CacheSettings()
        return CacheSettings(
            memory_bytes=self.memory,
            dirty_max_bytes=self.memory // 2,
            cache_dir=self.cache_dir,
            cache_size_bytes=self.cache_size,
            durability=self.durability,
            journal_bytes=self.journal_size,
            exclusive=self.exclusive,
            write_delay_seconds=self.write_delay,
            read_ahead_bytes=min(defaults.read_ahead_bytes, self.memory // 4),
        )


@dataclass(frozen=True, slots=True)
class Face:
    """What the attached directory looks like, as given."""

    file_name: str
    file_mode: int | None
    uid: int | None
    gid: int | None
    allow_other: bool
    direct_io: bool

    def settings(self) -> FuseSettings:
        """Raises Invalid."""
        if self.file_name in ("", ".", "..", FuseSettings().stats_name) or "/" in self.file_name:
            raise Invalid(f"{self.file_name!r} cannot be the name of the disk's file")
        return FuseSettings(
            file_name=self.file_name,
            file_mode=self.file_mode,
            uid=self.uid,
            gid=self.gid,
            allow_other=self.allow_other,
            direct_io=self.direct_io,
        )


def refuse_url_options(directory: Path, *, besides: Collection[str] = ()) -> None:
    """Raises UsageError when an option was given that says how to open a volume, which the process that
    serves ``directory`` has long done. ``besides``: names of parameters that mean something here."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if (
            isinstance(parameter, SectionedOption)
            and parameter.section in ("Volume", "Bucket")
            and parameter.name not in besides
            and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        ):
            raise click.UsageError(f"{parameter.opts[0]} goes with a URL, and {directory} is a directory")


def _group(
    name: str, kind: Callable[..., object], options: list[Callable[[Function], Function]]
) -> Callable[[Function], Function]:
    """A decorator that adds ``options`` and passes their values as one ``kind`` in the argument ``name``; a
    field without an option is None."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            value = kind(**{name: given.pop(name, None) for name in names})
            return function(*args, **given, **{name: value})

        result: Any = gathered
        for option in reversed(options):
            result = option(result)
        return result  # type: ignore[no-any-return]

    return decorate


def _option(section: str, *declarations: str, **attributes: Any) -> Callable[[Function], Function]:
    return click.option(*declarations, cls=SectionedOption, section=section, **attributes)


_RETRIES = RetrySettings()
_bucket = functools.partial(_option, "Bucket")
connection_options = _group(
    "connection",
    Connection,
    [
        _bucket("--endpoint", metavar="URL", help="The store's address, when it is not the cloud's own."),
        _bucket("--region", metavar="REGION", help="The bucket's region."),
        _bucket(
            "--prefix", metavar="TEXT", help="Put before every key as it stands, in place of the URL's path."
        ),
        _bucket(
            "--access-file",
            type=EXISTING_FILE,
            metavar="FILE",
            help="Credentials: lines of the form ID:KEY, as s3backer reads them.",
        ),
        _bucket("--access-id", metavar="ID", help="Which line of the access file; the first one otherwise."),
        _bucket("--anonymous", is_flag=True, help="Send no credentials: public buckets."),
        _bucket("--profile", metavar="NAME", help="Profile in the AWS configuration files."),
        _bucket(
            "--sse",
            type=click.Choice(["AES256", "aws:kms"], case_sensitive=False),
            help="Server-side encryption.",
        ),
        _bucket("--sse-key-id", metavar="ID", help="The key for aws:kms."),
        _bucket("--storage-class", metavar="CLASS", help="Storage class of new objects."),
        _bucket("--tag", multiple=True, metavar="NAME=VALUE", help="Tag of new objects (S3); up to ten."),
        _bucket("--ca-file", type=EXISTING_FILE, metavar="FILE", help="Certificates to trust (PEM)."),
        _bucket("--insecure", is_flag=True, help="Do not check the server's certificate."),
        _bucket(
            "--path-style/--virtual-host",
            default=None,
            help="Bucket in the path, or in the host name. Default: path with --endpoint, host name without.",
        ),
        _bucket(
            "--timeout",
            type=SECONDS,
            default=BucketSettings(url="").timeout_seconds,
            show_default=True,
            help="For one attempt of one request.",
        ),
        _bucket("--upload-limit", type=SIZE, metavar="SIZE", help="Bytes per second, all requests together."),
        _bucket(
            "--download-limit", type=SIZE, metavar="SIZE", help="Bytes per second, all requests together."
        ),
    ],
)

_volume = functools.partial(_option, "Volume")
_volume_options = [
    _volume("--size", type=SIZE, metavar="SIZE", help="Size of the disk: a number with K, M, G, T …"),
    _volume("--block-size", type=SIZE, metavar="SIZE", help="Size of a block; 128K for new volumes."),
    _volume(
        "--compress",
        type=click.Choice(COMPRESSIONS, case_sensitive=False),
        help="Compression of blocks written from now on.",
    ),
    _volume("--compress-level", type=int, metavar="N", help="Level of the compression."),
    _volume(
        "--encrypt",
        type=OptionalValue(list(CIPHER_KEY_BYTES)),
        metavar="[CIPHER]",
        help=f"The volume is encrypted, with {', '.join(CIPHER_KEY_BYTES)}, or without CIPHER with "
        f"whichever it is; {DEFAULT_CIPHER} for new volumes.",
    ),
    _volume("--key-length", type=int, metavar="BYTES", help="Length of the key, when not the cipher's own."),
    _volume(
        "--block-hash-prefix/--no-block-hash-prefix",
        default=None,
        help="Object names begin with a hash, spread over the key space.",
    ),
    _volume(
        "--password-file",
        type=EXISTING_FILE,
        metavar="FILE",
        help="The password is its first line. Else $BUCKETRY_PASSWORD, else asked for.",
    ),
    _volume(
        "--password-fd",
        type=click.IntRange(min=0),
        metavar="N",
        help="Read the password from descriptor N.",
    ),
]

volume_options = _group("volume", Volume, _volume_options)
#: For commands that write no blocks: what is said of new ones would mean nothing.
stored_volume_options = _group("volume", Volume, [*_volume_options[:2], *_volume_options[4:]])

_process = functools.partial(_option, "Process")
old_host_is_dead_option = _process(
    "--old-host-is-dead",
    is_flag=True,
    help="The host that had the volume is surely off: take it at once, without waiting for it to stop.",
)
process_options = _group(
    "process",
    Process,
    [
        _process("--foreground", is_flag=True, help="Do not go to the background; log to standard error."),
        _process(
            "--log",
            metavar="FILE|syslog",
            help="Where the log goes. Default: a file that is named at the start.",
        ),
        _process("--read-only", is_flag=True, help="Never change anything."),
        _process(
            "--force",
            is_flag=True,
            help="Take the volume even if another host has it; wait until that host has stopped writing.",
        ),
        old_host_is_dead_option,
        _process(
            "--wait",
            type=SECONDS_OR_ZERO,
            metavar="SECONDS",
            help="Wait up to SECONDS for another host to give the volume back. Default: only for a host that "
            "seems to be gone, about a minute; 0 never waits.",
        ),
        _process(
            "--memory",
            type=SIZE,
            metavar="SIZE",
            default=CacheSettings().memory_bytes,
            show_default="256M",
            help="For cached blocks.",
        ),
        _process(
            "--cache-dir",
            type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
            metavar="DIR",
            help="A directory of this volume's own, to keep blocks on local disk from one time to the next.",
        ),
        _process(
            "--cache-size",
            type=SIZE_OR_ZERO,
            metavar="SIZE",
            default=CacheSettings().cache_size_bytes,
            show_default="1G",
            help="For the blocks in it.",
        ),
        _process(
            "--durability",
            type=click.Choice(DURABILITIES, case_sensitive=False),
            default=CacheSettings().durability,
            show_default=True,
            help="What a flush waits for: the bucket, or a journal in --cache-dir that survives a crash.",
        ),
        _process(
            "--journal-size",
            type=SIZE,
            metavar="SIZE",
            default=CacheSettings().journal_bytes,
            show_default="256M",
            help="For that journal; when it is full, flushes wait for the bucket.",
        ),
        _process(
            "--exclusive",
            is_flag=True,
            help="No s3backer writes to this volume, ever: keep in --cache-dir what is known to be zero.",
        ),
        _process(
            "--write-delay",
            type=SECONDS_OR_ZERO,
            default=CacheSettings().write_delay_seconds,
            show_default=True,
            help="A changed block waits so long for more changes. With 1 s or less, one that was written "
            "from first byte to last does not, and one that is rewritten all the time waits eight times as "
            "long.",
        ),
    ],
)

_face = functools.partial(_option, "Directory")
face_options = _group(
    "face",
    Face,
    [
        _face(
            "--file-name",
            default=FuseSettings().file_name,
            show_default=True,
            help="Name of the disk's file.",
        ),
        _face(
            "--file-mode", type=MODE, metavar="MODE", help="Its mode in octal; 0600, or 0400 when read-only."
        ),
        _face("--uid", type=click.IntRange(min=0), metavar="UID", help="Its owner."),
        _face("--gid", type=click.IntRange(min=0), metavar="GID", help="Its group."),
        _face("--allow-other", is_flag=True, help="Other users may enter the directory."),
        _face("--direct-io", is_flag=True, help="The kernel caches nothing of the file."),
    ],
)
