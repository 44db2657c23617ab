"""Checking a volume: everything that is stored is read and verified, and what can be put right is, if asked.

Without repair nothing is changed, and the volume may be in use: what its holder writes or deletes meanwhile
is no damage.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from bucketry.codec.offload import Offload
from bucketry.disk import holding
from bucketry.disk.holding import Place
from bucketry.errors import Corrupt, Unsupported
from bucketry.layout import volume
from bucketry.layout.check import open_check
from bucketry.layout.findings import Action, Amount, Finding, LayoutCheck, Remedy, Severity
from bucketry.layout.superblock import read_superblock
from bucketry.layout.volume import Volume
from bucketry.settings import LimitSettings, Patience, VolumeSettings

#: Findings are put right in batches of so many: as many keys as one request can delete.
_REPAIR_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a check may change: what loses nothing, and damaged blocks (which are put aside) only with
    ``zero_damaged``."""

    zero_damaged: bool = False


@dataclass(frozen=True, slots=True)
class CheckStep:
    """What has been found and done since the last step, and how far the check is. ``total`` is None until it
    is known."""

    findings: Sequence[Finding]
    actions: Sequence[Action]
    done: Amount
    total: Amount | None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How a check ended. ``damage_count`` is of findings that are damage and have not been put right;
    zeroing a block does not bring its data back."""

    url: str
    kind: str
    damage_count: int
    flaw_count: int
    repaired_count: int
    figures: Mapping[str, int]


async def check(
    place: Place,
    asked: VolumeSettings,
    *,
    repair: Repair | None,
    measure: bool,
    offload: Offload,
    limits: LimitSettings,
) -> AsyncGenerator[CheckStep | CheckReport, None]:
    """Check a volume; the report comes last. ``measure``: list it once more, to know how much there is.

    Raises what keeps the volume from being opened, but for damage and for what can be put right; with
    ``repair``, Busy when somebody holds it. Where no volume can be made out any more, that is all that is
    found.
    """
    try:
        found = await volume.detect(place.bucket, place.prefix, asked, salt=place.salt, compare=False)
    except Corrupt as error:
        yield CheckStep([await _beyond_recognition(place, error)], (), Amount(), None)
        yield CheckReport(place.url, "unknown", 1, 0, 0, {"blocks": 0, "bytes": 0})
        return
    cipher = await volume.unlock(place.bucket, found, asked.password)
    looking = open_check(
        place.bucket,
        found,
        cipher,
        offload=offload,
        in_flight_max=limits.blocks_in_flight(found.format.block_size_bytes),
        stamp=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
    )
    tally = _Tally()
    held = await _look_at_holder(place)
    tally.add(held)
    yield CheckStep(held, (), Amount(), None)
    holder: AbstractAsyncContextManager[object] = nullcontext()
    if repair is not None:
        holder = holding.held(place, Patience())
    async with holder, _measured(looking, wanted=measure) as total:
        waiting: list[Finding] = []
        async with aclosing(looking.look()) as looks:
            async for findings in looks:
                tally.add(findings)
                waiting += [finding for finding in findings if _is_allowed(finding, repair)]
                actions: Sequence[Action] = ()
                if len(waiting) >= _REPAIR_BATCH:
                    actions = await looking.repair(waiting)
                    tally.settle(actions)
                    waiting = []
                yield CheckStep(findings, actions, looking.done, total())
        if waiting:
            actions = await looking.repair(waiting)
            tally.settle(actions)
            yield CheckStep((), actions, looking.done, total())
    yield tally.report(place, found, looking)


def _is_allowed(finding: Finding, repair: Repair | None) -> bool:
    if repair is None or finding.remedy is None:
        return False
    return repair.zero_damaged or finding.remedy is not Remedy.ZERO


class _Tally:
    """What a check has found and put right so far."""

    def __init__(self) -> None:
        self._damage = 0
        self._flaws = 0
        self._repaired = 0

    def add(self, findings: Sequence[Finding]) -> None:
        self._damage += sum(finding.severity is Severity.DAMAGE for finding in findings)
        self._flaws += sum(finding.severity is Severity.FLAW for finding in findings)

    def settle(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self._repaired += action.done
            if action.done and action.finding.remedy is not Remedy.ZERO:
                self._damage -= action.finding.severity is Severity.DAMAGE
                self._flaws -= action.finding.severity is Severity.FLAW

    def report(self, place: Place, found: Volume, looking: LayoutCheck) -> CheckReport:
        return CheckReport(
            place.url, found.kind, self._damage, self._flaws, self._repaired, looking.figures()
        )


async def _beyond_recognition(place: Place, error: Corrupt) -> Finding:
    """What is to be said of a volume that ``error`` keeps from being detected."""
    kind = "volume"
    try:
        await read_superblock(place.bucket, place.prefix)
    except Corrupt:
        kind = "superblock"
    return Finding(Severity.DAMAGE, kind, str(error))


async def _look_at_holder(place: Place) -> list[Finding]:
    """What lease and mount token say."""
    try:
        found = await holding.look(place)
    except (Corrupt, Unsupported) as error:
        return [Finding(Severity.DAMAGE, "lease", str(error))]
    pending: list[Finding] = []
    if found.journal is not None:
        # Beside a running writer this is as it should be; else what was flushed is not all here.
        severity = Severity.NOTE if found.holder is not None and not found.has_ended else Severity.FLAW
        text = f"flushed writes may be only in {found.journal}: what is checked here lacks them"
        pending.append(Finding(severity, "journal", text))
    if found.holder is None:
        return pending
    if found.has_ended:
        return [*pending, Finding(Severity.NOTE, "lease", f"left behind by {found.holder}")]
    kind = "lease" if found.lease is not None and found.lease.holder is not None else "mount token"
    return [*pending, Finding(Severity.NOTE, kind, f"in use by {found.holder}")]


@asynccontextmanager
async def _measured(looking: LayoutCheck, *, wanted: bool) -> AsyncIterator[Callable[[], Amount | None]]:
    """How much there is to look at, found out meanwhile."""
    task = asyncio.ensure_future(looking.measure()) if wanted else None

    def total() -> Amount | None:
        # What goes wrong here goes wrong for the check as well, and is told there.
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    try:
        yield total
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
