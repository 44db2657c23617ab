"""WiredTiger itself, built from its source distribution once for this machine, for the tests of the bridge.

It is kept outside the checkout, in ``$XDG_CACHE_HOME/bucketry-tests/wiredtiger``, one directory for each
version, Python and kind of build::

    sdist-11.3.1/                                 the unpacked sources, with WiredTiger's own tests
    11.3.1-cpython-311-x86_64-linux-gnu-debug/    goes into PYTHONPATH: the module ``wiredtiger``

*Debug* has all of WiredTiger's assertions and aborts at a panic; *release* reports a panic as an error. A
compiler and Python's headers come from the system (``scripts/system-packages test``); cmake, ninja and swig
from an environment that lives as long as the build. Run as a program it builds
what is missing and prints where it is::

    python tests/wiredtiger_bridge/wheel.py debug release
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

VERSION = "11.3.1"
KINDS = ("debug", "release")
#: What the build needs beside a compiler. Pinned: code that swig 4.4 generates does not load.
_TOOLS = ("cmake>=3.28,<5", "ninja>=1.11,<2", "swig>=4.3,<4.4", "setuptools>=70")
#: WiredTiger's setup gives its cmake a clean environment: the kind of build reaches it only like this.
_CMAKE = """#!/bin/sh
case "$1" in
-B) exec "{cmake}" "$@" -DCMAKE_BUILD_TYPE={kind} ;;
*) exec "{cmake}" "$@" ;;
esac
"""


class BuildError(Exception):
    """WiredTiger could not be built; one line for a person, and the end of the log."""


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "bucketry-tests" / "wiredtiger"


def module_directory(kind: str) -> Path:
    """Where the build of that kind is, or will be."""
    abi = sysconfig.get_config_var("SOABI")
    return cache_directory() / f"{VERSION}-{abi}-{kind}"


def source_directory() -> Path:
    """Where the unpacked source distribution is, or will be."""
    return cache_directory() / f"sdist-{VERSION}"


def ensure(kind: str) -> Path:
    """Build what is missing; the directory for PYTHONPATH. Several processes may ask at once: one builds.

    Raises BuildError.
    """
    target = module_directory(kind)
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ensure_source()
        if not target.exists():
            with tempfile.TemporaryDirectory(prefix="build-", dir=cache_directory()) as directory:
                _build(kind, Path(directory), target)
    return target


def _ensure_source() -> None:
    target = source_directory()
    if target.exists():
        return
    with tempfile.TemporaryDirectory(prefix="sdist-", dir=cache_directory()) as directory:
        _pip(Path(sys.executable), "download", "--no-binary", ":all:", "--no-deps", "--dest", directory,
             f"wiredtiger=={VERSION}")  # fmt: skip
        (archive,) = Path(directory).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
        # Complete under its name, or not there.
        (Path(directory) / f"wiredtiger-{VERSION}").rename(target)


def _build(kind: str, directory: Path, target: Path) -> None:
    tools = directory / "tools"
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
    _pip(tools / "bin" / "python", "install", *_TOOLS)
    wrappers = directory / "wrappers"
    wrappers.mkdir()
    cmake = wrappers / "cmake"
    cmake.write_text(_CMAKE.format(cmake=tools / "bin" / "cmake", kind=kind.capitalize()))
    cmake.chmod(0o755)
    source = directory / "source"
    shutil.copytree(source_directory(), source)
    _pip(
        tools / "bin" / "python", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory),
        str(source), path=f"{wrappers}:{tools / 'bin'}:{os.environ['PATH']}",
    )  # fmt: skip
    (wheel,) = directory.glob("*.whl")
    unpacked = directory / "unpacked"
    _pip(tools / "bin" / "python", "install", "--no-deps", "--target", str(unpacked), str(wheel))
    _try_import(unpacked)
    unpacked.rename(target)


def _try_import(directory: Path) -> None:
    code = "import wiredtiger; print(wiredtiger.wiredtiger_version()[0])"
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode or VERSION not in done.stdout:
        raise BuildError(f"it was built, and does not load:\n{done.stdout}{done.stderr}")


def _pip(python: Path, *arguments: str, path: str | None = None) -> None:
    command = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "--retries",
        "10",
        *arguments,
    ]
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise BuildError(f"pip {arguments[0]} failed:\n{end}")


def main() -> int:
    try:
        for kind in sys.argv[1:] or KINDS:
            if not module_directory(kind).exists():
                print(
                    f"Building WiredTiger {VERSION} ({kind}): some minutes, once for this machine", flush=True
                )
            print(ensure(kind))
    except BuildError as error:
        print(f"WiredTiger could not be built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
