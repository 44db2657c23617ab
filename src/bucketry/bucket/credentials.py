"""Who we are to S3: the places where credentials are looked for, in their order.

1. ``anonymous``; 2. an access file, a provider or keys given by the caller; 3. a profile given by the caller;
4. the environment's keys; 5. the environment's web identity; 6. the profile ``AWS_PROFILE`` or ``default``;
7. the container's credentials; 8. the instance's metadata service (IMDSv2). The first that has something is
used, and no other is asked later.

Keys are read here. Web identity, container and instance credentials, which expire and are renewed, are the
bucket client's own; profiles that say how to *get* credentials (SSO, a process, another role) are boto3's,
where it is installed.
"""

import configparser
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bucketry.errors import Denied, Invalid, Unsupported
from bucketry.settings import BucketSettings, CredentialProvider, Secret

if TYPE_CHECKING:
    from obstore.store import S3Credential, S3CredentialProvider

_METADATA_ENDPOINT = "http://169.254.169.254"
#: The service is on the same machine: it answers in a millisecond, or it is not there. Without an answer the
#: packets just vanish, and this is what a user without credentials waits.
_METADATA_TIMEOUT_SECONDS = 1.0
#: What says in a profile that its credentials come from elsewhere.
_INDIRECT = (
    "role_arn",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
    "login_session",
)
#: An access file is a few lines; anything longer is another file given by mistake.
_ACCESS_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Keys:
    """A pair of keys, with the token that belongs to temporary ones."""

    access_id: str
    secret: Secret
    token: Secret | None = None

    def __call__(self) -> "S3Credential":
        """As a provider; they never expire as far as we know."""
        return {
            "access_key_id": self.access_id,
            "secret_access_key": self.secret.reveal_text(),
            "token": None if self.token is None else self.token.reveal_text(),
            "expires_at": None,
        }


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Requests are not signed."""


@dataclass(frozen=True, slots=True)
class FromClient:
    """The client gets and renews them itself, from where the environment says. ``source`` is for messages."""

    source: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What the AWS files say of one profile."""

    name: str
    fields: Mapping[str, str]

    def get(self, name: str) -> str | None:
        return self.fields.get(name) or None


def find_credentials(
    settings: BucketSettings, environment: Mapping[str, str], profile: Profile | None
) -> "Anonymous | S3CredentialProvider | FromClient":
    """The first that is there. ``profile`` is what ``read_profile`` found. Raises Denied, naming where was
    looked, when there is none; Invalid where one is there and is wrong. May wait a second for a metadata
    service."""
    if settings.anonymous:
        return Anonymous()
    if settings.access_file is not None:
        return read_access_file(settings.access_file, settings.access_id)
    if settings.credential_provider is not None:
        return _renewed_by(settings.credential_provider)
    if settings.access_key is not None:
        if settings.access_id is None:
            raise Invalid("an access key without the access id that it belongs to")
        return Keys(settings.access_id, settings.access_key, settings.session_token)
    if settings.session_token is not None:
        raise Invalid("a session token without the access key that it belongs to")
    if settings.access_id is not None:
        raise Invalid(f"access id {settings.access_id} without a key: give an access file too")
    if settings.profile is not None and profile is not None:
        found = _profile_credentials(profile)
        if found is None:
            raise Invalid(f"profile {profile.name} has no credentials in it")
        return found
    return (
        _environment_keys(environment)
        or _web_identity(environment)
        or (profile and _profile_credentials(profile))
        or _container(environment)
        or _instance(environment)
    )


def _renewed_by(provider: CredentialProvider) -> "S3CredentialProvider":
    """The client asks it again when what it gave is about to expire."""

    def credential() -> "S3Credential":
        keys = provider()
        return {
            "access_key_id": keys.access_id,
            "secret_access_key": keys.access_key.reveal_text(),
            "token": None if keys.session_token is None else keys.session_token.reveal_text(),
            "expires_at": keys.expires,
        }

    return credential


