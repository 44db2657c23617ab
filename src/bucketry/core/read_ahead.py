"""Which blocks to fetch before they are asked for: sequential readers are recognised, several at once.

A stream is a reader that went on where it had stopped. Its window (so many blocks are fetched ahead of it)
begins with the size of its own steps and doubles with each step, up to ``window_blocks_max``: latency times
bandwidth, when that is chosen well. Known blocks, zeros above all, are passed over and do not count, so that
a hole in a file does not end the stream. When fetched blocks go unused the windows of all streams are halved;
they grow again with use.

Readers that jump about within a small area (many small files, read in another order than they lie) make no
stream. When two reads that had to wait are close to each other, what lies between and a little beyond is
fetched too. A reader that jumps about on the whole disk seldom does that, and is charged nothing.
"""

from collections import OrderedDict, deque
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
    #: Two reads so many blocks apart are close: 2 MiB at 128 KiB, some directories of small files. Of what is
    #: fetched for a cold tar of such files 93 % are used; with half as many it took half as long again.
    NEAR_BLOCKS = 16
    #: So many reads that waited are remembered: a filesystem alternates between inodes, directory, content.
    LONE_MAX = 16

    def __init__(
        self,
        block_count: int,
        window_blocks_max: int,
        is_known: Callable[[int], bool],
        *,
        near_blocks: int = NEAR_BLOCKS,
    ) -> None:
        self._block_count = block_count
        self._window_max = window_blocks_max
        self._near_blocks = min(near_blocks, window_blocks_max)
        #: Where reads began that waited and belonged to no stream, oldest first.
        self._lone: deque[int] = deque(maxlen=self.LONE_MAX)
        self._is_known = is_known
        #: By the block that each expects to be read next; least recently used first.
        self._streams: dict[int, _Stream] = {}
        #: Fetched and not asked for yet, oldest first. What falls out of it was fetched in vain.
        self._unused: OrderedDict[int, _Stream] = OrderedDict()
        self._unused_max = 2 * self.STREAMS_MAX * max(1, window_blocks_max)
        self._fetched_blocks = 0
        self._used_blocks = 0
        self._wasted_blocks = 0

    def expects(self, block: int) -> bool:
        """Whether a reader has stopped just before this block."""
        return block in self._streams

    def note_read(self, first: int, stop: int, *, waits: bool = False) -> list[int]:
        """Blocks ``first`` to before ``stop`` are being read; which to fetch now, beyond them (often none).
        ``waits``: not all of them are in memory."""
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
            stream = streams[stop] = _Stream(next_block=stop, window=0, fetched_to=stop)
            return self._fetch_near(stream, first) if waits else []
        streams[stop] = stream
        stream.next_block = stop
        stream.window = min(max(2 * stream.window, stop - first), self._window_max)
        return self._fetch(stream)

    def _fetch_near(self, stream: _Stream, first: int) -> list[int]:
        """The unknown blocks around a read that waits, when others near it had to wait as well."""
        near = [block for block in self._lone if 0 < abs(block - first) <= self._near_blocks]
        self._lone.append(first)
        if not near:
            return []
        end = min(self._block_count, max(*near, first) + self._near_blocks // 2 + 1)
        blocks = [block for block in range(min(*near, first), end) if not self._is_known(block)]
        for block in blocks:
            self._unused[block] = stream
        stream.unused_count += len(blocks)
        self._fetched_blocks += len(blocks)
        self._forget_unused()
        return blocks

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
        self._forget_unused()
        return blocks

    def _forget_unused(self) -> None:
        """What has waited longest to be asked for was fetched in vain."""
        while len(self._unused) > self._unused_max:
            _, fetched_by = self._unused.popitem(last=False)
            fetched_by.unused_count -= 1
            self._wasted_blocks += 1
            for each in self._streams.values():
                each.window //= 2

    def statistics(self) -> ReadAheadStatistics:
        return ReadAheadStatistics(
            streams=len(self._streams),
            fetched_blocks=self._fetched_blocks,
            used_blocks=self._used_blocks,
            wasted_blocks=self._wasted_blocks,
        )
