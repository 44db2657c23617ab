"""A load on a filesystem: an archive unpacked, some of its files fsynced.

Run as a program it tells on standard output the index of each file whose fsync, and that of its directory,
returned.
"""

import hashlib
import io
import os
import random
import sys
import tarfile
from pathlib import Path
from typing import TypeAlias

#: What most archives are: many small files, few large ones.
_SIZES = (0, 100, 3_000, 3_000, 10_000, 10_000, 40_000, 300_000)
_SYNC_SHARE = 0.5

#: The name of a file, and the digest of its content.
Packed: TypeAlias = tuple[str, bytes]


def make_archive(path: Path, file_count: int, prng: random.Random) -> list[Packed]:
    """An archive of files in directories; their names and the digests of their contents."""
    made = []
    with tarfile.open(path, "w") as archive:
        for index in range(file_count):
            entry = tarfile.TarInfo(f"{index % 7}/{index % 3}/file {index}")
            content = prng.randbytes(prng.choice(_SIZES))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            made.append((entry.name, digest(content)))
    return made


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def is_whole(directory: Path, packed: Packed) -> bool:
    """Whether a file is there as it was packed."""
    name, expected = packed
    try:
        return digest((directory / name).read_bytes()) == expected
    except FileNotFoundError:
        return False


def is_synced(seed: int, index: int) -> bool:
    """Whether the load with this seed syncs the file with this index."""
    return random.Random(seed * 10_007 + index).random() < _SYNC_SHARE


def synced_indices(seed: int, last: int) -> list[int]:
    """Of the files up to ``last``."""
    return [index for index in range(last + 1) if is_synced(seed, index)]


def run(archive_path: str, directory: str, seed: int) -> None:
    """Unpack it all. Raises OSError when the filesystem fails."""
    with tarfile.open(archive_path) as archive:
        for index, entry in enumerate(archive):
            archive.extract(entry, directory, filter="data")
            if is_synced(seed, index):
                path = Path(directory, entry.name)
                for each in (path, path.parent):
                    descriptor = os.open(each, os.O_RDONLY)
                    os.fsync(descriptor)
                    os.close(descriptor)
                os.write(1, index.to_bytes(4, "big"))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
