"""The contract of Bucket on every backend."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.retrying import Retrying
from bucketry.settings import BucketSettings, RetrySettings, Secret
from bucketry.testing.bucket_contract import BucketContract, OpenBucket
from bucketry.testing.s3_server import Credentials, FaultRates, S3Server, ServiceSettings
from servers.azurite import Azurite
from servers.moto import Moto
from servers.s3 import S3Server as RealServer
from servers.seaweed import Seaweed

OWN_KEY = Credentials("AKIDCONTRACT", Secret("not a secret: for the loopback interface"))


class TestMemory(BucketContract):
    """The plain meaning of the protocol."""

    @pytest.fixture
    async def open_bucket(self) -> OpenBucket:
        store = MemoryStore()

        async def open_bucket() -> Bucket:
            return MemoryBucket(store)

        return open_bucket


class TestDirectory(BucketContract):
    """file://"""

    @pytest.fixture
    async def open_bucket(self, tmp_path: Path) -> OpenBucket:
        (tmp_path / "bucket").mkdir()

        async def open_bucket() -> Bucket:
            return connect(BucketSettings(url=f"file://{tmp_path}/bucket"))

        return open_bucket

    @pytest.fixture
    async def open_missing_bucket(self, tmp_path: Path) -> OpenBucket:
        async def open_bucket() -> Bucket:
            return connect(BucketSettings(url=f"file://{tmp_path}/missing"))

        return open_bucket


def _on_s3(server: RealServer, tmp_path: Path, bucket_name: str) -> OpenBucket:
    access_file = server.access_file(tmp_path / "access")

    async def open_bucket() -> Bucket:
        return connect(
            BucketSettings(url=f"s3://{bucket_name}", endpoint=server.endpoint, access_file=access_file)
        )

    return open_bucket


@pytest.fixture(scope="module")
def own_server() -> Iterator[S3Server]:
    with S3Server(ServiceSettings(credentials=(OWN_KEY,))) as server:
        yield server


def _on_own_server(server: S3Server, bucket_name: str) -> OpenBucket:
    async def open_bucket() -> Bucket:
        return connect(
            BucketSettings(
                url=f"s3://{bucket_name}",
                endpoint=server.endpoint,
                access_id=OWN_KEY.access_id,
                access_key=OWN_KEY.secret,
            )
        )

    return open_bucket


class TestOwnServer(BucketContract):
    """s3:// on our own server, which verifies every signature."""

    @pytest.fixture
    async def open_bucket(self, own_server: S3Server) -> OpenBucket:
        own_server.clear()
        return _on_own_server(own_server, own_server.make_bucket("bucket"))

    @pytest.fixture
    async def open_missing_bucket(self, own_server: S3Server) -> OpenBucket:
        return _on_own_server(own_server, "nobody-made-this")


@pytest.mark.logs("trying again in", required=False)
class TestOwnServerWithFaults(BucketContract):
    """Retrying over our own server, which fails, slows down, loses answers, resets and cuts connections."""

    RATES = FaultRates(
        fail=0.03,
        fail_applied=0.03,
        slow_down=0.03,
        lose_answer=0.03,
        reset=0.03,
        conflict=0.03,
        truncate=0.03,
    )
    #: A put whose answer is lost, and whose object is replaced before it can be read back, counts as a
    #: conflict though it was there for a moment (see Retrying): who counts then counts it twice.
    NO_ANSWER_LOST = replace(RATES, fail_applied=0.0, lose_answer=0.0)
    #: Short pauses: the contract runs on real time.
    RETRY = RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001)

    @pytest.fixture
    async def open_bucket(
        self, own_server: S3Server, request: pytest.FixtureRequest
    ) -> AsyncIterator[OpenBucket]:
        own_server.clear()
        open_bare = _on_own_server(own_server, own_server.make_bucket("bucket"))
        counts = request.node.originalname == "test_no_lost_update"
        own_server.set_fault_rates(self.NO_ANSWER_LOST if counts else self.RATES)

        async def open_bucket() -> Bucket:
            return Retrying(await open_bare(), self.RETRY)

        yield open_bucket
        own_server.clear_faults()


@pytest.mark.system
class TestSeaweed(BucketContract):
    """s3:// on SeaweedFS."""

    gaps: ClassVar[Mapping[str, str]] = {
        "test_list_orders_slashes_as_characters": "SeaweedFS lists a/b before a-b, as files in directories",
    }

    @pytest.fixture
    async def open_bucket(self, seaweed: Seaweed, tmp_path: Path) -> OpenBucket:
        return _on_s3(seaweed, tmp_path, seaweed.make_bucket())

    @pytest.fixture
    async def open_missing_bucket(self, seaweed: Seaweed, tmp_path: Path) -> OpenBucket:
        return _on_s3(seaweed, tmp_path, "nobody-made-this")


@pytest.mark.system
class TestMoto(BucketContract):
    """s3:// on moto."""

    @pytest.fixture
    async def open_bucket(self, moto: Moto, tmp_path: Path) -> OpenBucket:
        return _on_s3(moto, tmp_path, moto.make_bucket())

    @pytest.fixture
    async def open_missing_bucket(self, moto: Moto, tmp_path: Path) -> OpenBucket:
        return _on_s3(moto, tmp_path, "nobody-made-this")

    async def test_readers_see_no_mixture(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Not here: moto answers 500 now and then to a put over an object that is being put."""
        pytest.skip("moto is not safe for concurrent puts of one object")


@pytest.mark.system
class TestAzurite(BucketContract):
    """az:// on Azurite."""

    @pytest.fixture
    async def open_bucket(self, azurite: Azurite) -> OpenBucket:
        return self._on_azure(azurite, azurite.make_container())

    @pytest.fixture
    async def open_missing_bucket(self, azurite: Azurite) -> OpenBucket:
        return self._on_azure(azurite, "nobody-made-this")

    @staticmethod
    def _on_azure(server: Azurite, container_name: str) -> OpenBucket:
        async def open_bucket() -> Bucket:
            return connect(
                BucketSettings(
                    url=f"az://{container_name}",
                    endpoint=server.endpoint,
                    access_id=server.account,
                    access_key=Secret(server.account_key),
                )
            )

        return open_bucket
