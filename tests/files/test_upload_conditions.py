"""Stores that ignore the condition of a put: noticed, looked at before and after, and told once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from bucketry.bucket.conditions import PROBE_SUFFIX
from bucketry.bucket.interface import (
    NO_ATTRIBUTES,
    Attributes,
    BytesLike,
    Condition,
    Conditions,
    IfAbsent,
    ObjectInfo,
    Part,
)
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.codec.offload import inline
from bucketry.core.priority import Priority
from bucketry.errors import AlreadyExists, Denied
from bucketry.files.upload import Uploaded, upload
from bucketry.settings import UploadSettings
from bucketry.testing.faulty_bucket import Delay, FaultyBucket
from bucketry.testing.virtual_time import on_virtual_time

PART = 2 << 20
SETTINGS = UploadSettings(whole_max_bytes=PART, part_size_bytes=PART, memory_bytes=3 * PART)
#: One put that is put twice to find out, one put that is too large for that, and parts.
SIZES = {"small": 5, "whole": PART, "parts": PART + 1}
KEY = "dir/name"
TOLD = "does not keep to the condition that a name is free"


class Unknown(MemoryBucket):
    """A store of a kind that differs; this one keeps conditions."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self._conditions = Conditions(kept=None, differ=True)


class Ignoring(Unknown):
    """A store that answers every conditional put with success, and names a completed object by another ETag
    than the completion said."""

    async def put(
        self,
        key: str,
        data: BytesLike,
        *,
        attributes: Attributes = NO_ATTRIBUTES,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        return await super().put(key, data, attributes=attributes)

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        condition: Condition = None,
        priority: Priority = Priority.UPLOAD,
    ) -> str:
        await super().complete_upload(key, upload_id, parts)
        return '"of the parts"'


class Blind(Unknown):
    """A store whose user may put and nothing else."""

    async def head(self, key: str, *, priority: Priority = Priority.READ) -> ObjectInfo:
        raise Denied(f"object {key}: HTTP 403")

    async def delete(self, key: str, *, priority: Priority = Priority.UPLOAD) -> None:
        raise Denied(f"object {key}: HTTP 403")


class BlindAndIgnoring(Blind, Ignoring):
    pass


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    return SIZES[request.param]


@pytest.fixture
def file(size: int, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"1" * size)
    return path


@pytest.fixture
def other(size: int, tmp_path: Path) -> Path:
    path = tmp_path / "other"
    path.write_bytes(b"2" * size)
    return path


async def send(bucket: MemoryBucket | FaultyBucket, path: Path, key: str = KEY) -> Uploaded:
    return await upload(bucket, key, path, settings=SETTINGS, offload=inline)


@pytest.mark.logs(TOLD)
def test_a_file_is_not_replaced(size: int, file: Path, other: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a store that ignores conditions a new file is new, the same again was there, another content is
    refused; the user is told once, and nothing else is left."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        bucket = Ignoring(store)
        assert not (await send(bucket, file)).was_there
        assert (await send(bucket, file)).was_there
        with pytest.raises(AlreadyExists):
            await send(bucket, other)
        with pytest.raises(AlreadyExists):
            await send(Ignoring(store), other)
        assert not (await send(bucket, other, "dir/another")).was_there
        assert {key: bytes(data) for key, (_, data) in store.objects.items()} == {
            KEY: b"1" * size,
            "dir/another": b"2" * size,
        }
        assert store.uploads == {}
        assert bucket.conditions.kept is False

    run()
    assert [record.message.partition(" ")[2][: len(TOLD)] for record in caplog.records].count(TOLD) == 1


@pytest.mark.logs(TOLD, "was replaced while it was made", required=False)
def test_what_replaced_it_is_noticed(size: int, file: Path, other: Path) -> None:
    """Somebody puts another content between our put and the look after it: ours is refused."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        below = FaultyBucket(Ignoring(store))
        below.conditions.kept = False
        operation = "complete_upload" if size > PART else "put"
        hold = below.hold(operation=operation, applied=True)
        task = asyncio.create_task(send(below, file))
        await hold.wait_arrived()
        await MemoryBucket(store).put(KEY, b"2" * size)
        hold.release()
        with pytest.raises(AlreadyExists):
            await task
        assert bytes(store.objects[KEY][1]) == b"2" * size

    run()


def test_a_store_that_keeps_conditions_is_trusted_from_then_on(size: int, file: Path) -> None:
    """Finding out takes few requests, once; then a small file is one put again. Nothing is told."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        below = FaultyBucket(Unknown(store))
        await send(below, file)
        assert below.conditions.kept is True
        assert list(store.objects) == [KEY]
        done_count = len(below.requests)
        await send(below, file, "dir/another")
        if size <= PART:
            assert [request.operation for request in below.requests[done_count:]] == ["put"]

    run()


def test_of_many_at_once_one_finds_out(tmp_path: Path) -> None:
    """The others look before and after meanwhile; each file is put once, but for one."""
    names = [f"dir/{number}" for number in range(8)]
    for name in names:
        (tmp_path / name.replace("/", "-")).write_bytes(name.encode())

    @on_virtual_time
    async def run() -> None:
        below = FaultyBucket(Unknown(MemoryStore()))
        below.plan(Delay(0.1), times=100)
        await asyncio.gather(*(send(below, tmp_path / name.replace("/", "-"), name) for name in names))
        operations = [request.operation for request in below.requests]
        assert operations.count("put") == len(names) + 1
        assert below.conditions.kept is True

    run()


def test_a_refusal_tells_it_as_well(size: int, file: Path, other: Path) -> None:
    """A name that is taken is looked at, and stays; afterwards nobody knows more than before."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        await MemoryBucket(store).put(KEY, b"2" * size)
        bucket = Unknown(store)
        with pytest.raises(AlreadyExists):
            await send(bucket, file)
        assert bytes(store.objects[KEY][1]) == b"2" * size

    run()


def test_who_may_only_put_relies_on_the_condition(size: int, file: Path, other: Path) -> None:
    """Where nothing can be looked at, an object beside tells whether the store keeps conditions. It may
    have to stay."""

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        await send(Blind(store), file)
        with pytest.raises(AlreadyExists):
            await send(Blind(store), other)
        assert bytes(store.objects[KEY][1]) == b"1" * size
        assert set(store.objects) <= {KEY, KEY + PROBE_SUFFIX}

    run()


@pytest.mark.parametrize("size_bytes", [SIZES["small"], SIZES["whole"]])
def test_who_may_only_put_is_refused_by_a_store_that_ignores_conditions(
    size_bytes: int, tmp_path: Path
) -> None:
    """What is there could be replaced and nobody would know: nothing is put at its name."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size_bytes))

    @on_virtual_time
    async def run() -> None:
        store = MemoryStore()
        await MemoryBucket(store).put(KEY, b"theirs", condition=IfAbsent())
        with pytest.raises(Denied):
            await send(BlindAndIgnoring(store), path)
        assert bytes(store.objects[KEY][1]) == b"theirs"

    run()
