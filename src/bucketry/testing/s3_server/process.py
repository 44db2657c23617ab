"""The server as a process of its own, told what to do through its control port."""

import http.client
import json
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from bucketry.testing.s3_server.child_settings import encode_settings
from bucketry.testing.s3_server.controls import Controls, Json
from bucketry.testing.s3_server.running import LOOPBACK
from bucketry.testing.s3_server.service import DEFAULTS, ServiceSettings

#: How long a command may take, and an end.
_PATIENCE_SECONDS = 30.0


class RemoteControl(Controls):
    """Commands to a server that listens for them on ``control_port`` of this machine."""

    def __init__(self, control_port: int) -> None:
        self._control_port = control_port

    def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Raises OSError when nobody is there, too."""
        connection = http.client.HTTPConnection(LOOPBACK, self._control_port, timeout=_PATIENCE_SECONDS)
        try:
            body = json.dumps(dict(arguments))
            connection.request("POST", f"/{name}", body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["result"]


class S3ServerProcess(RemoteControl):
    """``with S3ServerProcess() as server:`` serves on ``server.endpoint``.

    It ends with this process, whatever happens to that: its standard input does."""

    def __init__(self, settings: ServiceSettings = DEFAULTS, *, port: int = 0) -> None:
        super().__init__(0)
        self._settings = settings
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        """While it runs."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """While it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it serves. Raises OSError when it does not come up."""
        assert self._process is None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bucketry.testing.s3_server", "--child", "--port", str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Not as arguments: everybody on the machine can read those.
        print(encode_settings(self._settings), file=self._process.stdin, flush=True)
        words = self._process.stdout.readline().split()
        if len(words) != 2:
            self.stop()
            raise OSError("the S3 server did not start; its standard error says why")
        self.port, self._control_port = int(words[0]), int(words[1])

    def stop(self) -> None:
        """End it; does nothing when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            # Closes its standard input, which ends it.
            process.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
