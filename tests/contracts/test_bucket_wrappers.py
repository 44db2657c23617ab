"""The contract of Bucket on every wrapper, and on the stack that is built of them."""

from collections.abc import Callable

import pytest

from bucketry.bucket.interface import Bucket
from bucketry.bucket.limited import Limited
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.metered import Metered
from bucketry.bucket.retrying import Retrying
from bucketry.settings import LimitSettings, RetrySettings
from bucketry.testing.bucket_contract import BucketContract, OpenBucket
from bucketry.testing.faulty_bucket import FaultRates, FaultyBucket

#: Short pauses: the contract runs on real time.
RETRY = RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001)
LIMITS = LimitSettings(requests_max=2, bytes_max=1 << 20)


def over_memory(wrap: Callable[[Bucket], Bucket]) -> OpenBucket:
    store = MemoryStore()

    async def open_bucket() -> Bucket:
        return wrap(MemoryBucket(store))

    return open_bucket


class TestRetrying(BucketContract):
    """Nothing to retry: nothing changes."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return over_memory(lambda below: Retrying(below, RETRY))


class TestLimited(BucketContract):
    """Limits as narrow as they may be."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return over_memory(lambda below: Limited(below, LIMITS))


class TestMetered(BucketContract):
    """Counting changes nothing."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return over_memory(Metered)


class TestFaulty(BucketContract):
    """Without faults it is a bucket like any other."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return over_memory(FaultyBucket)


@pytest.mark.logs("trying again in", required=False)
class TestStackOverFaults(BucketContract):
    """All of them over a bucket that fails a tenth of all requests and loses as many answers."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        rates = FaultRates(fail=0.1, lose_answer=0.1)
        return over_memory(
            lambda below: Retrying(Limited(Metered(FaultyBucket(below, rates=rates)), LIMITS), RETRY)
        )
