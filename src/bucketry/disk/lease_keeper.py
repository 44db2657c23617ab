"""Holding a volume's lease: taken, renewed, watched over and given back.

What may be done when is decided in ``core.lease``. While the lease cannot be renewed in time, or is lost,
``check`` raises Fenced; the bucket that blocks go to asks it before every change. A lease that was taken from
somebody who may be alive is settled first: until he must have stopped nothing is read or written.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bucketry.bucket.conditions import warn_once
from bucketry.bucket.interface import Attributes, Bucket, Condition, IfAbsent, IfMatch
from bucketry.core import lease as rules
from bucketry.core.journal import Passed, Progress
from bucketry.core.lease import Holder, Lease, State, Timing, Turn, Watch
from bucketry.core.names import LEASE_NAME
from bucketry.core.pending_journal import PendingJournal
from bucketry.disk import machine
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Busy,
    Corrupt,
    Fenced,
    Invalid,
    JournalPending,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
)
from bucketry.layout.together import both
from bucketry.settings import Patience

_log = logging.getLogger(__name__)
#: Whoever waits at a terminal should know what for: the command line shows what this logger is told.
_notices = logging.getLogger("bucketry.notices")

#: Of no object: stores make theirs of digests and numbers.
_NO_ETAG = '"bucketry-no-such-etag"'
_USUAL, _NO_FORCE = Timing(), Patience()
_ATTRIBUTES = Attributes(content_type="application/json")
#: Two processes that take a free lease at once: one of them meets the other's, once. More often, something is
#: wrong.
_TAKE_ATTEMPTS_MAX = 3
#: A put of ours that nobody waits for any more may come between a look at the lease and the next put, once.
_REPLACE_ATTEMPTS_MAX = 3


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _stamp(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


async def read_lease(
    bucket: Bucket, prefix: str, *, in_place_of_damaged: Lease | None = None
) -> tuple[Lease | None, str | None]:
    """The lease of the volume under ``prefix`` and its ETag, both None where there is none. Raises Corrupt,
    unless a lease is given ``in_place_of_damaged`` ones, or Unsupported when it cannot be understood."""
    key = prefix + LEASE_NAME
    try:
        found = await bucket.get(key)
    except BucketNotFound:
        raise
    except NotFound:
        return None, None
    try:
        return rules.decode(bytes(found.data)), found.info.etag
    except Unsupported as error:
        raise Unsupported(f"lease {key} in {bucket.url}: {error}") from error
    except Corrupt as error:
        if in_place_of_damaged is not None:
            return in_place_of_damaged, found.info.etag
        raise Corrupt(
            f"lease {key} in {bucket.url}: {error}; "
            "if nobody uses the volume, bucketry unlock --force frees it"
        ) from error


def new_tenure() -> str:
    """A random tenure: 128 bits in hex."""
    return secrets.token_hex(16)


async def _find_nobody() -> str | None:
    return None


def _no_journal(_as_of: str) -> PendingJournal | None:
    return None


def pending_journal(url: str, journal: PendingJournal) -> JournalPending:
    """The refusal to open the volume at ``url`` without a journal that may hold what the bucket lacks."""
    return JournalPending(
        f"{url}: flushed writes may be only in {journal}; attach it there with --cache-dir, "
        "or give them up with bucketry attach --force"
    )


class LeaseKeeper:
    """The lease of one volume, held by this process from ``take`` to ``release``.

    ``bucket`` is one that no fence bars and whose requests wait for no others. ``now`` and ``sleep`` measure
    elapsed time, ``utc_now`` is the time for people; ``has_ended`` tells of processes of this machine.
    ``tenure`` is what this holding is to be known by, a new one by default. ``journal`` tells, given the time
    for people, what the lease is to say of our journal. ``replays``: the tenure of a pending journal that we
    have, and will see to; with any other one the volume is not taken, unless by force.
    """

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        me: Holder,
        *,
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        utc_now: Callable[[], datetime] = _utc_now,
        has_ended: Callable[[Holder], bool] = machine.has_ended,
        on_lost: Callable[[Fenced], None] | None = None,
        timing: Timing = _USUAL,
        tenure: str | None = None,
        journal: Callable[[str], PendingJournal | None] = _no_journal,
        replays: str = "",
        passed: Passed | None = None,
    ) -> None:
        self._bucket = bucket
        self.tenure = tenure or new_tenure()
        self._journal = journal
        self._replays = replays
        self._passed = passed
        self._key = prefix + LEASE_NAME
        self._prefix = prefix
        self._me = me
        self._now = now or asyncio.get_running_loop().time
        self._sleep = sleep
        self._utc_now = utc_now
        self._has_ended = has_ended
        self._on_lost = on_lost
        self._lease: Lease | None = None
        self._etag = ""
        #: One put of the lease at a time: each needs the ETag of the one before.
        self._lock = asyncio.Lock()
        self._timing = timing
        self._find_intruder: Callable[[], Coroutine[Any, Any, str | None]] = _find_nobody
        self._intruder: str | None = None
        #: The lease as it was last found to be ours in the bucket.
        self._seen_ours = b""
        self._watch = Watch(0.0)
        #: What was taken, and until when those who had it before may still write; None: nobody does any more.
        self._turn: Turn | None = None
        self._settled_at: float | None = None
        self._conditional = True
        self._task: asyncio.Task[None] | None = None
        #: When the last attempt to renew it ended.
        self._tried_at = 0.0
        self._renewals = 0
        self._failures = 0
        self._was_overdue = False
        #: The epoch that the lease had before, and the token of whoever held it then; None: there was none.
        self.previous: Lease | None = None

    @property
    def epoch(self) -> int:
        """Of this holding; one more than the previous one's."""
        assert self._lease is not None, "the lease has been taken"
        return self._lease.epoch

    @property
    def journal_told(self) -> Progress:
        """How far our journal has got, as the lease says."""
        journal = None if self._lease is None else self._lease.journal
        return Progress(0, 0) if journal is None else journal.progress

    @property
    def has_pending_journal(self) -> bool:
        """Whether the lease is to say that a journal may hold what the bucket lacks."""
        return self._journal("") is not None

    @property
    def conditional(self) -> bool:
        """Whether the store keeps conditions, so that only one of two can take the lease."""
        return self._conditional

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has it by now."""
        return self._watch.state(self._now()) is State.LOST

    async def take(self, turn: Turn | None = None, *, patience: Patience = _NO_FORCE) -> None:
        """Take the lease and begin to renew it; ``probe`` and ``settle`` it next. ``turn`` is what
        ``wait_for_turn`` gave. Raises Busy when somebody has it; and JournalPending when a journal that we do
        not have may hold what the bucket lacks, unless ``patience.force``."""
        for _ in range(_TAKE_ATTEMPTS_MAX):
            turn = turn or await self._look()
            found = turn.lease
            self._check_journal(found, has_stopped=turn.has_stopped, force=patience.force)
            if not (turn.has_stopped or patience.takes):
                raise Busy(f"{self._bucket.url}/{self._prefix}: in use by {found}")
            if found is not None and found.holder is not None:
                _log.warning("%s: taking over the lease of %s", self._bucket.url, found)
            if await self._try_to_take(turn, waits=not patience.old_host_is_dead):
                self.previous = found
                self._task = asyncio.get_running_loop().create_task(self._renew_for_ever())
                return
            turn = None
        raise Busy(f"{self._bucket.url}/{self._prefix}: somebody else keeps taking the volume's lease")

    async def _look(self) -> Turn:
        found, etag = await read_lease(self._bucket, self._prefix)
        is_free = found is None or found.holder is None or self._has_ended(found.holder)
        return Turn(lease=found, etag=etag, seen_at=self._now(), has_stopped=is_free)

    def _check_journal(self, found: Lease | None, *, has_stopped: bool, force: bool) -> None:
        """Raises JournalPending when the lease names a journal that we do not have."""
        if found is None or found.journal is None or found.journal.tenure == self._replays:
            return
        if force:
            _log.warning("%s/%s: giving up %s", self._bucket.url, self._prefix, found.journal)
        elif has_stopped or not rules.was_renewed_lately(found, self._utc_now()):
            raise pending_journal(f"{self._bucket.url}/{self._prefix}", found.journal)

    async def _try_to_take(self, turn: Turn, *, waits: bool) -> bool:
        """Whether it is ours now. ``waits``: until its former holders must have stopped."""
        found, etag = turn.lease, turn.etag
        now = _stamp(self._utc_now())
        began = self._now()
        # As long as a holder of whom nobody knows how long he needs, for who reads this lease next.
        settled_at = turn.settled_at(began) if waits else began
        wanted = Lease(
            epoch=1 if found is None else found.epoch + 1,
            holder=self._me,
            taken=now,
            renewed=now,
            tenure=self.tenure,
            journal=self._journal(now),
            passed=self._passed,
            duration_seconds=self._timing.duration_seconds,
            unsettled_seconds=rules.unsettled(settled_at - began),
        )
        condition: Condition = IfAbsent() if etag is None else IfMatch(etag)
        try:
            self._etag = await self._put(wanted, condition)
        except (AlreadyExists, PreconditionFailed):
            return False
        except Unsupported:
            self._conditional = False
            self._etag = await self._put(wanted, None)
        self._lease = wanted
        self._watch = Watch(began, safe_seconds=self._timing.safe_seconds)
        if wanted.unsettled_seconds:
            self._turn = turn
            # The former holder may have renewed his lease until ours was there.
            self._settled_at = turn.settled_at(self._now())
        return True

    @property
    def is_settled(self) -> bool:
        """Whether nobody who had the lease before can still write."""
        return self._settled_at is None

    @property
    def has_waited(self) -> bool:
        """Whether somebody may still have written after the lease was taken."""
        return self._turn is not None

    @property
    def _unsettled_seconds(self) -> float:
        return 0.0 if self._settled_at is None else rules.unsettled(self._settled_at - self._now())

    async def settle(self, says_how_to_skip: str = "") -> None:
        """Wait until nobody who had the lease before can still write; returns at once where there is nobody.
        Raises Fenced when the lease is lost meanwhile."""
        if self._settled_at is None:
            return
        assert self._turn is not None, "it was taken"
        where, former = f"{self._bucket.url}/{self._prefix}", self.previous
        seconds = max(0.0, self._settled_at - self._now())
        until = datetime.now(UTC).astimezone() + timedelta(seconds=seconds)
        holder = None if former is None else former.holder
        _notices.warning(
            "%s: taken over from %s, which may still be writing; waiting %.0f s, until %s, for it to stop%s",
            where, "another host" if holder is None else former, seconds, f"{until:%H:%M:%S}",
            says_how_to_skip,
            extra={"seconds": seconds},
        )  # fmt: skip
        while (left := self._settled_at - self._now()) > 0:
            if self.is_lost:
                raise self._fenced()
            if holder is not None and self._has_ended(holder):
                # What those before him still write is all there is to wait for.
                holder = None
                self._settled_at = min(self._settled_at, self._turn.settled_without_holder)
                continue
            await self._sleep(min(left, self._timing.look_seconds))
        self._settled_at = None
        # Whoever takes the lease next need not wait; and it is surely still ours.
        try:
            await self.tell_journal()
        except Fenced:
            raise
        except BucketryError as error:
            _log.warning("%s: the volume's lease could not be renewed: %s", self._bucket.url, error)
        self.check()

    def watch_for(self, find_intruder: Callable[[], Coroutine[Any, Any, str | None]]) -> None:
        """From now on ask with every renewal who else writes to the volume though the lease is ours; None:
        nobody. Somebody who does has taken the volume."""
        self._find_intruder = find_intruder

    async def probe(self) -> None:
        """Find out whether the store really keeps conditions: puts that must be refused."""
        async with self._lock:
            if self._conditional:
                conditions = self._bucket.conditions
                conditions.kept = await self._refuses(IfAbsent())
                self._conditional = conditions.kept
                if self._conditional and conditions.differ:
                    # A store may keep the one and not the other.
                    self._conditional = await self._refuses(IfMatch(_NO_ETAG))
            if self._conditional:
                return
        warn_once(
            self._bucket.conditions,
            "%s does not keep to the condition of a put (If-None-Match, If-Match): of two hosts that attach "
            "one volume at the same moment both may write to it, for up to %.0f s",
            self._bucket.url,
            rules.RENEW_SECONDS,
        )

    async def _refuses(self, condition: Condition) -> bool:
        """Whether a put that does not meet ``condition`` is refused; it would change nothing."""
        assert self._lease is not None
        try:
            self._etag = await self._put(self._lease, condition)
        except (AlreadyExists, PreconditionFailed):
            return True
        except Unsupported:
            pass
        return False

    async def _put(self, lease: Lease, condition: Condition) -> str:
        return await self._bucket.put(
            self._key, rules.encode(lease), attributes=_ATTRIBUTES, condition=condition
        )

    async def _renew_for_ever(self) -> None:
        while not self.is_lost:
            await self._sleep(self._timing.renew_seconds)
            await self._renew()
            self._tell()

    async def _renew(self) -> None:
        began = self._now()
        try:
            _, intruder = await both(self._renewed_alone(), self._find_intruder())
        except PreconditionFailed:
            self._failures += 1
            self._lose()
        except BucketryError as error:
            self._failures += 1
            _log.warning("%s: the volume's lease could not be renewed: %s", self._bucket.url, error)
        else:
            if intruder is not None:
                self._lose(intruder)
                return
            self._watch.note_renewed(began)
            self._renewals += 1
        finally:
            self._tried_at = self._now()

    async def assure(self) -> None:
        """For who is about to promise something without asking the bucket. After this process stood still,
        and its lease is overdue, find out first whether it is still ours. Raises Fenced when it is not."""
        now = self._now()
        has_stood_still = now - self._tried_at >= self._timing.safe_seconds
        if has_stood_still and self._watch.state(now) is State.OVERDUE:
            await self._renew()
        if self.is_lost:
            raise self._fenced()

    async def _renewed_alone(self) -> None:
        async with self._lock:
            assert self._lease is not None
            await self._renewed(self._lease.epoch)

    def _lose(self, intruder: str | None = None) -> Fenced:
        """The volume is somebody else's: from now on nothing more is written."""
        if not self.is_lost:
            self._intruder = intruder
            self._watch.note_lost()
            error = self._fenced()
            _log.critical("%s", error)
            if self._on_lost is not None:
                self._on_lost(error)
        return self._fenced()

    async def tell_journal(self) -> None:
        """Let the lease say now what ``journal`` tells, without waiting for the next renewal. Raises Fenced
        when somebody else has the lease, and what a put raises."""
        assert self._lease is not None
        async with self._lock:
            try:
                await self._renewed(self._lease.epoch)
            except PreconditionFailed as error:
                raise self._lose() from error

    async def forget_journal(self) -> None:
        """Let the lease say that no journal is pending. Raises as ``tell_journal`` does."""
        assert self._lease is not None
        # Whatever becomes of this put, which may arrive without an answer: it is never pending again.
        self._journal = _no_journal
        self._lease = replace(self._lease, passed=None)
        await self.tell_journal()

    async def note_passed(self, passed: Passed) -> None:
        """Let the lease say what the bucket has of our journal. Raises Fenced when somebody else has the
        lease, Invalid when there is too much to say."""
        assert self._lease is not None
        async with self._lock:
            before = self._lease
            self._lease = replace(before, passed=passed)
            try:
                await self._renewed(before.epoch)
            except PreconditionFailed as error:
                raise self._lose() from error
            except Invalid:
                self._lease = before  # or it could not be renewed any more
                raise

    async def _renewed(self, epoch: int) -> None:
        """Put our lease anew. Raises PreconditionFailed when it is not ours any more."""
        assert self._lease is not None
        stamp = _stamp(self._utc_now())
        renewed = replace(
            self._lease,
            epoch=epoch,
            renewed=stamp,
            journal=self._journal(stamp),
            unsettled_seconds=self._unsettled_seconds,
        )
        await self._replace(renewed)
        self._lease = renewed

    async def _replace(self, wanted: Lease) -> None:
        """Put ``wanted`` over our lease. Raises PreconditionFailed when it is not ours any more."""
        if not self._conditional:
            await self._find_ours()
        for _ in range(_REPLACE_ATTEMPTS_MAX):
            try:
                self._etag = await self._put(wanted, IfMatch(self._etag) if self._conditional else None)
            except PreconditionFailed:
                # An earlier put of ours may have arrived though its answer never did. Then the object is ours
                # all the same.
                self._etag = await self._find_ours()
            else:
                return
        raise Unavailable(f"{self._bucket.url}/{self._key} changes again and again, and stays ours")

    async def _find_ours(self) -> str:
        """The ETag of the lease. Raises PreconditionFailed when it is somebody else's."""
        found, etag = await read_lease(self._bucket, self._prefix)
        if found is None or etag is None or (found.tenure, found.holder) != (self.tenure, self._me):
            raise PreconditionFailed("the lease is somebody else's")
        return etag

    def _tell(self) -> None:
        """Say it once when the lease gets overdue, and once when it is held again."""
        state = self._watch.state(self._now())
        overdue = state is State.OVERDUE
        if overdue and not self._was_overdue:
            _log.error("%s", self._fenced())
        elif self._was_overdue and state is State.HELD:
            _log.warning("%s/%s: the lease is held again", self._bucket.url, self._prefix)
        self._was_overdue = overdue

    def is_ours(self, body: bytes | None) -> bool:
        """Whether a lease as it is stored is this holding's. Called from any thread."""
        if body is None:
            return False
        if body != self._seen_ours:
            try:
                if rules.decode(body).tenure != self.tenure:
                    return False
            except (Corrupt, Unsupported):
                return False
            self._seen_ours = body
        return True

    def check(self) -> None:
        """Raises Fenced unless the lease is surely ours for as long as a request takes."""
        if self._watch.state(self._now()) is not State.HELD:
            raise self._fenced()

    def _fenced(self) -> Fenced:
        where = f"{self._bucket.url}/{self._prefix}"
        if self._intruder is not None:
            return Fenced(f"{where}: {self._intruder}; nothing more is written to it")
        if self.is_lost:
            return Fenced(f"{where}: somebody else has taken the volume over; nothing more is written to it")
        seconds = self._watch.overdue_seconds(self._now())
        return Fenced(
            f"{where}: the lease could not be renewed for {seconds:.0f} s; nothing is written until it can"
        )

    async def release(self) -> None:
        """Stop renewing, and give the lease back unless it is lost. Raises when that fails; it then ends by
        itself."""
        await self.stop()
        if self._lease is None or self.is_lost:
            return
        stamp = _stamp(self._utc_now())
        journal = self._journal(stamp)
        free = Lease(
            epoch=self._lease.epoch,
            holder=None,
            taken=self._lease.taken,
            renewed=stamp,
            tenure=self.tenure,
            journal=journal,
            passed=None if journal is None else self._lease.passed,
            unsettled_seconds=self._unsettled_seconds,
        )
        try:
            await self._replace(free)
        except PreconditionFailed:
            _log.warning("%s/%s: somebody else has the lease", self._bucket.url, self._prefix)
        self._lease = None

    async def stop(self) -> None:
        """Stop renewing; the lease stays as it is, and ends by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def statistics(self) -> Mapping[str, object]:
        """``state`` is held, overdue or lost; ``age_seconds`` is the time since the last renewal began."""
        if self._lease is None:
            return {"state": "none"}
        now = self._now()
        return {
            "state": self._watch.state(now).value,
            "epoch": self._lease.epoch,
            "conditional": self._conditional,
            "age_seconds": round(self._watch.overdue_seconds(now), 3),
            "renewals": self._renewals,
            "failures": self._failures,
        }
