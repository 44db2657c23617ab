"""The statistics of a disk for people: what matters on one screen, or every figure under its own name."""

from collections.abc import Iterator, Mapping

from bucketry.cli.reports import shown
from bucketry.core.units import format_seconds, format_size

#: Labels and values stand in columns; the longest label has fewer letters.
_LABEL_WIDTH = 16

_Figures = Mapping[str, object]


def screen(statistics: _Figures) -> Iterator[str]:
    """What there is to see of a disk: at most 24 lines of 80 characters, each with a label of its own."""
    for label, value in _rows(statistics):
        yield f"{label + ':':<{_LABEL_WIDTH}}{value}"[:80]


def every_figure(figures: _Figures, *, but_zeros: bool = False, prefix: str = "") -> Iterator[str]:
    """One line for each figure, under the name by which it is found in the JSON object."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from every_figure(value, but_zeros=but_zeros, prefix=f"{prefix}{name}.")
        elif value or not but_zeros:
            yield f"{prefix}{name}: {shown(name, value)}"


def _rows(statistics: _Figures) -> Iterator[tuple[str, str]]:
    disk = _part(statistics, "disk")
    yield "size", f"{_size(disk, 'size_bytes')} in blocks of {_size(disk, 'block_size_bytes')}"
    yield "stored", f"{_size(disk, 'allocated_bytes')} that are not known to be zero"
    fuse = _part(statistics, "fuse")
    requests = _part(fuse, "requests")
    yield "read", _traffic(fuse, "read_bytes", requests, "read", "immediate_reads")
    yield "written", _traffic(fuse, "written_bytes", requests, "write", "immediate_writes")
    yield from _cache_rows(statistics)
    yield from _journal_row(_part(statistics, "journal"))
    yield from _request_rows(_part(statistics, "bucket"))
    lease = _part(statistics, "lease")
    if lease:
        yield "lease", f"{lease.get('state', '-')}, renewed {_seconds(lease, 'age_seconds')} ago"
    for name in ("cache", "journal"):
        error = _part(statistics, name).get("last_error")
        if error:
            yield f"{name} error", str(error)


def _cache_rows(statistics: _Figures) -> Iterator[tuple[str, str]]:
    cache = _part(statistics, "cache")
    yield "memory", f"{_of(cache, 'held_bytes')}; {_hits(cache, 'read_hits', 'read_misses')}"
    if _part(statistics, "disk").get("read_only") is not True:
        oldest = (
            f", the oldest for {_seconds(cache, 'oldest_dirty_seconds')}" if cache.get("dirty_bytes") else ""
        )
        yield "dirty", f"{_of(cache, 'dirty_bytes')}{oldest}"
        under_way, failed = _count(cache, "uploading_count"), _count(cache, "upload_failures")
        yield "uploads", f"{_count(cache, 'uploads')} blocks; {under_way} under way, {failed} failed"
        yield "flushes", f"{_count(cache, 'flushes')}; {_count(cache, 'flush_failures')} failed"
    kept = _part(statistics, "disk_cache")
    if kept.get("on"):
        yield "disk cache", f"{_of(kept, 'held_bytes')}; {_hits(kept, 'hits', 'misses')}"
    ahead = _part(statistics, "read_ahead")
    fetched, used = (
        _count(ahead, f"{kind}_blocks") + _count(ahead, f"area_{kind}_blocks") for kind in ("fetched", "used")
    )
    yield "read ahead", f"{fetched} blocks, {used} of them used"


def _journal_row(journal: _Figures) -> Iterator[tuple[str, str]]:
    if journal:
        lag, used = _size(journal, "lag_bytes"), _of(journal, "used_bytes")
        yield "journal", f"{journal.get('state', '-')}; {used}, {lag} not yet in the bucket"


def _request_rows(bucket: _Figures) -> Iterator[tuple[str, str]]:
    """One for each kind of request that there was, and one for what was repeated."""
    for name, operation in _part(_part(bucket, "metered"), "operations").items():
        if isinstance(operation, Mapping) and operation.get("count"):
            latency = _part(operation, "latency")
            times = f"median {_seconds(latency, 'p50_seconds')}, longest {_seconds(latency, 'max_seconds')}"
            problems = "".join(f"; {count} {kind}" for kind, count in _part(operation, "errors").items())
            done = f"{_count(operation, 'succeeded')}, {_size(operation, 'bytes')}"
            yield name.replace("_", " "), f"{done}; {times}{problems}"
    retrying = _part(bucket, "retrying")
    yield "retries", f"{_count(retrying, 'retries')}; given up {_count(retrying, 'exhausted')} times"


def _traffic(fuse: _Figures, bytes_name: str, requests: _Figures, kind: str, at_once: str) -> str:
    count = _count(requests, kind)
    return f"{_size(fuse, bytes_name)} in {count} requests, {_count(fuse, at_once)} answered at once"


def _hits(figures: _Figures, hits: str, misses: str) -> str:
    found, missed = _count(figures, hits), _count(figures, misses)
    share = f" ({100 * found // (found + missed)} %)" if found + missed else ""
    return f"{found} of {found + missed} reads found there{share}"


def _of(figures: _Figures, name: str) -> str:
    """``name`` and its limit."""
    limit = "size_bytes_max" if name == "used_bytes" else f"{name}_max"
    return f"{_size(figures, name)} of {_size(figures, limit)}"


def _part(figures: _Figures, name: str) -> _Figures:
    part = figures.get(name)
    return part if isinstance(part, Mapping) else {}


def _count(figures: _Figures, name: str) -> int:
    value = figures.get(name)
    return value if isinstance(value, int) else 0


def _size(figures: _Figures, name: str) -> str:
    return format_size(_count(figures, name))


def _seconds(figures: _Figures, name: str) -> str:
    value = figures.get(name)
    return format_seconds(value) if isinstance(value, int | float) else "-"
