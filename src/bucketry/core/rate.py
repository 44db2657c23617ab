"""A token bucket that may go into debt: so many bytes per second on average, whatever the size of one body.

A body may start when there is no debt, and is charged whole. So a body of any size passes, the next one
waits until it is paid for, and what is known only afterwards (how large an object was) can be charged
afterwards.
"""

import math

#: What may be saved up while idle: a quarter of a second at full rate. Enough that waking up late loses
#: nothing, too little to be felt by others on the line.
SAVED_SECONDS_MAX = 0.25


class Rate:
    """``bytes_per_second`` (above 0) on average; ``now`` is any clock in seconds that only goes forward."""

    __slots__ = ("_balance_bytes", "_bytes_per_second", "_now")

    def __init__(self, bytes_per_second: float) -> None:
        assert bytes_per_second > 0
        self._bytes_per_second = bytes_per_second
        self._balance_bytes = 0.0
        self._now = -math.inf  # idle for ever before: it starts with all that can be saved

    def wait_seconds(self, now: float) -> float:
        """How long until the debt is paid; 0 when there is none."""
        self._save(now)
        # A debt of less than one byte is rounding, and a pause that short might not move the clock at all.
        return -self._balance_bytes / self._bytes_per_second if self._balance_bytes <= -1 else 0.0

    def charge(self, size_bytes: int, now: float) -> None:
        """Take ``size_bytes``, into debt if need be."""
        self._save(now)
        self._balance_bytes -= size_bytes

    def _save(self, now: float) -> None:
        saved_bytes = self._balance_bytes + (now - self._now) * self._bytes_per_second
        self._balance_bytes = min(saved_bytes, SAVED_SECONDS_MAX * self._bytes_per_second)
        self._now = now
