"""The parts of a run: which workloads on which server, how far away it is, and who takes part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from bench import workloads
from bench.peers import BLOCK_SIZE_BYTES, Bucketry, DiskPeer, Target
from bench.workloads import Measurement
from bucketry.settings import Secret
from bucketry.testing.s3_server import Credentials, LineModel, S3ServerProcess, ServiceSettings, Snapshot
from servers.s3 import REGION, write_access_file
from servers.seaweed import Seaweed

FAR_SECONDS = 0.020
#: A gigabit, less what goes round it: there the size of a block is felt.
_LINE_BYTES_PER_SECOND = 100e6
#: Half: every peer waits out each latency, and some of them each block's.
_FAR_BYTES = workloads.TRANSFER_BYTES // 2


class Place(Protocol):
    """A server that is running."""

    target: Target

    def clear(self) -> None:
        """Forget the objects of earlier turns, where they take memory."""
        ...

    def set_latency(self, seconds: float, bytes_per_second: float | None = None) -> None: ...

    def ledger(self) -> Snapshot: ...


class SeaweedPlace:
    """SeaweedFS: a server as people run it. It is near, and keeps no ledger."""

    def __init__(self, directory: Path) -> None:
        self._server = Seaweed(directory / "seaweed")
        self._server.start_process()
        self.target = Target(
            endpoint=self._server.endpoint,
            region=REGION,
            bucket=self._server.make_bucket(),
            access_key=self._server.access_key,
            secret_key=self._server.secret_key,
            access_file=self._server.access_file(directory / "access-seaweed"),
        )
        # The first puts into a bucket wait for the server to make room for it; nobody shall pay for that.
        list(workloads.measure_loop(self.target, "warm-up", workloads.payload(16 << 20), 16))

    def clear(self) -> None:
        """It keeps them on disk."""

    def set_latency(self, seconds: float, bytes_per_second: float | None = None) -> None:
        assert seconds == 0
        assert bytes_per_second is None

    def ledger(self) -> Snapshot:
        raise NotImplementedError

    def stop(self) -> None:
        self._server.stop_process()


class MemoryPlace:
    """Our own server in memory: it costs little, so that the peers are measured, can be far away, and counts.

    It looks at no signatures and makes no MD5; the clients sign all the same."""

    _BUCKET = "bench"

    def __init__(self, directory: Path) -> None:
        self._server = S3ServerProcess(ServiceSettings(etags="fast"))
        self._server.start()
        self._server.make_bucket(self._BUCKET)
        access = Credentials("AKIDBENCH", Secret("not-a-secret-for-the-loopback-interface"))
        self.target = Target(
            endpoint=self._server.endpoint,
            region=REGION,
            bucket=self._BUCKET,
            access_key=access.access_id,
            secret_key=access.secret.reveal_text(),
            access_file=write_access_file(
                directory / "access-memory", access.access_id, access.secret.reveal_text()
            ),
        )

    def clear(self) -> None:
        self._server.clear()
        self._server.make_bucket(self._BUCKET)

    def set_latency(self, seconds: float, bytes_per_second: float | None = None) -> None:
        self._server.set_line(LineModel(latency_seconds=seconds, total_bytes_per_second=bytes_per_second))

    def ledger(self) -> Snapshot:
        return self._server.snapshot()

    def stop(self) -> None:
        self._server.stop()


@dataclass(frozen=True, slots=True)
class Turn:
    """One peer's turn at a stage: ``peer`` None is the bare loop's."""

    place: Place
    peer: DiskPeer | None
    prefix: str
    directory: Path
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Workloads that follow each other. ``title`` heads their rows."""

    title: str
    place: Callable[[Path], SeaweedPlace | MemoryPlace]
    run: Callable[[Turn], Iterator[Measurement]]
    latency_seconds: float = 0.0
    has_loop: bool = False
    #: What all turns share; nothing is cleared between them then. ``peer`` makes the volume.
    prepare: Callable[[Place, DiskPeer], None] | None = None
    block_size_bytes: int = BLOCK_SIZE_BYTES


def _sequential(size_bytes: int, turn: Turn) -> Iterator[Measurement]:
    data = _payload(size_bytes)
    turn.place.set_latency(turn.latency_seconds)
    if turn.peer is None:
        threads = workloads.loop_threads(turn.latency_seconds)
        return workloads.measure_loop(turn.place.target, turn.prefix, data, threads)
    return workloads.measure_sequential(turn.peer, turn.place.target, turn.prefix, turn.directory, data)


