"""HTTP on our S3 server: what is malformed is refused without harm, what is odd is served."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketry.testing.s3_server import S3Server, Stall
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import HEAD_BYTES_MAX, parse_head
from servers.raw_http import ask, connected, request_bytes


@pytest.fixture(scope="module", params=["the fastest loop", "asyncio's own loop"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio's own loop":
            patch.setattr("bucketry.testing.s3_server.threaded.loop_factory", lambda: None)
        with S3Server() as server:
            server.make_bucket("bucket")
            yield server


def keys(server: S3Server) -> list[str]:
    listed = ask(server.port, "GET", "/bucket?list-type=2").body.decode()
    return [part.partition("</Key>")[0] for part in listed.split("<Key>")[1:]]


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


_CHUNKED = b"PUT /bucket/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "no request line": b"\0\0\0\0\r\n\r\n",
    "two words": b"GET /\r\n\r\n",
    "a method that is none": b"G:T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is none": b"GET bucket HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nbad\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
    "a continued header": b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n z\r\n\r\n",
    "a line end within a header": b"GET / HTTP/1.1\r\nHost: a\r\nx: y\nz: 1\r\n\r\n",
    "a length that is none": b"PUT /bucket/k HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
    "two lengths": b"PUT /bucket/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "a length and chunks": b"PUT /bucket/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    "a chunk's size that is none": _CHUNKED + b"-1\r\n",
    "a chunk longer than it says": _CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk's line without an end": _CHUNKED + b"0" * 5000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_are_refused(server: S3Server, data: bytes) -> None:
    """A malformed request is answered 400 and the connection closed; the server goes on."""
    with connected(server.port) as connection:
        connection.send(data)
        reply = connection.receive()
        assert reply.status == 400
        assert reply.headers["connection"] == "close"
        assert connection.receive_rest() == b""
    assert ask(server.port, "HEAD", "/bucket").status == 200


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTPVersionNotSupported"),
        (b"PUT /bucket/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "NotImplemented"),
        (b"PUT /bucket/k HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 400, "EntityTooLarge"),
        (b"GET /" + b"a" * HEAD_BYTES_MAX, 431, "RequestHeaderSectionTooLarge"),
        (b"PATCH /bucket/k HTTP/1.1\r\nHost: a\r\n\r\n", 405, "MethodNotAllowed"),
        (b"GET /bucket/%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidURI"),
        (b"GET /bucket/" + b"k" * 1025 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400, "KeyTooLongError"),
        (b"GET /bucket?acl HTTP/1.1\r\nHost: a\r\n\r\n", 501, "NotImplemented"),
    ],
)
def test_what_is_not_served_says_so(server: S3Server, data: bytes, status: int, code: str) -> None:
    """What is well formed but not served has S3's code and the status that goes with it."""
    with connected(server.port) as connection:
        connection.send(data)
        reply = connection.receive()
    assert (reply.status, reply.code) == (status, code)


@given(st.lists(st.binary(max_size=200), max_size=3))
@example([b"GET / HTTP/1.1\r\n", b"\r\n"])
@example([b"\r\n\r\n\r\n"])
def test_no_bytes_do_harm(server: S3Server, parts: list[bytes]) -> None:
    """Whatever comes is answered or waited for; the next client is served."""
    with connected(server.port) as connection:
        for part in parts:
            try:
                connection.send(part)
            except (ConnectionResetError, BrokenPipeError):
                # Refused by the part before, and closed.
                break
    assert ask(server.port, "HEAD", "/bucket").status == 200


@given(st.binary(max_size=300))
def test_heads_parse_or_raise(head: bytes) -> None:
    """A head is a request or an S3Error, never another exception."""
    try:
        request = parse_head(head)
    except S3Error as error:
        assert error.fatal  # noqa: PT017
    else:
        assert request.target.startswith("/")


def test_one_byte_at_a_time(server: S3Server) -> None:
    """Head and body may come in pieces of one byte."""
    data = request_bytes("PUT", "/bucket/slow", body=b"hello") + request_bytes("GET", "/bucket/slow")
    with connected(server.port) as connection:
        for index in range(len(data)):
            connection.send(data[index : index + 1])
        assert connection.receive("PUT").status == 200
        assert connection.receive().body == b"hello"


