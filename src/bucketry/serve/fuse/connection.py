"""The conversation with the kernel: requests from a descriptor, answers back to it.

What the caches can answer is answered in the event loop's callback, without a task. Everything else goes
through Operations; only what must wait becomes a task. The descriptor may be any that keeps requests apart:
tests use a socket pair in place of ``/dev/fuse``.
"""

import asyncio
import errno
import logging
import os
import select
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from bucketry.core.bytes_like import BytesLike
from bucketry.core.fuse import protocol, replies, requests
from bucketry.core.fuse.protocol import WITHOUT_REPLY, Opcode
from bucketry.core.fuse.requests import Request
from bucketry.core.histogram import LatencyHistogram
from bucketry.core.linger import Linger
from bucketry.disk.interface import Device
from bucketry.errnos import errno_of
from bucketry.errors import BucketryError, Invalid, Unsupported
from bucketry.serve.fuse.operations import Operations, Refusal

_log = logging.getLogger(__name__)

#: A request with a full write behind its header. The kernel refuses to write into less ("must be at least
#: 8k"), so the rest of the page is for headers to grow.
BUFFER_BYTES = protocol.REQUEST_BYTES_MAX + 4096
#: Requests answered before the event loop gets a turn: at some 5 µs each, nothing else waits for more than a
#: third of a millisecond.
REQUESTS_PER_TURN = 64
#: Requests that may wait for the device; more are left in the kernel. The kernel's own limit bounds only
#: asynchronous ones.
WAITING_MAX = 1024
#: Bytes that waiting reads and writes may hold: two full backgrounds of the kernel's.
WAITING_BYTES_MAX = 2 * protocol.BACKGROUND_MAX * protocol.REQUEST_BYTES_MAX

#: What reading says when the file system is unmounted or the connection aborted.
_ENDED = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF, errno.ECONNRESET})
#: An answer that comes too late: the request was given up (ENOENT), or the connection is.
_TOO_LATE = frozenset({errno.ENOENT, errno.EPIPE}) | _ENDED

_NAMES = {0: "unknown"} | {int(opcode): opcode.name.lower() for opcode in Opcode}
#: What must not be given up when nobody awaits its answer any more.
_CHANGING = frozenset({Opcode.WRITE, Opcode.FALLOCATE, Opcode.FLUSH, Opcode.FSYNC, Opcode.SYNCFS})

# Names for the hot path: an attribute of an attribute of a module costs as much as an addition.
_READ = int(Opcode.READ)
_WRITE = int(Opcode.WRITE)
_TRANSFER_END = protocol.TRANSFER_END
_HEADER_BYTES = protocol.OUT_HEADER.size
_WRITE_REPLY_BYTES = protocol.OUT_WRITE.size
_pack_header = protocol.OUT_HEADER.pack
_pack_write = protocol.OUT_WRITE.pack


