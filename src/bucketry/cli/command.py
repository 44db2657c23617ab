"""What a command's help looks like: options by section, an example, the exit codes."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import click

from bucketry.cli.exits import FAILED, INTERRUPTED, MEANINGS, USAGE
from bucketry.cli.parameters import BARE, OptionalValue, SectionedOption


class CommandGroup(click.Group):
    """Commands under one name. Without a command the ``hint`` says how to go on; a word that is none is
    answered with those that are like it."""

    #: Other words for commands, to suggest those.
    synonyms: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *args: Any, hint: str, callback: Callable[..., Any], **kwargs: Any) -> None:
        @functools.wraps(callback)
        def called(*values: Any, **options: Any) -> Any:
            if click.get_current_context().invoked_subcommand is None:
                raise click.UsageError(f"no command was given; {hint}")
            return callback(*values, **options)

        super().__init__(*args, **{**kwargs, "callback": called, "invoke_without_command": True})
        self.subcommand_metavar = "COMMAND [ARGS]..."
        self._hint = hint

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches  # rarely needed

            like = get_close_matches(word.lower(), [*self.list_commands(ctx), *self.synonyms], n=2)
            meant = dict.fromkeys(self.synonyms.get(name, name) for name in like)
            question = f"did you mean {' or '.join(meant)}?" if meant else self._hint
            raise click.UsageError(f"there is no command {word!r}; {question}", ctx)
        return super().resolve_command(ctx, args)


class Group(CommandGroup):
    """The same with ``examples``."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self._examples, formatter)


class Command(click.Command):
    """A command with ``examples`` and the ``exits`` it can end with, besides those of every command."""

    def __init__(self, *args: Any, examples: Sequence[str], exits: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples
        #: Every command can be used wrongly, fail and be interrupted.
        self.exits = sorted({*exits, FAILED, USAGE, INTERRUPTED})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, and of options whose value may be left out, the next word is taken for it only where
        it can be."""
        end = args.index("--") if "--" in args else len(args)
        optional = {
            name: parameter.type
            for parameter in self.get_params(ctx)
            if isinstance(parameter.type, OptionalValue)
            for name in parameter.opts
        }
        words = deque(args[:end])
        named: list[str] = []
        while words:
            word = words.popleft()
            if word in optional:
                has_value = words and optional[word].is_value(words[0])
                word += f"={words.popleft() if has_value else BARE}"
            named.append(word)
        return super().parse_args(ctx, named + args[end:])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, records in self._sections(ctx):
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self._examples, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), MEANINGS[code]) for code in self.exits])

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
