"""Whether this machine's clock is another than a store's: stores refuse requests that were signed at another
time, in many words, few of which speak of clocks."""

import http.client
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

#: AWS, Azure and most servers take a quarter of an hour, some five minutes; a Date header has whole seconds,
#: and an answer may take a while.
_OFF_MIN_SECONDS = 240.0
#: The store has just answered: this is one small request more.
_TIMEOUT_SECONDS = 3.0
#: So long what was found is believed: who is refused is refused often.
_KEEP_SECONDS = 30.0


class StoreClock:
    """The clock of the store at ``endpoint``; None: it cannot be asked directly. Called from any thread."""

    def __init__(self, endpoint: str | None) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._ahead_seconds: float | None = None

    def explain(self) -> str | None:
        """Why the store may have refused, if it is for the time; None when the clocks agree, or it cannot be
        told. Blocks for a request."""
        with self._lock:
            if time.monotonic() - self._looked_at > _KEEP_SECONDS:
                self._ahead_seconds = self._look()
                self._looked_at = time.monotonic()
            ahead = self._ahead_seconds
        if ahead is None or abs(ahead) < _OFF_MIN_SECONDS:
            return None
        way = "ahead of" if ahead > 0 else "behind"
        return f"this machine's clock is {_duration(abs(ahead))} {way} the store's: set it right"

    def _look(self) -> float | None:
        """By how much ours is ahead, from the Date of any answer."""
        if self._endpoint is None:
            return None
        parts = urlsplit(self._endpoint)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
            try:
                connection.request("HEAD", "/")
                date = connection.getresponse().getheader("Date")
            finally:
                connection.close()
            theirs = None if date is None else parsedate_to_datetime(date)
        except (OSError, http.client.HTTPException, ValueError):
            return None
        if theirs is None or theirs.tzinfo is None:
            return None
        return (_utc_now() - theirs).total_seconds()


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days"
