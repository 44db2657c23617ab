"""Whoever starts a process in the background hears what it waits for, and how its start ended."""

import logging
import os
import signal

import pytest

from bucketry.serve import notices
from bucketry.serve.daemon import Announce, run_in_background


def test_notices_come_before_the_end_of_the_start() -> None:
    """Each is told as it comes; the last report is returned, and what comes after it reaches nobody."""
    said: list[str] = []

    def body(announce: Announce) -> int:
        notices.tell(lambda line, seconds: announce({"notice": f"{line}, {seconds:.0f} s"}))
        logger = logging.getLogger(notices.NOTICES)
        logger.info("waiting for %s", "it", extra={"seconds": 5.0})
        logger.info("it came")
        announce({"ready": False, "message": "no"})
        logger.info("too late")
        return 0

    assert run_in_background(body, output=None, say=said.append) == {"ready": False, "message": "no"}
    assert said == ["waiting for it, 5 s", "it came, 0 s"]


def test_a_start_that_dies_after_a_notice_reports_nothing() -> None:
    """A notice is no report."""

    def body(announce: Announce) -> int:
        announce({"notice": "waiting"})
        return 1

    assert run_in_background(body, output=None) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_who_gives_up_waiting_takes_the_child_with_him(number: signal.Signals) -> None:
    """However the waiting process is ended, nothing is attached later by what it started."""
    inherited = signal.getsignal(number)
    if inherited is signal.SIG_IGN:  # the tests run under nohup, whose word counts: it is left as it is
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    child: list[int] = []

    def body(announce: Announce) -> int:
        announce({"notice": str(os.getpid())})
        signal.pause()  # until the default action of SIGTERM
        return 0

    def say(line: str) -> None:
        child.append(int(line))
        os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        run_in_background(body, output=None, say=say)
    with pytest.raises(ProcessLookupError):
        os.kill(child[0], 0)
    assert signal.getsignal(number) is before
    signal.signal(number, inherited)


@pytest.mark.logs("waiting")
def test_nobody_is_told_any_more() -> None:
    """The next listener takes the place of the one before, or nobody does."""
    said: list[str] = []
    notices.tell(lambda line, _: said.append(line))
    notices.tell(None)
    logging.getLogger(notices.NOTICES).warning("waiting")
    assert said == []
