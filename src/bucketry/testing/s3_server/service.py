"""From a request to its answer: who asks, may he, what does he want, and S3's way to say no.

Nothing waits here: an answer is there at once, and what delays or damages it on its way is ``exchange``'s.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server import documents
from bucketry.testing.s3_server.bucket_operations import BUCKET_OPERATIONS
from bucketry.testing.s3_server.checksums import PREFIX, EtagKind, Etags
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Answer
from bucketry.testing.s3_server.multipart_operations import MULTIPART_OPERATIONS
from bucketry.testing.s3_server.object_operations import OBJECT_OPERATIONS
from bucketry.testing.s3_server.operation import Operation, Turn
from bucketry.testing.s3_server.routing import Call
from bucketry.testing.s3_server.signature import (
    STREAMINGS,
    Credentials,
    Signed,
    check_body,
    decode_pieces,
    verify,
)
from bucketry.testing.s3_server.store import Store

_OPERATIONS: Mapping[str, Operation] = {**BUCKET_OPERATIONS, **OBJECT_OPERATIONS, **MULTIPART_OPERATIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What kind of S3 it is."""

    #: Who may sign. With nobody here, everybody may, and signatures are not looked at.
    credentials: tuple[Credentials, ...] = ()
    #: Whether a request without a signature is served although there are credentials.
    anonymous: bool = False
    region: str = "us-east-1"
    etags: EtagKind = "md5"
    #: S3's limit; smaller ones make tests of uploads in parts cheap.
    part_bytes_min: int = 5 << 20
    #: A conditional write during whose way its key was changed is told 409 instead of 412 or 200.
    race_conflicts: bool = False


DEFAULTS = ServiceSettings()


class Service:
    """One S3: its objects and its keys."""

    def __init__(self, settings: ServiceSettings, *, now: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.store = Store()
        self.now = now
        self.expired: frozenset[str] = frozenset()
        self._credentials = {known.access_id: known for known in settings.credentials}
        self._etags = Etags(settings.etags)
        self._request_numbers = itertools.count(1)

    def set_credentials(self, credentials: Iterable[Credentials]) -> None:
        """Who may sign from now on, and nobody else."""
        self._credentials = {known.access_id: known for known in credentials}

    def serve(self, call: Call) -> Answer:
        """The answer, a refusal included."""
        try:
            return self._serve(call)
        except S3Error as error:
            return self.refuse(error, call)

    def refuse(self, error: S3Error, call: Call | None = None) -> Answer:
        """What ``error`` looks like to a client."""
        request_id = self._request_id()
        headers = {"x-amz-request-id": request_id, **error.headers}
        if error.status == 304:
            return Answer(error.status, headers, is_last=error.fatal)
        fields = dict(error.fields)
        if call is not None:
            fields.setdefault("Resource", call.path)
        body = documents.error_document(error.code, error.message, fields, request_id)
        headers |= documents.HEADERS
        if call is not None and call.request.method == "HEAD":
            return Answer(error.status, headers, is_last=error.fatal)
        return Answer(error.status, headers, body, is_last=error.fatal)

    def etag_now(self, call: Call) -> str | None:
        """The ETag of what a call names, to see whether it changes on the call's way."""
        bucket = self.store.buckets.get(call.bucket)
        found = bucket.objects.get(call.key) if bucket is not None else None
        return None if found is None else found.etag

    def _serve(self, call: Call) -> Answer:
        signed = self._authenticate(call)
        body, trailers = self._open_body(call, signed)
        turn = Turn(
            call, body, trailers, self.store, self._etags, self.now(), self.settings.region,
            self.settings.part_bytes_min,
        )  # fmt: skip
        answer = _OPERATIONS[call.operation](turn)
        answer.headers = {**answer.headers, "x-amz-request-id": self._request_id()}
        return answer

    def _authenticate(self, call: Call) -> Signed | None:
        if not self._credentials:
            return None
        signed = verify(
            call.request,
            call.path,
            call.pairs,
            self._credentials,
            region=self.settings.region,
            now=datetime.fromtimestamp(self.now(), UTC),
            has_expired=self.expired,
        )
        if signed is None and not self.settings.anonymous:
            raise S3Error("AccessDenied")
        return signed

    def _open_body(self, call: Call, signed: Signed | None) -> tuple[BytesLike, Mapping[str, str]]:
        body = call.request.body
        content_sha256 = call.headers.get("x-amz-content-sha256")
        if content_sha256 in STREAMINGS:
            length = call.headers.get("x-amz-decoded-content-length", "")
            if not (length.isascii() and length.isdigit() and len(length) < 16):
                raise S3Error("MissingContentLength")
            data, trailers = decode_pieces(body, content_sha256, int(length), signed)
            announced = call.headers.get("x-amz-trailer", "").lower()
            if announced.startswith(PREFIX) and announced not in trailers:
                raise S3Error("IncompleteBody", "The trailer that was announced did not come.")
            return data, trailers
        if "aws-chunked" in call.headers.get("content-encoding", ""):
            raise S3Error("NotImplemented", "This form of aws-chunked is not implemented.")
        if signed is not None:
            check_body(content_sha256, body)
        return body, {}

    def _request_id(self) -> str:
        return f"{next(self._request_numbers):016X}"
