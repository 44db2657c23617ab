"""Settings as a line of JSON, on their way to a server's process. They hold secrets: never log the line."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bucketry.settings import Secret
from bucketry.testing.s3_server.service import ServiceSettings
from bucketry.testing.s3_server.signature import Credentials

_PLAIN = ("anonymous", "region", "etags", "part_bytes_min", "race_conflicts")


def encode_settings(settings: ServiceSettings) -> str:
    """One line."""
    fields: dict[str, Any] = {name: getattr(settings, name) for name in _PLAIN}
    fields["credentials"] = encode_credentials(settings.credentials)
    return json.dumps(fields)


def decode_settings(line: str) -> ServiceSettings:
    """What ``encode_settings`` wrote."""
    fields = json.loads(line)
    credentials = decode_credentials(fields.pop("credentials"))
    return replace(ServiceSettings(**fields), credentials=credentials)


def encode_credentials(credentials: Iterable[Credentials]) -> list[list[str | None]]:
    """As JSON."""
    return [
        [
            known.access_id,
            known.secret.reveal_text(),
            None if known.session_token is None else known.session_token.reveal_text(),
        ]
        for known in credentials
    ]


def decode_credentials(encoded: Iterable[Iterable[Any]]) -> tuple[Credentials, ...]:
    """What ``encode_credentials`` wrote. Raises ValueError or TypeError for what is none."""
    return tuple(
        Credentials(access_id, Secret(secret), None if token is None else Secret(token))
        for access_id, secret, token in encoded
    )
