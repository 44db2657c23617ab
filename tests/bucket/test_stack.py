"""The bucket as everything above uses it."""

import pytest

from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket
from bucketry.bucket.stack import layered, locate, stacked
from bucketry.errors import Invalid, Unavailable
from bucketry.settings import BucketSettings, LimitSettings, RetrySettings
from bucketry.testing.faulty_bucket import Fail, FaultyBucket
from bucketry.testing.virtual_time import on_virtual_time


def _faulty(faults: list[FaultyBucket], below: Bucket) -> Bucket:
    faults.append(FaultyBucket(below))
    return faults[0]


@pytest.mark.logs("trying again in")
@on_virtual_time
async def test_a_stack_retries_limits_and_counts() -> None:
    """A failure right above the store is counted, tried again and not seen by who asked."""
    faults: list[FaultyBucket] = []
    settings = BucketSettings(url="memory://stack-of-all/sub", limits=LimitSettings(requests_max=3))
    bucket, prefix = stacked(settings, wrap=lambda below: _faulty(faults, below))
    faults[0].plan(Fail(Unavailable))
    await bucket.put(f"{prefix}key", b"x")
    figures = bucket.statistics()
    assert prefix == "sub/"
    assert set(figures) >= {"metered", "limited", "retrying"}
    metered = figures["metered"]
    assert isinstance(metered, dict)
    assert metered["operations"]["put"]["failed"] == metered["operations"]["put"]["succeeded"] == 1
    await bucket.close()


def test_the_prefix_of_the_settings_goes_before_the_urls() -> None:
    """A prefix that is given as it stands replaces what the URL says; a wrong URL is Invalid."""
    assert locate(BucketSettings(url="s3://b/p")).prefix == "p/"
    assert locate(BucketSettings(url="s3://b/p", prefix="raw")).prefix == "raw"
    with pytest.raises(Invalid):
        stacked(BucketSettings(url="nowhere"))


@on_virtual_time
async def test_a_store_of_ones_own_is_layered_alike() -> None:
    """The settings' limits and retries stand above a store that the caller made."""
    settings = BucketSettings(url="memory://x", retry=RetrySettings(budget_seconds=0))
    bucket = layered(MemoryBucket(), settings)
    await bucket.put("key", b"x")
    assert set(bucket.statistics()) >= {"limited", "retrying"}
    await bucket.close()
