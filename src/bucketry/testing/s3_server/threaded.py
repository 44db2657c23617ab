"""The server in a thread of this process."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from bucketry.testing.s3_server.controls import Controls, Json
from bucketry.testing.s3_server.running import LOOPBACK, RunningServer
from bucketry.testing.s3_server.service import DEFAULTS, ServiceSettings


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed: twice the requests per second."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class S3Server(Controls):
    """``with S3Server() as server:`` serves on ``server.endpoint``; its objects are gone at the end.

    It shares this process's processor time (and its GIL) with whoever asks it: measure with S3ServerProcess.
    """

    def __init__(
        self, settings: ServiceSettings = DEFAULTS, *, port: int = 0, control_port: int | None = None
    ) -> None:
        self._settings = settings
        self._port = port
        self._control_port = control_port
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: RunningServer | None = None
        self._stop: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """While it runs."""
        assert self._server is not None
        return self._server.port

    @property
    def endpoint(self) -> str:
        """While it runs."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def control_port(self) -> int:
        """While it runs, and only if it was asked to have one: where RemoteControl finds it."""
        assert self._server is not None
        return self._server.control_port

    def start(self) -> None:
        """Returns when it serves. Raises OSError when the port is taken."""
        assert self._thread is None
        started = threading.Event()

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    runner.run(self._serve(started))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for us
                self._failure = error
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="s3-server", daemon=True)
        self._thread.start()
        started.wait()
        if self._server is None:
            self._end()

    def stop(self) -> None:
        """End all connections, forget all objects; does nothing when it does not run."""
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._stop is not None
        if self._failure is None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._end()

    def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        assert self._loop is not None
        assert self._server is not None
        return asyncio.run_coroutine_threadsafe(self._server.command(name, arguments), self._loop).result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self) -> None:
        """Wait for the thread, and raise here what went wrong there."""
        assert self._thread is not None
        self._thread.join()
        self._thread = self._server = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _serve(self, started: threading.Event) -> None:
        server = RunningServer(self._settings)
        await server.start(self._port, self._control_port)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._server = server
        started.set()
        try:
            await self._stop.wait()
        finally:
            await server.stop()
