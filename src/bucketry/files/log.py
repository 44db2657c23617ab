"""Where a storage source's lines go: to a hook of its owner's, or to ``logging``; and WiredTiger's levels.

======== ======= ===================
level    name    of ``logging``
======== ======= ===================
-3       ERROR   ERROR
-2       WARNING WARNING
-1       NOTICE  INFO
0        INFO    INFO
1 … 4    DEBUG_n DEBUG
5        DEBUG_5 5, below DEBUG
======== ======= ===================

With a hook, records that the rooms below write to ``logging`` on behalf of this source (a request that is
tried again) go to it, too: a context variable tells whose work is being done. Records of others pass by.
"""

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from bucketry.core.printable import printable

ERROR, WARNING, NOTICE, INFO = -3, -2, -1, 0
DEBUG_1, DEBUG_2, DEBUG_3, DEBUG_4, DEBUG_5 = 1, 2, 3, 4, 5

#: Called with the level and one line, from any thread. What it raises is dropped: a line that cannot be
#: written is no reason to fail a read.
LogHook: TypeAlias = Callable[[int, str], None]

_TO_LOGGING: Final = {
    ERROR: logging.ERROR,
    WARNING: logging.WARNING,
    NOTICE: logging.INFO,
    INFO: logging.INFO,
    DEBUG_1: logging.DEBUG,
    DEBUG_2: logging.DEBUG,
    DEBUG_3: logging.DEBUG,
    DEBUG_4: logging.DEBUG,
    DEBUG_5: 5,
}
_logger = logging.getLogger("bucketry.files")
_current: contextvars.ContextVar["SourceLog | None"] = contextvars.ContextVar("bucketry_source", default=None)


def logging_level(level: int) -> int:
    """The level of ``logging`` for one of WiredTiger's."""
    return _TO_LOGGING[min(max(level, ERROR), DEBUG_5)]


def level_of(levelno: int) -> int:
    """WiredTiger's level for one of ``logging``."""
    if levelno >= logging.ERROR:
        return ERROR
    if levelno >= logging.WARNING:
        return WARNING
    if levelno >= logging.INFO:
        return INFO
    return DEBUG_1 if levelno >= logging.DEBUG else DEBUG_5


class SourceLog:
    """The lines of one source. ``level``: what is above it is dropped; None is ERROR with a hook, and left to
    ``logging`` without."""

    def __init__(self, hook: LogHook | None = None, level: int | None = None) -> None:
        self._hook = hook
        self._level = level if level is not None else DEBUG_5 if hook is None else ERROR
        #: For everything that is done on behalf of this source.
        self.context = contextvars.Context()
        if hook is not None:
            self.context.run(_current.set, self)
            _router.attach()

    def is_enabled(self, level: int) -> bool:
        """Whether a line of this level would go anywhere: for lines that take work to put together."""
        if level > self._level:
            return False
        return self._hook is not None or _logger.isEnabledFor(logging_level(level))

    def write(self, level: int, line: str) -> None:
        """One line."""
        if level > self._level:
            return
        line = printable(" ".join(line.split()))
        if self._hook is None:
            _logger.log(logging_level(level), "%s", line)
            return
        try:
            self._hook(level, line)
        except Exception:
            _logger.debug("a log hook failed", exc_info=True)

    def raised(self, line: str) -> None:
        """What somebody is told by an exception anyway: an error for the hook, whose readers see nothing but
        errno; a detail for ``logging``."""
        self.write(ERROR if self._hook is not None else DEBUG_1, line)

    def close(self) -> None:
        """No more lines come from the rooms below. Closing twice is fine."""
        if self._hook is not None and self.context.run(_current.get) is self:
            self.context.run(_current.set, None)
            _router.detach()


class _Router(logging.Handler):
    """Hands records to the source on whose behalf they were made; at work while a source has a hook."""

    def __init__(self) -> None:
        super().__init__()
        self._lock_of_count = threading.Lock()
        self._count = 0

    def attach(self) -> None:
        with self._lock_of_count:
            self._count += 1
            if self._count == 1:
                logging.getLogger("bucketry").addHandler(self)

    def detach(self) -> None:
        with self._lock_of_count:
            self._count -= 1
            if self._count == 0:
                logging.getLogger("bucketry").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        if log is not None and not record.name.startswith(_logger.name + "."):
            log.write(level_of(record.levelno), f"{record.name.rpartition('.')[2]}: {record.getMessage()}")
        elif log is None and not logging.getLogger().handlers:
            # Without this handler it would have been written there.
            last = logging.lastResort
            if last is not None and record.levelno >= last.level:
                last.handle(record)


_router = _Router()
