"""The conversation with the kernel, over a socket pair."""

import asyncio
import errno
import os
import random
import struct
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.core.bytes_like import BytesLike
from bucketry.core.fuse import protocol
from bucketry.core.fuse.protocol import Opcode
from bucketry.errors import Unavailable, Unsupported
from bucketry.serve.fuse import connection
from bucketry.testing.memory_device import MemoryDevice
from fuse_kernel import Kernel, conversation, init_body, release, setattr_body, transfer

SIZE = 1 << 20


class Gate:
    """A hook that lets nobody pass before it is opened."""

    def __init__(self, *operations: str) -> None:
        self._operations = operations
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, operation: str, _offset: int, _length: int) -> None:
        if operation in self._operations:
            self.reached.set()
            await self.open.wait()


def failing(problem: Exception, *operations: str) -> Callable[[str, int, int], Awaitable[None]]:
    async def fail(operation: str, _offset: int, _length: int) -> None:
        if operation in operations:
            raise problem

    return fail


def figure(kernel: Kernel, *names: str) -> int:
    value: object = kernel.connection.statistics()
    for name in names:
        value = cast("dict[str, object]", value)[name]
    return cast("int", value)


@pytest.mark.parametrize("immediate", [True, False])
async def test_what_is_written_is_read(immediate: bool) -> None:
    """Bytes come back, at any offset, answered at once or after a wait."""
    device = MemoryDevice(SIZE, immediate=immediate)
    async with conversation(device) as kernel:
        handle = await kernel.open()
        reply = await kernel.write(handle, 12345, b"some bytes")
        assert (reply.errno, struct.unpack("=II", reply.payload)[0]) == (0, 10)
        assert (await kernel.read(handle, 12340, 20)).payload == b"\0" * 5 + b"some bytes" + b"\0" * 5
        assert figure(kernel, "written_bytes") == 10
        assert figure(kernel, "read_bytes") == 20
        assert figure(kernel, "immediate_reads") == immediate
        assert figure(kernel, "waited", "read", "count") == (not immediate)
        assert figure(kernel, "requests", "write") == 1
        assert figure(kernel, "waiting") == figure(kernel, "waiting_bytes") == 0


@pytest.mark.parametrize("immediate", [True, False])
async def test_the_end_of_the_file_is_the_end(immediate: bool) -> None:
    """Reads stop there, writes stop there, and beyond it there is no space: as on a block device."""
    device = MemoryDevice(SIZE, immediate=immediate)
    async with conversation(device) as kernel:
        handle = await kernel.open()
        reply = await kernel.write(handle, SIZE - 4, b"12345678")
        assert struct.unpack("=II", reply.payload)[0] == 4
        assert (await kernel.read(handle, SIZE - 4, 4096)).payload == b"1234"
        for offset in (SIZE, SIZE + 1, 2**63, 2**64 - 1):
            assert (await kernel.read(handle, offset, 4096)).payload == b""
            assert (await kernel.write(handle, offset, b"x")).errno == errno.ENOSPC


async def test_answers_come_when_they_are_ready() -> None:
    """A request that waits holds up no other."""
    device = MemoryDevice(SIZE, immediate=False, before=(gate := Gate("read")))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        slow = await kernel.send(Opcode.READ, transfer(handle, 0, 4096))
        await gate.reached.wait()
        assert (await kernel.write(handle, 0, b"x")).errno == 0
        assert figure(kernel, "waiting") == 1
        gate.open.set()
        assert (await kernel.receive(slow)).payload == b"x" + bytes(4095)


async def test_the_data_of_a_waiting_write_is_its_own() -> None:
    """Requests that come after it into the same buffer do not change it."""
    device = MemoryDevice(SIZE, immediate=False, before=(gate := Gate("write")))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        numbers = [
            await kernel.send(Opcode.WRITE, transfer(handle, n * 4096, 4096) + bytes([n]) * 4096)
            for n in range(8)
        ]
        await gate.reached.wait()
        gate.open.set()
        assert [(await kernel.receive(number)).errno for number in numbers] == [0] * 8
        assert device.data[: 8 * 4096] == b"".join(bytes([n]) * 4096 for n in range(8))


