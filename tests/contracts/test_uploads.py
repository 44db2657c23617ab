"""The contract of uploads in parts on every backend and every wrapper."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.bucket.limited import Limited
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.metered import Metered
from bucketry.bucket.retrying import Retrying
from bucketry.settings import LimitSettings
from bucketry.testing.bucket_contract import OpenBucket
from bucketry.testing.faulty_bucket import FaultRates, FaultyBucket
from bucketry.testing.s3_server import FaultRates as ServerFaultRates
from bucketry.testing.upload_contract import UploadContract
from contracts.places import (
    RETRY,
    InDirectory,
    OnAzurite,
    OnGoogle,
    OnMoto,
    OnOwnServer,
    OnOwnServerWithFaults,
    OnSeaweed,
)

LIMITS = LimitSettings(requests_max=2, bytes_max=1 << 20)


def over_memory(wrap: Callable[[Bucket], Bucket]) -> OpenBucket:
    store = MemoryStore()

    async def open_bucket() -> Bucket:
        return wrap(MemoryBucket(store))

    return open_bucket


class TestMemory(UploadContract):
    """The plain meaning of the protocol."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return over_memory(lambda below: below)


class TestWrappers(UploadContract):
    """All wrappers on top of each other, none of which has anything to do."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        return over_memory(
            lambda below: Retrying(
                Limited(FencedBucket(Metered(FaultyBucket(below)), Fence()), LIMITS), RETRY
            )
        )


@pytest.mark.logs("trying again in", required=False)
class TestStackOverFaults(UploadContract):
    """All of them over a bucket that fails a tenth of all requests and loses as many answers."""

    may_leave_uploads = True

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        rates = FaultRates(fail=0.1, lose_answer=0.1)
        return over_memory(
            lambda below: Retrying(Limited(Metered(FaultyBucket(below, rates=rates)), LIMITS), RETRY)
        )


@pytest.mark.slow
class TestDirectory(InDirectory, UploadContract):
    """Parts are files beside the objects."""


@pytest.mark.slow
class TestOwnServer(OnOwnServer, UploadContract):
    """As it should be."""


@pytest.mark.slow
@pytest.mark.logs("trying again in", required=False)
class TestOwnServerWithFaults(OnOwnServerWithFaults, UploadContract):
    """What Retrying is there for."""

    may_leave_uploads = True
    RATES = ServerFaultRates(
        fail=0.03, fail_applied=0.03, slow_down=0.03, lose_answer=0.03, reset=0.03, conflict=0.03
    )


@pytest.mark.system
class TestSeaweed(OnSeaweed, UploadContract):
    """A real server, written in Go."""

    completes_atomically = False


@pytest.mark.system
class TestMoto(OnMoto, UploadContract):
    """A server for tests, written in Python."""

    completes_atomically = False
    gaps: ClassVar[Mapping[str, str]] = {
        "test_uploads_have_times": "moto says that every upload began in 2010",
        "test_abort": "moto answers 500 to who completes an aborted upload",
        "test_part_of_an_aborted_upload": "moto answers 500",
        "test_complete_if_match": "moto takes no notice of If-Match on a completion",
    }


@pytest.mark.system
class TestAzurite(OnAzurite, UploadContract):
    """Says that it has none."""


@pytest.mark.system
class TestGoogle(OnGoogle, UploadContract):
    """Says that it has none."""
