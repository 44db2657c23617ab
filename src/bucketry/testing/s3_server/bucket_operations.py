"""Operations on buckets: making them, and listing what is in them."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from bucketry.testing.s3_server import documents
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Answer
from bucketry.testing.s3_server.key_index import walk
from bucketry.testing.s3_server.operation import Operation, Turn
from bucketry.testing.s3_server.store import StoredObject

#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, the part that servers share.
_BUCKET_NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OWNER: documents.Content = [("ID", "bucketry"), ("DisplayName", "bucketry")]


@dataclass(frozen=True, slots=True)
class _Page:
    """``entries``: keys, and (True) common prefixes. ``last`` is where the next page begins."""

    entries: list[tuple[str, bool]]
    objects: Mapping[str, StoredObject]
    is_truncated: bool

    @property
    def last(self) -> str:
        return self.entries[-1][0]


def _create_bucket(turn: Turn) -> Answer:
    name = turn.call.bucket
    if not _BUCKET_NAME.fullmatch(name):
        raise S3Error("InvalidBucketName", fields={"BucketName": name})
    turn.store.create_bucket(name, turn.now)
    return Answer(200, {"Location": f"/{name}"})


def _head_bucket(turn: Turn) -> Answer:
    turn.store.bucket(turn.call.bucket)
    return Answer(200, {"x-amz-bucket-region": turn.region})


def _delete_bucket(turn: Turn) -> Answer:
    turn.store.delete_bucket(turn.call.bucket)
    return Answer(204)


def _list_buckets(turn: Turn) -> Answer:
    buckets: documents.Content = [
        ("Bucket", [("Name", bucket.name), ("CreationDate", documents.iso_time(bucket.created))])
        for _, bucket in sorted(turn.store.buckets.items())
    ]
    content: documents.Content = [("Owner", _OWNER), ("Buckets", buckets)]
    return Answer(200, documents.HEADERS, documents.document("ListAllMyBucketsResult", content))


def _get_bucket_location(turn: Turn) -> Answer:
    turn.store.bucket(turn.call.bucket)
    # The first region has no name here, for it had none at first.
    region = "" if turn.region == "us-east-1" else turn.region
    return Answer(200, documents.HEADERS, documents.document("LocationConstraint", region))


def _list_objects(turn: Turn) -> Answer:
    query = turn.call.query
    page = _read_page(turn, query.get("marker", ""))
    encode = _encoder(query)
    content: documents.Elements = [
        ("Name", turn.call.bucket),
        ("Prefix", encode(query.get("prefix", ""))),
        ("Marker", encode(query.get("marker", ""))),
        ("MaxKeys", str(turn.page_size("max-keys"))),
    ]
    if query.get("delimiter"):
        content.append(("Delimiter", encode(query["delimiter"])))
        if page.is_truncated:
            content.append(("NextMarker", encode(page.last)))
    content += _entries(page, query, with_owner=True)
    return Answer(200, documents.HEADERS, documents.document("ListBucketResult", content))


def _list_objects_v2(turn: Turn) -> Answer:
    query = turn.call.query
    token = query.get("continuation-token")
    if token == "":
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
    after = query.get("start-after", "") if token is None else _read_token(token)
    page = _read_page(turn, after)
    encode = _encoder(query)
    content: documents.Elements = [
        ("Name", turn.call.bucket),
        ("Prefix", encode(query.get("prefix", ""))),
        ("MaxKeys", str(turn.page_size("max-keys"))),
        ("KeyCount", str(len(page.entries))),
    ]
    if query.get("delimiter"):
        content.append(("Delimiter", encode(query["delimiter"])))
    if token is not None:
        content.append(("ContinuationToken", token))
    elif query.get("start-after"):
        content.append(("StartAfter", encode(query["start-after"])))
    if page.is_truncated:
        content.append(("NextContinuationToken", _make_token(page.last)))
    content += _entries(page, query, with_owner=query.get("fetch-owner") == "true")
    return Answer(200, documents.HEADERS, documents.document("ListBucketResult", content))


def _read_page(turn: Turn, after: str) -> _Page:
    query = turn.call.query
    _check_encoding(query)
    size = turn.page_size("max-keys")
    keys, objects = turn.store.listed(turn.call.bucket, turn.now)
    entries: list[tuple[str, bool]] = []
    if size:
        entries_after = walk(
            keys, prefix=query.get("prefix", ""), delimiter=query.get("delimiter", ""), after=after
        )
        for entry in entries_after:
            if len(entries) == size:
                return _Page(entries, objects, is_truncated=True)
            entries.append(entry)
    return _Page(entries, objects, is_truncated=False)


def _entries(page: _Page, query: Mapping[str, str], *, with_owner: bool) -> documents.Elements:
    encode = _encoder(query)
    content: documents.Elements = [("IsTruncated", str(page.is_truncated).lower())]
    if query.get("encoding-type"):
        content.append(("EncodingType", "url"))
    commons: documents.Elements = []
    for key, is_common in page.entries:
        if is_common:
            commons.append(("CommonPrefixes", [("Prefix", encode(key))]))
            continue
        found = page.objects[key]
        entry: documents.Elements = [
            ("Key", encode(key)),
            ("LastModified", documents.iso_time(found.modified)),
            ("ETag", found.etag),
            ("Size", str(len(found.data))),
            ("StorageClass", found.storage_class),
        ]
        if with_owner:
            entry.append(("Owner", _OWNER))
        content.append(("Contents", entry))
    return content + commons


def _check_encoding(query: Mapping[str, str]) -> None:
    if query.get("encoding-type", "url") != "url":
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")


def _encoder(query: Mapping[str, str]) -> Callable[[str], str]:
    return _quoted if query.get("encoding-type") else str


def _quoted(text: str) -> str:
    return quote(text, safe="/")


def _make_token(key: str) -> str:
    # Opaque, so that nobody comes to rely on what is in it.
    return base64.urlsafe_b64encode(key.encode()).decode()


def _read_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from None


BUCKET_OPERATIONS: Mapping[str, Operation] = {
    "CreateBucket": _create_bucket,
    "HeadBucket": _head_bucket,
    "DeleteBucket": _delete_bucket,
    "ListBuckets": _list_buckets,
    "GetBucketLocation": _get_bucket_location,
    "ListObjects": _list_objects,
    "ListObjectsV2": _list_objects_v2,
}
