"""Operations on one object, and DeleteObjects."""

import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from urllib.parse import unquote

from bucketry.testing.s3_server import documents
from bucketry.testing.s3_server.checksums import check_checksums, check_content_md5
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Answer
from bucketry.testing.s3_server.operation import PAGE_MAX, Operation, Turn, checksum_headers
from bucketry.testing.s3_server.store import StoredObject, etags_match

#: Headers of a put that come back with every get, as they are spelled there.
_KEPT = {
    name.lower(): name
    for name in (
        "Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control",
        "Expires", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-server-side-encryption-bucket-key-enabled", "x-amz-website-redirect-location",
    )
}  # fmt: skip
_ENCRYPTION = tuple(name for name in _KEPT if name.startswith("x-amz-server-side-encryption"))
_METADATA = "x-amz-meta-"
#: S3's own limit, names and values together.
_METADATA_BYTES_MAX = 2048
_STORAGE_CLASSES = frozenset(
    {
        "STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER",
        "DEEP_ARCHIVE", "GLACIER_IR", "EXPRESS_ONEZONE", "OUTPOSTS", "SNOW", "FSX_OPENZFS",
    }
)  # fmt: skip
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What an object keeps of the headers it is put with. Raises S3Error."""
    kept = {}
    metadata_bytes = 0
    for name, value in headers.items():
        if name in _KEPT:
            kept[_KEPT[name]] = value
        elif name.startswith(_METADATA):
            metadata_bytes += len(name) - len(_METADATA) + len(value)
            kept[name] = value
    if metadata_bytes > _METADATA_BYTES_MAX:
        raise S3Error("InvalidRequest", "Your metadata headers exceed the maximum allowed metadata size.")
    if "Content-Encoding" in kept:
        # aws-chunked belongs to the way, not to the object.
        parts = [part.strip() for part in kept["Content-Encoding"].split(",")]
        encoding = ",".join(part for part in parts if part != "aws-chunked")
        if encoding:
            kept["Content-Encoding"] = encoding
        else:
            del kept["Content-Encoding"]
    kept.setdefault("Content-Type", "binary/octet-stream")
    return kept


def storage_class(headers: Mapping[str, str]) -> str:
    """Raises S3Error."""
    found = headers.get("x-amz-storage-class", "STANDARD")
    if found not in _STORAGE_CLASSES:
        raise S3Error("InvalidArgument", "The storage class you specified is not valid")
    return found


def answered_headers(kept: Mapping[str, str], etag: str, modified: float, found_class: str) -> dict[str, str]:
    """All that a get answers with, made once, when the object is put."""
    headers = {
        **kept,
        "ETag": etag,
        "Last-Modified": http_date(int(modified)),
        "Accept-Ranges": "bytes",
    }
    if found_class != "STANDARD":
        headers["x-amz-storage-class"] = found_class
    return headers


@lru_cache(maxsize=4096)
def http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def encryption_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What an answer repeats of the encryption that was asked for."""
    return {name: headers[name] for name in _ENCRYPTION if name in headers}


def _put_object(turn: Turn) -> Answer:
    call = turn.call
    turn.store.bucket(call.bucket)
    condition = turn.condition
    found_class = storage_class(call.headers)
    kept = kept_headers(call.headers)
    md5 = check_content_md5(call.headers.get("content-md5"), turn.body)
    checksums = check_checksums(turn.checksum_headers, turn.body)
    # Before the ETag: a refusal should not cost a hash.
    turn.store.check(call.bucket, call.key, condition)
    etag = turn.etags.of_object(turn.body, md5)
    new = StoredObject(
        turn.body,
        etag,
        turn.now,
        answered_headers(kept, etag, turn.now, found_class),
        found_class,
        checksums,
    )
    turn.store.put(call.bucket, call.key, new)
    return Answer(200, {"ETag": etag, **encryption_headers(call.headers), **checksum_headers(checksums)})


def _get_object(turn: Turn) -> Answer:
    call = turn.call
    found = turn.store.get(call.bucket, call.key)
    headers = call.headers
    _check_read_conditions(headers, found)
    asked = headers.get("range")
    span = _read_range(asked, len(found.data)) if asked is not None else None
    if span is None:
        answer = Answer(200, found.headers, found.data)
        if found.checksums and headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            answer.headers = {**found.headers, **checksum_headers(found.checksums)}
    else:
        start, end = span
        content_range = f"bytes {start}-{end - 1}/{len(found.data)}"
        part = memoryview(found.data)[start:end]
        answer = Answer(206, {**found.headers, "Content-Range": content_range}, part)
    if call.request.method == "HEAD":
        answer.unsent_bytes, answer.body = len(answer.body), b""
    return answer


