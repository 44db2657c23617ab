"""Which lines go where, and when."""

import threading
from pathlib import Path

import pytest

from bucketry.files.log import DEBUG_1, DEBUG_5, ERROR, INFO, NOTICE, WARNING
from bucketry.files.wiredtiger.messages import Messages
from bucketry.files.wiredtiger.tables import RELEASES
from wiredtiger_bridge.connection import ModelConnection


@pytest.fixture
def connection(tmp_path: Path) -> ModelConnection:
    return ModelConnection(RELEASES[11, 3], tmp_path)


def messages(connection: ModelConnection, level: int) -> Messages:
    return Messages(connection._api, level)


@pytest.mark.parametrize("level", range(ERROR, DEBUG_5 + 1))
def test_levels_choose_stream_and_silence(connection: ModelConnection, level: int) -> None:
    """Errors and warnings to the error stream, the rest to the message stream, nothing above the level."""
    said = messages(connection, level)
    for each in range(ERROR, DEBUG_5 + 1):
        said.say(connection.session, each, f"level {each}")
    assert connection.errors == [f"level {each}" for each in (ERROR, WARNING) if each <= level]
    assert connection.messages == [f"level {each}" for each in range(NOTICE, DEBUG_5 + 1) if each <= level]


def test_other_threads_wait_for_the_next_call(connection: ModelConnection) -> None:
    """Their lines come at the end of the next call, in their order; within a call its own thread speaks at
    once, after those who waited."""
    said = messages(connection, INFO)
    threads = [
        threading.Thread(target=said.say_now, args=(INFO, f"{number}"), name="other") for number in range(2)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    said.say_later(DEBUG_1, "not wanted")
    assert connection.messages == []
    said.begin_call(connection.session)
    said.say_now(INFO, "in the call")
    assert connection.messages == ["0", "1", "in the call"]
    said.say_later(INFO, "at its end")
    assert len(connection.messages) == 3
    said.end_call(connection.session)
    assert connection.messages[3:] == ["at its end"]
    said.say_now(INFO, "after it")
    assert len(connection.messages) == 4


def test_nothing_is_said_after_the_end(connection: ModelConnection) -> None:
    """The connection may be gone."""
    said = messages(connection, INFO)
    said.close()
    said.say(connection.session, ERROR, "too late")
    said.say_later(ERROR, "too late")
    said.end_call(connection.session)
    assert connection.errors == []


def test_why_a_call_fails_is_said_once(connection: ModelConnection) -> None:
    """What the storage source has said gets the number's meaning; what it has not said is said."""
    said = messages(connection, ERROR)
    said.say_later(ERROR, "open a: there is no a")
    said.say_error("there is no a", "No such file or directory")
    said.say_error("something else", "Input/output error")
    said.say_waiting(connection.session)
    assert connection.errors == [
        "open a: there is no a: No such file or directory",
        "something else: Input/output error",
    ]


def test_lines_are_harmless(connection: ModelConnection) -> None:
    """Percent signs are no formats, zeros and surrogates no surprise, and a novel is cut short."""
    said = messages(connection, ERROR)
    for line in ("%s %n 100%", "a\0b", "name \udcff", "x" * 100_000):
        said.say(connection.session, ERROR, line)
    assert connection.errors == ["%s %n 100%", "ab", "name \\udcff", "x" * 4000]


def test_few_lines_wait(connection: ModelConnection) -> None:
    """A store that is never called again does not fill the memory."""
    said = messages(connection, ERROR)
    for number in range(5000):
        said.say_later(ERROR, str(number))
    said.say_waiting(connection.session)
    assert len(connection.errors) == 1000
    assert connection.errors[-1] == "4999"
