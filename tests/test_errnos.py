"""Our errors as errno."""

import errno
import re
from pathlib import Path

import pytest

from bucketry import errors
from bucketry.bucket.client_errors import _BY_STATUS
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


def test_the_documented_table_is_the_code() -> None:
    """docs/files.md names, for every error, the number that it gets here and the class that Python makes of
    it; and every code of a store that is known is in it or is an object's own affair."""
    text = (Path(__file__).parents[1] / "docs/files.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.fullmatch(r"\|[^|]+\|[^|]+\|[^|]*E[A-Z]+[^|]*\|[^|]+\|", line)
    ]
    named = set()
    for _, kinds, number, python in rows:
        for name in kinds.split(", "):
            named.add(name)
            kind = getattr(errors, name)
            raised = file_os_error(kind("x"))
            assert errno.errorcode[raised.errno or 0] in (number.partition(",")[0], "EOPNOTSUPP"), name
            assert type(raised).__name__ == python, name
            if raised.errno == errno.EOPNOTSUPP:
                assert number == "ENOTSUP"
    assert named >= {kind.__name__ for kind in FILE_ERRNOS if issubclass(kind, errors.BucketryError)} - {
        "BucketryError"
    }
    answers = " ".join(row[0] for row in rows)
    for status, kind in {404: "NotFound", **{k: v.__name__ for k, v in _BY_STATUS.items()}}.items():
        if str(status) not in answers:
            pytest.fail(f"{status} ({kind}) is not in docs/files.md")
