"""The lease on a volume: the object that says who may write to it, and what follows from it.

Time is the difficulty. Two machines' clocks may differ by anything, so that the time written in a lease tells
people when it was renewed and nothing more. What counts is elapsed time, which every machine can measure for
itself:

* the holder renews every RENEW_SECONDS; when its last successful renewal *began* SAFE_SECONDS ago it stops
  writing, by its own clock;
* another may take the lease when it has *watched* it unchanged for ``duration_seconds``: then the holder has
  not renewed for at least so long, and has stopped.

Clocks that run at the same rate, within RATE_MARGIN, are all this needs.

A lease can also be taken by force, while its holder is alive. He may go on sending until he stops by his own
account, and what he sent last has its time-out to end in: ``duration_seconds`` after the lease was taken from
him he is through. The new holder keeps the lease and does nothing else until then. Should somebody take it
from the new holder meanwhile, the one before may still be writing: so the lease says for how long
(``unsettled_seconds``), and whoever takes it, in whatever way, waits for that as well.

A lease that its holder released, or whose holder is a process of this very machine that has ended, may be
taken at once. Each taking counts the epoch up by one and draws a *tenure*, which is random: whoever finds the
tenure that it left knows that nobody has written since.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from bucketry.core.journal import HEAD_COPY_BYTES, Passed, passed_fields, passed_from
from bucketry.core.pending_journal import PendingJournal, pending_fields, pending_from
from bucketry.errors import Corrupt, Invalid, Unsupported

FORMAT = "bucketry-lease"
#: A program that knows version 1 alone would take a volume over without its pending journal, so a lease with
#: one has version 2, which such a program refuses. All others have version 1.
VERSION = 2
#: A lease is some 500 bytes, a journal's directory up to 4 KiB (escaped: six times that), and what the lease
#: may say of that journal as much as the journal's head could; what is longer is not ours.
SIZE_MAX = (32 << 10) + HEAD_COPY_BYTES
#: A tenure is 128 random bits in hex: two are never the same, also when the bucket is restored from a copy.
_TENURE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ", re.ASCII)
#: How long a lease holds without being renewed. A minute: short enough to take over from a machine that died,
#: long enough for two requests to time out (30 s each) between them.
DURATION_SECONDS = 60.0
#: Six attempts before it ends.
RENEW_SECONDS = 10.0
#: From here on nothing is sent any more. A request that was sent just before has its time-out (30 s) to end
#: in.
SAFE_SECONDS = 30.0
#: Who waits for another to stop waits longer than the other needs by this factor: clocks may differ in their
#: rate by so much, and a store may need a moment for the last request.
RATE_MARGIN = 1.05
#: A day: a lease that claims to hold longer without renewal is a mistake.
_DURATION_MAX_SECONDS = 86400.0
#: Of such leases taken from each other by force.
_UNSETTLED_MAX_SECONDS = 2 * _DURATION_MAX_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How a holder deals with its lease. ``duration_seconds`` is what its lease says, ``request_seconds`` the
    most that one of its requests takes: it must end within the lease. ``look_seconds``: how often another's
    lease is looked at while it is watched."""

    duration_seconds: float = DURATION_SECONDS
    safe_seconds: float = SAFE_SECONDS
    renew_seconds: float = RENEW_SECONDS
    request_seconds: float = DURATION_SECONDS - SAFE_SECONDS
    look_seconds: float = RENEW_SECONDS / 2

    def __post_init__(self) -> None:
        if not 0 < self.renew_seconds < self.safe_seconds:
            raise Invalid("a lease is to be renewed more often than that")
        if not self.safe_seconds + self.request_seconds <= self.duration_seconds <= _DURATION_MAX_SECONDS:
            raise Invalid(
                f"a request that may take {self.request_seconds:g} s does not end within a lease of "
                f"{self.duration_seconds:g} s"
            )


