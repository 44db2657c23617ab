"""What every test has: real servers on demand, and a guard that nothing is left behind."""

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.fixtures", "guard"]

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

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every program that a test
# starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
