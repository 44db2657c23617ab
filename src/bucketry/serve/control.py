"""The control socket of a serving process: one JSON object a line, a request and its answer.

Requests are ``{"op": NAME, …}`` with what the operation needs; answers ``{"ok": true, …}``, or ``{"ok":
false, "error": CLASS, "message": TEXT}`` with the name of a class of bucketry.errors. The socket lies in a
directory that only its user may enter; that is its protection. A request is cancelled when the client that
sent it goes away."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path

from bucketry import errors
from bucketry.errors import BucketryError, Closed, Invalid

#: A request is some dozen bytes, the longest answer (all statistics) some ten thousand.
LINE_MAX = 1 << 20

Answer = Mapping[str, object]
#: An operation's name and all of its request.
Handler = Callable[[str, Mapping[str, object]], Awaitable[Answer]]


def _short_path(directory: int, path: Path) -> str:
    """A path of the socket that fits into 108 bytes however deep its directory lies."""
    return f"/proc/self/fd/{directory}/{path.name}"


class ControlServer:
    """Answers requests with ``handler(op, request)``; what it raises is the answer too."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._connections: set[asyncio.Task[None]] = set()
        #: Of these, the ones whose client has not asked anything yet.
        self._silent: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket left by a process that died is replaced (the caller holds the claim on its
        name)."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            listener.bind(_short_path(directory, self._path))
        finally:
            os.close(directory)
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=LINE_MAX)

    async def close(self) -> None:
        """Accept nothing more; wait until the requests under way are answered."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        for task in self._silent:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._silent.add(task)
        try:
            line = await reader.readline()
            self._silent.discard(task)
            if line:
                await self._respond(line, reader, writer)
        except (ConnectionError, ValueError):
            pass  # the client has gone, or sent a line without end: nobody to answer
        except asyncio.CancelledError:
            if task not in self._silent:
                raise
            # The server closes, and this client never asked.
        finally:
            self._silent.discard(task)
            self._connections.discard(task)
            writer.close()

    async def _respond(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, unless its client goes away first."""
        answering = asyncio.ensure_future(self._answer(line))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                writer.write(json.dumps(answering.result()).encode() + b"\n")
                await writer.drain()
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = _request(line)
            return {"ok": True, **await self._handler(str(request["op"]), request)}
        except BucketryError as error:
            return {"ok": False, "error": type(error).__name__, "message": str(error)}


def _request(line: bytes) -> Mapping[str, object]:
    try:
        request = json.loads(line)
        operation = request["op"]
    except (ValueError, TypeError, KeyError) as error:
        raise Invalid('a request is a line like {"op": "status"}') from error
    if not isinstance(operation, str):
        raise Invalid("the name of an operation is a string")
    assert isinstance(request, dict), "only these have keys that are strings"
    return request


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
                self._socket.connect(_short_path(directory, path))
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
