"""Lines for the application: what goes to WiredTiger's error stream, what to its message stream, and when.

Lines of WARNING and above go to the error stream, all others to the message stream, as far as the configured
level lets them. WiredTiger may be called only by a thread that it called itself, and not after the connection
is closed: what other threads say waits for the next call from WiredTiger, and is said there.
"""

import threading
from collections import deque
from typing import Any

from bucketry.files.log import ERROR, NOTICE
from bucketry.files.wiredtiger.tables import ffi

#: A store that is never called again holds no more than this.
_WAITING_MAX = 1000
#: WiredTiger puts a line into a buffer of its own; nobody reads more.
_LINE_MAX = 4000


class Messages:
    """The streams of one connection, until ``close``."""

    def __init__(self, api: Any, level: int = ERROR) -> None:
        self._api = api
        self.level = level
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, str]] = deque(maxlen=_WAITING_MAX)
        #: The session of the call that the thread is in.
        self._calls = threading.local()

    def begin_call(self, session: Any) -> None:
        """This thread is in a call from WiredTiger, until ``end_call``."""
        self._calls.session = session

    def end_call(self, session: Any) -> None:
        """Nothing waits any more."""
        self._calls.session = None
        if self._waiting:
            self.say_waiting(session)

    def say_now(self, level: int, line: str) -> None:
        """From within a call, by its thread: for what the application should hear before the call ends."""
        session = getattr(self._calls, "session", None)
        if session is None:
            self.say_later(level, line)
        else:
            self.say_waiting(session)
            self.say(session, level, line)

    def say(self, session: Any, level: int, line: str) -> None:
        """At once, from within a call of WiredTiger's: ``session`` is the one that came with it."""
        if level > self.level or self._api is None:
            return
        printf = self._api.err_printf if level < NOTICE else self._api.msg_printf
        text = line[:_LINE_MAX].replace("\0", "").encode(errors="backslashreplace")
        printf(self._api, session, b"%s", ffi.new("char[]", text))

    def say_later(self, level: int, line: str) -> None:
        """From any thread."""
        if level <= self.level:
            with self._lock:
                self._waiting.append((level, line))

    def say_waiting(self, session: Any) -> None:
        """What has been said since the last call, in other threads and in this one."""
        if self._waiting:
            with self._lock:
                waiting = list(self._waiting)
                self._waiting.clear()
            for level, line in waiting:
                self.say(session, level, line)

    def say_error(self, problem: str, meaning: str) -> None:
        """Why a call fails, with what the number means, once: somebody below may have said ``problem``
        already, with more words."""
        with self._lock:
            for index, (level, line) in enumerate(self._waiting):
                if level == ERROR and problem in line:
                    self._waiting[index] = (level, f"{line}: {meaning}")
                    return
            self._waiting.append((ERROR, f"{problem}: {meaning}"))

    def error(self, session: Any, line: str) -> None:
        self.say(session, ERROR, line)

    def close(self) -> None:
        """The connection is about to go: nothing is said any more."""
        self._api = None
