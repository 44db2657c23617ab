"""A histogram of latencies in fixed buckets, so that any two can be merged and adding costs one bisection.

The bounds go from 50 µs to 100 s, each √2 times the one before: a percentile is told to within 41 %, in 44
numbers.
"""

from bisect import bisect_left
from collections.abc import Iterator

#: Less than a round trip on one machine; nothing that asks a store is faster.
_LEAST_SECONDS = 50e-6
#: Longer than any time-out of a request.
_MOST_SECONDS = 100.0


def _bounds() -> Iterator[float]:
    exponent = 0
    while (bound := _LEAST_SECONDS * 2 ** (exponent / 2)) < _MOST_SECONDS:
        yield bound
        exponent += 1
    yield _MOST_SECONDS


#: Upper bounds, inclusive; one more bucket takes what is longer still.
BOUNDS_SECONDS: tuple[float, ...] = tuple(_bounds())


class LatencyHistogram:
    """How often which latency was seen."""

    __slots__ = ("counts", "max_seconds", "total_seconds")

    def __init__(self) -> None:
        #: One for each of BOUNDS_SECONDS, and one for what lies beyond.
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.total_seconds = 0.0
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.total_seconds += seconds
        if seconds > self.max_seconds:
            self.max_seconds = seconds

    def merge(self, other: "LatencyHistogram") -> None:
        """Add all that ``other`` has seen."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.total_seconds += other.total_seconds
        self.max_seconds = max(self.max_seconds, other.max_seconds)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def percentile_seconds(self, fraction: float) -> float:
        """A latency that at least ``fraction`` (0 to 1) of those seen did not exceed: a bucket's upper
        bound, but never more than the longest seen. 0 when nothing was seen."""
        wanted = fraction * self.count
        reached = 0
        for bound, count in zip(BOUNDS_SECONDS, self.counts[:-1], strict=True):
            reached += count
            if reached >= wanted and reached:
                return min(bound, self.max_seconds)
        return self.max_seconds

    def statistics(self) -> dict[str, float]:
        """``count``, ``total_seconds``, and ``mean``, ``p50``, ``p90``, ``p99``, ``max``, in seconds."""
        count = self.count
        return {
            "count": count,
            "total_seconds": self.total_seconds,
            "mean_seconds": self.total_seconds / count if count else 0.0,
            "p50_seconds": self.percentile_seconds(0.50),
            "p90_seconds": self.percentile_seconds(0.90),
            "p99_seconds": self.percentile_seconds(0.99),
            "max_seconds": self.max_seconds,
        }
