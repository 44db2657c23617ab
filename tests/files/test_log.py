"""Lines of a storage source: WiredTiger's levels, and whose lines go where."""

import logging

import pytest

from bucketry.files.log import DEBUG_1, DEBUG_5, ERROR, INFO, WARNING, SourceLog, level_of, logging_level

_below = logging.getLogger("bucketry.bucket.retrying")


class Lines:
    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, level: int, line: str) -> None:
        self.seen.append((level, line))


def test_levels() -> None:
    """Both ways, and what lies outside is the nearest."""
    assert [logging_level(level) for level in range(-3, 6)] == [40, 30, 20, 20, 10, 10, 10, 10, 5]
    assert logging_level(-7) == logging.ERROR
    assert logging_level(9) == 5
    assert [level_of(levelno) for levelno in (50, 40, 30, 20, 10, 5)] == [
        ERROR,
        ERROR,
        WARNING,
        INFO,
        DEBUG_1,
        DEBUG_5,
    ]


@pytest.mark.logs("the store is away")
def test_a_hook_takes_lines_up_to_its_level() -> None:
    """Errors unless more is asked for; lines of the rooms below on its behalf, and nobody else's."""
    lines, more = Lines(), Lines()
    log, chatty = SourceLog(lines), SourceLog(more, DEBUG_1)
    try:
        for level in (ERROR, WARNING, INFO, DEBUG_1, DEBUG_5):
            log.write(level, f"at\n{level}")
            chatty.write(level, f"at {level}")
        assert lines.seen == [(ERROR, "at -3")]
        assert [level for level, _ in more.seen] == [ERROR, WARNING, INFO, DEBUG_1]
        more.seen.clear()
        chatty.context.run(lambda: _below.warning("the store %s", "is away"))
        log.context.run(lambda: _below.warning("the store is away"))
        _below.warning("the store is away: nobody's")
        assert more.seen == [(WARNING, "retrying: the store is away")]
        assert lines.seen == [(ERROR, "at -3")]
        assert chatty.is_enabled(DEBUG_1)
        assert not log.is_enabled(WARNING)
    finally:
        log.close()
        chatty.close()
    chatty.close()
    assert logging.getLogger("bucketry").handlers == []


def test_a_hook_that_fails_harms_nobody() -> None:
    """A line that cannot be written is lost."""

    def broken(level: int, line: str) -> None:
        raise RuntimeError("no")

    log = SourceLog(broken)
    log.write(ERROR, "x")
    log.raised("x")
    log.close()


@pytest.mark.logs("of the source")
def test_without_a_hook_logging_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    """As it is configured; what is told by an exception is a detail."""
    caplog.set_level(logging.DEBUG, "bucketry.files")
    log = SourceLog()
    log.write(WARNING, "a warning of the source")
    log.raised("an error that was raised")
    log.close()
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert found == [
        (logging.WARNING, "a warning of the source"),
        (logging.DEBUG, "an error that was raised"),
    ]
    quiet = SourceLog(level=ERROR)
    quiet.write(WARNING, "not this one")
    assert len(caplog.records) == 2
