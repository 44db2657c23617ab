"""The model of the line, on a clock that is a number."""

from random import Random

import pytest

from bucketry.testing.s3_server.line import LineModel, Pace


def test_bytes_pass_one_after_the_other() -> None:
    """Whatever is sent waits for what was sent before it, and takes its time."""
    pace = Pace(100.0)
    assert pace.reserve(50, now=1000.0) == pytest.approx(1000.5, abs=0.011)
    assert pace.reserve(100, now=1000.0) == pytest.approx(1001.5, abs=0.011)
    assert pace.reserve(100, now=1005.0) == pytest.approx(1006.0, abs=0.011)


def test_late_wake_ups_lose_nothing() -> None:
    """Who wakes a little late for every slice still gets the whole rate."""
    pace = Pace(1e6)
    now = 1000.0
    for _ in range(1000):
        now = max(now, pace.reserve(2000, now)) + 0.0009
    assert now - 1000.0 == pytest.approx(2.0, abs=0.02)


def test_idle_time_is_not_saved() -> None:
    """A line that was idle is no faster afterwards."""
    pace = Pace(100.0)
    pace.reserve(1, now=0.0)
    assert pace.reserve(100, now=1000.0) > 1000.9


def test_no_limit() -> None:
    """Without a rate everything passes at once."""
    assert Pace(None).reserve(1 << 30, now=5.0) == 5.0


def test_slices() -> None:
    """A slow line is fed often, a fast one in large slices."""
    assert Pace(1000.0).slice_bytes() == 1024
    assert Pace(1e6).slice_bytes() == 20_000
    assert Pace(1e9).slice_bytes() == Pace(None).slice_bytes() == 65536


def test_latency_is_between_its_bounds() -> None:
    """Jitter adds to the latency, evenly, and repeatably."""
    line = LineModel(latency_seconds=0.02, jitter_seconds=0.01)
    drawn = [line.draw_latency(Random(seed)) for seed in range(200)]
    assert 0.02 <= min(drawn) < 0.021
    assert 0.029 < max(drawn) <= 0.03
    assert LineModel(latency_seconds=0.02).draw_latency(Random(1)) == 0.02
