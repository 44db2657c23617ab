"""What is made from credentials and configuration, and made again when they change: before they expire, when
the store refuses them, and when the process is told to (SIGHUP).

Everything here is called from threads. Loading runs in a thread of its own, one at a time: a process that
gives credentials and hangs keeps nobody waiting for longer than ``patience_seconds``, and requests go on with
what there is until it is refused.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bucketry.errors import BucketryError, Unavailable, Unreachable

_log = logging.getLogger(__name__)

V = TypeVar("V")
P = TypeVar("P")

#: Renewed so long before the end: AWS's services have new ones five minutes before the old ones end.
EARLY_SECONDS = 300.0
#: An early renewal is tried no more often: keys that never live as long as EARLY_SECONDS, or a source that
#: does not answer, cost little.
EARLY_PAUSE_SECONDS = 30.0
#: How often the end is looked at: a request must not pay for it.
LOOK_SECONDS = 1.0
#: After a refusal the source is asked at once, and while it has nothing new again after such pauses, which
#: double. The longest is short beside the 30 s after which a lease that cannot be renewed stops all writing.
REFUSED_PAUSE_SECONDS = 0.2
REFUSED_PAUSE_MAX_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Held(Generic[V, P]):
    """What was loaded, and what was made of it."""

    value: V
    product: P


class _Loading:
    """One run of ``load``; ``error`` is set before ``ended`` is."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None


class Renewed(Generic[V, P]):
    """``make(load())``, renewed. ``load`` is called in other threads, and may block; what it returns is
    compared, and only what differs is made anew. ``expires`` tells whether a value expires within so many
    seconds. ``name`` is for messages. ``at_once``: load now, in this thread, and raise what that raises;
    otherwise with the first use. ``way`` says in messages where it leads."""

    def __init__(
        self,
        load: Callable[[], V],
        make: Callable[[V], P],
        *,
        name: str,
        way: str,
        expires: Callable[[V, float], bool],
        patience_seconds: float,
        at_once: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._make = make
        self._name = name
        self.way = way
        self._expires = expires
        self._patience_seconds = patience_seconds
        self._now = now
        self._lock = threading.Lock()
        self._held: Held[V, P] | None = None
        self._loading: _Loading | None = None
        self._look_at = 0.0
        self._early_at = 0.0
        self._again_at = 0.0
        self._pause_seconds = REFUSED_PAUSE_SECONDS
        #: What kept the latest attempt from success, for the log: it is said once.
        self._problem: str | None = None
        #: The store has answered, whatever it was; it has taken the credentials.
        self.is_heard = False
        self.is_accepted = False
        if at_once:
            value = load()
            self._held = Held(value, make(value))

    @property
    def name(self) -> str:
        return self._name

    def current(self) -> Held[V, P]:
        """What there is. Blocks only when there is nothing yet, or what there is has expired. Raises what
        ``load`` raises; Unreachable when the source does not answer."""
        held = self._held
        if held is None:
            return self._wait_for_first()
        if self._now() >= self._look_at:
            self._look_ahead(held)
        return self._held or held

    def after_refusal(self, refused: Held[V, P]) -> Held[V, P] | None:
        """What has come in place of ``refused``, which the store did not accept; None when there is nothing
        new. Blocks while the source is asked."""
        with self._lock:
            if self._held is not refused:
                return self._held
            now = self._now()
            if self._loading is None:
                if now < self._again_at:
                    return None
                self._again_at = now + self._pause_seconds
                self._pause_seconds = min(2 * self._pause_seconds, REFUSED_PAUSE_MAX_SECONDS)
            loading = self._begin()
        loading.ended.wait(self._patience_seconds)
        held = self._held
        return None if held is refused else held

    def reread(self) -> bool:
        """Load now; whether that gave something new. Raises what ``load`` raises, and keeps what there
        was."""
        with self._lock:
            before = self._held
            loading = self._begin()
        self._wait_for(loading)
        return self._held is not before

    def _wait_for_first(self) -> Held[V, P]:
        with self._lock:
            loading = self._begin()
        self._wait_for(loading)
        held = self._held
        assert held is not None, "a run without an error sets it"
        return held

    def _wait_for(self, loading: _Loading) -> None:
        if not loading.ended.wait(self._patience_seconds):
            raise Unreachable(
                f"no credentials: {self._name} did not answer within {self._patience_seconds:.0f} s"
            )
        error = loading.error
        if error is None:
            return
        if isinstance(error, Unavailable):
            # Of somebody who never answered: see Unreachable.
            raise (Unreachable if self._held is None else Unavailable)(str(error)) from None
        if isinstance(error, BucketryError):
            # A new one: several threads may wait for it, each with a traceback of its own.
            raise type(error)(str(error)) from None
        raise error

    def _look_ahead(self, held: Held[V, P]) -> None:
        """Begin to renew what expires soon; wait for it when it has."""
        with self._lock:
            now = self._now()
            if now < self._look_at:
                return
            self._look_at = now + LOOK_SECONDS
            has_expired = self._expires(held.value, 0.0)
            if not has_expired:
                if now < self._early_at or not self._expires(held.value, EARLY_SECONDS):
                    return
                self._early_at = now + EARLY_PAUSE_SECONDS
            loading = self._begin()
        if has_expired:
            loading.ended.wait(self._patience_seconds)

    def _begin(self) -> _Loading:
        """The run under way, or a new one. The lock is held."""
        if self._loading is None:
            self._loading = _Loading()
            threading.Thread(
                target=self._run, args=(self._loading,), name="bucketry credentials", daemon=True
            ).start()
        return self._loading

    def _run(self, loading: _Loading) -> None:
        before = held = self._held
        try:
            value = self._load()
            if before is not None and before.value == value:
                before.value = value  # the same keys, perhaps with a later end
            else:
                held = Held(value, self._make(value))
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
            loading.error = error
        with self._lock:
            self._loading = None
            if held is not before:
                self._held = held
                self._pause_seconds = REFUSED_PAUSE_SECONDS
        if before is not None:
            self._tell(loading.error, is_new=held is not before)
        loading.ended.set()

    def _tell(self, error: BaseException | None, *, is_new: bool) -> None:
        problem = None
        if error is not None:
            problem = str(error) if isinstance(error, BucketryError) else type(error).__name__
            if problem != self._problem:
                _log.warning("credentials could not be read again (%s); keeping the old ones", problem)
        elif is_new:
            _log.info("new credentials from %s", self._name)
        self._problem = problem


class Shared:
    """What the buckets of one process to one place have in common, so that each of them has the credentials
    that are in use, whatever has become of the file that they came from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._renewed: dict[str, Renewed[Any, Any]] = {}

    def get(self, url: str, make: Callable[[], Renewed[Any, Any]]) -> Renewed[Any, Any]:
        """The one for ``url``; made when there is none."""
        with self._lock:
            if url not in self._renewed:
                self._renewed[url] = make()
            return self._renewed[url]

    def reread(self) -> int:
        """Load everything anew; how much of it has changed. Blocks. Raises what the first that failed raised;
        that one keeps what it had."""
        changed_count = 0
        failed: BucketryError | None = None
        for renewed in list(self._renewed.values()):
            try:
                changed_count += renewed.reread()
            except BucketryError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return changed_count
