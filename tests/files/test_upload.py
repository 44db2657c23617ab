"""A local file becomes an object that is made once: on virtual time, over a bucket with faults."""

import asyncio
import errno
import itertools
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    BytesLike,
    Condition,
    ObjectInfo,
    OpenUpload,
    Part,
    UploadLimits,
    UploadPages,
)
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.retrying import Retrying
from bucketry.codec.offload import inline
from bucketry.codec.sealed_bucket import SealedBucket
from bucketry.core.pieces import PIECES_METADATA, decode, sum_pieces
from bucketry.core.priority import Priority
from bucketry.errnos import file_errno_of
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Busy,
    Corrupt,
    CredentialsRefused,
    Denied,
    Throttled,
    Unavailable,
    Unsupported,
)
from bucketry.files.upload import Uploaded, sweep, upload
from bucketry.files.upload_records import UploadRecords
from bucketry.settings import RetrySettings, Secret, UploadSettings
from bucketry.testing.faulty_bucket import Delay, Fail, Fault, FaultRates, FaultyBucket, LoseAnswer, Throttle
from bucketry.testing.virtual_time import on_virtual_time

#: Small, for the tests' own speed.
PART = 64 << 10
#: Three parts at once.
SETTINGS = UploadSettings(whole_max_bytes=PART, part_size_bytes=PART, memory_bytes=3 * PART)
RETRY = RetrySettings(initial_pause_seconds=1, pause_max_seconds=10, budget_seconds=60)
SMALL = Random(1).randbytes(30_000)
LARGE = Random(2).randbytes(4 * PART + 1234)
OTHER = Random(3).randbytes(len(LARGE))

pytestmark = pytest.mark.logs("trying again in", required=False)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small").write_bytes(SMALL)
    return tmp_path / "small"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(LARGE)
    return tmp_path / "large"


#: No two of them may draw the same ids: they are different processes.
_seeds = itertools.count()


def retrying(below: Bucket) -> Retrying:
    return Retrying(below, RETRY, random=Random(next(_seeds)))


def write(path: Path, data: bytes) -> None:
    """Plain: the loop's time does not pass meanwhile."""
    path.write_bytes(data)


async def send(
    bucket: Bucket, path: Path, *, records: UploadRecords | None = None, key: str = "dir/key"
) -> Uploaded:
    return await upload(bucket, key, path, settings=SETTINGS, records=records, offload=inline)


async def open_uploads(bucket: Bucket) -> list[OpenUpload]:
    return [opened async for page in bucket.list_uploads() for opened in page]


async def check_object(store: MemoryStore, data: bytes, key: str = "dir/key") -> None:
    """The object is there with these bytes and their checksums."""
    found = await MemoryBucket(store).get(key)
    assert found.data == data
    text = found.info.attributes.metadata[PIECES_METADATA]
    assert decode(text, len(data)) == sum_pieces([data])


