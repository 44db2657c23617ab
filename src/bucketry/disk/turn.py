"""Waiting for a volume that somebody else has: until its lease is given back, ends or is surely dead.

Nothing is written meanwhile, and nothing is read but the lease. What may be done when is decided in
``core.lease``.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bucketry.bucket.interface import Bucket
from bucketry.core import lease as rules
from bucketry.core.lease import RATE_MARGIN, Holder, Lease, Timing, Turn
from bucketry.disk.lease_keeper import pending_journal, read_lease
from bucketry.disk.machine import Machine
from bucketry.errors import Busy
from bucketry.settings import Patience

_log = logging.getLogger(__name__)
#: Whoever waits at a terminal should know what for: the command line shows what this logger is told.
_notices = logging.getLogger("bucketry.notices")


async def wait_for_turn(
    bucket: Bucket,
    prefix: str,
    machine: Machine,
    patience: Patience,
    timing: Timing,
    *,
    has_journal: bool = False,
) -> Turn:
    """The lease of the volume under ``prefix``, once it may be taken. Raises Busy when that takes longer than
    ``patience`` has, and JournalPending when it names a journal and we have none."""
    return await _Watcher(bucket, prefix, machine, patience, timing, has_journal=has_journal).wait()


class _Watcher:
    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        machine: Machine,
        patience: Patience,
        timing: Timing,
        *,
        has_journal: bool,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._url = f"{bucket.url}/{prefix}"
        self._machine = machine
        self._patience = patience
        self._look_seconds = timing.look_seconds
        self._has_journal = has_journal

    async def wait(self) -> Turn:
        began = self._machine.now()
        turn = await self._look()
        first, has_said = turn, False
        while not (turn.has_stopped or self._patience.takes):
            lease = turn.lease
            assert lease is not None, "somebody holds it"
            assert lease.holder is not None
            now = self._machine.now()
            if (
                not self._lives_here(lease.holder)
                and now - turn.seen_at >= RATE_MARGIN * lease.duration_seconds
            ):
                turn = replace(turn, has_stopped=True)
                break
            limit = self._limit(lease, lease.holder, has_changed=turn.etag != first.etag)
            left = began + limit - now
            if left <= 0:
                raise self._busy(lease, lease.holder)
            if not has_said:
                has_said = True
                self._check_journal(lease)
                self._say_waiting(lease, limit)
            await asyncio.sleep(min(self._look_seconds, left))
            seen = await self._look()
            # The same put of the same lease has been there since it was first seen.
            turn = seen if seen.etag != turn.etag or seen.has_stopped else turn
        return replace(turn, was_found_at_once=turn is first)

    async def _look(self) -> Turn:
        now = self._machine.utc_now()
        instead = None
        if self._patience.force:
            instead = rules.in_place_of_a_damaged_one(f"{now:%Y-%m-%dT%H:%M:%SZ}", int(now.timestamp()))
        lease, etag = await read_lease(self._bucket, self._prefix, in_place_of_damaged=instead)
        is_free = lease is None or lease.holder is None or self._machine.has_ended(lease.holder)
        # Of a damaged one nothing is known: somebody may hold it.
        has_stopped = is_free and (lease is None or lease is not instead)
        return Turn(lease=lease, etag=etag, seen_at=self._machine.now(), has_stopped=has_stopped)

    def _is_us(self, holder: Holder) -> bool:
        """Whether he is this very process. It may have left a lease behind, when it could not find out what
        had become of its mount token: that ends by itself."""
        me = self._machine.this_process(0)
        return (holder.boot_id, holder.pid, holder.start_time) == (me.boot_id, me.pid, me.start_time)

    def _is_this_host(self, holder: Holder) -> bool:
        """Whether he has, or had, this host's name, or ran since this boot: a name can change meanwhile."""
        me = self._machine.this_process(0)
        boot = holder.boot_id.partition(" ")[0]
        return holder.host == me.host or (bool(boot) and boot == me.boot_id.partition(" ")[0])

    def _lives_here(self, holder: Holder) -> bool:
        """Whether he is another process of this machine, and alive."""
        return not self._is_us(holder) and self._machine.lives_here(holder)

    def _limit(self, lease: Lease, holder: Holder, *, has_changed: bool) -> float:
        """For how many seconds to wait for a lease that somebody holds."""
        if self._patience.wait_seconds is not None:
            return self._patience.wait_seconds
        worth = rules.is_worth_waiting(
            is_this_host=not self._is_us(holder) and self._is_this_host(holder),
            lives_here=self._lives_here(holder),
            was_renewed_lately=rules.was_renewed_lately(lease, self._machine.utc_now()),
        )
        # Once it has changed, somebody lives.
        if has_changed or not worth:
            return 0.0
        return RATE_MARGIN * lease.duration_seconds + 2 * self._look_seconds

    def _check_journal(self, lease: Lease) -> None:
        """Not to wait for something that will be refused then."""
        if lease.journal is not None and not self._has_journal:
            raise pending_journal(self._url, lease.journal)

    def _say_waiting(self, lease: Lease, limit: float) -> None:
        until = datetime.now(UTC).astimezone() + timedelta(seconds=limit)
        _notices.warning(
            "%s: attached by %s; waiting up to %.0f s, until %s, for that to end",
            self._url, lease, limit, f"{until:%H:%M:%S}",
            extra={"seconds": limit},
        )  # fmt: skip

    def _busy(self, lease: Lease, holder: Holder) -> Busy:
        if self._lives_here(holder):
            return Busy(
                f"{self._url}: in use by {lease}; that is a process of this machine and is alive: "
                f"unmount it (bucketry umount), or end it (kill {holder.pid})"
            )
        return Busy(
            f"{self._url}: in use by {lease}; --wait SECONDS waits for it; if that host is dead, "
            "use bucketry unlock, or --force"
        )
