"""The guard round every test: nothing is left behind, and no warning is logged that was not announced.

Left behind means: an asyncio task, a thread, a process, a mount, a loop device, an open /dev/fuse, or a
file in the temporary directory. Each session has a temporary directory of its own, so that sessions and
test workers side by side do not see each other's leaks. What belongs to the session, a server above all, is
no leak.

``@pytest.mark.logs("pattern", …)`` announces log records of level WARNING and above: each pattern must be
found in one, and each such record must contain one of the patterns. With ``required=False`` they may appear.

A test that hangs fails after a generous while, so that the others have their turn;
``@pytest.mark.hangs_after(seconds)`` makes that another while.
"""

import asyncio
import inspect
import logging
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import process

#: What is on its way out gets this long: a thread that was told to stop, a process that was killed.
#: A test that leaves nothing does not wait at all.
GRACE_SECONDS = 3.0
#: A test that lasts so long hangs, however loaded the machine is.
HANG_SECONDS = 60.0
SYSTEM_HANG_SECONDS = 300.0
#: Every process that a test starts inherits it, daemons too, and is known by it.
_SESSION_VARIABLE = "BUCKETRY_TEST_SESSION"


@pytest.fixture(scope="session", autouse=True)
def session_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary directory of this session, for this process and for those that it starts."""
    directory = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))
        patch.setenv(_SESSION_VARIABLE, str(directory))
        patch.setattr(tempfile, "tempdir", None)
        yield directory


@pytest.fixture(autouse=True)
def guard(
    request: pytest.FixtureRequest, session_directory: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fail the test, after all of its own fixtures have been torn down, when something is left."""
    looks: list[Callable[[], set[str]]] = [
        _threads,
        _fuse_descriptors,
        lambda: _temporary_files(session_directory),
    ]
    is_system = request.node.get_closest_marker("system") is not None
    if is_system:
        # Only these start processes and mount, and the looks cost some milliseconds.
        base = session_directory.parent
        looks += [
            lambda: _processes(str(session_directory)),
            lambda: _mounts(base),
            lambda: _loops(base),
        ]
    before = [look() for look in looks]
    if _is_async(request):
        request.getfixturevalue("_no_task_is_left")
    longer = request.node.get_closest_marker("hangs_after")
    limit_seconds = SYSTEM_HANG_SECONDS if is_system else HANG_SECONDS
    with _time_limit(limit_seconds if longer is None else longer.args[0]):
        yield
    if left := _left(looks, before):
        pytest.fail(f"the test left behind: {', '.join(sorted(left))}", pytrace=False)
    _check_logs(request, caplog)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise in the main thread, wherever it waits, when the time is over."""

    def over(_number: int, _frame: object) -> None:
        pytest.fail(f"the test hangs: it has not ended after {seconds:.0f} s")

    old = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.fixture
async def _no_task_is_left() -> AsyncIterator[None]:
    """Runs within the test's own loop, before and after everything else that does."""
    before = asyncio.all_tasks()
    yield
    # One turn of the loop, for tasks that are done but for their last callback.
    await asyncio.sleep(0)
    if left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        names = ", ".join(sorted(f"{task.get_name()} ({task.get_coro()!r})" for task in left))
        pytest.fail(f"the test left tasks behind: {names}", pytrace=False)


def _is_async(request: pytest.FixtureRequest) -> bool:
    function = request.function
    # Hypothesis wraps an asynchronous test in a plain function.
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)


def _left(looks: list[Callable[[], set[str]]], before: list[set[str]]) -> set[str]:
    give_up = time.monotonic() + GRACE_SECONDS
    while True:
        left = set[str]().union(*(look() - then for look, then in zip(looks, before, strict=True)))
        if not left or time.monotonic() > give_up:
            return left
        time.sleep(0.01)


def _threads() -> set[str]:
    # Python's own; those of the bucket client are Rust's, serve the whole process and never end. Those of
    # asyncio.to_thread belong to the loop, which waits for them when it is closed, after this look.
    return {
        f"thread {thread.name} ({thread.ident})"
        for thread in threading.enumerate()
        if not thread.name.startswith("asyncio_")
    }


def _fuse_descriptors() -> set[str]:
    found: set[str] = set()
    # Twice for every test: paths as objects take several times as long.
    for descriptor in os.scandir("/proc/self/fd"):
        try:
            if os.readlink(descriptor.path) == "/dev/fuse":  # noqa: PTH115
                found.add(f"descriptor {descriptor.name} of /dev/fuse")
        except FileNotFoundError:
            # The descriptor with which the directory itself was read.
            continue
    return found


def _temporary_files(directory: Path) -> set[str]:
    return {f"file {path}" for path in directory.iterdir()}


def _processes(session: str) -> set[str]:
    """Processes that this session started, without its servers and what those started."""
    wanted = f"{_SESSION_VARIABLE}={session}".encode()
    names: dict[int, str] = {}
    parents: dict[int, int] = {}
    for directory in Path("/proc").glob("[1-9]*"):
        pid = int(directory.name)
        try:
            # After the program's name, which may hold blanks and parentheses: state, parent, …
            parents[pid] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            if wanted in (directory / "environ").read_bytes().split(b"\0"):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                names[pid] = f"process {pid} ({command.decode(errors='replace').strip()})"
        except OSError:
            # It ended while we looked, or belongs to somebody else.
            continue
    return {
        name
        for pid, name in names.items()
        if pid != os.getpid() and not _is_below(pid, process.running, parents)
    }


def _is_below(pid: int, keepers: set[int], parents: dict[int, int]) -> bool:
    while pid:
        if pid in keepers:
            return True
        pid = parents.get(pid, 0)
    return False


def _mounts(directory: Path) -> set[str]:
    # Other tests' mount points may have any bytes in their names: only a line feed ends a line.
    lines = Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape").split("\n")
    mounts = (line.split(" ")[4] for line in lines if line)
    return {f"mount {point}" for point in mounts if Path(point).is_relative_to(directory)}


def _loops(directory: Path) -> set[str]:
    loops: set[str] = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = Path(path.read_text().strip())
        except OSError:
            # Detached while we looked.
            continue
        if backing.is_relative_to(directory):
            loops.add(f"loop device /dev/{path.parts[3]} on {backing}")
    return loops


def _check_logs(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
    markers = list(request.node.iter_markers("logs"))
    announced = [pattern for marker in markers for pattern in marker.args]
    records = [
        f"{record.levelname} {record.name}: {record.getMessage()}"
        for record in (
            caplog.get_records("setup") + caplog.get_records("call") + caplog.get_records("teardown")
        )
        if record.levelno >= logging.WARNING
    ]
    for record in records:
        if not any(re.search(pattern, record) for pattern in announced):
            pytest.fail(f"the test did not announce this log record: {record}", pytrace=False)
    for marker in markers:
        for pattern in marker.args if marker.kwargs.get("required", True) else ():
            if not any(re.search(pattern, record) for record in records):
                pytest.fail(f"no log record of WARNING or above contains {pattern!r}", pytrace=False)
