"""Who we are to S3 and Azure: keys from an access file, from the caller, or from the environment.

These need no other library. Profiles, single sign-on, processes, web identity, containers and instance roles
are botocore's (``aws``). A source is asked again when its keys are about to expire, when the store refuses
them, and on SIGHUP (``renewal``).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bucketry.errors import Invalid
from bucketry.settings import BucketSettings, CredentialProvider, Secret

if TYPE_CHECKING:
    from obstore.store import S3Credential

#: An access file is a few lines; anything longer is another file given by mistake.
_ACCESS_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Keys:
    """A pair of keys, with the token that belongs to temporary ones."""

    access_id: str
    secret: Secret
    token: Secret | None = None
    #: Seconds since 1970; None when they never expire as far as we know. The same keys with a later end are
    #: the same keys.
    expires: float | None = field(default=None, compare=False)

    def expire_within(self, seconds: float) -> bool:
        """Whether they expire in the next ``seconds``, or have expired."""
        return self.expires is not None and self.expires - time.time() <= seconds

    def __call__(self) -> "S3Credential":
        """As a provider of the bucket client, which asks once: other keys get a client of their own."""
        return {
            "access_key_id": self.access_id,
            "secret_access_key": self.secret.reveal_text(),
            "token": None if self.token is None else self.token.reveal_text(),
            "expires_at": None,
        }


class Source(Protocol):
    """Where keys come from."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def from_environment(self) -> bool:
        """Whether nobody gave it; then AWS's files may say where the bucket is."""

    def load(self) -> Keys | None:
        """The keys as they are now; None: requests are not signed. May block, for seconds.

        Raises Invalid, Denied (there are none), Unavailable (the source does not answer), Unsupported."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Requests are not signed."""

    name: str = "none"
    from_environment: bool = False

    def load(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class AccessFile:
    """One entry of a file in s3backer's form."""

    path: Path
    access_id: str | None
    from_environment: bool = False

    @property
    def name(self) -> str:
        return f"access file {self.path}"

    def load(self) -> Keys:
        return read_access_file(self.path, self.access_id)


@dataclass(frozen=True, slots=True)
class Given:
    """Keys that the caller or the environment gave; they stay as they are."""

    keys: Keys
    name: str
    from_environment: bool = False

    def load(self) -> Keys:
        return self.keys


@dataclass(frozen=True, slots=True)
class Provided:
    """Keys that a program gets by itself."""

    provider: CredentialProvider = field(repr=False)
    name: str = "the program's credential provider"
    from_environment: bool = False

    def load(self) -> Keys:
        keys = self.provider()
        expires = None if keys.expires is None else keys.expires.astimezone(UTC).timestamp()
        return Keys(keys.access_id, keys.access_key, keys.session_token, expires)


def find_source(settings: BucketSettings, environment: Mapping[str, str]) -> Source | None:
    """The source that needs no library: what the settings give comes first, then the environment's keys. None
    when neither has any: then AWS's own chain is asked. Raises Invalid for half of something."""
    if settings.anonymous:
        return Anonymous()
    if settings.access_file is not None:
        return AccessFile(settings.access_file, settings.access_id)
    if settings.credential_provider is not None:
        return Provided(settings.credential_provider)
    if settings.access_key is not None:
        if settings.access_id is None:
            raise Invalid("an access key without the access id that it belongs to")
        return Given(Keys(settings.access_id, settings.access_key, settings.session_token), "the given keys")
    if settings.session_token is not None:
        raise Invalid("a session token without the access key that it belongs to")
    if settings.access_id is not None:
        raise Invalid(f"access id {settings.access_id} without a key: give an access file too")
    if settings.profile is not None:
        return None
    keys = _environment_keys(environment)
    return (
        None if keys is None else Given(keys, "AWS_ACCESS_KEY_ID in the environment", from_environment=True)
    )


def _environment_keys(environment: Mapping[str, str]) -> Keys | None:
    access_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_id and not secret:
        return None
    if not access_id or not secret:
        raise Invalid("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set")
    token = environment.get("AWS_SESSION_TOKEN")
    return Keys(access_id, Secret(secret), Secret(token) if token else None)


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