@pytest.mark.parametrize("data", [b"", b"x", SMALL, LARGE[:PART]], ids=len)
def test_a_small_file_is_one_put(data: bytes, tmp_path: Path) -> None:
    """Up to the bound, that included: one request, with checksums in the metadata."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        below = FaultyBucket(MemoryBucket(store))
        (tmp_path / "file").write_bytes(data)
        uploaded = await send(below, tmp_path / "file")
        assert [request.operation for request in below.requests] == ["put"]
        await check_object(store, data)
        assert uploaded == Uploaded(
            (await below.head("dir/key")).etag, len(data), sum_pieces([data]), was_there=False
        )

    run()


@on_virtual_time
async def test_a_large_file_goes_in_parts(large: Path) -> None:
    """Beyond the bound: parts, so many at once as the memory allows, and nothing is left behind."""
    store = MemoryStore()
    below = FaultyBucket(
        MemoryBucket(store), rates=FaultRates(delay_min_seconds=1, delay_max_seconds=1), seed=1
    )
    reported: list[int] = []
    uploaded = await upload(
        below,
        "dir/key",
        large,
        settings=SETTINGS,
        attributes=Attributes("text/plain", None, {"who": "me"}),
        progress=reported.append,
        offload=inline,
    )
    await check_object(store, LARGE)
    info = await MemoryBucket(store).head("dir/key")
    assert info.attributes.content_type == "text/plain"
    assert info.attributes.metadata["who"] == "me"
    assert (uploaded.etag, uploaded.size_bytes, uploaded.was_there) == (info.etag, len(LARGE), False)
    assert await open_uploads(MemoryBucket(store)) == []
    assert [request.operation for request in below.requests].count("put_part") == 5
    assert sorted(reported) == reported
    assert reported[-1] == len(LARGE)
    # Looked, begun, two turns of parts, looked, completed, looked, and looked for others: a second each.
    assert asyncio.get_running_loop().time() == 8


@on_virtual_time
async def test_parts_are_uploads_to_the_limits(large: Path) -> None:
    """Every request has the priority that was asked for."""
    below = FaultyBucket(MemoryBucket())
    await upload(below, "dir/key", large, settings=SETTINGS, priority=Priority.BACKGROUND, offload=inline)
    assert {r.priority for r in below.requests if r.operation == "put_part"} == {Priority.BACKGROUND}


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_same_content_again_is_success_and_another_is_not(name: str, tmp_path: Path) -> None:
    """Uploading again succeeds without changing anything; other content is refused, and the first stays."""

    @on_virtual_time
    async def run() -> None:
        data = SMALL if name == "small" else LARGE
        path = tmp_path / name
        store = MemoryStore()
        bucket = retrying(MemoryBucket(store))
        path.write_bytes(data)
        first = await send(bucket, path)
        again = await send(bucket, path)
        assert (again.etag, again.pieces, again.was_there) == (first.etag, first.pieces, True)
        for other in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b"x", b""):
            path.write_bytes(other)
            with pytest.raises(AlreadyExists, match="dir/key"):
                await send(bucket, path)
        await check_object(store, data)
        assert await open_uploads(bucket) == []

    run()


@pytest.mark.parametrize("metadata", [{}, {PIECES_METADATA: "1-17-damaged"}, {PIECES_METADATA: "2-unknown"}])
@pytest.mark.logs("comparing its bytes", required=False)
def test_an_object_without_checksums_is_compared_by_its_bytes(
    metadata: dict[str, str], large: Path, small: Path
) -> None:
    """What another program has put is read: the same bytes are success, others not."""

    @on_virtual_time
    async def run() -> None:
        for path, data in ((small, SMALL), (large, LARGE)):
            store = MemoryStore()
            bucket = MemoryBucket(store)
            etag = await bucket.put("dir/key", data, attributes=Attributes(metadata=metadata))
            assert (await send(bucket, path)).etag == etag
            await bucket.put(
                "dir/key", data[:-1] + bytes([data[-1] ^ 1]), attributes=Attributes(metadata=metadata)
            )
            with pytest.raises(AlreadyExists):
                await send(bucket, path)

    run()


@on_virtual_time
async def test_checksums_that_lie_do_not_make_contents_equal(small: Path) -> None:
    """Only digests decide: pieces of other content in the metadata are another content."""
    bucket = MemoryBucket()
    await send(bucket, small)
    info = await bucket.head("dir/key")
    await bucket.put("dir/key", SMALL[::-1], attributes=info.attributes)
    # It says that it is ours; a reader will find it damaged. It is not for an upload to replace it.
    assert (await send(bucket, small)).was_there


FAULTS: list[Fault] = [Fail(Unavailable), Fail(Throttled), Throttle(2.0), LoseAnswer(), Delay(5.0)]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("name", ["small", "large"])
def test_a_transient_fault_at_any_step_goes_unnoticed(fault: Fault, name: str, tmp_path: Path) -> None:
    """Whichever request fails once, or succeeds and says otherwise: the object is there, and nothing else."""
    data = SMALL if name == "small" else LARGE
    (tmp_path / name).write_bytes(data)

    @on_virtual_time
    async def run(position: int) -> int:
        store = MemoryStore()
        below = FaultyBucket(MemoryBucket(store))
        below.plan(fault, skip=position)
        uploaded = await send(retrying(below), tmp_path / name)
        assert not uploaded.was_there
        await check_object(store, data)
        assert await open_uploads(MemoryBucket(store)) == []
        return len(below.requests)

    for position in range(run(10_000)):
        run(position)


@pytest.mark.parametrize("error", [Denied, Unavailable, BucketNotFound, Corrupt])
def test_a_lasting_failure_at_any_step_leaves_nothing(error: type[BucketryError], large: Path) -> None:
    """Whichever request begins to fail for good, the caller is told (never that a file is absent), and there
    are no parts and no half object."""

    @on_virtual_time
    async def run(position: int) -> int:
        store = MemoryStore()
        below = FaultyBucket(MemoryBucket(store))
        operations = ("head", "create_upload", "put_part", "complete_upload")
        seen = 0
        for operation in operations:
            # All of these, from this position on; aborting and listing still work.
            below.plan(Fail(error), operation=operation, skip=max(0, position - seen), times=10_000)
            seen += {"head": 1, "create_upload": 1, "put_part": 5, "complete_upload": 1}[operation]
        (outcome,) = await asyncio.gather(send(retrying(below), large), return_exceptions=True)
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, error)
            assert file_errno_of(outcome) != errno.ENOENT
        assert await open_uploads(MemoryBucket(store)) == []
        if store.objects:
            await check_object(store, LARGE)
        return len(below.requests)

    for position in range(10):
        run(position)


@pytest.mark.logs("are left until it is uploaded again", required=False)
def test_an_outage_at_any_moment_and_then_another_try(large: Path) -> None:
    """The store goes away for good and the upload fails; when it is back the next one succeeds and cleans
    up."""

    @on_virtual_time
    async def run(moment: int) -> None:
        store = MemoryStore()
        below = FaultyBucket(MemoryBucket(store), rates=FaultRates(delay_min_seconds=1, delay_max_seconds=1))
        loop = asyncio.get_running_loop()
        loop.call_at(moment / 2, setattr, below, "outage", True)
        with pytest.raises(Unavailable):
            await send(retrying(below), large)
        below.outage = False
        await send(retrying(below), large)
        await check_object(store, LARGE)
        assert await open_uploads(MemoryBucket(store)) == []

    for moment in range(14):
        run(moment)


@pytest.mark.logs("are left until it is uploaded again", required=False)
def test_a_cancellation_at_any_moment_leaves_nothing_or_all(large: Path) -> None:
    """Whenever the caller loses interest: then there are no parts, and the object is whole or absent."""

    @on_virtual_time
    async def run(moment: int) -> bool:
        store = MemoryStore()
        below = FaultyBucket(
            MemoryBucket(store), rates=FaultRates(delay_min_seconds=0.4, delay_max_seconds=1.6), seed=moment
        )
        task = asyncio.create_task(send(retrying(below), large))
        await asyncio.sleep(moment / 4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await open_uploads(MemoryBucket(store)) == []
        if store.objects:
            await check_object(store, LARGE)
        return task.cancelled()

    outcomes = [run(moment) for moment in range(40)]
    assert outcomes.count(True) > 10
    assert outcomes.count(False) > 5


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, 4 * PART),
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(LARGE + b"more"),
        lambda path: path.write_bytes(OTHER),
    ],
    ids=["emptied", "cut", "cut short", "grown", "rewritten"],
)
def test_a_file_that_changes_meanwhile_is_refused(change: Callable[[Path], object], large: Path) -> None:
    """Whenever somebody writes to the file, the bucket gets all of what it was before, or nothing."""

    @on_virtual_time
    async def run(operation: str, skip: int) -> None:
        write(large, LARGE)
        os.utime(large, ns=(1, 1))
        store = MemoryStore()
        below = FaultyBucket(MemoryBucket(store))
        hold = below.hold(operation=operation)
        for _ in range(skip):
            hold.release()
        task = asyncio.create_task(send(below, large))
        await hold.wait_arrived()
        change(large)
        hold.release()
        with pytest.raises(Busy, match="large was changed"):
            await task
        assert store.objects == {}
        assert await open_uploads(MemoryBucket(store)) == []

    for operation in ("head", "create_upload", "put_part"):
        run(operation, 0)


def test_a_change_that_no_time_shows_is_seen_by_the_bytes(large: Path) -> None:
    """Size and time are as before, one byte is not: no part with it is sent."""
    before = large.stat()

    @on_virtual_time
    async def run() -> None:
        below = FaultyBucket(MemoryBucket())
        hold = below.hold(operation="create_upload")
        task = asyncio.create_task(send(below, large))
        await hold.wait_arrived()
        write(large, LARGE[: 3 * PART] + bytes([LARGE[3 * PART] ^ 1]) + LARGE[3 * PART + 1 :])
        os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
        hold.release()
        with pytest.raises(Busy):
            await task
        assert await open_uploads(below) == []

    run()


def test_what_is_wrong_with_the_local_file_is_told_by_the_system(tmp_path: Path) -> None:
    """Absent, a directory, a pipe: OSErrors that name it. A link made meanwhile is no change."""

    @on_virtual_time
    async def run() -> None:
        bucket = MemoryBucket()
        with pytest.raises(FileNotFoundError) as caught:
            await send(bucket, tmp_path / "absent")
        assert str(tmp_path / "absent") in str(caught.value)
        with pytest.raises(IsADirectoryError):
            await send(bucket, tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="pipe") as pipe:
            await send(bucket, tmp_path / "pipe")
        assert pipe.value.errno == errno.EINVAL
        (tmp_path / "file").write_bytes(LARGE)
        below = FaultyBucket(bucket)
        hold = below.hold(operation="put_part")
        task = asyncio.create_task(send(below, tmp_path / "file"))
        await hold.wait_arrived()
        os.link(tmp_path / "file", tmp_path / "link")
        (tmp_path / "file").unlink()
        hold.release()
        assert (await task).size_bytes == len(LARGE)

    run()


@on_virtual_time
async def test_an_open_descriptor_is_a_source_and_stays_open(large: Path) -> None:
    """It is the caller's: after the upload it can still be read."""
    store = MemoryStore()
    file = os.open(large, os.O_RDONLY)
    try:
        await upload(MemoryBucket(store), "dir/key", file, settings=SETTINGS, offload=inline)
        assert os.pread(file, 4, 0) == LARGE[:4]
    finally:
        os.close(file)
    await check_object(store, LARGE)


