"""Where a process writes its log: standard error, a file, or syslog."""

import logging
import logging.handlers
import os
import socket
import sys
from pathlib import Path

from bucketry.errors import Unsupported
from bucketry.serve.log_lines import LineFormatter

SYSLOG_SOCKET = "/dev/log"
#: A default log lies in memory-backed /run: after this much the next start begins a new one and keeps one old
#: one.
DEFAULT_LOG_BYTES_MAX = 1 << 20


#: Of one kind of message so many are written in so many seconds; an outage logs a line for every request
#: otherwise, hundreds in a minute. The next one says how many were left out.
FLOOD_LINES = 5
FLOOD_SECONDS = 10.0
#: Loggers whose messages differ in nothing but the request.
_REPEATING = frozenset({"bucketry.bucket.retrying"})
#: Kinds that are remembered; more than that at once are no flood of one.
_KINDS_MAX = 1000


def open_log_file(path: Path, *, rotate: bool = False) -> int:
    """A descriptor that appends to ``path``, for the caller to close."""
    if rotate and path.exists() and path.stat().st_size > DEFAULT_LOG_BYTES_MAX:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def log_to_stderr(*, debug: bool) -> None:
    """Log to standard error, which in the background is the log file."""
    _install(
        logging.StreamHandler(sys.stderr),
        "%(asctime)s bucketry[%(process)d] %(levelname)s: %(message)s",
        debug,
    )


def log_to_syslog(*, debug: bool) -> None:
    """Log to the system's log. Raises Unsupported where none listens."""
    # The handler itself ignores that nobody listens, and would lose every line.
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as attempt:
            if attempt.connect_ex(SYSLOG_SOCKET) == 0:
                break
    else:
        raise Unsupported(
            f"nothing listens at {SYSLOG_SOCKET}: there is no syslog here; --log FILE writes to a file"
        )
    handler = logging.handlers.SysLogHandler(SYSLOG_SOCKET, "daemon", kind)
    handler.ident = f"bucketry[{os.getpid()}]: "
    _install(handler, "%(levelname)s: %(message)s", debug)


def _install(handler: logging.Handler, layout: str, debug: bool) -> None:
    handler.setFormatter(LineFormatter(layout, debug=debug))
    if not debug:
        handler.addFilter(FloodGate())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("bucketry").setLevel(logging.DEBUG if debug else logging.INFO)


class FloodGate(logging.Filter):
    """Lets through FLOOD_LINES records of a kind in FLOOD_SECONDS, and tells with the next one how many were
    left out.

    What says nothing new but which request it was (the retries of an outage) is one kind for each text before
    its figures are put in; everything else is one kind for each text as it would be written, so that no
    object that is damaged goes unnamed.
    """

    def __init__(self) -> None:
        super().__init__()
        #: By kind: when its window began, how many were let through in it, how many were not.
        self._windows: dict[tuple[str, int, str], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg) if record.name in _REPEATING else record.getMessage()
        kind = (record.name, record.levelno, text)
        began, passed, left_out = self._windows.get(kind, (record.created, 0, 0))
        if record.created - began >= FLOOD_SECONDS:
            began, passed = record.created, 0
        if passed >= FLOOD_LINES:
            self._windows[kind] = (began, passed, left_out + 1)
            return False
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were left out)"
            record.args = ()
        if len(self._windows) >= _KINDS_MAX:
            self._windows.clear()
        self._windows[kind] = (began, passed + 1, 0)
        return True
