"""Our errors as errno: the tables for every face that answers in numbers.

The most specific class of an error decides; what a table does not know is EIO. Disks and files have a table
each, because "no such file" means something to who opens a file and misleads who reads a disk.
"""

import errno
from collections.abc import Mapping
from typing import Final

from bucketry import errors

#: For disks. What a store or its contents did wrong is EIO, whatever it was: who reads or writes a disk
#: expects no other failure, and "no such file" from a read would send people looking in the wrong place.
ERRNOS: Final[Mapping[type[BaseException], int]] = {
    errors.BucketryError: errno.EIO,
    errors.Invalid: errno.EINVAL,
    errors.Denied: errno.EACCES,
    errors.NotPermitted: errno.EPERM,
    errors.Busy: errno.EBUSY,
    errors.ReadOnly: errno.EROFS,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.Closed: errno.ESHUTDOWN,
    MemoryError: errno.ENOMEM,
}

#: For files. docs/files.md shows it together with the answers of a store that lead here.
FILE_ERRNOS: Final[Mapping[type[BaseException], int]] = {
    errors.BucketryError: errno.EIO,
    errors.Invalid: errno.EINVAL,
    errors.NotFound: errno.ENOENT,
    # Never ENOENT: a storage engine takes that from a flush for "the table was dropped", and forgets the
    # file. ENXIO is what a device that has gone says, and no class of Python's that is caught for absence.
    errors.BucketNotFound: errno.ENXIO,
    errors.AlreadyExists: errno.EEXIST,
    # As NFS says when the file behind a handle was replaced.
    errors.PreconditionFailed: errno.ESTALE,
    errors.UploadGone: errno.EAGAIN,
    errors.Denied: errno.EACCES,
    errors.Busy: errno.EBUSY,
    errors.ReadOnly: errno.EROFS,
    errors.Unsupported: errno.EOPNOTSUPP,
    # "Temporarily unavailable": after all retries. The storage source that we replace says so for a 500, too.
    errors.Unavailable: errno.EAGAIN,
    # Not EBADMSG, though two filesystems use it: what reads files knows EIO as "the data cannot be read".
    errors.Corrupt: errno.EIO,
    errors.Closed: errno.EBADF,
    MemoryError: errno.ENOMEM,
}


def errno_of(problem: BaseException) -> int:
    """The number for ``problem`` of a disk; EIO for everything that the table does not know."""
    return _look_up(problem, ERRNOS)


def file_errno_of(problem: BaseException) -> int:
    """The number for ``problem`` of a file. An OSError (a local file's) keeps its own."""
    if isinstance(problem, OSError) and problem.errno is not None:
        return problem.errno
    return _look_up(problem, FILE_ERRNOS)


def file_os_error(problem: BaseException) -> OSError:
    """What a synchronous face raises ``from`` the problem of a file: Python makes a FileNotFoundError,
    FileExistsError, PermissionError … of the number. An OSError is given back as it is."""
    if isinstance(problem, OSError) and problem.errno is not None:
        return problem
    return OSError(file_errno_of(problem), str(problem) or type(problem).__name__)


def _look_up(problem: BaseException, table: Mapping[type[BaseException], int]) -> int:
    return next((table[kind] for kind in type(problem).__mro__ if kind in table), errno.EIO)
