"""Our errors as errno."""

import errno

import pytest

from bucketry import errors
from bucketry.serve.errnos import errno_of


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
