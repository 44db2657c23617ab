"""Starts ``bucketry`` in processes of its own, without the time that a new interpreter takes.

Run as a program it reads lines of JSON, the arguments and a file for what the process says, forks a process
that runs the command line with them, and prints the process's number and, when it has ended, its exit code.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: Nothing here takes longer than a fraction of it.
_HANGS_SECONDS = 300.0


class Started:
    """One process of bucketry that serves a disk in the foreground, or has ended."""

    def __init__(self, starter: "Starter", pid: int, output: Path, mount_point: Path) -> None:
        self._starter = starter
        self.pid = pid
        self._output = output
        self.mount_point = mount_point
        #: Its exit code, negative for a signal; None as long as it serves.
        self.code: int | None = None

    @property
    def said(self) -> str:
        """Standard error and output."""
        return self._output.read_text()

    def wait_served(self) -> bool:
        """Whether it serves the disk, and has not ended instead."""
        give_up = time.monotonic() + _HANGS_SECONDS
        while not self.mount_point.is_mount():
            assert time.monotonic() < give_up, f"neither serves nor ends: {self.said}"
            if self._starter.has_answer(0.02):
                self.code = self._starter.answer()
                return False
        return True

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self, number: signal.Signals) -> int:
        """End it with a signal, and take the mount away that a killed process leaves; its exit code."""
        if self.code is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)
            self.code = self._starter.answer()
        # Who was killed leaves the mount; where there is none this says so, and does nothing.
        subprocess.run(["umount", "--lazy", self.mount_point], check=False, capture_output=True)
        self.mount_point.rmdir()
        return self.code


class Starter:
    """One process at a time. ``close`` it at the end; it ends the process that a failed test has left."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._latest: Started | None = None
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def attach(self, url: str, *options: str, host: str | None = None) -> Started:
        """``bucketry attach`` in the foreground, on a new mount point; ``host``: on a host of this name."""
        self._count += 1
        output = self._directory / f"output-{self._count}"
        mount_point = self._directory / f"disk-{self._count}"
        mount_point.mkdir()
        arguments = ["attach", url, str(mount_point), "--foreground", *options]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([arguments, str(output), host]).encode() + b"\n")
        self._process.stdin.flush()
        self._latest = Started(self, self.answer(), output, mount_point)
        return self._latest

    def has_answer(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout.fileno()], [], [], seconds)[0])

    def answer(self) -> int:
        """The next number that the program prints."""
        assert self.has_answer(_HANGS_SECONDS), "no answer"
        assert self._process.stdout is not None
        # One byte after the other: what is read ahead could not be waited for.
        line = bytearray()
        while not line.endswith(b"\n"):
            data = os.read(self._process.stdout.fileno(), 1)
            assert data, "the starter has ended"
            line += data
        return int(line)

    def close(self) -> None:
        if self._latest is not None and self._latest.code is None:
            self._latest.end(signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(_HANGS_SECONDS)


def _serve() -> None:
    # Here, in the program: whoever imports the classes above needs nothing of it.
    from bucketry import assemble  # noqa: F401 - what every child would import
    from bucketry.cli import attach  # noqa: F401
    from bucketry.cli.main import run_command

    while line := sys.stdin.buffer.readline():
        arguments, output, host = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_child(run_command, arguments, output, host)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_child(run_command: "object", arguments: Sequence[str], output: str, host: str | None) -> None:
    code = 70
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        if host is not None:
            _enter_host(host)
        assert callable(run_command)
        code = run_command(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _enter_host(name: str) -> None:
    """From now on this process is on a host of another name (CLONE_NEWUTS)."""
    import socket
    from ctypes import CDLL, get_errno

    if CDLL(None, use_errno=True).unshare(0x04000000) != 0:
        raise OSError(get_errno(), "unshare")
    socket.sethostname(name)


if __name__ == "__main__":
    _serve()
