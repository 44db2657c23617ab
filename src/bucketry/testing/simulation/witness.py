"""Somebody who sees every change of the store at the moment that it is made, and knows what may be there.

He reads the lease as it lies in the store: from the moment that a process has it, that process's History
says what the blocks may be, and nobody else may change one.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bucketry.bucket.memory import MemoryStore
from bucketry.codec.pipeline import BlockCodec
from bucketry.core import lease as rules
from bucketry.core.lease import Holder
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME, BlockNames
from bucketry.layout.mount_token import METADATA_NAME
from bucketry.testing.simulation.cells import Cells, Numbers, Torn, show
from bucketry.testing.simulation.history import History, Violation
from bucketry.testing.simulation.machines import Process

#: A put of the lease says what was so when it was made: it is tried again for some seconds (8, as the world
#: has it), and a request takes 30 s at most.
_TOLD_SECONDS = 45.0


class JournalDirectory(Protocol):
    """What a process has of a journal, see ``local_disk``."""

    origin: "Session | None"
    is_partial: bool
    floor: int

    def note_flushed(self, session: "Session", epoch: int) -> None: ...


@dataclass(slots=True, eq=False)
class Session:
    """One process's time with the lease, from when the store has it to when somebody else has it."""

    process: Process
    holder: Holder
    epoch: int
    history: History
    #: Taken by force while somebody else was alive, or from one who had done so: as long as it has written
    #: nothing and nobody uses it, the former holder may go on writing.
    settles: bool = False
    #: The blocks when somebody else took the lease; None while it is ours, or was and is nobody's.
    content_at_end: dict[int, Numbers] | None = None
    released: bool = False
    #: A flush waits for a journal, and the bucket may lack what was flushed.
    journal: bool = False
    #: Whose writes its journal had when it began: their history is its own.
    recovers: "Session | None" = None
    #: The journal's directory, None without one; and what it surely has, where that is not all.
    directory: "JournalDirectory | None" = None
    #: The blocks when it began.
    content_at_begin: dict[int, Numbers] = field(default_factory=dict)
    #: When its flushes returned, with their epochs, and up to which the bucket surely knows of them.
    flushes: list[tuple[float, int]] = field(default_factory=list)
    told: int = 0

    @property
    def is_over(self) -> bool:
        return self.content_at_end is not None