class Connection:
    """Answers requests until the kernel ends the conversation. Owns its descriptor and its tasks."""

    def __init__(self, descriptor: int, device: Device, operations: Operations) -> None:
        """``descriptor`` must not block; it belongs to the connection from now on."""
        self._descriptor = descriptor
        self._operations = operations
        self._files = operations.files
        self._size_bytes = device.size_bytes
        self._read_nowait = device.read_nowait
        self._write_nowait = device.write_nowait
        self._linger = Linger(is_allowed=len(os.sched_getaffinity(0)) > 1)
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._into = (self._buffer,)
        self._tasks: set[asyncio.Task[BytesLike]] = set()
        #: Those of the tasks that change nothing.
        self._reads: set[asyncio.Task[BytesLike]] = set()
        self._waiting_bytes = 0
        self._paused = False
        #: The kernel has ended the conversation, or we have; changes may still be under way.
        self.ended = False
        self._closed = False
        self._counts: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._immediate_reads = 0
        self._immediate_writes = 0
        self._read_bytes = 0
        self._written_bytes = 0
        self._pauses = 0
        self._latencies = {_READ: LatencyHistogram(), _WRITE: LatencyHistogram()}

    def set_size(self, size_bytes: int) -> None:
        """The device has another size from now on."""
        self._size_bytes = size_bytes

    async def serve(self) -> None:
        """Answer until the other side ends it. Then reads under way are cancelled, for nobody awaits them,
        and changes are waited for. Cancelling it cancels all of them and closes the descriptor, at which the
        kernel fails what it still waits for. Raises Unsupported for a kernel that is too old, OSError when
        the descriptor fails."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # Asked for nothing, an epoll still reports errors and the end of what is in it.
        with select.epoll() as self._end_watch:
            self._loop.add_reader(self._descriptor, self._on_readable)
            try:
                await self._ended
                for task in self._reads:
                    task.cancel()
                while self._tasks:
                    await asyncio.wait(self._tasks)
            finally:
                self._stop_reading()
                self.close()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Close the descriptor, at which the kernel fails everything that it still waits for. Closing twice
        is fine."""
        if not self._closed:
            self.ended = self._closed = True
            os.close(self._descriptor)

    def statistics(self) -> Mapping[str, object]:
        """Requests by operation, errors by name, bytes, what waits, and how long those that had to wait
        took."""
        waited = {"read": self._latencies[_READ], "write": self._latencies[_WRITE]}
        counts = self._counts | {
            _READ: self._counts.get(_READ, 0) + self._immediate_reads,
            _WRITE: self._counts.get(_WRITE, 0) + self._immediate_writes,
        }
        return {
            "requests": {_NAMES[opcode]: count for opcode, count in sorted(counts.items())},
            "errors": dict(sorted(self._errors.items())),
            "immediate_reads": self._immediate_reads,
            "immediate_writes": self._immediate_writes,
            "read_bytes": self._read_bytes,
            "written_bytes": self._written_bytes,
            "waiting": len(self._tasks),
            "waiting_max": WAITING_MAX,
            "waiting_bytes": self._waiting_bytes,
            "waiting_bytes_max": WAITING_BYTES_MAX,
            "pauses": self._pauses,
            "linger": asdict(self._linger.statistics()),
            "waited": {name: histogram.statistics() for name, histogram in waited.items()},
        }

    # Reading requests

    def _on_readable(self) -> None:
        is_woken = True
        for _ in range(REQUESTS_PER_TURN):
            try:
                size = self._read_on(is_woken)
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno == errno.ENOENT:
                    # The request was given up before it could be read; the next may be fine.
                    continue
                self._end(None if problem.errno in _ENDED else problem)
                return
            if size == 0:
                self._end(None)
                return
            is_woken = False
            self._take(size)
            if self._paused:
                return

    def _read_on(self, is_woken: bool) -> int:
        """The size of the next request, now in the buffer. When there is none and it seems worth it, looks on
        for a moment. ``is_woken``: this is the first look since the loop saw something. Raises as readv
        does."""
        descriptor, into, linger = self._descriptor, self._into, self._linger
        if is_woken:
            size = os.readv(descriptor, into)
            linger.found(time.perf_counter(), lingered=False)
            return size
        try:
            return os.readv(descriptor, into)
        except BlockingIOError:
            now = time.perf_counter()
            # Whoever waits for the bucket must not wait for us as well.
            end = linger.idle(now, may_linger=not self._tasks)
            if end == now:
                raise
        while True:
            try:
                size = os.readv(descriptor, into)
            except BlockingIOError:
                if time.perf_counter() >= end:
                    raise
            else:
                linger.found(now, lingered=True)
                return size

    def _take(self, size: int) -> None:
        """Answer the request in the first ``size`` bytes of the buffer, or see to it that it will be."""
        # Bytes beyond the request are left from earlier ones; whether they count is told by opcode and
        # length.
        length, opcode, unique, _, handle, offset, count, flags = protocol.IN_TRANSFER.unpack_from(
            self._buffer
        )
        try:
            if opcode == _READ:
                if (
                    size == length == _TRANSFER_END
                    and handle in self._files
                    and count <= protocol.REQUEST_BYTES_MAX
                    and offset + count <= self._size_bytes
                ):
                    data = self._read_nowait(offset, count)
                    if data is not None and len(data) == count:
                        self._immediate_reads += 1
                        self._read_bytes += count
                        self._write_out(unique, (_pack_header(_HEADER_BYTES + count, 0, unique), data))
                        return
            elif opcode == _WRITE and size == length == _TRANSFER_END + count:
                file = self._files.get(handle)
                if (
                    file is not None
                    and file.writable
                    and offset + count <= self._size_bytes
                    and self._write_nowait(offset, self._view[_TRANSFER_END:size])
                ):
                    self._operations.changed(file, flags)
                    self._immediate_writes += 1
                    self._written_bytes += count
                    self._write_out(unique, (_pack_write(_WRITE_REPLY_BYTES, 0, unique, count, 0),))
                    return
        except Exception as problem:  # noqa: BLE001 — reported, and the session goes on
            self._fail(unique, opcode, problem)
            return
        self._take_slowly(self._view[:size])

    def _take_slowly(self, message: memoryview) -> None:
        try:
            request = requests.parse_request(message)
        except Invalid as problem:
            unique = requests.find_unique(message)
            if unique is None:
                _log.warning("%s", problem)
            else:
                self._fail(unique, None, problem)
            return
        opcode = request.opcode
        # Only opcodes that have a name are counted one by one, for the table must not grow with nonsense.
        self._counts[opcode if opcode in _NAMES else 0] += 1
        if opcode in WITHOUT_REPLY:
            # There is nothing to forget, for both nodes stay. An interrupt is a wish: the kernel goes on
            # waiting for the answer, and a read that failed with EINTR would surprise whoever got a harmless
            # signal.
            return
        try:
            answer = self._operations.answer(request)
        except Exception as problem:  # noqa: BLE001 — reported, and the session goes on
            self._fail(request.unique, opcode, problem)
            if opcode == Opcode.INIT and isinstance(problem, Unsupported):
                # There is no common language.
                self._end(problem)
        else:
            if isinstance(answer, Coroutine):
                self._wait_for(request, answer)
            else:
                self._reply(request.unique, answer)

    # Waiting

    def _wait_for(self, request: Request, answer: Coroutine[Any, Any, BytesLike]) -> None:
        """Answer when ``answer`` has been found."""
        opcode = request.opcode
        held_bytes = requests.parse_transfer(request.body).size if opcode in self._latencies else 0
        task = self._loop.create_task(answer)
        self._tasks.add(task)
        if opcode not in _CHANGING:
            self._reads.add(task)
        self._waiting_bytes += held_bytes
        task.add_done_callback(partial(self._answer, request.unique, opcode, held_bytes, time.perf_counter()))
        if len(self._tasks) >= WAITING_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            self._pause()

    def _pause(self) -> None:
        """Leave requests in the kernel for a while, and watch for the end of the connection alone."""
        if not self._paused:
            self._paused = True
            self._pauses += 1
            self._loop.remove_reader(self._descriptor)
            self._end_watch.register(self._descriptor, 0)
            self._loop.add_reader(self._end_watch.fileno(), self._on_readable)

    def _resume(self) -> None:
        self._stop_reading()
        if not self._ended.done():
            self._loop.add_reader(self._descriptor, self._on_readable)

    def _stop_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.remove_reader(self._end_watch.fileno())
            self._end_watch.unregister(self._descriptor)
        else:
            self._loop.remove_reader(self._descriptor)

    def _answer(
        self, unique: int, opcode: int, held_bytes: int, started: float, task: asyncio.Task[BytesLike]
    ) -> None:
        self._tasks.discard(task)
        self._reads.discard(task)
        self._waiting_bytes -= held_bytes
        if task.cancelled():
            self._refuse(unique, errno.EIO)
        elif problem := task.exception():
            self._fail(unique, opcode, problem)
        else:
            payload = task.result()
            if opcode in self._latencies:
                self._latencies[opcode].add(time.perf_counter() - started)
            if opcode == _READ:
                self._read_bytes += len(payload)
            elif opcode == _WRITE:
                self._written_bytes += held_bytes
            self._reply(unique, payload)
        if self._paused and len(self._tasks) < WAITING_MAX and self._waiting_bytes < WAITING_BYTES_MAX:
            self._resume()

    # Answering

    def _reply(self, unique: int, payload: BytesLike) -> None:
        self._write_out(unique, (replies.header(unique, len(payload)), payload))

    def _fail(self, unique: int, opcode: int | None, problem: BaseException) -> None:
        """Answer with the number of what went wrong, and log what people should know of."""
        if isinstance(problem, Refusal):
            self._refuse(unique, problem.errno)
            return
        name = "request" if opcode is None else _NAMES.get(opcode, f"operation {opcode}")
        if isinstance(problem, BucketryError):
            _log.warning("FUSE %s: %s", name, problem)
        else:
            _log.error("FUSE %s failed unexpectedly", name, exc_info=problem)
        self._refuse(unique, errno_of(problem))

    def _refuse(self, unique: int, number: int) -> None:
        self._errors[errno.errorcode[number]] += 1
        self._write_out(unique, (replies.error(unique, number),))

    def _write_out(self, unique: int, parts: Sequence[BytesLike]) -> None:
        if self._closed:
            return
        try:
            os.writev(self._descriptor, parts)
        except OSError as problem:
            if problem.errno in _TOO_LATE:
                return
            # Nobody may be left waiting for an answer, not even for one that we cannot word.
            _log.error("FUSE request %d: answer refused: %s", unique, problem)
            with suppress(OSError):
                os.write(self._descriptor, replies.error(unique, errno.EIO))

    def notify(self, message: bytes) -> None:
        """Tell the kernel something that it did not ask for. It may have forgotten the node: that is fine."""
        if self._closed:
            return
        try:
            os.write(self._descriptor, message)
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, *_TOO_LATE):
                _log.warning("FUSE notification: %s", problem)

    def _end(self, problem: Exception | None) -> None:
        """The conversation is over."""
        if self._ended.done():
            return
        self.ended = True
        self._stop_reading()
        if problem is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(problem)
