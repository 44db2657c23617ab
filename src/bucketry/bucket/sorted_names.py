"""Names of a directory's entries, put in order in little memory: of millions, a few are text at a time."""

import heapq
import zlib
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile

#: Names that are sorted at once: some 7 MB as text.
_RUN_COUNT = 64 << 10
#: Names that are packed, and unpacked, at once. Of ten million names some 150 packs are text while they are
#: merged: 10 MB.
_PACK_COUNT = 1000
#: Packed, the names of ten million blocks: in memory. What is more goes to a temporary file.
_MEMORY_MAX_BYTES = 32 << 20
_COMPRESSION_LEVEL = 1
#: No name has it.
_SEPARATOR = b"\0"


class SortedNames:
    """Any number of names, which must be valid Unicode; added, and then given back once, in ascending order
    of code points. Close it afterwards: what it holds may be in a file."""

    def __init__(self) -> None:
        self._run: list[str] = []
        self._file = SpooledTemporaryFile(max_size=_MEMORY_MAX_BYTES)  # noqa: SIM115 -- close closes it
        self._end = 0
        #: Of each run, where its packs begin and end.
        self._runs: list[list[tuple[int, int]]] = []

    def add(self, name: str) -> None:
        self._run.append(name)
        if len(self._run) == _RUN_COUNT:
            self._pack()

    def ordered(self) -> Iterator[str]:
        self._run.sort()
        if not self._runs:
            return iter(self._run)  # a directory like most
        last, self._run = self._run, []
        return heapq.merge(*map(self._unpack, self._runs), last)

    def close(self) -> None:
        self._file.close()

    def _pack(self) -> None:
        self._run.sort()
        packs = []
        for start in range(0, len(self._run), _PACK_COUNT):
            text = _SEPARATOR.join(name.encode() for name in self._run[start : start + _PACK_COUNT])
            packed = zlib.compress(text, _COMPRESSION_LEVEL)
            self._file.write(packed)
            packs.append((self._end, self._end + len(packed)))
            self._end += len(packed)
        self._runs.append(packs)
        self._run = []

    def _unpack(self, packs: list[tuple[int, int]]) -> Iterator[str]:
        for start, end in packs:
            self._file.seek(start)
            text = zlib.decompress(self._file.read(end - start))
            yield from text.decode().split(_SEPARATOR.decode())