async def test_only_so_many_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit requests stay in the kernel, and are read again when there is room."""
    monkeypatch.setattr(connection, "WAITING_MAX", 16)
    device = MemoryDevice(SIZE, immediate=False, before=(gate := Gate("read")))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        numbers: list[int] = []

        async def send_all() -> None:
            for n in range(40):
                numbers.append(await kernel.send(Opcode.READ, transfer(handle, n, 1)))  # noqa: PERF401 — as far as it got

        sending = asyncio.create_task(send_all())
        while not figure(kernel, "pauses"):
            await asyncio.sleep(0)
        assert figure(kernel, "waiting") == 16
        gate.open.set()
        await sending
        for number in numbers:
            assert (await kernel.receive(number)).payload == b"\0"


async def test_only_so_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do more bytes wait than may."""
    monkeypatch.setattr(connection, "WAITING_BYTES_MAX", 8192)
    device = MemoryDevice(SIZE, immediate=False, before=(gate := Gate("write")))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        numbers = [
            await kernel.send(Opcode.WRITE, transfer(handle, n * 4096, 4096) + bytes(4096)) for n in range(8)
        ]
        while not figure(kernel, "pauses"):
            await asyncio.sleep(0)
        assert (figure(kernel, "waiting"), figure(kernel, "waiting_bytes")) == (2, 8192)
        gate.open.set()
        for number in numbers:
            assert (await kernel.receive(number)).errno == 0
        assert figure(kernel, "waiting_bytes") == 0


