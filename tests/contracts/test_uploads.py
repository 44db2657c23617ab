"""The contract of uploads in parts on every backend and every wrapper."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.bucket.limited import Limited
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.metered import Metered
from bucketry.bucket.retrying import Retrying
from bucketry.settings import BucketSettings, LimitSettings, RetrySettings, Secret
from bucketry.testing.bucket_contract import OpenBucket
from bucketry.testing.faulty_bucket import FaultRates, FaultyBucket
from bucketry.testing.s3_server import Credentials, S3Server, ServiceSettings
from bucketry.testing.s3_server import FaultRates as ServerFaultRates
from bucketry.testing.upload_contract import UploadContract
from servers.azurite import Azurite
from servers.gcs import Gcs
from servers.moto import Moto
from servers.s3 import S3Server as RealServer
from servers.seaweed import Seaweed

OWN_KEY = Credentials("AKIDCONTRACT", Secret("not a secret: for the loopback interface"))
#: Short pauses: the contract runs on real time.
RETRY = RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001)
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
class TestDirectory(UploadContract):
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


@pytest.mark.slow
class TestOwnServer(UploadContract):
    """s3:// on our own server, which verifies every signature and checksum."""

    @pytest.fixture
    async def open_bucket(self, own_server: S3Server) -> OpenBucket:
        own_server.clear()
        return _on_own_server(own_server, own_server.make_bucket("bucket"))

    @pytest.fixture
    async def open_missing_bucket(self, own_server: S3Server) -> OpenBucket:
        return _on_own_server(own_server, "nobody-made-this")


@pytest.mark.slow
@pytest.mark.logs("trying again in", required=False)
class TestOwnServerWithFaults(UploadContract):
    """Retrying over our own server, which fails, slows down, loses answers, resets and cuts connections."""

    may_leave_uploads = True
    RATES = ServerFaultRates(
        fail=0.03, fail_applied=0.03, slow_down=0.03, lose_answer=0.03, reset=0.03, conflict=0.03
    )

    @pytest.fixture
    async def open_bucket(self, own_server: S3Server) -> AsyncIterator[OpenBucket]:
        own_server.clear()
        open_bare = _on_own_server(own_server, own_server.make_bucket("bucket"))
        own_server.set_fault_rates(self.RATES)

        async def open_bucket() -> Bucket:
            return Retrying(await open_bare(), RETRY)

        yield open_bucket
        own_server.clear_faults()


def _on_s3(server: RealServer, tmp_path: Path, bucket_name: str) -> OpenBucket:
    access_file = server.access_file(tmp_path / "access")

    async def open_bucket() -> Bucket:
        return connect(
            BucketSettings(url=f"s3://{bucket_name}", endpoint=server.endpoint, access_file=access_file)
        )

    return open_bucket


@pytest.mark.system
class TestSeaweed(UploadContract):
    """s3:// on SeaweedFS."""

    @pytest.fixture
    async def open_bucket(self, seaweed: Seaweed, tmp_path: Path) -> OpenBucket:
        return _on_s3(seaweed, tmp_path, seaweed.make_bucket())

    @pytest.fixture
    async def open_missing_bucket(self, seaweed: Seaweed, tmp_path: Path) -> OpenBucket:
        return _on_s3(seaweed, tmp_path, "nobody-made-this")

    async def test_one_of_many_completes(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Not here: SeaweedFS 4.48 looks whether the key is free and makes the object in two steps, so that
        of those who complete within the same milliseconds several are told that they did."""
        pytest.skip("SeaweedFS completes conditionally, but not atomically")


@pytest.mark.system
class TestMoto(UploadContract):
    """s3:// on moto."""

    gaps: ClassVar[Mapping[str, str]] = {
        "test_uploads_have_times": "moto says that every upload began in 2010",
        "test_abort": "moto answers 500 to who completes an aborted upload",
        "test_part_of_an_aborted_upload": "moto answers 500",
        "test_complete_if_match": "moto takes no notice of If-Match on a completion",
    }

    @pytest.fixture
    async def open_bucket(self, moto: Moto, tmp_path: Path) -> OpenBucket:
        return _on_s3(moto, tmp_path, moto.make_bucket())

    @pytest.fixture
    async def open_missing_bucket(self, moto: Moto, tmp_path: Path) -> OpenBucket:
        return _on_s3(moto, tmp_path, "nobody-made-this")


@pytest.mark.system
class TestAzurite(UploadContract):
    """az:// says that it has none."""

    @pytest.fixture
    async def open_bucket(self, azurite: Azurite) -> OpenBucket:
        container = azurite.make_container()

        async def open_bucket() -> Bucket:
            return connect(
                BucketSettings(
                    url=f"az://{container}",
                    endpoint=azurite.endpoint,
                    access_id=azurite.account,
                    access_key=Secret(azurite.account_key),
                )
            )

        return open_bucket


@pytest.mark.system
class TestGoogle(UploadContract):
    """gs:// says that it has none."""

    @pytest.fixture
    async def open_bucket(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> OpenBucket:
        name = gcs.make_bucket()
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(gcs.credentials_file))

        async def open_bucket() -> Bucket:
            return connect(BucketSettings(url=f"gs://{name}", endpoint=gcs.endpoint))

        return open_bucket
