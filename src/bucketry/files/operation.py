"""What every public method has round it: a gate, figures, a line in the log, and errors as OSError."""

from types import TracebackType

from bucketry.errnos import file_os_error
from bucketry.errors import BucketryError
from bucketry.files.gate import Gate
from bucketry.files.log import DEBUG_1, SourceLog
from bucketry.files.statistics import Meter


class Operation:
    """``with Operation(gate, meter, log, "open", name):`` round what may raise a BucketryError.

    ``about`` is the object or bucket, for the log. What is raised is an OSError with the errno of
    ``bucketry.errnos`` and the BucketryError as its cause.
    """

    __slots__ = ("_about", "_gate", "_log", "_meter", "_name", "_started", "size_bytes")

    def __init__(self, gate: Gate, meter: Meter, log: SourceLog, name: str, about: str) -> None:
        self._gate = gate
        self._meter = meter
        self._log = log
        self._name = name
        self._about = about
        #: What it moved, for the figures.
        self.size_bytes = 0
        self._started = meter.now()

    def __enter__(self) -> "Operation":
        try:
            self._gate.__enter__()
        except BucketryError as error:
            self._fail(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gate.__exit__(kind, error, traceback)
        if error is None:
            self._meter.succeeded(self._started, self.size_bytes)
            if self._log.is_enabled(DEBUG_1):
                self._log.write(DEBUG_1, f"{self._name} {self._about}")
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Raises an OSError for what is ours; the rest goes on as it is."""
        self._meter.failed(self._started, type(error))
        if isinstance(error, BucketryError | MemoryError):
            self._log.raised(f"{self._name} {self._about}: {error}")
            raise file_os_error(error) from error
        if isinstance(error, OSError):
            self._log.raised(f"{self._name} {self._about}: {error.strerror or error}")
