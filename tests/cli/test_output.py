"""What commands write: nothing that a terminal acts on, and with --json one object whatever happens."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

import bucketry.cli
from bucketry.bucket.interface import Attributes, ObjectInfo
from bucketry.bucket.memory import MemoryStore, shared_store
from bucketry.cli.main import cli, run_command
from bucketry.cli.output import JsonEntries
from bucketry.core import lease as rules
from bucketry.core.lease import Holder, Lease
from bucketry.core.names import LEASE_NAME, MOUNT_TOKEN_NAME, SUPERBLOCK_NAME

NAME = "cli-output"
URL = f"memory://{NAME}/disk"
#: It clears the screen, names a window, and turns text around.
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil"


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = shared_store(NAME)
    yield store
    store.objects.clear()


def put(store: MemoryStore, name: str, body: bytes, **metadata: str) -> None:
    key = f"disk/{name}"
    attributes = Attributes(metadata=metadata)
    store.objects[key] = ObjectInfo(key, len(body), store.new_etag(), attributes=attributes), body


def hold(store: MemoryStore, host: str) -> None:
    """Somebody on ``host`` has the volume, as far as the bucket knows."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    holder = Holder(host=host, boot_id="another", pid=7, start_time=1, token=0x1234)
    put(store, LEASE_NAME, rules.encode(Lease(epoch=3, holder=holder, taken=now, renewed=now)))


# Terminals


def written_by(path: Path) -> Iterator[str]:
    """Calls in a source file that write to the terminal."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"print", "click.echo", "click.secho", "click.confirm", "click.prompt"} or (
                name.startswith(("sys.stdout.", "sys.stderr.")) and name.endswith(("write", "writelines"))
            ):
                yield f"{path.name}: {name}"


def test_there_is_one_way_to_the_terminal() -> None:
    """What is written any other way would not be escaped."""
    paths = sorted(Path(bucketry.cli.__file__).parent.glob("*.py"))
    assert len(paths) > 10
    found = {call for path in paths for call in written_by(path)}
    assert found == {"output.py: click.echo", "output.py: click.confirm"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", URL],
        ["info", URL, "--json"],
        ["check", URL],
        ["check", URL, "--json"],
        ["check", URL, "--repair"],
        ["resize", URL, "2M"],
        ["unlock", URL],
        ["erase", URL],
        ["export", URL, "/nonexistent/image"],
        ["files", "ls", URL],
        ["files", "ls", URL, "--long"],
        ["files", "stat", URL, EVIL],
        ["files", "rm", URL, EVIL],
        ["attach", f"{URL}{EVIL}", "/tmp"],
        ["--debug", "attach", f"{URL}{EVIL}", "/tmp"],
        ["stats", EVIL],
        [EVIL],
        ["info", URL, f"--{EVIL}"],
    ],
)
@pytest.mark.parametrize("who", ["lease", "token", "superblock", "foreign", "block"])
def test_nothing_from_a_bucket_reaches_the_terminal_raw(
    request: pytest.FixtureRequest,
    store: MemoryStore,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    who: str,
) -> None:
    """Host names, keys, superblocks and arguments: a line is a line, and escapes are shown."""
    assert run_command(["create", URL, "--size", "1M"]) == 0
    match who:
        case "lease":
            hold(store, f"{EVIL}\nall is well")
        case "token":
            body = f"{EVIL}\n20261121T193800Z\n".encode()
            put(store, MOUNT_TOKEN_NAME, body, **{"s3backer-mount-token": "00001234"})
        case "superblock":
            fields = json.loads(store.objects[f"disk/{SUPERBLOCK_NAME}"][1])
            put(store, SUPERBLOCK_NAME, json.dumps({**fields, "version": 9, "created_by": EVIL}).encode())
        case "foreign":
            put(store, f"{EVIL}\nfile", b"x")
            if arguments[:2] == ["files", "ls"]:
                request.node.add_marker(pytest.mark.logs("not listed: the key .* has a control character"))
        case "block":
            put(store, "00000003", b"x", **{"s3backer-blocksize": EVIL, "bucketry-crc32c": EVIL})
    capsys.readouterr()
    run_command(arguments)
    said = capsys.readouterr()
    for line in f"{said.out}\n{said.err}".split("\n"):
        assert line.isprintable(), line
    assert not [line for line in f"{said.out}\n{said.err}".splitlines() if line.startswith("all is well")]


def test_what_is_escaped_can_still_be_read(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """The character's number in place of what it would do; letters of any language are letters."""
    assert run_command(["create", URL, "--size", "1M"]) == 0
    put(store, "\x1b[2Jname\nélan", b"x")
    assert run_command(["check", URL]) == 0
    assert "foreign object disk/\\x1b[2Jname\\nélan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["info", "memory://cli-none/x"], 3), (["info", "memory://cli-none/x", "--json"], 3), (["creat"], 2)],
)
def test_the_code_is_right_where_nothing_can_be_said(arguments: list[str], code: int) -> None:
    """Standard output and standard error on a full disk."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bucketry", *arguments], stdout=full, stderr=full, check=False
        )
    assert done.returncode == code


# JSON


def commands_with_json(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands_with_json(command, (*before, name))
        elif command is not None and any("--json" in parameter.opts for parameter in command.params):
            yield (*before, name)


JSON_COMMANDS = sorted(commands_with_json(cli))


def test_these_report_as_json() -> None:
    """So that the tests below have something to look at."""
    assert {("info",), ("check",), ("stats",), ("files", "ls"), ("files", "put")} <= set(JSON_COMMANDS)


@pytest.mark.parametrize("command", JSON_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("rest", "codes"),
    [([], {2, 3}), (["--no-such-option"], {2}), (["memory://cli-none/x", "name", "other"], {1, 2, 3})],
    ids=["nothing", "usage", "elsewhere"],
)
def test_a_failure_is_one_json_object(
    command: tuple[str, ...], rest: list[str], codes: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the message and the exit code; standard error has its line as ever."""
    code = run_command([*command, "--json", *rest])
    said = capsys.readouterr()
    if code == 0:
        return  # an empty bucket has no files, which is no failure
    assert code in codes, said
    error = json.loads(said.out)["error"]
    assert error["exit_code"] == code
    assert error["kind"]
    assert said.err == f"bucketry: {error['message']}\n"


