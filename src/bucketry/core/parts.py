"""What is known of a block of which only parts were read: runs of its bytes, all of the same content."""

from bucketry.core.bytes_like import BytesLike

#: What a request costs in bytes that could have come in its time: 20 ms at 100 MB/s.
_REQUEST_BYTES = 2 << 20


def parts_max(block_bytes: int, part_bytes: int, under_way_count: int) -> int:
    """How many parts of one block are fetched before all of it is: as many as cost what the whole block does.
    So no order of reads costs more than twice what it would have to, whatever comes. The time of a request is
    shared by those that are under way beside it: who reads much at once pays for bytes, and gets more
    parts."""
    if part_bytes >= block_bytes:
        return 0
    request_bytes = _REQUEST_BYTES // (1 + under_way_count)
    return max(1, (request_bytes + block_bytes) // (request_bytes + part_bytes))


class Parts:
    """Runs of bytes of one block, as it was when its tag was ``tag``."""

    __slots__ = ("_runs", "size_bytes", "tag")

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.size_bytes = 0
        self._runs: list[tuple[int, BytesLike]] = []

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, start: int, data: BytesLike) -> None:
        """Bytes from ``start`` of the block on. They must not change any more."""
        self._runs.append((start, data))
        self.size_bytes += len(data)

    def find(self, start: int, end: int) -> memoryview | None:
        """Bytes ``start`` to ``end`` of the block, if one run has them all."""
        for first, data in self._runs:
            if first <= start and end <= first + len(data):
                return memoryview(data)[start - first : end - first]
        return None
