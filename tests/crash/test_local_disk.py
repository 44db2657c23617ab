"""Trouble with the cache directory: full, gone, damaged, somebody else's. Nothing is lost that was written,
and nothing is believed that is not whole."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.places import Place
from e2e.program import Program, run_tool

pytestmark = pytest.mark.system

BLOCK = 128 << 10
SIZE = 32 << 20
#: Nothing is uploaded but by a flush that wants it in the bucket.
_NEVER = "--write-delay=600"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "bucket").mkdir()
    return Place(f"file://{tmp_path / 'bucket'}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A local disk of 6 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", directory)
    yield directory
    run_tool("umount", directory)


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_and_sync(descriptor: int, prng: random.Random, expected: bytearray, count: int) -> None:
    """``count`` pieces of up to two blocks, at random, an fsync after each fourth."""
    for number in range(count):
        data = prng.randbytes(prng.randint(1, 2 * BLOCK))
        offset = prng.randrange(SIZE - len(data))
        assert os.pwrite(descriptor, data, offset) == len(data)
        expected[offset : offset + len(data)] = data
        if number % 4 == 3:
            os.fsync(descriptor)


@pytest.mark.parametrize("durability", ["bucket", "journal"])
def test_a_local_disk_that_is_full(
    durability: str, program: Program, place: Place, small: Path, tmp_path: Path
) -> None:
    """The cache directory is on a disk that fills up, first with what we keep and then with somebody else's:
    writes, reads and fsyncs go on, and all is in the bucket after umount."""
    program.create(place, str(SIZE))
    expected, prng = bytearray(SIZE), random.Random(21)
    options = [f"--durability={durability}", f"--cache-dir={small / 'cache'}", "--memory=8M"]
    with program.attached(place, tmp_path / "disk", *options) as file:
        with _opened(file) as descriptor:
            _write_and_sync(descriptor, prng, expected, 60)
            assert os.pread(descriptor, SIZE, 0) == expected
            with pytest.raises(OSError, match="No space left"), (small / "filler").open("wb") as filler:
                while True:
                    filler.write(bytes(BLOCK))
                    filler.flush()
            _write_and_sync(descriptor, prng, expected, 60)
        assert file.read_bytes() == expected
    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == expected


@pytest.mark.parametrize("durability", ["bucket", "journal"])
def test_a_cache_directory_that_is_removed(
    durability: str, program: Program, place: Place, tmp_path: Path
) -> None:
    """Somebody removes the directory while it is used: writes, reads and fsyncs go on, and all is in the
    bucket after umount."""
    program.create(place, str(SIZE))
    expected, prng = bytearray(SIZE), random.Random(22)
    cache = tmp_path / "cache"
    options = [f"--durability={durability}", f"--cache-dir={cache}", "--memory=8M", "--journal-size=4M"]
    with program.attached(place, tmp_path / "disk", *options) as file:
        with _opened(file) as descriptor:
            _write_and_sync(descriptor, prng, expected, 30)
            shutil.rmtree(cache)
            _write_and_sync(descriptor, prng, expected, 60)
        assert file.read_bytes() == expected
    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == expected


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_what_is_flushed_without_the_directory_is_in_the_bucket(
    how: str, program: Program, place: Place, tmp_path: Path
) -> None:
    """From when the journal's directory is gone flushes wait for the bucket, and a kill loses nothing of what
    they returned for."""
    program.create(place, str(SIZE))
    expected, prng = bytearray(SIZE), random.Random(23)
    cache, disk = tmp_path / "cache", tmp_path / "disk"
    disk.mkdir()
    options = ["--durability=journal", f"--cache-dir={cache}", _NEVER]
    program.run("attach", place.url, disk, *options, *place.options)
    with _opened(disk / "file") as descriptor:
        _write_and_sync(descriptor, prng, expected, 20)
        if how == "removed":
            shutil.rmtree(cache)
        else:
            cache.rename(tmp_path / "elsewhere")
        _write_and_sync(descriptor, prng, expected, 20)
    assert "the journal is given up" in program.log(disk)
    program.kill(disk)
    program.run("umount", disk, code=1)
    with program.attached(place, disk) as file:
        assert file.read_bytes() == expected


def _leave_a_journal(program: Program, place: Place, disk: Path, cache: Path) -> None:
    """Eight flushes of a block each in the journal alone: block n is all n + 1."""
    disk.mkdir(exist_ok=True)
    options = ["--durability=journal", f"--cache-dir={cache}", _NEVER]
    program.run("attach", place.url, disk, *options, *place.options)
    with _opened(disk / "file") as descriptor:
        for number in range(8):
            os.pwrite(descriptor, bytes([number + 1]) * BLOCK, number * BLOCK)
            os.fsync(descriptor)
    program.kill(disk)
    program.run("umount", disk, code=1)


def _fails(program: Program, code: int, *arguments: str | Path) -> str:
    """The one line with which it ends."""
    line = program.run(*arguments, code=code).stderr
    assert line.startswith("bucketry: ")
    assert line.count("\n") == 1, line
    return line


def test_a_journal_that_is_damaged_in_the_middle(program: Program, place: Place, tmp_path: Path) -> None:
    """Attaching is refused in one line that names the directory, what is lost and what can be done; repaired,
    the flushes before the damage are there and none of those after it."""
    disk, cache = tmp_path / "disk", tmp_path / "cache"
    program.create(place, str(SIZE))
    _leave_a_journal(program, place, disk, cache)
    (segment,) = [path for path in (cache / "journal").glob("segment-*") if path.stat().st_size > 4 * BLOCK]
    content = bytearray(segment.read_bytes())
    at = content.index(b"\4" * 4096) + 10_000
    content[at] ^= 1
    segment.write_bytes(content)

    attach: list[str | Path] = [
        "attach",
        place.url,
        disk,
        "--durability=journal",
        f"--cache-dir={cache}",
        _NEVER,
    ]
    for _ in range(2):
        line = _fails(program, 1, *attach)
        assert str(cache) in line
        assert "bucketry journal --repair" in line
    told = program.run("journal", cache, code=1)
    assert "lost by a repair: 640" in told.stdout
    program.run("journal", cache, "--repair", "--force")
    program.run(*attach)
    found = (disk / "file").read_bytes()
    program.run("umount", disk)
    assert found == b"".join(bytes([number]) * BLOCK for number in (1, 2, 3)).ljust(SIZE, b"\0")


def test_a_journal_that_ends_torn(program: Program, place: Place, tmp_path: Path) -> None:
    """What a power cut leaves of the last record is cut off without a word: that flush had not returned."""
    disk, cache = tmp_path / "disk", tmp_path / "cache"
    program.create(place, str(SIZE))
    _leave_a_journal(program, place, disk, cache)
    (segment,) = [path for path in (cache / "journal").glob("segment-*") if path.stat().st_size > 4 * BLOCK]
    content = bytearray(segment.read_bytes())
    at = content.index(b"\x08" * 4096) + 10_000
    content[at:] = bytes(len(content) - at)
    segment.write_bytes(content)
    with program.attached(place, disk, "--durability=journal", f"--cache-dir={cache}") as file:
        found = file.read_bytes()
    assert found == b"".join(bytes([number]) * BLOCK for number in range(1, 8)).ljust(SIZE, b"\0")


def test_a_journal_of_another_volume(program: Program, place: Place, tmp_path: Path) -> None:
    """It is refused, nothing of it gets into this volume, and its own still gets it."""
    disk, cache = tmp_path / "disk", tmp_path / "cache"
    (tmp_path / "other bucket").mkdir()
    other = Place(f"file://{tmp_path / 'other bucket'}")
    for each in (place, other):
        program.create(each, str(SIZE))
    _leave_a_journal(program, place, disk, cache)
    options = ["--durability=journal", f"--cache-dir={cache}"]
    line = _fails(program, 2, "attach", other.url, disk, *options)
    assert str(cache) in line
    # The journal itself must know, too.
    (cache / "identity.json").unlink()
    line = _fails(program, 2, "attach", other.url, disk, *options)
    assert str(cache) in line
    with program.attached(other, disk) as file:
        assert not any(file.read_bytes())
    (cache / "identity.json").unlink(missing_ok=True)
    with program.attached(place, disk, *options) as file:
        assert file.read_bytes()[7 * BLOCK : 8 * BLOCK] == b"\x08" * BLOCK


def test_two_processes_with_one_cache_directory(program: Program, place: Place, tmp_path: Path) -> None:
    """The second is refused with 5 and told who has it: with another volume, and with the same one,
    read-only."""
    cache = tmp_path / "cache"
    (tmp_path / "other bucket").mkdir()
    (tmp_path / "other disk").mkdir()
    other = Place(f"file://{tmp_path / 'other bucket'}")
    for each in (place, other):
        program.create(each, str(SIZE))
    option = f"--cache-dir={cache}"
    with program.attached(place, tmp_path / "disk", option):
        pid = program.json("info", tmp_path / "disk")["pid"]
        for arguments in ([other.url], [other.url, "--durability=journal"], [place.url, "--read-only"]):
            line = _fails(program, 5, "attach", *arguments, tmp_path / "other disk", option)
            assert f"process {pid}" in line
