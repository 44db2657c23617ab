"""A model of the line between client and server: how long a request is on its way, and how many bytes pass.

Times are seconds on any clock that only goes forward; nothing waits here.
"""

from dataclasses import dataclass
from random import Random

#: How much of a late wake-up is made up for. Timers have a resolution of a millisecond; without this, each
#: slice of a body would lose half of one.
_CATCH_UP_SECONDS = 0.01
#: A slice of a paced body: so much of a second, within these bounds.
_SLICE_SECONDS = 0.02
_SLICE_BYTES_MIN = 1 << 10
_SLICE_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LineModel:
    """``latency_seconds`` of each request, half on the way there and half on the way back, and up to
    ``jitter_seconds`` more. Rates are bytes per second in each direction, of each connection and of all
    together; None is without limit."""

    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    connection_bytes_per_second: float | None = None
    total_bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        if not (self.latency_seconds >= 0 and self.jitter_seconds >= 0):
            raise ValueError("latency and jitter are not below 0")
        for rate in (self.connection_bytes_per_second, self.total_bytes_per_second):
            if rate is not None and not rate > 0:
                raise ValueError(f"bytes per second {rate} is not above 0")

    @property
    def is_paced(self) -> bool:
        return self.connection_bytes_per_second is not None or self.total_bytes_per_second is not None

    def draw_latency(self, random: Random) -> float:
        return self.latency_seconds + (random.uniform(0, self.jitter_seconds) if self.jitter_seconds else 0.0)


NO_LINE = LineModel()


class Pace:
    """Bytes pass one after the other at ``bytes_per_second``."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def reserve(self, size_bytes: int, now: float) -> float:
        """When ``size_bytes`` that are sent now, behind all that were before, have passed."""
        if self.bytes_per_second is None:
            return now
        self._free_at = max(self._free_at, now - _CATCH_UP_SECONDS) + size_bytes / self.bytes_per_second
        return self._free_at

    def slice_bytes(self) -> int:
        """How many bytes to send at once."""
        rate = self.bytes_per_second
        if rate is None:
            return _SLICE_BYTES_MAX
        return max(_SLICE_BYTES_MIN, min(_SLICE_BYTES_MAX, int(rate * _SLICE_SECONDS)))
