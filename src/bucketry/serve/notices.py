"""Lines for somebody who waits at a terminal: what the logger ``bucketry.notices`` is told.

Any room may log there what the user of a command should see at once, such as what it waits for and how long.
The lines are in the log as well.
"""

import logging
from collections.abc import Callable

NOTICES = "bucketry.notices"

#: Called with a line, and with how many seconds it will take (0: it takes no time).
Say = Callable[[str, float], None]


class _Notices(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        # Logged with extra={"seconds": …}.
        self._say(record.getMessage(), float(getattr(record, "seconds", 0.0)))


def tell(say: Say | None) -> None:
    """From now on ``say`` is called with each notice, in place of whoever was before; None: nobody is."""
    logger = logging.getLogger(NOTICES)
    logger.setLevel(logging.INFO)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    if say is not None:
        logger.addHandler(_Notices(say))
