"""The storage source for a real WiredTiger: an extension that its connections load.

::

    import wiredtiger
    from bucketry.files.wiredtiger import configuration

    connection = wiredtiger.wiredtiger_open(
        "home", "create," + configuration("s3://my-bucket", "my-prefix/", cache_size="20G")
    )

From there on WiredTiger's own calls work: ``checkpoint("flush_tier=(enabled)")`` uploads, reads come back.
``docs/wiredtiger.md`` tells the whole story. Needs the extra ``bucketry[wiredtiger]`` and Linux.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from bucketry.errors import Invalid
from bucketry.files.storage_source import StorageSource
from bucketry.files.wiredtiger.callbacks import source_of
from bucketry.files.wiredtiger.library import default_path, library_at
from bucketry.files.wiredtiger.options import Options, options_text, parse_options, split_bucket
from bucketry.files.wiredtiger.orphans import ObjectReport, find_orphans, remove_orphans

__all__ = [
    "ObjectReport",
    "configuration",
    "extension",
    "find_orphans",
    "load",
    "remove_orphans",
    "storage_source",
]


def configuration(
    bucket: str,
    prefix: str,
    *,
    name: str = "bucketry",
    auth_token: str | None = None,
    cache_directory: str | Path | None = None,
    local_retention: int | None = None,
    interval: int | None = None,
    **options: object,
) -> str:
    """What to add to the configuration of ``wiredtiger_open``: the extension and ``tiered_storage``.

    ``bucket`` is a URL (``s3://bucket``), with credentials from where AWS programs look for them, or
    ``name;region`` with ``auth_token`` ``key;secret``. (WiredTiger keeps its configuration in a file of the
    home: a token is on disk then.) ``prefix`` begins the names of this database's objects, and of no
    other's: that is checked when the connection is opened. ``options`` are the extension's, see
    ``docs/wiredtiger.md``.

    Raises what ``extension`` raises.
    """
    buckets, bucket_name = split_bucket(bucket)
    if buckets:
        options.setdefault("buckets", buckets)
    tiered = {
        "name": name,
        "bucket": bucket_name,
        "bucket_prefix": prefix,
        "auth_token": auth_token,
        "cache_directory": cache_directory,
        "local_retention": local_retention,
        "interval": interval,
    }
    loaded = extension(name, bucket_prefix=prefix, **options)
    return f"extensions=[{loaded}],tiered_storage=({options_text(_said(tiered))})"


def extension(name: str = "bucketry", **options: object) -> str:
    """An entry for ``extensions=[…]``, for a storage source that is registered as ``name``.

    Raises Invalid for wrong options, Unsupported on another system than Linux or with a WiredTiger of an
    unknown release, ImportError without WiredTiger.
    """
    given = _said({"name": name, **options})
    text = options_text(given)
    # Here the mistake is an exception with a line, there it would be a number.
    parse_options({key: _plain(value) for key, value in given.items()}, None)
    library = load(default_path())
    return f'"{library}"=(config=({text}))'


def load(path: str | Path, **options: object) -> Path:
    """Make the shared library at ``path`` (written if it is not there) this process's bridge, for programs
    that name the paths of extensions themselves. ``options`` hold where a connection's own say nothing.

    Raises what ``extension`` raises, and OSError.
    """
    given = {key: _plain(value) for key, value in options.items()}
    parse_options(given, None)
    return library_at(Path(path), given, _make_source).path


def storage_source(home: str | Path, name: str = "bucketry") -> StorageSource:
    """That of a connection which is open on ``home`` in this process: for its ``statistics()`` and
    ``prometheus()``. It belongs to the connection.

    Raises Invalid if there is none.
    """
    found = source_of(Path(home).absolute(), name)
    if not isinstance(found, StorageSource):
        raise Invalid(f"no connection on {home} with a storage source {name} is open in this process")
    return found


def _said(options: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in options.items() if value is not None}


def _plain(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _make_source(options: Options, home: Path, hook: Callable[[int, str], None]) -> StorageSource:
    return StorageSource(home, options.files, options.bucket, log=hook)
