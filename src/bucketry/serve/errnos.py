"""Our errors as errno: the one table for every face that answers in numbers."""

import errno
from typing import Final

from bucketry import errors

#: The most specific class of an error decides. What a store or its contents did wrong is EIO, whatever it
#: was: who reads or writes a disk expects no other failure, and "no such file" from a read would send people
#: looking in the wrong place.
ERRNOS: Final[dict[type[BaseException], int]] = {
    errors.BucketryError: errno.EIO,
    errors.Invalid: errno.EINVAL,
    errors.Denied: errno.EACCES,
    errors.Busy: errno.EBUSY,
    errors.ReadOnly: errno.EROFS,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.Closed: errno.ESHUTDOWN,
    MemoryError: errno.ENOMEM,
}


def errno_of(problem: BaseException) -> int:
    """The number for ``problem``; EIO for everything that the table does not know."""
    return next((ERRNOS[kind] for kind in type(problem).__mro__ if kind in ERRNOS), errno.EIO)
