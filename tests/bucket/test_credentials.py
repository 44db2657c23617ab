"""Who we are to S3: where credentials are looked for, in which order, and what the requests then carry."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bucketry.bucket.connect import connect
from bucketry.bucket.credentials import (
    Anonymous,
    FromClient,
    Keys,
    find_credentials,
    read_access_file,
    read_profile,
)
from bucketry.errors import BucketryError, Denied, Invalid, NotFound, Unavailable, Unsupported
from bucketry.settings import BucketSettings, Secret, TemporaryKeys
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


def _find(environment: Mapping[str, str] | None = None, **settings: object) -> object:
    chosen = BucketSettings(url="s3://bucket", **settings)  # type: ignore[arg-type]
    merged = {**os.environ, **(environment or {})}
    return find_credentials(chosen, merged, read_profile(chosen, merged))


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
    """Anonymous, access file, given keys, given profile, environment, web identity, default profile,
    container."""
    access_file = _write(tmp_path / "access", "file:1\n")
    _write(
        home / ".aws/credentials",
        "[default]\naws_access_key_id=default\naws_secret_access_key=2\n"
        "[p]\naws_access_key_id=p\naws_secret_access_key=3\n",
    )
    token_file = _write(tmp_path / "token", "token")
    container = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/x"}
    web = {**container, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token_file), "AWS_ROLE_ARN": "arn"}
    environment = {**web, "AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "4", "AWS_SESSION_TOKEN": "5"}

    given = {"access_file": access_file, "profile": "p"}
    assert _find(environment, anonymous=True, **given) == Anonymous()
    assert _find(environment, **given) == Keys("file", Secret("1"))
    assert _find(environment, profile="p", access_id="given", access_key=Secret("6")) == Keys(
        "given", Secret("6")
    )
    assert _find(environment, profile="p") == Keys("p", Secret("3"))
    assert _find({**environment, "AWS_PROFILE": "p"}) == Keys("env", Secret("4"), Secret("5"))
    assert _find(web) == FromClient("web identity")
    assert _find({**container, "AWS_PROFILE": "p"}) == Keys("p", Secret("3"))
    assert _find(container) == Keys("default", Secret("2"))
    (home / ".aws/credentials").unlink()
    assert _find(container) == FromClient("container")


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"AWS_ACCESS_KEY_ID": "only"}, {}),
        ({"AWS_SECRET_ACCESS_KEY": "geheim"}, {}),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/etc/hostname"}, {}),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/missing", "AWS_ROLE_ARN": "arn"}, {}),
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
    with pytest.raises(
        Denied, match=r"no credentials: looked in .*environment.*profile.*container.*METADATA_DISABLED"
    ):
        _find()


def test_no_metadata_service() -> None:
    """A metadata service that does not answer is found out before the first request."""
    with serve(lambda _: Answer()) as server:
        endpoint = server.endpoint
    with pytest.raises(Denied, match=f"no instance metadata service at {endpoint}"):
        _find({"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint})


# Profiles.


def test_profiles(home: Path) -> None:
    """A profile is what both files say; the credentials file wins; AWS's nested settings do no harm."""
    _write(
        home / ".aws/config",
        "# a comment\n[default]\nregion = eu-north-1\n\n"
        "[profile work]\nregion=eu-central-1\naws_access_key_id = old\ns3 =\n  max_concurrent_requests = 20\n"
        "[profile  spaced ]\nregion = x\n"
        "[sso-session s]\nsso_region = y\n",
    )
    _write(
        home / ".aws/credentials",
        "[work]\naws_access_key_id = new\naws_secret_access_key = a=b%c;#\naws_session_token=t\n",
    )
    work = read_profile(BucketSettings(url="s3://b", profile="work"), os.environ)
    assert work is not None
    assert work.get("region") == "eu-central-1"
    assert _find(profile="work") == Keys("new", Secret("a=b%c;#"), Secret("t"))
    default = read_profile(BucketSettings(url="s3://b"), os.environ)
    assert default is not None
    assert default.get("region") == "eu-north-1"


def test_profile_files_elsewhere(tmp_path: Path) -> None:
    """AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name other files."""
    credentials = _write(tmp_path / "c", "[p]\naws_access_key_id=i\naws_secret_access_key=k\n")
    config = _write(tmp_path / "f", "[profile p]\nregion=r\n")
    environment = {
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_CONFIG_FILE": str(config),
        "AWS_PROFILE": "p",
    }
    profile = read_profile(BucketSettings(url="s3://b"), environment)
    assert profile is not None
    assert (profile.get("region"), profile.get("aws_access_key_id")) == ("r", "i")


