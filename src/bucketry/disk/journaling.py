"""The journal of an attachment: it is replayed only if the bucket and it agree on whose it is.

A journal carries the tenure of the lease under which it was written (its *generation*). The lease carries a
record of the journal that may hold what the bucket lacks. A journal may be replayed when that record is of
it: then nobody has written to the volume since. Taking the lease draws a new tenure; so that a crash in
between leaves nothing undecided, the journal says before "the old one, or the new one", and after it "the
new one".

The record also says how far the journal had got before anything newer was uploaded, so that an older copy of
its directory is refused. A lease that was given back without a record says that the bucket has everything.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from bucketry.cache.journal import Journal
from bucketry.cache.journal_files import Files
from bucketry.cache.left_journal import RecoveredEpoch, peek
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import Offload
from bucketry.core.journal import JournalIdentity, Passed, Progress
from bucketry.core.lease import Lease, was_renewed_lately
from bucketry.core.pending_journal import PendingJournal, printable_directory
from bucketry.core.units import format_size
from bucketry.disk import holding
from bucketry.disk.holding import Holding, Place
from bucketry.disk.lease_keeper import LeaseKeeper, new_tenure, pending_journal
from bucketry.errors import Busy, Corrupt, Mismatch, Unavailable, Unsupported
from bucketry.layout import mount_token
from bucketry.layout.volume import Volume

_log = logging.getLogger(__name__)
#: Of all derived keys the one that is only used here.
_KEY_PURPOSE = "journal on local disk"
#: What somebody at a terminal should know at once.
_notices = logging.getLogger("bucketry.notices")


class AttachedJournal:
    """A journal on its way through one attachment: ``open`` before the volume is held, ``confirm`` once it
    is, ``empty`` when the bucket has everything, ``close`` at the end."""

    #: What the lease is to say of what the bucket has: the journal's head says it.
    passed: Passed | None = None

    def __init__(
        self,
        place: Place,
        found: Volume,
        seen: Holding,
        journal: Journal,
        directory: str,
        epochs: Sequence[RecoveredEpoch],
    ) -> None:
        self._place = place
        self._found = found
        self._directory = directory
        #: Who had the volume when it was decided that the journal may be replayed.
        self.seen = seen
        #: The tenure and the mount token that the attachment is to have.
        self.tenure = new_tenure()
        self.token = mount_token.new_value()
        self.journal = journal
        #: What is to be replayed.
        self.epochs = epochs
        self._is_empty = False
        self._keeper: LeaseKeeper | None = None

    @classmethod
    async def open(
        cls,
        place: Place,
        found: Volume,
        files: Files,
        *,
        size_bytes_max: int,
        offload: Offload,
        adopt: bool = False,
        give_up: bool = False,
        cipher: BlockCipher | None = None,
    ) -> "AttachedJournal":
        """Raises Mismatch when there is something to replay and somebody else may have written to the volume
        since, or the journal lacks what it once had; and what Journal.open raises. ``adopt``: replay it all
        the same, knowingly. ``give_up``: another journal that the bucket knows of is given up. ``cipher``: an
        encrypted volume's."""
        seen = await holding.look(place)
        of_volume = identities(place, found, seen.lease)
        journal, epochs = await Journal.open(
            files,
            of_volume[0],
            also=of_volume[1:],
            adopt=adopt,
            give_up=give_up,
            pending=seen.journal,
            passed=None if seen.lease is None else seen.lease.passed,
            size_bytes_max=size_bytes_max,
            offload=offload,
            key=_key(cipher),
        )
        attached = cls(place, found, seen, journal, files.place, epochs)
        if journal.torn_bytes:
            _log.warning(
                "%s: cut off %s at the end of the journal, of a flush that had not returned",
                place.url, format_size(journal.torn_bytes),
            )  # fmt: skip
        try:
            if epochs and not adopt:
                await attached._check_token(files.place)
            await journal.relabel(of_volume[0], attached._identity())
        except BaseException:
            await journal.close(empty=False)
            raise
        return attached

    async def _check_token(self, where: str) -> None:
        """s3backer leaves the lease alone. But it clears or replaces the mount token, which a crash of ours
        leaves."""
        lease = self.seen.lease
        if lease is None or (lease.holder is None and lease.journal is None):
            # The lease was given back, which is done when everything is in the bucket.
            await self.journal.skip(self.epochs[-1].number)
            self.epochs = ()
        elif not self.seen.lease_token:
            raise Mismatch(
                f"{self._place.url}: the journal in {where} has writes that the volume lacks, but somebody "
                "else (an s3backer) may have written to it since; see bucketry journal --help"
            )

    # -- what the lease is to say of it: holding.OwnJournal --------------------------------------------------

    @property
    def replays(self) -> str:
        """The tenure of the pending journal, if this is it."""
        pending = self.seen.journal
        return pending.tenure if pending is not None and self.journal.is_wanted else ""

    def pending(self, as_of: str) -> PendingJournal | None:
        if self._is_empty:
            return None
        return PendingJournal(
            tenure=self.tenure,
            host=self._place.machine.this_process(self.token).host,
            directory=printable_directory(self._directory.removesuffix("/journal")),
            epoch=self.journal.progress.epoch,
            drained=self.journal.progress.drained,
            pending_bytes=self.journal.lag_bytes,
            as_of=as_of,
            token=self.token,
        )

    def before_release(self) -> None:
        """The bucket has everything, or the lease would be kept."""
        self._is_empty = True

    # -- life ------------------------------------------------------------------------------------------------

    @property
    def owes(self) -> bool:
        """Whether the journal has something that the bucket may lack: whatever ends the attachment, the lease
        stays and names the journal."""
        return not self._is_empty and self.journal.lag_epochs > 0

    async def confirm(self, keeper: LeaseKeeper) -> None:
        """The volume is held. Raises Busy when somebody has had it for a moment since ``open``."""
        if _marks(keeper.previous) != _marks(self.seen.lease):
            raise Busy(f"{self._place.url}: somebody else has had the volume in between; try again")
        await self.journal.relabel(self._identity())
        self._keeper = keeper

    async def relabel(self, *sizes_bytes: int) -> None:
        """The volume has one of these sizes from now on: two while it is changed."""
        await self.journal.relabel(
            *(replace(self._identity(), size_bytes=size_bytes) for size_bytes in sizes_bytes)
        )

    @property
    def told(self) -> Progress:
        """How far the journal has got, as the bucket knows."""
        assert self._keeper is not None, "the volume is held"
        return self._keeper.journal_told

    async def tell(self) -> None:
        """Let the bucket know how far the journal has got. Raises what a put raises, and Fenced."""
        assert self._keeper is not None, "the volume is held"
        await self._keeper.tell_journal()

    async def disown(self) -> None:
        """The journal cannot be emptied: from now on the bucket says that it is not the volume's."""
        assert self._keeper is not None, "the volume is held"
        self._is_empty = True
        await self._keeper.forget_journal()

    async def note_passed(self, passed: Passed) -> None:
        """The journal cannot say what the bucket has of it: the bucket says it. Raises Invalid when that is
        too much to say."""
        assert self._keeper is not None, "the volume is held"
        await self._keeper.note_passed(passed)

    async def empty(self) -> None:
        """Everything is in the bucket. When that cannot be written down it does no harm: the volume is given
        back next, and a journal of a volume that was given back is not replayed."""
        self._is_empty = True
        try:
            await self.journal.close(empty=True)
        except Unavailable as error:
            _log.warning("%s: the journal could not be emptied: %s", self._place.url, error)

    async def close(self) -> None:
        """Leave the journal as it is, for the next attachment. Closing twice, or after ``empty``, is fine."""
        await self.journal.close(empty=False)

    def _identity(self) -> JournalIdentity:
        return _identity(self._place, self._found, self.tenure)


