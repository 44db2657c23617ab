"""The bucket as everything above uses it: the store, and its wrappers in their order.

::

    Retrying → Limited → … → Metered → the store

Retries come first, so that an attempt that waits for its next try holds no slot; the meter comes last, so
that it counts what the store counts.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Bucket
from bucketry.bucket.limited import Limited
from bucketry.bucket.location import Location, parse_url
from bucketry.bucket.metered import Metered
from bucketry.bucket.retrying import Retrying
from bucketry.errors import Unsupported
from bucketry.settings import BucketSettings
from bucketry.threads.descriptors import LEAST, requests_that_fit, soft_limit

_log = logging.getLogger(__name__)

#: A connection; in a directory an object's file, its directory and a lock.
_DESCRIPTORS_EACH = {"file": 3}


def locate(settings: BucketSettings) -> Location:
    """Where the bucket is, with the prefix that the settings say in place of the URL's. Raises Invalid."""
    location = parse_url(settings.url)
    return location if settings.prefix is None else replace(location, prefix=settings.prefix)


def fitted(settings: BucketSettings) -> BucketSettings:
    """The settings with as many requests at once as this process may have descriptors for. Raises Unsupported
    when there are too few for anything."""
    scheme = parse_url(settings.url).scheme
    if scheme == "memory":
        return settings
    limit = soft_limit()
    if limit is not None and limit < LEAST:
        raise Unsupported(
            f"a process may have only {limit} files open here, and {LEAST} are needed: ulimit -n {LEAST}"
        )
    wanted = settings.limits.requests_max
    count = requests_that_fit(wanted, descriptors_each=_DESCRIPTORS_EACH.get(scheme, 1))
    if count == wanted:
        return settings
    _log.info("%d requests at once instead of %d, for only %s files may be open", count, wanted, limit)
    return replace(settings, limits=replace(settings.limits, requests_max=count))


def layered(store: Bucket, settings: BucketSettings) -> Bucket:
    """``store`` within the limits and with the retries of ``settings``. Closing it closes the store."""
    return Retrying(Limited(store, settings.limits), settings.retry)


def stacked(
    settings: BucketSettings, *, wrap: Callable[[Bucket], Bucket] | None = None
) -> tuple[Bucket, str]:
    """The bucket at ``settings.url``, retrying, limited and metered, and the prefix of the keys in it. No
    request is sent. ``wrap`` puts a wrapper of the caller's right above the store, below the meter: faults on
    purpose, which count and are retried like the store's own. Raises what ``connect`` raises."""
    settings = fitted(settings)
    location = locate(settings)
    store = connect(settings)
    return layered(Metered(store if wrap is None else wrap(store)), settings), location.prefix
