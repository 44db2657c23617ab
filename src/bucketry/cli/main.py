"""The ``bucketry`` command: its parts, and how it ends."""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from bucketry import __version__
from bucketry.cli.exits import exit_code, one_line, unwrap

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


class _Commands(click.Group):
    """A command is loaded when it is asked for: with all of them each one would start a tenth of a second
    later."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"bucketry.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, no_args_is_help=False)
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
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL, format="%(name)s: %(message)s")
    # What a command waits for, when that is somebody else's lease.
    logging.getLogger("bucketry.lease").setLevel(logging.WARNING)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. What goes wrong is one line on standard error."""
    try:
        # Not cli.main: it would add an empty line of its own to an interruption.
        with cli.make_context("bucketry", list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code  # --help and --version
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (Exception, KeyboardInterrupt) as caught:  # noqa: BLE001 - the border: everything becomes a code and a line
        error = unwrap(caught)
        if "--debug" in arguments:
            traceback.print_exception(error)
        click.echo(f"bucketry: {one_line(error)}", err=True)
        return exit_code(error)
    return 0


def main() -> None:
    """The console script."""
    if _COMPLETION_VARIABLE in os.environ:
        cli.main(prog_name="bucketry", complete_var=_COMPLETION_VARIABLE)
    sys.exit(run_command(sys.argv[1:]))
