"""From settings to a bucket, and the options that mean nothing to it."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.interface import IfAbsent
from bucketry.bucket.memory import MemoryBucket
from bucketry.bucket.objects import ObjectsBucket
from bucketry.errors import BucketryError, Denied, Invalid, Unsupported
from bucketry.settings import BucketSettings, Secret
from bucketry.testing.bucket_contract import all_keys
from servers.seaweed import Seaweed


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def _settings(url: str, **settings: object) -> BucketSettings:
    return BucketSettings(url=url, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("s3://bucket/prefix", ObjectsBucket, "s3://bucket"),
        ("gs://bucket/prefix", ObjectsBucket, "gs://bucket"),
        ("az://container/prefix", ObjectsBucket, "az://container"),
        ("file:///some/dir", DirectoryBucket, "file:///some/dir"),
        ("memory://name/prefix", MemoryBucket, "memory://name"),
    ],
)
async def test_schemes(url: str, kind: type, shown: str) -> None:
    """The scheme chooses the kind of bucket; the prefix stays with the caller."""
    more = {"az": {"access_id": "account"}, "file": {}, "memory": {}}.get(url[: url.index(":")], {})
    anonymous = {"anonymous": True} if kind is ObjectsBucket else {}
    bucket = connect(_settings(url, **more, **anonymous))
    assert isinstance(bucket, kind)
    assert bucket.url == shown
    await bucket.close()


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("file:///dir", {"endpoint": "http://127.0.0.1"}, "an endpoint means nothing to file://"),
        ("file:///dir", {"region": "x"}, "region"),
        ("memory://name", {"storage_class": "x"}, "storage class"),
        ("gs://bucket", {"sse": "AES256"}, "encryption"),
        ("gs://bucket", {"tags": (("a", "b"),)}, "a tag means nothing"),
        ("s3://bucket", {"anonymous": True, "tags": (("a", "b"), ("a", "c"))}, "a name of its own"),
        ("s3://bucket", {"anonymous": True, "tags": tuple((f"{n}", "") for n in range(11))}, "at most 10"),
        ("s3://bucket", {"anonymous": True, "tags": (("", "b"),)}, "a name has 1 to 128"),
        ("s3://bucket", {"anonymous": True, "tags": (("a", "b" * 257),)}, "a value 256"),
        ("s3://bucket", {"anonymous": True, "tags": (("a", "b\n"),)}, "control"),
        ("gs://bucket", {"access_file": Path("/x")}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://container", {"profile": "x"}, "profile"),
        ("az://container", {}, "[Aa]ccount"),
        ("s3://bucket", {"anonymous": True, "sse": "rot13"}, "rot13"),
        ("s3://bucket", {"anonymous": True, "sse_key_id": "x"}, "aws:kms"),
        ("s3://bucket", {"anonymous": True, "sse": "AES256", "sse_key_id": "x"}, "aws:kms"),
        ("s3://bucket", {"anonymous": True, "ca_file": Path("/missing")}, "CA file /missing: No such file"),
        ("s3://bucket", {"anonymous": True, "endpoint": "127.0.0.1:9000"}, "endpoint"),
        ("s3://bucket", {"anonymous": True, "endpoint": "ftp://127.0.0.1"}, "endpoint"),
        ("s3://bucket", {"anonymous": True, "endpoint": "http://"}, "endpoint"),
        ("s3://bucket", {"anonymous": True, "endpoint": "http://[1"}, "endpoint"),
        ("s3://bucket", {"anonymous": True, "endpoint": "http://u:geheim@127.0.0.1"}, "endpoint"),
        ("s3://bucket", {"anonymous": True, "endpoint": "http://127.0.0.1?geheim"}, "endpoint"),
        ("s3://bucket", {"access_id": "x"}, "without a key"),
    ],
)
def test_wrong_options(url: str, settings: dict[str, object], message: str) -> None:
    """An option that means nothing, or something wrong, is Invalid in one line; never passed over."""
    with pytest.raises(Invalid, match=message) as caught:
        connect(_settings(url, **settings))
    assert str(caught.value).isprintable()
    assert "geheim" not in str(caught.value)


def test_ca_file_that_is_none(tmp_path: Path) -> None:
    """A CA file that is not one is Invalid."""
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nbad\n-----END CERTIFICATE-----\n")
    with pytest.raises(Invalid):
        connect(_settings("s3://bucket", anonymous=True, ca_file=tmp_path / "ca.pem"))


def test_virtual_host_of_an_address() -> None:
    """Virtual-host style needs a name to put the bucket before."""
    for endpoint in ("http://127.0.0.1:9000", "http://[::1]:9000"):
        with pytest.raises(Unsupported, match="virtual-host"):
            connect(_settings("s3://bucket", anonymous=True, endpoint=endpoint, path_style=False))


async def test_secrets_are_not_shown() -> None:
    """Neither settings nor a bucket nor its figures show a key."""
    settings = _settings(
        "s3://bucket", access_id="id", access_key=Secret("geheim"), endpoint="http://127.0.0.1:1"
    )
    bucket = connect(settings)
    assert isinstance(bucket, ObjectsBucket)
    shown = f"{settings!r} {bucket!r} {bucket.url} {bucket.statistics()!r} {vars(bucket)!r}"
    with pytest.raises(BucketryError) as caught:
        await bucket.get("key")
    assert "geheim" not in shown + str(caught.value) + repr(caught.value.__cause__)
    await bucket.close()


# On a real server.


def _on_seaweed(server: Seaweed, bucket_name: str, **settings: object) -> BucketSettings:
    keys: dict[str, object] = {"access_id": server.access_key, "access_key": Secret(server.secret_key)}
    return _settings(f"s3://{bucket_name}", endpoint=server.endpoint, **{**keys, **settings})


@pytest.mark.system
async def test_wrong_keys_are_denied(seaweed: Seaweed) -> None:
    """A server that checks signatures denies a wrong key, an unknown id and nobody, whatever is asked."""
    name = seaweed.make_bucket()
    for wrong in (
        {"access_key": Secret("geheim")},
        {"access_id": "nobody"},
        {"access_id": None, "access_key": None, "anonymous": True},
    ):
        bucket = connect(_on_seaweed(seaweed, name, **wrong))
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: bucket.get("key"),  # noqa: B023 - called in this round
            lambda: bucket.head("key"),  # noqa: B023
            lambda: bucket.put("key", b"x"),  # noqa: B023
            lambda: bucket.put("key", b"x", condition=IfAbsent()),  # noqa: B023
            lambda: bucket.delete("key"),  # noqa: B023
            lambda: bucket.delete_many(["a", "b"]),  # noqa: B023
            lambda: all_keys(bucket),  # noqa: B023
        )
        for call in calls:
            with pytest.raises(Denied) as caught:
                await call()
            assert str(caught.value).isprintable()
            assert "geheim" not in str(caught.value)
        await bucket.close()


@pytest.mark.system
async def test_environment_on_a_real_server(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own variables are enough: keys, region and endpoint."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
    bucket = connect(_settings(f"s3://{seaweed.make_bucket()}"))
    await bucket.put("key", b"x")
    assert bytes((await bucket.get("key")).data) == b"x"
    await bucket.close()


_ABANDONED = """
import asyncio, sys
from bucketry.bucket.connect import connect
from bucketry.settings import BucketSettings, Secret

async def main(endpoint, name, access_id, key):
    keys = {"access_id": access_id, "access_key": Secret(key)}
    bucket = connect(BucketSettings(url=f"s3://{name}", endpoint=endpoint, **keys))
    puts = [asyncio.create_task(bucket.put(f"k{i}", bytes(100_000))) for i in range(32)]
    await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
    for put in puts:
        put.cancel()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.system
def test_exit_in_the_middle(seaweed: Seaweed) -> None:
    """An interpreter that ends with requests under way and without close ends cleanly."""
    arguments = [seaweed.endpoint, seaweed.make_bucket(), seaweed.access_key, seaweed.secret_key]
    for _ in range(5):
        result = subprocess.run(
            [sys.executable, "-c", _ABANDONED, *arguments], capture_output=True, timeout=60, check=False
        )
        assert (result.returncode, result.stderr) == (0, b"")
