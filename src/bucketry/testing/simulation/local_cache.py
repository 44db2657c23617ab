"""The cache directory of a simulated machine: real files, and what a process finds of what the last one left.

Each attachment has a directory of its own, copied when it begins. So a process that has crashed, and whose
locks the kernel would have let go, does not keep the next one out, and can do nothing to its files.
"""

import shutil
import tempfile
from pathlib import Path
from random import Random

from bucketry.testing.simulation.machines import Process

#: What a local disk loses is in multiples of a sector.
_SECTOR_BYTES = 512


class LocalCache:
    """``remove`` it at the end."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._place = Path(tempfile.mkdtemp(prefix="bucketry-simulation-"))
        self._count = 0
        self._latest: Path | None = None
        self._is_power_lost = False

    def directory_for(self, process: Process) -> Path:
        """For an attachment that begins now: a copy of what the last one has left."""
        self._count += 1
        directory = self._place / f"{process.number}-{self._count}"
        if self._latest is None:
            directory.mkdir(mode=0o700)
        else:
            shutil.copytree(self._latest, directory)
            if self._is_power_lost:
                self._damage(directory)
        self._is_power_lost = False
        self._latest = directory
        return directory

    def lose_power(self) -> None:
        """Nothing here is ever synced: what the next process finds is anything between nothing and all."""
        self._is_power_lost = True

    def _damage(self, directory: Path) -> None:
        for path in sorted(each for each in directory.rglob("*") if each.is_file()):
            content = path.read_bytes()
            at = self._random.randrange(len(content) + 1)
            match self._random.randrange(5):
                case 0:
                    path.unlink()
                case 1:
                    path.write_bytes(content[:at])
                case 2:
                    at -= at % _SECTOR_BYTES
                    hole = content[at : at + _SECTOR_BYTES]
                    path.write_bytes(content[:at] + bytes(len(hole)) + content[at + len(hole) :])

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self._place)
