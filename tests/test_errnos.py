"""Our errors as errno."""

import errno

import pytest

from bucketry import errors
from bucketry.errnos import ERRNOS, FILE_ERRNOS, errno_of, file_errno_of, file_os_error


@pytest.mark.parametrize(
    ("problem", "number"),
    [
        (errors.Corrupt("x"), errno.EIO),
        (errors.Throttled("x"), errno.EIO),
        (errors.BucketNotFound("x"), errno.EIO),
        (errors.Mismatch("x"), errno.EINVAL),
        (errors.WrongPassword("x"), errno.EACCES),
        (errors.ReadOnly("x"), errno.EROFS),
        (errors.Closed("x"), errno.ESHUTDOWN),
        (MemoryError(), errno.ENOMEM),
        (KeyError("x"), errno.EIO),
    ],
)
def test_the_most_specific_class_decides(problem: Exception, number: int) -> None:
    """A class without an entry of its own is as its parent, and what is not ours is EIO."""
    assert errno_of(problem) == number


@pytest.mark.parametrize(
    ("problem", "number", "kind"),
    [
        (errors.NotFound("x"), errno.ENOENT, FileNotFoundError),
        (errors.BucketNotFound("x"), errno.ENXIO, OSError),
        (errors.AlreadyExists("x"), errno.EEXIST, FileExistsError),
        (errors.PreconditionFailed("x"), errno.ESTALE, OSError),
        (errors.WrongPassword("x"), errno.EACCES, PermissionError),
        (errors.Invalid("x"), errno.EINVAL, OSError),
        (errors.Busy("x"), errno.EBUSY, OSError),
        (errors.ReadOnly("x"), errno.EROFS, OSError),
        (errors.Unsupported("x"), errno.ENOTSUP, OSError),
        (errors.Throttled("x"), errno.EAGAIN, BlockingIOError),
        (errors.Corrupt("x"), errno.EIO, OSError),
        (errors.Fenced("x"), errno.EIO, OSError),
        (errors.Closed("x"), errno.EBADF, OSError),
        (MemoryError(), errno.ENOMEM, OSError),
        (KeyError("x"), errno.EIO, OSError),
        (OSError("no number"), errno.EIO, OSError),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC, OSError),
    ],
)
def test_files_say_more_than_disks(problem: Exception, number: int, kind: type[OSError]) -> None:
    """Files have numbers of their own, Python's class follows from them, and the text stays."""
    assert file_errno_of(problem) == number
    raised = file_os_error(problem)
    assert type(raised) is kind
    assert raised.errno == number
    assert raised.args[1]


def test_a_missing_bucket_is_never_a_missing_file() -> None:
    """No error that says anything else than "this file is absent" gives ENOENT."""
    absent = [kind for kind, number in {**ERRNOS, **FILE_ERRNOS}.items() if number == errno.ENOENT]
    assert absent == [errors.NotFound]
    assert file_errno_of(errors.BucketNotFound("x")) != errno.ENOENT