async def look_at_journal(
    place: Place,
    found: Volume,
    files: Files | None,
    offload: Offload,
    *,
    required: bool,
    cipher: BlockCipher | None = None,
) -> Sequence[RecoveredEpoch]:
    """What a read-only attachment is to show of the journal in ``files``; None: it was given none. What it
    cannot show is said on the terminal, for it is missing from what is read; when all is ``required``, and no
    process that runs has the journal, JournalPending or what Journal.open raises. Nothing is changed.
    """
    try:
        seen = await holding.look(place)
    except (Corrupt, Unsupported) as error:
        if required:
            raise
        # Reading needs no lease: a damaged one must not keep anybody from it.
        _notices.warning("%s: whether a journal has more than is shown cannot be told: %s", place.url, error)
        return ()
    pending = seen.journal
    required = required and not _is_alive(place, seen)
    if files is None:
        if pending is not None and required:
            raise pending_journal(place.url, pending)
        if pending is not None:
            _notices.warning(
                "%s: what is only in %s is not shown; on that host, --cache-dir shows it", place.url, pending
            )
        return ()
    wanted = identities(place, found, seen.lease)
    passed = None if seen.lease is None else seen.lease.passed
    try:
        epochs = await peek(
            files,
            wanted,
            pending=pending,
            passed=passed,
            offload=offload,
            key=_key(cipher),
        )
    except (Mismatch, Corrupt, Unsupported) as error:
        if required:
            raise
        _notices.warning("%s: what is only in a journal is not shown: %s", place.url, error)
        return ()
    if pending is None:
        return ()  # given back: the bucket has everything
    if epochs:
        _notices.warning("%s: shown with what is only in %s", place.url, pending)
    return epochs


def _key(cipher: BlockCipher | None) -> bytes | None:
    return None if cipher is None else cipher.derived_key(_KEY_PURPOSE)


def _is_alive(place: Place, seen: Holding) -> bool:
    """Whether the process that has the volume seems to run."""
    lease = seen.lease
    if lease is None or lease.holder is None or seen.has_ended:
        return False
    return was_renewed_lately(lease, place.machine.utc_now())


def _marks(lease: Lease | None) -> tuple[int, str] | None:
    """What changes when somebody takes the volume."""
    return None if lease is None else (lease.epoch, lease.tenure)


def identities(place: Place, found: Volume, lease: Lease | None) -> list[JournalIdentity]:
    """Of which a journal must be to be replayed: the first is how a new one is marked. Older programs marked
    theirs with the lease's epoch, and did not say where the volume lies."""
    if lease is None:
        return [_identity(place, found, "0")]
    if lease.journal is not None:
        mine = _identity(place, found, lease.journal.tenure)
        # Emptied at a clean end, and the lease was not given back any more.
        return [mine, replace(mine, url="")]
    if lease.tenure:
        # Given back without a journal, or held without one: then what a journal has was given up.
        given_up = "" if lease.holder is None else ", which has no journal"
        return [_identity(place, found, lease.tenure + given_up)]
    epochs = [str(lease.epoch)]
    if lease.holder is not None:
        # Left by an attach that had taken the lease and got no further.
        epochs.append(f"{lease.epoch} with token {lease.holder.token:08x}")
    with_url = [_identity(place, found, epoch) for epoch in epochs]
    return [*with_url, *(replace(each, url="") for each in with_url)]


def _identity(place: Place, found: Volume, generation: str) -> JournalIdentity:
    return JournalIdentity(
        volume=found.volume_id or place.url,
        generation=generation,
        size_bytes=found.format.size_bytes,
        block_size_bytes=found.format.block_size_bytes,
        url=place.url,
    )
