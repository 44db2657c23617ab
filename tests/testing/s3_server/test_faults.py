"""Every fault, seen on the wire and in the store."""

import http.client
import time
from collections.abc import Callable, Iterator

import pytest

from bucketry.testing.s3_server import (
    Fail,
    FaultRates,
    FlipBit,
    LineModel,
    LoseAnswer,
    Outage,
    Reset,
    S3Server,
    ServiceSettings,
    SlowBody,
    Stall,
    StallAt,
    Truncate,
)
from bucketry.testing.s3_server.faults import FaultPlan, Rule
from servers.raw_http import PATIENCE_SECONDS, RawConnection, ask, connected, request_bytes

BODY = bytes(range(256)) * 1024


@pytest.fixture(scope="module", params=["the fastest loop", "asyncio's own loop"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio's own loop":
            patch.setattr("bucketry.testing.s3_server.threaded.loop_factory", lambda: None)
        with S3Server() as server:
            yield server


@pytest.fixture
def server(shared_server: S3Server) -> S3Server:
    shared_server.clear()
    shared_server.clear_faults()
    shared_server.reset_ledger()
    shared_server.make_bucket("b")
    return shared_server


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def is_there(server: S3Server, key: str) -> bool:
    return ask(server.port, "HEAD", f"/b/{key}").status == 200


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InternalError", 500),
        ("SlowDown", 503),
        ("ServiceUnavailable", 503),
        ("ExpiredToken", 400),
        ("ConditionalRequestConflict", 409),
        ("AccessDenied", 403),
    ],
)
def test_fail_before_apply(server: S3Server, code: str, status: int) -> None:
    """A failed request has S3's code and status, and changed nothing."""
    server.plan(Fail(code))
    reply = ask(server.port, "PUT", "/b/k", body=b"x")
    assert (reply.status, reply.code) == (status, code)
    assert b"<RequestId>" in reply.body
    assert not is_there(server, "k")


def test_retry_after(server: S3Server) -> None:
    """SlowDown may say when to come back."""
    server.plan(Fail("SlowDown", retry_after_seconds=7))
    assert ask(server.port, "GET", "/b/k").headers["retry-after"] == "7"


def test_fail_after_apply(server: S3Server) -> None:
    """A request may be applied, and the server say that it failed."""
    server.plan(Fail("InternalError", applied=True))
    assert ask(server.port, "PUT", "/b/k", body=b"x").status == 500
    assert is_there(server, "k")


def test_lost_answer(server: S3Server) -> None:
    """The request is applied, and the connection ends without a byte."""
    server.plan(LoseAnswer())
    with connected(server.port) as connection:
        connection.send(request_bytes("PUT", "/b/k", body=b"x"))
        assert connection.receive_rest() == b""
    assert is_there(server, "k")


def test_reset_before_apply(server: S3Server) -> None:
    """The connection is reset, and nothing was applied."""
    server.plan(Reset())
    with connected(server.port) as connection:
        connection.send(request_bytes("PUT", "/b/k", body=b"x"))
        with pytest.raises(ConnectionResetError):
            connection.receive_rest()
    assert not is_there(server, "k")


def test_reset_within_a_body(server: S3Server) -> None:
    """The connection is reset when a part of the body has been sent."""
    ask(server.port, "PUT", "/b/k", body=b"0123456789")
    server.plan(Reset(after=0.5))
    with connected(server.port) as connection:
        connection.send(request_bytes("GET", "/b/k"))
        received = b""
        with pytest.raises(ConnectionResetError):
            while chunk := connection.socket.recv(1000):
                received += chunk
    assert b"Content-Length: 10\r\n" in received
    assert received.endswith(b"\r\n\r\n01234")


def test_truncated_body(server: S3Server) -> None:
    """The connection ends in good order before the end of the body."""
    ask(server.port, "PUT", "/b/k", body=b"0123456789")
    server.plan(Truncate(after=0.3))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(server.port, "GET", "/b/k")
    assert caught.value.partial == b"012"


def test_flipped_bit(server: S3Server) -> None:
    """One bit on the wire is wrong; what is stored is right."""
    ask(server.port, "PUT", "/b/k", body=BODY)
    server.plan(FlipBit())
    wrong = ask(server.port, "GET", "/b/k").body
    assert sum((x ^ y).bit_count() for x, y in zip(wrong, BODY, strict=True)) == 1
    assert ask(server.port, "GET", "/b/k").body == BODY


def receive_until_silence(connection: RawConnection) -> bytes:
    """What comes before the server pauses. (What came would also come on a slower machine, only later: no
    test may need that something has come by then.)"""
    received = b""
    connection.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        while chunk := connection.socket.recv(1 << 20):
            received += chunk
    connection.socket.settimeout(PATIENCE_SECONDS)
    return received


def test_slow_body(server: S3Server) -> None:
    """A slow body comes at its rate, and all of it."""
    ask(server.port, "PUT", "/b/k", body=BODY)
    server.plan(SlowBody(bytes_per_second=100 * len(BODY)))
    assert ask(server.port, "GET", "/b/k").body == BODY
    server.plan(SlowBody(bytes_per_second=0.01))
    with connected(server.port) as connection:
        connection.send(request_bytes("GET", "/b/k"))
        assert not receive_until_silence(connection).endswith(BODY[-1024:])