def timing(request_seconds: float, duration_seconds: float | None = None) -> Timing:
    """For requests of up to so many seconds. With a duration the lease is of that, and requests may take half
    of it; otherwise it is of a minute, or as long as the requests need. Raises Invalid when it would be
    longer than a day."""
    if duration_seconds is None:
        needed = SAFE_SECONDS + request_seconds
        return Timing(duration_seconds=max(DURATION_SECONDS, needed), request_seconds=request_seconds)
    half = duration_seconds / 2
    return Timing(
        duration_seconds=duration_seconds,
        safe_seconds=half,
        renew_seconds=duration_seconds / 6,
        request_seconds=min(half, request_seconds),
        look_seconds=duration_seconds / 12,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease. ``boot_id`` and ``start_time`` make a process unmistakable on its machine; ``token``
    is the s3backer mount token that it put beside the lease. ``former_token``: that of the holder
    from whom it took over, 0 when there was none."""

    host: str
    boot_id: str
    pid: int
    start_time: int
    token: int
    former_token: int = 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """The mount tokens that may be beside its lease: until it has put its own, that of its
        predecessor."""
        return (self.token, self.former_token) if self.former_token else (self.token,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the object says. ``holder`` None: released. ``taken`` and ``renewed`` are UTC times like
    ``2026-11-21T19:38:00Z``, for people. ``tenure``: random, new with each taking; what is kept locally is
    tied to it, for ``epoch`` repeats when the bucket is restored from a copy. Empty in older leases.
    ``journal``: one that may hold what the bucket lacks. ``passed``: what the bucket has of that, when it
    cannot say so itself because its disk fails. ``unsettled_seconds``: those who had the lease before
    may still write for so long, from the moment that this was put on."""

    epoch: int
    holder: Holder | None
    taken: str
    renewed: str
    duration_seconds: float = DURATION_SECONDS
    tenure: str = ""
    journal: PendingJournal | None = None
    passed: Passed | None = None
    unsettled_seconds: float = 0.0

    def __str__(self) -> str:
        if self.holder is None:
            return "nobody"
        holder = f"process {self.holder.pid} on {self.holder.host}"
        waits = ", waits for the one before to stop" if self.unsettled_seconds else ""
        return f"{holder} since {self.taken} (lease renewed {self.renewed}{waits})"


def encode(lease: Lease) -> bytes:
    """The lease as it is stored. Raises Invalid when it says too much of a journal."""
    holder = lease.holder
    fields: dict[str, object] = {
        "format": FORMAT,
        "version": 1 if lease.journal is None else VERSION,
        "epoch": lease.epoch,
        "tenure": lease.tenure,
        "holder": None
        if holder is None
        else {
            "host": holder.host,
            "boot_id": holder.boot_id,
            "pid": holder.pid,
            "start_time": holder.start_time,
            "token": holder.token,
            "former_token": holder.former_token,
        },
        "taken": lease.taken,
        "renewed": lease.renewed,
        "duration_seconds": lease.duration_seconds,
    }
    if lease.unsettled_seconds:
        fields["unsettled_seconds"] = lease.unsettled_seconds
    if lease.journal is not None:
        fields["journal"] = pending_fields(lease.journal)
    text = json.dumps(fields, indent=2)
    if lease.passed is not None:
        # On a line of its own, however much is kept.
        text = f'{text[:-2]},\n  "passed": {json.dumps(passed_fields(lease.passed))}\n}}'
        if len(text) >= SIZE_MAX:
            raise Invalid(f"{len(lease.passed.kept)} blocks that cannot be read are too many for a lease")
    return text.encode() + b"\n"


def in_place_of_a_damaged_one(stamp: str, seconds_since_1970: int) -> Lease:
    """What a lease that cannot be read is taken for when it is taken by force: nobody's, and of an epoch that
    is greater than any that it may have had, for epochs count how often it was taken."""
    return Lease(epoch=seconds_since_1970, holder=None, taken=stamp, renewed=stamp)


def decode(body: bytes) -> Lease:
    """Raises Corrupt when it is no lease, Unsupported when it is one of a newer kind. Neither may be taken
    for "free"."""
    if len(body) > SIZE_MAX:
        raise Corrupt(f"it is longer than {SIZE_MAX} bytes")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"it is not JSON: {error}") from error
    if not isinstance(fields, Mapping) or fields.get("format") != FORMAT:
        raise Corrupt("it is not a lease")
    if fields.get("version") not in (1, VERSION):
        raise Unsupported(
            f"version {fields.get('version')!r:.20}; this program knows versions 1 and {VERSION}"
        )
    holder = fields.get("holder")
    try:
        return Lease(
            epoch=_whole(fields, "epoch"),
            holder=None if holder is None else _holder(holder),
            taken=_time(fields, "taken"),
            renewed=_time(fields, "renewed"),
            duration_seconds=_seconds(fields, "duration_seconds", _DURATION_MAX_SECONDS),
            unsettled_seconds=_unsettled(fields),
            tenure=_tenure(fields),
            journal=_pending(fields.get("journal")),
            passed=_passed(fields.get("passed")),
        )
    except (KeyError, TypeError) as error:
        raise Corrupt(f"its field {error} is missing or of the wrong type") from error


def _holder(fields: Mapping[str, object]) -> Holder:
    if not isinstance(fields, Mapping):
        raise TypeError("'holder'")
    return Holder(
        host=_text(fields, "host"),
        boot_id=_text(fields, "boot_id"),
        pid=_whole(fields, "pid"),
        start_time=_whole(fields, "start_time"),
        token=_whole(fields, "token"),
        former_token=_whole(fields, "former_token"),
    )


