"""The tools that people use on disks and images, on the attached file."""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program, run_tool

pytestmark = pytest.mark.system

BLOCK = 128 << 10


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_image(path: Path, size_bytes: int) -> Path:
    """Data, holes, and zeros that are no holes, none of them on the border of a block."""
    prng = random.Random(7)
    with path.open("wb") as file:
        for offset, length in ((0, 10), (300_000, 700_000), (4 << 20, 3 * BLOCK), (9_000_001, 1)):
            file.seek(offset)
            file.write(prng.randbytes(length))
        file.seek(6 << 20)
        file.write(bytes(1 << 20))
        file.truncate(size_bytes)
    return path


def _blocks_with_data(path: Path) -> int:
    with path.open("rb") as file:
        return sum(any(block) for block in iter(lambda: file.read(BLOCK), b""))


@contextmanager
def _loop_device(file: Path) -> Iterator[str]:
    device = run_tool("losetup", "--find", "--show", "--direct-io=on", file).strip()
    try:
        yield device
    finally:
        run_tool("losetup", "--detach", device)


@pytest.mark.parametrize("direct", [0, 1], ids=["buffered", "direct"])
def test_fio_verifies(direct: int, program: Program, place: Place, tmp_path: Path) -> None:
    """fio writes 16 MiB at random through a cache of 6 MiB, reads it back and verifies each crc32c; and once
    more after a cold start."""
    program.create(place, "16M")
    disk = tmp_path / "disk"

    def fio(*more: str) -> None:
        job = [
            "--name=verify", f"--filename={disk}/file", "--rw=randwrite", "--bsrange=4k-64k", "--size=16M",
            f"--direct={direct}", "--ioengine=libaio", "--iodepth=8", "--verify=crc32c",
            "--verify_fatal=1", "--randrepeat=1", "--minimal",
        ]  # fmt: skip
        # fio leaves its verification state in the current directory.
        run_tool("fio", *job, f"--aux-path={tmp_path}", *more)

    with program.attached(place, disk, "--memory", "6M"):
        fio("--do_verify=1", "--end_fsync=1")
    with program.attached(place, disk, "--memory", "6M"):
        fio("--verify_only")


@pytest.mark.parametrize("sparse", ["always", "auto", "never"])
def test_cp_in_and_out(
    sparse: str, program: Program, place: Place, objects: S3Objects, tmp_path: Path
) -> None:
    """cp of an image onto the file of a new disk and back: the same bytes, and no object for a block of
    zeros, whether cp skips or writes them."""
    image = _make_image(tmp_path / "image", 16 << 20)
    program.create(place, "16M")
    with program.attached(place, tmp_path / "disk") as file:
        run_tool("cp", f"--sparse={sparse}", image, file)
        assert len(objects.list_blocks()) == _blocks_with_data(image)
    with program.attached(place, tmp_path / "disk") as file:
        run_tool("cp", f"--sparse={sparse}", file, tmp_path / "copy")
    assert _sum(tmp_path / "copy") == _sum(image)
    if sparse != "never":
        assert (tmp_path / "copy").stat().st_blocks * 512 < 4 << 20


def test_cp_over_old_data(program: Program, place: Place, objects: S3Objects, tmp_path: Path) -> None:
    """``cp --sparse=always`` onto a disk full of other data punches holes where the image has them."""
    image = _make_image(tmp_path / "image", 16 << 20)
    program.create(place, "16M")
    with program.attached(place, tmp_path / "disk") as file:
        file.write_bytes(b"old." * (4 << 20))
        run_tool("cp", "--sparse=always", image, file)
        assert _sum(file) == _sum(image)
        run_tool("sync", file)
        assert len(objects.list_blocks()) == _blocks_with_data(image)


def test_dd_and_truncate(program: Program, place: Place, objects: S3Objects, tmp_path: Path) -> None:
    """``dd conv=fsync`` returns when the data is in the bucket; ``truncate`` to the size that it has is
    allowed, to any other refused, and so is writing beyond the end."""
    program.create(place, "4M")
    data = random.Random(3).randbytes(1 << 20)
    (tmp_path / "data").write_bytes(data)
    with program.attached(place, tmp_path / "disk") as file:
        dd = ("dd", f"if={tmp_path}/data", f"of={file}", "bs=64K")
        run_tool(*dd, "seek=33", "conv=fsync,notrunc")
        # From block 16 and a half: eight whole blocks and two halves.
        assert len(objects.list_blocks()) == 9
        run_tool("truncate", "-s", "4M", file)
        for size in ("1M", "8M"):
            run_tool("truncate", "-s", size, file, code=1)
        assert file.stat().st_size == 4 << 20
        run_tool(*dd, "seek=60", "conv=notrunc", code=1)
    with program.attached(place, tmp_path / "disk") as file:
        found = file.read_bytes()
    assert found[33 * 65536 :] == (data + bytes(11 << 16))[: 27 * 65536] + data[: 4 * 65536]
    assert not any(found[: 33 * 65536])


