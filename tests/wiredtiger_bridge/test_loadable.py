"""The shared library that WiredTiger loads."""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bucketry.errors import Unsupported
from bucketry.files.wiredtiger import loadable
from bucketry.files.wiredtiger.loadable import ENTRY, HOOK, MACHINES, shared_library, write_library

_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def test_the_function_calls_whom_the_pointer_names(tmp_path: Path) -> None:
    """Without a pointer it is ENOTSUP; with one the call arrives with its arguments and gives its answer."""
    image = ctypes.CDLL(str(write_library(tmp_path / "a.so")))
    entry = image[ENTRY]
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    assert entry(1, 2) == errno.ENOTSUP
    add: Callable[[int, int], int] = lambda first, second: first + second  # noqa: E731
    function = _Function(add)
    pointer = ctypes.c_void_p.in_dll(image, HOOK)
    pointer.value = ctypes.cast(function, ctypes.c_void_p).value
    assert entry(40, 2) == 42


def test_libraries_are_apart(tmp_path: Path) -> None:
    """Two files have a pointer each, whichever was loaded first."""
    images = [ctypes.CDLL(str(write_library(tmp_path / name))) for name in ("a.so", "b.so")]
    functions = [_Function(lambda _a, _b, answer=answer: answer) for answer in (3, 4)]
    for image, function in zip(images, functions, strict=True):
        ctypes.c_void_p.in_dll(image, HOOK).value = ctypes.cast(function, ctypes.c_void_p).value
    assert [image[ENTRY](None, None) for image in images] == [3, 4]


def test_it_is_written_once_and_mended(tmp_path: Path) -> None:
    """A file that is right stays the same inode; one that is not is replaced, not changed."""
    path = write_library(tmp_path / "deep" / "er" / "a.so")
    first = path.stat().st_ino
    assert write_library(path).stat().st_ino == first
    path.write_bytes(path.read_bytes()[:-1])
    with path.open("rb") as broken:
        assert write_library(path).stat().st_ino != first
        assert os.fstat(broken.fileno()).st_size < path.stat().st_size
    assert os.access(path, os.X_OK)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_segments_are_what_the_loader_wants(name: str) -> None:
    """File offsets and addresses agree modulo the largest page, no page has two kinds of rights, and the
    stack is not made executable."""
    image = shared_library(MACHINES[name])
    assert image[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", image, 18)[0] == MACHINES[name].number
    offset, size, count = struct.unpack_from("<Q", image, 32)[0], 56, struct.unpack_from("<H", image, 56)[0]
    segments = [struct.unpack_from("<IIQQQQQQ", image, offset + index * size) for index in range(count)]
    loads = [segment for segment in segments if segment[0] == 1]
    assert len(loads) == 2
    assert not {rights & 3 for _, rights, *_ in loads} & {3}
    pages = []
    for _, _, in_file, address, _, in_file_size, in_memory_size, alignment in loads:
        assert in_file % alignment == address % alignment
        assert in_file + in_file_size <= len(image)
        assert in_file_size == in_memory_size
        pages.append({address // alignment, (address + in_memory_size - 1) // alignment})
    assert not pages[0] & pages[1]
    assert [rights & 1 for kind, rights, *_ in segments if kind == 0x6474E551] == [0]


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what would do."""
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    with pytest.raises(Unsupported, match="needs Linux on x86_64 or aarch64, not linux on sparc64"):
        loadable.this_machine()
