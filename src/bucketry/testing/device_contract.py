"""What every Device must do, as tests: inherit DeviceContract and give it a ``device`` fixture.

The fixture gives a writable device of at least four of its blocks, all zeros. A second one,
``read_only_device``, is the same for reading only.
"""

import random
from itertools import pairwise

import pytest

from bucketry.disk.interface import Device
from bucketry.errors import Invalid, ReadOnly


async def read(device: Device, offset: int, length: int) -> bytes:
    """The bytes, by the immediate way if the device has them, else by waiting."""
    found = device.read_nowait(offset, length)
    return bytes(await device.read(offset, length) if found is None else found)


async def write(device: Device, offset: int, data: bytes) -> None:
    """Likewise."""
    if not device.write_nowait(offset, data):
        await device.write(offset, data)


class DeviceContract:
    """See ``bucketry.disk.interface.Device``; each test is one of its sentences."""

    async def test_a_new_device_is_zeros(self, device: Device) -> None:
        """From end to end, and it says so of its extents."""
        assert await read(device, 0, device.size_bytes) == bytes(device.size_bytes)
        assert all(extent.is_hole for extent in await device.extents(0, device.size_bytes))

    @pytest.mark.parametrize("start", [-1, 0, 1])
    @pytest.mark.parametrize("more", [-1, 0, 1])
    async def test_bytes_of_any_offset_and_length(self, device: Device, start: int, more: int) -> None:
        """What is written round the edges of blocks is read back, alone and with what is around it."""
        block = device.block_size_bytes
        offset, length = block + start, block + more
        data = random.Random(3).randbytes(length)  # noqa: S311 - content, no secret
        await write(device, offset, data)
        assert await read(device, offset, length) == data
        assert await read(device, 0, 4 * block) == (bytes(offset) + data).ljust(4 * block, b"\0")

    async def test_nothing_is_nothing(self, device: Device) -> None:
        """Empty requests succeed and change nothing, also at the very end."""
        for offset in (0, 5, device.size_bytes):
            await device.write(offset, b"")
            await device.zero(offset, 0)
            assert bytes(await device.read(offset, 0)) == b""
        assert await read(device, 0, device.size_bytes) == bytes(device.size_bytes)

    async def test_a_buffer_may_be_used_again(self, device: Device) -> None:
        """When a write has returned, the device does not look at the caller's bytes any more."""
        buffer = bytearray(b"first" * 100)
        await device.write(7, buffer)
        buffer[:] = b"other" * 100
        if not device.write_nowait(5000, buffer):
            await device.write(5000, buffer)
        buffer[:] = b"third" * 100
        assert await read(device, 7, 500) == b"first" * 100
        assert await read(device, 5000, 500) == b"other" * 100

    async def test_what_was_read_stays(self, device: Device) -> None:
        """An awaited read's bytes are not changed by later writes."""
        await device.write(0, b"before")
        seen = await device.read(0, 6)
        await device.write(0, b"after!")
        assert bytes(seen) == b"before"

    @pytest.mark.parametrize("verb", ["zero", "trim"])
    async def test_zeroed_bytes_are_zeros(self, device: Device, verb: str) -> None:
        """Exactly those, whole blocks and parts of blocks; whole ones become holes."""
        block = device.block_size_bytes
        await device.write(0, b"x" * (4 * block))
        await getattr(device, verb)(block // 2, 2 * block)
        expected = bytearray(b"x" * (4 * block))
        expected[block // 2 : block // 2 + 2 * block] = bytes(2 * block)
        assert await read(device, 0, 4 * block) == expected
        holes = [extent for extent in await device.extents(0, 4 * block) if extent.is_hole]
        assert [(hole.offset, hole.length) for hole in holes] == [(block, block)]

    async def test_extents_cover_what_was_asked_in_order(self, device: Device) -> None:
        """From the offset on, without gaps, neighbours of one kind merged, not beyond the device."""
        block = device.block_size_bytes
        await device.write(2 * block, b"x")
        for offset in (0, 1, 2 * block, 3 * block - 1):
            extents = await device.extents(offset, device.size_bytes - offset)
            at = offset
            for extent in extents:
                assert extent.offset == at
                at += extent.length
            assert at == device.size_bytes
            kinds = [extent.is_hole for extent in extents]
            assert all(one != other for one, other in pairwise(kinds))

    async def test_allocated_bytes_follow(self, device: Device) -> None:
        """More after a write, less after a trim, never more than the device."""
        await device.extents(0, 1)
        before = device.allocated_bytes
        await device.write(0, b"x" * device.block_size_bytes)
        assert before < device.allocated_bytes <= device.size_bytes
        await device.trim(0, device.size_bytes)
        assert device.allocated_bytes == 0

    async def test_ranges_beyond_the_end_are_refused(self, device: Device) -> None:
        """Every verb, at once or waiting, raises Invalid and changes nothing."""
        size = device.size_bytes
        for offset, length in ((size, 1), (size - 1, 2), (-1, 2), (2**63, 1)):
            for refused in (
                device.read(offset, length),
                device.zero(offset, length),
                device.trim(offset, length),
            ):
                with pytest.raises(Invalid):
                    await refused
            with pytest.raises(Invalid):
                await device.write(offset, bytes(length))
            with pytest.raises(Invalid):
                await device.extents(offset, length)
            with pytest.raises(Invalid):
                device.write_nowait(offset, b"x" * length)
        assert await read(device, 0, size) == bytes(size)

    async def test_a_flush_succeeds(self, device: Device) -> None:
        """With something written and with nothing."""
        await device.flush()
        await device.write(1, b"x")
        await device.flush()

    async def test_a_read_only_device_refuses_every_change(self, read_only_device: Device) -> None:
        """ReadOnly, at once or waiting; reading and flushing go on; it can be refreshed, and a writable one
        cannot."""
        device = read_only_device
        assert device.read_only
        for change in (device.write(0, b"x"), device.zero(0, 1), device.trim(0, device.size_bytes)):
            with pytest.raises(ReadOnly):
                await change
        with pytest.raises(ReadOnly):
            device.write_nowait(0, b"x")
        await device.flush()
        await device.refresh()
        assert await read(device, 0, 10) == bytes(10)

    async def test_a_writable_device_is_not_refreshed(self, device: Device) -> None:
        """Nobody else writes to it, and it may hold what nobody else has."""
        with pytest.raises(Invalid):
            await device.refresh()

    async def test_statistics_are_plain(self, device: Device) -> None:
        """Nested mappings of numbers and short strings."""
        pending: list[object] = [device.statistics()]
        while pending:
            value = pending.pop()
            if isinstance(value, dict):
                assert all(isinstance(name, str) for name in value)
                pending += value.values()
            else:
                assert isinstance(value, int | float | str)
