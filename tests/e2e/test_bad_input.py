"""What cannot be done is said in one line, with the right exit code, and nothing is left mounted or
written."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program

pytestmark = pytest.mark.system

Arguments = Callable[[Place, Path], list[str | Path]]


def _attach(place: Place, directory: Path, *more: str, url: str | None = None) -> list[str | Path]:
    return ["attach", url or place.url, directory, *more, *place.options]


def _create(place: Place, *more: str) -> list[str | Path]:
    return ["create", place.url, "--size", "4M", *more, *place.options]


def _wrong_key(place: Place, directory: Path) -> list[str | Path]:
    file = directory.parent / "wrong-key"
    file.write_text("bucketry-test-access:not-the-secret\n")
    file.chmod(0o600)
    return _attach(Place(place.url, [*place.options[:2], "--access-file", str(file)]), directory)


def _closed_port(place: Place, directory: Path) -> list[str | Path]:
    return ["info", place.url, "--endpoint", "http://127.0.0.1:1", "--timeout", "1", *place.options[2:]]


CASES: dict[str, tuple[int, str, Arguments]] = {
    "no such bucket": (3, "no such bucket", lambda p, d: _attach(p, d, url="s3://not-there-at-all")),
    "no volume": (3, "no volume", lambda p, d: _attach(p, d, url=f"{p.url}/elsewhere")),
    "wrong key": (4, "SignatureDoesNotMatch", _wrong_key),
    "no access file": (3, "no such file", lambda p, d: _attach(Place(p.url, ["--access-file", "/no"]), d)),
    "wrong size": (2, "size", lambda p, d: _attach(p, d, "--size", "8M")),
    "wrong block size": (2, "block size", lambda p, d: _attach(p, d, "--block-size", "64K")),
    "not a size": (2, "not a size", lambda p, d: _attach(p, d, "--size", "much")),
    "not a directory": (2, "directory", lambda p, d: _attach(p, d / "file")),
    "no directory": (3, "no", lambda p, d: _attach(p, d / "nothing")),
    "odd characters": (2, "URL", lambda p, d: _attach(p, d, url="s3://bucket/a\nb")),
    "a password in the URL": (2, "user or password", lambda p, d: _attach(p, d, url="s3://me:secret@bucket")),
    "not a URL": (2, "not a bucket URL", lambda p, d: _attach(p, d, url="bucket/prefix")),
    "an existing volume": (2, "belongs to a volume|there is a volume", lambda p, d: _create(p)),
    "an impossible block size": (2, "block size", lambda p, d: _create(p, "--block-size", "100000")),
    "nobody listens": (1, "connection refused", _closed_port),
    "a cache below the mount point": (2, "mount hides", lambda p, d: _attach(p, d, "--cache-dir", f"{d}/c")),
    "a log below the mount point": (2, "mount hides", lambda p, d: _attach(p, d, "--log", f"{d}/log")),
    "a bucket below the mount point": (2, "mount hides", lambda p, d: _attach(p, d, url=f"file://{d}/b")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(
    program: Program, place: Place, objects: S3Objects, tmp_path: Path, case: str
) -> None:
    """One line on standard error that names the thing, the documented code, and not an object changed."""

    code, said, arguments = CASES[case]
    program.create(place, "4M")
    directory = tmp_path / "disk"
    directory.mkdir()
    (directory / "file").write_text("a file\n")
    before = objects.list_keys()
    done = program.run(*arguments(place, directory), code=code)
    assert re.fullmatch(rf"bucketry: [^\n]*({said})[^\n]*\n", done.stderr), done.stderr
    assert "secret" not in done.stderr.replace("bucketry-test-secret", "")
    assert "bucketry-test-secret" not in done.stderr
    assert objects.list_keys() == before
    assert (directory / "file").read_text() == "a file\n"


def test_wrong_password(program: Program, place: Place, objects: S3Objects, tmp_path: Path) -> None:
    """None, a wrong one, and one for a volume that needs none: refused before anything is written."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("correct horse\n")
    bad.write_text("battery staple\n")
    program.create(place, "4M", "--encrypt", "--password-file", str(good))
    before = objects.list_keys()
    (tmp_path / "disk").mkdir()
    for options in (["--password-file", str(bad)], []):
        done = program.run(*_attach(place, tmp_path / "disk", *options), code=4)
        assert done.stderr.count("\n") == 1
        assert "password" in done.stderr
        assert "battery" not in done.stderr
    assert objects.list_keys() == before
    with program.attached(place, tmp_path / "disk", "--password-file", str(good)) as file:
        file.write_bytes(b"x" * 1000)


def test_busy(program: Program, place: Place, tmp_path: Path) -> None:
    """A volume in use, a mount point in use: code 5, naming who."""
    program.create(place, "4M")
    with program.attached(place, tmp_path / "disk"):
        (tmp_path / "other").mkdir()
        done = program.run(*_attach(place, tmp_path / "other"), code=5)
        assert "in use by process" in done.stderr
        assert done.stderr.count("\n") == 1
        done = program.run(*_attach(place, tmp_path / "disk", url=f"{place.url}/x"), code=5)
        assert done.stderr.count("\n") == 1
