"""What tests of the object cache share: objects, a bucket with faults, readers and their opens."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from bucketry.bucket.interface import Attributes
from bucketry.bucket.memory import MemoryBucket
from bucketry.core.cache_map import BLOCK_BYTES
from bucketry.core.pieces import PIECES_METADATA, Pieces, encode, sum_pieces
from bucketry.files.object_cache import ObjectCache
from bucketry.files.object_reader import ObjectReader, OpenObject
from bucketry.settings import FilesSettings
from bucketry.testing.faulty_bucket import FaultyBucket

LIMIT_BYTES = 64 << 20


@lru_cache(maxsize=16)
def content(size_bytes: int, seed: int = 0) -> bytes:
    """Random, so that no two places are alike."""
    return Random(seed).randbytes(size_bytes)


@dataclass(frozen=True)
class Uploaded:
    """What an upload would tell."""

    etag: str
    size_bytes: int
    pieces: Pieces | None


class Place:
    """A bucket, and a cache directory beside it. Readers and caches are closed at the end, unless a test has
    done so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bucket = FaultyBucket(MemoryBucket(url="memory://files"))
        self._caches: list[ObjectCache] = []
        self._readers: list[ObjectReader] = []

    def cache(self, size_bytes: int = LIMIT_BYTES, **more: Any) -> ObjectCache:
        cache = ObjectCache(self.directory, size_bytes=size_bytes, **more)
        self._caches.append(cache)
        return cache

    def reader(self, cache: ObjectCache | None = None, mode: str = "ranges", **more: Any) -> ObjectReader:
        reader = ObjectReader(
            self.bucket, self.cache() if cache is None else cache, FilesSettings(mode=mode, **more)
        )
        self._readers.append(reader)
        return reader

    async def put(self, key: str, data: bytes, *, pieces: bool = True) -> str:
        metadata = {PIECES_METADATA: encode(sum_pieces([data]), len(data))} if pieces else {}
        return await self.bucket.put(key, data, attributes=Attributes(metadata=metadata))

    def gets(self, key: str) -> int:
        """How many requests there were for the object's bytes."""
        return sum(request.operation == "get" and request.key == key for request in self.bucket.requests)

    def heads(self, key: str) -> int:
        return sum(request.operation == "head" and request.key == key for request in self.bucket.requests)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers:
            await reader.close()
        for cache in self._caches:
            cache.close()


@asynccontextmanager
async def opened(reader: ObjectReader, key: str) -> AsyncIterator[OpenObject]:
    """An open object, under its own name."""
    found = await reader.open(key, key)
    try:
        yield found
    finally:
        found.close()


async def read(opened_object: OpenObject, offset: int, length: int) -> bytes:
    """As a handle reads: from the cache, or by the loop."""
    buffer = bytearray(length)
    if not opened_object.read_nowait(offset, memoryview(buffer)):
        await opened_object.read(offset, memoryview(buffer))
    return bytes(buffer)


def cached(opened_object: OpenObject, offset: int, length: int) -> bytes | None:
    """What the cache alone has to say."""
    buffer = bytearray(length)
    return bytes(buffer) if opened_object.read_nowait(offset, memoryview(buffer)) else None


async def settled(opened_object: OpenObject) -> None:
    """Nothing is under way any more: all that was fetched has been stored."""
    while tasks := opened_object._version._tasks:
        await asyncio.wait(tasks)


async def fetched(reader: ObjectReader, key: str) -> bytes:
    """All of an object."""
    async with opened(reader, key) as found:
        return await read(found, 0, found.size_bytes)


def data_file(directory: Path) -> Path:
    """The data of the only entry."""
    (path,) = (directory / ".bucketry" / "entries").glob("*/*.data")
    return path


def map_file(directory: Path) -> Path:
    return data_file(directory).with_suffix(".map")


def flip(path: Path, offset: int) -> None:
    """One wrong bit, whatever the file's mode says."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    path.chmod(mode & 0o7777)


def cut(path: Path, length: int) -> None:
    """No more than the beginning, whatever the file's mode says."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    os.truncate(path, length)
    path.chmod(mode & 0o7777)


class LoopOfItsOwn:
    """An event loop on a thread, which can be made to stand still."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="test loop")
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stand_still(self) -> threading.Event:
        """It does nothing until the event is set."""
        go_on, stands = threading.Event(), threading.Event()

        def block() -> None:
            stands.set()
            go_on.wait()

        self.loop.call_soon_threadsafe(block)
        stands.wait()
        return go_on

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


__all__ = [
    "BLOCK_BYTES", "LIMIT_BYTES", "LoopOfItsOwn", "Place", "Uploaded", "cached", "content", "cut",
    "data_file", "fetched", "flip", "map_file", "opened", "read", "settled",
]  # fmt: skip