@pytest.mark.parametrize("at", StallAt)
def test_short_stalls(server: S3Server, at: StallAt) -> None:
    """A request that stalls goes on afterwards, wherever it stalled."""
    ask(server.port, "PUT", "/b/k", body=BODY)
    server.plan(Stall(0.01, at))
    assert ask(server.port, "GET", "/b/k").body == BODY


def test_stall_before_apply(server: S3Server) -> None:
    """While a request stalls before it is applied, others do not see it."""
    server.plan(Stall(at=StallAt.REQUEST), operation="PutObject")
    with connected(server.port) as connection:
        connection.send(request_bytes("PUT", "/b/k", body=b"x"))
        assert receive_until_silence(connection) == b""
        assert not is_there(server, "k")
        server.release_stalls()
        assert connection.receive("PUT").status == 200
    assert is_there(server, "k")


def test_stall_before_the_answer(server: S3Server) -> None:
    """A request may be applied long before its answer comes."""
    server.plan(Stall(at=StallAt.ANSWER), operation="PutObject")
    with connected(server.port) as connection:
        connection.send(request_bytes("PUT", "/b/k", body=b"x"))
        assert receive_until_silence(connection) == b""
        assert is_there(server, "k")


def test_stall_within_a_body(server: S3Server) -> None:
    """A body may stop in its middle."""
    ask(server.port, "PUT", "/b/k", body=b"0123456789")
    server.plan(Stall(at=StallAt.BODY))
    with connected(server.port) as connection:
        connection.send(request_bytes("GET", "/b/k"))
        assert receive_until_silence(connection)[-9:] in (b"", b"\r\n\r\n01234")


def test_race_conflicts() -> None:
    """A conditional write whose key changes on its way is told 409, when such conflicts are switched on."""
    with S3Server(ServiceSettings(race_conflicts=True)) as server:
        server.make_bucket("b")
        condition = {"If-None-Match": "*"}
        server.plan(Stall(at=StallAt.REQUEST), operation="PutObject", key="k")
        with connected(server.port) as connection:
            connection.send(request_bytes("PUT", "/b/k", body=b"first", headers=condition))
            wait_until(lambda: "Stall" in server.snapshot().faults)
            assert ask(server.port, "PUT", "/b/k", body=b"second", headers=condition).status == 200
            server.release_stalls()
            reply = connection.receive("PUT")
        assert (reply.status, reply.code) == (409, "ConditionalRequestConflict")
        assert ask(server.port, "PUT", "/b/k", body=b"third", headers=condition).status == 412
        assert ask(server.port, "GET", "/b/k").body == b"second"


def test_stale_lists() -> None:
    """A stale list shows what was: neither new objects, nor that old ones have gone or changed."""
    with S3Server() as server:
        server.make_bucket("b")
        for key, body in (("gone", b"1"), ("changed", b"22"), ("kept", b"3")):
            ask(server.port, "PUT", f"/b/{key}", body=body)
        before = ask(server.port, "GET", "/b?list-type=2").body
        server.set_stale_lists(seconds=60)
        ask(server.port, "DELETE", "/b/gone")
        ask(server.port, "PUT", "/b/changed", body=b"4444")
        ask(server.port, "PUT", "/b/new", body=b"5")
        ask(server.port, "PUT", "/b/changed", body=b"55555")
        assert ask(server.port, "GET", "/b?list-type=2").body == before
        assert ask(server.port, "GET", "/b/changed").body == b"55555"
        server.set_stale_lists(0)
        after = ask(server.port, "GET", "/b?list-type=2").body
        assert b"<Key>new</Key>" in after
        assert b"<Key>gone</Key>" not in after


def test_refusing_outage(server: S3Server) -> None:
    """The server is gone, with its connections, and comes back on the same port with its objects."""
    ask(server.port, "PUT", "/b/k", body=b"x")
    with connected(server.port) as connection:
        connection.send(request_bytes("HEAD", "/b/k"))
        assert connection.receive("HEAD").status == 200
        server.begin_outage(Outage.REFUSE)
        with pytest.raises(ConnectionResetError):
            connection.receive_rest()
    with pytest.raises(ConnectionRefusedError):
        ask(server.port, "HEAD", "/b/k")
    server.end_outage()
    assert is_there(server, "k")


def test_hanging_outage(server: S3Server) -> None:
    """Connections are taken and not answered; when it is over they are reset, and nothing was applied."""
    server.begin_outage(Outage.HANG)
    with connected(server.port) as connection:
        connection.send(request_bytes("PUT", "/b/k", body=b"x"))
        connection.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.socket.recv(1)
        connection.socket.settimeout(None)
        server.end_outage()
        with pytest.raises(ConnectionResetError):
            connection.socket.recv(1)
    assert not is_there(server, "k")