def test_qemu_img(program: Program, place: Place, tmp_path: Path) -> None:
    """qemu-img converts an image onto a disk full of other data and back, and its map of the disk is what
    was written and punched."""
    image = _make_image(tmp_path / "image", 16 << 20)
    program.create(place, "16M")
    with program.attached(place, tmp_path / "disk") as file:
        file.write_bytes(b"old." * (4 << 20))
        run_tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, file)
        run_tool("qemu-img", "compare", "-f", "raw", "-F", "raw", image, file)
    with program.attached(place, tmp_path / "disk") as file:
        run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", file, tmp_path / "copy.qcow2")
        run_tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, tmp_path / "copy.qcow2")

        file.write_bytes(b"new." * (4 << 20))
        run_tool("fallocate", "--punch-hole", "--offset", str(3 * BLOCK), "--length", str(5 * BLOCK), file)
        run_tool("fallocate", "--zero-range", "--offset", str(20 * BLOCK), "--length", str(BLOCK + 1), file)
        assert _map(file) == [
            (0, 3 * BLOCK, True),
            (3 * BLOCK, 5 * BLOCK, False),
            (8 * BLOCK, 12 * BLOCK, True),
            (20 * BLOCK, BLOCK, False),
            (21 * BLOCK, 107 * BLOCK, True),
        ]
    with program.attached(place, tmp_path / "disk") as file:
        assert [extent for extent in _map(file) if not extent[2]] == [
            (3 * BLOCK, 5 * BLOCK, False),
            (20 * BLOCK, BLOCK, False),
        ]


def _map(file: Path) -> Sequence[tuple[int, int, bool]]:
    """Offset, length and whether there is data, as qemu-img sees it."""
    found = json.loads(run_tool("qemu-img", "map", "-f", "raw", "--output=json", file))
    return [(extent["start"], extent["length"], extent["data"]) for extent in found]


def test_blkdiscard_frees_objects(program: Program, place: Place, objects: S3Objects, tmp_path: Path) -> None:
    """Through a loop device: ``blkdiscard`` of a range deletes its objects and the rest stays; ``blkdiscard
    -z`` makes zeros."""
    program.create(place, "16M")
    data = random.Random(5).randbytes(16 << 20)
    with program.attached(place, tmp_path / "disk") as file:
        file.write_bytes(data)
        run_tool("sync", file)
        assert len(objects.list_blocks()) == 128
        with _loop_device(file) as device:
            run_tool("blkdiscard", "--offset", "4M", "--length", "6M", device)
            run_tool("blkdiscard", "-z", "--offset", "1M", "--length", "256K", device)
            run_tool("sync", device)
            assert len(objects.list_blocks()) == 128 - 48 - 2
    expected = bytearray(data)
    expected[4 << 20 : 10 << 20] = bytes(6 << 20)
    expected[1 << 20 : (1 << 20) + (256 << 10)] = bytes(256 << 10)
    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == expected


def test_fstrim_frees_objects(program: Program, place: Place, objects: S3Objects, tmp_path: Path) -> None:
    """Files are deleted from a mounted filesystem, and ``fstrim`` gives their objects back."""
    program.create(place, "256M")
    with program.mounted(place, tmp_path / "disk", "--mkfs", "ext4") as directory:
        run_tool("sync", "-f", directory)
        empty_count = len(objects.list_blocks())
        (directory / "large").write_bytes(os.urandom(40 << 20))
        run_tool("sync", "-f", directory)
        assert len(objects.list_blocks()) >= empty_count + 320
        (directory / "large").unlink()
        run_tool("sync", "-f", directory)
        run_tool("fstrim", directory)
        run_tool("sync", "-f", directory)
        # The file's blocks have gone; some of the metadata that came with it may stay.
        assert len(objects.list_blocks()) <= empty_count + 20
