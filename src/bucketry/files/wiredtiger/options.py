"""The options of the extension, as text from its configuration, and what they mean for a storage source.

Unlike the configuration of a file system, which WiredTiger may fill with whatever its memory held, these are
somebody's words: what is not understood is refused with a line that names it.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bucketry.core.units import parse_size
from bucketry.errors import Invalid
from bucketry.files.config_text import read_options
from bucketry.files.key_file import read_key_file
from bucketry.files.log import DEBUG_5, ERROR
from bucketry.files.wiredtiger.owner import POLICIES
from bucketry.settings import BucketSettings, FaultSettings, FilesSettings, LimitSettings, RetrySettings

#: What may be asked of remove: do it; ENOTSUP, as the S3 store that comes with WiredTiger; leave the object.
REMOVE_POLICIES = ("true", "false", "keep")

#: Waiting is better than a crash, but somebody must notice in the end: a quarter of an hour.
_PATIENCE_SECONDS = 900.0
#: Whoever reads can be told; two minutes outlast the restart of a server.
_READ_PATIENCE_SECONDS = 120.0
#: In the text form of extensions these need no quotes; everything else gets them.
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one extension was asked to do."""

    #: The name for ``tiered_storage=(name=…)``.
    name: str = "bucketry"
    #: How long a call is repeated whose failure would be a panic or a crash: an outage of this length passes
    #: unnoticed but for the waiting.
    patience_seconds: float = _PATIENCE_SECONDS
    #: The same for reads of pages, whose failure is an exception.
    read_patience_seconds: float = _READ_PATIENCE_SECONDS
    #: What if another database owns the bucket prefix: of POLICIES.
    owner: str = "check"
    #: The connection's bucket prefix, if its owner is to be checked when it is opened.
    bucket_prefix: str | None = None
    #: An object that is there already with the same content has been flushed; False: EEXIST, as the directory
    #: store that comes with WiredTiger.
    idempotent: bool = True
    #: Of REMOVE_POLICIES.
    remove: str = "true"
    #: Put before bucket strings that are neither URLs nor ``name;region``: ``s3://``. WiredTiger cannot hold
    #: URLs: it writes the bucket into its metadata without the quotes that a colon needs.
    buckets: str = ""
    #: Bucket strings are directories, relative to the home; as that directory store takes them.
    directories: bool = False
    log_level: int = ERROR
    files: FilesSettings = field(default_factory=lambda: FilesSettings(log_level=ERROR))
    bucket: BucketSettings = field(default_factory=lambda: BucketSettings(url="memory://"))

    def bucket_url(self, bucket: str, home: Path) -> str:
        """The bucket string for the storage source."""
        if not bucket or "://" in bucket or ";" in bucket:
            return bucket
        if self.directories:
            # URLs of directories have no ``..``; links may be in it.
            return f"file://{os.path.normpath(home / bucket)}"
        return self.buckets + bucket


def parse_options(given: Mapping[str, str], home: Path | None) -> Options:
    """Options from text. Paths are relative to ``home``; without one no file is looked at. Raises Invalid."""
    reader = _Reader(dict(given), home)
    options = _read(reader)
    reader.finish()
    return options


def known_options() -> list[str]:
    """Their names."""
    reader = _Reader({}, None)
    _read(reader)
    return reader.known


def _read(reader: "_Reader") -> Options:
    name = reader.text("name") or Options().name
    like_directory_store = reader.flag("directories", name == "dir_store")
    level = reader.level()
    remove = reader.choice("remove", "true", REMOVE_POLICIES)
    return Options(
        name=name,
        patience_seconds=reader.seconds("patience", _PATIENCE_SECONDS),
        read_patience_seconds=reader.seconds("read_patience", _READ_PATIENCE_SECONDS),
        owner=reader.choice("owner", "check", POLICIES),
        bucket_prefix=reader.text("bucket_prefix"),
        idempotent=reader.flag("idempotent", True),
        remove=remove,
        buckets=reader.text("buckets") or "",
        directories=like_directory_store,
        log_level=level,
        files=_files(reader, level, remove, like_directory_store),
        bucket=_bucket(reader),
    )


def _files(reader: "_Reader", level: int, remove: str, directories: bool) -> FilesSettings:
    plain = FilesSettings()
    faults = FaultSettings(
        delay_ms=reader.number("delay_ms", 0),
        force_delay=reader.number("force_delay", 0),
        error_ms=reader.number("error_ms", 0),
        force_error=reader.number("force_error", 0),
        error_kind=reader.text("error_kind") or FaultSettings().error_kind,
        operations=reader.words("error_operations", FaultSettings().operations),
        above_retries=reader.flag("error_above_retries", False),
    )
    key_file = reader.path("encryption_key_file")
    return FilesSettings(
        cache_dir=reader.path("cache_directory"),
        # Who knows the directory store lists its cache, and expects objects there and nothing else.
        cache_state_beside=directories,
        # As the directory store says it: 0 keeps nothing that stays.
        private_cache=not reader.flag("cache", True),
        cache_size_bytes=reader.size("cache_size", plain.cache_size_bytes),
        mode=reader.text("mode") or plain.mode,
        whole_max_bytes=reader.size("whole_max", plain.whole_max_bytes),
        read_ahead_bytes=reader.size("read_ahead", plain.read_ahead_bytes),
        open_check_seconds=reader.seconds("open_check", plain.open_check_seconds),
        encryption_key=None if key_file is None or reader.home is None else read_key_file(key_file),
        allow_remove=remove == "true",
        log_level=level,
        faults=faults if faults.force_delay or faults.force_error else None,
        statistics_file=reader.path("statistics_file"),
        statistics_seconds=reader.seconds("statistics_interval", plain.statistics_seconds),
    )


