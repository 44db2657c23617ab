"""A patient device outlasts an outage, and nothing else."""

import pytest

from bucketry.errors import BucketNotFound, Corrupt, Denied, Invalid, Throttled, Unavailable, Unfinished
from bucketry.serve import patient
from bucketry.serve.patient import PatientDevice
from bucketry.testing.memory_device import MemoryDevice

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient, "_PAUSE_SECONDS", 0)


class Outage:
    """Fails the first ``count`` operations with ``error``."""

    def __init__(self, count: int, error: Exception) -> None:
        self.count = count
        self._error = error

    async def __call__(self, operation: str, offset: int, length: int) -> None:
        if self.count:
            self.count -= 1
            raise self._error


@pytest.mark.logs("waits for the bucket", "the bucket is back")
@pytest.mark.parametrize("error", [Unavailable("x"), Throttled("x"), Denied("x"), BucketNotFound("x")])
async def test_what_passes_is_waited_for(error: Exception) -> None:
    """Every operation succeeds in the end, as if nothing had been, and the trouble is over."""
    device = MemoryDevice(SIZE, immediate=False)
    slow = PatientDevice(device)
    device.before = Outage(3, error)
    await slow.write(5, b"data")
    device.before = Outage(3, error)
    assert bytes(await slow.read(5, 4)) == b"data"
    device.before = Outage(3, error)
    await slow.zero(5, 2)
    device.before = Outage(3, error)
    await slow.trim(8, 1)
    device.before = Outage(3, error)
    await slow.flush()
    assert bytes(device.data[5:9]) == b"\0\0t\0"
    assert slow.trouble is None


@pytest.mark.logs("waits for the bucket", "the bucket is back")
async def test_a_flush_waits_for_whatever_holds_up_the_data() -> None:
    """The cache still has them: reporting a failure would make the filesystem give them up."""
    device = MemoryDevice(SIZE)
    device.before = Outage(2, Unfinished("x"))
    await PatientDevice(device).flush()


async def test_what_waiting_does_not_mend_fails_at_once() -> None:
    """Damaged blocks and wrong requests."""
    device = MemoryDevice(SIZE, immediate=False)
    slow = PatientDevice(device)
    device.before = Outage(1, Corrupt("x"))
    with pytest.raises(Corrupt):
        await slow.read(0, 1)
    with pytest.raises(Invalid):
        await slow.read(SIZE, 1)
    device.before = Outage(1, Corrupt("x"))
    with pytest.raises(Corrupt):
        await slow.flush()
    assert slow.trouble is None


async def test_everything_else_is_the_device_below() -> None:
    """Its figures and its immediate answers."""
    device = MemoryDevice(SIZE)
    slow = PatientDevice(device)
    assert slow.write_nowait(0, b"x")
    assert bytes(slow.read_nowait(0, 1) or b"") == b"x"
    assert (slow.size_bytes, slow.block_size_bytes) == (device.size_bytes, device.block_size_bytes)
    assert (slow.read_only, slow.allocated_bytes) == (False, device.allocated_bytes)
    assert slow.statistics() == device.statistics()
    assert await slow.extents(0, SIZE) == await device.extents(0, SIZE)
