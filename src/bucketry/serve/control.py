"""The control socket of a serving process: one JSON object a line, a request and its answer.

Requests are ``{"op": NAME, …}`` with what the operation needs; answers ``{"ok": true, …}``, or ``{"ok":
false, "error": CLASS, "message": TEXT}`` with the name of a class of bucketry.errors. The socket lies in a
directory that only its user may enter; that is its protection. A request is cancelled when the client that
sent it goes away."""

import asyncio
import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from bucketry.errors import BucketryError, Invalid
from bucketry.serve.control_client import LINE_MAX, Answer, short_path

logger = logging.getLogger(__name__)

#: More clients than ever wait at once.
_BACKLOG = 16
#: For ``umount`` and a few curious ones.
_SPARE_COUNT = 4
#: Until a client that could not be taken is tried again.
_FULL_PAUSE_SECONDS = 0.5

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
        self._listener: socket.socket | None = None
        #: Kept open to be closed when this process has no other descriptor left: then of all things somebody
        #: has to be able to ask what is wrong, and to unmount.
        self._spare: list[int] = []

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
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._listener = listener
        self._keep_spare()
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def close(self) -> None:
        """Accept nothing more; wait until the requests under way are answered."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self._path.unlink(missing_ok=True)
        for task in self._silent:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        while self._spare:
            os.close(self._spare.pop())

    def _keep_spare(self) -> None:
        while len(self._spare) < _SPARE_COUNT:
            try:
                self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return  # none left now; tried again after the next client

    def _accept(self) -> None:
        """Take one client; the loop calls again while more wait."""
        listener = self._listener
        if listener is None:
            return
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            if self._spare:
                logger.error("too many open files (ulimit -n): a client gets a descriptor kept aside")
                os.close(self._spare.pop())
            else:
                self._accept_later(listener)
            return
        task = asyncio.get_running_loop().create_task(self._connected(connection), name="control client")
        self._connections.add(task)
        self._silent.add(task)

    def _accept_later(self, listener: socket.socket) -> None:
        # Otherwise the loop would call us again at once, and again.
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(_FULL_PAUSE_SECONDS, self._accept_again)

    def _accept_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def _connected(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        writer = None
        try:
            connection.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_MAX)
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
            if writer is None:
                connection.close()
            else:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
            self._keep_spare()

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
