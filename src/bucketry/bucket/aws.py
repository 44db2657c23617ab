"""AWS's own configuration and credentials, by botocore: profiles, ``services`` sections, single sign-on,
processes, roles, web identity, containers, instances.

botocore is imported by the first function that needs it: it takes a third of a second and 24 MiB, which
nobody pays who has an access file or keys in the environment. See docs/decisions/0022-credentials.md.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bucketry.bucket.client_errors import read_answer
from bucketry.bucket.credentials import Keys
from bucketry.bucket.way import without_secrets
from bucketry.errors import BucketryError, Denied, Invalid, Unavailable, Unsupported
from bucketry.settings import Secret

#: Of the services that give credentials: a connection is made in milliseconds or not at all, and STS answers
#: within a second or two. botocore's own 60 s, five times, would keep whoever starts a command for minutes.
_CONNECT_TIMEOUT_SECONDS = 5.0
_READ_TIMEOUT_SECONDS = 10.0
_ATTEMPTS_MAX = 2
#: AWS's rule for the profile's file names.
_FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
}
#: A sentence of botocore's, as much of it as fits in a line.
_SENTENCE_MAX = 160
#: What botocore's names of its sources are to a person.
_SOURCES = {
    "custom-process": "credential_process",
    "assume-role": "the role of the profile",
    "assume-role-with-web-identity": "web identity",
    "sso": "single sign-on",
    "iam-role": "instance metadata",
    "container-role": "the container's credentials",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What AWS's files and variables say of S3; None where they say nothing."""

    endpoint: str | None
    region: str | None
    ca_file: str | None


NO_CONFIGURATION = Configuration(None, None, None)


