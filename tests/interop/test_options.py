"""Options that both programs have mean the same: Debian's s3backer and our command line, on one bucket."""

import random
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program
from interop.s3backer import S3backer
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

SIZE = 256 << 10
NEW = ["--size=256k", "--blockSize=4k"]
CONTENT = random.Random(1).randbytes(SIZE)


@pytest.fixture
def place(seaweed: Seaweed, tmp_path: Path) -> Place:
    return S3Objects(seaweed).place(seaweed.access_file(tmp_path / "passwd"))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("correct horse\n")
    return path


@pytest.mark.parametrize(
    ("theirs", "cipher"),
    [
        ("--encrypt", "AES-128-CBC"),
        ("--encrypt=aes-192-cbc", "AES-192-CBC"),
        ("--encrypt=AES-256-CBC", "AES-256-CBC"),
    ],
)
def test_encrypt_on_their_volume(
    seaweed: Seaweed, place: Place, program: Program, password: Path, theirs: str, cipher: str
) -> None:
    """Alone it is whatever they chose, their own default included; named it may be written as they do."""
    s3backer = S3backer(seaweed, password.parent)
    bucket = place.url.removeprefix("s3://")
    with s3backer.mounted(bucket, theirs, f"--passwordFile={password}", *NEW) as file:
        file.write_bytes(CONTENT)
    image = password.parent / "image"
    secret = ["--password-file", str(password)]
    for ours in (["--encrypt"], ["--encrypt", cipher.lower()], [f"--encrypt={cipher}"]):
        program.run("export", place.url, image, "--force", *ours, *secret, *place.options)
        assert image.read_bytes() == CONTENT
    told = program.json("info", place.url, "--encrypt", *secret, *place.options)
    assert (told["kind"], told["cipher"], told["size_bytes"]) == ("s3backer", cipher, SIZE)
    other = "AES-192-CBC" if cipher != "AES-192-CBC" else "AES-128-CBC"
    refused = program.run("info", place.url, "--encrypt", other, *place.options, code=2)
    assert f"encrypted with {cipher}, not {other}" in refused.stderr


def test_encrypt_on_our_volume(seaweed: Seaweed, place: Place, program: Program, password: Path) -> None:
    """Theirs alone is AES-128-CBC: that cipher has to be named when the volume is made for it."""
    image = password.parent / "image"
    image.write_bytes(CONTENT)
    secret = ["--password-file", str(password)]
    program.run(
        "import", image, place.url, "--encrypt", "aes-128-cbc", "--block-size", "4K", *secret, *place.options
    )
    bucket = place.url.removeprefix("s3://")
    with S3backer(seaweed, password.parent).mounted(
        bucket, "--encrypt", f"--passwordFile={password}"
    ) as file:
        assert file.read_bytes() == CONTENT


def test_encrypt_on_a_volume_that_is_empty_so_far(
    seaweed: Seaweed, place: Place, program: Program, password: Path
) -> None:
    """Where nothing is stored the volume is s3backer's, and so is what --encrypt means."""
    directory = password.parent / "disk"
    options = ["--size", "256K", "--block-size", "4K", "--encrypt", "--password-file", str(password)]
    with program.attached(place, directory, *options) as file, file.open("r+b") as opened:
        opened.write(CONTENT)
    bucket = place.url.removeprefix("s3://")
    with S3backer(seaweed, password.parent).mounted(
        bucket, "--encrypt", f"--passwordFile={password}"
    ) as file:
        assert file.read_bytes() == CONTENT
