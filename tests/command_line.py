"""The ``bucketry`` command as tests run it: a real process, with a runtime directory of its own."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exit_codes import check_documented

#: A command that does what it should ends far earlier; one that hangs fails its test, and not the whole run.
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str


class CommandLine:
    """Runs commands. ``directory`` takes the runtime directory; what is still served at the end is ended by
    ``close``."""

    def __init__(self, directory: Path) -> None:
        self.runtime = directory / "run"
        self.runtime.mkdir(mode=0o700)
        self._started: list[subprocess.Popen[str]] = []

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "BUCKETRY_RUNTIME_DIR": str(self.runtime), **(extra or {})}

    def run(
        self,
        *arguments: str | Path,
        text: str | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environment(environment),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            cwd=cwd,
            pass_fds=pass_fds,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        check_documented(arguments, done.returncode)
        return Ended(done.returncode, done.stdout, done.stderr)

    def ok(
        self, *arguments: str | Path, text: str | None = None, environment: Mapping[str, str] | None = None
    ) -> str:
        """Run a command that must succeed; its output."""
        ended = self.run(*arguments, text=text, environment=environment)
        assert ended.code == 0, ended
        return ended.output

    def fails(self, code: int, *arguments: str | Path, text: str | None = None) -> str:
        """Run a command that must fail with ``code``, with exactly one line; that line."""
        ended = self.run(*arguments, text=text)
        assert ended.code == code, ended
        assert ended.errors.startswith("bucketry: "), ended
        assert ended.errors.count("\n") == 1, ended
        return ended.errors.removeprefix("bucketry: ").rstrip("\n")

    def start(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> "subprocess.Popen[str]":
        """Start a command and go on; its standard error is the caller's to read."""
        process = subprocess.Popen(
            self.argv(*arguments),
            env=self.environment(environment),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def state(self) -> dict[str, object]:
        """The state file of the one disk that is served."""
        (path,) = self.runtime.glob("*.json")
        state: dict[str, object] = json.loads(path.read_text())
        return state

    def pid(self) -> int:
        pid = self.state()["pid"]
        assert isinstance(pid, int)
        return pid

    def log(self) -> str:
        return "".join(path.read_text() for path in self.runtime.glob("*.log"))

    def close(self) -> None:
        """End what a failed test left."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for path in self.runtime.glob("*.json"):
            try:
                state = json.loads(path.read_text())
            except ValueError:
                continue
            try:
                os.kill(state["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass
            wait_until(functools.partial(_is_over, state["pid"]))
            self.run("umount", state["mount_point"])

    def argv(self, *arguments: str | Path) -> list[str]:
        """The words that run a command."""
        return [sys.executable, "-m", "bucketry", *map(str, arguments)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _is_over(pid: int) -> bool:
    return not is_running(pid)


def is_mounted(path: Path) -> bool:
    return any(
        line.split(" ")[4] == str(path)
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    )


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens outside and tells nobody."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
