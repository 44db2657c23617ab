"""Keeping the object of a damaged block, before the block of a disk that is in use is made zero."""

from datetime import UTC, datetime

from bucketry.bucket.interface import Bucket
from bucketry.core.geometry import Geometry
from bucketry.core.names import kept_key
from bucketry.errors import Corrupt, Invalid, NotFound, Unsupported
from bucketry.layout.interface import Layout
from bucketry.layout.put_new import put_new
from bucketry.layout.volume import Volume

#: A block that is compressed and encrypted is a little larger than itself. What is far larger is not read
#: into memory.
_BODY_SLACK_BYTES = 64 << 10


async def keep_damaged(
    bucket: Bucket, found: Volume, layout: Layout, geometry: Geometry, block: int
) -> str | None:
    """Copy the object of a block, if it is damaged, as it is; the copy's key. None when it can be read, or is
    not there. Raises Unsupported for what cannot be kept, and for block 0 of an s3backer volume, whose size
    is written on it."""
    if not 0 <= block < geometry.block_count:
        raise Invalid(f"there is no block {block}")
    try:
        await layout.read(geometry.extent(block))
    except Corrupt:
        pass
    else:
        return None
    if block == 0 and found.kind == "s3backer":
        raise Unsupported(
            "block 0 of this volume says its size: it is repaired while the disk is not attached"
        )
    key = found.names.key(block)
    try:
        if (await bucket.head(key)).size_bytes > 2 * geometry.block_size_bytes + _BODY_SLACK_BYTES:
            raise Unsupported(f"{key} is too large to be put aside")
        stored = await bucket.get(key)
    except NotFound:
        return None
    kept = kept_key(found.prefix, key, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    await put_new(bucket, kept, stored.data, stored.info.attributes, replace=True)
    return kept
