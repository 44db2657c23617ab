"""The right to write to a volume: its lease and s3backer's mount token, taken together and given back
together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from bucketry.bucket.fenced import Fence, Owner
from bucketry.bucket.interface import Bucket
from bucketry.core import lease as lease_rules
from bucketry.core.journal import Passed
from bucketry.core.lease import Lease, Timing, Turn
from bucketry.core.names import LEASE_NAME
from bucketry.core.pending_journal import PendingJournal
from bucketry.disk import turn as turns
from bucketry.disk.lease_keeper import LeaseKeeper, new_tenure, read_lease
from bucketry.disk.machine import Machine, ThisMachine
from bucketry.errors import Busy, Fenced, Unfinished
from bucketry.layout import mount_token
from bucketry.layout.mount_token import MountToken
from bucketry.layout.together import both
from bucketry.settings import Patience


@dataclass(frozen=True, slots=True)
class Place:
    """Where a volume lies. ``bucket`` is for its blocks, and changes nothing unless ``fence`` lets it;
    ``control`` is the same bucket for lease and token, past the fence and past the queues. ``salt`` is what
    the volume's keys are derived with, when it does not say so itself. ``machine`` is from where we come,
    ``timing`` how its lease is held."""

    bucket: Bucket
    control: Bucket
    fence: Fence
    prefix: str
    salt: str
    machine: Machine = field(default_factory=ThisMachine)
    timing: Timing = field(default_factory=Timing)

    @property
    def url(self) -> str:
        return f"{self.bucket.url}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Holding:
    """Who may write to a volume, as its lease and its mount token say, each None where there is none.
    ``has_ended``: the lease's holder was a process of this machine, and is no more. ``lease_etag`` is that of
    the lease's object; ``is_damaged``: that cannot be read, and ``lease`` stands in its place."""

    lease: Lease | None
    token: MountToken | None
    has_ended: bool = False
    lease_etag: str | None = None
    is_damaged: bool = False

    @property
    def lease_token(self) -> int:
        """The mount token, if the lease knows it; 0 when there is none, or it is an s3backer's."""
        if self.token is None or self.token.value not in tokens_of(self.lease):
            return 0
        return self.token.value

    @property
    def journal(self) -> PendingJournal | None:
        """A journal that may hold what the bucket lacks."""
        return None if self.lease is None else self.lease.journal

    @property
    def holder(self) -> str | None:
        """Who it is, for people; None when nobody."""
        if self.is_damaged:
            return "somebody whose lease is damaged, or nobody"
        if self.lease is not None and self.lease.holder is not None:
            return f"{self.lease}, which has ended" if self.has_ended else str(self.lease)
        return None if self.token is None or self.lease_token else str(self.token)

    def as_turn(self, seen_at: float) -> Turn:
        """To take the lease as it is, or not. ``seen_at`` is the time of the look, or later."""
        is_free = self.lease is None or self.lease.holder is None or self.has_ended
        return Turn(
            lease=self.lease,
            etag=self.lease_etag,
            seen_at=seen_at,
            has_stopped=is_free and not self.is_damaged,
        )

    def is_of_the_same_as(self, other: "Holding") -> bool:
        """Whether nobody has taken the volume between the one look and the other."""
        return self.marks == other.marks

    @property
    def marks(self) -> tuple[object, ...]:
        """What changes when somebody takes the volume, and not when its holder renews."""
        lease, token = self.lease, self.token
        if self.is_damaged:
            return (self.lease_etag, token and token.value)
        return (lease and (lease.epoch, lease.tenure, lease.holder), token and token.value)


def tokens_of(lease: Lease | None) -> tuple[int, ...]:
    """The mount tokens that may be beside a lease: those of its holder, or the one that was left for a
    pending journal."""
    if lease is None:
        return ()
    if lease.holder is not None:
        return lease.holder.tokens
    return () if lease.journal is None else (lease.journal.token,)


