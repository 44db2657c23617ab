"""Whether a store keeps to the condition that a key is free: its kind says so, or a put that it must refuse.

Some servers that speak S3 ignore ``If-None-Match`` and answer 200, so a put that succeeded does not show
whether the condition was looked at. A second put of the same bytes over the first one does.
"""

import logging

from bucketry.bucket.interface import Attributes, Bucket, BytesLike, Conditions, IfAbsent
from bucketry.core.priority import Priority
from bucketry.errors import AlreadyExists, BucketryError, PreconditionFailed, Unsupported

_log = logging.getLogger(__name__)
#: What the user of a store should know of it: the command line shows what this logger is told.
_notices = logging.getLogger("bucketry.notices")

#: Comes after the key of an object that is about to be put: rights that cover one cover the other.
PROBE_SUFFIX = ".bucketry-probe"


def warn_once(conditions: Conditions, message: str, *arguments: object) -> None:
    """Tell the user what the store cannot do and what follows from it, once for each bucket."""
    if not conditions.has_warned:
        conditions.has_warned = True
        _notices.warning(message, *arguments)


async def find_out(
    bucket: Bucket, key: str, data: BytesLike, attributes: Attributes, priority: Priority
) -> None:
    """Put an object that is there already once more, with its own bytes, which a store that keeps conditions
    refuses. Sets ``bucket.conditions.kept``."""
    bucket.conditions.is_tried = True
    try:
        await bucket.put(key, data, attributes=attributes, condition=IfAbsent(), priority=priority)
    except (AlreadyExists, PreconditionFailed):
        bucket.conditions.kept = True
    except Unsupported:
        bucket.conditions.kept = False
    else:
        bucket.conditions.kept = False
    finally:
        bucket.conditions.is_tried = False


async def find_out_beside(bucket: Bucket, key: str, priority: Priority) -> None:
    """The same with a small object of its own beside ``key``, which is deleted again."""
    probe = key + PROBE_SUFFIX
    attributes = Attributes(content_type="text/plain")
    try:
        await bucket.put(probe, b"", attributes=attributes, condition=IfAbsent(), priority=priority)
    except AlreadyExists:
        # Left by a process that was killed, or could not delete it.
        bucket.conditions.kept = True
    except Unsupported:
        bucket.conditions.kept = False
        return
    else:
        await find_out(bucket, probe, b"", attributes, priority)
    try:
        await bucket.delete(probe, priority=priority)
    except BucketryError as error:
        _log.info("%s: %s, an empty object, is left: %s", bucket.url, probe, error)
