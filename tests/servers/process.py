"""A server as a child process: started, waited for, killed, and never left behind."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: A shell that runs the server and kills it when its own standard input ends: also when this process was
#: killed and could not clean up. (PR_SET_PDEATHSIG would follow the starting thread, not the process.)
_KEEPER = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{ read -r _ <&3; kill -KILL "$child"; } 2>/dev/null &
wait "$child"
"""
#: Starting takes 1 to 6 s; a loaded machine with cold files takes several times that.
READY_SECONDS_MAX = 90.0
_POLL_SECONDS = 0.05

#: Below those that the kernel gives to clients (from 32768), twins included: no client takes a
#: port between two starts of its server. Twins are 10,000 higher, and nobody's first port.
_PORTS = range(10_000, 20_000)
_reservations: dict[int, socket.socket] = {}

#: Keepers that are running now, for the leak guard: they belong to the session, not to a test.
running: set[int] = set()


class ServerError(Exception):
    """A server's program is missing, or it did not start; one line for a person."""


def find_program(name: str, install: str) -> str:
    """The path of ``name``, beside the running Python or in PATH. Raises ServerError with ``install``."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise ServerError(f"{name} is not installed: {install}")
    return found


def free_ports(count: int, *, twin_distance: int = 0) -> list[int]:
    """``count`` ports that nobody listens on; with ``twin_distance``, nor on the ports so far above them.

    They stay reserved among all processes that ask here, until ``release_ports`` or the end of this process:
    test workers start their servers side by side, and a server binds its port only after this has returned.
    Raises ServerError when none is left."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        twins = (port, port + twin_distance) if twin_distance else (port,)
        if all(map(_is_free, twins)) and _reserve(port):
            ports.append(port)
            if len(ports) == count:
                return ports
    raise ServerError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")


def release_ports(*ports: int) -> None:
    """Others may have these ports of ``free_ports`` again."""
    for port in ports:
        _reservations.pop(port).close()


def _reserve(port: int) -> bool:
    reservation = socket.socket(socket.AF_UNIX)
    try:
        # A name without a file, which the kernel forgets with its process.
        reservation.bind(f"\0bucketry-tests/{port}")
    except OSError:
        reservation.close()
        return False
    _reservations[port] = reservation
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ServerProcess:
    """One server program. ``is_ready`` is asked until it says yes."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        is_ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._command = list(command)
        self._log = log
        self._is_ready = is_ready
        self._environment = {**os.environ, **(environment or {})}
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves. Raises ServerError with the end of its log."""
        assert self._keeper is None
        with self._log.open("ab") as log:
            keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, self._name, *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C in the terminal is for the tests; they end the servers.
                start_new_session=True,
            )
        self._keeper = keeper
        running.add(keeper.pid)
        give_up = time.monotonic() + READY_SECONDS_MAX
        while not self._is_ready():
            if keeper.poll() is not None or time.monotonic() > give_up:
                self.stop()
                end = self._log.read_text(errors="replace").splitlines()[-5:]
                raise ServerError(f"{self._name} did not start: {' | '.join(end) or 'it said nothing'}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Kill it, as a power cut would, and wait until it has gone. Stopping twice is fine."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()
        running.discard(keeper.pid)
