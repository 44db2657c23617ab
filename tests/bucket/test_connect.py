"""From settings to a bucket, and the options that mean nothing to it."""

import os
from pathlib import Path

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.memory import MemoryBucket
from bucketry.bucket.objects import ObjectsBucket
from bucketry.errors import BucketryError, Invalid, Unsupported
from bucketry.settings import BucketSettings, Secret


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
