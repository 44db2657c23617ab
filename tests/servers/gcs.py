"""A stand-in for Google cloud storage: no emulator on PyPI serves the bucket client (docs/buckets.md)."""

import itertools
import json
import sys
from pathlib import Path

from servers.http import answers, request
from servers.process import ServerError, ServerProcess, free_ports


class Gcs:
    """One server; everything is in its memory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        #: For GOOGLE_SERVICE_ACCOUNT: an account that signs nothing and asks nobody for a token.
        self.credentials_file = directory / "account.json"
        self.credentials_file.write_text(
            json.dumps({"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""})
        )
        self._process = ServerProcess(
            "gcs",
            # -P: its own directory does not come before the standard library.
            [sys.executable, "-P", str(Path(__file__).with_name("gcs_server.py")), str(self.port)],
            log=directory / "gcs.log",
            is_ready=lambda: answers(self.port),
        )
        self._numbers = itertools.count(1)

    def start_process(self) -> None:
        self._process.start()

    def stop_process(self) -> None:
        """Kill it; all objects are gone then."""
        self._process.stop()

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket{next(self._numbers)}"
        status, body = request(self.port, "PUT", f"/{name}")
        if status != 200:
            raise ServerError(f"the Google stand-in did not make a bucket: {status} {body[:200]!r}")
        return name