@pytest.mark.parametrize("name", ["small", "large"])
def test_sixteen_that_upload_the_same_all_succeed(name: str, tmp_path: Path) -> None:
    """One object, made once, whoever was first; with answers lost and requests failing, too."""
    data = SMALL if name == "small" else LARGE
    (tmp_path / name).write_bytes(data)

    @on_virtual_time
    async def run(seed: int) -> None:
        store = MemoryStore()
        rates = FaultRates(fail=0.05, lose_answer=0.05, delay_min_seconds=0.1, delay_max_seconds=3)
        sides = [FaultyBucket(MemoryBucket(store), rates=rates, seed=100 * seed + i) for i in range(16)]
        results = await asyncio.gather(*(send(retrying(side), tmp_path / name) for side in sides))
        await check_object(store, data)
        assert {result.etag for result in results} == {(await MemoryBucket(store).head("dir/key")).etag}
        assert [result.was_there for result in results].count(False) <= 1
        assert await open_uploads(MemoryBucket(store)) == []

    for seed in range(3):
        run(seed)


@pytest.mark.parametrize("size", [30_000, 4 * PART])
def test_of_sixteen_that_upload_different_things_one_wins(size: int, tmp_path: Path) -> None:
    """His object is there, whole; the others are told that it exists."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        rates = FaultRates(fail=0.05, lose_answer=0.05, delay_min_seconds=0.1, delay_max_seconds=3)
        contents = [Random(index).randbytes(size) for index in range(16)]
        for index, content in enumerate(contents):
            (tmp_path / str(index)).write_bytes(content)
        results = await asyncio.gather(
            *(
                send(
                    retrying(FaultyBucket(MemoryBucket(store), rates=rates, seed=index)),
                    tmp_path / str(index),
                )
                for index in range(16)
            ),
            return_exceptions=True,
        )
        won = [index for index, result in enumerate(results) if isinstance(result, Uploaded)]
        assert len(won) == 1
        assert all(isinstance(result, Uploaded | AlreadyExists) for result in results), results
        await check_object(store, contents[won[0]])
        assert await open_uploads(MemoryBucket(store)) == []

    run()


class WriteOnly(MemoryBucket):
    """A store that lets us write, and says of everything else that it is denied."""

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        raise Denied(f"object {key}: HTTP 403")

    async def list_uploads(
        self, *, prefix: str = "", priority: Priority = Priority.BACKGROUND
    ) -> UploadPages:
        for _ in range(0):
            yield []
        raise Denied("HTTP 403")


@pytest.mark.parametrize("operation", ["head", "get", "list_uploads", "complete_upload", "create_upload"])
def test_keys_that_have_ended_say_nothing_of_rights(small: Path, large: Path, operation: str) -> None:
    """An upload in whose midst the keys end fails with that, at whatever request, and not with a guess of
    what is there; with new keys it succeeds."""

    @on_virtual_time
    async def run() -> None:
        for path, data in ((small, SMALL), (large, LARGE)):
            for skip in range(3):
                store = MemoryStore()
                below = FaultyBucket(MemoryBucket(store))
                if path is small:
                    await send(below, path)  # it is there: what follows has to look
                below.plan(Fail(CredentialsRefused), operation=operation, skip=skip)
                try:
                    await send(below, path)
                except CredentialsRefused:
                    await send(below, path)
                await check_object(store, data)

    run()


def test_who_may_only_write_can_upload(small: Path, large: Path) -> None:
    """Nothing is looked at then. What is there is still not overwritten; that it has the same content cannot
    be known."""

    @on_virtual_time
    async def run() -> None:
        for path, data in ((small, SMALL), (large, LARGE)):
            store = MemoryStore()
            below = FaultyBucket(WriteOnly(store))
            assert not (await send(below, path)).was_there
            await check_object(store, data)
            sent_count = len(below.requests)
            with pytest.raises(AlreadyExists):
                await send(below, path)
            assert len(below.requests) < 2 * sent_count + 5
            assert store.uploads == {}

    run()


class Unconditional(MemoryBucket):
    """A store that answers 501 to conditions."""

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        if condition is not None:
            raise Unsupported(f"object {key}: HTTP 501 (NotImplemented)")
        return await super().put(key, data, attributes=attributes)


@pytest.mark.logs("does not keep to the condition that a name is free")
def test_a_store_without_conditional_puts_is_looked_at(small: Path, tmp_path: Path) -> None:
    """What is there is found before, and what replaced ours right after; the same content is success."""
    (tmp_path / "other").write_bytes(OTHER[:100])

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        bucket = Unconditional(store)
        assert not (await send(bucket, small)).was_there
        assert (await send(bucket, small)).was_there
        with pytest.raises(AlreadyExists):
            await send(bucket, tmp_path / "other")
        await check_object(store, SMALL)
        await bucket.delete("dir/key")
        below = FaultyBucket(bucket)
        hold = below.hold(operation="put", applied=True)
        hold.release()
        after = below.hold(operation="head", applied=False)
        task = asyncio.create_task(send(below, small))
        await after.wait_arrived()
        await MemoryBucket(store).put("dir/key", b"theirs")
        after.release()
        with pytest.raises(AlreadyExists):
            await task
        assert (await bucket.get("dir/key")).data == b"theirs"

    run()


@on_virtual_time
async def test_what_else_is_unsupported_stays_so(small: Path) -> None:
    """A put that the store refuses with and without a condition is Unsupported."""
    below = FaultyBucket(MemoryBucket())
    below.plan(Fail(Unsupported), operation="put", times=10)
    with pytest.raises(Unsupported):
        await send(below, small)
    assert [request.operation for request in below.requests].count("put") == 2


def test_who_is_cancelled_while_a_file_is_opened_leaves_no_descriptor(large: Path, tmp_path: Path) -> None:
    """Whenever that is: what a thread obtains too late, it gives back."""

    def count_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def run() -> None:
        records = UploadRecords(tmp_path / "records")
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(int)
        before = count_descriptors()
        for turns in range(30):
            task = loop.create_task(
                upload(MemoryBucket(), "dir/key", large, settings=SETTINGS, records=records)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await loop.shutdown_default_executor()
        await asyncio.sleep(0)
        assert count_descriptors() == before
        held = records.hold("memory://anonymous", "dir/key")
        assert held is not None
        held.end()

    asyncio.run(run())


class Careless(MemoryBucket):
    """A store that takes no notice of the condition of a completion."""

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await super().complete_upload(key, upload_id, parts)


@pytest.mark.logs("does not keep to the condition")
def test_a_store_that_ignores_the_condition_is_looked_at(large: Path, tmp_path: Path) -> None:
    """An object that was there before the completion is seen; one that replaced ours right after, too."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        below = FaultyBucket(Careless(store))
        hold = below.hold(operation="put_part")
        task = asyncio.create_task(send(below, large))
        await hold.wait_arrived()
        await MemoryBucket(store).put("dir/key", b"theirs, before")
        hold.release()
        with pytest.raises(AlreadyExists):
            await task
        assert (await MemoryBucket(store).get("dir/key")).data == b"theirs, before"

        store = MemoryStore()
        below = FaultyBucket(Careless(store))
        hold = below.hold(operation="complete_upload", applied=True)
        task = asyncio.create_task(send(below, large))
        await hold.wait_arrived()
        (tmp_path / "other").write_bytes(OTHER)
        await Careless(store).delete("dir/key")
        await send(Careless(store), tmp_path / "other")
        hold.release()
        with pytest.raises(AlreadyExists):
            await task
        await check_object(store, OTHER)

    run()


