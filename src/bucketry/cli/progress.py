"""A progress bar on a terminal, and nothing anywhere else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from bucketry.core.printable import printable


class Update(Protocol):
    """Called with how much is done so far, how much there is in all (None: not known yet), and a few more
    words."""

    def __call__(self, done: int, total: int | None, words: str = "", /) -> None: ...


def is_shown() -> bool:
    """Whether there is somebody to see a bar."""
    return sys.stderr.isatty()


def _tell_nobody(done: int, total: int | None, words: str = "", /) -> None:
    pass


@contextmanager
def progress(description: str, *, of_bytes: bool = True) -> Iterator[Update]:
    """A bar on standard error while the body runs, when that is a terminal."""
    if not is_shown():
        yield _tell_nobody
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn(binary_units=True) if of_bytes else MofNCompleteColumn()
    columns = (
        # A name with brackets in it is no markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TextColumn("{task.fields[words]}", markup=False),
        TimeRemainingColumn(),
    )
    # Lines on standard output go above the bar, unless they go elsewhere altogether.
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(printable(description), total=None, words="")

        def update(done: int, total: int | None, words: str = "", /) -> None:
            bar.update(task, completed=done, total=total, words=printable(words))

        yield update
