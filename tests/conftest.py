"""What every test has: real servers on demand, and a guard that nothing is left behind."""

import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.fixtures", "guard", "crash.totals"]

# Examples take as long as they take: on a loaded machine a deadline fails for no reason. The guard is a
# fixture of every test and needs no renewal between examples. The same examples each time: a change is
# judged by what it changed. `make test-full` draws new ones, and many more.
settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("full", settings.get_profile("quick"), derandomize=False, max_examples=2000)
settings.load_profile("quick")

#: Directories whose system tests take some seconds each, in the order in which they run. WiredTiger may still
#: have to be built, so its tests come last of them.
_LONG = ("crash", "e2e", "interop", "cli", "serve", "wiredtiger_bridge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: test workers that run side by side then end at about the same time."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("system") is not None:
        directory = item.nodeid.split("/")[1]
        return _LONG.index(directory) if directory in _LONG else len(_LONG)
    return len(_LONG) + (1 if item.get_closest_marker("slow") is not None else 2)


# A shell starts what runs in its background with Ctrl-C ignored, and so would be every program that a test
# starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
