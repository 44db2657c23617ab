"""What commands tell about volumes and statistics: plain mappings for programs, lines for people."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bucketry.core.units import format_seconds, format_size

if TYPE_CHECKING:
    from bucketry.assemble import VolumeInfo
    from bucketry.disk.holding import Holding


def volume_report(info: "VolumeInfo") -> dict[str, object]:
    """What a volume says of itself, for JSON."""
    described = info.format
    return {
        "url": info.url,
        "kind": info.kind,
        "size_bytes": described.size_bytes,
        "block_size_bytes": described.block_size_bytes,
        "compression": described.compression,
        "compression_level": described.compression_level,
        "cipher": described.cipher,
        "key_length": described.key_length,
        "block_hash_prefix": described.block_hash_prefix,
        "volume_id": info.volume_id,
        "created": info.created,
        "mounted_by": info.mounted_by,
        "lease": _lease_report(info.holding),
        "pending_journal": _journal_report(info.holding),
    }


def _journal_report(holding: "Holding") -> dict[str, object] | None:
    """A journal that may hold what the bucket lacks; None: there is none."""
    journal = holding.journal
    if journal is None:
        return None
    return {
        "host": journal.host,
        "directory": journal.directory,
        "pending_bytes": journal.pending_bytes,
        "as_of": journal.as_of,
    }


def _lease_report(holding: "Holding") -> dict[str, object] | None:
    """The lease of a volume; None where none was ever taken."""
    lease = holding.lease
    if lease is None:
        return None
    holder = lease.holder
    if holder is None:
        return {"state": "free", "epoch": lease.epoch}
    return {
        "state": "left by a process that has ended" if holding.has_ended else "held",
        "epoch": lease.epoch,
        "host": holder.host,
        "pid": holder.pid,
        "since": lease.taken,
        "renewed": lease.renewed,
    }


def summary(volume: Mapping[str, object]) -> str:
    """A volume in a few words."""
    words = [f"{_size(volume['size_bytes'])} in blocks of {_size(volume['block_size_bytes'])}"]
    if volume["compression"] != "none":
        words.append(str(volume["compression"]))
    if volume["cipher"] is not None:
        words.append(str(volume["cipher"]))
    return ", ".join(words)


def lines(report: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """A report for people: one line for each entry, nested ones indented. What is None is left out."""
    for name, value in report.items():
        short = name.removesuffix("_bytes")
        # Two lines never have one label.
        label = (name if short in report else short).replace("_", " ")
        if isinstance(value, Mapping):
            yield f"{indent}{label}:"
            yield from lines(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            yield f"{indent}{label}: {'; '.join(value)}"
        elif isinstance(value, list):
            yield f"{indent}{label}: {len(value)} entries"
        elif value is not None:
            yield f"{indent}{label}: {shown(name, value)}"


def shown(name: str, value: object) -> str:
    """A value for people; its name says the unit."""
    words = name.split("_")
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and "bytes" in words:
        return format_size(value)
    if isinstance(value, int | float) and "seconds" in words:
        return format_seconds(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _size(value: object) -> str:
    assert isinstance(value, int)
    return format_size(value)
