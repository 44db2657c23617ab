"""Azurite, Microsoft's emulator of Azure blob storage, run offline and in memory."""

import base64
import hashlib
import hmac
import itertools
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from servers.http import answers, request
from servers.process import ServerError, ServerProcess, find_program, free_ports

#: Where ``make test`` installs it, seen from the checkout.
_PROGRAM = Path(__file__).parents[2] / ".cache/azurite/node_modules/.bin/azurite-blob"
#: The oldest version that knows everything that we use; the emulator is told not to mind newer ones.
_API_VERSION = "2021-12-02"


class Azurite:
    """One server; everything is in its memory."""

    account = "bucketrytest"
    account_key = base64.b64encode(
        b"not a secret: a key for the loopback interface, 64 bytes long..."
    ).decode()

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        find_program("node", "apt-get install nodejs npm, then make azurite")
        if not _PROGRAM.exists():
            raise ServerError("azurite is not installed: make azurite")
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}/{self.account}"
        self._process = ServerProcess(
            "azurite",
            [
                str(_PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--silent",
                "--inMemoryPersistence", "--loose", "--skipApiVersionCheck", "--disableTelemetry",
            ],
            log=directory / "azurite.log",
            is_ready=lambda: answers(self.port),
            environment={"AZURITE_ACCOUNTS": f"{self.account}:{self.account_key}", "TMPDIR": str(directory)},
        )  # fmt: skip
        self._numbers = itertools.count(1)

    def start_process(self) -> None:
        self._process.start()

    def stop_process(self) -> None:
        """Kill it; all objects are gone then."""
        self._process.stop()

    def make_container(self) -> str:
        """The name of a new, empty container: what S3 calls a bucket."""
        name = f"container{next(self._numbers)}"
        date = format_datetime(datetime.now(UTC), usegmt=True)
        # "Authorize with Shared Key": the verb, eleven empty standard headers, the x-ms headers, the
        # resource and its query.
        resource = f"/{self.account}/{self.account}/{name}\nrestype:container"
        text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{_API_VERSION}\n{resource}"
        digest = hmac.digest(base64.b64decode(self.account_key), text.encode(), hashlib.sha256)
        status, body = request(
            self.port,
            "PUT",
            f"/{self.account}/{name}?restype=container",
            headers={
                "x-ms-date": date,
                "x-ms-version": _API_VERSION,
                "Authorization": f"SharedKey {self.account}:{base64.b64encode(digest).decode()}",
            },
        )
        if status != 201:
            raise ServerError(f"azurite did not make a container: {status} {body[:200]!r}")
        return name
