"""The bucketry program, and the tools of the system on what it serves: run as a user runs them."""

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from e2e.places import Place
from exit_codes import check_documented

#: mkfs and losetup live where only root's PATH looks.
ENVIRONMENT = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
#: Nothing here takes longer than a fraction of it; what hangs must not hang the whole run.
_HANGS_SECONDS = 180.0

Done = subprocess.CompletedProcess[str]


def run_tool(*arguments: str | Path, code: int = 0) -> str:
    """Standard output of a program that must end with ``code``."""
    return _run([str(each) for each in arguments], ENVIRONMENT, code).stdout


def _run(command: list[str], environment: Mapping[str, str], code: int) -> Done:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_HANGS_SECONDS,
        check=False,
    )
    assert done.returncode == code, (
        f"{shlex.join(command)}: exit code {done.returncode} instead of {code}\n{done.stdout}{done.stderr}"
    )
    return done


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Look again and again until ``is_so``; fails when that never happens."""
    give_up = time.monotonic() + _HANGS_SECONDS
    while not is_so():
        assert time.monotonic() < give_up, f"never happened: {what}"
        time.sleep(0.02)


class Program:
    """bucketry with a runtime directory of its own, so that nothing else on the machine is seen or
    touched."""

    def __init__(self, directory: Path) -> None:
        self._runtime = directory / "run"
        self._runtime.mkdir(mode=0o700)
        #: What every command runs with.
        self.environment = {**ENVIRONMENT, "BUCKETRY_RUNTIME_DIR": str(self._runtime)}

    def run(self, *arguments: str | Path, code: int = 0) -> Done:
        """``bucketry ARGUMENTS``, which must end with ``code``."""
        command = [sys.executable, "-m", "bucketry", *map(str, arguments)]
        check_documented(arguments, code)
        return _run(command, self.environment, code)

    def create(self, place: Place, size: str, *options: str) -> None:
        self.run("create", place.url, "--size", size, *options, *place.options)

    @contextmanager
    def attached(self, place: Place, directory: Path, *options: str) -> Iterator[Path]:
        """The disk's file, until the block ends well; then ``umount`` must return 0."""
        directory.mkdir(exist_ok=True)
        self.run("attach", place.url, directory, *options, *place.options)
        yield directory / "file"
        self.run("umount", directory)

    @contextmanager
    def mounted(self, place: Place, directory: Path, *options: str) -> Iterator[Path]:
        """The filesystem on the disk, until the block ends well; then ``umount`` must return 0."""
        directory.mkdir(exist_ok=True)
        self.run("mount", place.url, directory, *options, *place.options)
        yield directory
        self.run("umount", directory)

    def json(self, command: str, where: str | Path, *options: str) -> dict[str, Any]:
        """What ``bucketry COMMAND WHERE --json`` reports."""
        return cast("dict[str, Any]", json.loads(self.run(command, where, "--json", *options).stdout))

    def kill(self, directory: Path) -> None:
        """``kill -9`` of the process that serves ``directory``; it has gone when this returns."""
        pid = int(self.json("info", directory)["pid"])
        process = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([process], [], [], _HANGS_SECONDS)[0], f"process {pid} outlived a SIGKILL"
        finally:
            os.close(process)

    def hang_up(self, directory: Path) -> None:
        """SIGHUP for the process that serves ``directory``."""
        os.kill(int(self.json("info", directory)["pid"]), signal.SIGHUP)

    def log(self, directory: Path) -> str:
        """The log of the process that serves ``directory``."""
        return Path(self.json("info", directory)["log"]).read_text()

    def clean_up(self) -> None:
        """Whatever a failed test left: killed and unmounted. Nothing to do after one that passed."""
        for path in self._runtime.glob("*.json"):
            state = json.loads(path.read_text())
            try:
                os.kill(state["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.run("umount", state["mount_point"], code=1)


def request_count(statistics: Mapping[str, Any]) -> int:
    """Requests to the bucket, attempts counted each, in what ``bucketry stats`` reports."""
    operations = statistics["bucket"]["metered"]["operations"]
    return sum(operation["count"] for operation in operations.values())
