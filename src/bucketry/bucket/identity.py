"""What tells one bucket from all others, for what is kept of it on this machine.

A bucket's URL does not: the same name may be another bucket at another endpoint, and a container belongs to
an account. Too many words cost a cache that is not used again; too few would show one bucket's bytes as
another's. Nothing secret is in it.
"""

import os
import secrets
from collections.abc import Mapping

from bucketry.bucket.connect import s3_configuration
from bucketry.bucket.credentials import find_source
from bucketry.bucket.location import Location
from bucketry.settings import BucketSettings

#: Stores in memory are this process's own. A forked child has copies of them, which change on their own.
_PROCESS = secrets.token_hex(8)
_ENDPOINT_VARIABLES = {
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}


def bucket_identity(
    settings: BucketSettings, location: Location, environment: Mapping[str, str] = os.environ
) -> str:
    """One line; equal for settings that lead to the same bucket, and different for others."""
    words = [location.bucket_url]
    if location.scheme == "memory":
        words.append(f"{_PROCESS} {os.getpid()}")
    if location.scheme == "s3":
        endpoint = _s3_endpoint(settings, environment)
    else:
        variables = _ENDPOINT_VARIABLES.get(location.scheme, ())
        endpoint = settings.endpoint or next(filter(None, map(environment.get, variables)), None)
    if endpoint is not None:
        words.append(endpoint.rstrip("/"))
    if location.scheme == "az":
        account = settings.access_id or environment.get("AZURE_STORAGE_ACCOUNT_NAME") or settings.access_file
        words += [str(account)] if account is not None else []
    return " ".join(words)


def _s3_endpoint(settings: BucketSettings, environment: Mapping[str, str]) -> str | None:
    """Where requests go, as ``connect`` finds it. What cannot be found out there fails there, too."""
    return s3_configuration(settings, environment, find_source(settings, environment)).endpoint
