"""A directory of files in memory that can lose its power at any moment.

What was written is seen at once, and is durable when it was synced. ``at`` goes back to any moment of its
life, ``power_cut`` says what is found after the power came back: of each sector that was not synced any of
the versions it had since, and of the directory what some of the last changes left.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from bucketry.core.bytes_like import BytesLike

#: What disks replace as a whole.
SECTOR_BYTES = 512


@dataclass(slots=True)
class _File:
    """``written``: changes since ``durable``, oldest first; a size, or bytes at an offset."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    written: list[int | tuple[int, bytes]] = field(default_factory=list)
    #: How far it was ever written, and not just allocated.
    filled_bytes: int = 0

    def survivor(self, random: Random) -> bytes:
        """What is found of it after a power cut."""
        sizes = [len(self.durable)]
        versions: dict[int, list[bytes]] = {}
        content = bytearray(self.durable)
        for change in self.written:
            if isinstance(change, int):
                _resize(content, change)
                sizes.append(change)
                continue
            offset, data = change
            _resize(content, max(len(content), offset + len(data)))
            sizes.append(len(content))
            content[offset : offset + len(data)] = data
            for sector in range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)):
                start = sector * SECTOR_BYTES
                versions.setdefault(sector, []).append(bytes(content[start : start + SECTOR_BYTES]))
        size = random.choice(sizes)
        found = bytearray(self.durable)
        _resize(found, size)
        # A sector on its own, or all of them in the order in which they were written: both happen.
        newest = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for sector, contents in versions.items():
            if random.random() < newest:
                start = sector * SECTOR_BYTES
                data = random.choice(contents)[: max(0, size - start)]
                found[start : start + len(data)] = data
        return bytes(found)


def _resize(content: bytearray, size_bytes: int) -> None:
    if size_bytes < len(content):
        del content[size_bytes:]
    else:
        content.extend(bytes(size_bytes - len(content)))


#: Called before each operation with its name and its file: raises OSError to make it fail.
Fault = Callable[[str, str], None]


class MemoryFiles:
    """What ``cache.journal_files.Files`` asks for. ``capacity_bytes``: how much all files may take.

    ``history``: every change, in order, each a method's name and its arguments.
    """

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.fault: Fault | None = None
        self.history: list[tuple[str, tuple[object, ...]]] = []
        self.is_closed = False
        self._files: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        #: What the directory held after each change since it was synced.
        self._directories: list[dict[str, _File]] = []
        self._begin: dict[str, bytes] = {}

    @classmethod
    def holding(cls, contents: Mapping[str, bytes]) -> "MemoryFiles":
        """Files that are durable already."""
        files = cls()
        files._begin = dict(contents)
        for name, content in contents.items():
            files._files[name] = _File(bytearray(content), content)
        files._durable_names = dict(files._files)
        return files

    # -- what the journal asks for ---------------------------------------------------------------------------

    @property
    def place(self) -> str:
        return "memory"

    def sizes(self) -> Mapping[str, int]:
        return {name: len(file.content) for name, file in self._files.items()}

    def read(self, name: str, offset: int, length: int) -> bytes:
        self._check("read", name)
        return bytes(self._find(name).content[offset : offset + length])

    def write(self, name: str, offset: int, buffers: Sequence[BytesLike]) -> None:
        self._check("write", name)
        data = b"".join(buffers)
        file = self._find(name)
        self._check_room(max(0, offset + len(data) - len(file.content)))
        _resize(file.content, max(len(file.content), offset + len(data)))
        file.content[offset : offset + len(data)] = data
        file.written.append((offset, data))
        file.filled_bytes = max(file.filled_bytes, offset + len(data))
        self.history.append(("write", (name, offset, [data])))

    def sync(self, name: str) -> None:
        file = self._find(name)
        try:
            self._check("sync", name)
        except OSError:
            self.forget(name)
            raise
        file.durable = bytes(file.content)
        file.written.clear()
        self.history.append(("sync", (name,)))

    def forget(self, name: str) -> None:
        """What a sync that fails does: what was not durable never will be."""
        self._find(name).written.clear()
        self.history.append(("forget", (name,)))

    def allocate(self, name: str, size_bytes: int) -> None:
        self._check("allocate", name)
        file = self._files.get(name)
        self._check_room(size_bytes - (len(file.content) if file else 0))
        if file is None:
            file = self._files[name] = _File()
            self._directories.append(dict(self._files))
        _resize(file.content, size_bytes)
        file.written.append(size_bytes)
        self.history.append(("allocate", (name, size_bytes)))

    def written_bytes(self, name: str) -> int:
        return self._find(name).filled_bytes

    def rename(self, old: str, new: str) -> None:
        self._check("rename", old)
        self._files[new] = self._find(old)
        del self._files[old]
        self._directories.append(dict(self._files))
        self.history.append(("rename", (old, new)))

    def remove(self, name: str) -> None:
        self._check("remove", name)
        self._find(name)
        del self._files[name]
        self._directories.append(dict(self._files))
        self.history.append(("remove", (name,)))

    def sync_directory(self) -> None:
        self._check("sync_directory", "")
        self._durable_names = dict(self._files)
        self._directories.clear()
        self.history.append(("sync_directory", ()))

    def close(self) -> None:
        self.is_closed = True

    def _find(self, name: str) -> _File:
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._files[name]

    def _check(self, operation: str, name: str) -> None:
        assert not self.is_closed, "the files were closed"
        if self.fault is not None:
            self.fault(operation, name)

    def _check_room(self, more_bytes: int) -> None:
        if self.capacity_bytes is not None:
            used = sum(len(file.content) for file in self._files.values())
            if more_bytes > 0 and used + more_bytes > self.capacity_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # -- what tests do to it ---------------------------------------------------------------------------------

    def contents(self) -> dict[str, bytes]:
        """Every file as it is seen now."""
        return {name: bytes(file.content) for name, file in self._files.items()}

    def at(self, count: int) -> "MemoryFiles":
        """As it was after the first ``count`` changes of its history. That is also what a process finds when
        an earlier one was killed then: all that was written, though not all of it is durable."""
        other = MemoryFiles.holding(self._begin)
        for name, arguments in self.history[:count]:
            getattr(other, name)(*arguments)
        return other

    def power_cut(self, random: Random) -> "MemoryFiles":
        """What is found when the power comes back."""
        names = random.choice([self._durable_names, *self._directories])
        return MemoryFiles.holding({name: file.survivor(random) for name, file in names.items()})
