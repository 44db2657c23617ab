"""A store that refuses because this machine's clock is wrong: the message says so, whatever words it has."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from bucketry.bucket import clock
from bucketry.bucket.clock import StoreClock
from bucketry.bucket.connect import connect
from bucketry.errors import Denied
from bucketry.settings import BucketSettings, Secret
from bucketry.testing.s3_server import Credentials, S3Server, ServiceSettings, http
from bucketry.testing.s3_server.http import _date_of


@pytest.fixture
def wrong_hours(monkeypatch: pytest.MonkeyPatch) -> float:
    """The server's clock is two hours behind ours, in what it checks and in what it answers."""
    monkeypatch.setattr(http, "_date", lambda: _date_of(int(time.time()) - 7200))
    return -2.0


async def test_a_wrong_clock_is_named(wrong_hours: float) -> None:
    """A get, whose answer says that the time is wrong; a head, whose answer has no words; a list."""
    known = Credentials("id", Secret("geheim"))
    with S3Server(ServiceSettings(credentials=(known,))) as server:
        server.make_bucket("bucket")
        assert server._server is not None
        server._server.service.now = lambda: time.time() + 3600 * wrong_hours
        settings = BucketSettings(
            url="s3://bucket",
            endpoint=server.endpoint,
            access_id=known.access_id,
            access_key=known.secret,
        )
        bucket = connect(settings)
        try:
            for attempt in (bucket.get("key"), bucket.head("key"), bucket.put("key", b"")):
                with pytest.raises(Denied, match="clock is 2 h 0 min ahead of the store's: set it right"):
                    await attempt
            with pytest.raises(Denied, match="ahead of the store's"):
                await anext(bucket.list())
        finally:
            await bucket.close()


@pytest.mark.parametrize(
    ("ours_ahead", "said"),
    [
        (timedelta(seconds=30), None),
        (timedelta(minutes=-20), "20 min behind the store's"),
        (timedelta(hours=30, minutes=5), "30 h 5 min ahead of"),
        (timedelta(days=-400), "400 days behind"),
    ],
)
def test_how_wrong_it_is(ours_ahead: timedelta, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words; a difference that no store minds is none."""
    monkeypatch.setattr(clock, "_utc_now", lambda: datetime.now(UTC) + ours_ahead)
    with S3Server() as server:
        explained = StoreClock(server.endpoint).explain()
    assert (explained is None) if said is None else (explained is not None and said in explained)


def test_a_clock_that_cannot_be_asked() -> None:
    """Nobody listens, or a proxy is in between: nothing is said of clocks."""
    assert StoreClock("http://127.0.0.1:1").explain() is None
    assert StoreClock(None).explain() is None
