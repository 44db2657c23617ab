"""What is measured: each workload runs on one peer once and returns figures; smaller is better everywhere."""

import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
from obstore.store import S3Store

from bench.peers import BLOCK_SIZE_BYTES, DISK_SIZE_BYTES, Attached, Bucketry, DiskPeer, Target, attached
from bucketry.testing.s3_server import Snapshot

TRANSFER_BYTES = 256 << 20
#: The size of one read or write of a copying program.
_REQUEST_BYTES = 1 << 20
#: Half of what s3backer caches by default (1000 such blocks): it is all cached, for everybody.
_CACHED_BYTES = 64 << 20
_FIO_SECONDS = 1
#: Before each fio run, for uploads of the run before to end: 512 blocks at the server's 2000 put/s, and some.
_SETTLE_SECONDS = 0.7
#: Requests at once in the bare loop: more are not faster on a server without latency; 20 ms of it are hidden
#: by 64 at 400 MB/s, more than the servers do here.
_LOOP_THREADS_NEAR = 16
_LOOP_THREADS_FAR = 64
#: Blocks read at random, each once: some seconds at one a latency of 20 ms, by the deepest queue too.
_RANDOM_READS = {1: 100, 16: 1000}
#: Of 256 blocks of 1 MiB: the first hardly meet the same block twice, the others come back to each.
_LARGE_READS = {1: 60, 16: 600}
_RANDOM_WRITES = 1000
_PAGE_BYTES = 4 << 10
#: Each sync ends an epoch, and at 20 ms some 40 of them a second reach the bucket: 15 s until it has all.
_SYNCED_WRITES = 600
FILES_DISK_BYTES = 100 << 30
#: What the kernel's own source has at the size of this tree: many small files, few large ones.
_FILES_COUNT = 5000
_FILE_MEAN_BYTES = 8 << 10
ATTACH_BLOCKS = 100_000
#: A disk with room for them.
_ATTACH_DISK_BYTES = 16 << 30


class Unit(Enum):
    SECONDS = "s"
    SECONDS_PER_OPERATION = "s each"
    BYTES = "bytes"
    KIBIBYTES = "bytes, as KiB"
    COUNT = "count"
    RATIO = "times"


@dataclass(frozen=True, slots=True)
class FioJob:
    """One row of direct I/O on cached data."""

    verb: str
    size_bytes: int
    depth: int

    @property
    def name(self) -> str:
        return f"{self.size_bytes >> 10} KiB direct {self.verb}, depth {self.depth}"


