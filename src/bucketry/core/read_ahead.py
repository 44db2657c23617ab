"""Which blocks to fetch before they are asked for: sequential readers are recognised, several at once.

A stream is a reader that went on where it had stopped, or one that begins with a large read, as the kernel
does when it is sure. Its window (so many blocks are fetched ahead of it) begins with the size of its own
steps and quadruples with each step, up to ``window_blocks_max``: latency times bandwidth, when that is chosen
well. Known blocks, zeros above all, are passed over and do not count, so that a hole in a file does not end
the stream. When fetched blocks go unused the windows of all streams are halved; they grow again with use.

Readers of many small files, in another order than they lie, make no stream. When two reads that had to wait
are close to each other, what lies around them is fetched too: the *area*. How much of areas may be there
that nobody has asked for yet is the *allowance*. Each of these blocks that is asked for raises it, by many:
one block of thirty is reason enough to fetch on. Each that waits in vain for long lowers it by one. While it
is above its least, any read that waits has its area fetched, without a second one near by. So a reader of
some hundred megabytes, in whatever order, soon finds most of them in memory; one who jumps about on a larger
disk is charged the least allowance, once in a long while.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class _Stream:
    next_block: int
    window: int
    fetched_to: int
    #: Fetched and not asked for yet.
    unused_count: int = 0
    #: It has only begun, with a large read.
    began_large: bool = False


@dataclass(frozen=True, slots=True)
class ReadAheadStatistics:
    """``used`` blocks were asked for after they had been fetched; ``wasted`` ones had to be forgotten before
    anybody did. ``area_…``: those of them that were fetched for being near; so many of these may wait to be
    asked for."""

    streams: int
    fetched_blocks: int
    used_blocks: int
    wasted_blocks: int
    area_fetched_blocks: int
    area_used_blocks: int
    area_wasted_blocks: int
    area_allowance_blocks: int


class ReadAhead:
    """The streams of one disk. Pure: told of reads, answers with blocks. ``is_known(block)`` tells which need
    no fetching."""

    #: More readers than that at once share the oldest one's place; eight is more than a filesystem reads in
    #: parallel on a few cores.
    STREAMS_MAX = 8
    #: So far ahead unknown blocks are looked for, per step: a hole larger than that is passed in several
    #: steps.
    LOOK_MAX = 4096
    #: Of those so many that are known and not zero, or twice as many as are being read: each of them is
    #: looked at, which takes 2 µs. A reader who goes through what is in memory needs no more, for the next
    #: step goes on from there.
    KNOWN_MAX = 16
    #: A window grows so fast: from the kernel's first request of 512 KiB to all that can be under way in two
    #: steps, of which each may wait for the bucket.
    GROWTH = 4
    #: Large reads that were taken for a stream's first and were not, before no more are; one that was makes
    #: up for two.
    GUESSES_MAX = 4
    #: Two reads so many blocks apart are close: 2 MiB at 128 KiB, some directories of small files. What is
    #: fetched of areas is measured in this distance.
    NEAR_BLOCKS = 16
    #: The least allowance, in distances: with less it takes longer to know a reader of 400 blocks for one.
    AREA_LEAST = 3
    #: By how much one block that is asked for raises the allowance. Of 400 blocks that are read in any order
    #: all but 25 are there in time then, with half of it all but 50.
    AREA_GAIN = 2
    #: What is fetched at once. Twice as much gains little; and on a line of 100 Mbit/s what somebody waits
    #: for would come behind 0.7 seconds' worth of what nobody has asked for.
    AREA_BATCH = 2
    #: After so many more reads that waited, a block of an area has been fetched in vain. A reader who jumps
    #: about is charged the least allowance so often at most: a fifth of what he reads, and less the larger
    #: the disk is, because it takes two reads that are close.
    AREA_PATIENCE = 256
    #: Blocks that are looked at in search of unknown ones of an area.
    AREA_LOOK_MAX = 256
    #: So many reads that waited are remembered: a filesystem alternates between inodes, directory, content.
    LONE_MAX = 16

    def __init__(
        self,
        block_count: int,
        window_blocks_max: int,
        is_known: Callable[[int], bool],
        *,
        large_blocks: int = 4,
        near_blocks: int = NEAR_BLOCKS,
        area_blocks_max: int = 512,
        next_stored: Callable[[int, int], int] = lambda first, stop: first,
    ) -> None:
        """``large_blocks``: who asks for so many at once will read on, most likely. ``area_blocks_max``: what
        may be there of areas and not be asked for. ``next_stored(first, stop)``: the first block from
        ``first`` on, or ``stop``, that is not known to be zero."""
        self._block_count = block_count
        self._window_max = window_blocks_max
        self._large_blocks = large_blocks
        self._guesses = self.GUESSES_MAX
        self._near_blocks = min(near_blocks, window_blocks_max)
        #: Where reads began that waited and belonged to no stream, oldest first.
        self._lone: deque[int] = deque(maxlen=self.LONE_MAX)
        self._is_known = is_known
        self._next_stored = next_stored
        #: The blocks of areas that were not asked for yet, oldest first, and when they were fetched, in reads
        #: that had waited.
        self._area: OrderedDict[int, int] = OrderedDict()
        self._allowance_max = area_blocks_max
        # Half of what may be, where that is little: above the least something must be left to rise to.
        self._allowance_min = min(self.AREA_LEAST * self._near_blocks, area_blocks_max // 2)
        self._allowance = self._allowance_min
        self._waited_count = 0
        self._area_fetched_blocks = self._area_used_blocks = self._area_wasted_blocks = 0
        #: By the block that each expects to be read next; least recently used first.
        self._streams: dict[int, _Stream] = {}
        #: Fetched and not asked for yet, oldest first. What falls out of it was fetched in vain.
        self._unused: OrderedDict[int, _Stream] = OrderedDict()
        self._unused_max = 2 * self.STREAMS_MAX * max(1, window_blocks_max)
        self._fetched_blocks = 0
        self._used_blocks = 0
        self._wasted_blocks = 0

    def grow(self, block_count: int) -> None:
        """The disk has more blocks from now on."""
        self._block_count = block_count

    def expects(self, block: int) -> bool:
        """Whether a reader has stopped just before this block."""
        return block in self._streams

    def note_read(self, first: int, stop: int, *, waits: bool = False) -> list[int]:
        """Blocks ``first`` to before ``stop`` are being read; which to fetch now, beyond them (often none).
        ``waits``: not all of them are in memory."""
        if self._area:
            self._use_area(first, stop)
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
            if not waits:
                return []
            if stop - first >= self._large_blocks:
                return self._guess(stream, stop - first)
            return self._fetch_area(first)
        streams[stop] = stream
        if stream.began_large:
            stream.began_large = False
            self._guesses = min(self._guesses + 2, self.GUESSES_MAX)
        stream.next_block = stop
        stream.window = min(max(self.GROWTH * stream.window, stop - first), self._window_max)
        return self._fetch(stream, stop - first)

    def _guess(self, stream: _Stream, size: int) -> list[int]:
        """What a stream that has just begun will ask for next, if such guesses have been right."""
        stream.began_large = True
        if not self._guesses:
            return []
        self._guesses -= 1
        stream.window = min(size, self._window_max)
        blocks = self._fetch(stream, size)
        stream.window = 0  # it has not gone on yet
        return blocks

    def _use_area(self, first: int, stop: int) -> None:
        gain = self.AREA_GAIN * self._near_blocks
        for block in range(first, stop):
            if self._area.pop(block, None) is not None:
                self._area_used_blocks += 1
                self._allowance = min(self._allowance + gain, self._allowance_max)

    def _fetch_area(self, first: int) -> list[int]:
        """The unknown blocks around a read that waits, as many as may be, if there are signs that they will
        be asked for."""
        self._waited_count += 1
        self._forget_area()
        near = [block for block in self._lone if 0 < abs(block - first) <= self._near_blocks]
        self._lone.append(first)
        is_proven = self._allowance > self._allowance_min
        room = min(self._allowance - len(self._area), self.AREA_BATCH * self._near_blocks)
        if room <= 0 or not (near or is_proven):
            return []
        begin = min([first, *near]) if near else max(0, first - self._near_blocks // 4)
        # As long as nothing is known of the reader, what lies behind a hole is no area of his.
        stop = self._block_count if is_proven else first + self.AREA_BATCH * self._near_blocks
        stored = self._stored_in(begin, min(stop, self._block_count))
        blocks = [block for block in stored if not self._is_known(block)][:room]
        self._area.update(dict.fromkeys(blocks, self._waited_count))
        self._area_fetched_blocks += len(blocks)
        return blocks

    def _stored_in(self, block: int, stop: int) -> Iterator[int]:
        """The blocks from ``block`` to before ``stop`` that are not known to be zero, as many as are looked
        at."""
        for _ in range(self.AREA_LOOK_MAX):
            block = self._next_stored(block, stop)
            if block >= stop:
                return
            yield block
            block += 1

    def _forget_area(self) -> None:
        """What nobody has asked for in a long while was fetched in vain."""
        while self._area:
            block, fetched_at = next(iter(self._area.items()))
            if fetched_at + self.AREA_PATIENCE > self._waited_count:
                return
            del self._area[block]
            self._area_wasted_blocks += 1
            self._allowance = max(self._allowance - 1, self._allowance_min)

    def _fetch(self, stream: _Stream, step: int) -> list[int]:
        """The unknown blocks within the window, beyond those fetched before. The reader goes on in steps of
        so many blocks."""
        blocks: list[int] = []
        at = max(stream.fetched_to, stream.next_block)
        end = min(self._block_count, at + self.LOOK_MAX)
        known_left = max(self.KNOWN_MAX, 2 * step)
        # The window is how far ahead we are, in blocks that cost something; what is fetched and still unread
        # counts.
        while at < end and known_left and stream.unused_count < stream.window:
            at = self._next_stored(at, end)
            if at == end:
                break
            if self._is_known(at):
                known_left -= 1
            else:
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
            fetched_blocks=self._fetched_blocks + self._area_fetched_blocks,
            used_blocks=self._used_blocks + self._area_used_blocks,
            wasted_blocks=self._wasted_blocks + self._area_wasted_blocks,
            area_fetched_blocks=self._area_fetched_blocks,
            area_used_blocks=self._area_used_blocks,
            area_wasted_blocks=self._area_wasted_blocks,
            area_allowance_blocks=self._allowance,
        )
