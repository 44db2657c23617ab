"""A disk as a raw binary file object."""

import asyncio
import errno
import io
import random
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import bucketry
from bucketry.errors import AlreadyExists, Busy, Invalid, NotFound, WrongPassword

SIZE = 1 << 20


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"file://{tmp_path}/volume"
    bucketry.create(url, SIZE, block_size_bytes=4096)
    return url


def test_it_behaves_as_a_file(url: str) -> None:
    """Seek, tell, write, read, readinto, and everything that a buffered file needs of a raw one."""
    with bucketry.open(url, "r+b") as disk:
        assert isinstance(disk, io.RawIOBase)
        assert disk.seek(0, io.SEEK_END) == SIZE == len(disk)
        assert (disk.readable(), disk.writable(), disk.seekable()) == (True, True, True)
        assert disk.seek(4000) == 4000
        assert disk.write(b"hello, disk" * 100) == 1100
        assert disk.tell() == 5100
        disk.seek(-1100, io.SEEK_CUR)
        buffer = bytearray(11)
        assert disk.readinto(buffer) == 11
        assert buffer == b"hello, disk"
    with bucketry.open(url) as disk, io.BufferedReader(disk) as buffered:
        buffered.seek(4000)
        assert buffered.read(11) == b"hello, disk"
        buffered.seek(0)
        assert buffered.read() == bytes(4000) + b"hello, disk" * 100 + bytes(SIZE - 5100)


def test_it_ends_where_the_disk_ends(url: str) -> None:
    """Reading stops at the end, writing stops short of it and then says that no space is left."""
    with bucketry.open(url, "r+b") as disk:
        disk.seek(SIZE - 3)
        assert disk.write(b"abcdef") == 3
        with pytest.raises(OSError) as caught:
            disk.write(b"x")
        assert caught.value.errno == errno.ENOSPC
        disk.seek(SIZE - 3)
        assert disk.read(100) == b"abc"
        assert disk.read(100) == b""
        disk.seek(SIZE + 100)
        assert disk.read(1) == b""
        assert disk.truncate(SIZE) == SIZE
        with pytest.raises(io.UnsupportedOperation):
            disk.truncate(0)


def test_flush_makes_durable(url: str, tmp_path: Path) -> None:
    """After flush the block is an object in the bucket, while the file is still open."""
    with bucketry.open(url, "r+b") as disk:
        disk.write(b"x" * 4096)
        disk.flush()
        assert (tmp_path / "volume" / "00000000").exists()
        disk.zero(0, 4096)
        disk.flush()
        assert not (tmp_path / "volume" / "00000000").exists()


def test_reading_only(url: str) -> None:
    """A disk opened "rb" refuses writes and leaves the volume free for others."""
    with bucketry.open(url, "rb") as disk, bucketry.open(url, "r+b") as writer:
        assert not disk.writable()
        for change in (lambda: disk.write(b"x"), lambda: disk.zero(0, 1)):
            with pytest.raises(io.UnsupportedOperation):
                change()
        writer.write(b"x")


def test_what_cannot_be_opened(url: str, tmp_path: Path) -> None:
    """No volume, a bad mode, a second writer, a second create: each its own error, and nothing is left
    running."""
    with pytest.raises(NotFound):
        bucketry.open(f"file://{tmp_path}/nothing")
    with pytest.raises(Invalid):
        bucketry.open(url, "w")
    with pytest.raises(AlreadyExists):
        bucketry.create(url, SIZE)
    with bucketry.open(url, "r+b"), pytest.raises(Busy):
        bucketry.open(url, "r+b")


def test_a_closed_disk_refuses(url: str) -> None:
    """After close every call says so; closing twice is fine."""
    disk = bucketry.open(url, "r+b")
    disk.close()
    disk.close()
    assert disk.closed
    for call in (lambda: disk.read(1), lambda: disk.write(b"x"), lambda: disk.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_encrypted(tmp_path: Path) -> None:
    """A password is a keyword, shows in no repr, and a wrong one is refused."""
    url = f"file://{tmp_path}/secret"
    bucketry.create(url, SIZE, compression="deflate", cipher="aes-256-cbc", password="s3cret")
    with bucketry.open(url, "r+b", password="s3cret") as disk:
        disk.write(b"treasure")
        assert "s3cret" not in repr(disk)
    with pytest.raises(WrongPassword) as caught:
        bucketry.open(url, password="guess")
    assert "guess" not in str(caught.value)
    with bucketry.open(url, password="s3cret") as disk:
        assert disk.read(8) == b"treasure"


def test_threads_share_a_disk(url: str) -> None:
    """Calls from several threads at once are each served; every thread's own disk region holds its own
    bytes."""
    parts = {n: random.Random(n).randbytes(10_000) for n in range(8)}
    with bucketry.open(url, "r+b") as disk:
        lock = threading.Lock()

        def work(n: int) -> None:
            for start in range(0, 10_000, 500):
                with lock:  # seek and write are two calls, as with any file
                    disk.seek(n * 20_001 + start)
                    disk.write(parts[n][start : start + 500])
            disk.flush()

        threads = [threading.Thread(target=work, args=(n,)) for n in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with bucketry.open(url) as disk:
        for n, part in parts.items():
            disk.seek(n * 20_001)
            assert disk.read(10_000) == part


def test_ctrl_c_while_a_disk_is_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at once, and nothing holds the disk afterwards."""
    begun = threading.Event()

    @asynccontextmanager
    async def slow(*settings: object) -> AsyncIterator[None]:
        begun.set()
        await asyncio.Event().wait()
        yield

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    try:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("bucketry.blocking.open_disk", slow)
            thread.start()
            bucketry.open(url, "r+b")
    finally:
        thread.join()
        signal.signal(signal.SIGINT, old)
    bucketry.open(url, "r+b").close()
