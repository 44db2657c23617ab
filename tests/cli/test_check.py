"""``bucketry check`` and ``bucketry resize`` on buckets in memory: what they say and how they end."""

import functools
import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest

from bucketry.bucket.interface import ObjectInfo
from bucketry.bucket.memory import MemoryStore, shared_store
from bucketry.cli.main import run_command
from bucketry.core import lease as rules
from bucketry.core.lease import Holder, Lease
from bucketry.core.names import LEASE_NAME
from bucketry.testing.s3_server import S3Server

NAME = "cli-check"
URL = f"memory://{NAME}/disk"
BLOCK = 128 << 10


class Program:
    """The command in this process, and what it last said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.output = self.errors = ""

    def __call__(self, *arguments: str) -> int:
        code = run_command(list(arguments))
        self.output, self.errors = self._capsys.readouterr()
        return code

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.output)
        return found


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = shared_store(NAME)
    yield store
    store.objects.clear()


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], store: MemoryStore) -> Program:
    return Program(capsys)


def put(store: MemoryStore, name: str, body: bytes) -> None:
    key = f"disk/{name}"
    store.objects[key] = replace_info(store, key, body), body


def replace_info(store: MemoryStore, key: str, body: bytes) -> ObjectInfo:
    old = store.objects.get(key)
    new = ObjectInfo(key, len(body), store.new_etag())
    return new if old is None else replace(new, attributes=old[0].attributes)


def _answer(password: bytes | None, name: str) -> bytes | None:
    return password


def test_a_sound_disk_is_well(program: Program, store: MemoryStore) -> None:
    """One line, and exit code 0."""
    program("create", URL, "--size", "1M")
    put(store, "00000003", b"x" * BLOCK)
    assert program("check", URL) == 0
    assert program.output == (
        "note: 1 blocks carry no crc32c: s3backer wrote them\n"
        f"memory://{NAME}/disk/: 1 blocks, 128 KiB read: all is well\n"
    )


def test_damage_and_flaws_are_told_with_what_to_do(program: Program, store: MemoryStore) -> None:
    """Exit code 1 for damage; the dry run changes nothing; each repair is printed."""
    program("create", URL, "--size", "1M")
    put(store, "00000003", b"too short")
    put(store, "00000009", bytes(BLOCK))
    put(store, "0000000a", b"beyond")
    put(store, "evil\x1b[2J", b"")
    before = dict(store.objects)
    assert program("check", URL) == 1
    assert (
        "damage: block 3 (disk/00000003): 9 bytes instead of 131072; --repair --zero-damaged"
        in program.output
    )
    assert "flaw: block 9 (disk/00000009) is beyond the end; --repair deletes it" in program.output
    assert "flaw: block 10 (disk/0000000a) is beyond the end and not zero: bucketry resize" in program.output
    assert "note: foreign object disk/evil\\x1b[2J" in program.output
    assert program.errors == f"bucketry: {URL}: 1 damaged\n"
    assert store.objects == before
    assert program("check", URL, "--repair") == 1
    assert "deleted disk/00000009\n" in program.output
    assert program("check", URL, "--repair", "--zero-damaged") == 1
    assert "zeroed block 3; its object is now disk/damaged/00000003-" in program.output
    assert program("check", URL) == 0
    assert "disk/0000000a" in store.objects


def test_zero_damaged_without_repair_is_wrong_usage(program: Program) -> None:
    """It does not repair by itself."""
    assert program("check", URL, "--zero-damaged") == 2


def test_json_is_one_object(program: Program, store: MemoryStore) -> None:
    """With nothing to tell, and with findings and actions."""
    program("create", URL, "--size", "1M")
    assert program("check", URL, "--json") == 0
    assert program.json == {
        "entries": [],
        "report": {
            "url": f"memory://{NAME}/disk/",
            "kind": "bucketry",
            "damage": 0,
            "flaws": 0,
            "repaired": 0,
            "figures": dict.fromkeys(
                (
                    "blocks", "bytes", "damaged_blocks", "zero_blocks", "blocks_beyond_the_end",
                    "foreign_objects", "foreign_bytes", "kept_objects", "zstd_blocks",
                    "blocks_without_crc32c", "blocks_with_wrong_pieces", "blocks_without_place",
                    "gone_blocks", "blocks_read_twice",
                ),
                0,
            ),
        },
    }  # fmt: skip
    put(store, "00000003", b"too short")
    put(store, "00000009", bytes(BLOCK))
    assert program("check", URL, "--json", "--repair") == 1
    entries = program.json["entries"]
    assert isinstance(entries, list)
    # Findings come as blocks have been read.
    assert sorted(entries, key=lambda entry: (str(entry["entry"]) == "action", entry["block"])) == [
        {
            "entry": "finding",
            "severity": "damage",
            "kind": "damaged block",
            "message": "block 3 (disk/00000003): 9 bytes instead of 131072",
            "block": 3,
            "key": "disk/00000003",
            "remedy": "put aside and zero",
        },
        {
            "entry": "finding",
            "severity": "flaw",
            "kind": "beyond the end",
            "message": "block 9 (disk/00000009) is beyond the end",
            "block": 9,
            "key": "disk/00000009",
            "remedy": "delete",
        },
        {
            "entry": "action",
            "done": True,
            "message": "deleted disk/00000009",
            "block": 9,
            "key": "disk/00000009",
        },
    ]


def test_an_encrypted_disk_needs_its_password(
    program: Program, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment here; without one, and with a wrong one, exit code 4."""
    monkeypatch.setattr("bucketry.cli.secrets._take_variable", functools.partial(_answer, b"secret"))
    assert program("create", URL, "--size", "1M", "--encrypt") == 0
    assert program("check", URL) == 0
    for wrong in (b"wrong", None):
        monkeypatch.setattr("bucketry.cli.secrets._take_variable", functools.partial(_answer, wrong))
        assert program("check", URL) == 4


