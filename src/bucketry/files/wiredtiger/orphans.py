"""Objects in the bucket that no table of a database refers to, and tables' objects that are not there.

Orphans are what a dropped table left (``remove_shared=false``), or a crash in the middle of a drop. They cost
money and their names cannot be used again; otherwise they do no harm. The search only lists; removing is a
call of its own, which looks again first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bucketry.files.config_text import read_options
from bucketry.files.wiredtiger.owner import OBJECT_NAME


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """What was found under one bucket prefix. Names are with the prefix."""

    bucket: str
    prefix: str
    #: Objects with names as WiredTiger gives them, which the metadata does not have.
    orphans: tuple[str, ...]
    #: Flushed according to the metadata, and not in the bucket: their pages cannot be read once the local
    #: file has gone.
    missing: tuple[str, ...]
    #: Referred to, and there.
    found_count: int
    #: Other names: none of WiredTiger's, and none of our business.
    foreign: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    bucket: str
    prefix: str


def find_orphans(
    connection: Any,
    name: str = "bucketry",
    *,
    auth_token: str | None = None,
    bucket: str = "",
    prefix: str = "",
) -> list[ObjectReport]:
    """Compare buckets with the metadata of an open ``wiredtiger.Connection``.

    ``name`` is the storage source's. Looked at is every bucket prefix that the metadata of tables names, and
    ``bucket`` with ``prefix``, as WiredTiger was told them, in case that no table is left. Tables may be used
    meanwhile. Raises ``wiredtiger.WiredTigerError``.
    """
    session = connection.open_session()
    try:
        places = {place for _, place, _ in _objects(session)}
        if bucket:
            places.add(_Place(bucket, prefix))
        reports = []
        for place in sorted(places):
            # The bucket first: an object that appears in it meanwhile was in the metadata before that.
            with _BucketOf(connection, session, name, place, auth_token) as files:
                names = files.fs_directory_list(session, place.prefix, "")
            reports.append(_compare(place, [place.prefix + found for found in names], session))
        return reports
    finally:
        session.close()


def remove_orphans(
    connection: Any, report: ObjectReport, name: str = "bucketry", *, auth_token: str | None = None
) -> list[str]:
    """Remove the orphans of a report, as far as they are orphans still; their names. Only for the database
    that alone uses the prefix: what another one has there is in no metadata here.

    Raises ``wiredtiger.WiredTigerError``.
    """
    place = _Place(report.bucket, report.prefix)
    session = connection.open_session()
    try:
        now = _compare(place, list(report.orphans), session)
        with _BucketOf(connection, session, name, place, auth_token) as files:
            for orphan in now.orphans:
                # As before a create: this is where another database's prefix is refused.
                files.fs_directory_list(session, place.prefix, orphan.removeprefix(place.prefix))
                files.fs_remove(session, orphan, 0)
        return list(now.orphans)
    finally:
        session.close()


def _compare(place: _Place, listed: list[str], session: Any) -> ObjectReport:
    here = {name: flushed for name, its_place, flushed in _objects(session) if its_place == place}
    present = set(listed)
    return ObjectReport(
        place.bucket,
        place.prefix,
        orphans=tuple(sorted(name for name in present - set(here) if OBJECT_NAME.search(name))),
        missing=tuple(sorted(name for name, flushed in here.items() if flushed and name not in present)),
        found_count=len(present & set(here)),
        foreign=tuple(sorted(name for name in present if not OBJECT_NAME.search(name))),
    )


def _objects(session: Any) -> Iterator[tuple[str, _Place, bool]]:
    """Every object of the metadata: its name with the prefix, its place, and whether it was flushed."""
    cursor = session.open_cursor("metadata:")
    try:
        for key, value in cursor:
            if not key.startswith("object:"):
                continue
            config = read_options(value)
            tiered = read_options(config.get("tiered_storage"))
            place = _Place(tiered.get("bucket", ""), tiered.get("bucket_prefix", ""))
            flushed = config.get("flush_time", "0") not in ("", "0")
            yield place.prefix + key.removeprefix("object:"), place, flushed
    finally:
        cursor.close()


class _BucketOf:
    """A file system of the connection's storage source, for a while."""

    def __init__(
        self, connection: Any, session: Any, name: str, place: _Place, auth_token: str | None
    ) -> None:
        self._session = session
        self._source = connection.get_storage_source(name)
        try:
            self._files = self._source.ss_customize_file_system(session, place.bucket, auth_token, None)
        except BaseException:
            self._source.terminate(session)
            raise

    def __enter__(self) -> Any:
        return self._files

    def __exit__(self, *_: object) -> None:
        self._files.terminate(self._session)
        self._source.terminate(self._session)