class TooShort(MemoryBucket):
    """A store that loses the end of what it completes."""

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await super().complete_upload(key, upload_id, parts[:-1], condition=condition)


@on_virtual_time
async def test_an_object_of_another_size_is_no_success(large: Path) -> None:
    """What the store made of the parts is looked at: a size that is not the file's is Corrupt."""
    with pytest.raises(Corrupt, match="bytes after an upload of"):
        await send(TooShort(), large)


@on_virtual_time
async def test_an_upload_that_somebody_aborts_begins_anew(large: Path) -> None:
    """Whoever sweeps too eagerly costs time, and no error."""
    store = MemoryStore()
    below = FaultyBucket(MemoryBucket(store))
    hold = below.hold(operation="put_part")
    task = asyncio.create_task(send(retrying(below), large))
    await hold.wait_arrived()
    (opened,) = await open_uploads(MemoryBucket(store))
    await MemoryBucket(store).abort_upload(opened.key, opened.upload_id)
    hold.release()
    assert not (await task).was_there
    await check_object(store, LARGE)
    assert [r.operation for r in below.requests].count("create_upload") == 2
    assert await open_uploads(MemoryBucket(store)) == []


async def killed(store: MemoryStore, path: Path, records: UploadRecords, parts_count: int) -> None:
    """As a process that was killed with so many parts in the bucket: nobody aborts, nobody ends the record,
    whose lock goes with the process."""
    below = FaultyBucket(MemoryBucket(store))
    below.plan(Fail(Denied), operation="put_part", skip=parts_count, times=1000)
    below.plan(Fail(Denied), operation="abort_upload", times=1000)
    with pytest.raises(Denied):
        await upload(
            below,
            "dir/key",
            path,
            settings=UploadSettings(whole_max_bytes=PART, part_size_bytes=PART, memory_bytes=1),
            records=records,
            offload=inline,
        )


