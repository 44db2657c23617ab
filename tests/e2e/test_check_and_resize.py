"""s3backer finds volumes that we resized as large as we left them, and the other way round; on SeaweedFS."""

import random
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program
from interop.s3backer import S3backer
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

BLOCK = 128 << 10
MIB = 1 << 20


@pytest.fixture
def s3backer(seaweed: Seaweed, tmp_path: Path) -> S3backer:
    return S3backer(seaweed, tmp_path)


def test_s3backer_agrees_on_the_new_size(
    program: Program, place: Place, objects: S3Objects, s3backer: S3backer, tmp_path: Path
) -> None:
    """A disk of ours is grown, found larger by s3backer, which writes at the new end; then it is shrunk with
    force, and both find it smaller, with what is before the end; check has no complaint in between."""
    program.create(place, "4M")
    data = random.Random(1).randbytes(4 * MIB)
    with program.attached(place, tmp_path / "disk") as file:
        file.write_bytes(data)
        program.run("resize", place.url, "--size", "8M", *place.options, code=5)
    program.run("resize", place.url, "--size", "8M", *place.options)
    with s3backer.mounted(objects.bucket) as file:
        assert file.read_bytes() == data + bytes(4 * MIB)
        with file.open("r+b") as opened:
            opened.seek(7 * MIB)
            opened.write(data[:MIB])
    assert "all is well" in program.run("check", place.url, *place.options).stdout
    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == data + bytes(3 * MIB) + data[:MIB]

    program.run("resize", place.url, "--size", "2M", *place.options, code=2)
    program.run("resize", place.url, "--size", "2M", "--force", *place.options)
    assert sum(key.startswith("0000") for key in objects.list_keys()) == 2 * MIB // BLOCK
    assert "all is well" in program.run("check", place.url, *place.options).stdout
    with s3backer.mounted(objects.bucket, "--readOnly") as file:
        assert file.read_bytes() == data[: 2 * MIB]
    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == data[: 2 * MIB]


def test_their_volume_is_checked_and_resized(
    program: Program, place: Place, objects: S3Objects, s3backer: S3backer
) -> None:
    """Its size is on block 0, where s3backer finds the new one; damage in its blocks is found."""
    data = random.Random(2).randbytes(MIB)
    options = ("--size=1m", "--blockSize=64k", "--compress")
    with s3backer.mounted(objects.bucket, *options) as file:
        file.write_bytes(data)
    assert "no superblock" in program.run("check", place.url, *place.options).stdout
    program.run("resize", place.url, "--size", "3M", *place.options)
    with s3backer.mounted(objects.bucket, "--readOnly") as file:
        assert file.read_bytes() == data + bytes(2 * MIB)

    body, attributes = objects.get("00000005")
    objects.put("00000005", body[:-9] + b"different", attributes)
    found = program.run("check", place.url, *place.options, code=1)
    assert "damage: block 5 (00000005)" in found.stdout
    program.run("check", place.url, "--repair", "--zero-damaged", *place.options, code=1)
    program.run("check", place.url, *place.options)
    expected = bytearray(data + bytes(2 * MIB))
    expected[5 << 16 : 6 << 16] = bytes(1 << 16)
    with s3backer.mounted(objects.bucket, "--readOnly") as file:
        assert file.read_bytes() == expected


@pytest.mark.parametrize("block_0", [True, False], ids=["block 0 tells", "block 0 does not tell"])
def test_what_s3backer_wrote_after_growing_a_volume_of_ours_is_kept(
    program: Program, place: Place, objects: S3Objects, s3backer: S3backer, tmp_path: Path, block_0: bool
) -> None:
    """Its documented way is --force and a larger size, which block 0 tells when it is next written. No check
    deletes what lies there, and resize makes it part of the volume."""
    program.create(place, "4M")
    data = bytearray(random.Random(3).randbytes(4 * MIB) + bytes(4 * MIB))
    with program.attached(place, tmp_path / "disk") as file:
        file.write_bytes(data[: 4 * MIB])
    with s3backer.mounted(objects.bucket, "--force", "--size=8m") as file, file.open("r+b") as opened:
        for offset in (6 * MIB, 8 * MIB - BLOCK, *([0] if block_0 else [])):
            data[offset : offset + BLOCK] = random.Random(offset).randbytes(BLOCK)
            opened.seek(offset)
            opened.write(data[offset : offset + BLOCK])
    before = objects.list_keys()
    for options in ((), ("--repair",), ("--repair", "--zero-damaged")):
        found = program.run("check", place.url, *options, *place.options, code=int(block_0))
        assert ("block 0 (00000000) says 8 MiB, the superblock 4 MiB" in found.stdout) is block_0
        assert "2 flaws" in found.stdout
        assert objects.list_keys() == before
    if block_0:
        program.run("attach", place.url, tmp_path / "disk", *place.options, code=2)
    else:
        program.run("resize", place.url, "8M", *place.options, code=2)
    program.run("resize", place.url, "8M", *([] if block_0 else ["--adopt"]), *place.options)
    assert "all is well" in program.run("check", place.url, *place.options).stdout
    with program.attached(place, tmp_path / "disk") as file:
        assert file.read_bytes() == data
    with s3backer.mounted(objects.bucket, "--readOnly") as file:
        assert file.read_bytes() == data
