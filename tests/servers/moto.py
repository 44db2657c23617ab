"""moto, an S3 server in Python: an oracle for details of the API; it does not check signatures."""

import sys
from pathlib import Path

from servers.http import answers, request
from servers.process import ServerProcess, free_ports
from servers.s3 import Buckets, write_access_file


class Moto:
    """One server; everything is in its memory."""

    access_key = "bucketry-test-access"
    secret_key = "bucketry-test-secret"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = ServerProcess(
            "moto",
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            log=directory / "moto.log",
            is_ready=lambda: answers(self.port, "/moto-api/"),
            environment={"TMPDIR": str(directory)},
        )
        self._buckets: Buckets | None = None

    def start_process(self) -> None:
        self._process.start()

    def stop_process(self) -> None:
        """Kill it; all objects are gone then."""
        self._process.stop()

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        if self._buckets is None:
            self._buckets = Buckets(self.endpoint, self.access_key, self.secret_key)
        return self._buckets.make()

    def access_file(self, path: Path) -> Path:
        """Write the credentials in s3backer's form to ``path``."""
        return write_access_file(path, self.access_key, self.secret_key)

    def forget_everything(self) -> None:
        """Empty the server."""
        request(self.port, "POST", "/moto-api/reset")
