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
from pathlib import Path

from bucketry.errors import BucketryError, Invalid
from bucketry.serve.control_client import LINE_MAX, Answer, short_path

#: An operation's name and all of its request.
Handler = Callable[[str, Mapping[str, object]], Awaitable[Answer]]


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
            listener.bind(short_path(directory, self._path))
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
