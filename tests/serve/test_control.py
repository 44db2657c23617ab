"""The control socket answers, reports errors by their class, and cancels what nobody waits for."""

import asyncio
import contextlib
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bucketry.errors import BucketryError, Busy, Closed, Invalid
from bucketry.serve.control import ControlServer
from bucketry.serve.control_client import Answer, ControlClient, ask


@asynccontextmanager
async def serving(path: Path, handler: Callable[[str], object]) -> AsyncIterator[ControlServer]:
    async def answer(operation: str, request: Mapping[str, object]) -> Answer:
        result = handler(operation)
        if asyncio.iscoroutine(result):
            result = await result
        assert isinstance(result, dict)
        return result

    server = ControlServer(path, answer)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def test_a_request_is_answered(tmp_path: Path) -> None:
    """The operation's name arrives, and what the handler returns comes back."""
    async with serving(tmp_path / "socket", lambda operation: {"asked": operation}):
        answer = await asyncio.to_thread(ask, tmp_path / "socket", "status")
    assert answer == {"ok": True, "asked": "status"}
    assert not (tmp_path / "socket").exists()


async def test_a_deep_directory_is_no_obstacle(tmp_path: Path) -> None:
    """Paths of sockets end at 107 bytes; ours need not."""
    deep = tmp_path.joinpath(*["x" * 50] * 4)
    deep.mkdir(parents=True)
    async with serving(deep / "socket", lambda operation: {}):
        assert await asyncio.to_thread(ask, deep / "socket", "status") == {"ok": True}


async def test_errors_keep_their_class(tmp_path: Path) -> None:
    """What the handler raises is raised at the client."""

    def refuse(operation: str) -> object:
        raise Busy("files are open")

    async with serving(tmp_path / "socket", refuse):
        with pytest.raises(Busy, match="files are open"):
            await asyncio.to_thread(ask, tmp_path / "socket", "stop")


async def test_a_client_that_leaves_cancels_its_request(tmp_path: Path) -> None:
    """Whoever does not wait any more does not keep the process busy."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait_for_ever(operation: str) -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    async with serving(tmp_path / "socket", wait_for_ever):
        client = await asyncio.to_thread(ControlClient, tmp_path / "socket", "stop")
        assert await asyncio.to_thread(client.poll, 0) is None
        await begun.wait()
        client.close()
        await cancelled.wait()


async def test_closing_waits_for_answers(tmp_path: Path) -> None:
    """Who asked the process to stop hears that it has."""
    go, begun = asyncio.Event(), asyncio.Event()

    async def slow(operation: str) -> Answer:
        begun.set()
        await go.wait()
        return {"done": True}

    async with serving(tmp_path / "socket", slow) as server:
        client = await asyncio.to_thread(ControlClient, tmp_path / "socket", "stop")
        await begun.wait()
        closing = asyncio.create_task(server.close())
        go.set()
        await closing
    assert await asyncio.to_thread(client.poll, None) == {"ok": True, "done": True}
    client.close()


async def test_a_silent_client_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Closing waits for answers, not for questions."""
    async with serving(tmp_path / "socket", lambda operation: {}):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        assert await asyncio.to_thread(ask, tmp_path / "socket", "status") == {"ok": True}
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"op": 1}\n', b"{}\n", b"\xff\n"])
async def test_nonsense_is_refused(tmp_path: Path, line: bytes) -> None:
    """Whatever arrives, an error is the answer, and the server goes on."""
    async with serving(tmp_path / "socket", lambda operation: {}):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        writer.write(line)
        answer = json.loads(await reader.readline())
        writer.close()
        assert (answer["ok"], answer["error"]) == (False, "Invalid")
        assert await asyncio.to_thread(ask, tmp_path / "socket", "status") == {"ok": True}


def test_nobody_listens(tmp_path: Path) -> None:
    """A socket that is not there, or whose process has gone."""
    with pytest.raises(Closed):
        ask(tmp_path / "socket", "status")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    with pytest.raises(Closed):
        ask(tmp_path / "socket", "status")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", Closed),
        (b'{"ok": false, "error": "Path", "message": "x"}\n', BucketryError),
        (b'{"ok": false, "error": "Invalid", "message": "x"}\n', Invalid),
    ],
)
def test_strange_answers(tmp_path: Path, reply: bytes, kind: type[BucketryError]) -> None:
    """An answer that is none, or with an error that is not ours, is an error of ours."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        client = ControlClient(tmp_path / "socket", "status")
        served, _ = listener.accept()
        with served:
            served.recv(1000)
            served.sendall(reply)
        with pytest.raises(BucketryError) as caught:
            client.poll(None)
        assert type(caught.value) is kind
        client.close()


@pytest.mark.logs("a client gets a descriptor kept aside")
async def test_answers_when_no_descriptor_is_left(tmp_path: Path) -> None:
    """Who asks is answered with a descriptor that was kept aside, again and again; the log says so."""
    async with serving(tmp_path / "socket", lambda operation: {"asked": operation}):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(6)]
        taken: list[int] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            # All numbers that are free below the limit are taken.
            highest = max(client.fileno() for client in clients)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            loop = asyncio.get_running_loop()
            for client in clients:
                client.setblocking(False)
                await loop.sock_connect(client, str(tmp_path / "socket"))
                await loop.sock_sendall(client, b'{"op": "status"}\n')
                assert json.loads(await loop.sock_recv(client, 1000))["asked"] == "status"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in taken:
                os.close(number)
            for client in clients:
                client.close()
