"""A real tree of files to fill filesystems with, and what it must look like when it is read back."""

import hashlib
import os
import random
import shutil
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

#: Copied from what is installed anyway: Python's own files, then those of the packages.
_COPIED_COUNT = 3000
#: Larger ones would make the tests longer and no better.
_COPIED_BYTES_MAX = 128 << 10
_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}
#: Everything that a directory entry may hold is in one of these: bytes that are no text, too.
_ODD_NAMES = (
    b"with blank", b" ", b"-rf", b"new\nline", b"tab\t", b"quote\"'`$(x)\\", "čárka žluťoučký".encode(),
    "日本語".encode(), b"\xff\xfe no text", b"*", b"?.[a]", b"~", b"#", b"x" * 255, b"...", b".hidden",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """What is compared of one file, directory or link."""

    mode: int
    size_bytes: int
    #: SHA-256 of a file, the target of a link, nothing for a directory.
    content: bytes
    modified_ns: int
    attributes: tuple[tuple[str, bytes], ...]
    #: The first name of this file in the tree, by which hard links are known.
    first_name: bytes


Manifest = dict[bytes, Entry]


@dataclass(frozen=True, slots=True)
class Tree:
    """The original, and what it consists of."""

    path: Path
    #: Not shown where a test fails: it is long.
    manifest: Manifest = field(repr=False)

    @property
    def file_count(self) -> int:
        return sum(stat.S_ISREG(entry.mode) for entry in self.manifest.values())


def make_tree(path: Path) -> Tree:
    """At least 3,000 files: copied ones, and all kinds of odd ones."""
    path.mkdir()
    for index, source in enumerate(islice(_installed(), _COPIED_COUNT)):
        # Forty directories, two levels deep.
        target = path / "copied" / f"{index % 8}" / f"{index % 5}" / f"{index}-{source.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    _make_odd(path / "odd", random.Random(1))
    tree = Tree(path, take_manifest(path))
    assert tree.file_count >= _COPIED_COUNT, f"only {tree.file_count} files to be found here"
    return tree


def _installed() -> Iterator[Path]:
    places = ("stdlib", "platstdlib", "purelib")
    for directory, inner, names in chain.from_iterable(map(os.walk, map(sysconfig.get_path, places))):
        inner[:] = sorted(set(inner) - _LEFT_OUT)
        for path in (Path(directory, name) for name in sorted(names)):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= _COPIED_BYTES_MAX:
                yield path


def _make_odd(path: Path, prng: random.Random) -> None:
    """Names, sizes, holes, links, modes, attributes."""
    path.mkdir()
    names = os.fsencode(path / "names")
    os.mkdir(names)  # noqa: PTH102 - the names are bytes
    for name in _ODD_NAMES:
        with open(os.path.join(names, name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(name)
    sizes = path / "sizes"
    sizes.mkdir()
    for size in (0, 1, 511, 512, 4095, 4096, 4097, 131071, 131072, 131073, 3_000_001):
        (sizes / str(size)).write_bytes(prng.randbytes(size))
    deep = path
    for level in range(30):
        deep = deep / f"level {level}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("here")
    with (path / "sparse").open("wb") as file:
        for offset in (0, 5 << 20, (64 << 20) + 17):
            file.seek(offset)
            file.write(prng.randbytes(5000))
        file.truncate(100 << 20)
    with (path / "hole").open("wb") as file:
        file.truncate(256 << 20)
    for number in range(5):
        os.link(sizes / "4097", path / f"hard link {number}")
    (path / "link").symlink_to("sizes/4097")
    (path / "broken link").symlink_to("no such file " + "x" * 200)
    (path / "link to a directory").symlink_to("names")
    for mode in (0o000, 0o400, 0o755, 0o4755, 0o2711, 0o666):
        file_of_mode = path / f"mode {mode:o}"
        file_of_mode.write_text("x")
        file_of_mode.chmod(mode)
    (path / "empty directory").mkdir(mode=0o1777)
    # More than fits into an inode, less than a block of the smallest ext4.
    os.setxattr(sizes / "4096", "user.bucketry", prng.randbytes(500))
    os.setxattr(path / "empty directory", "user.empty", b"")
    os.mkfifo(path / "pipe")


def take_manifest(path: Path) -> Manifest:
    """What is below ``path``, read completely."""
    manifest: Manifest = {}
    first_names: dict[int, bytes] = {}
    root = os.fsencode(path)
    for directory, inner, names in os.walk(root):
        inner.sort()
        for name in sorted(names + inner):
            full = os.path.join(directory, name)  # noqa: PTH118 - the names are bytes
            relative = full[len(root) + 1 :]
            found = os.lstat(full)
            is_link = stat.S_ISLNK(found.st_mode)
            if stat.S_ISREG(found.st_mode):
                with open(full, "rb") as file:  # noqa: PTH123
                    content = hashlib.file_digest(file, "sha256").digest()
            else:
                content = os.readlink(full) if is_link else b""  # noqa: PTH115
            attributes = os.listxattr(full, follow_symlinks=False)
            manifest[relative] = Entry(
                mode=found.st_mode,
                # That of a directory is the filesystem's own affair.
                size_bytes=0 if stat.S_ISDIR(found.st_mode) else found.st_size,
                content=content,
                modified_ns=found.st_mtime_ns,
                attributes=tuple(
                    sorted((each, os.getxattr(full, each, follow_symlinks=False)) for each in attributes)
                ),
                first_name=first_names.setdefault(found.st_ino, relative),
            )
    return manifest


def differences(expected: Manifest, found: Manifest) -> list[bytes]:
    """Names of what is missing, too many, or not the same."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
