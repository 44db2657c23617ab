"""The simulation finds what it is for: bugs of the kinds that such programs have had, one at a time."""

import pytest

from bucketry.bucket.fenced import Fence
from bucketry.bucket.retrying import Retrying
from bucketry.cache import journal, left_journal
from bucketry.cache.block_cache import BlockCache
from bucketry.cache.disk_cache import CachedLayout
from bucketry.cache.journal import Journal
from bucketry.core.block_table import BlockTable, Epoch
from bucketry.core.lease import Turn, Watch
from bucketry.core.zero_map import ZeroMap
from bucketry.disk import holding, journaling, lifecycle
from bucketry.disk.journaling import AttachedJournal
from bucketry.disk.lease_keeper import LeaseKeeper
from bucketry.disk.turn import _Watcher
from bucketry.layout.s3backer import S3backerLayout
from bucketry.testing.simulation import simulate
from sim.planting import Bug

pytestmark = [pytest.mark.slow, pytest.mark.hangs_after(300)]

#: So many seeds are tried for each, from the one that found it when this was written: the way of a seed
#: changes with the product.
SEEDS_MAX = 300

BUGS = [
    Bug(
        "a flush ignores uploads under way",
        Epoch,
        "is_empty",
        "self.waiting or self.uploading",
        "self.waiting",
    ),
    Bug(
        "a later epoch goes first",
        BlockTable,
        "next_work",
        "epoch = self._epochs[0]",
        "epoch = next((one for one in reversed(self._epochs) if one.waiting), self._epochs[0])",
        found_at=8,
    ),
    Bug(
        "a block rewritten during its upload is lost when that ends",
        BlockTable,
        "finish",
        "if newer is not None:\n        if not ok:",
        "if newer is not None and ok:\n"
        "        self._slots[block].versions.remove(newer)\n"
        "        self._dirty_bytes -= self._cost_bytes(newer)\n"
        "        self._dirty_count -= 1\n"
        "        newer = None\n"
        "    if newer is not None:\n        if not ok:",
        found_at=15,
    ),
    Bug(
        "a version is overwritten in place during its upload",
        BlockTable,
        "_is_open",
        " and version.state is not _UPLOADING",
        "",
        found_at=2,
    ),
    Bug(
        "a later epoch writes into the version of an older one",
        BlockTable,
        "_open_version",
        "if versions and self._is_open(versions[-1]):",
        "if versions and versions[-1].state is not _UPLOADING:",
        found_at=12,
    ),
    Bug(
        "what arrives from the bucket goes over newer bytes",
        BlockTable,
        "_complete",
        "base, version.known)",
        "base, Ranges())",
    ),
    Bug(
        "a block written in part is uploaded with zeros around",
        BlockTable,
        "next_work",
        "if version.known is not None:",
        "if False:",
    ),
    Bug(
        "only the newest version is completed",
        BlockTable,
        "insert",
        "slot.known is not None or (slot.versions and slot.versions[0].known is not None)",
        "slot.known is not None",
        found_at=21,
    ),
    Bug(
        "what was read before an upload ended replaces what was uploaded",
        BlockCache,
        "_read_current",
        "if block not in self._overtaken:",
        "if True:",
        found_at=165,
    ),
    Bug(
        "the survey marks a block as zero that was written meanwhile",
        ZeroMap,
        "clear",
        "if self._candidates is not None:",
        "if False:",
        found_at=6,
    ),
    Bug(
        "zeroing a block that is not in memory is only noted",
        BlockTable,
        "zero",
        "slot = self._slots[block] = Slot(block, ZEROS, None)",
        "return",
    ),
    Bug(
        "a failed delete is forgotten",
        BlockTable,
        "finish",
        "if not ok and newer is None:",
        "if not ok and newer is None and version.data is not None:",
        found_at=53,
    ),
    Bug(
        "what replaces a version does without its bytes",
        BlockTable,
        "_drop_oldest",
        "if oldest.pages:",
        "if False:",
        found_at=105,
    ),
    Bug(
        "a dirty block is evicted",
        BlockTable,
        "_add_version",
        "if not versions and block in self._clean:",
        "if False:",
        found_at=2,
    ),
    Bug(
        "a flush swallows the error",
        BlockCache,
        "_fail_flushes",
        "flush.done.set_exception(error)",
        "flush.done.set_result(None)",
        found_at=2,
    ),
    Bug(
        "who waits for room is not woken",
        BlockCache,
        "_upload",
        "self._let_in()",
        "pass",
    ),
    Bug(
        "who waits for room on a disk that is lost waits for ever",
        BlockCache,
        "_check_may_upload",
        "if self._failure is not None:",
        "if False:",
        found_at=7,
    ),
    Bug(
        "closing does not wait for the uploads",
        BlockCache,
        "close",
        "await self.drain()",
        "pass",
        found_at=2,
    ),
    Bug(
        "a fenced holder goes on",
        Fence,
        "check",
        "if self._check is not None:",
        "if False:",
        found_at=10,
    ),
    Bug(
        "a holder stops when another may have the lease already",
        Watch,
        "state",
        "< self._safe_seconds",
        "< 3 * self._safe_seconds",
        found_at=2602,
    ),
    Bug(
        "a lease is taken without watching it",
        _Watcher,
        "wait",
        "now - turn.seen_at >= RATE_MARGIN * lease.duration_seconds",
        "True",
        found_at=2,
    ),
    Bug(
        "whoever takes a lease by force does not wait until its holder has stopped",
        Turn,
        "settled_at",
        "if self.lease is None or self.has_stopped:",
        "if True:",
        found_at=58,
    ),
    Bug(
        "whoever takes a lease by force waits for a quarter of what its holder needs",
        Turn,
        "settled_at",
        "taken_at + RATE_MARGIN * self.lease.duration_seconds",
        "taken_at + self.lease.duration_seconds / 4",
        found_at=124,
    ),
    Bug(
        "whoever takes a lease does not wait for those who had it before its holder",
        Turn,
        "settled_without_holder",
        "RATE_MARGIN * self.lease.unsettled_seconds",
        "0.0",
        found_at=189,
    ),
    Bug(
        "a renewed lease does not say any more that its holder waits",
        LeaseKeeper,
        "_renewed",
        "unsettled_seconds=self._unsettled_seconds",
        "unsettled_seconds=0.0",
        found_at=189,
    ),
    Bug(
        "a holder that waits is let in before the others have stopped",
        LeaseKeeper,
        "settle",
        "while (left := self._settled_at - self._now()) > 0:",
        "while (left := 0.0) > 0:",
        found_at=58,
    ),
    Bug(
        "a conditional put takes its own success for a conflict",
        Retrying,
        "_persist_once",
        "if not answer_lost or put_id is None:",
        "if True:",
        found_at=32,
    ),
    Bug(
        "a renewal takes its own predecessor for somebody else's",
        LeaseKeeper,
        "_replace",
        "self._etag = await self._find_ours()\n        else:",
        "raise\n        else:",
        found_at=7,
    ),
    Bug(
        "parts of a block stay when it is written",
        BlockTable,
        "_drop_parts",
        "if self._parts.pop(block, None) is not None",
        "if block in self._parts",
        found_at=5,
    ),
    Bug(
        "a flush does not wait for the journal",
        BlockCache,
        "_journaled",
        "if append is not None and not await asyncio.shield(append):",
        "if False:",
        found_at=12,
    ),
    Bug(
        "an epoch goes to the bucket before that knows that the journal has it",
        BlockCache,
        "_is_known_to_bucket",
        "if owner is None:",
        "if True:",
        found_at=265,
    ),
    Bug(
        "an epoch that is not in the journal goes to the bucket before that knows that it has the older ones",
        BlockCache,
        "_is_known_to_bucket",
        " and progress.drained <= told.drained",
        "",
        found_at=512,
    ),
    Bug(
        "a journal of any tenure is replayed",
        journal,
        "check",
        "elif not any(each in found for each in wanted):",
        "elif False:",
        found_at=400,
    ),
    Bug(
        "the journal of another place is replayed",
        journaling,
        "_identity",
        "url=place.url",
        'url=""',
        found_at=6,
    ),
    Bug(
        "a journal that ends before what the bucket knows of it is replayed",
        journal,
        "check",
        "if reached is None or adopt or (",
        "if True or (",
        found_at=512,
    ),
    Bug(
        "the volume is taken without the journal that is pending",
        LeaseKeeper,
        "_check_journal",
        "raise pending_journal(",
        "pending_journal(",
        found_at=263,
    ),
    Bug(
        "who breaks the lease makes the journal forgotten",
        holding,
        "unlock",
        "kept = None if found.journal is None else _KeptJournal(found, found.journal)",
        "kept = None",
        found_at=75,
    ),
    Bug(
        "an empty directory is taken for the journal",
        Journal,
        "open",
        "may_be_new = pending is None or give_up or adopt",
        "may_be_new = True",
        found_at=6,
    ),
    Bug(
        "a segment that is missing was never there",
        left_journal,
        "scan",
        "    seed = checksum(head.salt)",
        "    head = Head(head.counter, head.salt, head.identities, head.drained, head.passed, None)\n"
        "    seed = checksum(head.salt)",
        found_at=86,
    ),
    Bug(
        "the journal is left alone with durability bucket",
        lifecycle,
        "_drained",
        "await _replay(place, attached, cache)",
        "pass",
        found_at=75,
    ),
    Bug(
        "a number that repeats says who kept the zero map",
        LeaseKeeper,
        "_try_to_take",
        "now = _stamp(self._utc_now())",
        "now = _stamp(self._utc_now())\n    self.tenure = f'{1 if found is None else found.epoch + 1:032x}'",
        found_at=65,
    ),
    Bug(
        "an epoch goes to the bucket before the journal says that it has the older ones",
        BlockCache,
        "_may_upload",
        "if not journal.is_settled(self._passed()) and not self._is_unsettled:",
        "if False:",
        found_at=275,
    ),
    Bug(
        "that the bucket has an epoch is said in the journal, and not durably",
        Journal,
        "_write",
        "self._files.sync(piece.segment)",
        "pass",
        found_at=70,
    ),
    Bug(
        "an attach that could not replay gives the lease back",
        AttachedJournal,
        "owes",
        "not self._is_empty and self.journal.lag_epochs > 0",
        "False",
        found_at=378,
    ),
    Bug(
        "what was zeroed is not replayed",
        BlockCache,
        "_apply",
        "self._table.zero(block, self._loop.time())",
        "pass",
        found_at=139,
    ),
    Bug(
        "closing with a journal gives up what was set aside",
        BlockCache,
        "drain",
        "await self._drain_all()",
        "await self._drain(self._table.begin_flush())",
        found_at=310,
    ),
    Bug(
        "a block that an earlier process kept is trusted without its tag",
        CachedLayout,
        "_look_up",
        "if not entry.verified:",
        "if False:",
        found_at=2,
    ),
    Bug(
        "a zero map is believed though somebody has written since",
        lifecycle,
        "load_zero_map",
        "if not content.startswith(label):",
        "if False:",
        found_at=5,
    ),
    Bug(
        "a block read before an upload ended is kept after it",
        CachedLayout,
        "_fetch",
        " and not load.overtaken",
        "",
        found_at=62,
    ),
    Bug(
        "a survey ends with its first page",
        S3backerLayout,
        "survey",
        "yield [self._stored(run, tags) for run in runs(sorted(tags))]",
        "yield [self._stored(run, tags) for run in runs(sorted(tags))]\n                return",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_it_is_found(bug: Bug) -> None:
    """One of the seeds ends with a violation, which it does not without the bug."""
    with bug.planted():
        seeds = range(bug.found_at, bug.found_at + SEEDS_MAX)
        found = next((seed for seed in seeds if simulate(seed).violation is not None), None)
    assert found is not None
    assert simulate(found).violation is None