@pytest.mark.logs("are left until it is uploaded again")
def test_a_killed_upload_is_resumed(large: Path, tmp_path: Path) -> None:
    """The next upload of the same file puts only the parts that are missing, though its settings differ, and
    forgets the record."""

    @on_virtual_time
    async def run(parts_count: int) -> None:
        store = MemoryStore()
        records = UploadRecords(tmp_path / "records")
        await killed(store, large, records, parts_count)
        below = FaultyBucket(MemoryBucket(store))
        reported: list[int] = []
        uploaded = await upload(
            retrying(below),
            "dir/key",
            large,
            settings=UploadSettings(whole_max_bytes=PART, part_size_bytes=2 * PART),
            records=records,
            progress=reported.append,
            offload=inline,
        )
        assert not uploaded.was_there
        operations = [request.operation for request in below.requests]
        assert operations.count("put_part") == 5 - parts_count
        assert "create_upload" not in operations
        assert reported[0] == parts_count * PART
        await check_object(store, LARGE)
        assert await open_uploads(below) == []
        assert list((tmp_path / "records").iterdir()) == []

    for parts_count in range(5):
        run(parts_count)


@pytest.mark.logs("are left until it is uploaded again")
def test_a_killed_upload_of_another_file_is_aborted(large: Path, tmp_path: Path) -> None:
    """The file is another one by now (of the same size, of another, a small one): nothing of the old upload
    gets into the object."""

    @on_virtual_time
    async def run(now: bytes) -> None:
        store = MemoryStore()
        records = UploadRecords(tmp_path / "records")
        write(large, LARGE)
        await killed(store, large, records, 3)
        write(large, now)
        await send(MemoryBucket(store), large, records=records)
        await check_object(store, now)
        assert await open_uploads(MemoryBucket(store)) == []

    run(OTHER)
    run(LARGE[: 3 * PART])
    run(LARGE + b"more")
    run(SMALL)


