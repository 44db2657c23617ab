"""Who is measured: each peer attaches a disk of the same bucket and lets go of it durably."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bucketry.settings import CacheSettings

#: What the documentation of s3backer suggests for real use, and our default.
BLOCK_SIZE_BYTES = 128 << 10
DISK_SIZE_BYTES = 1 << 30
#: Generous: a peer that needs longer to start or to stop has failed.
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the disks are: one bucket of one server, the same for all peers."""

    endpoint: str
    region: str
    bucket: str
    access_key: str
    secret_key: str
    access_file: Path


class Attached(Protocol):
    """A disk that is in use."""

    #: The raw disk.
    file: Path
    #: The process that serves it.
    pid: int
    #: Whether fsync makes durable what was written; otherwise only detaching does.
    fsync_is_durable: bool

    def detach(self) -> None:
        """Return when everything written is in the bucket and the peer's process has gone."""
        ...


class DiskPeer(Protocol):
    """A program that shows a disk in a bucket as a file."""

    name: str
    #: How much of the disk it keeps in memory, at most.
    cache_bytes: int

    def create(self, prefix: str, size_bytes: int) -> None: ...

    def attach(self, prefix: str, directory: Path, size_bytes: int) -> Attached:
        """Start the peer on the disk at ``prefix``, with nothing cached, and return when it can be used."""
        ...

    def version(self) -> str: ...


@contextmanager
def attached(
    peer: DiskPeer, prefix: str, directory: Path, size_bytes: int = DISK_SIZE_BYTES
) -> Iterator[Attached]:
    """As attach; detached at the end where the caller has not done so, also when he failed."""
    disk = peer.attach(prefix, directory, size_bytes)
    try:
        yield disk
    finally:
        if disk.file.exists():
            disk.detach()


class S3backer:
    """Debian's s3backer through FUSE."""

    def __init__(
        self,
        target: Target,
        name: str,
        cached_blocks: int,
        options: Sequence[str],
        log: Path,
        block_size_bytes: int = BLOCK_SIZE_BYTES,
    ) -> None:
        self.name = name
        self.block_size_bytes = block_size_bytes
        self.cache_bytes = cached_blocks * block_size_bytes
        self._target = target
        self._options = [f"--blockCacheSize={cached_blocks}", *options]
        self._log = log

    def version(self) -> str:
        answer = subprocess.run(["s3backer", "--version"], capture_output=True, text=True, check=True)
        return (answer.stdout + answer.stderr).splitlines()[0]

    def create(self, prefix: str, size_bytes: int) -> None:
        """Nothing to do: a volume of s3backer exists once it is mounted with its size."""

    def attach(self, prefix: str, directory: Path, size_bytes: int) -> Attached:
        directory.mkdir(exist_ok=True)
        target = self._target
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [
                    "s3backer", "-f", f"--accessFile={target.access_file}", f"--baseURL={target.endpoint}/",
                    f"--blockSize={self.block_size_bytes >> 10}k", f"--size={size_bytes >> 20}m",
                    f"--prefix={prefix}/", *self._options, target.bucket, str(directory),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        file = directory / "file"
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while not file.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                raise RuntimeError(f"{self.name} did not start; see {self._log}")
            time.sleep(0.01)
        return _S3backerDisk(directory, process)


class _S3backerDisk:
    #: Its fsync answers at once and does nothing.
    fsync_is_durable = False

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.file = directory / "file"
        self.pid = process.pid
        self._directory = directory
        self._process = process

    def detach(self) -> None:
        _unmount(self._directory)
        # It uploads the rest after it was unmounted.
        self._process.wait(_PATIENCE_SECONDS)


class Bucketry:
    """This project: ``bucketry attach``, with its defaults."""

    name = "bucketry"
    cache_bytes = CacheSettings().memory_bytes

    def __init__(self, target: Target, block_size_bytes: int = BLOCK_SIZE_BYTES) -> None:
        self._target = target
        self._block_size_bytes = block_size_bytes
        self._program = str(Path(sys.executable).parent / "bucketry")

    def version(self) -> str:
        return _run(self._program, "--version").strip()

    def _url_and_options(self, prefix: str) -> list[str]:
        target = self._target
        return [
            f"s3://{target.bucket}/{prefix}",
            f"--endpoint={target.endpoint}",
            f"--region={target.region}",
            f"--access-file={target.access_file}",
        ]

    def create(self, prefix: str, size_bytes: int) -> None:
        _run(
            self._program,
            "create",
            *self._url_and_options(prefix),
            f"--size={size_bytes}",
            f"--block-size={self._block_size_bytes}",
        )

    def attach(
        self, prefix: str, directory: Path, size_bytes: int, more_options: Sequence[str] = ()
    ) -> Attached:
        directory.mkdir(exist_ok=True)
        url, *options = self._url_and_options(prefix)
        _run(self._program, "attach", url, str(directory), *options, *more_options)
        return _BucketryDisk(directory, self._program)


class _BucketryDisk:
    fsync_is_durable = True

    def __init__(self, directory: Path, program: str) -> None:
        self.file = directory / "file"
        self.pid = _served_by(directory)
        self._directory = directory
        self._program = program

    def detach(self) -> None:
        _run(self._program, "umount", str(self._directory))


def _served_by(directory: Path) -> int:
    """The process of ``bucketry attach`` on a directory."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended just now
        if b"attach" in words and os.fsencode(directory) in words:
            return int(path.parent.name)
    raise RuntimeError(f"no process serves {directory}")


def _unmount(directory: Path) -> None:
    _run(*(["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]), str(directory))


def _run(*command: str) -> str:
    answer = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    if answer.returncode:
        raise RuntimeError(
            f"{' '.join(command[:2])} failed: {answer.stderr.strip() or answer.stdout.strip()}"
        )
    return answer.stdout
