"""Operations on uploads in parts."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from urllib.parse import quote

from bucketry.testing.s3_server import documents
from bucketry.testing.s3_server.checksums import ALGORITHMS, check_checksums, check_content_md5
from bucketry.testing.s3_server.errors import S3Error
from bucketry.testing.s3_server.http import Answer
from bucketry.testing.s3_server.object_operations import (
    answered_headers,
    encryption_headers,
    kept_headers,
    storage_class,
)
from bucketry.testing.s3_server.operation import Operation, Turn, checksum_headers
from bucketry.testing.s3_server.store import Part, StoredObject, Upload

#: S3's own limit.
_PART_NUMBER_MAX = 10_000


def _create_multipart_upload(turn: Turn) -> Answer:
    call = turn.call
    algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower()
    if algorithm and algorithm not in ALGORITHMS:
        raise S3Error("NotImplemented", f"Checksums by {algorithm} are not implemented.")
    upload = turn.store.create_upload(
        call.bucket,
        call.key,
        kept_headers(call.headers),
        storage_class(call.headers),
        turn.now,
        algorithm,
    )
    content: documents.Content = [
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("UploadId", upload.upload_id),
    ]
    headers = {**documents.HEADERS, **encryption_headers(call.headers)}
    if algorithm:
        headers["x-amz-checksum-algorithm"] = algorithm.upper()
    return Answer(200, headers, documents.document("InitiateMultipartUploadResult", content))


def _upload_part(turn: Turn) -> Answer:
    call = turn.call
    text = call.query.get("partNumber", "")
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:6]) <= _PART_NUMBER_MAX:
        message = "Part number must be an integer between 1 and 10000, inclusive"
        raise S3Error(
            "InvalidArgument", message, fields={"ArgumentName": "partNumber", "ArgumentValue": text}
        )
    upload = _upload(turn)
    md5 = check_content_md5(call.headers.get("content-md5"), turn.body)
    checksums = check_checksums(turn.checksum_headers, turn.body)
    if upload.checksum_algorithm and upload.checksum_algorithm not in checksums:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.checksum_algorithm}, actual "
            f"checksum Type: {next(iter(checksums), 'null')}",
        )
    etag = turn.etags.of_object(turn.body, md5)
    turn.store.put_part(upload, int(text), Part(turn.body, etag, turn.now, checksums))
    return Answer(200, {"ETag": etag, **checksum_headers(checksums)})


def _complete_multipart_upload(turn: Turn) -> Answer:
    call = turn.call
    upload = _upload(turn)
    asked = documents.read_parts(turn.body)
    parts = _chosen_parts(turn, upload, asked)
    turn.store.check(call.bucket, call.key, turn.condition)
    data = b"".join(part.data for part in parts)
    etag = turn.etags.of_parts([part.etag for part in parts])
    headers = answered_headers(upload.headers, etag, turn.now, upload.storage_class)
    turn.store.put(call.bucket, call.key, StoredObject(data, etag, turn.now, headers, upload.storage_class))
    turn.store.abort_upload(call.bucket, upload.upload_id)
    content: documents.Content = [
        ("Location", f"/{call.bucket}/{quote(call.key)}"),
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("ETag", etag),
    ]
    return Answer(200, documents.HEADERS, documents.document("CompleteMultipartUploadResult", content))


def _abort_multipart_upload(turn: Turn) -> Answer:
    turn.store.abort_upload(turn.call.bucket, _upload(turn).upload_id)
    return Answer(204)


def _list_parts(turn: Turn) -> Answer:
    call = turn.call
    upload = _upload(turn)
    size = turn.page_size("max-parts")
    marker_text = call.query.get("part-number-marker") or "0"
    if not (marker_text.isascii() and marker_text.isdigit() and len(marker_text) < 10):
        raise S3Error("InvalidArgument", "Provided part-number-marker not an integer")
    numbers = sorted(number for number in upload.parts if number > int(marker_text))
    page = numbers[:size]
    content: documents.Elements = [
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("UploadId", upload.upload_id),
        ("PartNumberMarker", marker_text),
        ("NextPartNumberMarker", str(page[-1]) if page else marker_text),
        ("MaxParts", str(size)),
        ("IsTruncated", str(len(page) < len(numbers)).lower()),
        ("StorageClass", upload.storage_class),
    ]
    for number in page:
        part = upload.parts[number]
        entry: documents.Elements = [
            ("PartNumber", str(number)),
            ("LastModified", documents.iso_time(part.modified)),
            ("ETag", part.etag),
            ("Size", str(len(part.data))),
            *((f"Checksum{name.upper()}", value) for name, value in part.checksums.items()),
        ]
        content.append(("Part", entry))
    return Answer(200, documents.HEADERS, documents.document("ListPartsResult", content))


def _list_multipart_uploads(turn: Turn) -> Answer:
    query = turn.call.query
    if query.get("delimiter"):
        raise S3Error("NotImplemented", "Uploads with a delimiter are not implemented.")
    size = turn.page_size("max-uploads")
    prefix, marker = query.get("prefix", ""), (query.get("key-marker", ""), query.get("upload-id-marker", ""))
    # Without an upload's id the marker stands after all uploads of its key.
    is_after: Callable[[Upload], bool] = (
        (lambda upload: (upload.key, upload.upload_id) > marker)
        if marker[1]
        else (lambda upload: upload.key > marker[0])
    )
    found = sorted(
        (
            upload
            for upload in turn.store.bucket(turn.call.bucket).uploads.values()
            if upload.key.startswith(prefix) and is_after(upload)
        ),
        key=lambda upload: (upload.key, upload.upload_id),
    )
    page = found[:size]
    encode = quote if query.get("encoding-type") == "url" else str
    content: documents.Elements = [
        ("Bucket", turn.call.bucket),
        ("KeyMarker", encode(marker[0])),
        ("UploadIdMarker", marker[1]),
        ("Prefix", encode(prefix)),
        ("MaxUploads", str(size)),
        ("IsTruncated", str(len(page) < len(found)).lower()),
    ]
    if query.get("encoding-type"):
        content.append(("EncodingType", "url"))
    if page and len(page) < len(found):
        content += [("NextKeyMarker", encode(page[-1].key)), ("NextUploadIdMarker", page[-1].upload_id)]
    content += [
        (
            "Upload",
            [
                ("Key", encode(upload.key)),
                ("UploadId", upload.upload_id),
                ("StorageClass", upload.storage_class),
                ("Initiated", documents.iso_time(upload.initiated)),
                *(
                    [("ChecksumAlgorithm", upload.checksum_algorithm.upper())]
                    if upload.checksum_algorithm
                    else []
                ),
            ],
        )
        for upload in page
    ]
    return Answer(200, documents.HEADERS, documents.document("ListMultipartUploadsResult", content))


def _upload(turn: Turn) -> Upload:
    return turn.store.upload(turn.call.bucket, turn.call.key, turn.call.query.get("uploadId", ""))


def _chosen_parts(turn: Turn, upload: Upload, asked: list[documents.AskedPart]) -> list[Part]:
    numbers = [part.number for part in asked]
    if any(first >= second for first, second in pairwise(numbers)):
        raise S3Error("InvalidPartOrder", fields={"UploadId": upload.upload_id})
    parts = []
    for wanted in asked:
        part = upload.parts.get(wanted.number)
        algorithm = upload.checksum_algorithm
        if algorithm and algorithm not in wanted.checksums:
            raise S3Error(
                "InvalidRequest",
                f"The upload was created using a {algorithm} checksum. The complete request must include the "
                f"checksum for each part. It was missing for part {wanted.number} in the request.",
            )
        if (
            part is None
            or part.etag.strip('"') != wanted.etag.strip('"')
            or not wanted.checksums.items() <= part.checksums.items()
        ):
            raise S3Error(
                "InvalidPart",
                fields={
                    "UploadId": upload.upload_id,
                    "PartNumber": str(wanted.number),
                    "ETag": wanted.etag,
                },
            )
        parts.append(part)
    for number, part in zip(numbers[:-1], parts, strict=False):
        if len(part.data) < turn.part_bytes_min:
            raise S3Error(
                "EntityTooSmall", fields={"PartNumber": str(number), "ProposedSize": str(len(part.data))}
            )
    return parts


MULTIPART_OPERATIONS: Mapping[str, Operation] = {
    "CreateMultipartUpload": _create_multipart_upload,
    "UploadPart": _upload_part,
    "CompleteMultipartUpload": _complete_multipart_upload,
    "AbortMultipartUpload": _abort_multipart_upload,
    "ListParts": _list_parts,
    "ListMultipartUploads": _list_multipart_uploads,
}
