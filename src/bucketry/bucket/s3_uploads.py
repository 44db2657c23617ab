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
from pathlib import Path
from typing import Any, TypeAlias

import google_crc32c

from bucketry import __version__
from bucketry.bucket.aws import data_loader, import_botocore
from bucketry.bucket.client_errors import Failure, read_answer
from bucketry.bucket.credentials import Keys
from bucketry.bucket.interface import (
    Attributes,
    BytesLike,
    Condition,
    Entry,
    IfAbsent,
    IfMatch,
    OpenUpload,
    Part,
)
from bucketry.bucket.renewal import Held
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

Client: TypeAlias = Held[Any, Any]
_log = logging.getLogger(__name__)

WHY_NOT_INSTALLED = "larger objects go to S3 in parts, which needs botocore: run pip install botocore"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where and who, as the bucket client was told."""

    bucket_name: str
    #: None: AWS's own, from the region.
    endpoint: str | None
    region: str
    path_style: bool
    ca_file: Path | str | None
    #: What is in it: the file may be replaced.
    ca_certificates: bytes | None = field(repr=False)
    insecure: bool
    #: None: requests are not signed.
    keys: Keys | None = field(repr=False)
    timeout_seconds: float
    connect_timeout_seconds: float
    connections_max: int
    #: What every object is put with, by botocore's names: storage class, encryption, tags.
    put_arguments: Mapping[str, str]


class S3Uploads:
    """The uploads of one bucket. ``url`` is the bucket's and ``way`` that to it, for messages; ``exists``
    tells whether there is an object with this key (for stores that cannot complete under a condition). Each
    request is told the place, with the credentials of the moment."""

    def __init__(self, url: str, way: str, exists: Callable[[str], bool]) -> None:
        self._url = url
        self._way = way
        self._exists = exists
        self._lock = threading.Lock()
        #: Made for this place.
        self._made_for: S3Place | None = None
        self._made: Any = None
        #: False when the store said that it cannot complete under a condition.
        self._is_conditional = True

    def create(self, client: Client, key: str, attributes: Attributes) -> str:
        """The new upload's id."""
        arguments: dict[str, Any] = dict(client.value.put_arguments)
        if attributes.content_type is not None:
            arguments["ContentType"] = attributes.content_type
        if attributes.content_encoding is not None:
            arguments["ContentEncoding"] = attributes.content_encoding
        answer = self._ask(
            client,
            "create_multipart_upload",
            key,
            Metadata=dict(attributes.metadata),
            ChecksumAlgorithm="CRC32C",
            **arguments,
        )
        return str(answer["UploadId"])

    def put_part(self, client: Client, key: str, upload_id: str, number: int, data: BytesLike) -> Part:
        body = bytes(data)  # botocore takes no memoryview; of bytes this is no copy
        crc32c = int(google_crc32c.value(body))
        answer = self._ask(
            client,
            "upload_part",
            key,
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            ChecksumCRC32C=_encode_crc32c(crc32c),
        )
        return Part(number, len(body), str(answer["ETag"]), crc32c)

    def complete(
        self, client: Client, key: str, upload_id: str, parts: Sequence[Part], condition: Condition
    ) -> str:
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
                client,
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
            return self.complete(client, key, upload_id, parts, condition)
        return str(answer["ETag"])

    def abort(self, client: Client, key: str, upload_id: str) -> None:
        try:
            self._ask(client, "abort_multipart_upload", key, UploadId=upload_id)
        except UploadGone:
            pass

    def objects_page(
        self, client: Client, prefix: str, after: str, marker: str
    ) -> tuple[list[Entry], str | None]:
        """Some objects after the key ``after``, and behind ``marker`` ("" at first); the next marker if there
        are more. Unlike the bucket client's, this listing has keys of every kind."""
        arguments: dict[str, Any] = {}
        if after:
            arguments["StartAfter"] = after
        if marker:
            arguments["ContinuationToken"] = marker
        answer = self._ask(client, "list_objects_v2", None, Prefix=prefix, **arguments)
        found = [
            Entry(str(item["Key"]), int(item["Size"]), str(item["ETag"]) if "ETag" in item else None)
            for item in answer.get("Contents", ())
            if str(item["Key"]).startswith(prefix) and str(item["Key"]) > after
        ]
        following = str(answer.get("NextContinuationToken", ""))
        return found, following if answer.get("IsTruncated") and following not in ("", marker) else None

    def uploads_page(
        self, client: Client, prefix: str, marker: tuple[str, str]
    ) -> tuple[list[OpenUpload], tuple[str, str] | None]:
        """Some uploads after ``marker``, and the next marker if there are more."""
        arguments: dict[str, Any] = {}
        if marker[0]:
            arguments = {"KeyMarker": marker[0], "UploadIdMarker": marker[1]}
        answer = self._ask(client, "list_multipart_uploads", None, Prefix=prefix, **arguments)
        found = [
            # Some servers list uploads of a prefix's whole first page.
            OpenUpload(str(item["Key"]), str(item["UploadId"]), _time(item.get("Initiated")))
            for item in answer.get("Uploads", ())
            if str(item["Key"]).startswith(prefix)
        ]
        following = str(answer.get("NextKeyMarker", "")), str(answer.get("NextUploadIdMarker", ""))
        return found, following if answer.get("IsTruncated") and following > marker else None

    def parts_page(
        self, client: Client, key: str, upload_id: str, after: int
    ) -> tuple[list[Part], int | None]:
        """Some parts with numbers above ``after``, and what the next page comes after if there is one."""
        answer = self._ask(client, "list_parts", key, UploadId=upload_id, PartNumberMarker=after)
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
        self,
        client: Client,
        operation: str,
        key: str | None,
        condition: Condition = None,
        **arguments: Any,
    ) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        made = self._client(client.value)
        if key is not None:
            arguments["Key"] = key
        try:
            answer: Mapping[str, Any] = getattr(made, operation)(Bucket=client.value.bucket_name, **arguments)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._translate(error, key, condition) from error
        return answer

    def _client(self, place: S3Place) -> Any:
        with self._lock:
            if self._made is None or self._made_for != place:
                # Requests under way keep the old one until they end.
                self._made, self._made_for = _make_client(place), place
            return self._made

    def _translate(self, error: Exception, key: str | None, condition: Condition) -> BucketryError:
        failure = _read_error(error)
        kind, reason = failure.error_class, failure.reason
        match condition:
            case IfAbsent() if kind is PreconditionFailed:
                kind, reason = AlreadyExists, "it exists"
            case IfMatch() if kind in (PreconditionFailed, NotFound):
                kind, reason = PreconditionFailed, "it is not the one that was seen"
        thing = self._url if key is None else f"{self._url}: object {key}"
        if kind is BucketNotFound or (kind is NotFound and key is None):
            return BucketNotFound(f"{self._url}: no such bucket ({self._way})")
        if kind is NotFound:
            # Of the object nothing was asked: what is missing can only be the upload.
            kind = UploadGone
        if kind is UploadGone:
            return UploadGone(f"{thing}: its upload in parts has ended")
        if issubclass(kind, Unavailable | Denied):
            reason = f"{reason} ({self._way})"
        if issubclass(kind, Unavailable):
            return kind(f"{thing}: {reason}", retry_after_seconds=_retry_after_seconds(error))
        return kind(f"{thing}: {reason}")


def _make_client(place: S3Place) -> Any:
    """A client that looks at nothing but ``place``."""
    botocore = import_botocore()
    import urllib3
    from botocore import UNSIGNED
    from botocore.config import Config

    # No profile, no files: what of them was asked for is in ``place``.
    nothing = (None, None, None, None)
    no_file = (None, None, os.devnull, None)
    session = botocore.session.Session(
        session_vars={"profile": nothing, "config_file": no_file, "credentials_file": no_file}
    )
    session.register_component("data_loader", data_loader())
    session.set_config_variable("region", place.region)
    keys = place.keys
    if keys is not None:
        token = None if keys.token is None else keys.token.reveal_text()
        session.set_credentials(keys.access_id, keys.secret.reveal_text(), token)
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
            signature_version=UNSIGNED if keys is None else "s3v4",
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
        (exceptions.ParamValidationError, Invalid, "the request is not valid"),
    ):
        if isinstance(error, kind):
            return Failure(ours, reason, is_answered=False)
    # What is left is the line: connections reset, answers cut, no route.
    return Failure(Unavailable, f"the request failed ({type(error).__name__})", is_answered=False)


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