def test_where_no_disk_is(program: Program) -> None:
    """Neither command makes one."""
    assert program("check", URL) == 3
    assert program("resize", URL, "--size", "1M") == 3


def test_resize_there_and_back(program: Program, store: MemoryStore) -> None:
    """Growing, shrinking, being refused, being forced; info tells the size."""
    program("create", URL, "--size", "1M")
    assert program("resize", URL, "--size", "3M") == 0
    assert program.output == f"resized {URL} from 1 MiB to 3 MiB\n"
    put(store, "00000012", b"x" * BLOCK)
    assert program("resize", URL, "--size", "2M") == 2
    assert "one block is not zero beyond the new end; --force" in program.errors
    assert program("resize", URL, "--size", "2M", "--force") == 0
    assert program.output == f"resized {URL} from 3 MiB to 2 MiB; 1 blocks beyond the end deleted\n"
    assert program("resize", URL, "--size", "2M") == 0
    assert program.output == f"resized {URL} to 2 MiB, which it had\n"
    assert program("info", URL, "--json") == 0
    assert program.json["size_bytes"] == 2 << 20


def test_what_is_beyond_the_end_is_adopted_or_deleted_by_name(program: Program, store: MemoryStore) -> None:
    """Growing neither deletes it nor brings it back unasked."""
    program("create", URL, "--size", "1M")
    put(store, "00000009", b"x" * BLOCK)
    assert program("resize", URL, "2M") == 2
    assert "--adopt makes them part of the volume, --force deletes them" in program.errors
    assert program("resize", URL, "2M", "--adopt", "--force") == 2
    assert program("resize", "/nowhere", "2M", "--adopt") == 2
    assert program("resize", URL, "2M", "--adopt") == 0
    assert program("check", URL) == 0
    assert "1 blocks, 128 KiB read: all is well" in program.output


def test_a_superblock_that_was_edited_is_not_believed(program: Program, store: MemoryStore) -> None:
    """It lacks its checksum; check gives it one when it is asked to."""
    program("create", URL, "--size", "1M")
    key = "disk/superblock.bucketry.json"
    body = store.objects[key][1]
    body = body.replace(b"1048576", b"2097152")
    store.objects[key] = ObjectInfo(key, len(body), store.new_etag()), body
    assert program("info", URL) == 1
    assert "it carries no checksum, so another program has changed it" in program.errors
    assert program("resize", URL, "3M") == 1
    assert program("check", URL) == 0
    assert "flaw: the superblock carries no checksum: another program has changed it" in program.output
    assert program("check", URL, "--repair") == 0
    assert program("info", URL, "--json") == 0
    assert program.json["size_bytes"] == 2 << 20


def test_a_size_must_be_given_and_fit(program: Program, store: MemoryStore) -> None:
    """Exit code 2."""
    program("create", URL, "--size", "1M")
    assert program("resize", URL) == 2
    assert program("resize", URL, "--size", "1000") == 2
    assert "multiple of the block size" in program.errors


def test_a_disk_in_use_is_neither_resized_nor_repaired(program: Program, store: MemoryStore) -> None:
    """Exit code 5, saying who has it; checking it is fine."""
    program("create", URL, "--size", "1M")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    holder = Holder(host="elsewhere", boot_id="another", pid=7, start_time=1, token=0x1234)
    put(store, LEASE_NAME, rules.encode(Lease(epoch=3, holder=holder, taken=now, renewed=now)))
    for command in (("resize", URL, "--size", "2M"), ("check", URL, "--repair")):
        assert program(*command) == 5
        assert "process 7 on elsewhere" in program.errors
    assert program("check", URL) == 0
    assert "note: in use by process 7 on elsewhere" in program.output


@pytest.mark.slow  # imports botocore
def test_foreign_keys_that_cannot_be_named_stop_nothing(program: Program) -> None:
    """Neither check nor erase, which leaves them; check names them."""
    with S3Server() as server:
        server.make_bucket("bucket")
        url, to = "s3://bucket/v", ("--endpoint", server.endpoint, "--region", "us-east-1", "--anonymous")
        assert program("create", url, "--size", "1M", *to) == 0
        foreign = ["v/a//b", "v/./x", "v/name\n", "v/../y"]
        for key in [*foreign, "v/00000003"]:
            assert ask(server, "PUT", key) == 200
        assert program("check", url, *to) == 0
        for name in ("objects below v/a/", "objects below v/./", "object v/name\\n", "objects below v/../"):
            assert f"note: {'1 ' if 'below' in name else ''}foreign {name}\n" in program.output
        assert program("erase", url, "--force", *to) == 0
        assert program.output == f"erased {url}: 1 objects deleted\n"
        assert [ask(server, "HEAD", key) for key in [*foreign, "v/00000003"]] == [200] * 4 + [404]


def ask(server: S3Server, method: str, key: str) -> int:
    """As a program does that looks at no key; the status."""
    connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc)
    connection.request(method, f"/bucket/{quote(key)}", b"x" * BLOCK if method == "PUT" else None)
    status = connection.getresponse().status
    connection.close()
    return status
