"""A bucket that is changed only while we may."""

import pytest

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.memory import MemoryBucket
from bucketry.errors import Fenced
from bucketry.testing.virtual_time import on_virtual_time


def _closed() -> None:
    raise Fenced("somebody else may write now")


@on_virtual_time
async def test_nothing_changes_behind_a_closed_fence() -> None:
    """Every verb that changes something is refused while the fence is closed; reads and listings go on."""
    fence = Fence()
    bucket = FencedBucket(MemoryBucket(), fence)
    await bucket.put("key", b"x")
    upload_id = await bucket.create_upload("up", part_size_bytes=10)
    part = await bucket.put_part("up", upload_id, 1, b"x")
    fence.guard_with(_closed)
    for call in (
        lambda: bucket.put("key", b"y"),
        lambda: bucket.delete("key"),
        lambda: bucket.delete_many(["key"]),
        lambda: bucket.create_upload("up", part_size_bytes=10),
        lambda: bucket.put_part("up", upload_id, 2, b"x"),
        lambda: bucket.complete_upload("up", upload_id, [part]),
        lambda: bucket.abort_upload("up", upload_id),
    ):
        with pytest.raises(Fenced):
            await call()
    assert (await bucket.get("key")).data == b"x"
    assert [len(page) async for page in bucket.list_uploads()] == [1]
    fence.guard_with(None)
    await bucket.complete_upload("up", upload_id, [part])
    assert (await bucket.get("up")).data == b"x"
