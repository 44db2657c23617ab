"""The superblock: both ways, and everything that is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.core.geometry import Geometry
from bucketry.core.names import SUPERBLOCK_NAME
from bucketry.errors import AlreadyExists, Corrupt, Invalid, Unsupported
from bucketry.layout.superblock import (
    SIZE_MAX,
    Superblock,
    decode,
    encode,
    read_superblock,
    write_superblock,
)
from bucketry.settings import VolumeFormat
from bucketry.testing.faulty_bucket import FaultyBucket, FlipBit

PLAIN = Superblock(
    volume_id="0123456789abcdef0123456789abcdef",
    format=VolumeFormat(
        size_bytes=1 << 40,
        block_size_bytes=1 << 17,
        compression="zstd",
        compression_level=3,
        block_hash_prefix=True,
    ),
    salt=None,
    password_check=None,
    created="2026-11-21T19:38:00Z",
    created_by="bucketry 0.1.0",
)
ENCRYPTED = Superblock(
    volume_id="0123456789abcdef0123456789abcdef",
    format=VolumeFormat(size_bytes=1 << 20, block_size_bytes=4096, cipher="AES-256-CBC", key_length=64),
    salt="bucket/prefix/",
    password_check="0123456789" * 4,
    created="2026-11-21T19:38:00Z",
    created_by="bucketry 0.1.0",
)


async def test_a_flipped_bit_is_noticed_wherever_it_is() -> None:
    """Whatever bit of the object is wrong on its way, it is asked for again; and one that is wrong in the
    bucket is an error, though it may be JSON."""
    store = MemoryStore()
    bucket = FaultyBucket(MemoryBucket(store))
    await write_superblock(bucket, "vol/", PLAIN)
    bucket.plan(FlipBit(), operation="get", times=1)
    assert await read_superblock(bucket, "vol/") == PLAIN
    key = f"vol/{SUPERBLOCK_NAME}"
    info, body = store.objects[key]
    for at in range(len(body)):
        store.objects[key] = info, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(Corrupt):
            await read_superblock(bucket, "vol/")


@pytest.mark.parametrize("superblock", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
def test_it_comes_back(superblock: Superblock) -> None:
    """What is encoded is decoded to the same values."""
    assert decode(encode(superblock)) == superblock


def test_a_resize_under_way_is_told_only_while_it_lasts() -> None:
    """Block 0 may still say the size before; otherwise the field is not there."""
    resizing = replace(PLAIN, resized_from_bytes=1 << 30)
    assert decode(encode(resizing)) == resizing
    assert json.loads(encode(resizing))["resized_from_bytes"] == 1 << 30
    assert resizing.resized_from == Geometry(1 << 30, 1 << 17)
    assert "resized_from_bytes" not in json.loads(encode(PLAIN))
    assert PLAIN.resized_from is None
    for wrong in (0, -1, 5, "1", None, 1.0):
        with pytest.raises(Corrupt):
            decode(json.dumps({**json.loads(encode(PLAIN)), "resized_from_bytes": wrong}).encode())


def test_its_fields_are_those_of_the_format() -> None:
    """docs/format.md lists them; other programs rely on them."""
    assert json.loads(encode(ENCRYPTED)) == {
        "format": "bucketry-volume",
        "version": 1,
        "requires": [],
        "layout": "s3backer",
        "volume_id": "0123456789abcdef0123456789abcdef",
        "size_bytes": 1048576,
        "block_size_bytes": 4096,
        "block_hash_prefix": False,
        "compression": "none",
        "compression_level": None,
        "encryption": {
            "cipher": "AES-256-CBC",
            "key_length": 64,
            "salt": "bucket/prefix/",
            "password_check": "0123456789" * 4,
        },
        "created": "2026-11-21T19:38:00Z",
        "created_by": "bucketry 0.1.0",
    }


def test_the_documented_example_is_one() -> None:
    """What docs/format.md shows can be read."""
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    example = page.split("```json")[1].split("```")[0]
    superblock = decode(example.encode())
    assert superblock.format.cipher == "AES-256-CBC"
    assert json.loads(encode(superblock)) == json.loads(example)


def test_the_length_of_the_key_is_always_written() -> None:
    """A volume of a cipher's own key length says so in full."""
    volume = VolumeFormat(size_bytes=1 << 20, block_size_bytes=4096, cipher="AES-192-CBC")
    superblock = Superblock(
        volume_id=PLAIN.volume_id,
        format=volume,
        salt="b/",
        password_check="0" * 40,
        created=PLAIN.created,
        created_by="x",
    )
    assert decode(encode(superblock)).format.key_length == 24


