"""The retry schedule: which failures are tried again, after which pause, and when to give up.

Pauses grow exponentially from the initial one, doubling up to the longest, and each is shortened by full
jitter (a number from 0 to 1, drawn by the caller): clients that failed together do not come back together.
A store that says when to come back (``Retry-After``) is given that time, and the jittered pause on top for
the same reason.

The budget runs from the *first failure*, not from the start of the request: time that a request spent
waiting for its turn or for bandwidth says nothing about the store's health. Its last pause is cut so that
one attempt is made when the budget ends, which also bounds what a store can ask for: a ``Retry-After`` of a
year costs the rest of the budget and no more.

A store that nobody has ever heard of has a budget of its own, a few seconds from the first attempt on: what
keeps it from answering is a mistake more often than an outage, and whoever made it waits for the message. An
attempt that timed out there has used it up.
"""

from bucketry.errors import Corrupt, CredentialsRefused, Unavailable, Unreachable
from bucketry.settings import RetrySettings

#: A body that ended early is usually a broken connection, so it deserves another try; one that is cut three
#: times in a row is more likely cut in the store, and no patience mends that.
CORRUPT_RETRIES_MAX = 2

#: With less than this left the budget is spent. What rounding leaves of it might not even move the clock.
PAUSE_LEAST_SECONDS = 0.001

#: The failures worth another attempt; everything else is an answer.
RetriedError = Unavailable | Corrupt | CredentialsRefused
RETRIED_ERRORS = (Unavailable, Corrupt, CredentialsRefused)


class Retry:
    """The failures of one request so far, and what follows from them."""

    __slots__ = ("_began", "_corrupt_count", "_first_failed", "_settings", "failure_count")

    def __init__(self, settings: RetrySettings, *, began: float) -> None:
        """``began``: when the first attempt was made, by the clock of ``pause_after``."""
        self._settings = settings
        self._began = began
        self._first_failed = 0.0
        self._corrupt_count = 0
        self.failure_count = 0

    def pause_after(self, error: RetriedError, *, now: float, jitter: float) -> float | None:
        """Take note of a failure; how many seconds to wait before the next attempt, or None to give up.

        ``now`` is any clock in seconds that only goes forward, ``jitter`` a number from 0 to 1.
        """
        self.failure_count += 1
        if self.failure_count == 1:
            self._first_failed = now
        wished_seconds = 0.0
        if isinstance(error, Corrupt):
            self._corrupt_count += 1
            if self._corrupt_count > CORRUPT_RETRIES_MAX:
                return None
        elif isinstance(error, Unavailable) and (error.retry_after_seconds or 0.0) > 0:
            wished_seconds = error.retry_after_seconds or 0.0
        left_seconds = self._settings.budget_seconds - self.failing_seconds(now)
        if isinstance(error, Unreachable):
            left_seconds = min(left_seconds, self._settings.first_contact_seconds - (now - self._began))
        if left_seconds < PAUSE_LEAST_SECONDS:
            return None
        return min(wished_seconds + jitter * self._longest_pause_seconds(), left_seconds)

    def failing_seconds(self, now: float) -> float:
        """Time since the first failure."""
        return now - self._first_failed

    def _longest_pause_seconds(self) -> float:
        # Beyond 2**63 the product may overflow to infinity on the way to a minimum that was reached long
        # before.
        doublings = min(self.failure_count - 1, 63)
        return min(self._settings.initial_pause_seconds * 2.0**doublings, self._settings.pause_max_seconds)
