"""What a command's help looks like: options by section, an example, the exit codes."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from bucketry.cli.exits import MEANINGS
from bucketry.cli.parameters import DEFAULT_CIPHER, SectionedOption


class Group(click.Group):
    """Commands under one name, with ``examples``."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self._examples, formatter)


class Command(click.Command):
    """A command with ``examples`` and the ``exits`` it can end with."""

    def __init__(self, *args: Any, examples: Sequence[str], exits: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples
        self._exits = exits

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, except that ``--encrypt`` alone never takes the next word, a URL, for its cipher."""
        end = args.index("--") if "--" in args else len(args)
        named = [f"--encrypt={DEFAULT_CIPHER}" if word == "--encrypt" else word for word in args[:end]]
        return super().parse_args(ctx, named + args[end:])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, records in self._sections(ctx):
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self._examples, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), MEANINGS[code]) for code in self._exits])

    def _sections(self, ctx: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = parameter.section if isinstance(parameter, SectionedOption) else "Options"
                sections.setdefault(section, []).append(record)
        yield from sections.items()


def _write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    with formatter.section("Examples" if len(examples) > 1 else "Example"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{example}\n")