#: Reads first: they leave nothing to upload.
FIO_JOBS = [
    FioJob(verb, size_bytes, depth)
    for verb in ("read", "write")
    for size_bytes in (4 << 10, 128 << 10)
    for depth in (1, 16)
]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure of one run of a workload."""

    workload: str
    value: float
    unit: Unit = Unit.SECONDS


def payload(size_bytes: int = TRANSFER_BYTES) -> bytes:
    """What is written: no compressor shortens it, no two blocks are equal, the same in every run."""
    source = random.Random(1)
    return b"".join(source.randbytes(_REQUEST_BYTES) for _ in range(size_bytes // _REQUEST_BYTES))


# -- one after the other -------------------------------------------------------------------------------------


def measure_sequential(
    peer: DiskPeer, target: Target, prefix: str, directory: Path, data: bytes
) -> Iterator[Measurement]:
    """Write a fresh disk until durable, read it back by a fresh process; and how much memory either took."""
    size = f"{len(data) >> 20} MiB"
    peer.create(prefix, DISK_SIZE_BYTES)
    cached_bytes = min(peer.cache_bytes, len(data))
    with attached(peer, prefix, directory) as disk:
        begin = time.perf_counter()
        _write(disk.file, data)
        durable = time.perf_counter()
        if not disk.fsync_is_durable:
            # What has not been uploaded yet is in memory.
            durable = 0.0
        memory_bytes = _peak_bytes(disk)
        disk.detach()
        unmounted = time.perf_counter()
    yield Measurement(f"write {size} until durable", (durable or unmounted) - begin)
    yield Measurement(f"write {size} until unmounted", unmounted - begin)
    yield Measurement("peak memory beyond the cache, writing", memory_bytes - cached_bytes, Unit.BYTES)
    with attached(peer, prefix, directory) as disk:
        begin = time.perf_counter()
        _read(disk.file, data)
        yield Measurement(f"read {size} cold", time.perf_counter() - begin)
        memory_bytes = _peak_bytes(disk)
    yield Measurement("peak memory beyond the cache, reading", memory_bytes - cached_bytes, Unit.BYTES)


def measure_loop(target: Target, prefix: str, data: bytes, threads_count: int) -> Iterator[Measurement]:
    """The limit: the same blocks put and got by the bucket client alone, by threads in a bare loop."""
    size = f"{len(data) >> 20} MiB"
    store = _store(target, prefix)
    view = memoryview(data)

    def block(index: int) -> memoryview:
        return view[index * BLOCK_SIZE_BYTES : (index + 1) * BLOCK_SIZE_BYTES]

    def put(index: int) -> None:
        obstore.put(store, f"{index:08x}", bytes(block(index)), use_multipart=False)

    def get(index: int) -> None:
        if memoryview(obstore.get(store, f"{index:08x}").bytes()) != block(index):
            raise RuntimeError(f"wrong bytes in block {index}")

    count = len(data) // BLOCK_SIZE_BYTES
    yield Measurement(f"write {size} until durable", _threaded_seconds(put, count, threads_count))
    yield Measurement(f"read {size} cold", _threaded_seconds(get, count, threads_count))


def loop_threads(latency_seconds: float) -> int:
    return _LOOP_THREADS_FAR if latency_seconds else _LOOP_THREADS_NEAR


# -- here and there ------------------------------------------------------------------------------------------


def measure_random_reads(
    peer: DiskPeer, target: Target, prefix: str, directory: Path, data: bytes, ledger: Callable[[], Snapshot]
) -> Iterator[Measurement]:
    """4 KiB at random from blocks that nobody has read yet, one at a time and 16; and what each moves."""
    _fill(target, peer, prefix, data)
    pages = BLOCK_SIZE_BYTES // _PAGE_BYTES
    for depth, count in _RANDOM_READS.items():
        prng = random.Random(2)
        blocks = prng.sample(range(len(data) // BLOCK_SIZE_BYTES), count)
        offsets = [block * BLOCK_SIZE_BYTES + prng.randrange(pages) * _PAGE_BYTES for block in blocks]
        with attached(peer, prefix, directory) as disk:
            name = f"4 KiB cold random read, depth {depth}"
            yield from _random_reads(name, disk.file, offsets, depth, ledger)


def write_disk(peer: DiskPeer, prefix: str, directory: Path, data: bytes) -> None:
    """A disk that holds ``data``, as the peer stores it."""
    peer.create(prefix, DISK_SIZE_BYTES)
    with attached(peer, prefix, directory) as disk:
        _write(disk.file, data)


def measure_large_blocks(
    peer: DiskPeer, prefix: str, directory: Path, data: bytes, ledger: Callable[[], Snapshot]
) -> Iterator[Measurement]:
    """4 KiB at random from anywhere in ``data``, some of them from the same block; and what each moves."""
    for depth, count in _LARGE_READS.items():
        prng = random.Random(5)
        offsets = [prng.randrange(len(data) // _PAGE_BYTES) * _PAGE_BYTES for _ in range(count)]
        with attached(peer, prefix, directory) as disk:
            name = f"4 KiB cold random read of large blocks, depth {depth}"
            yield from _random_reads(name, disk.file, offsets, depth, ledger)


def _random_reads(
    name: str, file: Path, offsets: Sequence[int], depth: int, ledger: Callable[[], Snapshot]
) -> Iterator[Measurement]:
    """Of one page each."""
    before = ledger()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        # Else the kernel would read ahead, and be measured.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

        def read(index: int) -> None:
            assert len(os.pread(descriptor, _PAGE_BYTES, offsets[index])) == _PAGE_BYTES

        count = len(offsets)
        yield Measurement(name, _threaded_seconds(read, count, depth) / count, Unit.SECONDS_PER_OPERATION)
        moved = (ledger().bytes_out - before.bytes_out) / count
        yield Measurement(f"- moved for each, depth {depth}", moved, Unit.KIBIBYTES)
    finally:
        os.close(descriptor)


def measure_random_writes(
    peer: DiskPeer, target: Target, prefix: str, directory: Path, data: bytes, ledger: Callable[[], Snapshot]
) -> Iterator[Measurement]:
    """4 KiB at random into blocks that exist and are not cached, until all is in the bucket; and what that
    asks of the bucket for each GiB written."""
    _fill(target, peer, prefix, data)
    prng = random.Random(3)
    offsets = [prng.randrange(len(data) // _PAGE_BYTES) * _PAGE_BYTES for _ in range(_RANDOM_WRITES)]
    page = data[:_PAGE_BYTES]
    with attached(peer, prefix, directory) as disk:
        before = ledger()
        begin = time.perf_counter()
        descriptor = os.open(disk.file, os.O_RDWR)
        try:
            for offset in offsets:
                assert os.pwrite(descriptor, page, offset) == len(page)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not disk.fsync_is_durable:
            disk.detach()
        seconds = time.perf_counter() - begin
        after = ledger()
    gib = _RANDOM_WRITES * _PAGE_BYTES / (1 << 30)
    yield Measurement(f"{_RANDOM_WRITES} random 4 KiB writes until durable", seconds)
    requests = after.requests_count - before.requests_count
    yield Measurement("- requests per GiB of them", requests / gib, Unit.COUNT)
    moved = after.bytes_in + after.bytes_out - before.bytes_in - before.bytes_out
    yield Measurement("- bytes moved per GiB of them", moved / gib, Unit.BYTES)


# -- into a journal ------------------------------------------------------------------------------------------


def measure_journal(
    peer: Bucketry, target: Target, prefix: str, directory: Path, data: bytes
) -> Iterator[Measurement]:
    """4 KiB at random, each with an fdatasync, into a journal, with the blocks here and there; and in the
    same minute into a plain file beside the journal."""
    plain = directory.with_name("plain")
    plain.write_bytes(data)
    for state in ("not cached", "in the disk cache", "in memory", "new disk"):
        volume = f"{prefix}-{state.replace(' ', '-')}"
        if state == "new disk":
            peer.create(volume, DISK_SIZE_BYTES)
        else:
            _fill(target, peer, volume, data)
        with TemporaryDirectory(dir=directory.parent) as cache:
            options = [f"--cache-dir={cache}", "--durability=journal"]
            if state == "in the disk cache":
                disk = peer.attach(volume, directory, DISK_SIZE_BYTES, options)
                _read(disk.file, data)
                disk.detach()
            disk = peer.attach(volume, directory, DISK_SIZE_BYTES, options)
            try:
                if state == "in memory":
                    _read(disk.file, data)
                local = _synced_writes(plain, len(data))
                seconds = _synced_writes(disk.file, len(data))
            finally:
                disk.detach()
        yield Measurement(f"4 KiB write and sync, {state}", seconds, Unit.SECONDS_PER_OPERATION)
        yield Measurement(f"- into a local file, {state}", local, Unit.SECONDS_PER_OPERATION)
        yield Measurement(f"- times the local file's, {state}", seconds / local, Unit.RATIO)


def _synced_writes(file: Path, size_bytes: int) -> float:
    prng = random.Random(6)
    page = prng.randbytes(_PAGE_BYTES)
    descriptor = os.open(file, os.O_RDWR)
    try:
        begin = time.perf_counter()
        for _ in range(_SYNCED_WRITES):
            os.pwrite(descriptor, page, prng.randrange(size_bytes // _PAGE_BYTES) * _PAGE_BYTES)
            os.fdatasync(descriptor)
        return (time.perf_counter() - begin) / _SYNCED_WRITES
    finally:
        os.close(descriptor)


# -- from the cache ------------------------------------------------------------------------------------------


def measure_warm(
    peer: DiskPeer, target: Target, prefix: str, directory: Path, data: bytes
) -> Iterator[Measurement]:
    """Direct I/O on what is in the peer's cache."""
    _fill(target, peer, prefix, data[:_CACHED_BYTES])
    with attached(peer, prefix, directory) as disk:
        _read(disk.file, data[:_CACHED_BYTES])
        for job in FIO_JOBS:
            time.sleep(_SETTLE_SECONDS)
            yield Measurement(job.name, _fio(disk.file, job), Unit.SECONDS_PER_OPERATION)


