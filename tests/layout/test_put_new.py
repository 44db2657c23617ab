"""Putting what must not be there yet."""

import pytest

from bucketry.bucket.interface import NO_ATTRIBUTES, Attributes
from bucketry.bucket.memory import MemoryBucket
from bucketry.errors import AlreadyExists, Unsupported
from bucketry.layout.put_new import put_new
from bucketry.testing.faulty_bucket import Fail, FaultyBucket


async def test_only_the_first_is_put() -> None:
    """Unless the second is told to replace it."""
    bucket = MemoryBucket()
    await put_new(bucket, "key", b"first", Attributes(content_type="text/plain"))
    with pytest.raises(AlreadyExists):
        await put_new(bucket, "key", b"second", NO_ATTRIBUTES)
    assert (await bucket.get("key")).data == b"first"
    assert (await bucket.head("key")).attributes.content_type == "text/plain"
    await put_new(bucket, "key", b"third", NO_ATTRIBUTES, replace=True)
    assert (await bucket.get("key")).data == b"third"


async def test_a_store_without_conditions_gets_a_plain_put() -> None:
    """Better than not being able to use it at all: its users have only s3backer's own protection."""
    bucket = FaultyBucket(MemoryBucket())
    bucket.plan(Fail(Unsupported))
    await put_new(bucket, "key", b"first", NO_ATTRIBUTES)
    assert (await bucket.get("key")).data == b"first"