class Witness:
    """``trace`` is told what happens; ``now`` is the true time; ``damaged`` tells which objects were ever
    damaged on their way to a process, ``directory_of`` the journal's directory that a process is given;
    ``has_journals``: a flush may wait for one."""

    def __init__(
        self,
        store: MemoryStore,
        names: BlockNames,
        codec: BlockCodec,
        cells: Cells,
        *,
        now: Callable[[], float],
        damaged: Callable[[Process], Collection[str]],
        directory_of: Callable[[Process], JournalDirectory | None],
        has_journals: bool,
        trace: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._names = names
        self._codec = codec
        self._cells = cells
        self._now = now
        self._damaged = damaged
        self._directory_of = directory_of
        self._has_journals = has_journals
        self._trace = trace
        #: What the blocks in the store decode to; absent ones are not in it.
        self.content: dict[int, Numbers] = {}
        #: Every content that a block had, with when it came.
        self._past: dict[int, list[tuple[int, Numbers]]] = {}
        self.change_count = 0
        self.sessions: list[Session] = []
        #: With late duplicates on the line, order is not promised: only whole blocks are.
        self.is_order_promised = True
        #: Set before a process takes the lease by force, for it to be known when it does.
        self.forced: set[Process] = set()
        #: Processes that only break the lease: a pending journal stays so.
        self.unlocking: set[Process] = set()
        #: The first session since the store was restored from a copy.
        self._first_index = 0

    @property
    def session(self) -> Session | None:
        """The last one, if the store has not been restored since."""
        return self.sessions[-1] if len(self.sessions) > self._first_index else None

    def session_of(self, process: Process) -> Session | None:
        for session in reversed(self.sessions):
            if session.process is process:
                return session
        return None

    def is_certain(self, session: Session) -> bool:
        """Whether it is known what its blocks may be."""
        if session.recovers is not None and not self.is_certain(session.recovers):
            return False
        return self.is_order_promised

    def changed(self, process: Process, key: str) -> None:
        """``process`` has put or deleted ``key``. Raises Violation."""
        self.change_count += 1
        name = key.removeprefix(self._names.prefix)
        if process in self.unlocking and self._names.parse(key) is None:
            return
        if name == LEASE_NAME:
            self._lease_changed(process)
        elif name == MOUNT_TOKEN_NAME:
            self._token_changed(process)
        elif (block := self._names.parse(key)) is not None:
            self._block_changed(process, block, key)

    # -- the lease -------------------------------------------------------------------------------------------

    def _lease_changed(self, process: Process) -> None:
        found = self._store.objects.get(self._names.prefix + LEASE_NAME)
        if found is None:
            raise Violation(f"{process.name} deleted the lease")
        lease = rules.decode(found[1])
        session = self.session
        if lease.holder is None:
            self._trace(process.name, f"gives the lease back (epoch {lease.epoch})")
            if session is None or session.process is not process:
                raise Violation(f"{process.name} gave back a lease that is not its own")
            session.released = True
            self._check_given_back(session)
            return
        if session is not None and session.holder == lease.holder and session.epoch <= lease.epoch:
            session.epoch = lease.epoch
            self._note_told(session)
            return  # renewed, or counted up to disown a journal
        self._begin_session(process, lease.holder, lease.epoch)

    def _note_told(self, session: Session) -> None:
        """The bucket knows how far the journal had got when the put was made."""
        if session.process.resumed_at:
            return  # it may have stood still between that and sending it
        told = [epoch for at, epoch in session.flushes if at <= self._now() - _TOLD_SECONDS]
        session.told = max([session.told, *told])

    def _begin_session(self, process: Process, holder: Holder, epoch: int) -> None:
        before = self.session
        directory = self._directory_of(process)
        settles = False
        if before is not None:
            is_taken = process in self.forced and before.process.is_alive and not before.released
            settles = is_taken or before.settles
            if not settles:
                self._end(before)
            if epoch <= before.epoch:
                raise Violation(f"the lease's epoch went from {before.epoch} to {epoch}")
        self._trace(process.name, f"has the lease (epoch {epoch})")
        recovers = None if settles else self.to_recover(directory)
        if before is not None and recovers is None and not settles and process not in self.forced:
            self._check_nothing_is_left(process, before)
        if recovers is None:
            history = History(self._names.block_count, self._cells.count, self.content)
        else:
            history = recovers.history
        session = Session(process, holder, epoch, history, settles)
        session.journal = self._has_journals
        session.recovers = recovers
        session.directory = directory
        session.content_at_begin = dict(self.content)
        if recovers is not None:
            session.told = recovers.told
        self.sessions.append(session)

    def _end(self, session: Session) -> None:
        """Somebody else writes from now on."""
        session.content_at_end = dict(self.content)
        if self.is_certain(session):
            self._check_order(session, self.content)

    def settled(self, session: Session) -> None:
        """It is used: whoever had the lease before it must have stopped."""
        if not session.settles:
            return
        session.settles = False
        for former in self.sessions[: self.sessions.index(session)]:
            if not former.is_over:
                self._end(former)
        session.history = History(self._names.block_count, self._cells.count, self.content)

    def _writer(self, session: Session) -> Session:
        """Whose writes may arrive: the last one's who was not waiting for another to stop."""
        while session.settles:
            index = self.sessions.index(session)
            session = self.sessions[index - 1]
        return session

    def _check_nothing_is_left(self, process: Process, before: Session) -> None:
        """Who takes the volume without the journal of the one before finds in the bucket what was flushed,
        or nobody would know that anything is missing."""
        if before.released or not self.is_certain(before):
            return
        try:
            before.history.check_order(self.content, aside=self._aside(before))
        except Violation as error:
            raise Violation(f"{process.name} took the volume without its journal: {error}") from error

    def to_recover(self, directory: JournalDirectory | None) -> Session | None:
        """The session whose journal, in this directory, may be replayed: nobody else has had the volume
        since."""
        origin = None if directory is None else directory.origin
        if origin is None or origin.released:
            return None
        index = self.sessions.index(origin)
        since = self.sessions[index + 1 :]
        is_ours = all(one.directory is directory and not one.released for one in since)
        return origin if is_ours and index >= self._first_index else None

    def recovered(self, session: Session, seen: Mapping[int, Numbers]) -> None:
        """A process that may have replayed a journal reads ``seen``. Raises Violation unless all that was
        flushed is there, and what else there is fits."""
        if self.is_certain(session):
            history, aside = session.history, self._aside(session)
            directory = session.directory
            flushed = history.flushed
            if directory is not None and directory.is_partial:
                # An older copy, of which the bucket cannot know, may lack what the newest flushes had.
                flushed = max(directory.floor, session.told)
            for block, numbers in seen.items():
                history.check_block(block, numbers)
                if block not in aside:
                    before = session.content_at_begin.get(block, self._cells.zeros)
                    history.check_not_older(block, numbers, before)
            history.check_order(seen, flushed=flushed, aside=aside)
            session.history = history.recovered(seen)
        else:
            session.history = History(self._names.block_count, self._cells.count, {**self.content, **seen})
        self._check_order(session, self.content)

    def shown(self, directory: JournalDirectory | None, seen: Mapping[int, Numbers]) -> None:
        """Somebody who attached read-only, while nobody wrote, reads ``seen``. Raises Violation unless that
        is what the bucket has and, with the right directory, all that was flushed."""
        origin = self.to_recover(directory)
        if origin is None:
            if any(numbers != self.content.get(block, self._cells.zeros) for block, numbers in seen.items()):
                raise Violation("what is shown is not what the bucket has")
        elif self.is_certain(origin) and directory is not None and not directory.is_partial:
            history = origin.history
            for block, numbers in seen.items():
                history.check_block(block, numbers)
            history.check_order(seen, aside=self._aside(origin))

    def restored(self) -> None:
        """The store is what it was at some time: everything before that is over, and nobody's journal, map or
        cache of what came after may be believed."""
        self._first_index = len(self.sessions)
        for session in self.sessions:
            if not session.is_over:
                session.content_at_end = dict(self.content)
        self.change_count += 1
        for block in range(self._names.block_count):
            numbers = self._decode(block, self._names.key(block))
            self._past.setdefault(block, []).append((self.change_count, numbers))
            if numbers == self._cells.zeros:
                self.content.pop(block, None)
            else:
                self.content[block] = numbers

    def _check_given_back(self, session: Session) -> None:
        if self.is_certain(session) and not session.settles:
            if session.recovers is not None and session.history is session.recovers.history:
                # It ended before the disk could be used: what was not flushed may be lost.
                session.history.check_order(self.content, aside=self._aside(session))
            else:
                session.history.check_complete(self.content)
        if self._token() == f"{session.holder.token:08x}":
            raise Violation(f"{session.process.name} gave the lease back before its mount token")

    def _token_changed(self, process: Process) -> None:
        session = self.session
        if session is not None and session.process is process:
            return
        if session is not None and session.settles and process in self._waited_for(session):
            return
        raise Violation(f"{process.name} changed the mount token to {self._token()} without the lease")

    def _waited_for(self, session: Session) -> set[Process]:
        """The processes that have not surely stopped when it has the lease."""
        first = self.sessions.index(self._writer(session))
        return {each.process for each in self.sessions[first : self.sessions.index(session)]}

    def _token(self) -> str | None:
        found = self._store.objects.get(self._names.prefix + MOUNT_TOKEN_NAME)
        return None if found is None else found[0].attributes.metadata.get(METADATA_NAME)

    # -- blocks ----------------------------------------------------------------------------------------------

    def _block_changed(self, process: Process, block: int, key: str) -> None:
        numbers = self._decode(block, key)
        self._trace(process.name, f"store: block {block} = {show(numbers)}")
        if numbers == self._cells.zeros:
            self.content.pop(block, None)
        else:
            self.content[block] = numbers
        self._past.setdefault(block, []).append((self.change_count, numbers))
        if not self.is_order_promised:
            return
        session = self.session
        if session is not None and session.process is process:
            self.settled(session)
        if session is None:
            raise Violation(f"{process.name} wrote block {block} before anybody had the lease")
        writer = self._writer(session)
        if writer.released:
            raise Violation(f"{process.name} wrote block {block} while nobody had the lease")
        if writer.process is not process:
            raise Violation(f"{process.name} wrote block {block} though {writer.process.name} has the lease")
        if self.is_certain(writer):
            writer.history.check_block(block, numbers)
            self._check_order(writer, self.content)

    def _decode(self, block: int, key: str) -> Numbers:
        found = self._store.objects.get(key)
        if found is None:
            return self._cells.zeros
        attributes = found[0].attributes
        data = self._codec.decode(block, found[1], attributes.content_encoding, attributes.metadata)
        try:
            return self._cells.block_numbers(data)
        except Torn as error:
            raise Violation(f"block {block} in the store: {error}") from error

    def _check_order(self, session: Session, content: Mapping[int, Numbers]) -> None:
        if self.is_certain(session):
            flushed = 0 if session.journal else None
            session.history.check_order(content, flushed=flushed, aside=self._aside(session))

    def _aside(self, session: Session) -> set[int]:
        """Blocks that may have been set aside, by the session or since those whose writes it has taken over
        began."""
        first = session
        while first.recovers is not None:
            first = first.recovers
        since = self.sessions[self.sessions.index(first) : self.sessions.index(session) + 1]
        return {block for each in since for block in self._blocks(self._damaged(each.process))}

    def _blocks(self, keys: Collection[str]) -> set[int]:
        return {block for key in keys if (block := self._names.parse(key)) is not None}

    # -- what processes believe ------------------------------------------------------------------------------

    def flushed(self, session: Session, epoch: int) -> None:
        """A flush has returned well. Raises Violation if not everything from before it is in the store."""
        session.history.end_flush(epoch)
        session.flushes.append((self._now(), epoch))
        if session.directory is not None:
            session.directory.note_flushed(session, epoch)
        if self.is_certain(session):
            content = self.content if session.content_at_end is None else session.content_at_end
            self._check_order(session, content)

    def was_seen(self, block: int, first: int, numbers: Numbers, since: int) -> bool:
        """Whether the store had these numbers in a block at any moment since its ``since``-th change."""
        stop = first + len(numbers)
        past = self._past.get(block, [])
        at = len(past)
        while at and past[at - 1][0] > since:
            at -= 1
            if past[at][1][first:stop] == numbers:
                return True
        before = past[at - 1][1] if at else self._cells.zeros
        return before[first:stop] == numbers
