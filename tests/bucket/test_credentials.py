"""Who we are to S3: where credentials are looked for, in which order, and what the requests then carry."""

import asyncio
import json
import logging
import os
import stat
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bucketry.bucket.aws import Chain, configuration
from bucketry.bucket.connect import connect, s3_configuration
from bucketry.bucket.credentials import Keys, find_source, read_access_file
from bucketry.bucket.interface import ByteRange, IfAbsent, IfMatch
from bucketry.bucket.objects import ObjectsBucket
from bucketry.bucket.retrying import Retrying
from bucketry.errors import (
    CredentialsRefused,
    Denied,
    Invalid,
    NotFound,
    Unavailable,
    Unreachable,
    Unsupported,
)
from bucketry.files.storage_source import StorageSource
from bucketry.settings import BucketSettings, FilesSettings, RetrySettings, Secret, TemporaryKeys
from bucketry.testing.s3_server import Credentials, S3Server, ServiceSettings
from servers.loopback import Answer, Loopback, Request, make_certificate, serve

_FAR_FUTURE = "2100-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without AWS files, and an environment without AWS variables that asks no metadata service."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def _find(environment: Mapping[str, str] | None = None, **settings: object) -> Keys | None:
    """The keys that a request would be signed with."""
    chosen = BucketSettings(url="s3://bucket", **settings)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        source = find_source(chosen, os.environ) or Chain(chosen.profile, None)
        return source.load()


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The access file.


@pytest.mark.parametrize(
    ("text", "access_id", "keys"),
    [
        ("id:key\n", None, ("id", "key")),
        ("id:key", None, ("id", "key")),
        ("one:1\ntwo:2\n", None, ("one", "1")),
        ("one:1\ntwo:2\n", "two", ("two", "2")),
        ("#id:no\n id:no\n\tid:no\nnothing\n\nid:key\n", None, ("id", "key")),
        ("id:key  \t\r\n", None, ("id", "key")),
        ("id:k:e:y=/+\n", None, ("id", "k:e:y=/+")),
        ("id: key\n", None, ("id", " key")),
    ],
)
def test_access_file(tmp_path: Path, text: str, access_id: str | None, keys: tuple[str, str]) -> None:
    """Lines id:key; comments, lines that begin with white space and lines without a colon do not count."""
    found = read_access_file(_write(tmp_path / "access", text), access_id)
    assert found == Keys(keys[0], Secret(keys[1]))


@pytest.mark.parametrize(
    ("content", "access_id"),
    [
        (b"", None),
        (b"# only\n", None),
        (b"id:geheim\n", "other"),
        (b"id:\n", None),
        (b":geheim\n", None),
        (b"\xff\xfe:geheim", None),
    ],
    ids=range(6),
)
def test_wrong_access_file(tmp_path: Path, content: bytes, access_id: str | None) -> None:
    """A file without the entry is Invalid and named; what is in it is not shown."""
    path = tmp_path / "access"
    path.write_bytes(content)
    with pytest.raises(Invalid) as caught:
        read_access_file(path, access_id)
    assert str(path) in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_access_file(tmp_path: Path) -> None:
    """A missing file, or a directory, is Invalid with the reason."""
    with pytest.raises(Invalid, match="No such file"):
        read_access_file(tmp_path / "missing", None)
    with pytest.raises(Invalid, match="directory"):
        read_access_file(tmp_path, None)


# The order.


