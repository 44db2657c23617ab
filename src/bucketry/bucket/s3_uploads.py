"""Uploads in parts on S3, by botocore: what the bucket client cannot do there.

It can neither complete an upload under a condition nor list and abort what others left, so these few requests
go another way, to the same endpoint, with the same credentials, certificates and limits of time. Its retries
are off, as the client's are. Every body is signed with its hash, also over TLS, and every part carries its
crc32c, which the store verifies and keeps.

Everything here blocks: it runs in the bucket's threads. botocore is imported with the first request, for it
takes a quarter of a second and is not always installed. See docs/decisions/0013-multipart.md.
"""

import base64
import binascii
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c

from bucketry import __version__
from bucketry.bucket.client_errors import Failure, read_answer
from bucketry.bucket.credentials import Anonymous, FromClient
from bucketry.bucket.interface import (
    Attributes,
    BytesLike,
    Condition,
    IfAbsent,
    IfMatch,
    OpenUpload,
    Part,
)
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
    UploadGone,
)

if TYPE_CHECKING:
    from obstore.store import S3CredentialProvider

_log = logging.getLogger(__name__)

#: What botocore calls the sources that it renews itself; ours on the left.
_SOURCES = {
    "web identity": "assume-role-with-web-identity",
    "container": "container-role",
    "instance metadata": "iam-role",
}
WHY_NOT_INSTALLED = "larger objects go to S3 in parts, which needs boto3: install bucketry[aws]"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where and who, as the bucket client was told."""

    bucket_name: str
    #: None: AWS's own, from the region.
    endpoint: str | None
    region: str
    path_style: bool
    ca_file: Path | str | None
    insecure: bool
    credentials: "Anonymous | S3CredentialProvider | FromClient" = field(repr=False)
    timeout_seconds: float
    connect_timeout_seconds: float
    connections_max: int
    #: What every object is put with, by botocore's names: storage class, encryption, tags.
    put_arguments: Mapping[str, str]


def is_installed() -> bool:
    """Whether uploads in parts are possible here at all. Imports nothing."""
    return find_spec("botocore") is not None


class S3Uploads:
    """The uploads of one bucket. ``url`` is the bucket's, for messages; ``exists`` tells whether there is an
    object with this key (for stores that cannot complete under a condition)."""

    def __init__(self, place: S3Place, url: str, exists: Callable[[str], bool]) -> None:
        self._place = place
        self._url = url
        self._exists = exists
        self._lock = threading.Lock()
        self._made: Any = None
        #: False when the store said that it cannot complete under a condition.
        self._is_conditional = True

    def create(self, key: str, attributes: Attributes) -> str:
        """The new upload's id."""
        arguments: dict[str, Any] = dict(self._place.put_arguments)
        if attributes.content_type is not None:
            arguments["ContentType"] = attributes.content_type
        if attributes.content_encoding is not None:
            arguments["ContentEncoding"] = attributes.content_encoding
        answer = self._ask(
            "create_multipart_upload",
            key,
            Metadata=dict(attributes.metadata),
            ChecksumAlgorithm="CRC32C",
            **arguments,
        )
        return str(answer["UploadId"])

    def put_part(self, key: str, upload_id: str, number: int, data: BytesLike) -> Part:
        body = bytes(data)  # botocore takes no memoryview; of bytes this is no copy
        crc32c = int(google_crc32c.value(body))
        answer = self._ask(
            "upload_part",
            key,
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            ChecksumCRC32C=_encode_crc32c(crc32c),
        )
        return Part(number, len(body), str(answer["ETag"]), crc32c)

    def complete(self, key: str, upload_id: str, parts: Sequence[Part], condition: Condition) -> str:
        """The object's ETag."""
        chosen = []
        for part in parts:
            entry: dict[str, Any] = {"PartNumber": part.number, "ETag": part.tag}
            if part.crc32c is not None:
                entry["ChecksumCRC32C"] = _encode_crc32c(part.crc32c)
            chosen.append(entry)
        headers: dict[str, Any] = {}
        match condition:
            case IfAbsent() if self._is_conditional:
                headers["IfNoneMatch"] = "*"
            case IfAbsent() if self._exists(key):
                raise AlreadyExists(f"{self._url}: object {key}: it exists")
            case IfMatch(etag):
                headers["IfMatch"] = etag
        try:
            answer = self._ask(
                "complete_multipart_upload",
                key,
                condition,
                UploadId=upload_id,
                MultipartUpload={"Parts": chosen},
                **headers,
            )
        except Unsupported:
            if "IfNoneMatch" not in headers:
                raise
            self._is_conditional = False
            _log.warning(
                "%s cannot complete an upload on condition that its key is free: looking first instead, so "
                "that of two who complete at the same moment both may be told that they did",
                self._url,
            )
            return self.complete(key, upload_id, parts, condition)
        return str(answer["ETag"])

    def abort(self, key: str, upload_id: str) -> None:
        try:
            self._ask("abort_multipart_upload", key, UploadId=upload_id)
        except UploadGone:
            pass

    def uploads_page(
        self, prefix: str, marker: tuple[str, str]
    ) -> tuple[list[OpenUpload], tuple[str, str] | None]:
        """Some uploads after ``marker``, and the next marker if there are more."""
        arguments: dict[str, Any] = {}
        if marker[0]:
            arguments = {"KeyMarker": marker[0], "UploadIdMarker": marker[1]}
        answer = self._ask("list_multipart_uploads", None, Prefix=prefix, **arguments)
        found = [
            # Some servers list uploads of a prefix's whole first page.
            OpenUpload(str(item["Key"]), str(item["UploadId"]), _time(item.get("Initiated")))
            for item in answer.get("Uploads", ())
            if str(item["Key"]).startswith(prefix)
        ]
        following = str(answer.get("NextKeyMarker", "")), str(answer.get("NextUploadIdMarker", ""))
        return found, following if answer.get("IsTruncated") and following > marker else None

    def parts_page(self, key: str, upload_id: str, after: int) -> tuple[list[Part], int | None]:
        """Some parts with numbers above ``after``, and what the next page comes after if there is one."""
        answer = self._ask("list_parts", key, UploadId=upload_id, PartNumberMarker=after)
        found = [
            Part(
                int(item["PartNumber"]),
                int(item["Size"]),
                str(item["ETag"]),
                _decode_crc32c(item.get("ChecksumCRC32C")),
            )
            for item in answer.get("Parts", ())
        ]
        following = found[-1].number if found and answer.get("IsTruncated") else None
        # A server that keeps both of a part that was put twice does not say which of them counts.
        tags = defaultdict(set)
        for part in found:
            tags[part.number].add(part.tag)
        known = {part.number: part for part in found if len(tags[part.number]) == 1}
        return list(known.values()), following

    def close(self) -> None:
        """Ends its connections. Nothing may be under way."""
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    def _ask(
        self, operation: str, key: str | None, condition: Condition = None, **arguments: Any
    ) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._client()
        if key is not None:
            arguments["Key"] = key
        try:
            answer: Mapping[str, Any] = getattr(client, operation)(
                Bucket=self._place.bucket_name, **arguments
            )
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._translate(error, key, condition) from error
        return answer

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _make_client(self._place)
            return self._made

    def _translate(self, error: Exception, key: str | None, condition: Condition) -> BucketryError:
        failure = _read_error(error)
        kind, reason = failure.kind, failure.reason
        match condition:
            case IfAbsent() if kind is PreconditionFailed:
                kind, reason = AlreadyExists, "it exists"
            case IfMatch() if kind in (PreconditionFailed, NotFound):
                kind, reason = PreconditionFailed, "it is not the one that was seen"
        thing = self._url if key is None else f"{self._url}: object {key}"
        if kind is BucketNotFound or (kind is NotFound and key is None):
            return BucketNotFound(f"{self._url}: no such bucket")
        if kind is NotFound:
            # Of the object nothing was asked: what is missing can only be the upload.
            kind = UploadGone
        if kind is UploadGone:
            return UploadGone(f"{thing}: its upload in parts has ended")
        if issubclass(kind, Unavailable):
            return kind(f"{thing}: {reason}", retry_after_seconds=_retry_after_seconds(error))
        return kind(f"{thing}: {reason}")


