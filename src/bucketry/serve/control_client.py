"""Asking a serving process something through its control socket; see ``control`` for what is said.

Apart from the server because the commands that only ask start in half the time without an event loop.
"""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from bucketry import errors
from bucketry.errors import BucketryError, Closed, Invalid

#: A request is some dozen bytes, the longest answer (all statistics) some ten thousand.
LINE_MAX = 1 << 20

Answer = Mapping[str, object]


def short_path(directory: int, path: Path) -> str:
    """A path of the socket that fits into 108 bytes however deep its directory lies."""
    return f"/proc/self/fd/{directory}/{path.name}"


class ControlClient:
    """One request to a serving process, blocking; ``poll`` lets the caller do something else while it
    waits."""

    def __init__(self, path: Path, operation: str, **arguments: object) -> None:
        """Sends the request. Raises Closed when nobody listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = bytearray()
        try:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                self._socket.connect(short_path(directory, path))
            finally:
                os.close(directory)
            self._socket.sendall(json.dumps({"op": operation, **arguments}).encode() + b"\n")
        except (ConnectionError, FileNotFoundError) as error:
            self._socket.close()
            raise Closed("the process that serves it does not listen") from error

    def poll(self, timeout_seconds: float | None) -> Answer | None:
        """The answer, or None when none came in time. Raises what the answer reports; Closed when the process
        went away without one."""
        self._socket.settimeout(timeout_seconds)
        while True:
            try:
                data = self._socket.recv(65536)
            except (TimeoutError, BlockingIOError):
                return None  # the latter is what a timeout of 0 brings
            except ConnectionError:
                data = b""
            self._received += data
            if self._received.endswith(b"\n"):
                return _result(json.loads(self._received))
            if not data:
                raise Closed("the process that serves it ended without an answer")
            if len(self._received) > LINE_MAX:
                raise Invalid("the answer of the serving process is too long")

    def close(self) -> None:
        """Withdraw: a request that is not answered is cancelled."""
        self._socket.close()


def _result(answer: dict[str, object]) -> Answer:
    if answer.get("ok") is True:
        return answer
    kind = getattr(errors, str(answer.get("error")), None)
    raised = kind if isinstance(kind, type) and issubclass(kind, BucketryError) else BucketryError
    raise raised(str(answer.get("message")))


def ask(path: Path, operation: str) -> Answer:
    """The answer to one request that is answered at once. Raises as ControlClient does."""
    with closing(ControlClient(path, operation)) as client:
        #: Answers of this kind need no bucket; ten seconds are a stopped or swapped-out process.
        answer = client.poll(10)
    if answer is None:
        raise errors.Unavailable("the process that serves it does not answer")
    return answer
