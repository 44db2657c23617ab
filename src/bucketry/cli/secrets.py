"""Where a password comes from: a file, a descriptor, the environment, the terminal; never an option's
value."""

import ctypes
import os
import sys
import termios
from collections.abc import Callable
from typing import TypeVar

import click

from bucketry.cli.options import Volume
from bucketry.cli.output import say
from bucketry.errors import Invalid, WrongPassword
from bucketry.files.key_file import read_key_file as read_key_file
from bucketry.settings import Secret

PASSWORD_VARIABLE = "BUCKETRY_PASSWORD"  # noqa: S105 - the name of the variable
#: s3backer's limit on a line of a password file.
PASSWORD_BYTES_MAX = 1022


T = TypeVar("T")


def given_password(volume: Volume) -> Secret | None:
    """The password that the options or the environment give; None when neither does. Raises Invalid for an
    empty one.

    The variable is taken out of the environment: nothing that this process starts, and nobody who looks at
    it, sees it.
    """
    from_environment = _take_variable(PASSWORD_VARIABLE)
    if volume.password_file is not None and volume.password_fd is not None:
        raise Invalid("give either --password-file or --password-fd")
    if volume.password_file is not None:
        return _first_line(volume.password_file.read_bytes(), str(volume.password_file))
    if volume.password_fd is not None:
        return _first_line(_read_descriptor(volume.password_fd), f"descriptor {volume.password_fd}")
    if from_environment is not None:
        if not from_environment:
            raise Invalid(f"${PASSWORD_VARIABLE} is empty")
        return Secret(from_environment)
    return None


def new_password(volume: Volume) -> Secret | None:
    """The password for a volume to be made: asked for twice when it is needed and not given."""
    given = given_password(volume)
    if volume.encrypt is None:
        if given is not None and (volume.password_file is not None or volume.password_fd is not None):
            raise Invalid("a password without --encrypt")
        return None
    if given is not None:
        return given
    _need_terminal("--encrypt needs a password")
    while True:
        typed = _ask("New password: ")
        if _ask("Repeat for confirmation: ") == typed:
            return typed
        say("the two passwords are not the same; once more", err=True)


def with_password(volume: Volume, run: Callable[[Secret | None], T]) -> T:
    """``run(password)`` with the password that is given; asked for when none is and the volume turns out to
    need one."""
    given = given_password(volume)
    try:
        return run(given)
    except WrongPassword as error:
        if given is not None and given.reveal().endswith(b"\r"):
            raise WrongPassword(
                f"{error} (the one that was given ends with a carriage return, which is part of it: "
                "is that a file with Windows line ends?)"
            ) from error
        if given is not None or not sys.stdin.isatty():
            raise
    return run(_ask("Password: "))


def _ask(question: str) -> Secret:
    """The line that somebody types at the terminal, unseen: its bytes, whatever the locale, so that it is the
    same as in a file. Raises click.Abort at the end of the input and for an empty line."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        terminal = os.dup(0)  # a terminal that is not this session's own
    try:
        before = termios.tcgetattr(terminal)
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        try:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
            os.write(terminal, question.encode())
            line = os.read(terminal, PASSWORD_BYTES_MAX + 2)
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
            os.write(terminal, b"\n")
    finally:
        os.close(terminal)
    if not line.strip(b"\r\n"):
        raise click.Abort
    return _first_line(line, "what was typed")


def _need_terminal(reason: str) -> None:
    if not sys.stdin.isatty():
        raise Invalid(f"{reason}: --password-file, --password-fd or ${PASSWORD_VARIABLE}")


def _first_line(data: bytes, source: str) -> Secret:
    """s3backer's rule: the first line, without its line feed and with anything else."""
    line = data.partition(b"\n")[0]
    if not line:
        raise Invalid(f"the password in {source} is empty")
    if len(line) > PASSWORD_BYTES_MAX:
        raise Invalid(f"the password in {source} is longer than {PASSWORD_BYTES_MAX} bytes")
    return Secret(line)


def _read_descriptor(descriptor: int) -> bytes:
    """Up to the end, a line feed, or more than a password can be."""
    data = b""
    try:
        while b"\n" not in data and len(data) <= PASSWORD_BYTES_MAX:
            more = os.read(descriptor, PASSWORD_BYTES_MAX + 1)
            if not more:
                break
            data += more
    except OSError as error:
        raise Invalid(f"descriptor {descriptor} cannot be read: {error.strerror}") from error
    return data


def _take_variable(name: str) -> bytes | None:
    """The value of an environment variable, which is then no more: not for children of this process, and not
    where the kernel shows the environment that it was started with, in /proc/PID/environ."""
    value = os.environb.get(name.encode())
    if value is not None:
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        address = libc.getenv(name.encode())
        if address is not None:
            ctypes.memset(address, ord("x"), len(value))
        del os.environb[name.encode()]
    return value
