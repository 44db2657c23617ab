"""The bill: what is counted, and what it costs."""

import pytest

from bucketry.testing.s3_server import Fail, LoseAnswer, Prices, S3Server, Snapshot
from servers.raw_http import ask, connected, request_bytes


def test_ledger_counts() -> None:
    """Requests by kind, answers by status, bytes both ways and what is stored; a reset begins anew."""
    with S3Server() as server:
        server.make_bucket("b")
        ask(server.port, "PUT", "/b/k", body=b"x" * 1000)
        ask(server.port, "PUT", "/b/k", body=b"y" * 300)
        ask(server.port, "GET", "/b/k")
        ask(server.port, "GET", "/b/k", headers={"Range": "bytes=0-9"})
        ask(server.port, "HEAD", "/b/k")
        listing = len(ask(server.port, "GET", "/b").body)
        ask(server.port, "DELETE", "/b/none")
        figures = server.snapshot()
        assert figures.requests == {
            "PutObject": 2, "GetObject": 2, "HeadObject": 1, "ListObjects": 1, "DeleteObject": 1
        }  # fmt: skip
        assert figures.requests_count == 7
        assert figures.statuses == {"200": 5, "206": 1, "204": 1}
        assert (figures.bytes_in, figures.bytes_out) == (1300, 310 + listing)
        assert (figures.stored_bytes, figures.objects_count) == (300, 1)
        server.reset_ledger()
        assert server.snapshot() == Snapshot(stored_bytes=300, objects_count=1)


def test_what_is_billed() -> None:
    """A request that the server failed is not billed; one that the client got wrong is, and one whose answer
    was lost."""
    with S3Server() as server:
        server.make_bucket("b")
        server.plan(Fail("SlowDown"), operation="PutObject")
        ask(server.port, "PUT", "/b/k", body=b"x")
        ask(server.port, "GET", "/b/none")
        server.plan(LoseAnswer())
        with connected(server.port) as connection:
            connection.send(request_bytes("GET", "/b/none"))
            assert connection.receive_rest() == b""
        connection.close()
        with connected(server.port) as connection:
            connection.send(b"nonsense\r\n\r\n")
            connection.receive()
        figures = server.snapshot()
        assert figures.requests == {"PutObject": 1, "GetObject": 2, "Unknown": 1}
        assert figures.billed == {"GetObject": 2, "Unknown": 1}


def test_dollars() -> None:
    """S3's list prices: a million puts 5 dollars, as many gets 40 cents, deletes nothing, 9 cents a GB."""
    figures = Snapshot(
        billed={
            "PutObject": 500_000,
            "ListObjectsV2": 500_000,
            "GetObject": 1_000_000,
            "DeleteObject": 10**6,
        },
        bytes_out=10**9,
        stored_bytes=10**12,
    )
    dollars = figures.dollars()
    assert dollars.puts == pytest.approx(5.0)
    assert dollars.gets == pytest.approx(0.4)
    assert dollars.traffic == pytest.approx(0.09)
    assert dollars.total == pytest.approx(5.49)
    assert dollars.storage_per_month == pytest.approx(23.0)
    assert figures.dollars(Prices(per_gb_out=0.0)).traffic == 0


def test_per_gib() -> None:
    """Figures for each GiB of somebody's data: half a GiB in 4,096 puts is 8,192 of them per GiB."""
    figures = Snapshot(
        requests={"PutObject": 4096}, billed={"PutObject": 4096}, bytes_in=1 << 30, bytes_out=1 << 20
    )
    per_gib = figures.per_gib(1 << 29)
    assert per_gib.requests == {"PutObject": 8192}
    assert (per_gib.bytes_in, per_gib.bytes_out) == (2 << 30, 2 << 20)
    assert per_gib.request_dollars == pytest.approx(8192 * 0.000005)