def environment_configuration(environment: Mapping[str, str]) -> Configuration:
    """What the variables alone say. They come before the files."""
    endpoint = None
    if not _is_true(environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")):
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    return Configuration(
        endpoint or None,
        environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None,
        environment.get("AWS_CA_BUNDLE") or None,
    )


def configuration_files(environment: Mapping[str, str]) -> list[Path]:
    """AWS's two files, those of them that exist."""
    paths = (Path(environment.get(name) or usual).expanduser() for name, usual in _FILES.items())
    return [path for path in paths if path.is_file()]


def configuration(profile: str | None, environment: Mapping[str, str]) -> Configuration:
    """What environment and files say for ``profile`` (None: ``AWS_PROFILE``, or the default one). Raises
    Invalid (no such profile, a damaged file), Unsupported (botocore is not installed)."""
    session = _session(profile or environment.get("AWS_PROFILE") or None, None)
    found = environment_configuration(environment)
    with _Translated(profile):
        fields = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(fields.get("services"), {})
        endpoint = found.endpoint
        if endpoint is None and not _ignores_endpoints(fields, environment):
            in_services = services.get("s3", {})
            endpoint = (
                (in_services.get("endpoint_url") if isinstance(in_services, dict) else None)
                or fields.get("endpoint_url_s3")
                or fields.get("endpoint_url")
            )
        return Configuration(
            endpoint or None,
            found.region or fields.get("region") or None,
            found.ca_file or fields.get("ca_bundle") or None,
        )


def _ignores_endpoints(fields: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    # The variable comes before the file, whatever it says.
    said = environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or fields.get(
        "ignore_configured_endpoint_urls"
    )
    return _is_true(said)


def _is_true(text: object) -> bool:
    return str(text).lower() == "true"


@dataclass(frozen=True, slots=True)
class Chain:
    """Keys from wherever AWS's own tools would find them. ``ca_file`` is for the services that give them, as
    for the store."""

    profile: str | None
    ca_file: str | None

    @property
    def name(self) -> str:
        profile = self.profile or os.environ.get("AWS_PROFILE")
        return f"AWS profile {profile}" if profile else "AWS's usual places"

    def load(self) -> Keys:
        """Ask the whole chain anew: files are read again, processes run again. May take seconds."""
        session = _session(self.profile, self.ca_file)
        with _Translated(self.profile):
            found = session.get_credentials()
            if found is None:
                raise Denied(
                    f"no credentials in {self.name} (environment, profiles, single sign-on, processes, web "
                    "identity, container, instance metadata): give --access-file, --profile or --anonymous"
                )
            keys = found.get_frozen_credentials()
            return Keys(
                keys.access_key,
                Secret(keys.secret_key),
                Secret(keys.token) if keys.token else None,
                _expiry(found),
            )


def _expiry(credentials: Any) -> float | None:
    """When they expire, in seconds since 1970. botocore does not say so but in a field that is not public;
    should it go, the store's own "expired" is what renews them."""
    time = getattr(credentials, "_expiry_time", None)
    return time.astimezone(UTC).timestamp() if isinstance(time, datetime) else None


def _session(profile: str | None, ca_file: str | None) -> Any:
    botocore = import_botocore()
    from botocore.config import Config

    with _Translated(profile):
        session = botocore.session.Session(profile=profile)
        session.register_component("data_loader", data_loader())
        if ca_file is not None:
            session.set_config_variable("ca_bundle", ca_file)
        session.set_default_client_config(
            Config(
                connect_timeout=_CONNECT_TIMEOUT_SECONDS,
                read_timeout=_READ_TIMEOUT_SECONDS,
                retries={"total_max_attempts": _ATTEMPTS_MAX, "mode": "standard"},
            )
        )
        session.get_scoped_config()  # raises when there is no such profile
    return session


def is_installed() -> bool:
    """Whether botocore is there. Imports nothing."""
    return find_spec("botocore") is not None


def import_botocore() -> Any:
    """The package. Raises Unsupported."""
    try:
        import botocore.session
    except ImportError as error:
        raise Unsupported(
            "AWS profiles, single sign-on, roles and instance credentials need botocore, which is not "
            "installed: run pip install botocore, or give --access-file"
        ) from error
    # At DEBUG it logs what it signs and what it is answered, keys and tokens among them; at WARNING the words
    # of a process that failed. What matters of that we say ourselves. Who has chosen a level keeps it.
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    return botocore


@cache
def data_loader() -> Any:
    """botocore's own descriptions of services, read once: without it every client reads them again, a quarter
    of a second of processor time."""
    from botocore.loaders import create_loader

    return create_loader()


class _Translated:
    """Turns what botocore raises into our errors: one line, and nothing that a process or a file had said,
    for that may be a key."""

    def __init__(self, profile: str | None) -> None:
        self._profile = profile

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, BucketryError) or not isinstance(error, Exception):
            return
        # Not "from": the chain of causes has those texts in it.
        raise _translate(error, self._profile or os.environ.get("AWS_PROFILE") or "default") from None


def _translate(error: Exception, profile: str) -> BucketryError:
    from botocore import exceptions

    details: Mapping[str, Any] = getattr(error, "kwargs", {})
    begin = f"no credentials from AWS profile {profile}"
    match error:
        case exceptions.ProfileNotFound():
            files = " nor in ".join(str(Path(os.environ.get(n) or p).expanduser()) for n, p in _FILES.items())
            return Invalid(f"AWS profile {profile} is neither in {files}")
        case exceptions.ConfigParseError():
            return Invalid(f"AWS file {details.get('path')} is not in AWS's format")
        case exceptions.PartialCredentialsError():
            return Invalid(f"{begin}: {details.get('cred_var')} is missing")
        case exceptions.InvalidConfigError() | exceptions.InfiniteLoopConfigError():
            return Invalid(f"{begin}: {_sentence(error)}")
        case exceptions.UnauthorizedSSOTokenError() | exceptions.SSOTokenLoadError():
            return Denied(f"{begin}: its single sign-on has ended; run aws sso login --profile {profile}")
        case exceptions.TokenRetrievalError():
            return Denied(f"{begin}: its single sign-on has ended; run aws sso login --profile {profile}")
        case exceptions.ClientError():
            said = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            answer = read_answer(int(status) or 500, str(said.get("Code", "")), str(said.get("Message", "")))
            kind = answer.kind if issubclass(answer.kind, Unavailable) else Denied
            return kind(f"{begin}: {error.operation_name}: {answer.reason}")
        case exceptions.CredentialRetrievalError():
            source = _SOURCES.get(str(details.get("provider")), str(details.get("provider")))
            advice = "; run its command by hand to see why" if source == "credential_process" else ""
            return Unavailable(f"{begin}: {source} failed{advice}")
        case exceptions.MetadataRetrievalError():
            return Unavailable(f"{begin}: the service that gives them to this machine does not answer")
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            where = details.get("endpoint_url") or details.get("proxy_url") or "their service"
            return Unavailable(f"{begin}: cannot reach {without_secrets(str(where))}")
        case OSError(strerror=str(reason)):
            return Invalid(f"{begin}: {error.filename or 'a file'}: {reason}")
        case exceptions.BotoCoreError():
            return Denied(f"{begin}: {type(error).__name__}")
        case _:
            return Denied(f"{begin}: {type(error).__name__}")


def _sentence(error: Exception) -> str:
    return "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:_SENTENCE_MAX]