def test_check_of_what_cannot_be_opened(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """No volume is an error; a damaged superblock is damage, and told as such."""
    assert run_command(["check", URL, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["entries"] == []
    assert (found["error"]["kind"], found["error"]["exit_code"]) == ("NotFound", 3)

    run_command(["create", URL, "--size", "1M"])
    put(store, SUPERBLOCK_NAME, b"{")
    capsys.readouterr()
    assert run_command(["check", URL, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (entry,) = found["entries"]
    assert (entry["entry"], entry["severity"], entry["kind"]) == ("finding", "damage", "superblock")
    assert "it is not JSON" in entry["message"]
    assert (found["report"]["damage"], found["report"]["kind"]) == (1, "unknown")
    assert "error" not in found
    assert run_command(["check", URL]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(
        f"damage: superblock disk/{SUPERBLOCK_NAME} in memory://{NAME}: it is not JSON"
    )
    assert said.err == f"bucketry: {URL}: 1 damaged\n"


def test_an_error_after_some_entries_ends_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever has been written before it."""
    for count in range(3):
        with click.Context(click.Command("x")):
            entries = JsonEntries()
            for number in range(count):
                entries.add({"number": number})
            entries.fail({"kind": "Unavailable"})
        found = json.loads(capsys.readouterr().out)
        assert found == {"entries": [{"number": n} for n in range(count)], "error": {"kind": "Unavailable"}}


def test_files_that_were_done_before_the_error_are_told(
    store: MemoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several files the first may be in the bucket when the second is refused."""
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    put(store, "b", b"another")
    assert run_command(["files", "put", str(tmp_path / "a"), str(tmp_path / "b"), URL, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [file["name"] for file in found["files"]] == ["a"]
    assert found["error"]["kind"] == "AlreadyExists"
