"""What the options and arguments of commands are made of.

Apart from the groups of options because a command that needs no settings starts sooner without them.
"""

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bucketry.bucket.location import looks_like_url
from bucketry.cli.output import say
from bucketry.core.units import exact_size, is_decimal_unit, parse_size
from bucketry.errors import Invalid, NotFound

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: The value of an option that was given without one. No word of a command line can be it.
BARE = "\0"


class SectionedOption(click.Option):
    """An option that help lists under ``section``."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SizeType(click.ParamType[int]):
    """Bytes, with s3backer's suffixes; 0 only with ``or_zero``."""

    name = "size"

    def __init__(self, *, or_zero: bool = False) -> None:
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            size_bytes = parse_size(value)
        except Invalid as error:
            self.fail(str(error), param, ctx)
        if not size_bytes and not self._or_zero:
            self.fail("0 is too small", param, ctx)
        if is_decimal_unit(value):
            # Somebody may have counted on fewer bytes, or more: what is taken is said before it is used.
            say(
                f"bucketry: {value.strip()} is taken for {exact_size(size_bytes)}: units are powers of 1024",
                err=True,
            )
        return size_bytes


class SecondsType(click.ParamType[float]):
    """A time in seconds, not negative; 0 only with ``or_zero``."""

    name = "seconds"

    def __init__(self, *, or_zero: bool = False) -> None:
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{value!r} is not a time in seconds", param, ctx)
        if not seconds and not self._or_zero:
            self.fail("0 seconds are too short", param, ctx)
        return seconds


class ModeType(click.ParamType[int]):
    """A file mode in octal."""

    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is not a file mode in octal, like 0640", param, ctx)
        return mode


class ExistingPath(click.ParamType[Path]):
    """Something local that exists, as its real path. Raises NotFound when it does not."""

    name = "path"

    def __init__(self, *, file: bool = True, directory: bool = False, resolve: bool = True) -> None:
        self._file = file
        self._directory = directory
        self._resolve = resolve

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        try:
            is_directory = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError as error:
            kind = "file" if self._file else "directory"
            hint = "" if param is None or param.param_type_name == "argument" else f" ({param.opts[0]})"
            raise NotFound(f"no such {kind}: {value}{hint}") from error
        if is_directory and not self._directory:
            self.fail(f"{value!r} is a directory", param, ctx)
        if not is_directory and not self._file:
            self.fail(f"{value!r} is not a directory", param, ctx)
        return Path(os.path.realpath(path)) if self._resolve else path


class MountPointType(click.ParamType[Path]):
    """A directory that may be a dead mount: it is not looked at. A URL is refused."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, str) and looks_like_url(value):
            self.fail(f"{value} is a URL: give the directory on which it is mounted", param, ctx)
        return Path(value)


class PlaceType(click.ParamType[str | Path]):
    """A bucket URL, as a string, or a directory on which a volume is mounted, as a path."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        if not isinstance(value, str):
            assert isinstance(value, Path)
            return value
        # What exists under that name is meant: a directory may be called s3:.
        return value if looks_like_url(value) and not os.path.lexists(value) else Path(value)


class OptionalValue(click.ParamType[str]):
    """The value of an option that may also stand alone: one of ``choices``, in either case, or BARE."""

    name = "value"

    def __init__(self, choices: Sequence[str]) -> None:
        self._choices = {choice.lower(): choice for choice in choices}

    def is_value(self, word: str) -> bool:
        """Whether ``word``, which follows the option, is its value."""
        return word.lower() in self._choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == BARE:
            return BARE
        if not self.is_value(value):
            self.fail(f"{value!r} is not one of {', '.join(self._choices.values())}", param, ctx)
        return self._choices[value.lower()]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        beginning = incomplete.lower()
        return [CompletionItem(choice) for low, choice in self._choices.items() if low.startswith(beginning)]


SIZE = SizeType()
SIZE_OR_ZERO = SizeType(or_zero=True)
SECONDS = SecondsType()
SECONDS_OR_ZERO = SecondsType(or_zero=True)
MODE = ModeType()
EXISTING_FILE = ExistingPath()
EXISTING_DIRECTORY = ExistingPath(file=False, directory=True)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
url_argument = click.argument("url", metavar="URL")
directory_argument = click.argument("directory", metavar="DIR", type=MountPointType())
#: What can be asked of the bucket, or of the process that serves it.
place_argument = click.argument("where", metavar="URL|DIR", type=PlaceType())
