"""The whole story on each kind of S3 server: a disk through its life with a crash in it, and files.

What a store cannot do is told on the terminal, once for each command that it matters to.
"""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program, run_tool
from servers.s3 import S3Server

pytestmark = pytest.mark.system

SIZE, LARGER = 16 << 20, 24 << 20
#: More than one block and less than two, so that blocks are written whole and in part.
BODY = Random(1).randbytes(200_000)
#: More than one put.
LARGE = Random(2).randbytes((16 << 20) + 1)
NO_CONDITIONS = "does not keep to the condition"


@pytest.fixture(params=["seaweed", "moto", "ministack", "rclone"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest, kind: str) -> S3Server:
    server: S3Server = request.getfixturevalue(kind)
    return server


@pytest.fixture
def told(kind: str) -> Callable[[str], None]:
    """Checks what a command said of the store."""
    expected_count = 1 if kind == "rclone" else 0

    def check(said: str) -> None:
        assert said.count(NO_CONDITIONS) == expected_count, said

    return check


def write(file: Path, offset: int, data: bytes) -> None:
    """Write, and return when fsync has."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def test_a_disk(server: S3Server, told: Callable[[str], None], program: Program, tmp_path: Path) -> None:
    """Created, attached, written, killed, attached again, checked, made larger, exported, mounted, erased:
    nothing that was fsynced is missing, and nothing is left in the bucket."""
    objects = S3Objects(server)
    at_top = objects.place(server.access_file(tmp_path / "access"))
    place = Place(f"{at_top.url}/vol", at_top.options)
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    program.create(place, str(SIZE))
    told(program.run("attach", place.url, disk, *place.options).stderr)
    write(disk / "file", 100_000, BODY)
    expected = bytearray(SIZE)
    expected[100_000 : 100_000 + len(BODY)] = BODY
    program.kill(disk)
    program.run("umount", disk, code=1)
    with program.attached(place, disk) as file:
        assert file.read_bytes() == expected
        program.run("check", place.url, *place.options)
        program.run("resize", disk, str(LARGER))
        write(file, LARGER - len(BODY), BODY)
    expected += bytes(LARGER - SIZE)
    expected[-len(BODY) :] = BODY
    program.run("export", place.url, image, *place.options)
    assert image.read_bytes() == expected
    with program.attached(place, disk) as file:
        run_tool("mkfs.ext4", "-q", "-F", file)
    with program.mounted(place, disk) as directory:
        (directory / "name").write_bytes(BODY)
    with program.mounted(place, disk, "--read-only") as directory:
        assert (directory / "name").read_bytes() == BODY
    program.run("erase", "--force", place.url, *place.options)
    assert objects.list_keys() == []


def test_files(server: S3Server, told: Callable[[str], None], program: Program, tmp_path: Path) -> None:
    """Put, listed, fetched, looked at, removed; no file is replaced, also where the store would do it."""
    objects = S3Objects(server)
    at_top = objects.place(server.access_file(tmp_path / "access"))
    url, options = f"{at_top.url}/files", at_top.options
    one, large = tmp_path / "one", tmp_path / "large"
    one.write_bytes(BODY)
    large.write_bytes(LARGE)
    told(program.run("files", "put", one, large, url, *options).stderr)
    assert "was there already" in program.run("files", "put", one, url, *options).stdout
    other = tmp_path / "others"
    other.mkdir()
    for name, content in (("one", BODY), ("large", LARGE)):
        (other / name).write_bytes(content[::-1])
        refused = program.run("files", "put", other / name, url, *options, code=2)
        assert "exists with another content" in refused.stderr
    listed = program.run("files", "ls", url, *options).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["large", "one"]
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for name, content in (("one", BODY), ("large", LARGE)):
        program.run("files", "get", url, name, fetched, *options)
        assert (fetched / name).read_bytes() == content
    assert str(len(LARGE)) in program.run("files", "stat", url, "large", "--json", *options).stdout
    program.run("files", "rm", url, "one", "large", *options)
    assert objects.list_keys() == []
