"""Exit codes are those that a command's --help names: looked at wherever a test runs a command."""

from collections.abc import Sequence
from pathlib import Path

import click

from bucketry.cli.command import Command
from bucketry.cli.main import cli

#: Killed by a signal: no code of ours.
_SIGNALLED = range(-64, 0)


def check_documented(arguments: Sequence[str | Path], code: int) -> None:
    """Fails when ``bucketry ARGUMENTS`` may not end with ``code``."""
    command = _command(arguments)
    if code in _SIGNALLED or command is None:
        return
    assert code in command.exits, f"{command.name} --help says nothing of exit code {code}"


def _command(arguments: Sequence[str | Path]) -> Command | None:
    """The command that is meant; None when there is none."""
    group: click.Group = cli
    for word in map(str, arguments):
        if not word.startswith("-"):
            found = group.get_command(click.Context(group), word)
            if not isinstance(found, click.Group):
                return found if isinstance(found, Command) else None
            group = found
    return None
