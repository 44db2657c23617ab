"""Settings refuse what could never work."""

import math

import pytest

from bucketry.errors import Invalid
from bucketry.settings import LimitSettings, RetrySettings


@pytest.mark.parametrize(
    "name", ["requests_max", "bytes_max", "upload_bytes_per_second", "download_bytes_per_second"]
)
def test_a_limit_below_one_is_refused(name: str) -> None:
    """A limit of nothing would wait for ever; the message names it."""
    assert getattr(LimitSettings(**{name: 1}), name) == 1
    for value in (0, -1):
        with pytest.raises(Invalid, match=f"^{name} {value} is not at least 1"):
            LimitSettings(**{name: value})


@pytest.mark.parametrize("name", ["initial_pause_seconds", "pause_max_seconds", "budget_seconds"])
def test_a_retry_schedule_without_end_or_pause_is_refused(name: str) -> None:
    """Negative, endless and undefined times are refused by name; a budget of 0 is the way to try once."""
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(Invalid, match=f"^{name} "):
            RetrySettings(**{name: value})
    if name == "budget_seconds":
        assert RetrySettings(**{name: 0.0}).budget_seconds == 0
    else:
        with pytest.raises(Invalid, match=f"^{name} "):
            RetrySettings(**{name: 0.0})
