"""Commands: the same for a server in this process and one in another."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bucketry.settings import Secret
from bucketry.testing.s3_server import (
    Controls,
    Credentials,
    Fail,
    FaultRates,
    FlipBit,
    LineModel,
    LoseAnswer,
    Outage,
    RemoteControl,
    Reset,
    S3Server,
    S3ServerProcess,
    ServiceSettings,
    SlowBody,
    Stall,
    StallAt,
    Truncate,
)
from bucketry.testing.s3_server.child_settings import decode_settings, encode_settings
from bucketry.testing.s3_server.controls import decode_rule, encode_rule
from bucketry.testing.s3_server.faults import Fault, Rule
from servers.raw_http import ask

SETTINGS = ServiceSettings(
    credentials=(
        Credentials("AKIDONE", Secret("one")),
        Credentials("ASIATWO", Secret("two"), Secret("token")),
    ),
    anonymous=True,
    region="eu-central-1",
    etags="fast",
    part_bytes_min=1,
    race_conflicts=True,
)


@pytest.mark.parametrize(
    "fault",
    [
        Fail("SlowDown", 3, applied=True),
        LoseAnswer(),
        Reset(0.25),
        Truncate(0.75),
        SlowBody(17.5),
        Stall(2.5, StallAt.BODY),
        FlipBit(),
    ],
)
def test_rules_travel(fault: Fault) -> None:
    """A rule is the same after its way as JSON."""
    rule = Rule(fault=fault, operation="GetObject", key="ü", key_prefix="p", skip=2, times=None)
    assert decode_rule(json.loads(json.dumps(encode_rule(rule)))) == rule


def test_settings_travel() -> None:
    """So are the settings, secrets included."""
    assert decode_settings(encode_settings(SETTINGS)) == SETTINGS
    assert replace(SETTINGS, credentials=()) != SETTINGS


@pytest.fixture
def control_port() -> Iterator[int]:
    """A server in a thread that also listens for commands."""
    with S3Server(control_port=0) as server:
        yield server.control_port


def use_all(controls: Controls, port: int) -> None:
    """Every command, and what each does."""
    assert controls.make_bucket("b") == "b"
    with pytest.raises(ValueError, match="BucketAlreadyOwnedByYou"):
        controls.make_bucket("b")
    with pytest.raises(ValueError, match="there is no command"):
        controls.command("nonsense", {})
    with pytest.raises(ValueError, match="plan"):
        controls.command("plan", {"fault": {"kind": "Nonsense"}})
    controls.plan(Fail("SlowDown", 5), operation="PutObject")
    assert ask(port, "PUT", "/b/k", body=b"x").headers["retry-after"] == "5"
    assert ask(port, "PUT", "/b/k", body=b"x").status == 200
    controls.set_fault_rates(FaultRates(fail=1.0), seed=3)
    assert ask(port, "GET", "/b/k").status == 500
    controls.clear_faults()
    controls.set_line(LineModel(latency_seconds=0.001))
    assert ask(port, "GET", "/b/k").body == b"x"
    controls.set_line()
    controls.begin_outage(Outage.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/b/k")
    controls.end_outage()
    controls.set_stale_lists(60)
    ask(port, "PUT", "/b/new", body=b"x")
    assert b"<Key>new</Key>" not in ask(port, "GET", "/b").body
    controls.set_stale_lists()
    with pytest.raises(ValueError, match="below 0"):
        controls.set_stale_lists(-1)
    controls.expire_credentials("AKIDONE")
    controls.renew_credentials("AKIDONE")
    controls.release_stalls()
    assert controls.snapshot().requests == {"PutObject": 3, "GetObject": 2, "ListObjects": 1}
    controls.reset_ledger()
    assert controls.snapshot().requests == {}
    with pytest.raises(ValueError, match="everybody"):
        controls.set_credentials()
    controls.set_credentials(Credentials("AKIDTWO", Secret("k"), Secret("t")))
    assert ask(port, "GET", "/b/k").status == 403  # it looks at signatures now
    controls.clear()


def test_commands_in_this_process() -> None:
    """Every command, by a plain call."""
    with S3Server() as server:
        use_all(server, server.port)


def test_commands_by_http() -> None:
    """Every command, through the control port."""
    with S3Server(control_port=0) as server:
        use_all(RemoteControl(server.control_port), server.port)


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("GET", {}),
        ("POST", {"Content-Type": "text/plain"}),
        ("POST", {"Origin": "http://example.com"}),
        ("POST", {"Host": "example.com"}),
    ],
)
def test_commands_from_web_pages_are_refused(control_port: int, method: str, changed: dict[str, str]) -> None:
    """What a page in a browser could send is no command."""
    headers = {"Content-Type": "application/json", "Host": f"127.0.0.1:{control_port}", **changed}
    connection = http.client.HTTPConnection("127.0.0.1", control_port, timeout=10)
    try:
        connection.request(method, "/clear", b"{}", headers)
        assert connection.getresponse().status == 403
    finally:
        connection.close()


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"a": 1}', b"{"])
def test_commands_that_are_none(control_port: int, body: bytes) -> None:
    """Nonsense is answered with what is wrong, and does no harm."""
    connection = http.client.HTTPConnection("127.0.0.1", control_port, timeout=10)
    try:
        connection.request("POST", "/clear", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 400
        assert "error" in json.loads(answer.read())
    finally:
        connection.close()
    RemoteControl(control_port).clear()


def test_a_taken_port_is_an_error() -> None:
    """Starting on a port that somebody has is an OSError, in the thread that asked."""
    with S3Server() as first:
        second = S3Server(port=first.port)
        with pytest.raises(OSError, match="address already in use"):
            second.start()
        second.stop()


def test_objects_are_gone_after_a_stop() -> None:
    """A server that starts again, on the port it had, is an empty one."""
    server = S3Server()
    with server:
        server.make_bucket("b")
        port = server.port
    again = S3Server(port=port)
    with again:
        assert ask(again.port, "HEAD", "/b").status == 404


@pytest.mark.system
class TestProcess:
    """The server as a process."""

    def test_commands(self) -> None:
        """Every command reaches it."""
        with S3ServerProcess() as server:
            use_all(server, server.port)

    def test_settings(self) -> None:
        """Its settings are those that were given, and its secrets are not among its arguments."""
        with S3ServerProcess(replace(SETTINGS, anonymous=False)) as server:
            server.make_bucket("b")
            assert ask(server.port, "GET", "/b").code == "AccessDenied"
            command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
            assert b"token" not in command
            assert b"two" not in command

    def test_it_ends_with_its_parent(self) -> None:
        """When the process that started it is killed, it ends."""
        program = (
            "import signal, os\n"
            "from bucketry.testing.s3_server import S3ServerProcess\n"
            "server = S3ServerProcess()\n"
            "server.start()\n"
            "print(server.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False, timeout=60
        )
        # It had our pipe as its standard error's neighbour; run() has waited for both to end.
        assert done.returncode == -signal.SIGKILL
        pid = int(done.stdout)
        while Path(f"/proc/{pid}").exists() and "bucketry" in Path(f"/proc/{pid}/cmdline").read_text():
            os.sched_yield()

    def test_as_a_program(self, tmp_path: Path) -> None:
        """Started by hand it says where it is, serves with the keys of a file, and ends by SIGTERM."""
        access_file = tmp_path / "access"
        access_file.write_text("# a comment\nAKID:secret\n")
        process = subprocess.Popen(
            [
                sys.executable, "-m", "bucketry.testing.s3_server", "--bucket", "mine",
                "--access-file", str(access_file), "--anonymous",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            port, control_port = (int(process.stdout.readline().rpartition(":")[2]) for _ in range(2))
            assert ask(port, "HEAD", "/mine").status == 200
            assert RemoteControl(control_port).snapshot().requests == {"HeadBucket": 1}
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode == 0

    def test_wrong_access_file(self, tmp_path: Path) -> None:
        """A file without keys in it is one line and an exit code."""
        access_file = tmp_path / "access"
        access_file.write_text("nonsense\n")
        done = subprocess.run(
            [sys.executable, "-m", "bucketry.testing.s3_server", "--access-file", str(access_file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stderr == f"{access_file}: line 1 is not accessId:secret\n"
