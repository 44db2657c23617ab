"""Uploads in parts in a directory bucket: where their bytes wait until they are completed.

::

    .bucketry/uploads/<id>/
        upload       JSON: key and part size; named "ending" while it is being completed
        data         the object's header, then each part at its place
        00001        JSON: size and crc32c of a part whose bytes are durable in "data"; one for each

So completing one copies nothing: the header gets its size, and ``data`` becomes the object's file. A part
that is being written holds a shared lock on ``data``; whoever completes or aborts the upload takes it alone,
so that no late write can reach an object.

Everything here blocks. ``private`` is the open directory ``.bucketry``.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import google_crc32c

from bucketry.bucket.envelope import (
    ETAG_BYTES,
    HEADER_BYTES_MAX,
    Header,
    decode_header,
    encode_header,
    header_size,
)
from bucketry.bucket.interface import Attributes, BytesLike, OpenUpload, Part
from bucketry.errors import Corrupt, Invalid, UploadGone

_DIRECTORY = "uploads"
_OPEN, _ENDING, DATA = "upload", "ending", "data"
#: The id is the ETag that the object will have.
_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"[0-9]{5}")
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Of a JSON file: a key of 1 KiB, escaped.
_RECORD_BYTES_MAX = 16 << 10


@dataclass(frozen=True, slots=True)
class _Record:
    key: str
    part_size_bytes: int
    started: datetime


def create(private: int, key: str, part_size_bytes: int, attributes: Attributes) -> str:
    """Begin an upload; returns its id."""
    etag = secrets.token_bytes(ETAG_BYTES)
    header = encode_header(attributes, etag, 0)
    if len(header) > HEADER_BYTES_MAX:
        raise Invalid(f"object {key} has more than {HEADER_BYTES_MAX} bytes of attributes")
    with contextlib.suppress(FileExistsError):
        os.mkdir(_DIRECTORY, dir_fd=private)
    uploads = os.open(_DIRECTORY, _DIRECTORY_FLAGS, dir_fd=private)
    try:
        os.mkdir(etag.hex(), dir_fd=uploads)
        directory = os.open(etag.hex(), _DIRECTORY_FLAGS, dir_fd=uploads)
    finally:
        os.close(uploads)
    try:
        _write_file(directory, DATA, header)
        # Last: what has no record is no upload.
        _write_file(directory, _OPEN, _encode({"key": key, "part_size": part_size_bytes}))
    finally:
        os.close(directory)
    return etag.hex()


def put_part(private: int, key: str, upload_id: str, number: int, data: BytesLike) -> Part:
    """Returns when the part is durable."""
    with _opened(private, key, upload_id) as (directory, record):
        view = memoryview(data)
        if len(view) > record.part_size_bytes:
            raise Invalid(f"part {number} of object {key} is larger than the upload's parts")
        file = os.open(DATA, _WRITE_FLAGS, dir_fd=directory)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            # Completed or aborted while we waited, ``data`` may be an object by now.
            if _read_record(directory, _OPEN) is None:
                raise UploadGone(f"object {key}: its upload in parts has ended")
            name = f"{number:05}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            offset = _header_of(file).data_offset + (number - 1) * record.part_size_bytes
            _write_at(file, view, offset)
            os.fdatasync(file)
            part = _part(number, len(view), int(google_crc32c.value(bytes(view))))
            # Another writer of this very part may have been faster; the last one's record stays.
            with contextlib.suppress(FileExistsError):
                _write_file(directory, name, _encode({"size": part.size_bytes, "crc32c": part.crc32c}))
        finally:
            os.close(file)
    return part


@contextlib.contextmanager
def completing(private: int, key: str, upload_id: str, parts: Sequence[Part]) -> Iterator[int]:
    """The open directory of the upload, whose file DATA is the finished object, durable: to be given its
    name. The upload has ended then; if the body raises it is open again."""
    with _opened(private, key, upload_id) as (directory, record):
        file = os.open(DATA, _WRITE_FLAGS, dir_fd=directory)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _read_record(directory, _OPEN) is None:
                raise UploadGone(f"object {key}: its upload in parts has ended")
            for part in parts:
                if _read_part(directory, part.number) != _part(
                    part.number, part.size_bytes, part.crc32c or 0
                ):
                    raise Invalid(f"object {key}: part {part.number} is not the one that was put")
                if part.size_bytes != record.part_size_bytes and part.number < len(parts):
                    raise Invalid(f"object {key}: part {part.number} is smaller than the upload's parts")
            header = _header_of(file)
            size_bytes = sum(part.size_bytes for part in parts)
            os.ftruncate(file, header.data_offset + size_bytes)
            _write_at(
                file, memoryview(encode_header(header.attributes, bytes.fromhex(upload_id), size_bytes)), 0
            )
            os.fsync(file)
            os.rename(_OPEN, _ENDING, src_dir_fd=directory, dst_dir_fd=directory)
            try:
                yield directory
            except BaseException:
                # Once it has the object's name it is not to be written any more, whatever went wrong then.
                if _is_only_ours(directory, file):
                    os.rename(_ENDING, _OPEN, src_dir_fd=directory, dst_dir_fd=directory)
                raise
        finally:
            os.close(file)
    remove(private, key, upload_id)


def remove(private: int, key: str, upload_id: str) -> None:
    """Forget an upload, open or ended; nothing happens when there is none."""
    if _ID.fullmatch(upload_id) is None:
        return
    try:
        uploads = os.open(_DIRECTORY, _DIRECTORY_FLAGS, dir_fd=private)
    except FileNotFoundError:
        return
    try:
        directory = os.open(upload_id, _DIRECTORY_FLAGS, dir_fd=uploads)
        try:
            record = _read_record(directory, _OPEN) or _read_record(directory, _ENDING)
            if record is not None and record.key != key:
                return
            with _alone(directory):
                # The record goes first: from then on nobody writes a part.
                for name in sorted(_names(directory), key=lambda name: name not in (_OPEN, _ENDING)):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=directory)
        finally:
            os.close(directory)
        os.rmdir(upload_id, dir_fd=uploads)
    except FileNotFoundError:
        # Somebody else removes it, too.
        return
    finally:
        os.close(uploads)


def listed(private: int, prefix: str) -> list[OpenUpload]:
    """All uploads, those included that a crash left half ended, by key."""
    try:
        uploads = os.open(_DIRECTORY, _DIRECTORY_FLAGS, dir_fd=private)
    except FileNotFoundError:
        return []
    found = []
    try:
        for upload_id in _names(uploads):
            if _ID.fullmatch(upload_id) is None:
                continue
            record = _find_record(uploads, upload_id)
            if record is not None and record.key.startswith(prefix):
                found.append(OpenUpload(record.key, upload_id, record.started))
    finally:
        os.close(uploads)
    return sorted(found, key=lambda upload: (upload.key, upload.upload_id))


def _find_record(uploads: int, upload_id: str) -> _Record | None:
    try:
        directory = os.open(upload_id, _DIRECTORY_FLAGS, dir_fd=uploads)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _read_record(directory, _OPEN) or _read_record(directory, _ENDING)
    finally:
        os.close(directory)


def remove_nameless(private: int, stale_before: float) -> None:
    """Forget what a crash has left of an upload whose record was never written, if it is older than
    ``stale_before`` (seconds since 1970)."""
    try:
        uploads = os.open(_DIRECTORY, _DIRECTORY_FLAGS, dir_fd=private)
    except OSError:
        return
    try:
        for upload_id in _names(uploads):
            try:
                modified = os.stat(upload_id, dir_fd=uploads, follow_symlinks=False).st_mtime
                if _ID.fullmatch(upload_id) and modified < stale_before:
                    _remove_if_nameless(uploads, upload_id)
            except OSError:
                # Somebody else's, or somebody else was faster: neither stands in our way.
                continue
    finally:
        os.close(uploads)


def _remove_if_nameless(uploads: int, upload_id: str) -> None:
    if _find_record(uploads, upload_id) is not None:
        return
    directory = os.open(upload_id, _DIRECTORY_FLAGS, dir_fd=uploads)
    try:
        for name in _names(directory):
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(upload_id, dir_fd=uploads)


def parts_of(private: int, key: str, upload_id: str) -> list[Part]:
    """The parts that are there, by number."""
    with _opened(private, key, upload_id) as (directory, _):
        numbers = sorted(int(name) for name in _names(directory) if _PART.fullmatch(name))
        found = (_read_part(directory, number) for number in numbers)
        return [part for part in found if part is not None]


@contextlib.contextmanager
def _opened(private: int, key: str, upload_id: str) -> Iterator[tuple[int, _Record]]:
    gone = UploadGone(f"object {key}: its upload in parts has ended")
    if _ID.fullmatch(upload_id) is None:
        raise gone
    try:
        directory = os.open(f"{_DIRECTORY}/{upload_id}", _DIRECTORY_FLAGS, dir_fd=private)
    except FileNotFoundError:
        raise gone from None
    try:
        record = _read_record(directory, _OPEN)
        if record is None or record.key != key:
            raise gone
        try:
            yield directory, record
        except FileNotFoundError:
            # It was removed under our hands.
            raise gone from None
    finally:
        os.close(directory)


@contextlib.contextmanager
def _alone(directory: int) -> Iterator[None]:
    """Wait until no part is being written."""
    try:
        file = os.open(DATA, _READ_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _is_only_ours(directory: int, file: int) -> bool:
    status = os.fstat(file)
    try:
        here = os.stat(DATA, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return here.st_ino == status.st_ino and status.st_nlink == 1


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as found:
        return [item.name for item in found]


def _part(number: int, size_bytes: int, crc32c: int) -> Part:
    return Part(number, size_bytes, f'"{crc32c:08x}-{size_bytes:x}"', crc32c)


def _read_record(directory: int, name: str) -> _Record | None:
    found = _read_file(directory, name)
    if found is None:
        return None
    fields, modified = found
    key, part_size_bytes = fields.get("key"), fields.get("part_size")
    if not isinstance(key, str) or not isinstance(part_size_bytes, int) or part_size_bytes < 1:
        return None
    return _Record(key, part_size_bytes, modified)


def _read_part(directory: int, number: int) -> Part | None:
    found = _read_file(directory, f"{number:05}")
    if found is None:
        return None
    size_bytes, crc32c = found[0].get("size"), found[0].get("crc32c")
    if not isinstance(size_bytes, int) or not isinstance(crc32c, int) or not 0 <= crc32c < 1 << 32:
        return None
    return _part(number, size_bytes, crc32c)


def _read_file(directory: int, name: str) -> tuple[dict[str, object], datetime] | None:
    """What a JSON file says; None when it is absent, or torn by a crash."""
    try:
        file = os.open(name, _READ_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        content = os.pread(file, _RECORD_BYTES_MAX, 0)
        modified = datetime.fromtimestamp(os.fstat(file).st_mtime, UTC)
    finally:
        os.close(file)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return (fields, modified) if isinstance(fields, dict) else None


def _header_of(file: int) -> Header:
    begin = os.pread(file, HEADER_BYTES_MAX, 0)
    size = header_size(begin)
    if not size:
        raise Corrupt("its upload in parts is damaged")
    # Its size is said when the upload is completed.
    return decode_header(begin[:size], None)


def _encode(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _write_file(directory: int, name: str, content: bytes) -> None:
    file = os.open(name, _CREATE_FLAGS, 0o666, dir_fd=directory)
    try:
        _write_at(file, memoryview(content), 0)
    finally:
        os.close(file)


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
