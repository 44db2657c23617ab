"""The guard sees what it is there to see: in an inner session, each kind of leak fails its test."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_HEAD = """
import asyncio, logging, os, subprocess, tempfile, threading, time
import pytest
"""

_CLEAN = """
def test_plain(tmp_path):
    (tmp_path / "file").touch()
    threading.Thread(target=int).start()

async def test_async():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))

@pytest.mark.logs("boom [0-9]")
def test_log():
    logging.warning("boom 7")

@pytest.mark.logs("perhaps", required=False)
def test_quiet():
    pass
"""

_LEAKS = """
kept = []

async def test_task():
    kept.append(asyncio.create_task(asyncio.sleep(1000), name="stray task"))

def test_thread():
    threading.Thread(target=time.sleep, args=(0.5,), name="stray thread").start()

def test_file():
    tempfile.mkstemp(prefix="stray")

def test_log():
    logging.warning("stray record")

@pytest.mark.logs("awaited in vain")
def test_quiet():
    pass
"""

_HANGS = """
def test_plain():
    threading.Event().wait()

async def test_async():
    await asyncio.Event().wait()

def test_next():
    pass
"""

_SYSTEM_LEAKS = """
kept = []

@pytest.mark.system
def test_daemon():
    os.system("sleep 0.5 &")

@pytest.mark.system
def test_fuse():
    kept.append(os.open("/dev/fuse", os.O_RDWR))
"""


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    """A place for inner sessions under the guard, which is told not to wait for stragglers."""
    pytester.makeconftest("import guard\nguard.GRACE_SECONDS = 0\npytest_plugins = ['guard']")
    pytester.makeini(f"""
        [pytest]
        pythonpath = {Path(__file__).parent}
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
        markers =
            system: real things
            logs: announced
    """)
    return pytester


def test_a_clean_test_passes(inner: pytest.Pytester) -> None:
    """A test that leaves nothing is not disturbed, asynchronous or not, with announced logs or without."""
    inner.makepyfile(_HEAD + _CLEAN)
    inner.runpytest_subprocess().assert_outcomes(passed=4)


def test_leaks_fail_their_tests(inner: pytest.Pytester) -> None:
    """A task, a thread, a file, an unannounced record and an announced one that is missing are reported."""
    inner.makepyfile(_HEAD + _LEAKS)
    result = inner.runpytest_subprocess()
    result.assert_outcomes(passed=5, errors=5)
    result.stdout.fnmatch_lines(
        [
            "*left tasks behind: stray task*",
            "*left behind: thread stray thread*",
            "*left behind: file */stray*",
            "*did not announce this log record: WARNING root: stray record*",
            "*no log record * contains 'awaited in vain'*",
        ]
    )


def test_a_test_that_hangs_is_ended(inner: pytest.Pytester) -> None:
    """It fails when its time is over, whatever it waits for, and the next test runs."""
    inner.makeconftest("import guard\nguard.HANG_SECONDS = 0.2\npytest_plugins = ['guard']")
    inner.makepyfile(_HEAD + _HANGS)
    result = inner.runpytest_subprocess()
    # The task that waits in vain is still there: a leak as well.
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test hangs*"])


@pytest.mark.system
def test_system_leaks_fail_their_tests(inner: pytest.Pytester) -> None:
    """A process that is nobody's child any more and an open /dev/fuse are reported."""
    inner.makepyfile(_HEAD + _SYSTEM_LEAKS)
    result = inner.runpytest_subprocess()
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(
        ["*left behind: process * (sleep 0.5)*", "*left behind: descriptor * of /dev/fuse*"]
    )