@pytest.mark.parametrize("content", ["geheim\n", "[p\ngeheim=1\n", "a=geheim\n[p]\n"])
def test_damaged_profile_file(home: Path, content: str) -> None:
    """A damaged file is Invalid and named; its lines are not shown, not even in the chain of causes."""
    path = _write(home / ".aws/credentials", content)
    with pytest.raises(Invalid, match=str(path)) as caught:
        _find()
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_half_a_profile(home: Path) -> None:
    """A profile with only one of the two keys, or with none though it was asked for, is Invalid."""
    _write(home / ".aws/credentials", "[half]\naws_access_key_id=i\n[none]\nregion=r\n")
    with pytest.raises(Invalid, match="half"):
        _find(profile="half")
    with pytest.raises(Invalid, match="none has no credentials"):
        _find(profile="none")


def test_profile_that_needs_boto3(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3, a profile that gets its credentials elsewhere is Unsupported, with what to install."""
    _write(home / ".aws/config", "[profile p]\nrole_arn=arn\nsource_profile=default\n")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(Unsupported, match=r"bucketry\[aws\]"):
        _find(profile="p")


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

    # The client takes only https for this.
    tls, ca_file = make_certificate(tmp_path)
    with serve(answer, tls=tls) as server:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(_write(tmp_path / "token", "web-token")))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/the-role")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.endpoint)
        assert await _authorization(server, ca_file=ca_file) == ("web", "temporary")


async def test_credential_process(home: Path) -> None:
    """A profile whose credentials come from a process works where boto3 is installed."""
    pytest.importorskip("boto3")
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


@pytest.mark.parametrize(("status", "kind"), [(500, Unavailable), (404, Denied), (403, Denied)])
async def test_metadata_service_that_refuses(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[BucketryError]
) -> None:
    """What the metadata service or the container refuses is an error in one line; never an absent object or
    bucket."""
    with serve(lambda _: Answer(status, b"no")) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint)
        with pytest.raises(kind, match="credentials") as caught:
            await _authorization(server)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.endpoint}/credentials")
        with pytest.raises(kind):
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
    """What expires within moments is asked for again and again; what does not, once."""
    expiring = [TemporaryKeys(access_id=f"ID{n}", access_key=Secret("geheim")) for n in range(3)]
    asked: list[str] = []

    def provider() -> TemporaryKeys:
        keys = expiring[len(asked)]
        asked.append(keys.access_id)
        soon = datetime.now(UTC) + timedelta(seconds=1)
        return replace(keys, session_token=Secret("token"), expires=soon if len(asked) < 3 else None)

    with serve(lambda request: Answer(404)) as server:
        bucket = connect(
            BucketSettings(url="s3://bucket", endpoint=server.endpoint, credential_provider=provider)
        )
        # The client asks at most ten times a second, however soon they expire.
        while len(asked) < 3 or len(server.requests) < 10:
            with pytest.raises(NotFound):
                await bucket.head("key")
            await asyncio.sleep(0.02)
        await bucket.close()
    assert asked == ["ID0", "ID1", "ID2"]
    signed = [request.headers["authorization"].partition("Credential=")[2][:3] for request in server.requests]
    assert signed == sorted(signed)
    assert set(signed) == {"ID0", "ID1", "ID2"}
    assert {request.headers["x-amz-security-token"] for request in server.requests} == {"token"}


async def test_both_clients_ask_a_provider_again() -> None:
    """What uploads in parts renews its keys as well, and signs with the new ones."""
    asked = 0

    def provider() -> TemporaryKeys:
        nonlocal asked
        asked += 1
        return TemporaryKeys(
            access_id=f"ID{asked}",
            access_key=Secret("geheim"),
            session_token=Secret("token"),
            # Within the time in which botocore insists on new ones.
            expires=datetime.now(UTC) + timedelta(seconds=60),
        )

    with serve(_store) as server:
        bucket = connect(
            BucketSettings(url="s3://bucket", endpoint=server.endpoint, credential_provider=provider)
        )
        for _ in range(3):
            await bucket.create_upload("key", part_size_bytes=5 << 20)
        await bucket.close()
    assert len({_signer(request)[0] for request in server.requests}) == 3
    assert {_signer(request)[1] for request in server.requests} == {"token"}
