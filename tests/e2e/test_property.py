"""Random operations on the real file, by several threads at once, against a byte array."""

import ctypes
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.places import Place
from e2e.program import Program

pytestmark = pytest.mark.system

SIZE = 16 << 20
#: Two of each kind: buffered, and O_DIRECT.
THREADS_OF_A_KIND = 2
OPERATIONS_OF_A_THREAD = 400
PAGE = 4096
#: Mode bits of fallocate(2), which Python does not have.
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Raises OSError."""
    if _libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that one thread alone reads and writes."""

    start: int
    end: int


def _share_out(prng: random.Random, threads_count: int) -> list[list[Piece]]:
    """The whole disk in pieces from one byte to several blocks, given to threads at random.

    A page belongs to buffered threads (even numbers) or to direct ones (odd): Linux does not promise that
    these two see each other's bytes of one page. Blocks belong to all of them.
    """
    pieces: list[list[Piece]] = [[] for _ in range(threads_count)]
    start, kind = 0, 0
    while start < SIZE:
        end = min(SIZE, start + PAGE * prng.choice((1, 1, 2, 5, 40, 100)))
        while start < end:
            stop = min(end, start + prng.choice((1, 7, 300, 512, 1000, PAGE, 64 << 10, 1 << 20)))
            owner = kind + 2 * prng.randrange(threads_count // 2)
            pieces[owner].append(Piece(start, stop))
            start = stop
        kind = 1 - kind
    return pieces


def _work(
    path: Path, flags: int, pieces: Sequence[Piece], model: bytearray, prng: random.Random, say: str
) -> None:
    """One thread: what it reads is what it wrote, all the time."""
    descriptor = os.open(path, os.O_RDWR | flags)

    def read(offset: int, length: int) -> None:
        assert os.pread(descriptor, length, offset) == model[offset : offset + length], f"{say}, at {offset}"

    def write(offset: int, length: int) -> None:
        data = prng.randbytes(length)
        model[offset : offset + length] = data
        assert os.pwrite(descriptor, data, offset) == length

    def write_zeros(offset: int, length: int) -> None:
        model[offset : offset + length] = bytes(length)
        assert os.pwrite(descriptor, bytes(length), offset) == length

    def zero(offset: int, length: int) -> None:
        model[offset : offset + length] = bytes(length)
        fallocate(descriptor, ZERO_RANGE | KEEP_SIZE, offset, length)

    def trim(offset: int, length: int) -> None:
        model[offset : offset + length] = bytes(length)
        fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, offset, length)

    def flush(_offset: int, _length: int) -> None:
        (os.fsync if prng.random() < 0.5 else os.fdatasync)(descriptor)

    operations: list[Callable[[int, int], None]] = [read, write, write_zeros, zero, trim, flush]
    try:
        for operation in prng.choices(operations, weights=[40, 40, 5, 8, 8, 3], k=OPERATIONS_OF_A_THREAD):
            piece = prng.choice(pieces)
            start, end = piece.start, piece.end
            if prng.random() < 0.6:
                start = prng.randrange(start, end)
                end = prng.randrange(start, end) + 1
            operation(start, end - start)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("block_size", "options"),
    [
        pytest.param("32K", ("--memory=1M",), id="kernel cache"),
        pytest.param("32K", ("--memory=1M", "--direct-io"), id="no kernel cache"),
        pytest.param("256K", ("--memory=2M", "--direct-io"), id="large blocks, read in parts"),
    ],
)
def test_the_file_is_an_array_of_bytes(
    block_size: str, options: Sequence[str], program: Program, place: Place, tmp_path: Path
) -> None:
    """Threads read, write, zero, trim and flush bytes of their own in blocks that they share, with a cache
    that holds a small part of the disk: each always reads what it wrote, and after a cold start all of it is
    there. BUCKETRY_SEED=N repeats the operations of a run that failed."""
    seed = int(os.environ.get("BUCKETRY_SEED") or random.getrandbits(32))
    say = f"seed {seed}"
    prng = random.Random(seed)
    threads_count = 2 * THREADS_OF_A_KIND
    pieces = _share_out(prng, threads_count)
    model = bytearray(SIZE)
    program.create(place, str(SIZE), "--block-size", block_size)

    with program.attached(place, tmp_path / "disk", *options) as file:
        with ThreadPoolExecutor(threads_count) as pool:
            futures = [
                pool.submit(
                    _work,
                    file,
                    os.O_DIRECT if number % 2 else 0,
                    pieces[number],
                    model,
                    random.Random(f"{seed} {number}"),
                    say,
                )
                for number in range(threads_count)
            ]
        for future in futures:
            future.result()
        assert file.read_bytes() == model, say
        cache = program.json("stats", tmp_path / "disk")["cache"]
        assert cache["evicted_count"] > 0, "the cache was meant to be too small"
        assert cache["read_misses"] > 0, "nothing was read from the bucket"
        assert (cache["part_loads"] > 0) == (block_size == "256K"), "large blocks are read in parts"

    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == model, say
        _check_map(file, model, say)


def _check_map(path: Path, model: bytearray, say: str) -> None:
    """What SEEK_HOLE and SEEK_DATA call a hole is zeros."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        position = 0
        while position < SIZE:
            data = _next_data(descriptor, position)
            assert not any(model[position:data]), f"{say}: a hole at {position} that is none"
            position = os.lseek(descriptor, data, os.SEEK_HOLE) if data < SIZE else SIZE
    finally:
        os.close(descriptor)


def _next_data(descriptor: int, position: int) -> int:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: nothing but a hole up to the end.
        assert error.errno == 6  # noqa: PT017
        return SIZE