def changed(superblock: Superblock, name: str, value: object) -> bytes:
    """An encoded superblock with one field replaced, or with ``...`` left out; ``a.b`` is a field of a
    field."""
    fields: dict[str, Any] = json.loads(encode(superblock))
    *outer, last = name.split(".")
    inner = fields[outer[0]] if outer else fields
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", 2, "format version 2, written by 'bucketry 0.1.0'; this program knows version 1"),
        ("version", 0, "format version 0"),
        ("requires", ["clones"], r"requires \['clones'\], written by 'bucketry 0.1.0'"),
        ("layout", "log", "layout 'log', written by 'bucketry 0.1.0'"),
    ],
)
def test_what_a_newer_program_wrote_is_unsupported(name: str, value: object, message: str) -> None:
    """The message says which version it is and who wrote it."""
    with pytest.raises(Unsupported, match=message):
        decode(changed(PLAIN, name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "other"), ("format", ...), ("version", "1"), ("version", True), ("version", 1.0),
        ("version", ...),
        ("requires", None), ("requires", {}), ("layout", ...), ("volume_id", "short"), ("volume_id", ...),
        ("volume_id", 5), ("size_bytes", "1T"), ("size_bytes", 0), ("size_bytes", -4096),
        ("size_bytes", 5000),
        ("size_bytes", 1e6), ("size_bytes", ...), ("size_bytes", 1 << 90), ("block_size_bytes", 0),
        ("block_size_bytes", 4095), ("block_size_bytes", 1 << 31), ("block_hash_prefix", 1),
        ("block_hash_prefix", ...), ("compression", "lzma"), ("compression", None),
        ("compression_level", "9"),
        ("compression_level", False), ("encryption", "AES"), ("encryption", []), ("encryption", ...),
        ("encryption.cipher", "AES-128-CTR"), ("encryption.cipher", ...), ("encryption.key_length", 8),
        ("encryption.key_length", None), ("encryption.salt", None), ("encryption.salt", ...),
        ("encryption.password_check", "abc"), ("encryption.password_check", ...), ("created", "yesterday"),
        ("created", 0), ("created_by", ...), ("created_by", None),
    ],
)  # fmt: skip
def test_missing_and_wrong_fields_are_corrupt(name: str, value: object) -> None:
    """Every field is checked for being there, for its type and for its value."""
    with pytest.raises(Corrupt):
        decode(changed(ENCRYPTED, name, value))


def test_unknown_fields_are_passed_over() -> None:
    """Whoever adds one that readers must know names it in ``requires``."""
    assert decode(changed(PLAIN, "comment", "hello")) == PLAIN


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe",
        b"[" * 10_000,
        b" " * (SIZE_MAX + 1),
        b"{" + b'"a":{' * 2000,
    ],
)
def test_what_is_not_json_is_corrupt(body: bytes) -> None:
    """Whatever lies under the name."""
    with pytest.raises(Corrupt):
        decode(body)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_garbage_never_raises_anything_else(noise: bytes, position: int) -> None:
    """A superblock with bytes overwritten is decoded, or Corrupt, or Unsupported."""
    body = encode(PLAIN)
    try:
        decode(body[:position] + noise + body[position + len(noise) :])
    except (Corrupt, Unsupported):
        pass


@pytest.mark.parametrize(("name", "value"), [("volume_id", "x"), ("created", "now"), ("password_check", "x")])
def test_a_wrong_one_is_not_made(name: str, value: str) -> None:
    """Nothing is written that would be refused when read."""
    fields = {
        "volume_id": PLAIN.volume_id, "format": PLAIN.format, "salt": None, "password_check": None,
        "created": PLAIN.created, "created_by": "x",
    }  # fmt: skip
    with pytest.raises(Invalid):
        Superblock(**(fields | {name: value}))  # type: ignore[arg-type]


async def test_it_is_written_once() -> None:
    """A second one is refused, unless it is to be replaced; errors name the object."""
    bucket = MemoryBucket()
    assert await read_superblock(bucket, "p/") is None
    await write_superblock(bucket, "p/", PLAIN)
    assert await read_superblock(bucket, "p/") == PLAIN
    with pytest.raises(AlreadyExists):
        await write_superblock(bucket, "p/", ENCRYPTED)
    assert await read_superblock(bucket, "p/") == PLAIN
    await write_superblock(bucket, "p/", ENCRYPTED, replace=True)
    assert await read_superblock(bucket, "p/") == ENCRYPTED
    await bucket.put("p/superblock.bucketry.json", encode(PLAIN))
    with pytest.raises(Corrupt, match="it carries no checksum, so another program has changed it"):
        await read_superblock(bucket, "p/")
    assert await read_superblock(bucket, "p/", needs_checksum=False) == PLAIN
    await bucket.put("p/superblock.bucketry.json", b" " * (SIZE_MAX + 5))
    with pytest.raises(
        Corrupt, match=r"superblock p/superblock.bucketry.json in memory://anonymous: it is longer"
    ):
        await read_superblock(bucket, "p/")
