"""The mount token: s3backer's bytes, one winner, and nobody's token taken away."""

import asyncio
from datetime import UTC, datetime

import pytest

from bucketry.bucket.interface import Attributes
from bucketry.bucket.memory import MemoryBucket
from bucketry.errors import Busy, NotFound
from bucketry.layout.mount_token import (
    SHARED,
    MountToken,
    check_not_mounted,
    clear_token,
    new_value,
    read_token,
    release_token,
    take_token,
)
from bucketry.testing.faulty_bucket import Fail, FaultyBucket

KEY = "p/s3backer-mounted"
NOW = datetime(2026, 11, 21, 18, 19, 17, tzinfo=UTC)


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


async def put_token(bucket: MemoryBucket, metadata: dict[str, str], body: bytes = b"") -> None:
    await bucket.put(KEY, body, attributes=Attributes(metadata=metadata))


async def test_it_is_s3backers(bucket: MemoryBucket) -> None:
    """Eight hexadecimal digits in the metadata; host and time in the body."""
    await take_token(bucket, "p/", 0xABC, host="vm", now=NOW)
    found = await bucket.get(KEY)
    assert found.data == b"vm\n20261121T181917Z\n"
    assert found.info.attributes == Attributes("text/plain", None, {"s3backer-mount-token": "00000abc"})
    assert await read_token(bucket, "p/") == MountToken(0xABC, "vm", "20261121T181917Z")


async def test_a_second_mount_is_refused(bucket: MemoryBucket) -> None:
    """The error says who has it and since when."""
    await check_not_mounted(bucket, "p/")
    await take_token(bucket, "p/", 1, host="vm", now=NOW)
    message = r"memory://anonymous/p/: in use by vm since 20261121T181917Z"
    with pytest.raises(Busy, match=message):
        await take_token(bucket, "p/", 2, host="other", now=NOW)
    with pytest.raises(Busy, match=message):
        await check_not_mounted(bucket, "p/")
    assert await read_token(bucket, "p/") == MountToken(1, "vm", "20261121T181917Z")


async def test_only_one_of_many_wins(bucket: MemoryBucket) -> None:
    """Whoever starts at the same time."""
    starts = [take_token(bucket, "p/", value, host="vm", now=NOW) for value in range(1, 6)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Busy) for result in results) == 4


async def test_the_store_decides_who_wins(bucket: MemoryBucket) -> None:
    """Whoever saw no token but comes second with the put is refused all the same."""
    await take_token(bucket, "p/", 1, host="vm", now=NOW)
    blind = FaultyBucket(bucket)
    blind.plan(Fail(NotFound), operation="head")
    with pytest.raises(Busy, match="in use by vm since"):
        await take_token(blind, "p/", 2, host="other", now=NOW)


async def test_force_replaces_it_and_the_loser_leaves_it(bucket: MemoryBucket) -> None:
    """Whoever was pushed out does not take the new owner's token away."""
    await take_token(bucket, "p/", 1, host="vm", now=NOW)
    await take_token(bucket, "p/", 2, host="other", now=NOW, force=True)
    await release_token(bucket, "p/", 1)
    token = await read_token(bucket, "p/")
    assert token is not None
    assert token.value == 2
    await release_token(bucket, "p/", 2)
    assert await read_token(bucket, "p/") is None
    await release_token(bucket, "p/", 2)


async def test_clearing_takes_any(bucket: MemoryBucket) -> None:
    """Also where none is."""
    await put_token(bucket, {"s3backer-mount-token": "00000007"})
    await clear_token(bucket, "p/")
    await clear_token(bucket, "p/")
    assert await read_token(bucket, "p/") is None


@pytest.mark.parametrize(
    ("metadata", "value"),
    [
        ({}, 1),
        ({"s3backer-mount-token": "1234abcd"}, 0x1234ABCD),
        ({"s3backer-mount-token": '"1234abcd"'}, 0x1234ABCD),
        ({"s3backer-mount-token": "7fffffff"}, SHARED),
        ({"s3backer-mount-token": "garbage"}, 1),
        ({"s3backer-mount-token": "00000000"}, 1),
        ({"s3backer-mount-token": ""}, 1),
    ],
)
async def test_any_token_object_means_mounted(
    bucket: MemoryBucket, metadata: dict[str, str], value: int
) -> None:
    """Old versions wrote no number; whatever cannot be read is still a token."""
    await put_token(bucket, metadata)
    token = await read_token(bucket, "p/")
    assert token is not None
    assert token.value == value
    with pytest.raises(Busy):
        await check_not_mounted(bucket, "p/")


async def test_shared_disk_mode_is_named(bucket: MemoryBucket) -> None:
    """Several s3backers at once: there is no single owner to name."""
    await put_token(bucket, {"s3backer-mount-token": "7fffffff"}, b"vm\n20261121T181917Z\n")
    with pytest.raises(Busy, match="shared disk mode"):
        await check_not_mounted(bucket, "p/")


@pytest.mark.parametrize(
    ("body", "host", "since"),
    [
        (b"", None, None),
        (b"vm", "vm", None),
        (b"vm\n", "vm", None),
        (b"\n20261121T181917Z\n", None, "20261121T181917Z"),
        (b"evil\x1b[31m\x00host\nthen\nmore\n", "evil[31mhost", "then"),
        (b"\xff\xfe\n", "��", None),
        (b"h" * 4000, "h" * 64, None),
        (b"h" * 100_000, None, None),
    ],
)
async def test_the_body_is_only_for_the_eye(
    bucket: MemoryBucket, body: bytes, host: str | None, since: str | None
) -> None:
    """Anything may be in it; only printable characters, and not many, reach a message."""
    await put_token(bucket, {"s3backer-mount-token": "00000007"}, body)
    assert await read_token(bucket, "p/") == MountToken(7, host, since)


def test_new_values_are_s3backers() -> None:
    """Above 0, and never the one of shared disks."""
    values = {new_value() for _ in range(1000)}
    assert len(values) > 900
    assert all(0 < value < SHARED for value in values)
