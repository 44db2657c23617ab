"""Debian's s3backer on a loopback S3 server: mounted in the foreground, unmounted, and waited for."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers.s3 import S3Server

#: It starts in a second, and unmounts as soon as its few dirty blocks are written.
_TIMEOUT_SECONDS = 60.0


class S3backerError(Exception):
    """It ended instead of mounting; the message is what it said."""


@dataclass(frozen=True)
class S3backer:
    """s3backer as it is run against ``server``; ``directory`` is for its mount point and files."""

    server: S3Server
    directory: Path

    def _command(self, bucket: str, options: Sequence[str]) -> list[str]:
        access_file = self.directory / "s3backer.passwd"
        if not access_file.exists():
            self.server.access_file(access_file)
        return [
            "s3backer",
            "--quiet",
            f"--baseURL={self.server.endpoint}/",
            f"--accessFile={access_file}",
            # The store is consistent at once, so nothing needs to wait for it.
            "--md5CacheSize=0",
            "--md5CacheTime=0",
            "--minWriteDelay=0",
            *options,
            bucket,
        ]

    @contextmanager
    def mounted(self, bucket: str, *options: str) -> Iterator[Path]:
        """Its file, while the volume is mounted; afterwards everything is in the bucket and it has gone.

        Raises S3backerError when it refuses to mount.
        """
        mount_point = self.directory / "mnt"
        mount_point.mkdir(exist_ok=True)
        log = self.directory / "s3backer.log"
        command = [*self._command(bucket, options), "-f", str(mount_point)]
        with log.open("w+b") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                deadline = time.monotonic() + _TIMEOUT_SECONDS
                while not mount_point.is_mount():
                    if process.poll() is not None:
                        raise S3backerError(log.read_text(errors="replace"))
                    assert time.monotonic() < deadline, "s3backer does not mount"
                    time.sleep(0.02)
                yield mount_point / "file"
            finally:
                if mount_point.is_mount():
                    subprocess.run(["umount", str(mount_point)], check=True)
                try:
                    process.wait(_TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise

    def run(self, bucket: str, *options: str) -> None:
        """One of its commands that do not mount (``--erase``, ``--reset-mounted-flag``)."""
        subprocess.run(
            self._command(bucket, options), check=True, capture_output=True, timeout=_TIMEOUT_SECONDS
        )
