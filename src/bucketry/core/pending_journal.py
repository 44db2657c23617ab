"""What a volume's lease says of a journal on some machine's disk that may hold writes the bucket lacks.

The lease gets the record in the same put that takes it, before the first flush is acknowledged, and loses it
when the bucket has everything. So whoever opens the volume knows of every journal that is not drained, even
if its machine is gone. docs/format.md describes the fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bucketry.core.journal import Progress
from bucketry.core.units import format_size

#: Linux's limit for a path (PATH_MAX).
_DIRECTORY_MAX = 4096
#: Linux's limit for a host name is 64; the lease allows 255 everywhere.
_HOST_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingJournal:
    """``tenure`` is the one under which it is written: its head says the same. ``epoch`` and ``drained``: how
    far it had got, as Progress has it; a copy of the directory that does not know that is too old.
    ``pending_bytes``: what it held and the bucket lacked at ``as_of`` (UTC, for people). ``token``: the mount
    token that keeps s3backer away as long as the journal is pending."""

    tenure: str
    host: str
    directory: str
    epoch: int
    drained: int
    pending_bytes: int
    as_of: str
    token: int

    @property
    def progress(self) -> Progress:
        """How far it had got."""
        return Progress(self.epoch, self.drained)

    def __str__(self) -> str:
        return (
            f"the journal in {self.directory} on {self.host} (last heard of at {self.as_of}, when "
            f"{format_size(self.pending_bytes)} of it were not in the bucket)"
        )


def pending_fields(pending: PendingJournal) -> dict[str, object]:
    """As it stands in the lease's JSON."""
    return {
        "tenure": pending.tenure,
        "host": pending.host,
        "directory": pending.directory,
        "epoch": pending.epoch,
        "drained": pending.drained,
        "pending_bytes": pending.pending_bytes,
        "as_of": pending.as_of,
        "token": pending.token,
    }


def pending_from(fields: Any) -> PendingJournal:
    """Back again. Raises KeyError, TypeError or ValueError when it is something else."""
    if not isinstance(fields, Mapping):
        raise TypeError("no object")
    pending = PendingJournal(
        tenure=_text(fields, "tenure", _HOST_MAX),
        host=_text(fields, "host", _HOST_MAX),
        directory=_text(fields, "directory", _DIRECTORY_MAX),
        epoch=_whole(fields, "epoch"),
        drained=_whole(fields, "drained"),
        pending_bytes=_whole(fields, "pending_bytes"),
        as_of=_text(fields, "as_of", _HOST_MAX),
        token=_whole(fields, "token"),
    )
    if not pending.tenure:
        raise ValueError("tenure is empty")
    return pending


def printable_directory(path: str) -> str:
    """A path as it may stand in the lease: what cannot be printed is escaped, and no longer than allowed."""
    text = path.encode("utf-8", "backslashreplace").decode()
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return text[:_DIRECTORY_MAX]


def _text(fields: Mapping[str, Any], name: str, length_max: int) -> str:
    value = fields[name]
    if type(value) is not str or len(value) > length_max or not value.isprintable():
        raise TypeError(name)
    return value


def _whole(fields: Mapping[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or value < 0:
        raise TypeError(name)
    return value