async def test_the_end_is_seen_while_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unmount ends the session even when as many requests hang as may."""
    monkeypatch.setattr(connection, "WAITING_MAX", 16)
    device = MemoryDevice(SIZE, immediate=False, before=Gate("read"))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        for n in range(16):
            await kernel.send(Opcode.READ, transfer(handle, n, 1))
        while not figure(kernel, "pauses"):
            await asyncio.sleep(0)
        await kernel.end()


async def test_changes_under_way_are_waited_for_at_the_end() -> None:
    """When the other side goes, reads are given up and writes are finished."""
    gate = Gate("read", "write")
    device = MemoryDevice(SIZE, immediate=False, before=gate)
    async with conversation(device) as kernel:
        handle = await kernel.open()
        await kernel.send(Opcode.READ, transfer(handle, 0, 1))
        await kernel.send(Opcode.WRITE, transfer(handle, 0, 4) + b"kept")
        while figure(kernel, "waiting") < 2:
            await asyncio.sleep(0)
        ending = asyncio.create_task(kernel.end())
        while figure(kernel, "waiting") > 1:
            await asyncio.sleep(0)
        assert not kernel.serving.done()
        gate.open.set()
        await ending
        assert device.data[:4] == b"kept"


async def test_cancelled_it_drops_everything() -> None:
    """A device that never answers cannot hold up somebody who gives up."""
    device = MemoryDevice(SIZE, immediate=False, before=(gate := Gate("write")))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        await kernel.send(Opcode.WRITE, transfer(handle, 0, 4) + b"lost")
        await gate.reached.wait()
        kernel.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await kernel.serving
        assert device.data[:4] == bytes(4)


@pytest.mark.logs(
    "FUSE read: the store is gone", "FUSE write: the store is gone", "FUSE flush: the store is gone"
)
async def test_errors_of_ours_are_numbers_and_a_line() -> None:
    """What the device raises is answered by the table, and the session goes on."""
    device = MemoryDevice(
        SIZE, immediate=False, before=failing(Unavailable("the store is gone"), "read", "write")
    )
    async with conversation(device) as kernel:
        handle = await kernel.open()
        assert (await kernel.read(handle, 0, 1)).errno == errno.EIO
        assert (await kernel.write(handle, 0, b"x")).errno == errno.EIO
        device.before = failing(Unavailable("the store is gone"), "flush")
        assert (await kernel.write(handle, 0, b"x")).errno == 0
        # A close that failed has not flushed, so the next tries again.
        assert [(await kernel.flush(handle)).errno for _ in range(2)] == [errno.EIO] * 2
        device.before = failing(Unavailable("the store is gone"))
        assert (await kernel.flush(handle)).errno == 0
        assert figure(kernel, "errors", "EIO") == 4


class Broken(MemoryDevice):
    """A device with bugs."""

    def read_nowait(self, offset: int, length: int) -> BytesLike | None:
        return [b"too long" * 1000, None, None][offset]

    async def read(self, offset: int, length: int) -> BytesLike:
        if offset == 2:
            raise asyncio.CancelledError
        return b"short"

    def write_nowait(self, offset: int, data: BytesLike) -> bool:
        raise ZeroDivisionError


@pytest.mark.logs(
    "FUSE read failed unexpectedly", "FUSE write failed unexpectedly", "read 5 bytes instead of 4096"
)
async def test_bugs_are_eio_and_the_session_goes_on() -> None:
    """Whatever a device does, every request is answered, and never with the wrong number of bytes."""
    async with conversation(Broken(SIZE)) as kernel:
        handle = await kernel.open()
        for offset in (0, 1, 2, 3):
            assert (await kernel.read(handle, offset, 4096)).errno == errno.EIO
        assert (await kernel.write(handle, 0, b"x")).errno == errno.EIO
        assert (await kernel.lookup(b"file")).errno == 0


async def test_a_close_flushes_what_was_written_through_it() -> None:
    """Handles that wrote nothing, or nothing since, do not wait for the bucket."""
    device = MemoryDevice(SIZE)
    async with conversation(device) as kernel:
        writer, other, reader = await kernel.open(), await kernel.open(), await kernel.open(os.O_RDONLY)
        await kernel.write(writer, 0, b"x")
        for handle, flushes in ((other, 0), (reader, 0), (writer, 1), (writer, 1)):
            assert (await kernel.flush(handle)).errno == 0
            assert device.calls["flush"] == flushes
        await kernel.fallocate(other, 0, 4096, 3)
        await kernel.flush(other)
        assert device.calls["flush"] == 2


async def test_a_mappings_pages_are_flushed_by_whoever_closes() -> None:
    """Pages that the kernel writes out later name any handle, so each that can write flushes."""
    device = MemoryDevice(SIZE)
    async with conversation(device) as kernel:
        named, mapper = await kernel.open(), await kernel.open()
        await kernel.write(named, 0, b"x", protocol.WRITE_CACHE)
        await kernel.flush(mapper)
        assert device.calls["flush"] == 1


async def test_a_write_that_ends_after_a_flush_began_is_flushed_by_the_next() -> None:
    """A flush does not count for what was acknowledged after it."""
    device = MemoryDevice(SIZE, immediate=False, before=(gate := Gate("write")))
    async with conversation(device) as kernel:
        handle = await kernel.open()
        number = await kernel.send(Opcode.WRITE, transfer(handle, 0, 1) + b"x")
        await gate.reached.wait()
        assert (await kernel.ask(Opcode.FSYNC, struct.pack("=QII", handle, 1, 0))).errno == 0
        gate.open.set()
        await kernel.receive(number)
        await kernel.flush(handle)
        assert device.calls["flush"] == 2


@pytest.mark.logs(r"7\.22")
async def test_a_kernel_that_is_too_old_ends_the_session() -> None:
    """It is told EOPNOTSUPP, and serve says why."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        reply = await kernel.ask(Opcode.INIT, init_body(minor=22))
        assert reply.errno == errno.EOPNOTSUPP
        with pytest.raises(Unsupported, match=r"7\.22"):
            await kernel.serving


