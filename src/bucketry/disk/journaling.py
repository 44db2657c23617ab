"""The journal of an attachment: whether it may be replayed, and that the bucket and it agree on whose it is.

A journal carries the epoch of the lease under which it was written (its *generation*). It may be replayed
when the lease still has that epoch: then nobody has taken the volume since. Taking the lease counts the epoch
up; so that a crash in between leaves nothing undecided, the journal says before "the old one, or the next if
the mount token is this", and after it "the next". (The next alone may be somebody else's.)

A lease that was given back says that the bucket has everything. So it is not given back as long as anything
is only in the journal.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from bucketry.cache.journal import Journal, RecoveredEpoch
from bucketry.cache.journal_files import Files
from bucketry.codec.offload import Offload
from bucketry.core.journal import JournalIdentity, Passed
from bucketry.disk import holding
from bucketry.disk.holding import Holding, Place
from bucketry.disk.lease_keeper import LeaseKeeper
from bucketry.errors import Busy, Mismatch, Unavailable
from bucketry.layout import mount_token
from bucketry.layout.volume import Volume

_log = logging.getLogger(__name__)


class AttachedJournal:
    """A journal on its way through one attachment: ``open`` before the volume is held, ``confirm`` once it
    is, ``empty`` when the bucket has everything, ``close`` at the end."""

    def __init__(
        self, place: Place, found: Volume, generation: int, journal: Journal, epochs: Sequence[RecoveredEpoch]
    ) -> None:
        self._place = place
        self._found = found
        self._generation = generation
        #: The mount token that the attachment is to have.
        self.token = mount_token.new_value()
        self.journal = journal
        #: What is to be replayed.
        self.epochs = epochs
        self._is_replayed = False
        self._keeper: LeaseKeeper | None = None

    @classmethod
    async def open(
        cls, place: Place, found: Volume, files: Files, *, size_bytes_max: int, offload: Offload
    ) -> "AttachedJournal":
        """Raises Mismatch when there is something to replay and somebody else may have written to the volume
        since; and what Journal.open raises."""
        now = await holding.look(place)
        generation = 0 if now.lease is None else now.lease.epoch
        holder = None if now.lease is None else now.lease.holder
        journal, epochs = await Journal.open(
            files,
            _identity(place, found, generation),
            # Left by an attach that had taken the lease and got no further.
            also=None if holder is None else _identity(place, found, generation, holder.token),
            passed=None if now.lease is None else now.lease.passed,
            size_bytes_max=size_bytes_max,
            offload=offload,
        )
        attached = cls(place, found, generation, journal, epochs)
        try:
            if epochs:
                await attached._check_token(now, files.place)
            await journal.relabel(
                _identity(place, found, generation),
                _identity(place, found, generation + 1, attached.token),
            )
        except BaseException:
            await journal.close(empty=False)
            raise
        return attached

    async def _check_token(self, now: Holding, where: str) -> None:
        """s3backer leaves the lease alone. But it clears or replaces the mount token, which a crash of ours
        leaves."""
        holder = None if now.lease is None else now.lease.holder
        if holder is None:
            # The lease was given back, which is done when everything is in the bucket.
            await self.journal.skip(self.epochs[-1].number)
            self.epochs = ()
        elif not now.lease_token:
            raise Mismatch(
                f"{self._place.url}: the journal in {where} has writes that the volume lacks, but somebody "
                "else (an s3backer) may have written to it since; to give them up, delete that directory"
            )

    @property
    def owes(self) -> bool:
        """Whether the journal has something that nobody has taken over yet."""
        return bool(self.epochs) and not self._is_replayed

    def note_replayed(self) -> None:
        """The cache has everything, and sees to it from now on."""
        self._is_replayed = True

    async def confirm(self, keeper: LeaseKeeper) -> None:
        """The volume is held. Raises Busy when somebody has had it for a moment since ``open``."""
        if keeper.epoch != self._generation + 1:
            raise Busy(f"{self._place.url}: somebody else has had the volume in between; try again")
        await self.journal.relabel(_identity(self._place, self._found, keeper.epoch))
        self._keeper = keeper

    async def relabel(self, *sizes_bytes: int) -> None:
        """The volume has one of these sizes from now on: two while it is changed."""
        assert self._keeper is not None, "the volume is held"
        volumes = [
            replace(self._found, format=replace(self._found.format, size_bytes=size_bytes))
            for size_bytes in sizes_bytes
        ]
        await self.journal.relabel(*(_identity(self._place, each, self._keeper.epoch) for each in volumes))

    async def disown(self) -> None:
        """The journal cannot be emptied: from now on the bucket says that it is not the volume's."""
        assert self._keeper is not None, "the volume is held"
        await self._keeper.renumber()

    async def note_passed(self, passed: Passed) -> None:
        """The journal cannot say what the bucket has of it: the bucket says it. Raises Invalid when that is
        too much to say."""
        assert self._keeper is not None, "the volume is held"
        await self._keeper.note_passed(passed)

    async def empty(self) -> None:
        """Everything is in the bucket. When that cannot be written down it does no harm: the volume is given
        back next, and a journal of a volume that was given back is not replayed."""
        try:
            await self.journal.close(empty=True)
        except Unavailable as error:
            _log.warning("%s: the journal could not be emptied: %s", self._place.url, error)

    async def close(self) -> None:
        """Leave the journal as it is, for the next attachment. Closing twice, or after ``empty``, is fine."""
        await self.journal.close(empty=False)


def _identity(place: Place, found: Volume, generation: int, token: int | None = None) -> JournalIdentity:
    return JournalIdentity(
        volume=found.volume_id or place.url,
        generation=str(generation) if token is None else f"{generation} with token {token:08x}",
        size_bytes=found.format.size_bytes,
        block_size_bytes=found.format.block_size_bytes,
    )