class OwnJournal(Protocol):
    """A journal that goes with a holding."""

    @property
    def seen(self) -> Holding:
        """What was seen when it was decided that the journal goes with it."""
        ...

    @property
    def tenure(self) -> str:
        """What the holding is to be known by."""
        ...

    @property
    def token(self) -> int:
        """Its mount token."""
        ...

    @property
    def replays(self) -> str:
        """The tenure of the pending journal that it is; empty: there is none."""
        ...

    @property
    def passed(self) -> Passed | None:
        """What the lease is to say that the bucket has of it, from the beginning."""
        ...

    def pending(self, as_of: str) -> PendingJournal | None:
        """What the lease is to say of it; ``as_of`` is the time for people."""
        ...

    def before_release(self) -> None:
        """The lease is given back next: from now on ``pending`` says what it is to say then."""
        ...


async def look(place: Place, *, even_damaged: bool = False) -> Holding:
    """Who may write to the volume now. Raises Corrupt, unless ``even_damaged``, or Unsupported when its lease
    cannot be understood."""
    now = place.machine.utc_now()
    instead = lease_rules.in_place_of_a_damaged_one(f"{now:%Y-%m-%dT%H:%M:%SZ}", int(now.timestamp()))
    (lease, etag), token = await both(
        read_lease(place.control, place.prefix, in_place_of_damaged=instead if even_damaged else None),
        mount_token.read_token(place.control, place.prefix),
    )
    if lease is instead:
        return Holding(lease, token, lease_etag=etag, is_damaged=True)
    ended = lease is not None and lease.holder is not None and place.machine.has_ended(lease.holder)
    return Holding(lease, token, has_ended=ended, lease_etag=etag)


#: Said behind what is waited for when a volume was taken from somebody who may be alive.
_HOW_TO_SKIP = "; --old-host-is-dead skips this"


async def wait_for_turn(place: Place, patience: Patience, *, has_journal: bool = False) -> Turn:
    """Wait until the volume's lease may be taken. Raises Busy when that takes longer than ``patience`` has,
    and JournalPending instead of waiting for a volume with a journal that we do not have."""
    return await turns.wait_for_turn(
        place.control, place.prefix, place.machine, patience, place.timing, has_journal=has_journal
    )


@asynccontextmanager
async def held(
    place: Place,
    patience: Patience,
    *,
    on_lost: Callable[[Fenced], None] | None = None,
    own: OwnJournal | None = None,
    owes: Callable[[], bool] = lambda: False,
    turn: Turn | None = None,
) -> AsyncIterator[LeaseKeeper]:
    """Hold the volume, once it may be taken and nobody who had it before can still write to it. ``turn``:
    what ``wait_for_turn`` gave, for who has waited already. Raises Busy where somebody else has it, and
    JournalPending where a journal other than our ``own`` may hold what the bucket lacks; neither with
    ``patience.force``. ``on_lost`` is called when somebody has taken it over.

    When the body ends with Unfinished, or with any error while ``owes`` says so, lease and token stay:
    something is missing in the bucket.
    """
    value = mount_token.new_value() if own is None else own.token
    machine = place.machine
    turn = turn or await wait_for_turn(place, patience, has_journal=own is not None)
    now = await look(place, even_damaged=patience.force) if own is None else own.seen
    if now.lease_etag != turn.etag:
        # Somebody came in between, or renewed.
        turn = now.as_turn(machine.now())
    keeper = LeaseKeeper(
        place.control,
        place.prefix,
        replace(machine.this_process(value), former_token=now.lease_token),
        now=machine.now,
        utc_now=machine.utc_now,
        has_ended=machine.has_ended,
        on_lost=on_lost,
        timing=place.timing,
        tenure=None if own is None else own.tenure,
        journal=(lambda _: None) if own is None else own.pending,
        replays="" if own is None else own.replays,
        passed=None if own is None else own.passed,
    )
    await keeper.take(turn, patience=patience)
    try:
        await _take_token(place, keeper, value, replaces=patience.takes)
        is_first = keeper.is_settled
    except Busy:
        if owes():
            await keeper.stop()
        else:
            await _release(keeper, own)
        raise
    except BaseException:
        # Our token may be there, or still the one before: the lease says of both that they are no
        # s3backer's, so it must stay, and end by itself.
        await keeper.stop()
        raise
    try:
        if not is_first:
            await keeper.settle(_HOW_TO_SKIP)
            await _restore_token(place, value, now)
    except BaseException as error:
        # Interrupted while it waits, as a rule: the lease says how long others still have to.
        gives_back = isinstance(error, Busy | asyncio.CancelledError) and not owes()
        await (_give_back(place, keeper, value, own) if gives_back else keeper.stop())
        raise
    keeper.watch_for(lambda: _find_intruder(place, value))
    place.fence.guard_with(keeper.check, Owner(place.prefix + LEASE_NAME, keeper.is_ours))
    try:
        yield keeper
    except Unfinished:
        await keeper.stop()
        raise
    except BaseException:
        if owes():
            await keeper.stop()
        else:
            await _give_back(place, keeper, value, own)
        raise
    else:
        await _give_back(place, keeper, value, own)
    finally:
        place.fence.guard_with(keeper.check)


