"""Errors become exit codes and one line."""

import click
import pytest

from bucketry import errors
from bucketry.cli.exits import CODES, MEANINGS, Reported, exit_code, one_line, unwrap
from bucketry.errors import BucketryError


def every_error() -> list[type[BucketryError]]:
    kinds = [BucketryError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return kinds


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_documented_code(kind: type[BucketryError]) -> None:
    """Whatever class an error is of, its code is one that --help explains."""
    assert exit_code(kind("reason")) in MEANINGS
    assert exit_code(kind("reason")) != 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Unavailable("x"), 1),
        (errors.Corrupt("x"), 1),
        (errors.Mismatch("x"), 2),
        (errors.AlreadyExists("x"), 2),
        (errors.BucketNotFound("x"), 3),
        (errors.WrongPassword("x"), 4),
        (errors.Busy("x"), 5),
        (errors.Unfinished("x"), 6),
        (FileNotFoundError(2, "No such file", "x"), 3),
        (errors.Denied("x"), 4),
        # What this machine refuses is not what the store denies.
        (PermissionError(13, "Permission denied", "x"), 1),
        (errors.NotPermitted("x"), 1),
        (OSError(28, "No space left"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("x"), 2),
        (Reported("x", 5), 5),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_codes(error: BaseException, code: int) -> None:
    """The most specific class decides, and what nobody thought of is a failure."""
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (errors.Busy("two\nlines"), "two lines"),
        (errors.Busy(""), "Busy"),
        (FileNotFoundError(2, "No such file", "/x"), "No such file: /x"),
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("x"), "internal error, please report: ValueError: x"),
    ],
)
def test_an_error_is_one_line(error: BaseException, line: str) -> None:
    """Whatever an error says, a person reads one line."""
    assert one_line(error) == line


def test_of_a_group_the_first_tells_the_story() -> None:
    """Tasks that fail together raise groups, perhaps nested."""
    inner = errors.Busy("x")
    assert unwrap(ExceptionGroup("a", [ExceptionGroup("b", [inner]), ValueError()])) is inner


def test_the_table_names_no_undocumented_code() -> None:
    """MEANINGS and CODES belong together."""
    assert set(CODES.values()) <= set(MEANINGS)
