"""Which blocks to fetch before they are asked for: sequential readers are recognised, several at once.

A stream is a reader that went on where it had stopped. Its window doubles with each such step, from the size
of the step to ``window_blocks_max``, and starts anew when the reader jumps. A second sequential read makes a
stream: one read tells nothing.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class _Stream:
    next_block: int
    window: int
    fetched_to: int


class ReadAhead:
    """The streams of one disk. Pure: told of reads, answers with ranges of blocks."""

    #: More readers than that at once share the oldest one's place; eight is more than a filesystem's own
    #: parallelism on 2 cores.
    STREAMS_MAX = 8

    def __init__(self, block_count: int, window_blocks_max: int) -> None:
        self._block_count = block_count
        self._window_max = window_blocks_max
        #: Least recently used first.
        self._streams: list[_Stream] = []

    def note_read(self, first: int, stop: int) -> range:
        """Blocks ``first`` to before ``stop`` are being read; what to fetch now, beyond them (often
        nothing)."""
        for index, stream in enumerate(self._streams):
            if stream.next_block - 1 <= first <= stream.next_block < stop:
                self._streams.append(self._streams.pop(index))
                stream.next_block = stop
                stream.window = min(max(2 * stream.window, stop - first), self._window_max)
                begin = max(stream.fetched_to, stop)
                stream.fetched_to = max(begin, min(stop + stream.window, self._block_count))
                return range(begin, stream.fetched_to)
            if first >= stream.next_block - 1 and stop <= stream.next_block:
                return range(0)  # still within the block that it stopped in
        if len(self._streams) == self.STREAMS_MAX:
            del self._streams[0]
        self._streams.append(_Stream(next_block=stop, window=0, fetched_to=stop))
        return range(0)
