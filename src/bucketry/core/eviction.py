"""Which of the things in a cache goes next, when room is needed: replacement policies behind one protocol.

A policy knows keys and sizes; the things themselves are its owner's, who says what comes, is used and goes,
and asks for a victim whenever the cache is too full. No policy knows a limit: queues that are a share of the
cache are a share of what it holds at that moment, since the room for clean blocks is what dirty ones leave.

Ghosts are keys of things that have gone, without the things: they tell, at the cost of some bytes each, that
something comes back soon after it was given up. There are never ghosts for more bytes than the most that were
held at once.

Which policy is used where, and why, is in docs/decisions/0011-replacement.md.
"""

from collections import OrderedDict
from typing import Protocol


class Eviction(Protocol):
    """A replacement policy. Every call takes constant time, ``evict`` on the average."""

    def __len__(self) -> int:
        """How many keys are there."""
        ...

    def __contains__(self, key: int) -> bool:
        """Whether ``key`` is there."""
        ...

    @property
    def held_bytes(self) -> int:
        """The sizes of the keys that are there, together."""
        ...

    def add(self, key: int, size_bytes: int) -> None:
        """``key``, which is not there, comes in."""
        ...

    def touch(self, key: int) -> None:
        """``key``, which is there, is used."""
        ...

    def remove(self, key: int) -> None:
        """``key``, which is there, goes for another reason than room, and may come back: if it was in use, it
        will be again."""
        ...

    def evict(self) -> int:
        """Take out and return the key that goes next. Raises LookupError when none is there."""
        ...


class Queue:
    """Keys with their sizes, oldest first."""

    __slots__ = ("held_bytes", "sizes")

    def __init__(self) -> None:
        self.sizes: OrderedDict[int, int] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def push(self, key: int, size_bytes: int) -> None:
        self.sizes[key] = size_bytes
        self.held_bytes += size_bytes

    def pop(self) -> tuple[int, int]:
        """The oldest, and its size. Raises LookupError when there is none."""
        key, size_bytes = self.sizes.popitem(last=False)
        self.held_bytes -= size_bytes
        return key, size_bytes

    def take(self, key: int) -> int:
        """Take out ``key``; returns its size. Raises LookupError."""
        size_bytes = self.sizes.pop(key)
        self.held_bytes -= size_bytes
        return size_bytes

    def trim(self, bytes_max: int) -> None:
        """Forget the oldest, down to ``bytes_max``."""
        while self.held_bytes > bytes_max:
            self.pop()


class Lru:
    """What was used least recently goes first. One scan sweeps it clean; the yardstick for the others."""

    def __init__(self) -> None:
        self._queue = Queue()

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, key: int) -> bool:
        return key in self._queue.sizes

    @property
    def held_bytes(self) -> int:
        return self._queue.held_bytes

    def add(self, key: int, size_bytes: int) -> None:
        self._queue.push(key, size_bytes)

    def touch(self, key: int) -> None:
        self._queue.sizes.move_to_end(key)

    def remove(self, key: int) -> None:
        self._queue.take(key)

    def evict(self) -> int:
        return self._queue.pop()[0]


class TwoQueue:
    """2Q (Johnson and Shasha, 1994): newcomers pass through a queue of their own; what is asked for again
    soon after it left that queue is kept in an LRU list."""

    #: The authors' shares: a quarter for newcomers, ghosts for half of the cache.
    RECENT_SHARE = 0.25
    GHOST_SHARE = 0.5

    def __init__(self) -> None:
        self._recent = Queue()
        self._kept = Queue()
        self._ghosts = Queue()
        self._held_bytes_max = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._kept)

    def __contains__(self, key: int) -> bool:
        return key in self._recent.sizes or key in self._kept.sizes

    @property
    def held_bytes(self) -> int:
        return self._recent.held_bytes + self._kept.held_bytes

    def add(self, key: int, size_bytes: int) -> None:
        if key in self._ghosts.sizes:
            self._ghosts.take(key)
            self._kept.push(key, size_bytes)
        else:
            self._recent.push(key, size_bytes)
        self._held_bytes_max = max(self._held_bytes_max, self.held_bytes)

    def touch(self, key: int) -> None:
        if key in self._kept.sizes:
            self._kept.sizes.move_to_end(key)

    def remove(self, key: int) -> None:
        queue = self._recent if key in self._recent.sizes else self._kept
        self._remember(key, queue.take(key))

    def evict(self) -> int:
        if self._recent and (
            not self._kept or self._recent.held_bytes >= self.RECENT_SHARE * self.held_bytes
        ):
            key, size_bytes = self._recent.pop()
            self._remember(key, size_bytes)
            return key
        return self._kept.pop()[0]

    def _remember(self, key: int, size_bytes: int) -> None:
        self._ghosts.push(key, size_bytes)
        self._ghosts.trim(int(self.GHOST_SHARE * self._held_bytes_max))


