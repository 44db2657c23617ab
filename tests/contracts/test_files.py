"""The contract of write-once files on every backend, and what only some of them can show."""

import asyncio
import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.memory import MemoryBucket, MemoryStore, _stores
from bucketry.codec.sealed_bucket import SealedBucket
from bucketry.files.file_system import FileSystem
from bucketry.files.storage_source import StorageSource
from bucketry.settings import BucketSettings, FilesSettings, RetrySettings, Secret
from bucketry.testing.files_contract import PAYLOAD, FilesContract, FilesPlace, fails
from bucketry.testing.s3_server import Credentials, S3Server, ServiceSettings
from servers.moto import Moto
from servers.s3 import Buckets
from servers.s3 import S3Server as RealServer
from servers.seaweed import Seaweed

OWN_KEY = Credentials("AKIDFILES", Secret("not a secret: for the loopback interface"))


def overwriting(settings: BucketSettings) -> Callable[[str, bytes], None]:
    """Puts objects as somebody else does."""

    def overwrite(key: str, content: bytes) -> None:
        async def put() -> None:
            bucket = connect(settings)
            await bucket.put(key, content)
            await bucket.close()

        asyncio.run(put())

    return overwrite


class TestMemory(FilesContract):
    """memory://"""

    @pytest.fixture
    def place(self, request: pytest.FixtureRequest) -> Iterator[FilesPlace]:
        name = "files-contract"
        _stores[name] = MemoryStore()
        url = f"memory://{name}"
        yield FilesPlace(url, "file:///no/such/directory", overwrite=overwriting(BucketSettings(url=url)))
        del _stores[name]


FILES_KEY = Secret(bytes(range(32)))


@pytest.mark.slow
class TestEncrypted(FilesContract):
    """memory://, and every file encrypted before it gets there."""

    @pytest.fixture
    def place(self) -> Iterator[FilesPlace]:
        name = "files-contract-encrypted"
        _stores[name] = MemoryStore()

        def overwrite(key: str, content: bytes) -> None:
            asyncio.run(SealedBucket(MemoryBucket(_stores[name]), FILES_KEY).put(key, content))

        yield FilesPlace(f"memory://{name}", "file:///no/such/directory", overwrite=overwrite)
        del _stores[name]

    @pytest.fixture(params=["auto"])
    def settings(self, request: pytest.FixtureRequest) -> FilesSettings:
        return FilesSettings(mode=request.param, encryption_key=FILES_KEY)

    def test_nothing_is_readable(self, files: FileSystem, put: Callable[..., bool]) -> None:
        """The bucket has none of a file's bytes, and its readers have all of them."""
        put("a", PAYLOAD * 50_000)
        stored = b"".join(data for _, data in _stores["files-contract-encrypted"].objects.values())
        assert len(stored) > len(PAYLOAD) * 50_000
        assert PAYLOAD not in stored
        with files.open_file("a") as handle:
            assert handle.read(600_000 - 24, 24) == PAYLOAD * 2


@pytest.mark.slow
class TestDirectory(FilesContract):
    """file://"""

    @pytest.fixture
    def place(self, tmp_path: Path) -> FilesPlace:
        (tmp_path / "bucket").mkdir()
        url = f"file://{tmp_path}/bucket"
        return FilesPlace(
            url,
            f"file://{tmp_path}/missing",
            overwrite=overwriting(BucketSettings(url=url)),
            drop_bucket=lambda: shutil.rmtree(tmp_path / "bucket"),
        )


def on_s3(server: RealServer) -> FilesPlace:
    """Strings as WiredTiger gives them."""
    name = server.make_bucket()
    settings = BucketSettings(
        url=f"s3://{name}",
        endpoint=server.endpoint,
        access_id=server.access_key,
        access_key=Secret(server.secret_key),
    )
    return FilesPlace(
        f"{name};us-east-1",
        "nobody-made-this;us-east-1",
        f"{server.access_key};{server.secret_key}",
        BucketSettings(url="", endpoint=server.endpoint),
        overwrite=overwriting(settings),
        drop_bucket=lambda: Buckets(server.endpoint, server.access_key, server.secret_key).drop(name),
    )


@pytest.mark.system
class TestSeaweed(FilesContract):
    """s3:// on SeaweedFS."""

    @pytest.fixture
    def place(self, seaweed: Seaweed) -> FilesPlace:
        return on_s3(seaweed)

    def test_wrong_keys(self, place: FilesPlace, source: StorageSource) -> None:
        """EACCES, and not "no such bucket"; keys and their id show nowhere."""
        for token in ("nobody;geheim", "bucketry-test-access;geheim"):
            with pytest.raises(OSError) as caught:
                source.customize_file_system(place.bucket, token)
            assert caught.value.errno == errno.EACCES
            assert "Unable to access bucket" in str(caught.value)
            assert "geheim" not in str(caught.value)


@pytest.mark.system
class TestMoto(FilesContract):
    """s3:// on moto."""

    @pytest.fixture
    def place(self, moto: Moto) -> FilesPlace:
        return on_s3(moto)


@pytest.fixture(scope="module")
def own_server() -> Iterator[S3Server]:
    with S3Server(ServiceSettings(credentials=(OWN_KEY,))) as server:
        yield server


@pytest.mark.slow
class TestOwnServer(FilesContract):
    """s3:// on our own server, which verifies every signature."""

    @pytest.fixture
    def place(self, own_server: S3Server) -> FilesPlace:
        own_server.clear()
        own_server.make_bucket("bucket")
        settings = BucketSettings(
            url="s3://bucket",
            endpoint=own_server.endpoint,
            access_id=OWN_KEY.access_id,
            access_key=OWN_KEY.secret,
        )
        return FilesPlace(
            "bucket;us-east-1",
            "nobody-made-this;us-east-1",
            f"{OWN_KEY.access_id};{OWN_KEY.secret.reveal_text()}",
            BucketSettings(url="", endpoint=own_server.endpoint),
            overwrite=overwriting(settings),
            drop_bucket=own_server.clear,
        )

    def test_wrong_keys(self, place: FilesPlace, source: StorageSource) -> None:
        """EACCES, and not "no such bucket"."""
        for token in (f"{OWN_KEY.access_id};geheim", "nobody;geheim"):
            with fails(errno.EACCES, "bucket : Unable to access bucket"):
                source.customize_file_system(place.bucket, token)

    def test_nobody_there(self, place: FilesPlace, home: Path) -> None:
        """EAGAIN, and neither of the others."""
        nowhere = replace(
            place.template, endpoint="http://127.0.0.1:9", retry=RetrySettings(budget_seconds=0.0)
        )
        with (
            StorageSource(home, FilesSettings(), nowhere) as source,
            fails(errno.EAGAIN, "bucket : Unable to reach bucket"),
        ):
            source.customize_file_system(place.bucket, place.token)
