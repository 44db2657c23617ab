"""Every Device keeps the contract."""

from collections.abc import AsyncIterator

import pytest

from bucketry.cache.block_cache import BlockCache
from bucketry.core.geometry import Geometry
from bucketry.disk.disk import Disk
from bucketry.disk.interface import Device
from bucketry.serve.patient import PatientDevice
from bucketry.settings import CacheSettings
from bucketry.testing.device_contract import DeviceContract
from bucketry.testing.memory_device import MemoryDevice
from bucketry.testing.memory_layout import MemoryLayout

BLOCK = 4096
SIZE = 16 * BLOCK


async def _disk(*, read_only: bool) -> AsyncIterator[Device]:
    layout = MemoryLayout(Geometry(SIZE, BLOCK))
    # Room for a few blocks: requests wait, blocks are evicted and read again.
    cache = BlockCache(
        layout, CacheSettings(memory_bytes=5 * BLOCK, write_delay_seconds=0.0), read_only=read_only
    )
    cache.start()
    yield Disk(cache, layout.geometry, read_only=read_only)
    await cache.close()


class TestDisk(DeviceContract):
    """The real thing, over a layout in memory."""

    @pytest.fixture
    async def device(self) -> AsyncIterator[Device]:
        async for disk in _disk(read_only=False):
            yield disk

    @pytest.fixture
    async def read_only_device(self) -> AsyncIterator[Device]:
        async for disk in _disk(read_only=True):
            yield disk


class TestPatientDevice(TestDisk):
    """The one below mounted filesystems."""

    @pytest.fixture
    async def device(self) -> AsyncIterator[Device]:
        async for disk in _disk(read_only=False):
            yield PatientDevice(disk)

    @pytest.fixture
    async def read_only_device(self) -> AsyncIterator[Device]:
        async for disk in _disk(read_only=True):
            yield PatientDevice(disk)


class TestMemoryDevice(DeviceContract):
    """The fake that tests of faces use."""

    @pytest.fixture
    def device(self) -> Device:
        return MemoryDevice(SIZE, BLOCK)

    @pytest.fixture
    def read_only_device(self) -> Device:
        return MemoryDevice(SIZE, BLOCK, read_only=True)
