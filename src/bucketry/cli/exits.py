"""What a failure is to a script: the one table from errors to exit codes, and the one line on standard
error."""

import click

from bucketry.errors import (
    AlreadyExists,
    BucketryError,
    Busy,
    Denied,
    Invalid,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    ReadOnly,
    TakenOver,
    Unfinished,
)

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
BUSY = 5
UNFINISHED = 6
LOST = 7
#: 128 + SIGINT, as a shell has it.
INTERRUPTED = 130

#: What --help and docs/commands.md say about each.
MEANINGS = {
    OK: "done",
    FAILED: "failed: the bucket cannot be reached, bytes are damaged, the system refuses",
    USAGE: "wrong usage, or the volume is not what the options say",
    NOT_FOUND: "no such bucket, volume, file or directory",
    DENIED: "the store denies access, or the password is wrong",
    BUSY: "in use: the volume is mounted elsewhere, or the mount point or filesystem is busy",
    UNFINISHED: "not everything is in the bucket yet; it is still held, and still being tried",
    LOST: "somebody else took the volume over; what is said not to have reached the bucket is lost",
    INTERRUPTED: "interrupted, and cleaned up",
}

#: The most specific class of an error decides; what is not here is FAILED.
CODES: dict[type[BaseException], int] = {
    Invalid: USAGE,
    AlreadyExists: USAGE,
    ReadOnly: USAGE,
    NotFound: NOT_FOUND,
    Denied: DENIED,
    Busy: BUSY,
    PreconditionFailed: BUSY,
    Unfinished: UNFINISHED,
    TakenOver: LOST,
    BucketryError: FAILED,
    click.UsageError: USAGE,
    click.Abort: INTERRUPTED,
    KeyboardInterrupt: INTERRUPTED,
    FileNotFoundError: NOT_FOUND,
    NotADirectoryError: USAGE,
    IsADirectoryError: USAGE,
    # The system's refusals, in contrast to the store's.
    NotPermitted: FAILED,
    PermissionError: FAILED,
    FileExistsError: USAGE,
}


class Reported(click.ClickException):
    """A failure in another process, which knew its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    if isinstance(error, Reported):
        return error.code
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), FAILED)


def one_line(error: BaseException) -> str:
    """What to tell a person: no traceback, no secrets (which our messages never hold)."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            text = "interrupted"
        case click.ClickException():
            text = error.format_message()
        case BucketryError():
            text = str(error)
        case OSError(strerror=str(reason), filename=name):
            text = f"{reason}: {name}" if name else reason
        case _:
            text = f"internal error, please report: {type(error).__name__}: {error}"
    return " ".join(text.split()) or type(error).__name__


def report(error: BaseException) -> dict[str, object]:
    """The same for a program."""
    return {"kind": type(error).__name__, "message": one_line(error), "exit_code": exit_code(error)}


def unwrap(error: BaseException) -> BaseException:
    """The first error inside a group: when several tasks fail, one of them tells the story."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
