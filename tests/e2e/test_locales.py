"""Whatever the locale: the bytes of the command line are the bytes of keys and paths."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.testing.s3_server import S3Server
from command_line import CommandLine, is_mounted

pytestmark = pytest.mark.system

#: A word that is two bytes longer in UTF-8 than in Latin-1, and one that is no UTF-8 at all.
WORD = "é東"
NO_UTF8 = b"caf\xe9"


@pytest.fixture(scope="session")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a locale whose encoding is ISO-8859-1, made here: which ones a machine has is its
    own affair."""
    directory = tmp_path_factory.mktemp("locales")
    characters = [f"<U{number:04X}> /x{number:02x} CHARACTER" for number in range(256)]
    head = ["<code_set_name> ISO-8859-1", "<mb_cur_min> 1", "<mb_cur_max> 1", "<escape_char> /", "CHARMAP"]
    (directory / "charmap").write_text("\n".join([*head, *characters, "END CHARMAP", ""]))
    (directory / "source").write_text("LC_CTYPE\nEND LC_CTYPE\n")
    # It says which categories the source lacks, by an exit code of 1 too.
    subprocess.run(
        ["localedef", "-c", "--no-archive", "-f", "./charmap", "-i", "./source", "./xx_XX.ISO-8859-1"],
        cwd=directory,
        capture_output=True,
        check=False,
    )
    assert (directory / "xx_XX.ISO-8859-1/LC_CTYPE").exists()
    return {"LOCPATH": str(directory), "LC_ALL": "xx_XX.ISO-8859-1"}


@pytest.fixture(params=["latin1", "ascii"])
def foreign(request: pytest.FixtureRequest, latin1: dict[str, str]) -> dict[str, str]:
    """The environments in which Python would decode words another way."""
    return {
        "latin1": latin1,
        "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    }[request.param]


UTF8 = {"LC_ALL": "C.UTF-8"}


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    cli = CommandLine(tmp_path)
    yield cli
    cli.close()


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("bar")
        yield server


def test_the_key_is_the_same(
    cli: CommandLine, server: S3Server, foreign: dict[str, str], tmp_path: Path
) -> None:
    """What one locale makes another one finds: volumes, files and passwords."""
    there = ["--endpoint", server.endpoint, "--anonymous"]
    (tmp_path / WORD).write_text("secret\n")
    password = ["--password-file", str(tmp_path / WORD)]
    url = f"s3://bar/{WORD}"
    cli.ok("create", url, "--size", "1M", "--encrypt", *password, *there, environment=foreign)
    assert f"url: {url}/\n" in cli.ok("info", url, *password, *there, environment=UTF8)
    assert f"url: {url}/\n" in cli.ok("info", url, *password, *there, environment=foreign)
    cli.ok("files", "put", str(tmp_path / WORD), f"{url}/files", *there, environment=foreign)
    assert cli.ok("files", "ls", f"{url}/files", *there, environment=UTF8) == f"{WORD}\n"
    cli.ok("files", "get", f"{url}/files", WORD, str(tmp_path / f"copy {WORD}"), *there, environment=foreign)
    assert (tmp_path / f"copy {WORD}").read_text() == "secret\n"


def test_a_key_that_is_no_utf8_is_refused(cli: CommandLine, server: S3Server, latin1: dict[str, str]) -> None:
    """S3 keeps nothing else; the message shows the byte."""
    url = b"s3://bar/" + NO_UTF8
    done = subprocess.run(
        [*cli.argv("create"), url, "--size", "1M", "--endpoint", server.endpoint, "--anonymous"],
        env=cli.environment(latin1),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (b"bucketry: bucket URL 's3://bar/caf\\udce9' is not valid UTF-8\n"), done.stderr


@pytest.mark.parametrize("name", [WORD.encode(), NO_UTF8 + b" \x0c\r\x1b[2J\n\xe2\x80\xa8"])
def test_the_mount_point_is_the_same(
    cli: CommandLine, foreign: dict[str, str], tmp_path: Path, name: bytes
) -> None:
    """A mount that one locale made another one finds, tells about and ends, both ways."""
    bucket = f"file://{tmp_path}/bucket"
    cli.ok("create", bucket, "--size", "1M")
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(directory).mkdir()
    for making, ending in ((UTF8, foreign), (foreign, UTF8)):
        cli.ok("attach", bucket, directory, environment=making)
        assert (Path(directory) / "file").stat().st_size == 1 << 20
        assert "state: serving" in cli.ok("info", directory, environment=ending)
        cli.ok("umount", directory, environment=ending)
        assert not is_mounted(Path(directory))