def read_access_file(path: Path, access_id: str | None) -> Keys:
    """The entry of ``access_id``, or the first, of a file in s3backer's form: lines ``id:key``; lines that
    begin with ``#`` or white space, or have no colon, are skipped. Raises Invalid."""
    try:
        with path.open("rb") as file:
            content = file.read(_ACCESS_FILE_BYTES_MAX + 1)
        text = content.decode()
    except OSError as error:
        raise Invalid(f"access file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        # Not "from": its message has the bytes in it.
        raise Invalid(f"access file {path} is not text") from None
    if len(content) > _ACCESS_FILE_BYTES_MAX:
        raise Invalid(f"access file {path} is too long to be one")
    for line in text.split("\n"):
        if not line or line.startswith("#") or line[0].isspace():
            continue
        name, colon, key = line.rstrip().partition(":")
        if not colon or not name or (access_id is not None and name != access_id):
            continue
        if not key:
            raise Invalid(f"access file {path}: the entry {name} has no key")
        return Keys(name, Secret(key))
    wanted = "no entry (a line id:key)" if access_id is None else f"no entry for access id {access_id}"
    raise Invalid(f"access file {path} has {wanted}")


def read_profile(settings: BucketSettings, environment: Mapping[str, str]) -> Profile | None:
    """The profile that is asked for, from AWS's two files; None when none was asked for and there is no
    default one. Raises Invalid when the one that was asked for is missing, or a file is damaged."""
    asked = settings.profile or environment.get("AWS_PROFILE") or None
    name = asked or "default"
    home = Path(environment.get("HOME") or "/")
    credentials_file = Path(
        environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws/credentials"
    ).expanduser()
    config_file = Path(environment.get("AWS_CONFIG_FILE") or home / ".aws/config").expanduser()
    config, credentials = _read_ini(config_file), _read_ini(credentials_file)
    sections = [config.get(f"profile {name}"), credentials.get(name)]
    if name == "default":
        sections.insert(0, config.get("default"))
    found = [section for section in sections if section is not None]
    if found:
        return Profile(name, {key: value for section in found for key, value in section.items()})
    if asked is not None:
        raise Invalid(f"profile {name} is neither in {credentials_file} nor in {config_file}")
    return None


def _read_ini(path: Path) -> dict[str, dict[str, str]]:
    """Sections and what is in them. A file that is not there is empty."""
    parser = configparser.RawConfigParser(
        default_section="\0",
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        strict=False,
        allow_no_value=True,
    )
    try:
        parser.read_string(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise Invalid(f"AWS file {path}: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        # Not "from": the parser's message quotes lines, and keys are in them.
        raise Invalid(f"AWS file {path} is not in AWS's format") from None
    return {
        " ".join(section.split()): {name: (value or "").strip() for name, value in parser.items(section)}
        for section in parser.sections()
    }


def _profile_credentials(profile: Profile) -> "S3CredentialProvider | None":
    if any(profile.get(field) for field in _INDIRECT):
        return _boto3_provider(profile)
    access_id, secret = profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")
    if access_id is None and secret is None:
        return None
    if access_id is None or secret is None:
        raise Invalid(f"profile {profile.name} has only one of aws_access_key_id and aws_secret_access_key")
    token = profile.get("aws_session_token")
    return Keys(access_id, Secret(secret), None if token is None else Secret(token))


def _boto3_provider(profile: Profile) -> "S3CredentialProvider":
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise Unsupported(
            f"profile {profile.name} gets credentials by SSO, a process or a role: install bucketry[aws]"
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile.name))
    except (BotoCoreError, ValueError) as error:
        raise Denied(f"profile {profile.name} gives no credentials ({type(error).__name__})") from error


def _environment_keys(environment: Mapping[str, str]) -> Keys | None:
    access_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_id and not secret:
        return None
    if not access_id or not secret:
        raise Invalid("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set")
    token = environment.get("AWS_SESSION_TOKEN")
    return Keys(access_id, Secret(secret), Secret(token) if token else None)


def _web_identity(environment: Mapping[str, str]) -> FromClient | None:
    file = environment.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if not file:
        return None
    if not environment.get("AWS_ROLE_ARN"):
        raise Invalid("AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN")
    if not os.access(file, os.R_OK):
        raise Invalid(f"AWS_WEB_IDENTITY_TOKEN_FILE {file} cannot be read")
    return FromClient("web identity")


def _container(environment: Mapping[str, str]) -> FromClient | None:
    names = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    return FromClient("container") if any(environment.get(name) for name in names) else None


def _instance(environment: Mapping[str, str]) -> FromClient:
    looked = "the environment, the AWS profile files, web identity and container"
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise Denied(
            f"no credentials: looked in {looked}; instance metadata is disabled by AWS_EC2_METADATA_DISABLED"
        )
    endpoint = metadata_endpoint(environment)
    if not _answers(endpoint):
        raise Denied(f"no credentials: looked in {looked}; no instance metadata service at {endpoint}")
    return FromClient("instance metadata")


def metadata_endpoint(environment: Mapping[str, str]) -> str:
    """Where the instance's metadata service is."""
    return environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA_ENDPOINT


def _answers(endpoint: str) -> bool:
    """Whether somebody listens there; without this the first request of a user without credentials would
    hang."""
    try:
        parts = urlsplit(endpoint)
        address = parts.hostname or "", parts.port or 80
        with socket.create_connection(address, timeout=_METADATA_TIMEOUT_SECONDS):
            return True
    except (OSError, ValueError):
        return False
