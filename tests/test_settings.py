"""Settings refuse what could never work."""

import math
import re
from pathlib import Path

import pytest

from bucketry.errors import Invalid
from bucketry.settings import (
    CacheSettings,
    FaultSettings,
    FilesSettings,
    LimitSettings,
    RetrySettings,
    VolumeSettings,
)


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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "some"}, "mode 'some' is not one of whole, ranges, auto"),
        ({"cache_size_bytes": -1}, "cache_size_bytes -1 is negative"),
        ({"absent_seconds": -0.5}, "absent_seconds -0.5 is negative"),
        ({"statistics_seconds": 0.0}, "statistics_seconds 0.0 is not above 0"),
        ({"log_level": 6}, "log level 6 is not from -3"),
        ({"log_level": -4}, "log level -4 is not from -3"),
        ({"private_cache": True, "cache_dir": Path("/x")}, "a private cache"),
    ],
)
def test_what_files_cannot_be_served_with_is_refused(settings: dict[str, object], words: str) -> None:
    """Each setting of a storage source that means nothing is named."""
    with pytest.raises(Invalid, match=re.escape(words)):
        FilesSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"force_error": -1}, "force_error -1 is negative"),
        ({"delay_ms": -1}, "delay_ms -1 is negative"),
        ({"error_kind": "explode"}, "error_kind 'explode' is not one of"),
        ({"operations": ("get", "fly")}, "operation 'fly' is not one of"),
    ],
)
def test_faults_that_do_not_exist_are_refused(settings: dict[str, object], words: str) -> None:
    """Each is named."""
    with pytest.raises(Invalid, match=re.escape(words)):
        FaultSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["size_bytes", "block_size_bytes", "key_length"])
@pytest.mark.parametrize("value", [0, -1])
def test_of_a_volume_nothing_is_asked_by_0(name: str, value: int) -> None:
    """None does that; 0 is what somebody miscalculated."""
    with pytest.raises(Invalid, match=f"{name} {value} is not at least 1"):
        VolumeSettings(**{name: value})  # type: ignore[arg-type]


def test_a_cache_has_some_memory() -> None:
    """Less than a block holds one block; none at all is a mistake."""
    assert CacheSettings(memory_bytes=1).memory_bytes == 1
    with pytest.raises(Invalid, match="memory_bytes 0 is not at least 1"):
        CacheSettings(memory_bytes=0)