async def test_a_newer_kernel_asks_twice() -> None:
    """Major version 8 is answered with 7, and the second INIT counts."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        for major in (8, 7):
            reply = await kernel.ask(Opcode.INIT, init_body(major=major))
            assert (reply.errno, protocol.INIT_OUT.unpack(reply.payload)[0]) == (0, 7)
        assert (await kernel.ask(Opcode.INIT, init_body(minor=22))).errno == errno.EINVAL


@pytest.mark.slow
@pytest.mark.logs(".*", required=False)
@given(
    messages=st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=200),
            # Well-formed headers before nonsense: these get further.
            st.builds(
                lambda opcode, node, body, lie: (
                    protocol.IN_HEADER.pack(40 + len(body) + lie, opcode, 1, node, 0, 0, 0, 0, 0) + body
                ),
                st.one_of(st.sampled_from([int(opcode) for opcode in Opcode]), st.integers(0, 2**32 - 1)),
                st.one_of(st.integers(0, 4), st.integers(0, 2**64 - 1)),
                st.one_of(
                    st.binary(max_size=120),
                    st.builds(
                        lambda handle, offset, size, tail: struct.pack("=QQQ", handle, offset, size) + tail,
                        st.integers(0, 3),
                        st.sampled_from([0, 1, SIZE - 1, SIZE, 2**31, 2**63, 2**64 - 1]),
                        st.sampled_from([0, 1, 4096, 2**20, 2**32 - 1, 2**63]),
                        st.binary(max_size=40),
                    ),
                ),
                st.sampled_from([0, 0, 0, 0, 1]),
            ),
        ),
        max_size=12,
    ),
    immediate=st.booleans(),
)
@settings(max_examples=300)
async def test_no_bytes_end_the_session(messages: list[bytes], immediate: bool) -> None:
    """After any nonsense a proper request gets its proper answer."""
    async with conversation(MemoryDevice(SIZE, immediate=immediate)) as kernel:
        assert (await kernel.ask(Opcode.INIT, init_body())).errno == 0
        handle = await kernel.open()
        for message in messages:
            # A unique that no proper request has, so that answers are not mistaken.
            await kernel.send_bytes(message[:8] + struct.pack("=Q", 2**40) + message[16:])
        assert (await kernel.lookup(b"file")).errno == 0
        if handle in kernel.connection._files:
            assert (await kernel.read(handle, 0, 1)).errno == 0


async def test_random_requests_at_once_are_as_a_byte_array() -> None:
    """Reads and writes of any size at any offset, eight at a time, some answered at once and some not."""
    prng = random.Random(5)
    device = MemoryDevice(SIZE)

    async def wait_somewhat(_operation: str, _offset: int, _length: int) -> None:
        for _ in range(prng.randrange(5)):
            await asyncio.sleep(0)

    device.before = wait_somewhat
    expected = bytearray(SIZE)
    async with conversation(device) as kernel:
        handle = await kernel.open()
        for _ in range(60):
            # Each of the eight keeps to its own part, for overlapping requests have no order.
            asked: list[tuple[int, bytes]] = []
            for part in range(8):
                device.immediate = prng.random() < 0.5
                offset = part * SIZE // 8 + prng.randrange(SIZE // 16)
                data = prng.randbytes(prng.randrange(1, SIZE // 64))
                end = offset + len(data)
                if prng.random() < 0.5:
                    number = await kernel.send(Opcode.READ, transfer(handle, offset, len(data)))
                    asked.append((number, bytes(expected[offset:end])))
                else:
                    number = await kernel.send(Opcode.WRITE, transfer(handle, offset, len(data)) + data)
                    expected[offset:end] = data
                    asked.append((number, struct.pack("=II", len(data), 0)))
            for number, answer in asked:
                assert (await kernel.receive(number)).payload == answer
    assert device.data == expected


async def test_forgotten_nodes_and_interrupts_get_no_answer() -> None:
    """The kernel expects none, and would refuse it."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        silent = [
            await kernel.send(Opcode.FORGET, struct.pack("=Q", 1)),
            await kernel.send(Opcode.BATCH_FORGET, struct.pack("=IIQQ", 1, 0, 2, 1)),
            await kernel.send(Opcode.INTERRUPT, struct.pack("=Q", 1)),
        ]
        await kernel.lookup(b"file")
        assert not kernel._replies.keys() & set(silent)


async def test_what_cannot_be_done_here_is_said_so() -> None:
    """Operations that we do not know are ENOSYS, ioctls ENOTTY, and closing what is not open EBADF."""
    async with conversation(MemoryDevice(SIZE)) as kernel:
        for opcode in (Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.COPY_FILE_RANGE, Opcode.BMAP, 52, 9999):
            assert (await kernel.ask(opcode, bytes(64))).errno == errno.ENOSYS
        assert (await kernel.ask(Opcode.IOCTL, bytes(64))).errno == errno.ENOTTY
        assert (await kernel.ask(Opcode.RELEASE, release(77))).errno == errno.EBADF
        assert (await kernel.ask(Opcode.SETATTR, setattr_body(0), node=99)).errno == errno.ENOENT
        assert figure(kernel, "requests", "unknown") == 2
