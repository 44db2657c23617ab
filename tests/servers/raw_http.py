"""HTTP as bytes on a socket: for what no client library would send, or would hide."""

import http.client
import io
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

#: Longer than any answer on the loopback interface takes.
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Reply:
    """An answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """S3's error code; empty when there is none."""
        return self.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


class RawConnection:
    """One connection, byte by byte if need be."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, method: str = "GET") -> Reply:
        """The next answer."""
        response = http.client.HTTPResponse(_Unclosed(self._file), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        return Reply(response.status, {n.lower(): v for n, v in response.getheaders()}, body)

    def receive_rest(self) -> bytes:
        """All bytes until the end of the connection."""
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class _Unclosed:
    """What HTTPResponse takes for a socket; it must not close the file that the next answer comes from, nor
    read more of it than its own."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def makefile(self, mode: str) -> "_Unclosed":
        return self

    def readline(self, limit: int = -1) -> bytes:
        return self._file.readline(limit)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None: ...

    def flush(self) -> None: ...


@contextmanager
def connected(port: int) -> Iterator[RawConnection]:
    """A connection that is closed at the end."""
    connection = RawConnection(port)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    port: int,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Reply:
    """One request on a connection of its own."""
    with connected(port) as connection:
        connection.send(request_bytes(method, target, headers=headers, body=body))
        return connection.receive(method)


def request_bytes(
    method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """A request as it goes over the wire."""
    fields = {"Host": "127.0.0.1", **({"Content-Length": str(len(body))} if body else {}), **(headers or {})}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