def _tenure(fields: Mapping[str, object]) -> str:
    value = fields.get("tenure", "")
    if type(value) is not str or (value and _TENURE.fullmatch(value) is None):
        raise TypeError("'tenure'")
    return value


def _pending(fields: object) -> PendingJournal | None:
    try:
        return None if fields is None else pending_from(fields)
    except (KeyError, TypeError, ValueError):
        raise TypeError("'journal'") from None


def _passed(fields: object) -> Passed | None:
    try:
        return None if fields is None else passed_from(fields)
    except (KeyError, TypeError, ValueError):
        raise TypeError("'passed'") from None


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields[name]
    if type(value) is not str or len(value) > 255 or not value.isprintable():
        raise TypeError(repr(name))
    return value


def _time(fields: Mapping[str, object], name: str) -> str:
    value = _text(fields, name)
    if _TIME.fullmatch(value) is None:
        raise TypeError(repr(name))
    return value


def _whole(fields: Mapping[str, object], name: str) -> int:
    value = fields[name]
    if type(value) is not int or value < 0:
        raise TypeError(repr(name))
    return value


def _seconds(fields: Mapping[str, object], name: str, seconds_max: float) -> float:
    value = fields[name]
    if type(value) not in (int, float) or not 0 < float(value) <= seconds_max:  # type: ignore[arg-type]
        raise TypeError(repr(name))
    return float(value)  # type: ignore[arg-type]


def _unsettled(fields: Mapping[str, object]) -> float:
    name = "unsettled_seconds"
    return _seconds(fields, name, _UNSETTLED_MAX_SECONDS) if name in fields else 0.0


def unsettled(seconds: float) -> float:
    """A time that is left, as a lease says it: in milliseconds, rounded up, 0 when it is over."""
    return min(_UNSETTLED_MAX_SECONDS, max(0, math.ceil(seconds * 1000)) / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A lease as it was found, and the ETag of its object; both None where there is none. ``seen_at``: by our
    clock, when it was first seen so. ``has_stopped``: nobody holds it, or its holder surely sends nothing any
    more. ``was_found_at_once``: nobody had to be waited for."""

    lease: Lease | None
    etag: str | None
    seen_at: float
    has_stopped: bool
    was_found_at_once: bool = True

    def settled_at(self, taken_at: float) -> float:
        """By our clock, from when on nobody who had the lease before can still write, when the put that took
        it ended at ``taken_at``."""
        settled_at = max(taken_at, self.settled_without_holder)
        if self.lease is None or self.has_stopped:
            return settled_at
        return max(settled_at, taken_at + RATE_MARGIN * self.lease.duration_seconds)

    @property
    def settled_without_holder(self) -> float:
        """The same, should its holder himself have ended."""
        return self.seen_at + (0.0 if self.lease is None else RATE_MARGIN * self.lease.unsettled_seconds)


def was_renewed_lately(lease: Lease, utc_now: datetime) -> bool:
    """As the clocks of both machines have it."""
    renewed = datetime.strptime(lease.renewed, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return abs((utc_now - renewed).total_seconds()) < lease.duration_seconds


def is_worth_waiting(*, is_this_host: bool, lives_here: bool, was_renewed_lately: bool) -> bool:
    """Whether a lease that somebody holds is likely to end by itself. ``is_this_host``: its holder was on a
    machine of our name; ``lives_here``: he is a process of this very machine, and alive;
    ``was_renewed_lately``: as the clocks have it."""
    # The same name, and none of our processes: this machine, or container, before it started again.
    return not lives_here and (is_this_host or not was_renewed_lately)


class State(Enum):
    """How the holder stands.

    ::

        HELD ----(SAFE_SECONDS without renewal)----> OVERDUE ----(renewed after all)----> HELD
          |                                            |
          '---------(somebody else has it)-------------+----> LOST
    """

    HELD = "held"
    OVERDUE = "overdue"
    LOST = "lost"


class Watch:
    """The holder's own account of its lease. ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, now: float, *, safe_seconds: float = SAFE_SECONDS) -> None:
        self._safe_seconds = safe_seconds
        self._renewed = now
        self._lost = False

    def note_renewed(self, began: float) -> None:
        """A renewal that began at ``began`` has succeeded."""
        self._renewed = max(self._renewed, began)

    def note_lost(self) -> None:
        """Somebody else has it."""
        self._lost = True

    def state(self, now: float) -> State:
        if self._lost:
            return State.LOST
        return State.HELD if now - self._renewed < self._safe_seconds else State.OVERDUE

    def overdue_seconds(self, now: float) -> float:
        """How long ago the last successful renewal began."""
        return now - self._renewed