async def _restore_token(place: Place, value: int, before: Holding) -> None:
    """Put our mount token again if the last request of a former holder came after our put. Raises Busy when
    an s3backer has replaced it."""
    token = await mount_token.read_token(place.control, place.prefix)
    if token is None or token.value in tokens_of(before.lease):
        me = place.machine.this_process(value)
        await mount_token.put_token(
            place.control, place.prefix, value, host=me.host, now=place.machine.utc_now(), replace=True
        )
    elif token.value != value:
        raise mount_token.busy(place.control, place.prefix, token)


async def _find_intruder(place: Place, value: int) -> str | None:
    """Who has the volume though its lease is ours: an s3backer knows the mount token alone."""
    token = await mount_token.read_token(place.control, place.prefix)
    if token is None:
        return "somebody has deleted its mount token (s3backer --reset-mounted-flag)"
    if token.value != value:
        return f"{token} has replaced its mount token (s3backer --force)"
    return None


async def _take_token(place: Place, keeper: LeaseKeeper, value: int, *, replaces: bool) -> None:
    previous = keeper.previous
    _, token = await both(keeper.probe(), mount_token.read_token(place.control, place.prefix))
    if token is not None:
        # The token of the holder whose lease has just become ours goes with it. Any other one is an
        # s3backer's.
        replaces = replaces or token.value in tokens_of(previous)
    if token is not None and not replaces:
        raise mount_token.busy(place.control, place.prefix, token)
    me = place.machine.this_process(value)
    await mount_token.put_token(
        place.control, place.prefix, value, host=me.host, now=place.machine.utc_now(), replace=replaces
    )


async def _release(keeper: LeaseKeeper, own: OwnJournal | None) -> None:
    if own is not None:
        own.before_release()
    await keeper.release()


async def _give_back(place: Place, keeper: LeaseKeeper, value: int, own: OwnJournal | None) -> None:
    await keeper.stop()
    if keeper.is_lost:
        return  # the token went with the lease
    if own is not None:
        own.before_release()
    if not keeper.has_pending_journal:
        # Fenced: between the look at the token and its deletion somebody else may come to have it.
        await mount_token.release_token(place.bucket, place.prefix, value)
    await keeper.release()


async def unlock(place: Place, *, seen: Holding | None = None, old_host_is_dead: bool = False) -> str | None:
    """Take the volume from whoever holds it, and leave it free once he can write no more; who held it, None
    when nobody did. If he is alive he loses what he has not uploaded: he finds out when he next renews his
    lease. ``old_host_is_dead``: he is not, and nothing is waited for.

    ``seen``: who it is to be taken from. Raises Busy when somebody else has it by now.
    """
    found = await look(place, even_damaged=seen is not None and seen.is_damaged)
    if found.holder is None:
        return None
    if seen is not None and not found.is_of_the_same_as(seen):
        raise Busy(f"{place.url}: by now it is in use by {found.holder}")
    kept = None if found.journal is None else _KeptJournal(found, found.journal)
    async with held(place, Patience(force=True, old_host_is_dead=old_host_is_dead), own=kept):
        return found.holder


class _KeptJournal:
    """A pending journal that stays so while another process has the volume and writes nothing."""

    def __init__(self, seen: Holding, journal: PendingJournal) -> None:
        self.seen = seen
        self.tenure = new_tenure()
        self.token = mount_token.new_value()
        self.replays = journal.tenure
        self.passed = None if seen.lease is None else seen.lease.passed
        self._journal = replace(journal, token=self.token)

    def pending(self, _as_of: str) -> PendingJournal | None:
        return self._journal

    def before_release(self) -> None:
        """It stays pending."""
