"""A file that is open: reads of its bytes, from any thread; everything else that files can do is refused."""

import errno
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bucketry.errnos import file_os_error
from bucketry.errors import BucketryError, Invalid, PreconditionFailed
from bucketry.files.gate import Gate
from bucketry.files.object_reader import OpenObject
from bucketry.files.operation import Operation

if TYPE_CHECKING:
    from bucketry.files.file_system import FileSystem, SharedObject


class FileHandle:
    """Made by ``FileSystem.open_file``. Content and size are those that the object had when it was opened: if
    it changes in the bucket, reads that need the bucket fail (ESTALE), and none gives a mixture.

    Errors are OSErrors: EBADF after ``close``, EINVAL for a range that is not within the file, EIO for bytes
    that are damaged, EAGAIN when the bucket cannot be reached, ENOTSUP for everything that would write.
    """

    def __init__(
        self, file_system: "FileSystem", name: str, shared: "SharedObject", opened: OpenObject
    ) -> None:
        self.file_system = file_system
        self.name = name
        self._shared = shared
        self._object = opened
        self._size_bytes = opened.size_bytes
        self._gate = Gate(f"the handle of {name}")
        self._running = file_system.running
        self._statistics = file_system.statistics_of_source
        self._reads = self._statistics.read

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``: all of them, or an OSError."""
        # Never more than there is: what is asked for may be nonsense.
        buffer = bytearray(max(0, min(length, self._size_bytes)))
        self._read(offset, length, memoryview(buffer))
        return bytes(buffer)

    def readinto(self, offset: int, buffer: Any) -> int:
        """Fill ``buffer`` (any writable one) with the bytes at ``offset``; returns its length in bytes."""
        view = memoryview(buffer).cast("B")
        self._read(offset, len(view), view)
        return len(view)

    def _read(self, offset: int, length: int, view: memoryview) -> None:
        meter = self._reads
        started = meter.now()
        try:
            with self._gate:
                if length < 0 or not 0 <= offset <= self._size_bytes - length:
                    self._refuse_range(offset, length)
                # What the cache has is read here, in the caller's thread; only the rest asks the event loop.
                if length and not self._object.read_nowait(offset, view):
                    self._gate.call(self._running, lambda: self._object.read(offset, view))
        except BaseException as error:
            meter.failed(started, type(error))
            self._failed(offset, length, error)
            raise
        meter.succeeded(started, length)

    def _failed(self, offset: int, length: int, error: BaseException) -> None:
        if not isinstance(error, BucketryError | OSError | MemoryError):
            return
        if isinstance(error, PreconditionFailed):
            # Whoever opens the name from now on gets what is there now.
            self.file_system.disown(self._shared)
        self.file_system.log.raised(f"read {self.name} at {offset}, {length} bytes: {error}")
        if not isinstance(error, OSError):
            raise file_os_error(error) from error

    def _refuse_range(self, offset: int, length: int) -> None:
        raise Invalid(f"{self.name}: {length} bytes at {offset} are not within its {self._size_bytes} bytes")

    def size(self) -> int:
        """In bytes."""
        with self._operation("handle_size"):
            return self._size_bytes

    @property
    def etag(self) -> str:
        """Of the object that is open."""
        return self._object.etag

    def lock(self, locked: bool) -> None:
        """Granted, always: nobody writes to the file."""
        with self._operation("handle_lock"):
            return

    # -- closing -----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._gate.is_closed

    def close(self) -> None:
        """Reads under way in other threads end first, or fail. Closing twice is fine."""
        meter = self._statistics.meter("close")
        started = meter.now()
        if self._gate.close():
            self._gate.wait_empty()
            self.file_system.release(self, self._shared)
            meter.succeeded(started)

    def close_soon(self) -> None:
        """Close it in the source's own thread, without waiting: for finalizers, which may strike anywhere,
        even where a lock is held that closing needs. Nobody else may use the handle by then."""
        self._running.soon(self._close_there)

    async def _close_there(self) -> None:
        self.close()

    def __enter__(self) -> "FileHandle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._size_bytes} bytes"
        return f"<FileHandle {self.name!r} of {self.file_system.url}, {state}>"

    # -- what a write-once file refuses ------------------------------------------------------------------

    def write(self, offset: int, data: Any) -> None:
        """Refused (ENOTSUP): files come into the bucket whole, by flush."""
        self._refuse_writing("write")

    def truncate(self, size_bytes: int) -> None:
        """Refused (ENOTSUP)."""
        self._refuse_writing("truncate")

    def extend(self, size_bytes: int) -> None:
        """Refused (ENOTSUP)."""
        self._refuse_writing("extend")

    def sync(self) -> None:
        """Refused (ENOTSUP): there is nothing of its own that could be synced."""
        self._refuse_writing("sync")

    def map(self) -> None:
        """Refused (ENOTSUP): its bytes need not be in one local file."""
        self._refuse_writing("map")

    def _refuse_writing(self, what: str) -> None:
        self._statistics.count("writes_refused")
        raise OSError(errno.ENOTSUP, f"{self.name}: {what} of a write-once file is not supported")

    def _operation(self, name: str) -> Operation:
        return Operation(self._gate, self._statistics.meter(name), self.file_system.log, name, self.name)
