"""What a request asks for: which of S3's operations, on which bucket and key.

The bucket is in the path (``/bucket/key``) or in the host's name (``bucket.localhost``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Request

#: Clients ask for ``bucket.localhost`` without asking any name server (RFC 6761).
_HOST_SUFFIX = ".localhost"
#: S3's own limit.
_KEY_BYTES_MAX = 1024

#: (method, what the query names) → operation, by what the path names.
_ON_SERVICE = {("GET", ""): "ListBuckets"}
_ON_BUCKET = {
    ("PUT", ""): "CreateBucket",
    ("HEAD", ""): "HeadBucket",
    ("DELETE", ""): "DeleteBucket",
    ("GET", ""): "ListObjects",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "uploads"): "ListMultipartUploads",
    ("POST", "delete"): "DeleteObjects",
}
_ON_OBJECT = {
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("PUT", ""): "PutObject",
    ("DELETE", ""): "DeleteObject",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("PUT", "uploadId"): "UploadPart",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", "uploadId"): "ListParts",
}
OPERATIONS = frozenset({*_ON_SERVICE.values(), *_ON_BUCKET.values(), *_ON_OBJECT.values(), "CopyObject"})
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
_NAMING = frozenset({"list-type", "location", "uploads", "delete", "uploadId"})
#: What the query may also name at S3, and what we would answer wrongly if we took no notice of it.
_UNKNOWN_TO_US = frozenset(
    {
        "accelerate", "acl", "analytics", "attributes", "cors", "encryption", "intelligent-tiering",
        "inventory", "legal-hold", "lifecycle", "logging", "metrics", "notification", "object-lock",
        "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication", "requestPayment",
        "restore", "retention", "select", "session", "tagging", "torrent", "versionId", "versioning",
        "versions", "website", "response-cache-control", "response-content-disposition",
        "response-content-encoding", "response-content-language", "response-content-type",
        "response-expires", "append", "renameObject",
    }
)  # fmt: skip


@dataclass(slots=True)
class Call:
    """One request, understood. ``query`` has each name once; ``pairs`` is what was signed."""

    request: Request
    operation: str
    bucket: str
    key: str
    #: As it was sent.
    path: str
    query: Mapping[str, str]
    pairs: tuple[tuple[str, str], ...]

    @property
    def headers(self) -> Mapping[str, str]:
        return self.request.headers

    @property
    def is_conditional_write(self) -> bool:
        return self.request.method != "GET" and (
            "if-match" in self.headers or "if-none-match" in self.headers
        )


def route(request: Request) -> Call:
    """Raises S3Error for what is not S3, or not known here."""
    path, _, query_text = request.target.partition("?")
    pairs = tuple(_read_pair(pair) for pair in query_text.split("&") if pair) if query_text else ()
    query = dict(pairs)
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    decoded = _decode(path)
    if host.endswith(_HOST_SUFFIX):
        bucket, key = host.removesuffix(_HOST_SUFFIX), decoded[1:]
    else:
        bucket, _, key = decoded[1:].partition("/")
    if len(key) * 4 > _KEY_BYTES_MAX and len(key.encode()) > _KEY_BYTES_MAX:
        raise S3Error("KeyTooLongError")
    return Call(request, _operation(request, bucket, key, query), bucket, key, path, query, pairs)


def _operation(request: Request, bucket: str, key: str, query: Mapping[str, str]) -> str:
    method = request.method
    if method not in _METHODS:
        raise S3Error("MethodNotAllowed")
    named = ""
    if query:
        if unknown := query.keys() & _UNKNOWN_TO_US:
            raise S3Error("NotImplemented", f"The query {sorted(unknown)[0]} is not implemented.")
        named = next(iter(query.keys() & _NAMING), "")
        if named == "list-type" and query[named] != "2":
            raise S3Error("InvalidArgument", "list-type can only be 2.")
    table = _ON_OBJECT if key else _ON_BUCKET if bucket else _ON_SERVICE
    found = table.get((method, named))
    if found is None:
        raise S3Error("MethodNotAllowed")
    if found == "GetObject" and "partNumber" in query:
        raise S3Error("NotImplemented", "Reading a part by its number is not implemented.")
    if "x-amz-copy-source" in request.headers:
        if found == "UploadPart":
            raise S3Error("NotImplemented", "Copying into a part is not implemented.")
        if found == "PutObject":
            return "CopyObject"
    return found


def _read_pair(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    # In S3's queries a plus is a blank to some clients and a plus to none: SDKs send %20 and %2B.
    return _decode(name), _decode(value.replace("+", " "))


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise S3Error("InvalidURI") from None
