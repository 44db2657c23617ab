"""We know ourselves, and which of our processes are gone."""

import os
import socket
import subprocess
import sys
from datetime import UTC
from types import SimpleNamespace

import pytest

from bucketry.core import lease as rules
from bucketry.core.lease import Holder, Lease
from bucketry.disk.machine import ThisMachine, has_ended, host_name, this_process


def test_a_process_of_this_machine_that_has_ended_is_known() -> None:
    """We have not ended; a child that was waited for has; one of another machine, or name space, may live."""
    me = this_process(1)
    assert me.pid == os.getpid()
    assert not has_ended(me)
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    gone = Holder(host=me.host, boot_id=me.boot_id, pid=int(child.stdout), start_time=1, token=1)
    assert has_ended(gone)
    assert has_ended(
        Holder(host=me.host, boot_id=me.boot_id, pid=me.pid, start_time=me.start_time + 1, token=1)
    )
    for host, boot_id in (("elsewhere", me.boot_id), (me.host, "another boot"), (me.host, "")):
        assert not has_ended(Holder(host=host, boot_id=boot_id, pid=gone.pid, start_time=1, token=1))


def test_its_clocks_go_forward() -> None:
    """Elapsed time never goes back; the time for people is UTC."""
    machine = ThisMachine()
    assert machine.now() <= machine.now()
    assert machine.utc_now().tzinfo is UTC


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("host-a", "host-a"),
        ("h\xf6st", "h\xf6st"),
        ("bad \udce9\n", "bad \\xe9\\n"),
        ("\udce9" * 64, "\\xe9" * 64),
    ],
)
def test_any_host_name_fits_into_a_lease(monkeypatch: pytest.MonkeyPatch, name: str, shown: str) -> None:
    """The kernel takes any 64 bytes for one; what we write must be what we read."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=name))
    assert host_name() == shown[:255]
    me = this_process(1)
    when = "2026-11-29T09:00:00Z"
    written = rules.encode(Lease(epoch=1, holder=me, taken=when, renewed=when))
    found = rules.decode(written).holder
    assert found == me
    assert not has_ended(me)


def test_the_host_name_is_the_systems() -> None:
    """As other programs show it."""
    assert host_name() == socket.gethostname()
