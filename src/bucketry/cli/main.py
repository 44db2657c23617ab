"""The ``bucketry`` command: its parts, and how it ends."""

import contextlib
import importlib
import itertools
import logging
import os
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any, ClassVar

import click

from bucketry import __version__
from bucketry.cli.command import CommandGroup
from bucketry.cli.exits import exit_code, one_line, report, unwrap
from bucketry.cli.output import say, say_json_error, say_traceback
from bucketry.serve import notices
from bucketry.serve.log_lines import LineFormatter
from bucketry.threads.descriptors import fill_standard_of_python, raise_limit

#: By it a shell asks which words could come next.
_COMPLETION_VARIABLE = "_BUCKETRY_COMPLETE"


#: Where each command is: a module of this room, and a name in it.
_COMMANDS = {
    "attach": ("attach", "attach"),
    "check": ("check", "check"),
    "create": ("create", "create"),
    "demo": ("demo", "demo"),
    "erase": ("erase", "erase"),
    "export": ("images", "export_command"),
    "files": ("files", "files"),
    "import": ("images", "import_command"),
    "info": ("info", "info"),
    "journal": ("journal", "journal"),
    "mount": ("attach", "mount"),
    "refresh": ("refresh", "refresh"),
    "resize": ("resize", "resize"),
    "stats": ("info", "stats"),
    "umount": ("umount", "umount"),
    "unlock": ("unlock", "unlock"),
}


class _Commands(CommandGroup):
    """A command is loaded when it is asked for: with all of them each one would start a tenth of a second
    later."""

    #: What other programs call them.
    synonyms: ClassVar = {"unmount": "umount", "detach": "umount", "delete": "erase", "remove": "erase"}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"bucketry.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands,
    no_args_is_help=False,
    hint="bucketry --help lists the commands, and bucketry demo shows what they do",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Tell more, tracebacks included.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Keep disks and write-once files in an object-store bucket.

    URLs are s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///directory or
    memory://name. Credentials come from the usual places (AWS_ACCESS_KEY_ID and its like, profiles, instance
    metadata) or from --access-file.
    """
    context.obj = debug
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(name)s: %(message)s", debug=debug))
    handler.addFilter(lambda record: record.name != notices.NOTICES)
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL, handlers=[handler])
    # What a command waits for, and the like.
    notices.tell(lambda line, _: say(f"bucketry: {line}", err=True))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. What goes wrong is one line on standard error, and with ``--json``
    in the object on standard output as well."""
    meta: MutableMapping[str, Any] = {}
    try:
        try:
            # Not cli.main: it would add an empty line of its own to an interruption.
            with cli.make_context("bucketry", list(arguments)) as context:
                meta = context.meta
                cli.invoke(context)
            sys.stdout.flush()
        except (click.exceptions.Exit, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as caught:  # noqa: BLE001 - the border: it becomes a code and a line
            return _failed(unwrap(caught), arguments, meta)
    except click.exceptions.Exit as ended:
        return ended.exit_code  # --help and --version
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return 0


def _failed(error: BaseException, arguments: Sequence[str], meta: MutableMapping[str, Any]) -> int:
    words = list(itertools.takewhile(lambda word: word != "--", arguments))
    # The code is what it is even where nobody can be told why: the terminal has gone, the disk is full.
    with contextlib.suppress(OSError):
        if "--debug" in words:
            say_traceback(error)
        say(f"bucketry: {one_line(error)}", err=True)
    if "--json" in words:
        with contextlib.suppress(OSError):
            say_json_error(meta, report(error))
            sys.stdout.flush()
    return exit_code(error)


def _begin_again_in_utf8() -> None:
    """Run this command anew in Python's UTF-8 mode, which cannot be switched on later.

    Python decodes the command line as the locale says. In another than UTF-8 the same bytes would be another
    key in the bucket, and the directory of a mount another one than its state file names.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def main() -> None:
    """The console script."""
    _begin_again_in_utf8()
    fill_standard_of_python()
    raise_limit()
    if _COMPLETION_VARIABLE in os.environ:
        cli.main(prog_name="bucketry", complete_var=_COMPLETION_VARIABLE)
    sys.exit(run_command(sys.argv[1:]))
