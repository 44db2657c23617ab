"""Which blocks of a file to fetch before they are asked for, told only of reads that had to wait.

A reader that goes on where it had stopped is a stream. What is fetched ahead of it are the blocks of its
window, which doubles with every step up to ``window_max``. Reads that the cache answers are not told, for
they should cost nothing; instead some blocks are *marks*: when the reader has come to one, the next window is
fetched, long before the reader has used up the last one. (Linux does the same with a bit in a page.)

Readers that jump about make no stream, and nothing is fetched for them.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Stream:
    #: The block behind the last one that is known to be read.
    next_block: int
    #: What is behind the last one fetched.
    fetched_to: int
    window: int = 0
    mark: int = -1


class FileStreams:
    """The streams of one open file."""

    #: More readers than that at once share the oldest one's place.
    STREAMS_MAX = 8
    #: The first window: 512 KiB cost little if it was no stream after all.
    WINDOW_MIN = 4

    def __init__(self, block_count: int, window_max: int) -> None:
        self._block_count = block_count
        self._window_max = window_max
        #: Least recently used first.
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        #: Whoever reads one of these blocks takes its mark and tells.
        self._marks: dict[int, _Stream] = {}

    def note_wait(self, first: int, stop: int) -> range:
        """A read of the blocks ``first`` to before ``stop`` has to wait: which to fetch beyond them."""
        if not self._window_max:
            return range(0)
        for number, stream in self._streams.items():
            # It goes on behind the block that it stopped in, in that very block, or where it found nothing of
            # what was fetched for it, since that is still on its way.
            if stream.next_block - 1 <= first <= stream.fetched_to:
                self._streams.move_to_end(number)
                return self._advance(stream, stop, stop - first)
        if len(self._streams) == self.STREAMS_MAX:
            _, oldest = self._streams.popitem(last=False)
            self._marks.pop(oldest.mark, None)
        stream = _Stream(stop, stop)
        self._streams[id(stream)] = stream
        return range(0)

    def take_mark(self, first: int, stop: int) -> object | None:
        """The mark on one of the blocks ``first`` to before ``stop``, which are being read: it is to be given
        to ``note_mark``. From any thread, and each mark is taken once."""
        if self._marks:
            for block in range(first, stop):
                stream = self._marks.pop(block, None)
                if stream is not None:
                    return stream
        return None

    def note_mark(self, mark: object, stop: int) -> range:
        """The reader of a mark has come to before block ``stop``: which blocks to fetch now."""
        if not isinstance(mark, _Stream) or id(mark) not in self._streams:
            return range(0)  # another stream has its place now
        self._streams.move_to_end(id(mark))
        return self._advance(mark, stop, 1)

    def _advance(self, stream: _Stream, next_block: int, step: int) -> range:
        stream.next_block = next_block
        stream.window = min(max(2 * stream.window, 2 * step, self.WINDOW_MIN), self._window_max)
        start = max(stream.fetched_to, next_block)
        stop = min(next_block + stream.window, self._block_count)
        if stop <= start:
            return range(0)
        stream.fetched_to = stop
        self._marks.pop(stream.mark, None)
        stream.mark = (next_block + stop) // 2
        self._marks[stream.mark] = stream
        return range(start, stop)