@pytest.mark.logs("are left until it is uploaded again")
@on_virtual_time
async def test_a_part_that_is_not_the_files_is_put_again(large: Path, tmp_path: Path) -> None:
    """A part in the bucket with another checksum, or another size, is replaced."""
    store = MemoryStore()
    records = UploadRecords(tmp_path / "records")
    await killed(store, large, records, 3)
    (opened,) = await open_uploads(MemoryBucket(store))
    await MemoryBucket(store).put_part(opened.key, opened.upload_id, 2, OTHER[:PART])
    await MemoryBucket(store).put_part(opened.key, opened.upload_id, 3, LARGE[2 * PART : 2 * PART + 9])
    await MemoryBucket(store).put_part(opened.key, opened.upload_id, 9, b"beyond the end")
    below = FaultyBucket(MemoryBucket(store))
    await send(below, large, records=records)
    assert [request.operation for request in below.requests].count("put_part") == 4
    await check_object(store, LARGE)


@pytest.mark.logs("are left until it is uploaded again")
@on_virtual_time
async def test_a_killed_upload_that_somebody_aborted_begins_anew(large: Path, tmp_path: Path) -> None:
    """The record names an upload that is gone."""
    store = MemoryStore()
    records = UploadRecords(tmp_path / "records")
    await killed(store, large, records, 3)
    (opened,) = await open_uploads(MemoryBucket(store))
    await MemoryBucket(store).abort_upload(opened.key, opened.upload_id)
    await send(MemoryBucket(store), large, records=records)
    await check_object(store, LARGE)
    assert list((tmp_path / "records").iterdir()) == []