class Arc:
    """ARC (Megiddo and Modha, 2003): a list of what was used once and one of what was used again, each with
    its ghosts; whose ghosts come back gets more room.

    The newcomer is let in before the victim is chosen, so that the lists hold it for a moment.
    """

    def __init__(self) -> None:
        self._once = Queue()
        self._again = Queue()
        self._once_ghosts = Queue()
        self._again_ghosts = Queue()
        #: What ``_once`` should hold.
        self._target_bytes = 0
        self._held_bytes_max = 0
        self._came_back_from_again = False

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def __contains__(self, key: int) -> bool:
        return key in self._once.sizes or key in self._again.sizes

    @property
    def held_bytes(self) -> int:
        return self._once.held_bytes + self._again.held_bytes

    def add(self, key: int, size_bytes: int) -> None:
        once, again = self._once_ghosts, self._again_ghosts
        self._came_back_from_again = key in again.sizes
        if key in once.sizes:
            step = size_bytes * max(1, again.held_bytes // max(1, once.held_bytes))
            self._target_bytes = min(self._target_bytes + step, self._held_bytes_max)
            once.take(key)
            self._again.push(key, size_bytes)
        elif key in again.sizes:
            step = size_bytes * max(1, once.held_bytes // max(1, again.held_bytes))
            self._target_bytes = max(self._target_bytes - step, 0)
            again.take(key)
            self._again.push(key, size_bytes)
        else:
            self._once.push(key, size_bytes)
        self._held_bytes_max = max(self._held_bytes_max, self.held_bytes)

    def touch(self, key: int) -> None:
        if key in self._again.sizes:
            self._again.sizes.move_to_end(key)
        else:
            self._again.push(key, self._once.take(key))

    def remove(self, key: int) -> None:
        if key in self._once.sizes:
            self._remember(self._once_ghosts, key, self._once.take(key))
        else:
            self._remember(self._again_ghosts, key, self._again.take(key))

    def evict(self) -> int:
        once = self._once
        over = once.held_bytes - self._target_bytes
        if once and (not self._again or over > 0 or (over == 0 and self._came_back_from_again)):
            key, size_bytes = once.pop()
            self._remember(self._once_ghosts, key, size_bytes)
        else:
            key, size_bytes = self._again.pop()
            self._remember(self._again_ghosts, key, size_bytes)
        return key

    def _remember(self, ghosts: Queue, key: int, size_bytes: int) -> None:
        ghosts.push(key, size_bytes)
        # The paper's limits: once and its ghosts together the size of the cache, all four lists twice that.
        limit = self._held_bytes_max
        self._once_ghosts.trim(max(0, limit - self._once.held_bytes))
        self._again_ghosts.trim(max(0, 2 * limit - self.held_bytes - self._once_ghosts.held_bytes))


class S3Fifo:
    """S3-FIFO (Yang and others, 2023): a small queue for newcomers, where most of them leave unused, and a
    large one for what was used there, or came back soon; both first in, first out, with second chances.

    A use is one small number counted up: nothing is moved.
    """

    #: The authors' share for newcomers.
    SMALL_SHARE = 0.1
    #: Uses are counted so far: so many second chances in the large queue.
    USES_MAX = 3
    #: Uses in the small queue that earn a place in the large one. The authors ask for two.
    USES_TO_STAY = 2

    def __init__(self) -> None:
        self._small = Queue()
        self._main = Queue()
        self._ghosts = Queue()
        self._uses: dict[int, int] = {}
        self._held_bytes_max = 0

    def __len__(self) -> int:
        return len(self._uses)

    def __contains__(self, key: int) -> bool:
        return key in self._uses

    @property
    def held_bytes(self) -> int:
        return self._small.held_bytes + self._main.held_bytes

    def add(self, key: int, size_bytes: int) -> None:
        self._uses[key] = 0
        if key in self._ghosts.sizes:
            self._ghosts.take(key)
            self._main.push(key, size_bytes)
        else:
            self._small.push(key, size_bytes)
        self._held_bytes_max = max(self._held_bytes_max, self.held_bytes)

    def touch(self, key: int) -> None:
        uses = self._uses[key]
        if uses < self.USES_MAX:
            self._uses[key] = uses + 1

    def remove(self, key: int) -> None:
        queue = self._small if key in self._small.sizes else self._main
        self._remember(key, queue.take(key))

    def evict(self) -> int:
        while self._small and (
            not self._main or self._small.held_bytes >= self.SMALL_SHARE * self.held_bytes
        ):
            key, size_bytes = self._small.pop()
            if self._uses[key] < self.USES_TO_STAY:
                self._remember(key, size_bytes)
                return key
            self._uses[key] = 0
            self._main.push(key, size_bytes)
        while True:
            key, size_bytes = self._main.pop()
            uses = self._uses[key]
            if uses == 0:
                del self._uses[key]
                return key
            self._uses[key] = uses - 1
            self._main.push(key, size_bytes)

    def _remember(self, key: int, size_bytes: int) -> None:
        del self._uses[key]
        self._ghosts.push(key, size_bytes)
        self._ghosts.trim(self._held_bytes_max)


class ClockTwoQueue:
    """2Q with a clock in place of its LRU list, and ghosts for as much as is held: a queue for newcomers, in
    which uses do not count, and a large one for what came back soon after it left the first. There, uses are
    counted up, and each is a second chance when its turn to go comes.

    That uses right after the arrival say nothing (they are parts of the same file, or of one large read) is
    what sets it, and 2Q, apart from S3-FIFO and SIEVE: Clock2Q+ (2025) calls it the correlation window. Here
    the window is the whole queue of the newcomers.
    """

    #: As in 2Q.
    RECENT_SHARE = 0.25
    #: Uses are counted so far. With one alone the hit rates are much the same.
    USES_MAX = 3

    def __init__(self) -> None:
        self._recent = Queue()
        self._kept = Queue()
        self._ghosts = Queue()
        #: Of what is kept.
        self._uses: dict[int, int] = {}
        self._held_bytes_max = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._kept)

    def __contains__(self, key: int) -> bool:
        return key in self._recent.sizes or key in self._uses

    @property
    def held_bytes(self) -> int:
        return self._recent.held_bytes + self._kept.held_bytes

    def add(self, key: int, size_bytes: int) -> None:
        if key in self._ghosts.sizes:
            self._ghosts.take(key)
            self._kept.push(key, size_bytes)
            self._uses[key] = 0
        else:
            self._recent.push(key, size_bytes)
        self._held_bytes_max = max(self._held_bytes_max, self.held_bytes)

    def touch(self, key: int) -> None:
        uses = self._uses.get(key, self.USES_MAX)
        if uses < self.USES_MAX:
            self._uses[key] = uses + 1

    def remove(self, key: int) -> None:
        if key in self._uses:
            del self._uses[key]
            self._remember(key, self._kept.take(key))
        else:
            self._recent.take(key)

    def evict(self) -> int:
        # With nothing kept, newcomers are all there is, and more than their share.
        if self._recent.held_bytes >= self.RECENT_SHARE * self.held_bytes and self._recent:
            key, size_bytes = self._recent.pop()
            self._remember(key, size_bytes)
            return key
        while True:
            key, size_bytes = self._kept.pop()
            uses = self._uses[key]
            if uses == 0:
                del self._uses[key]
                return key
            self._uses[key] = uses - 1
            self._kept.push(key, size_bytes)

    def _remember(self, key: int, size_bytes: int) -> None:
        self._ghosts.push(key, size_bytes)
        self._ghosts.trim(self._held_bytes_max)


class _Link:
    """One key in SIEVE's list."""

    __slots__ = ("key", "newer", "older", "size_bytes", "used")

    def __init__(self, key: int, size_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes
        self.used = False
        self.newer: _Link = self
        self.older: _Link = self


class Sieve:
    """SIEVE (Zhang and others, 2024): one queue and a hand that walks from the oldest to the newest, again
    and again; what was used since it last came by stays where it is, what was not goes."""

    def __init__(self) -> None:
        self._links: dict[int, _Link] = {}
        #: Closes the ring: its ``newer`` is the oldest, its ``older`` the newest.
        self._end = _Link(-1, 0)
        #: The next to be looked at.
        self._hand = self._end
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, key: int) -> bool:
        return key in self._links

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def add(self, key: int, size_bytes: int) -> None:
        link = self._links[key] = _Link(key, size_bytes)
        newest, end = self._end.older, self._end
        link.older, link.newer = newest, end
        newest.newer = end.older = link
        self._held_bytes += size_bytes

    def touch(self, key: int) -> None:
        self._links[key].used = True

    def remove(self, key: int) -> None:
        self._take(self._links[key])

    def evict(self) -> int:
        if not self._links:
            raise LookupError("nothing is there")
        link = self._hand
        while link is self._end or link.used:
            link.used = False
            link = link.newer
        self._hand = link
        self._take(link)
        return link.key

    def _take(self, link: _Link) -> None:
        if self._hand is link:
            self._hand = link.newer
        link.older.newer, link.newer.older = link.newer, link.older
        del self._links[link.key]
        self._held_bytes -= link.size_bytes
