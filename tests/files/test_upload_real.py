"""Uploads with real requests: kills of the process, and real servers."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from bucketry.bucket.interface import Bucket
from bucketry.bucket.stack import stacked
from bucketry.core.pieces import PIECES_METADATA, decode
from bucketry.errnos import file_errno_of
from bucketry.errors import AlreadyExists, BucketNotFound
from bucketry.files.upload import Uploaded, sweep, upload
from bucketry.files.upload_records import UploadRecords
from bucketry.settings import BucketSettings, RetrySettings, Secret, UploadSettings
from bucketry.testing.s3_server import Credentials, FaultRates, S3Server, ServiceSettings
from servers.azurite import Azurite
from servers.gcs import Gcs
from servers.moto import Moto
from servers.s3 import Buckets
from servers.seaweed import Seaweed

KEY = Credentials("AKIDUPLOAD", Secret("not a secret: for the loopback interface"))
MIB = 1 << 20
PART = 5 * MIB
SETTINGS = UploadSettings(whole_max_bytes=MIB, part_size_bytes=PART, memory_bytes=3 * PART)
DATA = Random(1).randbytes(3 * PART + 12345)
UPLOADER = Path(__file__).parent / "kill_uploader.py"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(DATA)
    return tmp_path / "large"


@pytest.fixture
def own() -> Iterator[S3Server]:
    with S3Server(ServiceSettings(credentials=(KEY,))) as server:
        server.make_bucket("bucket")
        yield server


@asynccontextmanager
async def opened(endpoint: str, name: str, access_file: Path) -> AsyncIterator[Bucket]:
    bucket, _ = stacked(
        BucketSettings(
            url=f"s3://{name}",
            endpoint=endpoint,
            access_file=access_file,
            retry=RetrySettings(initial_pause_seconds=0.01, pause_max_seconds=0.1, budget_seconds=30),
        )
    )
    try:
        yield bucket
    finally:
        await bucket.close()


def write_keys(path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"{KEY.access_id}:{KEY.secret.reveal_text()}\n")
    return path


async def check(bucket: Bucket, key: str = "dir/key", data: bytes = DATA) -> None:
    """The object is whole and says so, and no upload is open."""
    found = await bucket.get(key)
    assert bytes(found.data) == data
    pieces = decode(found.info.attributes.metadata[PIECES_METADATA], len(data))
    for index in range(len(pieces.checksums)):
        start, end = pieces.range_of(index, len(data))
        assert pieces.verifies(index, data[start:end])
    assert [page async for page in bucket.list_uploads()] == []


def kill_after(parts_count: int, *arguments: object) -> None:
    """Start the uploader, and kill it when it has so many parts in the bucket."""
    with subprocess.Popen(
        [sys.executable, str(UPLOADER), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= parts_count * PART:
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
async def test_a_killed_process_is_followed_by_one_that_goes_on(
    own: S3Server, large: Path, tmp_path: Path
) -> None:
    """kill -9 after two parts: the next upload puts the others only. Without records it puts all, and
    leaves nothing of the first."""
    keys = write_keys(tmp_path / "keys")
    for records, parts_left in ((UploadRecords(tmp_path / "records"), (1, 2)), (None, (4,))):
        own.clear()
        own.make_bucket("bucket")
        kill_after(2, own.endpoint, "bucket", keys, "dir/key", large, tmp_path / "records")
        own.reset_ledger()
        async with opened(own.endpoint, "bucket", keys) as bucket:
            assert len([page async for page in bucket.list_uploads()]) == 1
            uploaded = await upload(bucket, "dir/key", large, settings=SETTINGS, records=records)
            assert not uploaded.was_there
            await check(bucket)
        assert own.snapshot().requests["UploadPart"] in parts_left
    assert len(list((tmp_path / "records").iterdir())) == 1


@pytest.mark.slow
async def test_what_a_killed_process_left_is_swept(own: S3Server, large: Path, tmp_path: Path) -> None:
    """By its record at once; by age it would have to wait."""
    keys = write_keys(tmp_path / "keys")
    records = UploadRecords(tmp_path / "records")
    kill_after(1, own.endpoint, "bucket", keys, "dir/key", large, tmp_path / "records")
    async with opened(own.endpoint, "bucket", keys) as bucket:
        assert await sweep(bucket, older_than_seconds=3600) == 0
        assert await sweep(bucket, older_than_seconds=3600, records=records) == 1
        assert [page async for page in bucket.list_uploads()] == []


@pytest.mark.slow
@pytest.mark.logs("trying again in", required=False)
async def test_faults_of_all_kinds(own: S3Server, large: Path, tmp_path: Path) -> None:
    """A server that fails, throttles, resets and loses answers, a tenth of all requests: every upload ends
    well, and nothing is left."""
    keys = write_keys(tmp_path / "keys")
    own.set_fault_rates(
        FaultRates(fail=0.02, fail_applied=0.02, slow_down=0.02, lose_answer=0.02, reset=0.02, conflict=0.02),
        seed=3,
    )
    async with opened(own.endpoint, "bucket", keys) as bucket:
        results = await asyncio.gather(
            *(upload(bucket, f"key-{index % 4}", large, settings=SETTINGS) for index in range(8))
        )
        own.clear_faults()
        for index in range(4):
            await check(bucket, f"key-{index}")
    assert all(isinstance(result, Uploaded) for result in results)


@pytest.mark.slow
@pytest.mark.logs("trying again in", required=False)
async def test_a_cancelled_upload_leaves_no_parts(own: S3Server, large: Path, tmp_path: Path) -> None:
    """Cancelled while parts are on their way in threads: soon after there is neither object nor upload."""
    keys = write_keys(tmp_path / "keys")
    async with opened(own.endpoint, "bucket", keys) as bucket:
        for moment in range(6):
            task = asyncio.create_task(upload(bucket, "dir/key", large, settings=SETTINGS))
            while own.snapshot().requests.get("UploadPart", 0) < moment and not task.done():
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            own.reset_ledger()
            assert [page async for page in bucket.list_uploads()] == []
            await bucket.delete("dir/key")


async def test_a_missing_bucket_is_no_missing_file(own: S3Server, large: Path, tmp_path: Path) -> None:
    """BucketNotFound for small and large files, which never becomes ENOENT."""
    keys = write_keys(tmp_path / "keys")
    (tmp_path / "small").write_bytes(b"x")
    async with opened(own.endpoint, "nobody-made-this", keys) as bucket:
        for path in (large, tmp_path / "small"):
            with pytest.raises(BucketNotFound) as caught:
                await upload(bucket, "dir/key", path, settings=SETTINGS)
            assert file_errno_of(caught.value) == errno.ENXIO


@pytest.mark.system
@pytest.mark.logs("does not keep to the condition", required=False)
async def test_on_seaweed(seaweed: Seaweed, large: Path, tmp_path: Path) -> None:
    """In parts and in one put; again; another content; sixteen at once; kills and what follows them."""
    name = seaweed.make_bucket()
    keys = seaweed.access_file(tmp_path / "keys")
    records = UploadRecords(tmp_path / "records")
    async with opened(seaweed.endpoint, name, keys) as bucket:
        first = await upload(bucket, "dir/key", large, settings=SETTINGS, records=records)
        again = await upload(bucket, "dir/key", large, settings=SETTINGS, records=records)
        assert (first.was_there, again.was_there, again.etag) == (False, True, first.etag)
        await check(bucket)
        (tmp_path / "other").write_bytes(DATA[::-1])
        with pytest.raises(AlreadyExists):
            await upload(bucket, "dir/key", tmp_path / "other", settings=SETTINGS)
        await check(bucket)

        results = await asyncio.gather(
            *(upload(bucket, "sixteen", large, settings=SETTINGS) for _ in range(16))
        )
        assert len(results) == 16
        await check(bucket, "sixteen")

        kill_after(2, seaweed.endpoint, name, keys, "killed", large, tmp_path / "records")
        await upload(bucket, "killed", large, settings=SETTINGS, records=records)
        await check(bucket, "killed")
        kill_after(1, seaweed.endpoint, name, keys, "swept", large, tmp_path / "records")
        assert await sweep(bucket, older_than_seconds=3600, records=records) == 1
        assert [page async for page in bucket.list_uploads()] == []

        for moment in (0.05, 0.2, 0.4):
            task = asyncio.create_task(upload(bucket, "cancelled", large, settings=SETTINGS))
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert [page async for page in bucket.list_uploads()] == []
            await bucket.delete("cancelled")


@pytest.mark.system
async def test_tags_and_storage_class(seaweed: Seaweed, large: Path, tmp_path: Path) -> None:
    """What every object is to be put with goes with one put and with parts alike, and the store keeps it."""
    name = seaweed.make_bucket()
    (tmp_path / "small").write_bytes(b"x")
    bucket, _ = stacked(
        BucketSettings(
            url=f"s3://{name}",
            endpoint=seaweed.endpoint,
            access_file=seaweed.access_file(tmp_path / "keys"),
            storage_class="STANDARD_IA",
            tags=(("team", "a b+c"), ("empty", "")),
        )
    )
    await upload(bucket, "large", large, settings=SETTINGS)
    await upload(bucket, "small", tmp_path / "small", settings=SETTINGS)
    await bucket.close()
    client = Buckets(seaweed.endpoint, seaweed.access_key, seaweed.secret_key).client
    for key in ("large", "small"):
        tags = client.get_object_tagging(Bucket=name, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "a b+c", "empty": ""}
        assert client.head_object(Bucket=name, Key=key)["StorageClass"] == "STANDARD_IA"
    client.close()


@pytest.mark.system
async def test_on_moto(moto: Moto, large: Path, tmp_path: Path) -> None:
    """In parts, again, and another content."""
    async with opened(moto.endpoint, moto.make_bucket(), moto.access_file(tmp_path / "keys")) as bucket:
        await upload(bucket, "dir/key", large, settings=SETTINGS)
        assert (await upload(bucket, "dir/key", large, settings=SETTINGS)).was_there
        await check(bucket)
        (tmp_path / "other").write_bytes(DATA[::-1])
        with pytest.raises(AlreadyExists):
            await upload(bucket, "dir/key", tmp_path / "other", settings=SETTINGS)
        await check(bucket)


@pytest.mark.system
async def test_on_azure_and_google(
    azurite: Azurite, gcs: Gcs, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One conditional put, whatever the size; again, and another content."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(gcs.credentials_file))
    (tmp_path / "other").write_bytes(DATA[::-1])
    for settings in (
        BucketSettings(
            url=f"az://{azurite.make_container()}",
            endpoint=azurite.endpoint,
            access_id=azurite.account,
            access_key=Secret(azurite.account_key),
        ),
        BucketSettings(url=f"gs://{gcs.make_bucket()}", endpoint=gcs.endpoint),
    ):
        bucket, _ = stacked(settings)
        first = await upload(bucket, "dir/key", large, settings=SETTINGS)
        again = await upload(bucket, "dir/key", large, settings=SETTINGS)
        assert (first.was_there, again.was_there, again.etag) == (False, True, first.etag)
        with pytest.raises(AlreadyExists):
            await upload(bucket, "dir/key", tmp_path / "other", settings=SETTINGS)
        found = await bucket.get("dir/key")
        assert bytes(found.data) == DATA
        assert decode(found.info.attributes.metadata[PIECES_METADATA], len(DATA)) == first.pieces
        await bucket.close()


@pytest.mark.system
@pytest.mark.logs("trying again in", "are left until it is uploaded again", required=False)
async def test_a_server_that_is_away(seaweed: Seaweed, large: Path, tmp_path: Path) -> None:
    """Stopped in the midst of an upload and started again: the upload goes on and ends well."""
    name = seaweed.make_bucket()
    keys = seaweed.access_file(tmp_path / "keys")
    async with opened(seaweed.endpoint, name, keys) as bucket:
        under_way = asyncio.Event()

        def progress(sent_bytes: int) -> None:
            if sent_bytes:
                under_way.set()

        settings = UploadSettings(whole_max_bytes=1, part_size_bytes=PART, memory_bytes=1)
        task = asyncio.create_task(upload(bucket, "dir/key", large, settings=settings, progress=progress))
        await under_way.wait()
        await asyncio.to_thread(seaweed.stop_process)
        await asyncio.to_thread(seaweed.start_process)
        await task
        await check(bucket)


@pytest.mark.system
def test_a_large_file_needs_little_memory(seaweed: Seaweed, tmp_path: Path) -> None:
    """256 MiB go to SeaweedFS in parts, with a process that never has much more than the parts under way in
    memory: less than half of the file."""
    name = seaweed.make_bucket()
    path = tmp_path / "large"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for index in range(256):
            file.write(index.to_bytes(8, "big") + block[8:])
    keys = seaweed.access_file(tmp_path / "keys")
    program = f"""
import asyncio, resource
from pathlib import Path
from bucketry.bucket.stack import stacked
from bucketry.files.upload import upload
from bucketry.settings import BucketSettings, UploadSettings

async def main():
    bucket, _ = stacked(BucketSettings(
        url="s3://{name}", endpoint="{seaweed.endpoint}", access_file=Path("{keys}")
    ))
    await upload(bucket, "small", Path("{__file__}"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = UploadSettings(part_size_bytes=8 << 20, memory_bytes=32 << 20)
    uploaded = await upload(bucket, "large", Path("{path}"), settings=settings)
    assert [page async for page in bucket.list_uploads()] == []
    await bucket.close()
    print(uploaded.size_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main())
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    path.unlink()
    assert answer.returncode == 0, answer.stderr
    size_bytes, more_kib = map(int, answer.stdout.split())
    assert size_bytes == 256 << 20
    # Four parts under way, each of them twice while it is handed on, and what botocore itself takes.
    assert more_kib < 120 << 10
