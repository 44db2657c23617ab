"""The device that notes what is asked of it."""

from bucketry.testing.memory_device import MemoryDevice
from bucketry.testing.recording_device import Access, RecordingDevice


async def test_every_request_is_noted_once() -> None:
    """At once or waiting, each is told of when it is carried out, and does what the device below does."""
    below = MemoryDevice(1 << 20)
    noted: list[Access] = []
    device = RecordingDevice(below, noted.append)
    assert device.write_nowait(0, b"abc")
    assert device.read_nowait(1, 2) == b"bc"
    below.immediate = False
    assert not device.write_nowait(0, b"xyz")
    assert device.read_nowait(0, 1) is None
    await device.write(5, b"defg")
    assert await device.read(0, 9) == b"abc\0\0defg"
    await device.zero(0, 4096)
    await device.trim(4096, 8192)
    await device.flush()
    assert noted == [
        Access("w", 0, 3),
        Access("r", 1, 2),
        Access("w", 5, 4),
        Access("r", 0, 9),
        Access("z", 0, 4096),
        Access("z", 4096, 8192),
    ]
    assert await device.read(0, 9) == bytes(9)
