"""The kernel's side of a FUSE conversation, played by a test over a socket pair."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bucketry.core.fuse import protocol
from bucketry.core.fuse.protocol import InitFlag, Opcode
from bucketry.disk.interface import Device
from bucketry.serve.fuse.connection import Connection
from bucketry.serve.fuse.operations import Operations
from bucketry.serve.fuse.tree import FILE, ROOT, Tree
from bucketry.settings import FuseSettings

STATS_TEXT = b"everything 1\n"
ALL_FLAGS = (1 << 40) - 1


@dataclass
class Reply:
    errno: int
    payload: bytes


class Kernel:
    """Sends requests and awaits their replies, which may come in any order."""

    def __init__(self, sock: socket.socket, connection: Connection, serving: asyncio.Task[None]) -> None:
        self._sock = sock
        self.connection = connection
        self.serving = serving
        self._unique = 0
        self._replies: dict[int, Reply] = {}

    async def send_bytes(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, message)

    async def send(self, opcode: int, body: bytes = b"", node: int = FILE) -> int:
        self._unique += 1
        header = protocol.IN_HEADER.pack(40 + len(body), opcode, self._unique, node, 0, 0, 1, 0, 0)
        await self.send_bytes(header + body)
        return self._unique

    async def receive(self, unique: int) -> Reply:
        while unique not in self._replies:
            message = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 21)
            length, error, number = protocol.OUT_HEADER.unpack_from(message)
            assert length == len(message)
            assert error <= 0
            self._replies[number] = Reply(-error, message[16:])
        return self._replies.pop(unique)

    async def ask(self, opcode: int, body: bytes = b"", node: int = FILE) -> Reply:
        return await self.receive(await self.send(opcode, body, node))

    # The operations, as the kernel words them

    async def open(self, flags: int = os.O_RDWR, node: int = FILE) -> int:
        reply = await self.ask(Opcode.OPEN, struct.pack("=II", flags, 0), node)
        assert reply.errno == 0
        return int(protocol.OPEN_OUT.unpack(reply.payload)[0])

    async def read(self, handle: int, offset: int, size: int) -> Reply:
        return await self.ask(Opcode.READ, transfer(handle, offset, size))

    async def write(self, handle: int, offset: int, data: bytes, flags: int = 0) -> Reply:
        return await self.ask(Opcode.WRITE, transfer(handle, offset, len(data), flags) + data)

    async def flush(self, handle: int) -> Reply:
        return await self.ask(Opcode.FLUSH, release(handle))

    async def fallocate(self, handle: int, offset: int, length: int, mode: int) -> Reply:
        return await self.ask(Opcode.FALLOCATE, struct.pack("=QQQII", handle, offset, length, mode, 0))

    async def seek(self, handle: int, offset: int, whence: int) -> Reply:
        return await self.ask(Opcode.LSEEK, struct.pack("=QQII", handle, offset, whence, 0))

    async def lookup(self, name: bytes) -> Reply:
        return await self.ask(Opcode.LOOKUP, name + b"\0", ROOT)

    async def end(self) -> None:
        """Unmount."""
        self._sock.close()
        await self.serving


def transfer(handle: int, offset: int, size: int, flags: int = 0) -> bytes:
    return protocol.TRANSFER.pack(handle, offset, size, flags, 0, 0, 0)


def release(handle: int) -> bytes:
    return protocol.RELEASE_IN.pack(handle, 0, 0, 0)


def setattr_body(valid: int, *, size: int = 0, mode: int = 0, uid: int = 0, modified: int = 0) -> bytes:
    return protocol.SETATTR_IN.pack(valid, 0, 0, size, 0, 0, modified, 0, 0, 7, 0, mode, 0, uid, 0, 0)


def init_body(major: int = 7, minor: int = 45, flags: int = ALL_FLAGS) -> bytes:
    flags |= InitFlag.INIT_EXT
    return struct.pack("=IIIII44x", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)


@asynccontextmanager
async def conversation(device: Device, settings: FuseSettings | None = None) -> AsyncIterator[Kernel]:
    """A connection that serves ``device`` until the test is over."""
    settings = FuseSettings() if settings is None else settings
    tree = Tree(device, settings, lambda: STATS_TEXT)
    operations = Operations(device, tree, settings, lambda: STATS_TEXT)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setblocking(False)
    connection = Connection(theirs.detach(), device, operations)
    serving = asyncio.create_task(connection.serve())
    try:
        with ours:
            yield Kernel(ours, connection, serving)
    finally:
        # A task that still waits for the device is cancelled with the connection.
        serving.cancel()
        await asyncio.wait([serving])
