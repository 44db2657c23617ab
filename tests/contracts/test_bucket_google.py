"""The contract of Bucket on gs://, as far as a stand-in of our own can tell."""

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Bucket
from bucketry.settings import BucketSettings
from bucketry.testing.bucket_contract import BucketContract, OpenBucket
from servers.gcs import Gcs


@pytest.mark.system
class TestGoogle(BucketContract):
    """gs:// on the stand-in."""

    @pytest.fixture
    async def open_bucket(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> OpenBucket:
        return self._on_google(gcs, gcs.make_bucket(), monkeypatch)

    @pytest.fixture
    async def open_missing_bucket(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> OpenBucket:
        return self._on_google(gcs, "nobody-made-this", monkeypatch)

    @staticmethod
    def _on_google(server: Gcs, name: str, monkeypatch: pytest.MonkeyPatch) -> OpenBucket:
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(server.credentials_file))

        async def open_bucket() -> Bucket:
            return connect(BucketSettings(url=f"gs://{name}", endpoint=server.endpoint))

        return open_bucket