def _make_client(place: S3Place) -> Any:
    """A client that looks at nothing but ``place`` (and, for credentials that are renewed, at where the
    environment says they come from)."""
    import botocore.session
    import urllib3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.credentials import CredentialResolver, create_credential_resolver

    # No profile, no files: what of them was asked for is in ``place``.
    nothing = (None, None, None, None)
    no_file = (None, None, os.devnull, None)
    session = botocore.session.Session(
        session_vars={"profile": nothing, "config_file": no_file, "credentials_file": no_file}
    )
    session.register_component("data_loader", _data_loader())
    session.set_config_variable("region", place.region)
    if place.ca_file is not None:
        # For the service that gives credentials, as for the store.
        session.set_config_variable("ca_bundle", str(place.ca_file))
    if isinstance(place.credentials, FromClient):
        provider = create_credential_resolver(session).get_provider(_SOURCES[place.credentials.source])
        session.register_component("credential_provider", CredentialResolver([provider]))
    elif not isinstance(place.credentials, Anonymous):
        provider = _provider(place.credentials)
        session.register_component("credential_provider", CredentialResolver([provider]))
    verify: bool | str | None = None if place.ca_file is None else str(place.ca_file)
    if place.insecure:
        verify = False
        # A warning with every request, of what was asked for.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return session.create_client(
        "s3",
        region_name=place.region,
        endpoint_url=place.endpoint,
        verify=verify,
        config=Config(
            signature_version=UNSIGNED if isinstance(place.credentials, Anonymous) else "s3v4",
            connect_timeout=place.connect_timeout_seconds,
            read_timeout=place.timeout_seconds,
            # The layer above owns retries.
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=place.connections_max,
            s3={
                "addressing_style": "path" if place.path_style else "virtual",
                "payload_signing_enabled": True,
            },
            user_agent=f"bucketry/{__version__}",
            # Parts have their checksum from us; nothing else needs one.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            tcp_keepalive=True,
        ),
    )


