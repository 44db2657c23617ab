"""The contract of Bucket on the backends that need no server."""

from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Bucket
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.settings import BucketSettings
from bucketry.testing.bucket_contract import BucketContract, OpenBucket


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
