"""MiniStack, an emulator of Amazon's services in Python, of which we use S3."""

from pathlib import Path

from servers.http import answers
from servers.process import ServerError, ServerProcess, free_ports
from servers.s3 import Buckets, write_access_file

#: Where ``make test`` installs it, seen from the checkout: in an environment of its own, because it is pinned
#: to a botocore that is older than ours.
_PROGRAM = Path(__file__).parents[2] / ".cache/ministack/bin/ministack"


class Ministack:
    """One server; everything is in its memory."""

    access_key = "bucketry-test-access"
    secret_key = "bucketry-test-secret"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if not _PROGRAM.exists():
            raise ServerError("ministack is not installed: make ministack")
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = ServerProcess(
            "ministack",
            [str(_PROGRAM)],
            log=directory / "ministack.log",
            is_ready=lambda: answers(self.port),
            environment={
                "BIND_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.port),
                "HOME": str(directory),
                "LOG_LEVEL": "WARNING",
                "S3_DATA_DIR": str(directory / "s3"),
                "STATE_DIR": str(directory / "state"),
                "TMPDIR": str(directory),
            },
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
