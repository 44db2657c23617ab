"""Which blocks to fetch before they are asked for: sequential readers are recognised, several at once.

A stream is a reader that went on where it had stopped. Its window (so many blocks are fetched ahead of it)
begins with the size of its own steps and doubles with each step, up to ``window_blocks_max``: latency times
bandwidth, when that is chosen well. Known blocks, zeros above all, are passed over and do not count, so that
a hole in a file does not end the stream. When fetched blocks go unused the windows of all streams are halved;
they grow again with use.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Stream:
    next_block: int
    window: int
    fetched_to: int
    #: Fetched and not asked for yet.
    unused_count: int = 0


@dataclass(frozen=True, slots=True)
class ReadAheadStatistics:
    """``used`` blocks were asked for after they had been fetched; ``wasted`` ones had to be forgotten before
    anybody did."""

    streams: int
    fetched_blocks: int
    used_blocks: int
    wasted_blocks: int


class ReadAhead:
    """The streams of one disk. Pure: told of reads, answers with blocks. ``is_known(block)`` tells which need
    no fetching."""

    #: More readers than that at once share the oldest one's place; eight is more than a filesystem reads in
    #: parallel on a few cores.
    STREAMS_MAX = 8
    #: Known blocks that are looked at in search of unknown ones, per step: a hole larger than that is passed
    #: in several steps.
    LOOK_MAX = 4096

    def __init__(self, block_count: int, window_blocks_max: int, is_known: Callable[[int], bool]) -> None:
        self._block_count = block_count
        self._window_max = window_blocks_max
        self._is_known = is_known
        #: By the block that each expects to be read next; least recently used first.
        self._streams: dict[int, _Stream] = {}
        #: Fetched and not asked for yet, oldest first. What falls out of it was fetched in vain.
        self._unused: OrderedDict[int, _Stream] = OrderedDict()
        self._unused_max = 2 * self.STREAMS_MAX * max(1, window_blocks_max)
        self._fetched_blocks = 0
        self._used_blocks = 0
        self._wasted_blocks = 0

    def note_read(self, first: int, stop: int) -> list[int]:
        """Blocks ``first`` to before ``stop`` are being read; which to fetch now, beyond them (often
        none)."""
        if self._unused:
            for block in range(first, stop):
                fetched_by = self._unused.pop(block, None)
                if fetched_by is not None:
                    fetched_by.unused_count -= 1
                    self._used_blocks += 1
        streams = self._streams
        # A reader goes on behind the block that it stopped in, or in that very block.
        stream = streams.pop(first, None)
        if stream is None:
            if stop in streams:
                return []  # still within the block that it stopped in
            if first + 1 < stop:
                stream = streams.pop(first + 1, None)
        if stream is None:
            if len(streams) == self.STREAMS_MAX:
                del streams[next(iter(streams))]
            streams[stop] = _Stream(next_block=stop, window=0, fetched_to=stop)
            return []
        streams[stop] = stream
        stream.next_block = stop
        stream.window = min(max(2 * stream.window, stop - first), self._window_max)
        return self._fetch(stream)

    def _fetch(self, stream: _Stream) -> list[int]:
        """The unknown blocks within the window, beyond those fetched before."""
        blocks: list[int] = []
        at = max(stream.fetched_to, stream.next_block)
        end = min(self._block_count, at + self.LOOK_MAX)
        # The window is how far ahead we are, in blocks that cost something; what is fetched and still unread
        # counts.
        while at < end and stream.unused_count < stream.window:
            if not self._is_known(at):
                blocks.append(at)
                stream.unused_count += 1
                self._unused[at] = stream
            at += 1
        stream.fetched_to = at
        self._fetched_blocks += len(blocks)
        while len(self._unused) > self._unused_max:
            _, fetched_by = self._unused.popitem(last=False)
            fetched_by.unused_count -= 1
            self._wasted_blocks += 1
            for each in self._streams.values():
                each.window //= 2
        return blocks

    def statistics(self) -> ReadAheadStatistics:
        return ReadAheadStatistics(
            streams=len(self._streams),
            fetched_blocks=self._fetched_blocks,
            used_blocks=self._used_blocks,
            wasted_blocks=self._wasted_blocks,
        )
