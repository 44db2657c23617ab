"""A disk on a store that is not S3: made, filled, opened again, verified."""

import random
from pathlib import Path

import pytest

import bucketry
from e2e.places import Place
from e2e.program import Program, run_tool
from e2e.tree import Tree, differences, take_manifest
from servers.azurite import Azurite
from servers.s3 import write_access_file

pytestmark = pytest.mark.system

SIZE = 8 << 20


@pytest.fixture
def azure(azurite: Azurite, tmp_path: Path) -> Place:
    """A new container at Azurite."""
    access_file = write_access_file(tmp_path / "access", azurite.account, azurite.account_key)
    options = ["--endpoint", azurite.endpoint, "--access-file", str(access_file)]
    return Place(f"az://{azurite.make_container()}/some/disk", options)


def test_azure_in_python(azure: Place) -> None:
    """Random writes and zeroes through the blocking API, encrypted and compressed, against a byte array;
    every byte of it is there when the disk is opened again."""
    _, endpoint, _, access_file = azure.options
    prng = random.Random(21)
    model = bytearray(SIZE)
    password = "correct horse"
    bucketry.create(
        azure.url,
        SIZE,
        block_size_bytes=32 << 10,
        compression="zstd",
        cipher="AES-256-CBC",
        password=password,
        endpoint=endpoint,
        access_file=Path(access_file),
    )
    with bucketry.open(
        azure.url, "r+b", password=password, endpoint=endpoint, access_file=Path(access_file)
    ) as disk:
        for _ in range(150):
            offset = prng.randrange(SIZE)
            length = min(SIZE - offset, prng.choice((1, 1000, 32 << 10, 200_000)))
            if prng.random() < 0.2:
                disk.zero(offset, length)
                model[offset : offset + length] = bytes(length)
                continue
            data = prng.randbytes(length) if prng.random() < 0.5 else bytes([prng.randrange(256)]) * length
            disk.seek(offset)
            assert disk.write(data) == length
            model[offset : offset + length] = data
    with bucketry.open(
        azure.url, password=password, endpoint=endpoint, access_file=Path(access_file)
    ) as disk:
        assert disk.read(SIZE) == model


def test_azure_under_a_filesystem(program: Program, azure: Place, tree: Tree, tmp_path: Path) -> None:
    """mkfs.ext4 on the attached file, files on it, and after a cold mount they are all there."""
    program.create(azure, "256M")
    with program.attached(azure, tmp_path / "disk") as file:
        run_tool("mkfs.ext4", "-q", file)
    with program.mounted(azure, tmp_path / "disk") as directory:
        run_tool("cp", "-a", "--sparse=always", tree.path / "odd", directory)
    with program.mounted(azure, tmp_path / "disk") as directory:
        assert differences(take_manifest(tree.path / "odd"), take_manifest(directory / "odd")) == []
    with program.attached(azure, tmp_path / "disk") as file:
        run_tool("e2fsck", "-f", "-n", file)