@cache
def _data_loader() -> Any:
    """botocore's own descriptions of services, read once: without it every client reads them again, a quarter
    of a second of processor time."""
    from botocore.loaders import create_loader

    return create_loader()


def _provider(ask: "S3CredentialProvider") -> Any:
    """The bucket client's source of keys as botocore's, which asks again when they are about to expire."""
    from botocore.credentials import CredentialProvider, Credentials, RefreshableCredentials

    def fields() -> dict[str, Any]:
        keys: Any = ask()
        expires = keys["expires_at"]
        return {
            "access_key": keys["access_key_id"],
            "secret_key": keys["secret_access_key"],
            "token": keys.get("token"),
            "expiry_time": None if expires is None else expires.isoformat(),
        }

    class Ours(CredentialProvider):  # type: ignore[misc]
        METHOD = "bucketry"

        def load(self) -> Any:
            first = fields()
            if first["expiry_time"] is None:
                return Credentials(first["access_key"], first["secret_key"], first["token"])
            return RefreshableCredentials.create_from_metadata(
                first, refresh_using=fields, method=self.METHOD
            )

    return Ours()


def _read_error(error: Exception) -> Failure:
    """What botocore's error means to us."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        said = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # 200 with an error in its body: S3 found out after it had begun to answer.
        return read_answer(
            int(status) if int(status) >= 300 else 500,
            str(said.get("Code", "")) or None,
            str(said.get("Message", "")),
        )
    for kind, ours, reason in (
        (
            exceptions.SSLError,
            Denied,
            "its certificate is not trusted (for an own authority, give its CA file)",
        ),
        (exceptions.ReadTimeoutError, Unavailable, "timed out"),
        (exceptions.ConnectTimeoutError, Unavailable, "timed out"),
        (exceptions.ConnectionClosedError, Unavailable, "the connection ended in the middle of an answer"),
        (exceptions.EndpointConnectionError, Unavailable, "cannot connect"),
        (exceptions.ProxyConnectionError, Unavailable, "cannot connect to the proxy"),
        (exceptions.NoCredentialsError, Denied, "no credentials"),
        (exceptions.PartialCredentialsError, Denied, "no credentials"),
        (exceptions.CredentialRetrievalError, Unavailable, "no credentials: their source does not answer"),
        (exceptions.MetadataRetrievalError, Unavailable, "no credentials: their source does not answer"),
        (exceptions.ParamValidationError, Invalid, "the request is not valid"),
    ):
        if isinstance(error, kind):
            return Failure(ours, reason)
    # What is left is the line: connections reset, answers cut, no route.
    return Failure(Unavailable, f"the request failed ({type(error).__name__})")


def _retry_after_seconds(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    headers = (
        response.get("ResponseMetadata", {}).get("HTTPHeaders", {}) if isinstance(response, dict) else {}
    )
    text = str(headers.get("retry-after", ""))
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _encode_crc32c(value: int) -> str:
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def _decode_crc32c(text: object) -> int | None:
    """None for what is none: then the part is judged otherwise."""
    try:
        raw = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(raw, "big") if len(raw) == 4 else None


def _time(value: object) -> datetime | None:
    return value if isinstance(value, datetime) and value.tzinfo is not None else None
