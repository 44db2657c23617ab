"""How a record of the log looks: one line, whatever is in it."""

import logging
from types import TracebackType
from typing import TypeAlias

from bucketry.core.printable import printable, printable_lines

_ExceptionInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class LineFormatter(logging.Formatter):
    """Escapes what is not printable: names, host names and messages come from buckets, and who reads a log
    does so on a terminal.

    Tracebacks are for whoever looks for the cause: with ``debug`` only.
    """

    def __init__(self, layout: str, *, debug: bool) -> None:
        super().__init__(layout)
        self._debug = debug

    def format(self, record: logging.LogRecord) -> str:
        if not self._debug:
            record.exc_text, record.exc_info, record.stack_info = None, None, None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as the base class calls it
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        return printable_lines(super().formatException(ei))
