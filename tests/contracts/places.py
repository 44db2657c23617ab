"""Where contracts are tried: fixtures that say how to open a bucket there, a mixin for each kind of store."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Bucket
from bucketry.bucket.retrying import Retrying
from bucketry.settings import BucketSettings, RetrySettings, Secret
from bucketry.testing.bucket_contract import OpenBucket
from bucketry.testing.s3_server import Credentials, FaultRates, S3Server
from servers.azurite import Azurite
from servers.gcs import Gcs
from servers.moto import Moto
from servers.s3 import S3Server as RealServer
from servers.seaweed import Seaweed

OWN_KEY = Credentials("AKIDCONTRACT", Secret("not a secret: for the loopback interface"))
#: Short pauses: the contracts run on real time.
RETRY = RetrySettings(initial_pause_seconds=0.001, pause_max_seconds=0.001)
MISSING = "nobody-made-this"


def connecting(settings: BucketSettings) -> OpenBucket:
    """Opens what ``settings`` name, anew each time."""

    async def open_bucket() -> Bucket:
        return connect(settings)

    return open_bucket


class InDirectory:
    """file://"""

    @pytest.fixture
    async def open_bucket(self, tmp_path: Path) -> OpenBucket:
        (tmp_path / "bucket").mkdir()
        return connecting(BucketSettings(url=f"file://{tmp_path}/bucket"))

    @pytest.fixture
    async def open_missing_bucket(self, tmp_path: Path) -> OpenBucket:
        return connecting(BucketSettings(url=f"file://{tmp_path}/missing"))


def _on_own_server(server: S3Server, bucket_name: str) -> OpenBucket:
    return connecting(
        BucketSettings(
            url=f"s3://{bucket_name}",
            endpoint=server.endpoint,
            access_id=OWN_KEY.access_id,
            access_key=OWN_KEY.secret,
        )
    )


class OnOwnServer:
    """s3:// on our own server, which verifies every signature and checksum."""

    @pytest.fixture
    async def open_bucket(self, own_server: S3Server) -> OpenBucket:
        own_server.clear()
        return _on_own_server(own_server, own_server.make_bucket("bucket"))

    @pytest.fixture
    async def open_missing_bucket(self, own_server: S3Server) -> OpenBucket:
        return _on_own_server(own_server, MISSING)


class OnOwnServerWithFaults:
    """Retrying over our own server, which fails, slows down, loses answers, resets and cuts connections."""

    RATES: ClassVar[FaultRates]

    def rates_for(self, test_name: str) -> FaultRates:
        """What goes wrong while a test runs."""
        return self.RATES

    @pytest.fixture
    async def open_bucket(
        self, own_server: S3Server, request: pytest.FixtureRequest
    ) -> AsyncIterator[OpenBucket]:
        own_server.clear()
        open_bare = _on_own_server(own_server, own_server.make_bucket("bucket"))
        own_server.set_fault_rates(self.rates_for(request.node.originalname))

        async def open_bucket() -> Bucket:
            return Retrying(await open_bare(), RETRY)

        yield open_bucket
        own_server.clear_faults()


def _on_s3(server: RealServer, tmp_path: Path, bucket_name: str) -> OpenBucket:
    access_file = server.access_file(tmp_path / "access")
    return connecting(
        BucketSettings(url=f"s3://{bucket_name}", endpoint=server.endpoint, access_file=access_file)
    )


class OnSeaweed:
    """s3:// on SeaweedFS."""

    @pytest.fixture
    async def open_bucket(self, seaweed: Seaweed, tmp_path: Path) -> OpenBucket:
        return _on_s3(seaweed, tmp_path, seaweed.make_bucket())

    @pytest.fixture
    async def open_missing_bucket(self, seaweed: Seaweed, tmp_path: Path) -> OpenBucket:
        return _on_s3(seaweed, tmp_path, MISSING)


class OnMoto:
    """s3:// on moto."""

    @pytest.fixture
    async def open_bucket(self, moto: Moto, tmp_path: Path) -> OpenBucket:
        return _on_s3(moto, tmp_path, moto.make_bucket())

    @pytest.fixture
    async def open_missing_bucket(self, moto: Moto, tmp_path: Path) -> OpenBucket:
        return _on_s3(moto, tmp_path, MISSING)


def _on_azure(server: Azurite, container_name: str) -> OpenBucket:
    return connecting(
        BucketSettings(
            url=f"az://{container_name}",
            endpoint=server.endpoint,
            access_id=server.account,
            access_key=Secret(server.account_key),
        )
    )


class OnAzurite:
    """az:// on Azurite."""

    @pytest.fixture
    async def open_bucket(self, azurite: Azurite) -> OpenBucket:
        return _on_azure(azurite, azurite.make_container())

    @pytest.fixture
    async def open_missing_bucket(self, azurite: Azurite) -> OpenBucket:
        return _on_azure(azurite, MISSING)


class OnGoogle:
    """gs:// on our stand-in."""

    @pytest.fixture(autouse=True)
    def _credentials(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(gcs.credentials_file))

    @pytest.fixture
    async def open_bucket(self, gcs: Gcs) -> OpenBucket:
        return connecting(BucketSettings(url=f"gs://{gcs.make_bucket()}", endpoint=gcs.endpoint))

    @pytest.fixture
    async def open_missing_bucket(self, gcs: Gcs) -> OpenBucket:
        return connecting(BucketSettings(url=f"gs://{MISSING}", endpoint=gcs.endpoint))
