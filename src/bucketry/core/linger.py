"""Whether to look on for a moment when no request is there, before going to sleep.

A client that awaits each answer before it asks again is back within some microseconds. To be put to sleep and
woken takes longer than all the rest of a cached read, so it pays to look again for so long. It is done only
while it works: the last pause between two requests decides about the next.
"""

from dataclasses import dataclass

#: As long as being woken takes, on a virtual machine whose processors had gone idle. More would be spent than
#: can be saved.
LINGER_SECONDS = 50e-6
#: A pause of at most this length, being woken included, would have been over while lingering.
QUICK_SECONDS = 2 * LINGER_SECONDS


@dataclass(frozen=True, slots=True)
class LingerStatistics:
    """``paid`` of ``tried`` ended with a request."""

    tried: int
    paid: int


class Linger:
    """Told when requests run out and when there is one again, in seconds of one clock."""

    def __init__(self, *, is_allowed: bool) -> None:
        """``is_allowed``: False never lingers. Where there is one processor, the client could not run
        meanwhile."""
        self._is_allowed = is_allowed
        self._idle_since: float | None = None
        self._was_quick = False
        self._tried = 0
        self._paid = 0

    def idle(self, now: float, *, may_linger: bool = True) -> float:
        """There is no request. Look on until then; ``now`` is not to look on at all."""
        self._idle_since = now
        if not (self._was_quick and may_linger and self._is_allowed):
            return now
        self._tried += 1
        return now + LINGER_SECONDS

    def found(self, now: float, *, lingered: bool) -> None:
        """There is one again, ``lingered`` or woken."""
        if lingered:
            self._paid += 1
        elif self._idle_since is not None:
            self._was_quick = now - self._idle_since <= QUICK_SECONDS

    def statistics(self) -> LingerStatistics:
        return LingerStatistics(self._tried, self._paid)
