"""The way of one request through the server, with all that may happen to it on the way.

::

    outage? → stall → way there (latency, bytes) → fail, reset? → APPLY → way back → stall →
    answer lost? → body damaged, slow, cut, reset?

Without faults and without a model of the line a request is answered in the same moment, by plain calls; else
a task takes it along its way.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.faults import (
    Fail,
    Fault,
    FaultPlan,
    FlipBit,
    LoseAnswer,
    Reset,
    SlowBody,
    Stall,
    StallAt,
    Truncate,
)
from bucketry.testing.s3_server.http import Answer, Connection, Request
from bucketry.testing.s3_server.ledger import Ledger
from bucketry.testing.s3_server.line import NO_LINE, LineModel, Pace
from bucketry.testing.s3_server.routing import Call, route
from bucketry.testing.s3_server.service import Service


class Outage(Enum):
    """How a server is away: it refuses connections, or takes them and never answers."""

    REFUSE = "refuse"
    HANG = "hang"


class Exchange:
    """Takes requests from connections, and gives answers back. Everything runs in the server's loop."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.ledger = Ledger()
        self.plan = FaultPlan()
        self.hangs = False
        self._stalls_end = asyncio.Event()
        self._line = NO_LINE
        self._up = self._down = Pace(None)

    def set_line(self, line: LineModel) -> None:
        """From now on the line is like this."""
        self._line = line
        self._up, self._down = Pace(line.total_bytes_per_second), Pace(line.total_bytes_per_second)

    def release_stalls(self) -> None:
        """Those that stall now go on."""
        self._stalls_end.set()
        self._stalls_end = asyncio.Event()

    def serve(self, request: Request, connection: Connection) -> None:
        """Called by a connection with each request."""
        if self.hangs:
            self.ledger.fault("Outage")
            return
        try:
            call = route(request)
        except S3Error as error:
            self.ledger.arrived("Unknown", len(request.body))
            answer = self.service.refuse(error)
            if request.method == "HEAD":
                answer.body = b""
            self._answer(connection, "Unknown", answer)
            return
        self.ledger.arrived(call.operation, len(request.body))
        if self.plan.is_empty and self._line is NO_LINE:
            self._answer(connection, call.operation, self.service.serve(call))
            return
        faults = self.plan.decide(call.operation, call.key, is_conditional_write=call.is_conditional_write)
        for fault in faults:
            self.ledger.fault(type(fault).__name__)
        connection.task = asyncio.get_running_loop().create_task(self._travel(connection, call, faults))

    def refuse(self, error: S3Error) -> Answer:
        """Called by a connection for what is no request."""
        answer = self.service.refuse(error)
        self.ledger.arrived("Unknown", 0)
        self.ledger.answered("Unknown", answer.status)
        return answer

    def _answer(self, connection: Connection, operation: str, answer: Answer) -> None:
        self.ledger.answered(operation, answer.status)
        self.ledger.sent(len(answer.body))
        connection.answer(answer)

    async def _travel(self, connection: Connection, call: Call, faults: Sequence[Fault]) -> None:
        latency_seconds = self._line.draw_latency(self.plan.random)
        etag_before = self.service.etag_now(call)
        await self._stall(faults, StallAt.REQUEST)
        await asyncio.sleep(latency_seconds / 2)
        await self._pass(connection, len(call.request.body), self._up)
        for fault in faults:
            match fault:
                case Reset(after=None):
                    connection.abort()
                    return
                case Fail(applied=False):
                    self._answer(connection, call.operation, self._failure(fault, call))
                    return
        answer = self._apply(call, etag_before)
        for fault in faults:
            if isinstance(fault, Fail):
                answer = self._failure(fault, call)
        self.ledger.answered(call.operation, answer.status)
        await asyncio.sleep(latency_seconds / 2)
        await self._stall(faults, StallAt.ANSWER)
        if any(isinstance(fault, LoseAnswer) for fault in faults):
            connection.finish(is_last=True)
            return
        await self._send(connection, answer, faults)

    def _apply(self, call: Call, etag_before: str | None) -> Answer:
        has_race = call.is_conditional_write and self.service.etag_now(call) != etag_before
        if has_race and self.service.settings.race_conflicts:
            return self.service.refuse(S3Error("ConditionalRequestConflict"), call)
        return self.service.serve(call)

    def _failure(self, fault: Fail, call: Call) -> Answer:
        wait = fault.retry_after_seconds
        headers = {} if wait is None else {"Retry-After": str(wait)}
        answer = self.service.refuse(S3Error(fault.code, headers=headers), call)
        if fault.late:
            answer.status = 200
        return answer

    async def _send(self, connection: Connection, answer: Answer, faults: Sequence[Fault]) -> None:
        body = answer.body
        slow: Pace | None = None
        cut: Reset | Truncate | None = None
        stalls = False
        for fault in faults:
            match fault:
                case FlipBit():
                    body = self._flipped(body)
                case SlowBody(bytes_per_second=rate):
                    slow = Pace(rate)
                case Reset() | Truncate():
                    cut = fault
                case Stall(at=StallAt.BODY):
                    stalls = True
        answer.body = body
        if slow is None and cut is None and not stalls and not self._line.is_paced:
            self.ledger.sent(len(body))
            connection.answer(answer)
            return
        view = memoryview(body)
        if cut is not None:
            assert cut.after is not None
            view = view[: int(len(body) * cut.after)]
        connection.start_answer(answer)
        half = len(view) // 2 if stalls else len(view)
        await self._send_paced(connection, view[:half], slow)
        if stalls:
            await self._stall(faults, StallAt.BODY)
            await self._send_paced(connection, view[half:], slow)
        if isinstance(cut, Reset):
            # What was written goes out at the end of the loop's turn.
            await asyncio.sleep(0)
            connection.abort()
        else:
            connection.finish(is_last=answer.is_last or cut is not None)

    async def _send_paced(self, connection: Connection, view: memoryview, slow: Pace | None) -> None:
        pace = slow or connection.pace(self._line.connection_bytes_per_second)
        size = min(pace.slice_bytes(), self._down.slice_bytes())
        loop = asyncio.get_running_loop()
        for start in range(0, len(view), size):
            part = view[start : start + size]
            now = loop.time()
            ready_at = max(pace.reserve(len(part), now), self._down.reserve(len(part), now))
            if ready_at > now:
                await asyncio.sleep(ready_at - now)
            await connection.write(part)
            self.ledger.sent(len(part))

    async def _pass(self, connection: Connection, size_bytes: int, total: Pace) -> None:
        """What came at the speed of this machine is taken for having come at that of the line."""
        if not size_bytes or not self._line.is_paced:
            return
        now = asyncio.get_running_loop().time()
        own = connection.pace(self._line.connection_bytes_per_second)
        ready_at = max(own.reserve(size_bytes, now), total.reserve(size_bytes, now))
        await asyncio.sleep(max(0.0, ready_at - now))

    async def _stall(self, faults: Sequence[Fault], at: StallAt) -> None:
        for fault in faults:
            if isinstance(fault, Stall) and fault.at is at:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stalls_end.wait(), fault.seconds)

    def _flipped(self, body: BytesLike) -> BytesLike:
        if not len(body):
            return body
        flipped = bytearray(body)
        bit = self.plan.random.randrange(8 * len(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
        return flipped
