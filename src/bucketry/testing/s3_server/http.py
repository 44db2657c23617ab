"""HTTP/1.1 on one connection: bytes in, requests out in order, answers back in the same order.

::

    HEAD ──complete head──▶ BODY ──last byte──▶ BUSY ──answer──▶ HEAD
                              (skipped when there is none)        (or closed)

While a request is BUSY, what the client sends ahead stays in the buffer; when that is full, in the socket.
The body is received into the memory in which it will be stored: nothing is copied on the way but what came in
one piece with the head.

RFC 9112. A request whose end is in doubt (two lengths, an unknown transfer encoding) is refused, and the
connection closed.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.line import Pace

#: S3 takes 8 KiB of headers; more room means fewer reads for a body that follows at once.
HEAD_BYTES_MAX = 64 << 10
#: A part or an object of a test. S3's own limit is 5 GiB, more than the memory of many machines.
BODY_BYTES_MAX = 1 << 30
#: The line that begins a chunk: a hexadecimal size and, with aws-chunked, a signature.
_CHUNK_LINE_BYTES_MAX = 4096

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})
_METHOD_BYTES_MAX = 16


@dataclass(slots=True)
class Request:
    """One request with its whole body. Header names are in lower case; values that came twice are joined."""

    method: str
    #: Path and query, as they were sent.
    target: str
    headers: dict[str, str]
    body: BytesLike = b""
    is_last: bool = False


@dataclass(slots=True)
class Answer:
    """``body`` is sent as it is, without a copy: nobody may change it afterwards."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: BytesLike = b""
    #: In an answer to HEAD: the length of the body that is not sent.
    unsent_bytes: int = 0
    #: Close the connection afterwards.
    is_last: bool = False