def _bucket(reader: "_Reader") -> BucketSettings:
    plain = BucketSettings(url="memory://")
    path_style = reader.text("path_style")
    if path_style not in (None, "true", "false"):
        raise Invalid(f"option path_style={path_style} is neither true nor false")
    return BucketSettings(
        # Each file system says which bucket it wants.
        url="memory://",
        endpoint=reader.text("endpoint"),
        region=reader.text("region"),
        path_style=None if path_style is None else path_style == "true",
        ca_file=reader.path("ca_file"),
        insecure=reader.flag("insecure", False),
        anonymous=reader.flag("anonymous", False),
        access_file=reader.path("access_file"),
        access_id=reader.text("access_id"),
        profile=reader.text("profile"),
        sse=reader.text("sse"),
        sse_key_id=reader.text("sse_key_id"),
        storage_class=reader.text("storage_class"),
        timeout_seconds=reader.seconds("timeout", plain.timeout_seconds),
        connect_timeout_seconds=reader.seconds("connect_timeout", plain.connect_timeout_seconds),
        retry=RetrySettings(budget_seconds=reader.seconds("retry_budget", plain.retry.budget_seconds)),
        limits=LimitSettings(
            requests_max=reader.number("requests_max", plain.limits.requests_max),
            upload_bytes_per_second=reader.size_or_none("upload_limit"),
            download_bytes_per_second=reader.size_or_none("download_limit"),
        ),
    )


class _Reader:
    """Takes options by name, and knows which nobody took."""

    def __init__(self, left: dict[str, str], home: Path | None) -> None:
        self._left = left
        self.home = home
        self.known: list[str] = []

    def text(self, name: str) -> str | None:
        self.known.append(name)
        return self._left.pop(name, None)

    def path(self, name: str) -> Path | None:
        text = self.text(name)
        return None if text is None else (self.home or Path()) / text

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name)
        if text is None:
            return default
        if text not in ("true", "false", "1", "0"):
            raise Invalid(f"option {name}={text} is neither true nor false")
        return text in ("true", "1")

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name) or default
        if text not in allowed:
            raise Invalid(f"option {name}={text} is not one of {', '.join(allowed)}")
        return text

    def words(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """``[get,put]``."""
        text = self.text(name)
        if text is None:
            return default
        return tuple(word.strip() for word in text.strip("[()]").split(",") if word.strip())

    def number(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdecimal():
            raise Invalid(f"option {name}={text} is not a whole number")
        return int(text)

    def seconds(self, name: str, default: float) -> float:
        text = self.text(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise Invalid(f"option {name}={text} is not a number of seconds")
        return value

    def size_or_none(self, name: str) -> int | None:
        text = self.text(name)
        return None if text is None else parse_size(text)

    def size(self, name: str, default: int) -> int:
        size = self.size_or_none(name)
        return default if size is None else size

    def level(self) -> int:
        """``verbose=(tiered=3)``, or ``verbose=3``."""
        text = self.text("verbose")
        if text is None:
            return ERROR
        text = read_options(text).get("tiered", text) if "tiered" in text else text
        try:
            level = int(text)
        except ValueError:
            raise Invalid(f"option verbose={text} is not a number") from None
        if not ERROR <= level <= DEBUG_5:
            raise Invalid(f"option verbose={level} is not from {ERROR} (errors) to {DEBUG_5} (everything)")
        return level

    def finish(self) -> None:
        """Raises Invalid if anything is left."""
        for name in self._left:
            close = difflib.get_close_matches(name, self.known, n=1)
            raise Invalid(f"unknown option {name}" + (f": did you mean {close[0]}?" if close else ""))


def options_text(options: Mapping[str, object]) -> str:
    """The inverse: ``name=value,…`` as WiredTiger's parser reads it. Raises Invalid for what it cannot hold:
    quotes and line ends."""
    return ",".join(f"{name}={_value_text(name, value)}" for name, value in options.items())


def split_bucket(bucket: str) -> tuple[str, str]:
    """A URL as the option ``buckets`` and the bucket string for WiredTiger, which cannot hold a colon; any
    other bucket string as it is. Raises Invalid for what WiredTiger cannot hold at all."""
    scheme, separator, name = bucket.rpartition("://")
    if not name or not set(name) <= _BARE | frozenset("/;"):
        raise Invalid(
            f"bucket {bucket!r}: WiredTiger's metadata can hold letters, digits and -_./; in its name"
        )
    return scheme + separator, name


def _value_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if text and set(text) <= _BARE:
        return text
    if name == "verbose" and text.startswith("("):
        return text
    if '"' in text or "\\" in text or not text.isprintable():
        raise Invalid(f"option {name}: WiredTiger's configuration cannot hold {text!r}")
    return f'"{text}"'