def test_pipelined_requests_are_answered_in_order(server: S3Server) -> None:
    """Requests sent ahead are answered one after the other, more of them than fit in the buffer."""
    body = bytes(range(256)) * 100
    puts = [request_bytes("PUT", f"/bucket/p{index}", body=body) for index in range(10)]
    gets = [
        request_bytes("GET", f"/bucket/p{index}", headers={"Range": f"bytes={index}-"}) for index in range(10)
    ]
    with connected(server.port) as connection:
        connection.send(b"".join(puts + gets))
        for _ in puts:
            assert connection.receive("PUT").status == 200
        for index in range(10):
            assert connection.receive().body == body[index:]


def test_pipelined_requests_wait_for_a_slow_one(server: S3Server) -> None:
    """While one request is on a slow way, those behind it wait, however many bytes they have."""
    server.plan(Stall(), operation="PutObject", key="first")
    body = b"x" * (3 * HEAD_BYTES_MAX)
    with connected(server.port) as connection:
        connection.send(request_bytes("PUT", "/bucket/first", body=b"1"))
        connection.send(request_bytes("PUT", "/bucket/second", body=body))
        connection.send(request_bytes("GET", "/bucket/first"))
        assert "second" not in keys(server)
        server.release_stalls()
        assert connection.receive("PUT").status == 200
        assert connection.receive("PUT").status == 200
        assert connection.receive().body == b"1"


def test_expect_continue(server: S3Server) -> None:
    """A client that asks before it sends a body is told to go on."""
    with connected(server.port) as connection:
        connection.send(
            b"PUT /bucket/e HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"hello")
        assert connection.receive("PUT").status == 200
    assert ask(server.port, "GET", "/bucket/e").body == b"hello"


def test_chunks(server: S3Server) -> None:
    """A body in chunks is put together, whatever pieces the chunks come in."""
    chunks = [b"a", b"b" * 70_000, b"c"]
    head = b"PUT /bucket/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(server.port) as connection:
        data = head + chunked(*chunks)
        connection.send(data[:100])
        connection.send(data[100:-3])
        connection.send(data[-3:] + request_bytes("GET", "/bucket/c"))
        assert connection.receive("PUT").status == 200
        assert connection.receive().body == b"".join(chunks)


def test_connections_end_when_asked(server: S3Server) -> None:
    """Connection: close, and HTTP/1.0, end the connection after the answer; others stay."""
    with connected(server.port) as connection:
        connection.send(request_bytes("HEAD", "/bucket"))
        assert connection.receive("HEAD").status == 200
        connection.send(request_bytes("HEAD", "/bucket", headers={"Connection": "close"}))
        assert connection.receive("HEAD").headers["connection"] == "close"
        assert connection.receive_rest() == b""
    with connected(server.port) as connection:
        connection.send(b"HEAD /bucket HTTP/1.0\r\n\r\n")
        assert connection.receive_rest().startswith(b"HTTP/1.1 200 OK\r\n")


def test_client_that_sends_no_more(server: S3Server) -> None:
    """A client that has closed its side still gets the answer that is due."""
    server.plan(Stall(0.05), operation="HeadBucket")
    with connected(server.port) as connection:
        connection.send(request_bytes("HEAD", "/bucket"))
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.receive_rest().startswith(b"HTTP/1.1 200 OK\r\n")


def test_virtual_hosts(server: S3Server) -> None:
    """The bucket may be in the host's name instead of the path."""
    host = {"Host": f"bucket.localhost:{server.port}"}
    assert ask(server.port, "PUT", "/deep/key", headers=host, body=b"x").status == 200
    assert ask(server.port, "GET", "/bucket/deep/key").body == b"x"
    assert ask(server.port, "HEAD", "/", headers=host).status == 200


def test_head_has_no_body(server: S3Server) -> None:
    """An answer to HEAD announces the length that GET would send, errors too, and sends none of it."""
    ask(server.port, "PUT", "/bucket/h", body=b"12345")
    with connected(server.port) as connection:
        connection.send(
            request_bytes("HEAD", "/bucket/h")
            + request_bytes("HEAD", "/bucket/none", headers={"Connection": "close"})
        )
        assert connection.receive("HEAD").headers["content-length"] == "5"
        assert connection.receive("HEAD").status == 404
        assert connection.receive_rest() == b""