@pytest.mark.logs("are left until it is uploaded again", "trying again in", required=False)
def test_a_sealed_file_is_uploaded_alike(large: Path, small: Path, tmp_path: Path) -> None:
    """Encrypted on its way: again, other content, faults, and a kill, whose upload nobody can go on with."""

    @on_virtual_time
    async def run() -> None:
        secret = Secret(bytes(32))
        for path, data in ((small, SMALL), (large, LARGE), (large, LARGE[: 4 * PART])):
            write(path, data)
            store = MemoryStore()
            records = UploadRecords(tmp_path / "records")
            below = FaultyBucket(MemoryBucket(store), rates=FaultRates(fail=0.1, lose_answer=0.1))
            below.plan(Fail(Denied), operation="complete_upload", times=3)
            below.plan(Fail(Denied), operation="abort_upload", times=3)
            if path == large:
                with pytest.raises(Denied):
                    await send(SealedBucket(retrying(below), secret), path, records=records)
            bucket = SealedBucket(retrying(MemoryBucket(store)), secret)
            assert not (await send(bucket, path, records=records)).was_there
            assert (await send(bucket, path, records=records)).was_there
            write(tmp_path / "other", data[::-1])
            with pytest.raises(AlreadyExists):
                await send(bucket, tmp_path / "other")
            found = await bucket.get("dir/key")
            assert found.data == data
            text = found.info.attributes.metadata[PIECES_METADATA]
            assert decode(text, len(data)) == sum_pieces([data])
            assert await open_uploads(bucket) == []

    run()


