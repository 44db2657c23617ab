"""How long a lease lasts: as the settings ask for, or shorter for tests."""

import pytest

from bucketry.assemble import lease_timing, open_place
from bucketry.errors import Invalid
from bucketry.settings import BucketSettings


def test_a_lease_lasts_a_minute_or_as_long_as_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request must end within the lease under which it was sent."""
    monkeypatch.delenv("BUCKETRY_LEASE_SECONDS", raising=False)
    durations = [
        lease_timing(BucketSettings(url="", timeout_seconds=seconds)).duration_seconds
        for seconds in (1.0, 30.0, 100.0)
    ]
    assert durations == [60.0, 60.0, 130.0]


async def test_a_shorter_lease_makes_requests_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests; the place says so to whoever takes a lease there."""
    monkeypatch.setenv("BUCKETRY_LEASE_SECONDS", "6")
    async with open_place(BucketSettings(url="memory://lease-of-six-seconds")) as place:
        assert (place.timing.duration_seconds, place.timing.request_seconds) == (6.0, 3.0)


@pytest.mark.parametrize("value", ["x", "1", "61", "nan", "inf", "-5"])
def test_a_lease_that_makes_no_sense_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says what would."""
    monkeypatch.setenv("BUCKETRY_LEASE_SECONDS", value)
    with pytest.raises(Invalid, match="not a number of seconds from 2 to 60"):
        lease_timing(BucketSettings(url=""))
