"""Reading ahead of those who read in order."""

from bucketry.core.file_streams import FileStreams


class Reader:
    """A reader, and a cache that has at once what is fetched."""

    def __init__(self, streams: FileStreams) -> None:
        self.streams = streams
        self.cached: set[int] = set()
        self.waits = 0
        self.ahead: list[int] = []

    def read(self, first: int, stop: int) -> None:
        if all(block in self.cached for block in range(first, stop)):
            mark = self.streams.take_mark(first, stop)
            found = range(0) if mark is None else self.streams.note_mark(mark, stop)
        else:
            self.waits += 1
            found = self.streams.note_wait(first, stop)
        self.cached.update(range(first, stop))
        assert not self.cached.intersection(found)
        self.cached.update(found)
        self.ahead += found


def test_a_sequential_reader_waits_twice() -> None:
    """The first read begins a stream and the second is recognised; from there on all has been fetched."""
    reader = Reader(FileStreams(10_000, 64))
    for block in range(5000):
        reader.read(block, block + 1)
    assert reader.waits == 2
    assert reader.ahead == list(range(2, max(reader.ahead) + 1))
    assert max(reader.ahead) <= 5000 + 64


def test_steps_within_a_block_and_across_blocks() -> None:
    """Readers of small and of large steps, some of which end within a block, are sequential all the same."""
    for step in (1, 3, 7, 20):
        reader = Reader(FileStreams(10_000, 64))
        for quarter in range(0, 4000, step):
            reader.read(quarter // 4, (quarter + step + 3) // 4)
        assert reader.waits <= 3, step


def test_a_random_reader_fetches_nothing() -> None:
    """Who jumps about is charged nothing."""
    reader = Reader(FileStreams(1 << 20, 64))
    for index in range(500):
        reader.read(index * 7919 % (1 << 20), index * 7919 % (1 << 20) + 1)
    assert reader.ahead == []


def test_several_streams() -> None:
    """As many readers as there is room for are told apart, though they take turns."""
    reader = Reader(FileStreams(1 << 20, 64))
    for block in range(1000):
        for stream in range(FileStreams.STREAMS_MAX):
            at = stream * 100_000 + block
            reader.read(at, at + 1)
    assert reader.waits == 2 * FileStreams.STREAMS_MAX


def test_more_streams_than_room() -> None:
    """One reader more takes the place of the one that was quiet longest, whose mark means nothing then."""
    streams = FileStreams(1 << 20, 64)
    streams.note_wait(0, 1)
    window = streams.note_wait(1, 2)
    mark = streams.take_mark(window.start, window.stop)
    assert mark is not None
    for stream in range(FileStreams.STREAMS_MAX):
        streams.note_wait(1000 * (stream + 1), 1000 * (stream + 1) + 1)
    assert not streams.note_mark(mark, 4)
    assert not streams.note_mark(object(), 4)


def test_the_window_is_bounded_and_ends_with_the_file() -> None:
    """No more than the window is ahead of the reader, and nothing beyond the file's end."""
    streams = FileStreams(100, 16)
    reader = Reader(streams)
    for block in range(100):
        reader.read(block, block + 1)
        assert max(reader.ahead, default=0) <= block + 1 + 16
    assert max(reader.ahead) == 99


def test_a_reader_that_catches_up() -> None:
    """Who reads what is still on its way goes on with the same stream."""
    streams = FileStreams(1000, 64)
    streams.note_wait(0, 1)
    window = streams.note_wait(1, 2)
    more = streams.note_wait(window.start, window.start + 1)
    assert more.start == window.stop
    assert len(more) > 0


def test_no_read_ahead() -> None:
    """A window of nothing fetches nothing."""
    reader = Reader(FileStreams(1000, 0))
    for block in range(50):
        reader.read(block, block + 1)
    assert reader.ahead == []
    assert reader.waits == 50
