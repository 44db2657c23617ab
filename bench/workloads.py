"""What is measured: each workload runs on one peer once and returns times; smaller is better everywhere."""

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import S3Store

from bench.peers import BLOCK_SIZE_BYTES, DiskPeer, Target, attached

TRANSFER_BYTES = 256 << 20
#: The size of one read or write of a copying program.
_REQUEST_BYTES = 1 << 20
#: Half of what s3backer caches by default (1000 such blocks): it is all cached, for everybody.
_CACHED_BYTES = 64 << 20
_FIO_SECONDS = 2
#: Before each fio run, for uploads of the run before to end: 512 blocks at the server's 700 put/s, and some.
_SETTLE_SECONDS = 1.5
#: Requests at once in the bare loop; more is not faster on this server.
_LOOP_THREADS = 16

WRITE_DURABLE = f"write {TRANSFER_BYTES >> 20} MiB until durable"
WRITE_UNMOUNTED = f"write {TRANSFER_BYTES >> 20} MiB until unmounted"
READ_COLD = f"read {TRANSFER_BYTES >> 20} MiB cold"


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
    """``seconds`` of the whole workload, or of one operation when ``is_per_operation``."""

    workload: str
    seconds: float
    is_per_operation: bool = False


def payload() -> bytes:
    """What is written: no compressor shortens it, no two blocks are equal, the same in every run."""
    source = random.Random(1)
    return b"".join(source.randbytes(_REQUEST_BYTES) for _ in range(TRANSFER_BYTES // _REQUEST_BYTES))


def measure_disk(peer: DiskPeer, prefix: str, directory: Path, data: bytes) -> Iterator[Measurement]:
    """All workloads on a fresh disk of one peer."""
    peer.create(prefix)
    with attached(peer, prefix, directory) as disk:
        begin = time.perf_counter()
        _write(disk.file, data)
        durable = time.perf_counter()
        disk.detach()
        unmounted = time.perf_counter()
        yield Measurement(WRITE_DURABLE, (durable if disk.fsync_is_durable else unmounted) - begin)
        yield Measurement(WRITE_UNMOUNTED, unmounted - begin)
    with attached(peer, prefix, directory) as disk:
        begin = time.perf_counter()
        _read(disk.file, data)
        yield Measurement(READ_COLD, time.perf_counter() - begin)
        _read(disk.file, data[:_CACHED_BYTES])
        for job in FIO_JOBS:
            time.sleep(_SETTLE_SECONDS)
            yield Measurement(job.name, _fio(disk.file, job), is_per_operation=True)


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


def measure_loop(target: Target, prefix: str, data: bytes) -> Iterator[Measurement]:
    """The limit: the same blocks put and got by the bucket client alone, by threads in a bare loop."""
    store = S3Store(
        target.bucket,
        prefix=prefix,
        endpoint=target.endpoint,
        region=target.region,
        access_key_id=target.access_key,
        secret_access_key=target.secret_key,
        client_options={"allow_http": True},
    )
    view = memoryview(data)

    def block(index: int) -> memoryview:
        return view[index * BLOCK_SIZE_BYTES : (index + 1) * BLOCK_SIZE_BYTES]

    def put(index: int) -> None:
        obstore.put(store, f"{index:08x}", bytes(block(index)), use_multipart=False)

    def get(index: int) -> None:
        if memoryview(obstore.get(store, f"{index:08x}").bytes()) != block(index):
            raise RuntimeError(f"wrong bytes in block {index}")

    def seconds(work: Callable[[int], None]) -> float:
        with ThreadPoolExecutor(_LOOP_THREADS) as pool:
            begin = time.perf_counter()
            list(pool.map(work, range(len(data) // BLOCK_SIZE_BYTES)))
            return time.perf_counter() - begin

    written = seconds(put)
    yield Measurement(WRITE_DURABLE, written)
    yield Measurement(READ_COLD, seconds(get))