def test_rules_choose(server: S3Server) -> None:
    """A rule hits the requests that match, after those it skips, as often as it says."""
    server.plan(Fail(), operation="PutObject", key="k", skip=1, times=2)
    server.plan(Fail("SlowDown"), key_prefix="p/", times=None)
    assert [ask(server.port, "PUT", "/b/k", body=b"x").status for _ in range(4)] == [200, 500, 500, 200]
    assert [ask(server.port, "GET", f"/b/p/{i}").status for i in range(3)] == [503] * 3
    assert ask(server.port, "GET", "/b/q").status == 404
    server.clear_faults()
    assert ask(server.port, "GET", "/b/p/1").status == 404
    assert server.snapshot().faults == {"Fail": 5}


def test_one_request_has_one_planned_fault(server: S3Server) -> None:
    """Of two rules that match, the earlier one comes first, and the other waits for the next request."""
    server.plan(Fail("SlowDown"))
    server.plan(Fail("InternalError"))
    assert [ask(server.port, "HEAD", "/b").status for _ in range(3)] == [503, 500, 200]


def test_rates_repeat(server: S3Server) -> None:
    """The same seed gives the same faults to the same requests."""

    def statuses(seed: int) -> list[int]:
        server.set_fault_rates(FaultRates(fail=0.3, slow_down=0.2), seed=seed)
        return [ask(server.port, "HEAD", "/b").status for _ in range(30)]

    first = statuses(1)
    assert set(first) == {200, 500, 503}
    assert statuses(1) == first
    assert statuses(2) != first


RATES = ("fail", "fail_applied", "slow_down", "lose_answer", "reset", "stall", "conflict", "truncate")


@pytest.mark.parametrize("name", [*RATES, "flip_bit", "slow_body"])
def test_each_rate_is_drawn(name: str) -> None:
    """Each rate of 1 gives its fault to each request it is for, and to no other."""
    plan = FaultPlan()
    plan.set_rates(FaultRates(**{name: 1.0}), seed=0)  # type: ignore[arg-type]
    damages_bodies = name in ("truncate", "flip_bit", "slow_body")
    for _ in range(3):
        get = plan.decide("GetObject", "k", is_conditional_write=False)
        put = plan.decide("PutObject", "k", is_conditional_write=True)
        assert len(get) == (0 if name == "conflict" else 1)
        assert len(put) == (0 if damages_bodies else 1)


def test_one_rate_does_not_move_another() -> None:
    """Switching on a second rate does not change which requests the first one hits."""

    def hit(rates: FaultRates) -> list[bool]:
        plan = FaultPlan()
        plan.set_rates(rates, seed=5)
        return [LoseAnswer() in plan.decide("GetObject", "k", is_conditional_write=False) for _ in range(100)]

    assert hit(FaultRates(lose_answer=0.2)) == hit(FaultRates(lose_answer=0.2, truncate=0.5, stall=0.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FaultRates(fail=1.5),
        lambda: FaultRates(fail=float("nan")),
        lambda: Fail("NoSuchError"),
        lambda: Reset(after=-1),
        lambda: Truncate(after=2),
        lambda: SlowBody(0),
        lambda: Stall(-1),
        lambda: Rule(fault=Fail(), operation="put"),
        lambda: Rule(fault=Fail(), skip=-1),
        lambda: LineModel(latency_seconds=-1),
        lambda: LineModel(total_bytes_per_second=0),
    ],
)
def test_nonsense_is_refused(make: object) -> None:
    """A fault that cannot be is refused where it is written."""
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "line",
    [
        LineModel(latency_seconds=3600),
        LineModel(connection_bytes_per_second=1),
        LineModel(total_bytes_per_second=1),
    ],
)
def test_nothing_arrives_before_its_time(server: S3Server, line: LineModel) -> None:
    """On a slow line a put is not applied before it has passed, nor does a body come at once."""
    ask(server.port, "PUT", "/b/old", body=BODY)
    server.set_line(line)
    try:
        with connected(server.port) as put, connected(server.port) as get:
            put.send(request_bytes("PUT", "/b/k", body=BODY))
            get.send(request_bytes("GET", "/b/old"))
            assert not receive_until_silence(get).endswith(BODY[-1024:])
            assert receive_until_silence(put) == b""
            server.set_line()
            assert not is_there(server, "k")
    finally:
        server.set_line()


def test_everything_arrives_on_a_line(server: S3Server) -> None:
    """Latency, jitter and both rates change nothing but the time."""
    server.set_line(
        LineModel(
            latency_seconds=0.001,
            jitter_seconds=0.001,
            connection_bytes_per_second=100 * len(BODY),
            total_bytes_per_second=50 * len(BODY),
        )
    )
    try:
        assert ask(server.port, "PUT", "/b/k", body=BODY).status == 200
        assert ask(server.port, "GET", "/b/k").body == BODY
    finally:
        server.set_line()


def test_clients_that_leave_are_forgotten(server: S3Server) -> None:
    """A client that goes away while its request is on a slow way does no harm."""
    server.plan(Stall(), operation="GetObject")
    with connected(server.port) as connection:
        connection.send(request_bytes("GET", "/b/k"))
        wait_until(lambda: "Stall" in server.snapshot().faults)
    assert ask(server.port, "HEAD", "/b").status == 200