@pytest.mark.logs("are left until it is uploaded again")
@on_virtual_time
async def test_a_sweep_aborts_what_is_old_or_dead(large: Path, tmp_path: Path) -> None:
    """By record at once; by age only what is older, and below the prefix. What is alive stays."""
    store = MemoryStore()
    bucket = MemoryBucket(store)
    records = UploadRecords(tmp_path / "records")
    await killed(store, large, records, 2)
    live = await bucket.create_upload("dir/live", part_size_bytes=PART)
    elsewhere = await bucket.create_upload("elsewhere", part_size_bytes=PART)
    held = records.hold(bucket.url, "dir/live")
    assert held is not None
    later = datetime.now(UTC) + timedelta(hours=2)

    async def swept(hours: float, prefix: str = "dir/") -> int:
        return await sweep(
            bucket,
            prefix=prefix,
            older_than_seconds=hours * 3600,
            records=records,
            offload=inline,
            now=lambda: later,
        )

    assert await swept(3) == 1
    assert {opened.upload_id for opened in await open_uploads(bucket)} == {live, elsewhere}
    assert await swept(3) == 0
    assert await swept(1) == 1
    assert [opened.upload_id for opened in await open_uploads(bucket)] == [elsewhere]
    held.end()
    assert await swept(1, "") == 1
    assert await open_uploads(bucket) == []


class WithoutParts(MemoryBucket):
    """A store that takes no parts and little in one put."""

    @property
    def upload_limits(self) -> UploadLimits:
        return UploadLimits(put_size_max_bytes=len(LARGE) - 1, why_no_parts="install something")


@on_virtual_time
async def test_a_store_without_parts_takes_what_it_can(large: Path, small: Path) -> None:
    """One put as long as it fits; then Unsupported, which says what to do. There is nothing to sweep."""
    store = MemoryStore()
    bucket = WithoutParts(store)
    with pytest.raises(Unsupported, match="install something"):
        await send(bucket, large)
    await send(bucket, small)
    write(large, LARGE[:-1])
    await send(bucket, large, key="almost")
    await check_object(store, LARGE[:-1], "almost")
    assert await sweep(bucket, older_than_seconds=0, offload=inline) == 0


@pytest.mark.logs("are not remembered")
@on_virtual_time
async def test_records_that_cannot_be_kept_hold_up_nothing(large: Path, tmp_path: Path) -> None:
    """A directory that cannot be made costs the memory of uploads, and a line in the log."""
    (tmp_path / "file").write_bytes(b"")
    store = MemoryStore()
    await send(MemoryBucket(store), large, records=UploadRecords(tmp_path / "file" / "records"))
    await check_object(store, LARGE)


def test_files_are_read_by_threads_unless_told_otherwise(large: Path) -> None:
    """On a real loop, with nothing injected: the same."""
    store = MemoryStore()

    async def run() -> None:
        await upload(MemoryBucket(store), "dir/key", large, settings=SETTINGS)
        await check_object(store, LARGE)

    asyncio.run(run())
