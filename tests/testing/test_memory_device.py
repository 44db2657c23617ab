"""The device in memory does what it is told."""

import pytest

from bucketry.disk.interface import Device, ExtentStatus
from bucketry.errors import Invalid, ReadOnly, Unavailable
from bucketry.testing.memory_device import MemoryDevice

SIZE = 65536


async def test_bytes_come_back_and_leave_holes() -> None:
    """Writes are data, zeros and trims free whole blocks, and extents tell which is which."""
    device: Device = MemoryDevice(SIZE, 4096)
    await device.write(4000, b"x" * 200)
    assert device.write_nowait(20000, b"y")
    assert device.read_nowait(3999, 3) == b"\0xx"
    assert device.allocated_bytes == 3 * 4096
    assert await device.extents(1, 20000) == [
        ExtentStatus(1, 8191, False),
        ExtentStatus(8192, 8192, True),
        ExtentStatus(16384, 3617, False),
    ]
    await device.trim(0, 6000)
    await device.zero(16384, 4096)
    assert await device.read(0, SIZE) == bytes(SIZE)
    assert device.allocated_bytes == 4096


async def test_it_waits_and_fails_to_order() -> None:
    """Without immediate answers everything passes the hook, which may raise."""

    async def fail(operation: str, offset: int, length: int) -> None:
        raise Unavailable(f"{operation} {offset} {length}")

    device = MemoryDevice(SIZE, immediate=False, before=fail)
    assert device.read_nowait(0, 1) is None
    assert not device.write_nowait(0, b"x")
    with pytest.raises(Unavailable, match="write 7 1"):
        await device.write(7, b"x")
    assert device.data == bytes(SIZE)
    assert device.calls == {"write": 1}


async def test_its_borders_hold() -> None:
    """Ranges beyond the end are Invalid, changes to a read-only device ReadOnly."""
    device = MemoryDevice(SIZE, read_only=True)
    for offset, length in ((0, SIZE + 1), (SIZE, 1), (-1, 1)):
        with pytest.raises(Invalid):
            await device.read(offset, length)
    with pytest.raises(ReadOnly):
        device.write_nowait(0, b"x")
    with pytest.raises(ReadOnly):
        await device.trim(0, 1)
