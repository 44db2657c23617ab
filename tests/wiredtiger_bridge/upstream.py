"""Runs WiredTiger's own tests of tiered storage, from its source distribution, on the bridge.

A program for a process of its own, because what goes wrong in there may end it::

    python upstream.py SOURCE WORK STORE OPTIONS MODULE …

SOURCE is the unpacked distribution, WORK an empty directory, STORE the name under which the bridge is
registered and whose scenarios are run (``dir_store`` or ``s3_store``), OPTIONS the bridge's as JSON. The
tests are not changed; they look for WiredTiger's own store in a build directory, and find the bridge there.
The last line of the output says what happened, as JSON.

What our buckets in directories keep beside objects (``.bucketry``, the marker of the owner) is not shown to
them, because they compare whole directories: ``os.listdir`` leaves it out.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

#: Long after what a loaded machine takes to copy some kilobytes.
_CACHE_SECONDS = 30.0
#: Directories of the distribution's ``test`` that its runner puts in the path.
_PATHS = (
    "suite",
    "py_utility",
    "3rdparty/concurrencytest-0.1.2-locally-modified",
    "3rdparty/discover-0.4.0-locally-modified",
    "3rdparty/extras-0.0.3",
    "3rdparty/iso8601-2.1.0",
    "3rdparty/python-subunit-1.4.4/python",
    "3rdparty/testscenarios-0.4/lib",
    "3rdparty/testtools-2.7.1",
)


def hide_our_own() -> None:
    """Names of ours are left out of ``os.listdir``."""
    listdir = os.listdir

    def without_ours(path: Any = ".") -> list[Any]:
        return [
            name
            for name in listdir(path)
            if not str(name).startswith((".bucketry", "bucketry-"))
            and not str(name).endswith("bucketry-owner")
        ]

    os.listdir = without_ours


def one_slash_in_prefixes() -> None:
    """Some modules make prefixes with two slashes in a row, which our client of S3 cannot name (it says so);
    what they test has nothing to do with that."""
    import helper_tiered  # type: ignore[import-not-found]

    generate = helper_tiered.generate_prefix
    helper_tiered.generate_prefix = lambda *given: generate(*given).replace("//", "/")


def patience_with_the_cache() -> None:
    """Number 16 looks into the cache as soon as a flush has returned, though WiredTiger fills it after that,
    from a thread of its own: a link is there in microseconds, a copy safe on disk in milliseconds."""
    import test_tiered16  # type: ignore[import-not-found]

    tests = test_tiered16.test_tiered16
    check = tests.check_cache

    def check_patiently(test: Any, *expected: Any) -> None:
        end = time.monotonic() + _CACHE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):
                check(test, *expected)
                return
            time.sleep(0.01)
        check(test, *expected)

    tests.check_cache = check_patiently


def tests_of(module: str, store: str) -> list[Any]:
    """The module's tests: the scenarios of that store, and those without tiered storage."""
    from testscenarios.scenarios import generate_scenarios  # type: ignore[import-not-found]

    loaded = unittest.TestLoader().loadTestsFromName(module)
    return [test for test in generate_scenarios(loaded) if getattr(test, "ss_name", store) == store]


def main() -> int:
    source, work, store, options, *modules = sys.argv[1:]
    sys.path[1:1] = [str(Path(source) / "test" / path) for path in _PATHS]
    os.environ["TMPDIR"] = tempfile.tempdir = work
    os.chdir(work)

    from bucketry.files import wiredtiger as bridge

    library = Path(work) / f"build/ext/storage_sources/{store}/libwiredtiger_{store}.so"
    bridge.load(library, **{"name": store, **json.loads(options)})

    one_slash_in_prefixes()
    import wttest  # type: ignore[import-not-found]

    hide_our_own()
    patience_with_the_cache()
    wttest.WiredTigerTestCase.globalSetup(
        builddir=f"{work}/build", dirarg=f"{work}/WT_TEST", ss_random_prefix="1", verbose=2
    )
    suite = unittest.TestSuite(test for module in modules for test in tests_of(module, store))
    result = wttest.runsuite(suite, 1)
    outcome = {
        "run": result.testsRun,
        "failed": [str(test) for test, _ in [*result.failures, *result.errors]],
        "skipped": [f"{test}: {why}" for test, why in result.skipped],
    }
    sys.stdout.write("\n" + json.dumps(outcome) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