class Connection(asyncio.BufferedProtocol):
    """One client. ``serve`` gets each request and must cause exactly one ``answer``, ``finish`` or ``abort``,
    at once or later; ``refuse`` turns a malformed one into an answer."""

    def __init__(
        self,
        serve: Callable[[Request, "Connection"], None],
        refuse: Callable[[S3Error], Answer],
        connections: set["Connection"],
    ) -> None:
        self._serve = serve
        self._refuse = refuse
        self._connections = connections
        self._buffer = bytearray(HEAD_BYTES_MAX)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._request: Request | None = None
        self._body_view: memoryview | None = None
        self._body_received = 0
        self._chunks: _Chunks | None = None
        self._is_busy = False
        self._is_advancing = False
        self._is_paused = False
        self._has_ended = False
        self._can_write = asyncio.Event()
        self._can_write.set()
        #: Whatever answers the request later, to be cancelled with the connection.
        self.task: asyncio.Task[None] | None = None
        self._pace = Pace(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._has_ended = True
        self._can_write.set()
        if self.task is not None:
            self.task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._body_view is not None:
            return self._body_view[self._body_received :]
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body_view is not None:
            self._body_received += nbytes
            if self._body_received < len(self._body_view):
                return
            self._body_view = None
            self._dispatch()
        else:
            self._end += nbytes
        self._advance()

    def eof_received(self) -> bool:
        self._has_ended = True
        # An answer that is due still goes out; then the connection ends.
        return self._is_busy

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    # What answers do.

    @property
    def peer_host(self) -> str:
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def pace(self, bytes_per_second: float | None) -> Pace:
        """How fast bytes pass here; begins anew when the rate is another one."""
        if self._pace.bytes_per_second != bytes_per_second:
            self._pace = Pace(bytes_per_second)
        return self._pace

    def answer(self, answer: Answer) -> None:
        """Send it whole, and go on with the next request."""
        if not self._transport.is_closing():
            self._transport.write(self._head(answer))
            if len(answer.body):
                self._transport.write(answer.body)
        self.finish(is_last=answer.is_last)

    def start_answer(self, answer: Answer) -> None:
        """Send the head only; ``write`` and ``finish`` follow."""
        if not self._transport.is_closing():
            self._transport.write(self._head(answer))

    async def write(self, data: BytesLike) -> None:
        """Send bytes of a body; waits while the client takes none."""
        if not self._transport.is_closing():
            self._transport.write(data)
        await self._can_write.wait()

    def finish(self, *, is_last: bool = False) -> None:
        """The answer is complete."""
        request = self._request
        self._is_busy = False
        self._request = None
        self.task = None
        if is_last or self._has_ended or (request is not None and request.is_last):
            self._transport.close()
        elif not self._is_advancing:
            self._advance()

    def abort(self) -> None:
        """End the connection at once, with a reset: what was not sent yet is lost."""
        _reset_on_close(self._transport)
        self._transport.abort()

    # Requests.

    def _advance(self) -> None:
        """Take from the buffer what it holds, until it is empty or a request is being answered."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while not self._is_busy and not self._transport.is_closing() and self._take():
                pass
        except S3Error as error:
            answer = self._refuse(error)
            answer.is_last = True
            self._request = None
            self.answer(answer)
        finally:
            self._is_advancing = False
        self._make_room()

    def _make_room(self) -> None:
        if self._start:
            left = self._end - self._start
            if left:
                self._view[:left] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, left
        is_full = self._end == HEAD_BYTES_MAX and self._body_view is None
        if is_full != self._is_paused and not self._transport.is_closing():
            self._is_paused = is_full
            if is_full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _take(self) -> bool:
        """Take one thing; False when more bytes must come first."""
        if self._chunks is not None:
            return self._take_chunks(self._chunks)
        # A body that is under way has all that came; an empty line before a request is allowed.
        if self._body_view is not None or self._start == self._end:
            return False
        while self._buffer[self._start : self._start + 2] == b"\r\n" and self._start < self._end:
            self._start += 2
        head_end = self._buffer.find(b"\r\n\r\n", self._start, self._end)
        if head_end < 0:
            if self._end - self._start >= HEAD_BYTES_MAX:
                raise S3Error("RequestHeaderSectionTooLarge", fatal=True)
            return False
        request = parse_head(self._buffer[self._start : head_end])
        self._start = head_end + 4
        self._request = request
        is_chunked, length = body_framing(request.headers)
        if (is_chunked or length) and request.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if is_chunked:
            self._chunks = _Chunks()
        elif length:
            self._begin_body(request, length)
        else:
            self._dispatch()
        return True

    def _begin_body(self, request: Request, length: int) -> None:
        body = bytearray(length)
        here = min(length, self._end - self._start)
        body[:here] = self._view[self._start : self._start + here]
        self._start += here
        request.body = memoryview(body)
        if here == length:
            self._dispatch()
        else:
            self._body_view = request.body
            self._body_received = here

    def _take_chunks(self, chunks: "_Chunks") -> bool:
        used = chunks.feed(self._view[self._start : self._end])
        self._start += used
        if not chunks.is_complete:
            return used > 0
        assert self._request is not None
        self._request.body = memoryview(chunks.body)
        self._chunks = None
        self._dispatch()
        return True

    def _dispatch(self) -> None:
        assert self._request is not None
        assert not self._is_busy
        self._is_busy = True
        self._serve(self._request, self)

    def _head(self, answer: Answer) -> bytes:
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}\r\nDate: {_date()}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
        if answer.status not in _NO_BODY:
            lines.append(f"Content-Length: {len(answer.body) or answer.unsent_bytes}\r\n")
        if answer.is_last or (self._request is not None and self._request.is_last):
            lines.append("Connection: close\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1", "replace")


class _Chunks:
    """A body in chunks (RFC 9112, 7.1), taken in as it comes."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_complete = False
        self._chunk_left = 0
        self._is_in_trailer = False
        self._ends_chunk = False

    def feed(self, data: memoryview) -> int:
        """How many bytes of ``data`` were used."""
        used = 0
        while used < len(data) and not self.is_complete:
            step = self._take(data[used:])
            if not step:
                break
            used += step
        return used

    def _take(self, data: memoryview) -> int:
        if self._chunk_left:
            size = min(self._chunk_left, len(data))
            self.body += data[:size]
            self._chunk_left -= size
            self._ends_chunk = not self._chunk_left
            return size
        line, found, _ = bytes(data[:_CHUNK_LINE_BYTES_MAX]).partition(b"\r\n")
        if not found:
            if len(data) >= _CHUNK_LINE_BYTES_MAX:
                raise S3Error("BadRequest", "The line of a chunk is too long.", fatal=True)
            return 0
        self._take_line(line)
        return len(line) + 2

    def _take_line(self, line: bytes) -> None:
        if self._ends_chunk:
            if line:
                raise S3Error("BadRequest", "A chunk is longer than it says.", fatal=True)
            self._ends_chunk = False
        elif self._is_in_trailer:
            # What it holds belongs to a protocol that nobody speaks to S3; aws-chunked has its own.
            self.is_complete = not line
        else:
            size = _parse_number(line.partition(b";")[0].strip(b" \t"), b"0123456789abcdefABCDEF", 16)
            if size is None or len(self.body) + size > BODY_BYTES_MAX:
                raise S3Error("BadRequest", "The size of a chunk is not one.", fatal=True)
            self._chunk_left = size
            self._is_in_trailer = size == 0


def parse_head(head: bytes | bytearray) -> Request:
    """Request line and headers, without the empty line that ends them. Raises S3Error."""
    line, *header_lines = head.decode("latin-1").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[0].isalpha() or len(parts[0]) > _METHOD_BYTES_MAX:
        raise S3Error("BadRequest", "The request line is malformed.", fatal=True)
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise S3Error("HTTPVersionNotSupported", fatal=True)
    if target.startswith(("http://", "https://")):
        # The absolute form, as proxies get it.
        target = "/" + target.partition("://")[2].partition("/")[2]
    if not target.startswith("/") or not target.isascii():
        raise S3Error("InvalidURI", fatal=True)
    headers: dict[str, str] = {}
    for header in header_lines:
        name, found, value = header.partition(":")
        # No blank before the colon, no continued lines: both have been used to smuggle requests.
        if not found or not name or name[-1] in " \t" or name[0] in " \t" or "\n" in header or "\0" in header:
            raise S3Error("BadRequest", "A header is malformed.", fatal=True)
        name = name.lower()
        value = value.strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if "host" not in headers and version == "HTTP/1.1":
        raise S3Error("BadRequest", "There is no Host header.", fatal=True)
    wish = headers.get("connection", "").lower()
    is_last = wish == "close" or (version == "HTTP/1.0" and wish != "keep-alive")
    return Request(method, target, headers, is_last=is_last)


def body_framing(headers: Mapping[str, str]) -> tuple[bool, int]:
    """Whether the body comes in chunks, and otherwise its length. Raises S3Error."""
    encoding = headers.get("transfer-encoding")
    length_text = headers.get("content-length")
    if encoding is not None:
        if length_text is not None:
            raise S3Error("BadRequest", "A body has a length and comes in chunks.", fatal=True)
        if encoding.lower() != "chunked":
            raise S3Error("NotImplemented", "This transfer encoding is not known.", fatal=True)
        return True, 0
    if length_text is None:
        return False, 0
    length = _parse_number(length_text.encode(), b"0123456789", 10)
    if length is None:
        raise S3Error("BadRequest", "Content-Length is not a number.", fatal=True)
    if length > BODY_BYTES_MAX:
        raise S3Error("EntityTooLarge", fatal=True)
    return False, length


def _parse_number(text: bytes, digits: bytes, base: int) -> int | None:
    # int() would also take signs, blanks, underscores and digits of other scripts; and 18 digits are enough.
    if not text or len(text) > 18 or text.strip(digits):
        return None
    return int(text, base)


def _reset_on_close(transport: asyncio.Transport) -> None:
    """SO_LINGER of 0 seconds: closing sends RST instead of FIN."""
    found = transport.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)


def _date() -> str:
    return _date_of(int(time.time()))
