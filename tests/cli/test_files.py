"""``bucketry files …``: what each command does, prints and ends with, over a directory."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.cli import exits
from bucketry.cli.main import run_command
from bucketry.files.storage_source import StorageSource
from bucketry.settings import BucketSettings, FilesSettings


@dataclass
class Ended:
    code: int
    output: str
    errors: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run ``bucketry files`` in this process."""

    def run(*arguments: object) -> Ended:
        code = run_command(["files", *map(str, arguments)])
        output, errors = capfdbinary.readouterr()
        return Ended(code, output.decode(), errors.decode())

    return run


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two files in it."""
    local = tmp_path / "local"
    local.mkdir()
    (local / "a.txt").write_bytes(b"hello\n")
    (local / "b.bin").write_bytes(bytes(range(256)) * 1000)
    monkeypatch.chdir(local)
    return local


def test_put_list_stat_get_cat_remove(run: Run, url: str, local: Path) -> None:
    """The life of two files, told in lines."""
    assert run("put", "a.txt", "b.bin", url) == Ended(0, "put a.txt: 6 B\nput b.bin: 250 KiB\n", "")
    assert run("put", "a.txt", url).output == "put a.txt: was there already\n"
    assert run("ls", url).output == "a.txt\nb.bin\n"
    assert run("ls", url, "b").output == "b.bin\n"
    size, etag, name = run("ls", url, "a", "--long").output.split()
    assert (size, name) == ("6", "a.txt")
    told = run("stat", url, "a.txt").output
    assert "size: 6 B\n" in told
    assert "has checksums: yes\n" in told
    assert etag in told
    assert run("cat", url, "a.txt", "a.txt").output == "hello\nhello\n"
    assert run("cat", url, "a.txt", "--offset", 1, "--length", 3).output == "ell"
    assert run("get", url, "b.bin", "back.bin").output == "got back.bin: 250 KiB\n"
    assert (local / "back.bin").read_bytes() == (local / "b.bin").read_bytes()
    assert run("rm", url, "a.txt").output == "removed a.txt\n"
    assert run("ls", url).output == "b.bin\n"


def test_json(run: Run, url: str, local: Path) -> None:
    """Every command that reports can do so for programs."""
    put = json.loads(run("put", "a.txt", url, "--name", "x/y", "--json").output)
    assert put == {"url": url, "files": [{"name": "x/y", "size_bytes": 6, "was_there": False}]}
    listed = json.loads(run("ls", url, "--json").output)
    assert (listed["count"], listed["size_bytes"], listed["files"][0]["name"]) == (1, 6, "x/y")
    told = json.loads(run("stat", url, "x/y", "--json").output)["files"][0]
    assert (told["size_bytes"], told["has_checksums"], told["etag"]) == (6, True, listed["files"][0]["etag"])
    got = json.loads(run("get", url, "x/y", "--json").output)
    assert got == {"url": url, "name": "x/y", "file": "y", "size_bytes": 6}
    assert json.loads(run("rm", url, "x/y", "--json").output) == {"url": url, "removed": ["x/y"]}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stat", "URL", "absent"], exits.NOT_FOUND, "no object absent"),
        (["get", "URL", "absent"], exits.NOT_FOUND, "no object absent"),
        (["cat", "URL", "absent"], exits.NOT_FOUND, "no object absent"),
        (["rm", "URL", "a.txt", "absent"], exits.NOT_FOUND, "no object absent"),
        (["ls", "URL-missing"], exits.NOT_FOUND, "No such bucket."),
        (["ls", "bucket"], exits.USAGE, "'bucket' is not a bucket URL"),
        (["put", "b.bin", "URL", "--name", "a.txt"], exits.USAGE, "a.txt exists with another content"),
        (["put", "a.txt", "b.bin", "URL", "--name", "x"], exits.USAGE, "--name is for one FILE"),
        (["put", "absent", "URL"], exits.NOT_FOUND, "no such file: absent"),
        (["put", ".", "URL"], exits.USAGE, "'.' is a directory"),
        (["put", "a.txt", "URL", "--name", "../x"], exits.USAGE, "has the part '..'"),
        (["get", "URL", "a.txt", "b.bin"], exits.USAGE, "b.bin exists; --force overwrites it"),
        (["get", "URL", "a.txt", "no/such/place"], exits.NOT_FOUND, "No such file or directory"),
        (["cat", "URL", "a.txt", "--offset", "7"], exits.USAGE, "a.txt has 6 bytes"),
        (["cat", "URL", "a.txt", "--length", "7"], exits.USAGE, "a.txt has 6 bytes"),
        (["scrub", "."], exits.NOT_FOUND, "is not a cache of files"),
        (["stats", "."], exits.NOT_FOUND, "is not a cache of files"),
        (["stats", "a.txt"], exits.USAGE, "does not hold the figures"),
        (["stats", "absent"], exits.NOT_FOUND, "no such file: absent"),
        (["scrub", "absent"], exits.NOT_FOUND, "no such directory: absent"),
        (["scrub", "a.txt"], exits.USAGE, "'a.txt' is not a directory"),
        (["fly"], exits.USAGE, "no command 'fly'"),
    ],
)
def test_what_goes_wrong(
    run: Run, url: str, local: Path, arguments: list[str], code: int, words: str
) -> None:
    """One line that says what, and the documented code; nothing changes."""
    run("put", "a.txt", url)
    before = sorted(local.iterdir())
    ended = run(*(word.replace("URL", url) for word in arguments))
    assert ended.code == code, ended
    assert ended.output == ""
    assert ended.errors.startswith("bucketry: ")
    assert ended.errors.count("\n") == 1
    assert words in ended.errors
    assert sorted(local.iterdir()) == before
    assert run("ls", url).output == "a.txt\n"


def test_force(run: Run, url: str, local: Path) -> None:
    """get overwrites, rm takes absence for done."""
    run("put", "a.txt", url)
    assert run("get", url, "a.txt", "b.bin", "--force").code == 0
    assert (local / "b.bin").read_bytes() == b"hello\n"
    assert run("rm", url, "a.txt", "absent", "--force").code == 0
    assert run("ls", url) == Ended(0, "", "")


def test_a_cache_that_stays(run: Run, url: str, local: Path, tmp_path: Path) -> None:
    """get and cat read through --cache-dir; stats and scrub look at it; what scrub finds damaged comes from
    the bucket again."""
    run("put", "b.bin", url)
    cache = tmp_path / "cache"
    assert run("get", url, "b.bin", "back", "--cache-dir", cache).code == 0
    assert "\nused_bytes: 2" in run("stats", cache).output
    assert json.loads(run("stats", cache, "--json").output)["used_bytes"] >= 256_000
    clean = json.loads(run("scrub", cache, "--json").output)
    assert (clean["entries"], clean["verified_bytes"], clean["bad_blocks"]) == (1, 256_000, 0)
    (data,) = (cache / ".bucketry").rglob("*.data")
    data.chmod(0o600)
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    found = json.loads(run("scrub", cache, "--json").output)
    assert found["bad_blocks"] == 1
    shutil.copy(local / "b.bin", local / "wanted")
    assert run("get", url, "b.bin", "back", "--force", "--cache-dir", cache).code == 0
    assert (local / "back").read_bytes() == (local / "wanted").read_bytes()


def test_scrub_that_asks_the_bucket(run: Run, url: str, local: Path, tmp_path: Path) -> None:
    """What has gone or changed there goes from the cache; what has not stays."""
    run("put", "a.txt", "b.bin", url)
    cache = tmp_path / "cache"
    for name in ("a.txt", "b.bin"):
        assert run("get", url, name, f"copy of {name}", "--cache-dir", cache).code == 0
    run("rm", url, "a.txt")
    found = json.loads(run("scrub", cache, "--compare", url, "--json").output)
    assert (found["entries"], found["outdated"], found["verified_bytes"]) == (2, 1, 256_000)
    again = json.loads(run("scrub", cache, "--compare", url, "--json").output)
    assert (again["entries"], again["outdated"]) == (1, 0)
    ended = run("scrub", cache, "--compare", url + "-missing")
    assert (ended.code, ended.output) == (exits.NOT_FOUND, "")
    assert "No such bucket" in ended.errors


def test_figures_of_a_source(run: Run, url: str, local: Path) -> None:
    """A storage source writes its figures to a file, and stats shows them; Prometheus text where the file's
    name says so."""
    for name in ("figures.json", "figures.prom"):
        settings = FilesSettings(statistics_file=local / name, private_cache=True)
        with StorageSource(local, settings) as source:
            files = source.customize_file_system(url)
            files.flush("a.txt", "a.txt")
    told = run("stats", "figures.json").output
    assert "counters.put_objects: 1\n" in told
    assert ": 0\n" not in told
    assert ": 0\n" in run("stats", "figures.json", "--all").output
    assert json.loads(run("stats", "figures.json", "--json").output)["counters"]["put_objects"] == 1
    assert "bucketry_files_counters_put_objects 1\n" in (local / "figures.prom").read_text()


def test_files_are_encrypted_with_a_key(run: Run, url: str, local: Path, tmp_path: Path) -> None:
    """What is put with a key is nowhere readable without it: not in the bucket, not by a get."""
    (tmp_path / "key").write_text("0f" * 32 + "\n")
    (tmp_path / "same-key").write_bytes(bytes([0x0F]) * 32)
    (tmp_path / "other-key").write_bytes(bytes(32))
    (local / "secret.txt").write_bytes(b"nobody shall read this\n" * 1000)
    put = run("put", local / "secret.txt", url, "--encryption-key-file", tmp_path / "key")
    assert put.code == exits.OK, put.errors
    stored = (tmp_path / "bucket/secret.txt").read_bytes()
    assert b"nobody" not in stored
    cat = run("cat", url, "secret.txt", "--encryption-key-file", tmp_path / "same-key")
    assert (cat.code, cat.output) == (exits.OK, "nobody shall read this\n" * 1000)
    size = json.loads(run("ls", url, "--json", "--encryption-key-file", tmp_path / "key").output)
    assert size["files"][0]["size_bytes"] == 23_000
    wrong = run("cat", url, "secret.txt", "--encryption-key-file", tmp_path / "other-key")
    assert wrong.code == exits.FAILED
    assert "sealed with another key" in wrong.errors
    without = run("cat", url, "secret.txt")
    assert (without.code, without.output) == (exits.DENIED, "")
    assert "is encrypted: its key was not given" in without.errors
    for content in (b"", b"x" * 31, b"0f" * 33, b"zz" * 32):
        (tmp_path / "bad-key").write_bytes(content)
        refused = run("ls", url, "--encryption-key-file", tmp_path / "bad-key")
        assert refused.code == exits.USAGE
        assert "neither 32 bytes nor 64 hexadecimal digits" in refused.errors


def test_sweep_aborts_what_was_left(run: Run, url: str, tmp_path: Path) -> None:
    """Uploads below the URL that began long enough ago, and no others."""

    async def begin() -> None:
        bucket = connect(BucketSettings(url=url))
        for key in ("tables/a", "tables/b", "other"):
            await bucket.create_upload(key, part_size_bytes=1 << 20)
        await bucket.close()

    asyncio.run(begin())
    assert run("sweep", f"{url}").output == "0 uploads aborted\n"
    uploads = tmp_path / "bucket/.bucketry/uploads"
    for path in uploads.glob("*/upload"):
        os.utime(path, (1, 1))
    swept = run("sweep", url, "--json")
    assert (swept.code, json.loads(swept.output)) == (exits.OK, {"url": url, "aborted": 3})
    assert list(uploads.iterdir()) == []
