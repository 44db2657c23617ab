"""The contract of Bucket on every backend."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest

from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.testing.bucket_contract import BucketContract, OpenBucket
from bucketry.testing.s3_server import FaultRates
from contracts.places import (
    InDirectory,
    OnAzurite,
    OnGoogle,
    OnMoto,
    OnOwnServer,
    OnOwnServerWithFaults,
    OnSeaweed,
)


class TestMemory(BucketContract):
    """The plain meaning of the protocol."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        store = MemoryStore()

        async def open_bucket() -> Bucket:
            return MemoryBucket(store)

        return open_bucket


class TestDirectory(InDirectory, BucketContract):
    """Each object a file."""


class TestOwnServer(OnOwnServer, BucketContract):
    """As it should be."""


@pytest.mark.slow
@pytest.mark.logs("trying again in", required=False)
class TestOwnServerWithFaults(OnOwnServerWithFaults, BucketContract):
    """What Retrying is there for."""

    RATES = FaultRates(
        fail=0.03,
        fail_applied=0.03,
        slow_down=0.03,
        lose_answer=0.03,
        reset=0.03,
        conflict=0.03,
        truncate=0.03,
    )

    def rates_for(self, test_name: str) -> FaultRates:
        """A put whose answer is lost, and whose object is replaced before it can be read back, counts as a
        conflict though it was there for a moment (see Retrying): who counts then counts it twice."""
        if test_name == "test_no_lost_update":
            return replace(self.RATES, fail_applied=0.0, lose_answer=0.0)
        return self.RATES


@pytest.mark.system
class TestSeaweed(OnSeaweed, BucketContract):
    """A real server, written in Go."""

    gaps: ClassVar[Mapping[str, str]] = {
        "test_list_orders_slashes_as_characters": "SeaweedFS lists a/b before a-b, as files in directories",
    }


@pytest.mark.system
class TestMoto(OnMoto, BucketContract):
    """A server for tests, written in Python."""

    async def test_readers_see_no_mixture(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Not here: moto answers 500 now and then to a put over an object that is being put."""
        pytest.skip("moto is not safe for concurrent puts of one object")


@pytest.mark.system
class TestAzurite(OnAzurite, BucketContract):
    """Microsoft's emulator."""


@pytest.mark.system
class TestGoogle(OnGoogle, BucketContract):
    """As far as a stand-in of our own can tell."""
