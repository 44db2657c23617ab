"""The slot table: who may start next when only so many requests, and so many bytes, may be under way.

Those who wait stand in one queue for each priority. The first of the most urgent queue goes next, and
nobody overtakes it: when it does not fit yet, all wait, or a large body would wait for ever behind small
ones. A body larger than the whole limit goes when no other body is under way.

A steady stream of urgent requests would keep the others out for good, so a queue that was passed over
OVERTAKEN_MAX times has the next turn. Choosing somebody and giving him the slot are one step: nothing can
come between.
"""

from collections import deque

from bucketry.core.priority import Priority

#: After so many turns of more urgent ones a queue gets one turn: no wait is endless, and the 2 % are not
#: felt by readers.
OVERTAKEN_MAX = 64


class Slot:
    """One request's place: waiting for its turn, or inside. ``size_bytes`` is what it counts against the
    limit."""

    __slots__ = ("inside", "priority", "size_bytes")

    def __init__(self, priority: Priority, size_bytes: int) -> None:
        self.priority = priority
        self.size_bytes = size_bytes
        self.inside = False


class SlotTable:
    """Slots for ``requests_max`` requests and ``bytes_max`` bytes of bodies at once; both at least 1."""

    __slots__ = (
        "_overtaken_counts",
        "_queues",
        "bytes_inside",
        "bytes_max",
        "requests_inside",
        "requests_max",
        "waiting_count",
    )

    def __init__(self, requests_max: int, bytes_max: int) -> None:
        assert requests_max >= 1
        assert bytes_max >= 1
        self.requests_max = requests_max
        self.bytes_max = bytes_max
        self.requests_inside = 0
        self.bytes_inside = 0
        self.waiting_count = 0
        self._queues: tuple[deque[Slot], ...] = tuple(deque() for _ in Priority)
        self._overtaken_counts = [0 for _ in Priority]

    def enter(self, priority: Priority, size_bytes: int) -> Slot:
        """A slot, ``inside`` if it is its turn and it fits, else waiting until a ``leave`` returns it."""
        slot = Slot(priority, size_bytes)
        if self.waiting_count == 0 and self._fits(slot):
            self._admit(slot)
            return slot
        self._queues[priority].append(slot)
        self.waiting_count += 1
        # More urgent than the one that waits, for it is too large, it may still go before.
        if self._next() is slot and self._fits(slot):
            self._admit_next(slot)
        return slot

    def leave(self, slot: Slot) -> list[Slot]:
        """Give up a slot, inside or still waiting; returns those that are inside because of that."""
        if slot.inside:
            slot.inside = False
            self.requests_inside -= 1
            self.bytes_inside -= slot.size_bytes
        else:
            queue = self._queues[slot.priority]
            queue.remove(slot)
            self.waiting_count -= 1
            if not queue:
                self._overtaken_counts[slot.priority] = 0
        admitted: list[Slot] = []
        while self.waiting_count and self._fits(following := self._next()):
            self._admit_next(following)
            admitted.append(following)
        return admitted

    def _fits(self, slot: Slot) -> bool:
        if self.requests_inside >= self.requests_max:
            return False
        return (
            slot.size_bytes == 0
            or self.bytes_inside == 0
            or self.bytes_inside + slot.size_bytes <= self.bytes_max
        )

    def _next(self) -> Slot:
        """The one whose turn it is; somebody waits."""
        for priority in reversed(Priority):
            if self._overtaken_counts[priority] >= OVERTAKEN_MAX:
                return self._queues[priority][0]
        return next(queue[0] for queue in self._queues if queue)

    def _admit_next(self, slot: Slot) -> None:
        self._queues[slot.priority].popleft()
        self.waiting_count -= 1
        self._overtaken_counts[slot.priority] = 0
        for priority in Priority:
            if priority > slot.priority and self._queues[priority]:
                self._overtaken_counts[priority] += 1
        self._admit(slot)

    def _admit(self, slot: Slot) -> None:
        slot.inside = True
        self.requests_inside += 1
        self.bytes_inside += slot.size_bytes
