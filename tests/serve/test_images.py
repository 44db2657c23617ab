"""Images are copied exactly, whatever they are, and holes cost nothing."""

import asyncio
import os
import random
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketry.core.error_cursor import ErrorCursor
from bucketry.errors import Corrupt, Mismatch, Unavailable
from bucketry.serve import images
from bucketry.serve.images import export_image, import_image, in_order
from bucketry.testing.memory_device import MemoryDevice

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small images have many."""
    monkeypatch.setattr(images, "CHUNK_BYTES", 40_000)


def ignore(done: int, total: int) -> None:
    """No progress is shown."""


def sparse_image(path: Path, seed: int) -> bytes:
    """A file with some data and some holes; its content."""
    prng = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(prng.randrange(6)):
            file.seek(prng.randrange(SIZE - 50_000))
            file.write(prng.randbytes(prng.randrange(1, 50_000)))
        file.truncate(prng.choice([SIZE, SIZE - 4096, 70_001, 0]))
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("blank", [True, False])
async def test_a_disk_reads_as_its_image(tmp_path: Path, seed: int, blank: bool) -> None:
    """Data, holes and what lies behind the end, on a blank disk and over old data; and back into a file."""
    content = sparse_image(tmp_path / "image", seed)
    device = MemoryDevice(SIZE)
    if not blank:
        await device.write(0, random.Random(seed).randbytes(SIZE))
    source = os.open(tmp_path / "image", os.O_RDONLY)
    assert await import_image(source, device, blank=blank, progress=ignore) == len(content)
    os.close(source)
    expected = content + bytes(SIZE - len(content))
    assert bytes(await device.read(0, SIZE)) == expected
    target = os.open(tmp_path / "back", os.O_RDWR | os.O_CREAT)
    await export_image(device, target, progress=ignore)
    os.close(target)
    assert (tmp_path / "back").read_bytes() == expected


async def test_pipes_have_no_holes_and_no_size(tmp_path: Path) -> None:
    """What comes through one is written from the start, and what goes into one is complete."""
    data = random.Random(1).randbytes(100_001)
    device = MemoryDevice(SIZE)
    receiving, sending = os.pipe()
    copying = asyncio.create_task(
        import_image(receiving, device, blank=True, progress=ignore, allow_short=True)
    )
    await asyncio.to_thread(write_and_close, sending, data)
    assert await copying == len(data)
    os.close(receiving)
    receiving, sending = os.pipe()
    reading = asyncio.create_task(asyncio.to_thread(read_to_end, receiving))
    await export_image(device, sending, progress=ignore)
    os.close(sending)
    assert await reading == data + bytes(SIZE - len(data))
    os.close(receiving)


async def test_a_stream_that_ends_early_is_no_image() -> None:
    """A program that dies closes its pipe too: only a stream that fills the disk is known to be complete."""
    data = random.Random(1).randbytes(SIZE)
    for missing in (0, 1, SIZE):
        device = MemoryDevice(SIZE)
        receiving, sending = os.pipe()
        copying = asyncio.create_task(import_image(receiving, device, blank=True, progress=ignore))
        await asyncio.to_thread(write_and_close, sending, data[: SIZE - missing])
        if missing:
            with pytest.raises(
                Corrupt, match=r"the stream ended after .*, but the disk has 1 MiB.*--allow-short"
            ):
                await copying
        else:
            assert await copying == SIZE
        os.close(receiving)


@pytest.mark.parametrize("left", [0, 10_000, 600_000, SIZE - 1, SIZE + 1])
@pytest.mark.parametrize("is_hole", [True, False])
async def test_a_file_that_changes_its_size_meanwhile_is_no_image(
    tmp_path: Path, left: int, is_hole: bool
) -> None:
    """What was cut off would be taken for a hole, and what was added left out."""
    path = tmp_path / "image"
    path.write_bytes(random.Random(2).randbytes(SIZE // 2 if is_hole else SIZE))
    os.truncate(path, SIZE)

    def cut(done: int, total: int) -> None:
        os.truncate(path, left)

    source = os.open(path, os.O_RDONLY)
    with pytest.raises(Corrupt, match=r"import it again"):
        await import_image(source, MemoryDevice(SIZE), blank=True, progress=cut)
    os.close(source)


async def test_an_image_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """A file before anything is written, a pipe when the disk is full."""
    (tmp_path / "image").write_bytes(b"x" * (SIZE + 1))
    device = MemoryDevice(SIZE)
    source = os.open(tmp_path / "image", os.O_RDONLY)
    with pytest.raises(Mismatch):
        await import_image(source, device, blank=True, progress=ignore)
    os.close(source)
    assert bytes(await device.read(0, SIZE)) == bytes(SIZE)
    receiving, sending = os.pipe()
    writing = asyncio.create_task(asyncio.to_thread(write_and_close, sending, b"x" * (SIZE + 1)))
    with pytest.raises(Mismatch):
        await import_image(receiving, device, blank=True, progress=ignore)
    os.close(receiving)
    await asyncio.gather(writing, return_exceptions=True)


async def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    """It grows, and is complete at the end."""
    (tmp_path / "image").write_bytes(b"x" * 200_000)
    os.truncate(tmp_path / "image", 300_000)
    seen: list[tuple[int, int]] = []
    source = os.open(tmp_path / "image", os.O_RDONLY)
    await import_image(
        source, MemoryDevice(SIZE), blank=True, progress=lambda done, total: seen.append((done, total))
    )
    os.close(source)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (300_000, 300_000)


async def test_a_failed_upload_is_not_a_success() -> None:
    """What the last flush raises is raised."""

    class Failing(MemoryDevice):
        async def flush(self, cursor: ErrorCursor | None = None) -> None:
            raise Unavailable("away")

    receiving, sending = os.pipe()
    os.close(sending)
    with pytest.raises(Unavailable):
        await import_image(receiving, Failing(SIZE), blank=True, progress=ignore, allow_short=True)
    os.close(receiving)


async def test_results_come_in_order_and_few_run_at_once() -> None:
    """The first may be the slowest."""
    running = 0
    most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20 - number):
            await asyncio.sleep(0)
        running -= 1
        return number

    assert [number async for number in in_order((work(n) for n in range(20)), 4)] == list(range(20))
    assert most == 4


async def test_a_failure_stops_the_others() -> None:
    """Nothing goes on in the background afterwards."""

    def all_work() -> Iterator[Coroutine[Any, Any, None]]:
        yield fail()
        for _ in range(10):
            yield asyncio.Event().wait()  # type: ignore[misc]

    async def fail() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        async for _ in in_order(all_work(), 4):
            pass
    assert len(asyncio.all_tasks()) == 1


def write_and_close(descriptor: int, data: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BrokenPipeError:
        pass  # the reader had enough


def read_to_end(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)
