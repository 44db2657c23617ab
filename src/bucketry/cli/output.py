"""What commands write to the terminal: lines, questions, and with ``--json`` one JSON object.

All of it goes through here, for names, host names and messages come from buckets, and anybody may have
written those: a line is one line, and no character moves a cursor or hides a word.
"""

import json
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import click

from bucketry.core.printable import printable, printable_lines
from bucketry.errors import BucketryError, Invalid
from bucketry.threads.descriptors import was_missing

#: Where a context keeps the JSON object of its command.
_META = "bucketry.json"


def say(line: str, *, err: bool = False) -> None:
    """Write one line to standard output, or to standard error."""
    click.echo(printable(line), err=err)


def say_all(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    for line in lines:
        say(line)


def say_traceback(error: BaseException) -> None:
    """Write where an error came from to standard error."""
    click.echo(printable_lines("".join(traceback.format_exception(error))), err=True, nl=False)


def check_standard_output() -> None:
    """Raises Invalid when standard output was closed from the start, for commands whose result goes there."""
    if was_missing(1):
        raise Invalid("standard output is closed: there is nowhere to write to")


def confirm(question: str) -> bool:
    """Ask a question that is answered by yes or no, on standard error. Raises click.Abort at the end of
    standard input."""
    return click.confirm(printable(question), err=True)


def confirm_or_abort(question: str) -> None:
    """The same; raises BucketryError for a no."""
    if not confirm(question):
        raise BucketryError("nothing was changed")


class JsonReport:
    """The one JSON object of a command with ``--json``: ``fields``, which may still change, and at the end
    either what the command adds or its error."""

    def __init__(self, fields: Mapping[str, object] | None = None) -> None:
        self._fields = dict(fields or {})
        self._has_ended = False
        click.get_current_context().meta[_META] = self

    def end(self, fields: Mapping[str, object] | None = None) -> None:
        """Write the object, with ``fields`` added."""
        self._has_ended = True
        self._write_end({**self._fields, **(fields or {})})

    def fail(self, error: Mapping[str, object]) -> None:
        """Write the object with the error; nothing if the command had said everything before it failed."""
        if not self._has_ended:
            self.end({"error": error})

    def _write_end(self, fields: Mapping[str, object]) -> None:
        click.echo(json.dumps(fields, indent=2))


class JsonEntries(JsonReport):
    """An object that begins with a list ``entries``, written as they come: there may be millions of them."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def add(self, fields: Mapping[str, object]) -> None:
        """Write an entry."""
        click.echo(("," if self._count else '{"entries": [') + "\n  " + json.dumps(fields), nl=False)
        self._count += 1

    def _write_end(self, fields: Mapping[str, object]) -> None:
        rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
        click.echo(("\n]" if self._count else '{"entries": []') + rest + "}")


def say_json(fields: Mapping[str, object]) -> None:
    """Write the JSON object of a command."""
    JsonReport().end(fields)


def say_json_error(context_meta: MutableMapping[str, Any], error: Mapping[str, object]) -> None:
    """Write, or complete, the JSON object of a command that has failed."""
    report = context_meta.get(_META)
    if report is None:
        click.echo(json.dumps({"error": error}, indent=2))
    else:
        assert isinstance(report, JsonReport)
        report.fail(error)
