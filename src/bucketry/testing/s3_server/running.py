"""The server in an event loop: its listening sockets, its connections, and the commands that it obeys."""

import asyncio
import inspect
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict

from bucketry.testing.s3_server.child_settings import decode_credentials
from bucketry.testing.s3_server.controls import Json, decode_rule
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.exchange import Exchange, Outage
from bucketry.testing.s3_server.faults import FaultRates
from bucketry.testing.s3_server.http import Answer, Connection, Request
from bucketry.testing.s3_server.line import NO_LINE, LineModel
from bucketry.testing.s3_server.service import Service, ServiceSettings

#: Nobody from outside is ever let in.
LOOPBACK = "127.0.0.1"
#: Tests open many connections at once.
_BACKLOG = 1024


class RunningServer:
    """Serves from ``start`` to ``stop``; both, and all that is between, belong to one event loop."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.service = Service(settings)
        self.exchange = Exchange(self.service)
        self.port = 0
        self.control_port = 0
        self._listener: asyncio.Server | None = None
        self._control_listener: asyncio.Server | None = None
        self._port_holder: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._control_connections: set[Connection] = set()
        self._commands: Mapping[str, Callable[..., Json]] = {  # coroutine functions among them
            "make_bucket": self._make_bucket,
            "clear": self.service.store.clear,
            "plan": lambda **fields: self.exchange.plan.add(decode_rule(fields)),
            "set_fault_rates": lambda rates, seed: self.exchange.plan.set_rates(FaultRates(**rates), seed),
            "clear_faults": self.exchange.plan.clear,
            "release_stalls": self.exchange.release_stalls,
            "begin_outage": self._begin_outage,
            "end_outage": self._end_outage,
            "set_line": self._set_line,
            "set_stale_lists": self._set_stale_lists,
            "set_credentials": self._set_credentials,
            "expire_credentials": self._expire_credentials,
            "renew_credentials": self._renew_credentials,
            "snapshot": self._snapshot,
            "reset_ledger": self.exchange.ledger.reset,
        }

    async def start(self, port: int, control_port: int | None) -> None:
        """Listen on ``port`` (0: any), and for commands on ``control_port`` (None: nowhere).

        Raises OSError."""
        self._listener, self.port = await self._listen_for_requests(port)
        if control_port is not None:
            self._control_listener, self.control_port = await _listen(
                control_port,
                lambda: Connection(self._serve_command, self.service.refuse, self._control_connections),
            )

    async def stop(self) -> None:
        """End all connections and close all sockets."""
        for listener in (self._listener, self._control_listener):
            if listener is not None:
                listener.close()
        self._release_port()
        for connection in [*self._connections, *self._control_connections]:
            connection.abort()
        # Each takes itself off the list in the loop's next turn.
        while self._connections or self._control_connections:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Obey. Raises ValueError for what makes no sense."""
        found = self._commands.get(name)
        if found is None:
            raise ValueError(f"there is no command {name!r}")
        try:
            result = found(**arguments)
            return await result if inspect.isawaitable(result) else result
        except (TypeError, KeyError, S3Error) as error:
            raise ValueError(f"{name}: {error}") from error

    # Commands by HTTP.

    def _serve_command(self, request: Request, connection: Connection) -> None:
        # Pages that a browser shows can reach the loopback interface too. They cannot send this type without
        # asking first, nor be called by an address in Host.
        is_ours = (
            request.method == "POST"
            and request.headers.get("content-type") == "application/json"
            and request.headers.get("host") == f"{LOOPBACK}:{self.control_port}"
            and "origin" not in request.headers
        )
        if not is_ours:
            connection.answer(
                _json_answer(403, {"error": "commands are POST with a body of application/json"})
            )
            return
        connection.task = asyncio.get_running_loop().create_task(self._obey(request, connection))

    async def _obey(self, request: Request, connection: Connection) -> None:
        try:
            arguments = json.loads(bytes(request.body))
            if not isinstance(arguments, dict):
                raise ValueError("arguments are an object")
            result = await self.command(request.target[1:], arguments)
        except ValueError as error:
            connection.answer(_json_answer(400, {"error": str(error)}))
        else:
            connection.answer(_json_answer(200, {"result": result}))

    # Commands.

    def _make_bucket(self, name: str) -> None:
        self.service.store.create_bucket(name, self.service.now())

    async def _begin_outage(self, kind: str) -> None:
        outage = Outage(kind)
        await self._end_outage()
        if outage is Outage.HANG:
            self.exchange.hangs = True
            return
        assert self._listener is not None
        self._listener.close()
        self._listener = None
        # Bound and not listening: connections are refused, and nobody else gets the port meanwhile.
        self._port_holder = socket.socket()
        self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port_holder.bind((LOOPBACK, self.port))
        self._abort_connections()

    async def _end_outage(self) -> None:
        if self.exchange.hangs:
            self.exchange.hangs = False
            self._abort_connections()
        if self._listener is None:
            self._listener, _ = await self._listen_for_requests(self.port)
            self._release_port()

    def _release_port(self) -> None:
        if self._port_holder is not None:
            self._port_holder.close()
            self._port_holder = None

    async def _listen_for_requests(self, port: int) -> tuple[asyncio.Server, int]:
        return await _listen(
            port, lambda: Connection(self.exchange.serve, self.exchange.refuse, self._connections)
        )

    def _abort_connections(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _set_line(self, **fields: Json) -> None:
        line = LineModel(**fields)
        # The very same object when there is none: that is what requests look for.
        self.exchange.set_line(NO_LINE if line == NO_LINE else line)

    def _set_stale_lists(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds {seconds} is below 0")
        self.service.store.stale_seconds = float(seconds)

    def _set_credentials(self, credentials: Json) -> None:
        chosen = decode_credentials(credentials)
        if not chosen:
            raise ValueError("without any credentials everybody would be let in")
        self.service.set_credentials(chosen)

    def _expire_credentials(self, access_id: str) -> None:
        self.service.expired |= {access_id}

    def _renew_credentials(self, access_id: str) -> None:
        self.service.expired -= {access_id}

    def _snapshot(self) -> Json:
        store = self.service.store
        objects_count = sum(len(bucket.objects) for bucket in store.buckets.values())
        return asdict(
            self.exchange.ledger.snapshot(stored_bytes=store.stored_bytes, objects_count=objects_count)
        )


async def _listen(port: int, make: Callable[[], Connection]) -> tuple[asyncio.Server, int]:
    listener = await asyncio.get_running_loop().create_server(make, LOOPBACK, port, backlog=_BACKLOG)
    found: int = listener.sockets[0].getsockname()[1]
    return listener, found


def _json_answer(status: int, content: Json) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())
