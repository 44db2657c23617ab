"""A TCP proxy on the loopback interface that can cut, refuse and count connections."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from servers.process import free_ports, release_ports

_CHUNK_BYTES = 256 * 1024
#: Close with a reset and forget what was not sent yet, as a server that dies does.
_LINGER_NOT = struct.pack("ii", 1, 0)


class Proxy:
    """Passes every connection on to ``target_port``, in a thread with a loop of its own.

    A context manager; its methods block until they are done and may be called from any other thread."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        #: No connection outlives its first request.
        self._cuts_all = False
        (self.port,) = free_ports(1)
        #: Connections taken since the start.
        self.connection_count = 0
        #: Bytes that clients sent to the server, and the other way.
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def endpoint(self) -> str:
        """Where S3 clients find the server, through the proxy."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def cut(self) -> None:
        """Reset the connections that are open; new ones are welcome."""
        self._run(self._cut())

    def cut_all(self) -> None:
        """Reset the open connections, and from now on every one in its first request, before the server has
        it, or in the middle of the answer, until ``accept``."""
        self._cuts_all = True
        self.cut()

    def refuse(self) -> None:
        """Reset the open connections, and let nobody connect until ``accept``: the server is down."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Take connections (again), and leave them alone."""
        self._cuts_all = False
        self._run(self._accept())

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        release_ports(self.port)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, reuse_address=True, limit=_CHUNK_BYTES
            )

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        self.connection_count += 1
        writers = [writer]
        try:
            below_reader, below_writer = await asyncio.open_connection(
                "127.0.0.1", self._target_port, limit=_CHUNK_BYTES
            )
            writers.append(below_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, below_writer, is_sent=True))
                group.create_task(self._pass_on(below_reader, writer, is_sent=False))
        except* (OSError, asyncio.CancelledError):
            # One side has gone, or we are told to cut it: the other side is reset, too.
            pass
        finally:
            for each in writers:
                try:
                    sock = each.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                except OSError:
                    # It was reset from the other side, and is closed already.
                    pass
                each.transport.abort()
            self._connections.discard(connection)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_sent: bool
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self._cuts_all and (not is_sent or self.connection_count % 2):
                writer.write(data[: len(data) // 2])
                await writer.drain()
                raise ConnectionResetError
            if is_sent:
                self.sent_bytes += len(data)
            else:
                self.received_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()