def _delete_object(turn: Turn) -> Answer:
    call = turn.call
    turn.store.delete(call.bucket, call.key, turn.now, call.headers.get("if-match"))
    return Answer(204)


def _delete_objects(turn: Turn) -> Answer:
    call = turn.call
    turn.store.bucket(call.bucket)
    md5 = check_content_md5(call.headers.get("content-md5"), turn.body)
    checksums = check_checksums(turn.checksum_headers, turn.body)
    if md5 is None and not checksums:
        raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5")
    keys, is_quiet = documents.read_deletion(turn.body)
    if not 1 <= len(keys) <= PAGE_MAX:
        raise S3Error("MalformedXML")
    results: documents.Elements = []
    for key, etag in keys:
        try:
            turn.store.delete(call.bucket, key, turn.now, etag)
        except S3Error as error:
            results.append(("Error", [("Key", key), ("Code", error.code), ("Message", error.message)]))
        else:
            if not is_quiet:
                results.append(("Deleted", [("Key", key)]))
    return Answer(200, documents.HEADERS, documents.document("DeleteResult", results))


def _copy_object(turn: Turn) -> Answer:
    call = turn.call
    headers = call.headers
    source = unquote(headers["x-amz-copy-source"]).removeprefix("/")
    bucket_name, _, key = source.partition("/")
    if not key or "?versionId=" in key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: bucket/key")
    found = turn.store.get(bucket_name, key)
    turn.store.bucket(call.bucket)
    _check_copy_conditions(headers, found)
    directive = headers.get("x-amz-metadata-directive", "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", "Unknown metadata directive.")
    found_class = storage_class(headers)
    is_unchanged = directive == "COPY" and found_class == found.storage_class
    if (bucket_name, key) == (call.bucket, call.key) and is_unchanged and not encryption_headers(headers):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing "
            "the object's metadata, storage class, website redirect location or encryption attributes.",
        )
    kept = kept_headers(headers)
    if directive == "COPY":
        kept = {
            name: value
            for name, value in found.headers.items()
            if name.lower() in _KEPT or name.startswith(_METADATA)
        } | encryption_headers(headers)
    turn.store.check(call.bucket, call.key, turn.condition)
    etag = turn.etags.of_object(found.data)
    new = StoredObject(
        found.data,
        etag,
        turn.now,
        answered_headers(kept, etag, turn.now, found_class),
        found_class,
        found.checksums,
    )
    turn.store.put(call.bucket, call.key, new)
    result: documents.Content = [("LastModified", documents.iso_time(turn.now)), ("ETag", etag)]
    return Answer(200, documents.HEADERS, documents.document("CopyObjectResult", result))


def _check_read_conditions(headers: Mapping[str, str], found: StoredObject) -> None:
    """RFC 9110, 13.2.2: ETags come before times. Raises S3Error."""
    if_match = headers.get("if-match")
    if if_match is not None:
        if not etags_match(if_match, found.etag):
            raise S3Error("PreconditionFailed", fields={"Condition": "If-Match"})
    elif (since := _read_date(headers.get("if-unmodified-since"))) is not None and int(
        found.modified
    ) > since:
        raise S3Error("PreconditionFailed", fields={"Condition": "If-Unmodified-Since"})
    if_none_match = headers.get("if-none-match")
    unchanged = {"ETag": found.etag, "Last-Modified": found.headers["Last-Modified"]}
    if if_none_match is not None:
        if etags_match(if_none_match, found.etag):
            raise S3Error("NotModified", headers=unchanged)
    elif (since := _read_date(headers.get("if-modified-since"))) is not None and int(found.modified) <= since:
        raise S3Error("NotModified", headers=unchanged)


def _check_copy_conditions(headers: Mapping[str, str], found: StoredObject) -> None:
    if_match = headers.get("x-amz-copy-source-if-match")
    if_none_match = headers.get("x-amz-copy-source-if-none-match")
    if (if_match is not None and not etags_match(if_match, found.etag)) or (
        if_none_match is not None and etags_match(if_none_match, found.etag)
    ):
        raise S3Error("PreconditionFailed", fields={"Condition": "x-amz-copy-source-if"})


def _read_date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        # What is no date is no condition (RFC 9110).
        return None


def _read_range(text: str, size: int) -> tuple[int, int] | None:
    """Begin and end; None for what is no single range, which S3 takes no notice of. Raises S3Error."""
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise S3Error(
            "InvalidRange",
            fields={"RangeRequested": text, "ActualObjectSize": str(size)},
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


OBJECT_OPERATIONS: Mapping[str, Operation] = {
    "GetObject": _get_object,
    "HeadObject": _get_object,
    "PutObject": _put_object,
    "DeleteObject": _delete_object,
    "DeleteObjects": _delete_objects,
    "CopyObject": _copy_object,
}