def _random(turn: Turn) -> Iterator[Measurement]:
    assert turn.peer is not None
    turn.place.set_latency(turn.latency_seconds)
    data = _payload(workloads.TRANSFER_BYTES)
    place = turn.place
    yield from workloads.measure_random_reads(
        turn.peer, place.target, f"{turn.prefix}-r", turn.directory, data, place.ledger
    )
    yield from workloads.measure_random_writes(
        turn.peer, place.target, f"{turn.prefix}-w", turn.directory, data, place.ledger
    )


def _journal(turn: Turn) -> Iterator[Measurement]:
    turn.place.set_latency(turn.latency_seconds)
    if not isinstance(turn.peer, Bucketry):
        return  # nobody else has one
    data = _payload(_FAR_BYTES)
    yield from workloads.measure_journal(turn.peer, turn.place.target, turn.prefix, turn.directory, data)


def _warm(turn: Turn) -> Iterator[Measurement]:
    assert turn.peer is not None
    turn.place.set_latency(0)
    data = _payload(workloads.TRANSFER_BYTES)
    return workloads.measure_warm(turn.peer, turn.place.target, turn.prefix, turn.directory, data)


def _files(turn: Turn) -> Iterator[Measurement]:
    assert turn.peer is not None
    turn.place.set_latency(turn.latency_seconds)
    return workloads.measure_files(
        turn.peer, turn.place.target, turn.prefix, turn.directory, workloads.archive_of_files()
    )


#: One volume for all: that they can share it is the point of the format, and to fill it takes a minute.
_ATTACH_PREFIX = "attach"


def _prepare_attach(place: Place, peer: DiskPeer) -> None:
    place.set_latency(0)
    workloads.fill_for_attach(peer, place.target, _ATTACH_PREFIX)


def _attach(turn: Turn) -> Iterator[Measurement]:
    assert turn.peer is not None
    turn.place.set_latency(turn.latency_seconds)
    return workloads.measure_attach(turn.peer, _ATTACH_PREFIX, turn.directory)


_LARGE_PREFIX = "large"


def _prepare_large(place: Place, peer: DiskPeer) -> None:
    """By ourselves: blocks that s3backer wrote have no checksums of pieces to verify."""
    place.set_latency(0)
    with TemporaryDirectory(prefix="bucketry-bench-large-") as directory:
        workloads.write_disk(peer, _LARGE_PREFIX, Path(directory), _payload(workloads.TRANSFER_BYTES))


def _large(turn: Turn) -> Iterator[Measurement]:
    assert turn.peer is not None
    turn.place.set_latency(turn.latency_seconds, _LINE_BYTES_PER_SECOND)
    data = _payload(workloads.TRANSFER_BYTES)
    return workloads.measure_large_blocks(turn.peer, _LARGE_PREFIX, turn.directory, data, turn.place.ledger)


_payloads: dict[int, bytes] = {}


def _payload(size_bytes: int) -> bytes:
    """Made once: a second for each 256 MiB."""
    if size_bytes not in _payloads:
        _payloads[size_bytes] = workloads.payload(size_bytes)
    return _payloads[size_bytes]


_NEAR = "in memory, 0 ms"
_LARGE = "1 MiB blocks, 20 ms, 100 MB/s"
_FAR = f"in memory, {FAR_SECONDS * 1000:.0f} ms"
#: By the name that --only takes.
STAGES: dict[str, Stage] = {
    "seaweed": Stage("SeaweedFS", SeaweedPlace, partial(_sequential, _FAR_BYTES), has_loop=True),
    "near": Stage(_NEAR, MemoryPlace, partial(_sequential, workloads.TRANSFER_BYTES), has_loop=True),
    "far": Stage(_FAR, MemoryPlace, partial(_sequential, _FAR_BYTES), FAR_SECONDS, has_loop=True),
    "random": Stage(_FAR, MemoryPlace, _random, FAR_SECONDS),
    "journal": Stage("a journal, 20 ms", MemoryPlace, _journal, FAR_SECONDS),
    "warm": Stage("all cached", MemoryPlace, _warm),
    "large": Stage(
        _LARGE, MemoryPlace, _large, FAR_SECONDS, prepare=_prepare_large, block_size_bytes=1 << 20
    ),
    "files": Stage(_FAR, MemoryPlace, _files, FAR_SECONDS),
    "attach": Stage(_FAR, MemoryPlace, _attach, FAR_SECONDS, prepare=_prepare_attach),
}
