"""Blocks that could not be kept on the local disk, in memory, the last few of all objects."""

import threading
from collections import OrderedDict


class RecentBlocks:
    """At most ``bytes_max``, least recently read first to go. For any thread. Owners are told apart by
    identity."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def put(self, owner: object, block: int, data: bytes) -> None:
        with self._lock:
            self._take((id(owner), block))
            self._blocks[id(owner), block] = data
            self._held_bytes += len(data)
            while self._held_bytes > self._bytes_max:
                self._take(next(iter(self._blocks)))

    def get(self, owner: object, block: int) -> bytes | None:
        with self._lock:
            found = self._blocks.get((id(owner), block))
            if found is not None:
                self._blocks.move_to_end((id(owner), block))
            return found

    def forget(self, owner: object) -> None:
        """Of one owner, all: before its identity is another's."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] == id(owner)]:
                self._take(key)

    def _take(self, key: tuple[int, int]) -> None:
        self._held_bytes -= len(self._blocks.pop(key, b""))
