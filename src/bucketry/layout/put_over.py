"""Putting an object over the one that was seen, as well as the store can."""

from bucketry.bucket.interface import Attributes, Bucket, IfMatch
from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Unsupported


async def put_over(bucket: Bucket, key: str, data: BytesLike, attributes: Attributes, etag: str) -> str:
    """Put the object in place of the one with this ETag; returns the new one. Raises PreconditionFailed when
    the object is another one by now.

    A store that refuses conditions gets a plain put: callers hold the volume's lease, and a volume has one
    writer.
    """
    try:
        return await bucket.put(key, data, attributes=attributes, condition=IfMatch(etag))
    except Unsupported:
        return await bucket.put(key, data, attributes=attributes)
