"""When what is made from credentials is made again: before they expire, when the store refuses them, and when
somebody says so."""

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from bucketry.bucket.renewal import (
    EARLY_PAUSE_SECONDS,
    EARLY_SECONDS,
    REFUSED_PAUSE_MAX_SECONDS,
    REFUSED_PAUSE_SECONDS,
    Renewed,
    Shared,
)
from bucketry.errors import Denied, Invalid, Unavailable, Unreachable


class Source:
    """Gives ``value`` and counts; its clock is turned by hand."""

    def __init__(self, value: str = "one") -> None:
        self.value = value
        self.ends = float("inf")
        self.error: BaseException | None = None
        self.loads_count = 0
        self.now = 1000.0
        self.made: list[str] = []

    def load(self) -> str:
        self.loads_count += 1
        if self.error is not None:
            raise self.error
        return self.value

    def renewed(self, *, at_once: bool = True, patience_seconds: float = 30.0) -> "Renewed[str, str]":
        return Renewed(
            self.load,
            self._make,
            name="the source",
            way="endpoint http://there",
            expires=lambda _, seconds: self.ends - self.now <= seconds,
            patience_seconds=patience_seconds,
            at_once=at_once,
            now=lambda: self.now,
        )

    def _make(self, value: str) -> str:
        self.made.append(value)
        return f"made of {value}"


def _wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never happened")


def test_what_is_good_is_kept() -> None:
    """Loaded once and made once, however often it is asked for."""
    source = Source()
    renewed = source.renewed()
    for _ in range(5):
        assert renewed.current().product == "made of one"
        source.now += 3600
    assert (source.loads_count, source.made) == (1, ["one"])


def test_renewed_before_the_end() -> None:
    """In the background, while requests go on with the old ones; not again within the pause."""
    source = Source()
    renewed = source.renewed()
    first = renewed.current()
    source.value, source.ends = "two", source.now + EARLY_SECONDS + 1
    source.now += 0.5
    assert renewed.current() is first
    assert source.loads_count == 1
    source.now += 1
    renewed.current()
    _wait_for(lambda: renewed.current().value == "two")
    assert source.loads_count == 2
    source.now += EARLY_PAUSE_SECONDS - 1
    renewed.current()
    assert source.loads_count == 2
    source.now += 2
    renewed.current()
    _wait_for(lambda: source.loads_count == 3)


def test_waited_for_after_the_end() -> None:
    """What has expired is not used while there may be something new."""
    source = Source()
    renewed = source.renewed()
    source.value, source.ends = "two", source.now + 10
    source.now += 11
    assert renewed.current().value == "two"


def test_the_same_keys_with_a_later_end() -> None:
    """Nothing is made anew of what is equal."""
    source = Source()
    renewed = source.renewed()
    first = renewed.current()
    assert renewed.reread() is False
    assert renewed.current() is first
    assert (source.loads_count, source.made) == (2, ["one"])


def test_after_a_refusal() -> None:
    """The source is asked at once; what has come already is given without asking."""
    source = Source()
    renewed = source.renewed()
    first = renewed.current()
    source.value = "two"
    second = renewed.after_refusal(first)
    assert second is not None
    assert second.value == "two"
    assert renewed.after_refusal(first) is second
    assert renewed.current() is second
    assert source.loads_count == 2


def test_refusals_without_anything_new() -> None:
    """The source is asked less and less often, up to a limit; something new ends that."""
    source = Source()
    renewed = source.renewed()
    held = renewed.current()
    times: list[float] = []
    began = source.now
    while source.now < began + 60:
        before = source.loads_count
        assert renewed.after_refusal(held) is None
        if source.loads_count > before:
            times.append(source.now)
        source.now += 0.05
    pauses = [late - early for early, late in pairwise(times)]
    assert times[0] == began
    assert pauses[0] == pytest.approx(REFUSED_PAUSE_SECONDS, abs=0.06)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(REFUSED_PAUSE_MAX_SECONDS, abs=0.06)
    source.now += REFUSED_PAUSE_MAX_SECONDS
    source.value = "two"
    newer = renewed.after_refusal(held)
    assert newer is not None
    source.value = "three"
    source.now += REFUSED_PAUSE_MAX_SECONDS
    newest = renewed.after_refusal(newer)
    assert newest is not None
    source.now += REFUSED_PAUSE_SECONDS
    source.value = "four"
    assert renewed.after_refusal(newest) is not None


def test_many_refusals_at_once_ask_once() -> None:
    """All who were refused wait for one run of the source."""
    gate = threading.Event()
    source = Source()
    renewed = source.renewed()
    held = renewed.current()
    load = source.load

    def slow() -> str:
        gate.wait()
        return load()

    renewed._load = slow
    source.value = "two"
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(renewed.after_refusal(held))) for _ in range(20)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert source.loads_count == 2
    assert found == [renewed.current()] * 20


@pytest.mark.logs(r"could not be read again \(no such file\); keeping the old ones")
def test_a_source_that_fails_later(caplog: pytest.LogCaptureFixture) -> None:
    """What there is stays in use, and the log says so once."""
    source = Source()
    renewed = source.renewed()
    held = renewed.current()
    source.error = Invalid("no such file")
    for _ in range(3):
        assert renewed.after_refusal(held) is None
        source.now += REFUSED_PAUSE_MAX_SECONDS
    assert renewed.current() is held
    assert len(caplog.records) == 1
    with pytest.raises(Invalid, match="no such file"):
        renewed.reread()
    assert renewed.current() is held


def test_the_first_time() -> None:
    """A source that may take long is asked with the first use. What is wrong with it is raised then, and it
    is asked again; one that does not answer is Unreachable, for nobody has ever heard of it."""
    source = Source()
    renewed = source.renewed(at_once=False)
    assert source.loads_count == 0
    for error, wanted in (
        (Denied("none"), Denied),
        (Unavailable("away"), Unreachable),
        (OSError("odd"), OSError),
    ):
        source.error = error
        with pytest.raises(wanted, match=str(error)):
            renewed.current()
    source.error = None
    assert renewed.current().value == "one"


def test_a_source_that_hangs() -> None:
    """Nobody waits for it for longer than his patience; it is asked by one thread."""
    gate = threading.Event()
    source = Source()
    renewed = source.renewed(at_once=False, patience_seconds=0.01)
    load = source.load

    def hang() -> str:
        gate.wait()
        return load()

    renewed._load = hang
    for _ in range(3):
        with pytest.raises(Unreachable, match="the source did not answer"):
            renewed.current()
    gate.set()
    _wait_for(lambda: source.loads_count == 1)
    _wait_for(lambda: renewed._loading is None)
    assert renewed.current().value == "one"
    assert source.loads_count == 1


@pytest.mark.logs("could not be read again")
def test_shared() -> None:
    """Buckets at one place share what they have; all of it is read again together, and what fails keeps
    what it had."""
    sources = {"a": Source(), "b": Source()}
    shared = Shared()
    both = {url: shared.get(url, source.renewed) for url, source in sources.items()}
    assert shared.get("a", sources["b"].renewed) is both["a"]
    assert shared.reread() == 0
    sources["a"].error = Invalid("no such file")
    sources["b"].value = "two"
    with pytest.raises(Invalid):
        shared.reread()
    assert both["a"].current().value == "one"
    assert both["b"].current().value == "two"