def _fio(file: Path, job: FioJob) -> float:
    answer = subprocess.run(
        [
            "fio", "--name=job", f"--filename={file}", f"--size={_CACHED_BYTES}", f"--rw=rand{job.verb}",
            f"--bs={job.size_bytes}", f"--iodepth={job.depth}", "--ioengine=libaio", "--direct=1",
            "--time_based", f"--runtime={_FIO_SECONDS}", "--randrepeat=0", "--norandommap",
            # The file is a disk: it is neither made nor enlarged.
            "--fallocate=none", "--allow_file_create=0", "--output-format=json",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads(answer.stdout)
    rate: float = report["jobs"][0][job.verb]["iops"]
    return 1 / rate


# -- filesystems ---------------------------------------------------------------------------------------------


def measure_files(
    peer: DiskPeer, target: Target, prefix: str, directory: Path, archive: bytes
) -> Iterator[Measurement]:
    """A filesystem is made, filled with many files, and read by a fresh process; each until it is durable and
    the disk detached."""
    peer.create(prefix, FILES_DISK_BYTES)
    tree = directory.with_name("tree")
    tree.mkdir(exist_ok=True)
    with attached(peer, prefix, directory, FILES_DISK_BYTES) as disk:
        begin = time.perf_counter()
        # nodiscard: s3backer deletes each of the 819,200 blocks of the new disk otherwise, for many minutes.
        options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
        _run("mkfs.ext4", "-q", "-F", "-E", options, str(disk.file))
        disk.detach()
        yield Measurement("mkfs.ext4 of 100 GiB", time.perf_counter() - begin)
    with attached(peer, prefix, directory, FILES_DISK_BYTES) as disk:
        begin = time.perf_counter()
        with _mounted(disk.file, tree):
            _run("tar", "x", "-C", str(tree), stdin=archive)
            os.sync()
        disk.detach()
        yield Measurement(f"untar {_FILES_COUNT} files, sync, umount", time.perf_counter() - begin)
    with attached(peer, prefix, directory, FILES_DISK_BYTES) as disk:
        begin = time.perf_counter()
        with _mounted(disk.file, tree):
            # Not to /dev/null itself: tar knows it, and would read nothing.
            _run("sh", "-c", 'tar c -C "$1" . | cat > /dev/null', "sh", str(tree))
            yield Measurement(f"tar c of {_FILES_COUNT} files, cold", time.perf_counter() - begin)


@contextmanager
def _mounted(disk: Path, directory: Path) -> Iterator[None]:
    # noinit_itable: what the kernel fills in later, at a time of its own, would fall into somebody's turn.
    _run("mount", "-o", "loop,noinit_itable", str(disk), str(directory))
    try:
        yield
    finally:
        _run("umount", str(directory))


def archive_of_files() -> bytes:
    """A tar of many small files in some directories, the same in every run."""
    prng = random.Random(4)
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(_FILES_COUNT):
            entry = tarfile.TarInfo(f"{number % 97:02}/{number:04}")
            entry.size = min(int(prng.expovariate(1 / _FILE_MEAN_BYTES)), 1 << 20)
            archive.addfile(entry, BytesIO(prng.randbytes(entry.size)))
    return out.getvalue()


# -- attaching -----------------------------------------------------------------------------------------------


def fill_for_attach(peer: DiskPeer, target: Target, prefix: str) -> None:
    """A disk with so many blocks. Nobody reads them, so that they may be short."""
    peer.create(prefix, _ATTACH_DISK_BYTES)
    store = _store(target, prefix)

    def put(index: int) -> None:
        obstore.put(store, f"{index + 1:08x}", b"x", use_multipart=False)

    _threaded_seconds(put, ATTACH_BLOCKS, _LOOP_THREADS_NEAR)


def measure_attach(peer: DiskPeer, prefix: str, directory: Path) -> Iterator[Measurement]:
    begin = time.perf_counter()
    with attached(peer, prefix, directory, _ATTACH_DISK_BYTES):
        yield Measurement(f"attach, {ATTACH_BLOCKS:,} blocks present", time.perf_counter() - begin)


# -- tools ---------------------------------------------------------------------------------------------------


def _store(target: Target, prefix: str) -> S3Store:
    return S3Store(
        target.bucket,
        prefix=prefix,
        endpoint=target.endpoint,
        region=target.region,
        access_key_id=target.access_key,
        secret_access_key=target.secret_key,
        client_options={"allow_http": True},
    )


def _fill(target: Target, peer: DiskPeer, prefix: str, data: bytes) -> None:
    """A disk that holds ``data``: its blocks are put as both programs store them."""
    peer.create(prefix, DISK_SIZE_BYTES)
    store = _store(target, prefix)

    def put(index: int) -> None:
        block = data[index * BLOCK_SIZE_BYTES : (index + 1) * BLOCK_SIZE_BYTES]
        obstore.put(store, f"{index:08x}", block, use_multipart=False)

    _threaded_seconds(put, len(data) // BLOCK_SIZE_BYTES, _LOOP_THREADS_FAR)


def _threaded_seconds(work: Callable[[int], None], count: int, threads_count: int) -> float:
    with ThreadPoolExecutor(threads_count) as pool:
        begin = time.perf_counter()
        list(pool.map(work, range(count)))
        return time.perf_counter() - begin


def _peak_bytes(disk: Attached) -> int:
    """The most memory that the serving process ever had resident."""
    for line in Path(f"/proc/{disk.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {disk.pid} says nothing of its memory")


def _write(file: Path, data: bytes) -> None:
    view = memoryview(data)
    with file.open("r+b", buffering=0) as disk:
        for offset in range(0, len(data), _REQUEST_BYTES):
            count = disk.write(view[offset : offset + _REQUEST_BYTES])
            assert count == _REQUEST_BYTES
        os.fsync(disk.fileno())


def _read(file: Path, data: bytes) -> None:
    """Read as much as ``data`` and compare: a fast wrong answer does not count."""
    view = memoryview(data)
    with file.open("rb", buffering=0) as disk:
        for offset in range(0, len(data), _REQUEST_BYTES):
            if disk.read(_REQUEST_BYTES) != view[offset : offset + _REQUEST_BYTES]:
                raise RuntimeError(f"{file}: wrong bytes at {offset}")


def _run(*command: str, stdin: bytes | None = None) -> None:
    answer = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{command[0]}: {answer.stderr.decode(errors='replace').strip()}")