def test_the_order(home: Path, tmp_path: Path) -> None:
    """Anonymous, access file, given keys, given profile, the environment's keys, AWS's own chain."""
    access_file = _write(tmp_path / "access", "file:1\n")
    _write(
        home / ".aws/credentials",
        "[default]\naws_access_key_id=default\naws_secret_access_key=2\n"
        "[p]\naws_access_key_id=p\naws_secret_access_key=3\n",
    )
    environment = {"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "4", "AWS_SESSION_TOKEN": "5"}
    given = {"access_file": access_file, "profile": "p"}
    assert _find(environment, anonymous=True, **given) is None
    assert _find(environment, **given) == Keys("file", Secret("1"))
    assert _find(environment, profile="p", access_id="given", access_key=Secret("6")) == Keys(
        "given", Secret("6")
    )
    assert _find(environment, profile="p") == Keys("p", Secret("3"))
    assert _find({**environment, "AWS_PROFILE": "p"}) == Keys("env", Secret("4"), Secret("5"))
    assert _find({"AWS_PROFILE": "p"}) == Keys("p", Secret("3"))
    assert _find() == Keys("default", Secret("2"))


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"AWS_ACCESS_KEY_ID": "only"}, {}),
        ({"AWS_SECRET_ACCESS_KEY": "geheim"}, {}),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/etc/hostname"}, {}),
        (
            {
                "AWS_WEB_IDENTITY_TOKEN_FILE": "/missing",
                "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
            {},
        ),
        ({"AWS_PROFILE": "missing"}, {}),
        ({}, {"profile": "missing"}),
        ({}, {"access_id": "only"}),
        ({}, {"access_key": Secret("geheim")}),
    ],
)
def test_half_of_it(environment: Mapping[str, str], settings: dict[str, object]) -> None:
    """Half a set of credentials is Invalid, rather than passed over for the next place."""
    with pytest.raises(Invalid) as caught:
        _find(environment, **settings)
    assert "geheim" not in str(caught.value)


def test_nothing_found() -> None:
    """Where there is nothing, the message says where was looked."""
    with pytest.raises(Denied, match=r"no credentials in AWS's usual places .*environment.*metadata.*give"):
        _find()


