"""The two files in the mounted directory: their names, attributes and numbers."""

import os
import stat
import time
from collections.abc import Callable

from bucketry.core.fuse import protocol
from bucketry.core.fuse.replies import Attributes, Entry
from bucketry.core.fuse.requests import NAME_BYTES_MAX
from bucketry.disk.interface import Device
from bucketry.errors import Invalid
from bucketry.settings import FuseSettings

ROOT = protocol.ROOT_NODE
FILE = 2
STATS = 3


class Tree:
    """A directory that never changes, with the disk's file and, unless hidden, the statistics file in it."""

    def __init__(self, device: Device, settings: FuseSettings, render_stats: Callable[[], bytes]) -> None:
        """Raises Invalid for names that no file can have."""
        self._device = device
        self._render_stats = render_stats
        self._uid = os.geteuid() if settings.uid is None else settings.uid
        self._gid = os.getegid() if settings.gid is None else settings.gid
        names = {FILE: _checked(settings.file_name)}
        if settings.stats_name is not None:
            names[STATS] = _checked(settings.stats_name)
            if names[STATS] == names[FILE]:
                raise Invalid(f"both files cannot be called {settings.file_name!r}")
        mode = settings.file_mode
        if mode is None:
            mode = 0o400 if device.read_only else 0o600
        self.modes = {
            ROOT: stat.S_IFDIR | 0o755,
            FILE: stat.S_IFREG | mode & 0o777,
            STATS: stat.S_IFREG | 0o444,
        }
        self._nodes = {name: node for node, name in names.items()}
        dots = [Entry(ROOT, b".", self.modes[ROOT]), Entry(ROOT, b"..", self.modes[ROOT])]
        self.entries = dots + [Entry(node, name, self.modes[node]) for node, name in names.items()]
        self._created_ns = time.time_ns()
        #: Of the disk's file: set by every change, and by utimens.
        self.accessed_ns = self._created_ns
        self.modified_ns = self._created_ns
        #: The contents of the statistics file as last opened, None when nobody has it open: what stat(2) then
        #: tells is the size of what is read.
        self.stats_snapshot: bytes | None = None

    @property
    def file_count(self) -> int:
        return len(self._nodes) + 1

    def find(self, name: bytes) -> int | None:
        """The node of a name in the directory."""
        return self._nodes.get(name)

    def has(self, node: int) -> bool:
        return node == ROOT or node in self._nodes.values()

    def attributes(self, node: int) -> Attributes:
        """What stat(2) shows for a node that exists."""
        now = time.time_ns()
        size = allocated = 0
        accessed = modified = self._created_ns
        if node == FILE:
            size, allocated = self._device.size_bytes, self._device.allocated_bytes
            accessed, modified = self.accessed_ns, self.modified_ns
        elif node == STATS:
            size = len(self._render_stats() if self.stats_snapshot is None else self.stats_snapshot)
            accessed = modified = now
        return Attributes(
            node=node,
            size_bytes=size,
            allocated_bytes=allocated,
            block_size_bytes=self._device.block_size_bytes,
            mode=self.modes[node],
            link_count=2 if node == ROOT else 1,
            uid=self._uid,
            gid=self._gid,
            accessed_ns=accessed,
            modified_ns=modified,
            changed_ns=modified,
        )


def _checked(name: str) -> bytes:
    encoded = os.fsencode(name)
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(encoded) > NAME_BYTES_MAX:
        raise Invalid(f"{name!r} is not the name of a file")
    return encoded
