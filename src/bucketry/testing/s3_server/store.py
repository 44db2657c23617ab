"""The objects: buckets, uploads in parts, conditions, what a listing may see. No bytes of HTTP or XML here.

Everything happens at once, between two requests: the server has one thread, and nothing awaits in here.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.key_index import KeyIndex, with_changes


@dataclass(frozen=True, slots=True)
class Condition:
    """Of a write: the ETag that must be there, or that nothing may be there."""

    if_match: str | None = None
    if_none_match: bool = False

    @property
    def is_set(self) -> bool:
        return self.if_match is not None or self.if_none_match


UNCONDITIONAL = Condition()


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object. Nobody changes ``data``: it is sent without a copy."""

    data: BytesLike
    etag: str
    #: Seconds since 1970.
    modified: float
    #: Headers that come back as they were sent: type, encoding, metadata, encryption.
    headers: Mapping[str, str]
    storage_class: str = "STANDARD"
    #: Algorithm → base64.
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    data: BytesLike
    etag: str
    modified: float
    checksums: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts, not completed yet."""

    upload_id: str
    key: str
    initiated: float
    headers: Mapping[str, str]
    storage_class: str
    #: Which checksum each part must have; empty: any, or none.
    checksum_algorithm: str = ""
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Change:
    at: float
    key: str
    before: StoredObject | None


class Bucket:
    """One bucket."""

    def __init__(self, name: str, created: float) -> None:
        self.name = name
        self.created = created
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, Upload] = {}
        self.index = KeyIndex()
        self.changes: deque[_Change] = deque()


class Store:
    """All buckets. Times are seconds since 1970, given by the caller.

    ``stale_seconds``: listings do not show the last so many seconds of changes. Changes are remembered from
    when it is set.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.stored_bytes = 0
        self.stale_seconds = 0.0
        self._upload_numbers = itertools.count(1)

    # Buckets.

    def create_bucket(self, name: str, now: float) -> None:
        if name in self.buckets:
            raise S3Error("BucketAlreadyOwnedByYou", fields={"BucketName": name})
        self.buckets[name] = Bucket(name, now)

    def bucket(self, name: str) -> Bucket:
        found = self.buckets.get(name)
        if found is None:
            raise S3Error("NoSuchBucket", fields={"BucketName": name})
        return found

    def delete_bucket(self, name: str) -> None:
        bucket = self.bucket(name)
        if bucket.objects:
            raise S3Error("BucketNotEmpty", fields={"BucketName": name})
        for upload_id in list(bucket.uploads):
            self.abort_upload(name, upload_id)
        del self.buckets[name]

    def clear(self) -> None:
        """Forget all buckets and objects."""
        self.buckets.clear()
        self.stored_bytes = 0

    # Objects.

    def find(self, bucket_name: str, key: str) -> StoredObject | None:
        return self.bucket(bucket_name).objects.get(key)

    def get(self, bucket_name: str, key: str) -> StoredObject:
        found = self.bucket(bucket_name).objects.get(key)
        if found is None:
            raise S3Error("NoSuchKey", fields={"Key": key})
        return found

    def check(self, bucket_name: str, key: str, condition: Condition) -> None:
        """Raises S3Error unless ``condition`` holds for a write."""
        if not condition.is_set:
            return
        found = self.find(bucket_name, key)
        if condition.if_none_match and found is not None:
            raise S3Error("PreconditionFailed", fields={"Condition": "If-None-Match"})
        if condition.if_match is not None:
            if found is None:
                raise S3Error("NoSuchKey", fields={"Key": key})
            if not etags_match(condition.if_match, found.etag):
                raise S3Error("PreconditionFailed", fields={"Condition": "If-Match"})

    def put(
        self, bucket_name: str, key: str, new: StoredObject, condition: Condition = UNCONDITIONAL
    ) -> None:
        bucket = self.bucket(bucket_name)
        self.check(bucket_name, key, condition)
        before = bucket.objects.get(key)
        self._remember(bucket, key, before, new.modified)
        if before is None:
            bucket.index.add(key)
        else:
            self.stored_bytes -= len(before.data)
        self.stored_bytes += len(new.data)
        bucket.objects[key] = new

    def delete(self, bucket_name: str, key: str, now: float, if_match: str | None = None) -> None:
        """Deleting what is not there succeeds, also under a condition."""
        bucket = self.bucket(bucket_name)
        before = bucket.objects.get(key)
        if before is None:
            return
        if if_match is not None and not etags_match(if_match, before.etag):
            raise S3Error("PreconditionFailed", fields={"Condition": "If-Match"})
        self._remember(bucket, key, before, now)
        self.stored_bytes -= len(before.data)
        del bucket.objects[key]
        bucket.index.remove(key)

    # Listings.

    def listed(self, bucket_name: str, now: float) -> tuple[list[str], Mapping[str, StoredObject]]:
        """Sorted keys, and the objects that a listing shows for them. Valid until the next change."""
        bucket = self.bucket(bucket_name)
        keys = bucket.index.sorted_keys()
        if not self.stale_seconds:
            bucket.changes.clear()
            return keys, bucket.objects
        cut = now - self.stale_seconds
        # From the newest to the oldest, so that the state before the first change of a key remains.
        then = {change.key: change.before for change in reversed(bucket.changes) if change.at > cut}
        while bucket.changes and bucket.changes[0].at <= cut:
            bucket.changes.popleft()
        added = {key for key, before in then.items() if before is not None}
        seen = {**bucket.objects, **{key: before for key, before in then.items() if before is not None}}
        return with_changes(keys, added, then.keys() - added), seen

    def _remember(self, bucket: Bucket, key: str, before: StoredObject | None, now: float) -> None:
        if self.stale_seconds:
            bucket.changes.append(_Change(now, key, before))

    # Uploads in parts.

    def create_upload(
        self,
        bucket_name: str,
        key: str,
        headers: Mapping[str, str],
        storage_class: str,
        now: float,
        checksum_algorithm: str = "",
    ) -> Upload:
        bucket = self.bucket(bucket_name)
        # Ids that sort as they were made, as S3's do.
        upload_id = f"upload-{next(self._upload_numbers):08d}"
        upload = Upload(upload_id, key, now, headers, storage_class, checksum_algorithm)
        bucket.uploads[upload.upload_id] = upload
        return upload

    def upload(self, bucket_name: str, key: str, upload_id: str) -> Upload:
        found = self.bucket(bucket_name).uploads.get(upload_id)
        if found is None or found.key != key:
            raise S3Error("NoSuchUpload", fields={"UploadId": upload_id})
        return found

    def put_part(self, upload: Upload, number: int, part: Part) -> None:
        before = upload.parts.get(number)
        self.stored_bytes += len(part.data) - (len(before.data) if before else 0)
        upload.parts[number] = part

    def abort_upload(self, bucket_name: str, upload_id: str) -> None:
        """Also ends one whose parts have become an object."""
        upload = self.bucket(bucket_name).uploads.pop(upload_id)
        self.stored_bytes -= sum(len(part.data) for part in upload.parts.values())


def etags_match(asked: str, etag: str) -> bool:
    """Whether a list of ETags of a request (quoted or not, ``*`` for any) has this one."""
    return any(
        candidate == "*" or candidate.removeprefix("W/").strip('"') == etag.strip('"')
        for candidate in (part.strip() for part in asked.split(","))
    )