def test_no_metadata_service() -> None:
    """A metadata service that is not there is no source."""
    with serve(lambda _: Answer()) as server:
        endpoint = server.endpoint
    with pytest.raises(Denied, match="no credentials"):
        _find({"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint})


# Profiles.


def test_profiles(home: Path) -> None:
    """A profile is what both files say; the credentials file wins; AWS's nested settings do no harm."""
    _write(
        home / ".aws/config",
        "# a comment\n[default]\nregion = eu-north-1\n\n"
        "[profile work]\nregion=eu-central-1\naws_access_key_id = old\ns3 =\n  max_concurrent_requests = 20\n"
        "[sso-session s]\nsso_region = y\n",
    )
    _write(
        home / ".aws/credentials",
        "[work]\naws_access_key_id = new\naws_secret_access_key = a=b%c;#\naws_session_token=t\n",
    )
    assert configuration("work", {}).region == "eu-central-1"
    assert configuration(None, {}).region == "eu-north-1"
    assert configuration(None, {"AWS_REGION": "here"}).region == "here"
    assert _find(profile="work") == Keys("new", Secret("a=b%c;#"), Secret("t"))


def test_profile_files_elsewhere(tmp_path: Path) -> None:
    """AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name other files."""
    credentials = _write(tmp_path / "c", "[p]\naws_access_key_id=i\naws_secret_access_key=k\n")
    config = _write(tmp_path / "f", "[profile p]\nregion=r\n")
    environment = {
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_CONFIG_FILE": str(config),
        "AWS_PROFILE": "p",
    }
    assert _find(environment) == Keys("i", Secret("k"))


_SERVICES = """
[default]
endpoint_url = http://default
[profile services]
services = mine
endpoint_url = http://profile
[services mine]
s3 =
  endpoint_url = http://services
dynamodb =
  endpoint_url = http://other
[services others]
dynamodb =
  endpoint_url = http://other
[profile others]
services = others
endpoint_url = http://profile
[profile of-s3]
endpoint_url_s3 = http://of-s3
endpoint_url = http://profile
[profile ignoring]
ignore_configured_endpoint_urls = true
endpoint_url = http://profile
[profile dangling]
services = missing
"""


@pytest.mark.parametrize(
    ("profile", "environment", "endpoint"),
    [
        (None, {}, "http://default"),
        ("services", {}, "http://services"),
        ("others", {}, "http://profile"),
        ("of-s3", {}, "http://of-s3"),
        ("ignoring", {}, None),
        ("dangling", {}, None),
        (None, {"AWS_PROFILE": "services"}, "http://services"),
        ("services", {"AWS_ENDPOINT_URL": "http://all"}, "http://all"),
        ("services", {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, "http://s3"),
        (
            "services",
            {"AWS_ENDPOINT_URL_S3": "http://s3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            None,
        ),
        ("ignoring", {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"}, "http://profile"),
    ],
)
def test_endpoints_as_aws_has_them(
    home: Path, profile: str | None, environment: dict[str, str], endpoint: str | None
) -> None:
    """Variable of the service, general variable, services section, profile; none of them where they are to be
    ignored. The option comes before all."""
    _write(home / ".aws/config", _SERVICES)
    assert configuration(profile, environment).endpoint == endpoint
    given = BucketSettings(url="s3://b", profile=profile, endpoint="http://option")
    assert s3_configuration(given, environment, None).endpoint == "http://option"


@pytest.mark.parametrize("content", ["geheim\n", "[p\ngeheim=1\n", "a=geheim\n[p]\n"])
def test_damaged_profile_file(home: Path, content: str) -> None:
    """A damaged file is Invalid and named; its lines are not shown, not even in the chain of causes."""
    path = _write(home / ".aws/credentials", content)
    with pytest.raises(Invalid, match=str(path)) as caught:
        _find()
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_half_a_profile(home: Path) -> None:
    """A profile with only one of the two keys is Invalid; with none of them it gives no credentials."""
    _write(home / ".aws/credentials", "[half]\naws_access_key_id=i\n[none]\nregion=r\n")
    with pytest.raises(Invalid, match=r"half.*aws_secret_access_key is missing"):
        _find(profile="half")
    with pytest.raises(Denied, match="no credentials in AWS profile none"):
        _find(profile="none")


def test_without_botocore(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An access file and the environment's keys need no botocore. What needs it is Unsupported, with what to
    install; so are AWS's files, where they could say region or endpoint and nobody else does."""
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k")
    access_file = _write(tmp_path / "access", "file:1\n")
    _keys = [
        connect(BucketSettings(url="s3://bucket", access_file=access_file)),
        connect(BucketSettings(url="s3://bucket")),
    ]
    with pytest.raises(Unsupported, match="pip install botocore"):
        _find(profile="p")
    _write(home / ".aws/config", "[default]\nregion = eu-north-1\n")
    connect(BucketSettings(url="s3://bucket", region="r", endpoint="http://127.0.0.1:1"))
    with pytest.raises(Unsupported, match="pip install botocore"):
        connect(BucketSettings(url="s3://bucket"))


# What the requests carry: against a server that takes everything and remembers it.


def _store(request: Request) -> Answer:
    if request.path.endswith("?uploads"):
        return Answer(
            200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        )
    return Answer(200, b"hello", {"ETag": '"x"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"})


async def _authorization(server: Loopback, **settings: object) -> tuple[str, str | None]:
    """The access id that a get was signed with, and the token that it carried; both of our clients do so
    alike, the other one of which uploads in parts."""
    bucket = connect(BucketSettings(url="s3://bucket", endpoint=server.endpoint, **settings))  # type: ignore[arg-type]
    try:
        await bucket.get("key")
        first = _signer(server.requests[-1])
        await bucket.create_upload("key", part_size_bytes=5 << 20)
        assert _signer(server.requests[-1]) == first
    finally:
        await bucket.close()
    return first


def _signer(request: Request) -> tuple[str, str | None]:
    authorization = request.headers.get("authorization", "")
    token = request.headers.get("x-amz-security-token")
    return authorization.partition("Credential=")[2].partition("/")[0], token


async def test_keys_with_another_token_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys of an access file go without the session token of the environment, which belongs to other keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "environment")
    access_file = _write(tmp_path / "access", "file:key\n")
    with serve(_store) as server:
        assert await _authorization(server, access_file=access_file) == ("file", None)
        assert await _authorization(server) == ("environment", "environment")
        assert await _authorization(server, anonymous=True) == ("", None)


async def test_instance_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of an EC2 instance come by IMDSv2: a token first, then the role, then its keys."""

    def answer(request: Request) -> Answer:
        if request.path == "/latest/api/token":
            assert request.method == "PUT"
            assert int(request.headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0
            return Answer(200, b"imds-token")
        if request.path.startswith("/latest/"):
            if request.headers.get("x-aws-ec2-metadata-token") != "imds-token":
                return Answer(401)
            if request.path == "/latest/meta-data/iam/security-credentials/":
                return Answer(200, b"the-role")
            assert request.path == "/latest/meta-data/iam/security-credentials/the-role"
            return Answer(200, _temporary_keys("instance"))
        return _store(request)

    with serve(answer) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint)
        assert await _authorization(server) == ("instance", "temporary")


async def test_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of an EKS pod come from the container's URI, asked for with the token of a file."""

    def answer(request: Request) -> Answer:
        if request.path == "/credentials":
            assert request.headers["authorization"] == "pod-token"
            return Answer(200, _temporary_keys("container"))
        return _store(request)

    with serve(answer) as server:
        token_file = _write(tmp_path / "token", "pod-token")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.endpoint}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token_file))
        assert await _authorization(server) == ("container", "temporary")


async def test_web_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A web identity token is exchanged for keys of the role."""

    def answer(request: Request) -> Answer:
        if "AssumeRoleWithWebIdentity" not in request.path + request.body.decode():
            return _store(request)
        asked = request.path + request.body.decode()
        assert "web-token" in asked
        assert "the-role" in asked
        return Answer(
            200,
            b"<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
            b"<AccessKeyId>web</AccessKeyId><SecretAccessKey>k</SecretAccessKey><SessionToken>temporary</SessionToken>"
            b"<Expiration>2100-01-01T00:00:00Z</Expiration>"
            b"</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        )

    tls, ca_file = make_certificate(tmp_path)
    with serve(answer, tls=tls) as server:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(_write(tmp_path / "token", "web-token")))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/the-role")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.endpoint)
        assert await _authorization(server, ca_file=ca_file) == ("web", "temporary")


async def test_credential_process(home: Path) -> None:
    """A profile whose credentials come from a process."""
    fields = {"AccessKeyId": "process", "SecretAccessKey": "k", "SessionToken": "temporary"}
    keys = json.dumps({"Version": 1, "Expiration": _FAR_FUTURE, **fields})
    script = _write(home / "give-keys", f"#!/bin/sh\necho '{keys}'\n")
    script.chmod(stat.S_IRWXU)
    _write(home / ".aws/config", f"[profile p]\ncredential_process = {script}\nregion = eu-west-1\n")
    with serve(_store) as server:
        assert await _authorization(server, profile="p") == ("process", "temporary")
        assert "/eu-west-1/s3/" in server.requests[-1].headers["authorization"]


def _temporary_keys(access_id: str) -> bytes:
    fields = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": "2020-01-01T00:00:00Z",
        "AccessKeyId": access_id,
        "SecretAccessKey": "secret",
        "Token": "temporary",
        "Expiration": _FAR_FUTURE,
    }
    return json.dumps(fields).encode()


@pytest.mark.parametrize("status", [500, 404, 403])
async def test_metadata_service_that_refuses(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """What the metadata service or the container refuses is an error in one line; never an absent object or
    bucket."""
    # Between its attempts.
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with serve(lambda _: Answer(status, b"no")) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint)
        with pytest.raises(Denied, match="no credentials") as caught:
            await _authorization(server)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.endpoint}/credentials")
        with pytest.raises(Unreachable, match="no credentials"):
            await _authorization(server)


async def test_the_second_client_looks_at_nothing_else(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A profile that does not exist, an endpoint, a region or a session token of the environment are not for
    keys that the caller gave."""
    monkeypatch.setenv("AWS_PROFILE", "nobody-made-this")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    monkeypatch.setenv("AWS_REGION", "eu-nowhere-1")
    with serve(_store) as server:
        assert await _authorization(server, access_id="id", access_key=Secret("k"), region="us-east-1") == (
            "id",
            None,
        )
    assert "/us-east-1/s3/" in server.requests[-1].headers["authorization"]


# Temporary keys that a program brings itself.


def test_keys_with_their_session_token() -> None:
    """A session token goes with the given keys, and means nothing without them."""
    keys: dict[str, Any] = {"access_id": "id", "access_key": Secret("k")}
    assert _find(session_token=Secret("t"), **keys) == Keys("id", Secret("k"), Secret("t"))
    with pytest.raises(Invalid, match="session token without"):
        _find(session_token=Secret("t"))
    with pytest.raises(Invalid, match="means nothing"):
        connect(BucketSettings(url="memory://here", session_token=Secret("t")))


async def test_a_provider_is_asked_again_when_its_keys_expire() -> None:
    """What has expired is asked for again, by both clients alike; what does not expire, once."""
    asked: list[str] = []

    def provider() -> TemporaryKeys:
        asked.append(f"ID{len(asked)}")
        has_ended = datetime.now(UTC) - timedelta(seconds=1)
        return TemporaryKeys(
            access_id=asked[-1],
            access_key=Secret("geheim"),
            session_token=Secret("token"),
            expires=has_ended if len(asked) < 2 else None,
        )

    with serve(_store) as server:
        bucket = connect(
            BucketSettings(url="s3://bucket", endpoint=server.endpoint, credential_provider=provider)
        )
        for _ in range(3):
            await bucket.head("key")
            await bucket.create_upload("key", part_size_bytes=5 << 20)
        await bucket.close()
    assert asked == ["ID0", "ID1"]
    assert {_signer(request) for request in server.requests} == {("ID1", "token")}


# Keys that the store does not take any more.


class _Rotated:
    """A server that knows one set of keys, and an access file with it."""

    def __init__(self, server: S3Server, path: Path) -> None:
        self._server = server
        self._path = path
        self._count = 0
        self.settings = BucketSettings(url="s3://bucket", endpoint=server.endpoint, access_file=path)

    def replace(self, *, file_too: bool = True) -> None:
        """The old keys are good for nothing from now on."""
        self._count += 1
        self._server.set_credentials(Credentials(f"AKID{self._count}", Secret(f"geheim{self._count}")))
        if file_too:
            self.write_file()

    def write_file(self) -> None:
        self._path.write_text(f"AKID{self._count}:geheim{self._count}\n")


@pytest.fixture
def rotated(tmp_path: Path) -> Iterator[_Rotated]:
    with S3Server(ServiceSettings(part_bytes_min=1)) as server:
        server.make_bucket("bucket")
        rotated = _Rotated(server, tmp_path / "access")
        rotated.replace()
        yield rotated


@pytest.mark.logs("trying again", required=False)
async def test_every_request_goes_on_with_new_keys(rotated: _Rotated) -> None:
    """Each kind of request that meets keys which were replaced is sent again with the new ones; a listing
    goes on where it was."""
    # The source is asked five times a second at most.
    bucket = Retrying(connect(rotated.settings), RetrySettings(initial_pause_seconds=0.05))
    keys = [f"k{number:04}" for number in range(1100)]
    await bucket.put("k", b"first")
    rotated.replace()
    etag = await bucket.put("k", b"second", condition=IfMatch((await bucket.head("k")).etag))
    rotated.replace()
    assert (await bucket.head("k")).etag == etag
    rotated.replace()
    assert bytes((await bucket.get("k", byte_range=ByteRange(1, 4))).data) == b"eco"
    rotated.replace()
    with pytest.raises(NotFound):
        await bucket.get("absent")
    rotated.replace()
    await bucket.delete("k")
    rotated.replace()
    upload_id = await bucket.create_upload("k", part_size_bytes=5 << 20)
    rotated.replace()
    part = await bucket.put_part("k", upload_id, 1, b"third")
    rotated.replace()
    assert [page async for page in bucket.list_parts("k", upload_id)] == [[part]]
    rotated.replace()
    await bucket.complete_upload("k", upload_id, [part], condition=IfAbsent())
    rotated.replace()
    await bucket.delete_many(["k"])
    for key in keys:
        await bucket.put(key, b"")
    found = []
    async for page in bucket.list():
        rotated.replace()
        found += [entry.key for entry in page]
    assert found == keys
    await bucket.close()


@pytest.mark.logs("trying again", required=False)
def test_files_go_on_with_new_keys(rotated: _Rotated, tmp_path: Path) -> None:
    """What fsspec and Python's files do with the bucket meets the same."""
    (tmp_path / "a").write_bytes(b"content of a")
    defaults = replace(rotated.settings, url="")
    with StorageSource(tmp_path, FilesSettings(private_cache=True), defaults) as source:
        files = source.customize_file_system("s3://bucket")
        rotated.replace()
        files.flush("a", "a")
        rotated.replace()
        with files.open_file("a") as handle:
            assert handle.read(0, 12) == b"content of a"
        rotated.replace()
        assert files.directory_list() == ["a"]


async def test_refused_from_the_start(rotated: _Rotated) -> None:
    """Keys that were never good are Denied at once, and tried again by nobody."""
    rotated.replace(file_too=False)
    bucket = connect(rotated.settings)
    for _ in range(2):
        with pytest.raises(Denied, match="InvalidAccessKeyId") as caught:
            await bucket.head("k")
        assert type(caught.value) is Denied
        assert "geheim" not in str(caught.value)
    rotated.write_file()
    assert isinstance(bucket, ObjectsBucket)
    assert bucket._clients.reread()
    await bucket.put("k", b"")
    await bucket.close()


@pytest.mark.logs("trying again")
async def test_refused_later(rotated: _Rotated) -> None:
    """Keys that were good may be replaced in a moment: the request is tried again until they are, and fails
    with a Denied when the budget ends."""
    bucket = connect(rotated.settings)
    await bucket.put("k", b"")
    rotated.replace(file_too=False)
    with pytest.raises(CredentialsRefused, match=r"InvalidAccessKeyId.*endpoint http://127.0.0.1"):
        await bucket.head("k")
    with pytest.raises(CredentialsRefused, match="tried"):
        await Retrying(bucket, RetrySettings(budget_seconds=0.01)).head("k")

    async def replace_soon(_: float) -> None:
        rotated.write_file()
        await asyncio.sleep(0.05)

    await Retrying(bucket, RetrySettings(), sleep=replace_soon).head("k")
    await bucket.close()


async def test_secrets_are_not_shown(rotated: _Rotated, caplog: pytest.LogCaptureFixture) -> None:
    """Neither what keeps the keys nor a log of everything shows one."""
    caplog.set_level(logging.DEBUG)
    bucket = connect(rotated.settings)
    assert isinstance(bucket, ObjectsBucket)
    await bucket.put("k", b"")
    await bucket.create_upload("k", part_size_bytes=5 << 20)
    rotated.replace()
    await bucket.head("k")
    held = bucket._clients.current()
    shown = f"{held!r} {held.value!r} {held.product!r} {bucket._clients!r} {rotated.settings!r} {bucket!r}"
    assert "geheim" not in shown
    assert "geheim" not in caplog.text
    await bucket.close()


def test_what_a_process_says_is_not_shown(home: Path) -> None:
    """A process that fails may have said a secret."""
    _write(home / ".aws/config", "[profile p]\ncredential_process = sh -c 'echo geheim >&2; exit 3'\n")
    with pytest.raises(Unavailable, match="AWS profile p: credential_process failed") as caught:
        _find(profile="p")
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


# A store that never answers.


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://127.0.0.1:{closed}", "connection refused"),
        ("http://no.such.host.invalid", "cannot resolve the host name"),
        ("https://127.0.0.1:{plain}", "does not speak TLS"),
        ("http://127.0.0.1:{tls}", "the connection ended"),
        ("https://127.0.0.1:{tls}", "certificate is not trusted"),
    ],
)
async def test_a_wrong_address_shows_at_once(tmp_path: Path, endpoint: str, reason: str) -> None:
    """What keeps us from ever hearing of a store fails within seconds, with reason and endpoint."""
    context, _ = make_certificate(tmp_path)
    with serve(_store) as closed:
        pass
    with serve(_store) as plain, serve(_store, tls=context) as tls:
        ports = {
            name: server.endpoint.rpartition(":")[2]
            for name, server in (("closed", closed), ("plain", plain), ("tls", tls))
        }
        there = endpoint.format(**ports)
        bucket = connect(BucketSettings(url="s3://bucket", endpoint=there, anonymous=True))
        with pytest.raises((Unreachable, Denied), match=reason) as caught:
            await bucket.get("key")
        assert f"(endpoint {there})" in str(caught.value)
        await bucket.close()


async def test_an_outage_is_none_of_these() -> None:
    """Once it has answered, a store that does not is Unavailable, for as long as retries last."""
    with serve(_store) as server:
        bucket = connect(BucketSettings(url="s3://bucket", endpoint=server.endpoint, anonymous=True))
        await bucket.get("key")
    with pytest.raises(Unavailable) as caught:
        await bucket.get("key")
    assert type(caught.value) is Unavailable
    await bucket.close()


async def test_the_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes through a proxy is told so, without its password."""
    with serve(_store) as server:
        pass
    proxy = server.endpoint.replace("//", "//user:geheim@")
    monkeypatch.setenv("http_proxy", proxy)
    bucket = connect(BucketSettings(url="s3://bucket", endpoint="http://store.invalid", anonymous=True))
    with pytest.raises(Unreachable) as caught:
        await bucket.get("key")
    assert f"(endpoint http://store.invalid through the proxy {server.endpoint})" in str(caught.value)
    assert "geheim" not in str(caught.value)
    await bucket.close()
