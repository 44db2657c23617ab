"""Putting an object that must not be there yet, as well as the store can."""

from bucketry.bucket.interface import Attributes, Bucket, IfAbsent
from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Unsupported


async def put_new(
    bucket: Bucket, key: str, data: BytesLike, attributes: Attributes, *, replace: bool = False
) -> None:
    """Put the object, over another only with ``replace``. Raises AlreadyExists.

    A store that refuses conditions gets a plain put: callers have looked before, and between the look and
    the put somebody else may come, as with s3backer itself.
    """
    try:
        await bucket.put(key, data, attributes=attributes, condition=None if replace else IfAbsent())
    except Unsupported:
        await bucket.put(key, data, attributes=attributes)
