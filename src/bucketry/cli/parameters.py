"""What the options and arguments of commands are made of.

Apart from the groups of options because a command that needs no settings starts sooner without them.
"""

import math
from pathlib import Path
from typing import Any

import click

from bucketry.core.units import parse_size
from bucketry.errors import Invalid

#: What --encrypt means alone. Not s3backer's (128 bits), which its --encrypt then has to be told.
DEFAULT_CIPHER = "AES-256-CBC"


class SectionedOption(click.Option):
    """An option that help lists under ``section``."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SizeType(click.ParamType[int]):
    """Bytes, with s3backer's suffixes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except Invalid as error:
            self.fail(str(error), param, ctx)


class SecondsType(click.ParamType[float]):
    """A time in seconds, not negative."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{value!r} is not a time in seconds", param, ctx)
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


SIZE = SizeType()
SECONDS = SecondsType()
MODE = ModeType()
EXISTING_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)
#: A directory that may be a dead mount: not looked at here.
DIRECTORY = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
url_argument = click.argument("url", metavar="URL")
directory_argument = click.argument("directory", metavar="DIR", type=DIRECTORY)
