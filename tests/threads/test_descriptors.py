"""Standard input, output and error are always there, and no more requests are sent than there are descriptors
for."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.threads import descriptors
from bucketry.threads.descriptors import raise_limit, requests_that_fit, soft_limit


@pytest.fixture
def limit() -> Iterator[None]:
    """What a test sets ends with it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


_SHOW = """
import os, sys
for number in map(int, sys.argv[1].split()):
    os.close(number)
from bucketry.threads.descriptors import fill_standard, was_missing
fill_standard()
fill_standard()
opened = os.open(os.devnull, os.O_RDONLY)
fds = "/proc/self/fd"
child = os.spawnlp(os.P_WAIT, "sh", "sh", "-c", f"test -e {fds}/0 -a -e {fds}/1 -a -e {fds}/2")
os.write(int(sys.argv[2]), repr((opened > 2, [was_missing(n) for n in range(3)], child)).encode())
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_what_is_closed_is_filled(closed: tuple[int, ...]) -> None:
    """No file that is opened later gets one of the first three numbers; children have all three."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as pipe:
        subprocess.run(
            [sys.executable, "-c", _SHOW, " ".join(map(str, closed)), str(writer)],
            pass_fds=[writer], check=True,
        )  # fmt: skip
        os.close(writer)
        assert pipe.read() == repr((True, [number in closed for number in range(3)], 0))


_LIBRARY = """
import os, sys
for number in range(3):
    os.close(number)
from bucketry.files.storage_source import StorageSource
from bucketry.settings import FilesSettings
with StorageSource(sys.argv[1], FilesSettings(private_cache=True)) as source:
    assert source.customize_file_system("memory://here").directory_list() == []
"""


def test_a_library_in_a_process_without_them(tmp_path: Path) -> None:
    """The event loop of a Python program that closed them, as daemons do, does not abort it."""
    assert subprocess.run([sys.executable, "-c", _LIBRARY, tmp_path], check=False).returncode == 0


def test_the_limit_is_raised(limit: None) -> None:
    """To what we want, and never above the hard limit, nor down."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    raise_limit()
    assert soft_limit() == min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    raise_limit()
    assert soft_limit() == min(8192, hard)


@pytest.mark.parametrize(
    ("soft", "opened", "each", "count"),
    [
        (1024, 20, 1, 96),  # as many as are wanted
        (64, 14, 1, 30),  # what is left after what is open and the reserve
        (64, 14, 3, 10),
        (40, 18, 1, 4),  # a few at any rate
        (None, 20, 1, 96),
    ],
)
def test_requests_that_fit(
    monkeypatch: pytest.MonkeyPatch, soft: int | None, opened: int, each: int, count: int
) -> None:
    """Connections leave room for everything else."""
    monkeypatch.setattr(descriptors, "soft_limit", lambda: soft)
    monkeypatch.setattr(descriptors, "_count_open", lambda: opened)
    assert requests_that_fit(96, descriptors_each=each) == count
