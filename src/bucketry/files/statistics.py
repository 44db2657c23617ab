"""What a storage source counts and times; every thread may count, and anybody may look at any time.

The counters that WiredTiger's storage sources keep (both generations of its S3 store, and its directory
store) are among the ``counters``; here every one of them counts what its name says.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from bucketry.core.histogram import LatencyHistogram

#: The methods of sources, file systems and handles, as they are named in the statistics. A ``list_page`` is
#: one after the first of a listing that is read page by page, a ``scrub`` a step of one.
OPERATIONS = (
    "customize", "flush", "flush_finish", "list", "list_single", "list_page", "exist", "size", "open",
    "remove", "sweep", "read", "handle_size", "handle_lock", "close", "scrub",
)  # fmt: skip


class Meter:
    """How often one operation was done, how it ended, how long it took and how many bytes it moved."""

    __slots__ = ("_errors", "_latency", "_lock", "_now", "_size_bytes", "_succeeded_count")

    def __init__(self, now: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._succeeded_count = 0
        self._errors: Counter[str] = Counter()
        self._size_bytes = 0
        self._latency = LatencyHistogram()

    def now(self) -> float:
        return self._now()

    def succeeded(self, started: float, size_bytes: int = 0) -> None:
        """One that began at ``started`` is done."""
        seconds = self._now() - started
        with self._lock:
            self._succeeded_count += 1
            self._size_bytes += size_bytes
            self._latency.add(seconds)

    def failed(self, started: float, kind: type[BaseException]) -> None:
        """One that began at ``started`` has raised."""
        seconds = self._now() - started
        with self._lock:
            self._errors[kind.__name__] += 1
            self._latency.add(seconds)

    @property
    def count(self) -> int:
        """How many have ended."""
        with self._lock:
            return self._succeeded_count + self._errors.total()

    @property
    def succeeded_count(self) -> int:
        with self._lock:
            return self._succeeded_count

    @property
    def size_bytes(self) -> int:
        with self._lock:
            return self._size_bytes

    def statistics(self) -> dict[str, object]:
        with self._lock:
            failed_count = self._errors.total()
            return {
                "count": self._succeeded_count + failed_count,
                "succeeded": self._succeeded_count,
                "failed": failed_count,
                "errors": dict(self._errors),
                "bytes": self._size_bytes,
                "latency": self._latency.statistics(),
            }


class FilesStatistics:
    """One source's. ``now`` is a clock in seconds."""

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._meters = {operation: Meter(now) for operation in OPERATIONS}
        self.read = self._meters["read"]
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def meter(self, operation: str) -> Meter:
        """That of one of OPERATIONS."""
        return self._meters[operation]

    def count(self, name: str, step: int = 1) -> None:
        """Add to a counter without a duration: ``handles_opened`` (opens that another one's open object did
        not answer), ``writes_refused``, ``objects_uploaded``, ``objects_already_there``, …"""
        with self._lock:
            self._counts[name] += step

    def counters(self, object_get_count: int) -> dict[str, int]:
        """All of them; ``object_get_count`` is how often the buckets below were asked for bytes."""
        meters = self._meters
        with self._lock:
            counts = Counter(self._counts)
        named = {
            # As generation A and B of the S3 store have them.
            "list_objects": meters["list"].count + meters["list_single"].count,
            "put_objects": meters["flush"].count,
            "get_objects": object_get_count,
            "object_exists": meters["exist"].count + meters["size"].count,
            "handle_ops": meters["close"].count + meters["handle_size"].count,
            "handle_opens": counts.pop("handles_opened", 0),
            "handle_closes": meters["close"].succeeded_count,
            "handle_reads": meters["read"].count,
            "handle_read_bytes": meters["read"].size_bytes,
            # The directory store's.
            "object_writes": counts.get("objects_uploaded", 0),
            "object_reads": object_get_count,
            "ops": sum(meter.count for meter in meters.values()),
            "read_ops": meters["read"].count,
            "write_ops": counts.get("writes_refused", 0),
        }
        return {**named, **counts}

    def operations(self) -> Mapping[str, object]:
        """Each operation with its figures."""
        return {operation: meter.statistics() for operation, meter in self._meters.items()}
