"""Whoever gives keys to a program: an access file, a profile, a process, a stand-in for STS, an instance's
metadata service, a container's. All give the keys that were issued last."""

import json
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bucketry.testing.s3_server.signature import Credentials
from servers.loopback import Answer, Request

_STS = (
    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
    "<AccessKeyId>{AccessKeyId}</AccessKeyId><SecretAccessKey>{SecretAccessKey}</SecretAccessKey>"
    "<SessionToken>{Token}</SessionToken><Expiration>{Expiration}</Expiration>"
    "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)


class Issuer:
    """Files in ``directory``; ``answer`` is for ``servers.loopback.serve``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self.access_file = directory / "access"
        self.config_file = directory / "config"
        self.credentials_file = directory / "credentials"
        self.token_file = directory / "web-token"
        self.token_file.write_text("web-token")
        self._keys_file = directory / "keys.json"
        self._process = directory / "give-keys"
        self._process.write_text(f"#!/bin/sh\ncat {self._keys_file}\n")
        self._process.chmod(stat.S_IRWXU)
        self.config_file.write_text(f"[profile process]\ncredential_process = {self._process}\n")
        self._fields: dict[str, str] = {}
        #: Answers so far that had keys in them.
        self.given_count = 0

    def issue(self, credentials: Credentials, *, lifetime_seconds: float = 3600.0) -> None:
        """Everybody who asks gets these from now on."""
        end = datetime.now(UTC) + timedelta(seconds=lifetime_seconds)
        token = credentials.session_token
        self._fields = {
            "AccessKeyId": credentials.access_id,
            "SecretAccessKey": credentials.secret.reveal_text(),
            "Token": "" if token is None else token.reveal_text(),
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        of_process = {name: value for name, value in self._fields.items() if value and name != "Token"}
        if token is not None:
            of_process["SessionToken"] = token.reveal_text()
        lines = [
            "[rotated]",
            f"aws_access_key_id = {credentials.access_id}",
            f"aws_secret_access_key = {credentials.secret.reveal_text()}",
        ]
        if token is not None:
            lines.append(f"aws_session_token = {token.reveal_text()}")
        self._replace(self._keys_file, json.dumps({"Version": 1, **of_process}))
        self._replace(self.credentials_file, "\n".join(lines) + "\n")
        self._replace(self.access_file, f"{credentials.access_id}:{credentials.secret.reveal_text()}\n")

    def _replace(self, path: Path, text: str) -> None:
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(path)

    def answer(self, request: Request) -> Answer:
        """As STS, as the instance's metadata service (IMDSv2), and as the container's."""
        if request.path == "/latest/api/token" and request.method == "PUT":
            return Answer(200, b"imds-token", {"x-aws-ec2-metadata-token-ttl-seconds": "600"})
        if request.path.startswith("/latest/"):
            if request.headers.get("x-aws-ec2-metadata-token") != "imds-token":
                return Answer(401)
            if request.path.endswith("/security-credentials/"):
                return Answer(200, b"the-role")
            return self._give_json()
        if request.path == "/container":
            return self._give_json()
        if b"AssumeRoleWithWebIdentity" in request.body and b"web-token" in request.body:
            self.given_count += 1
            return Answer(200, _STS.format(**self._fields).encode(), {"Content-Type": "text/xml"})
        return Answer(404)

    def _give_json(self) -> Answer:
        self.given_count += 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now, **self._fields}
        return Answer(200, json.dumps(fields).encode())


#: What a program is told, by the name of the way: options of its command line, and its environment. Made with
#: the issuer and the address of its services.
WAYS: Mapping[str, Callable[[Issuer, str], tuple[list[str], dict[str, str]]]] = {
    "access file": lambda issuer, _: (["--access-file", str(issuer.access_file)], {}),
    "profile": lambda issuer, _: (["--profile", "rotated"], _files(issuer)),
    "credential_process": lambda issuer, _: (["--profile", "process"], _files(issuer)),
    "web identity": lambda issuer, address: (
        [],
        {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(issuer.token_file),
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/the-role",
            "AWS_ENDPOINT_URL_STS": address,
        },
    ),
    "instance role": lambda _, address: (
        [],
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": address, "AWS_EC2_METADATA_DISABLED": "false"},
    ),
    "container": lambda _, address: ([], {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{address}/container"}),
}


def _files(issuer: Issuer) -> dict[str, str]:
    return {
        "AWS_CONFIG_FILE": str(issuer.config_file),
        "AWS_SHARED_CREDENTIALS_FILE": str(issuer.credentials_file),
    }
