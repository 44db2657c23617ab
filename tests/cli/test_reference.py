"""docs/commands.md says of every command what --help says.

``python tests/cli/test_reference.py`` writes the help of this moment into the page.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bucketry.cli.exits import CODES, MEANINGS
from bucketry.cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
#: A heading that names a command, and the block behind it.
SECTION = re.compile(
    r"^## bucketry (?P<name>[a-z ]+)\n(?P<prose>.*?)```text\n(?P<help>.*?)```$", re.MULTILINE | re.DOTALL
)


def help_of(name: str) -> str:
    """What ``bucketry NAME --help`` says at 80 columns."""
    command: click.Command = cli
    context = click.Context(cli, info_name="bucketry", terminal_width=80)
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command = found
        context = click.Context(command, info_name=word, parent=context, terminal_width=80)
    return command.get_help(context) + "\n"


def names_of(group: click.Group, before: str = "") -> Iterator[str]:
    """Every command, those of a group behind it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield before + name
        if isinstance(command, click.Group):
            yield from names_of(command, f"{before}{name} ")


def renewed(page: str) -> str:
    return SECTION.sub(
        lambda found: f"## bucketry {found['name']}\n{found['prose']}```text\n{help_of(found['name'])}```",
        page,
    )


def test_every_command_has_its_section() -> None:
    """No command is missing, and none is described that does not exist."""
    assert [found["name"] for found in SECTION.finditer(PAGE.read_text())] == list(names_of(cli))


def test_the_page_says_what_help_says() -> None:
    """Run this file as a program to renew the page."""
    assert PAGE.read_text() == renewed(PAGE.read_text())


def test_the_exit_codes_of_the_page_are_those_of_the_program() -> None:
    """Each has its row in the table."""
    for code, meaning in MEANINGS.items():
        assert f"| {code} | {meaning} |" in PAGE.read_text()
    assert set(CODES.values()) <= set(MEANINGS)


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(renewed(PAGE.read_text()))
