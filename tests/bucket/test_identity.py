"""What tells one bucket from all others."""

import os
from pathlib import Path

import pytest

from bucketry.bucket.identity import bucket_identity
from bucketry.bucket.stack import locate
from bucketry.settings import BucketSettings, Secret


def identity(url: str, environment: dict[str, str] | None = None, **settings: object) -> str:
    chosen = BucketSettings(url=url, **settings)  # type: ignore[arg-type]
    return bucket_identity(chosen, locate(chosen), environment or {})


def test_the_same_bucket_is_the_same() -> None:
    """Whatever the prefix, and however its endpoint is said; keys have no part in it."""
    wanted = identity("s3://b", endpoint="http://host:1")
    assert identity("s3://b/prefix", endpoint="http://host:1/") == wanted
    assert identity("s3://b", {"AWS_ENDPOINT_URL_S3": "http://host:1"}) == wanted
    assert identity("s3://b", {"AWS_ENDPOINT_URL": "http://host:1"}) == wanted
    keyed = identity("s3://b", endpoint="http://host:1", access_id="id", access_key=Secret("geheim"))
    assert keyed == wanted
    assert identity("memory://m") == identity("memory://m/prefix")


def test_others_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Endpoints, those of profiles too, accounts, directories and processes tell buckets of one name
    apart."""
    config = tmp_path / "config"
    config.write_text(
        "[profile one]\nendpoint_url = http://one\n[profile two]\nendpoint_url = http://two\n"
        "[profile aws]\nregion = eu-west-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    found = [
        identity("s3://b"),
        identity("s3://b", endpoint="http://host:1"),
        identity("s3://b", endpoint="http://host:2"),
        identity("s3://b", profile="one"),
        identity("s3://b", {"AWS_PROFILE": "two"}),
        identity("gs://bbb"),
        identity("gs://bbb", {"STORAGE_EMULATOR_HOST": "127.0.0.1:9"}),
        identity("az://bbb", access_id="one"),
        identity("az://bbb", {"AZURE_STORAGE_ACCOUNT_NAME": "two"}),
        identity("az://bbb", access_file=Path("keys")),
        identity("file:///b"),
        identity("memory://b"),
    ]
    assert len(set(found)) == len(found)
    # The same place, and other credentials.
    assert identity("s3://b", profile="aws") == identity("s3://b")
    assert identity("s3://b", profile="one") == identity("s3://b", endpoint="http://one")
    ignoring = {"AWS_ENDPOINT_URL": "http://host:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert identity("s3://b", ignoring) == identity("s3://b")
    assert all("\n" not in one for one in found)


def test_a_forked_process_has_stores_of_its_own() -> None:
    """What is in memory there is not what is in memory here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, identity("memory://b").encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() != identity("memory://b")
