"""What this machine knows of uploads in parts that it has begun: one small file for each.

A process that is killed leaves its upload in the bucket and its record here. Whoever uploads to the same key
next finds the record, and goes on with the upload or aborts it. The record is locked for as long as its
process works on the upload, so that nobody takes what is alive; the lock dies with the process.

Records are a convenience: without one, or with a damaged one, an upload is found by its age (``sweep``).
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

_SUFFIX = ".upload"
#: A key and an id of 1 KiB each, escaped, and the checksums.
_RECORD_BYTES_MAX = 32 << 10


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An upload and the file that it is of. ``content`` says what the object will be: its checksums, and
    what it is put with."""

    bucket_url: str
    key: str
    upload_id: str
    size_bytes: int
    part_size_bytes: int
    content: str


_KINDS = {entry.name: entry.type for entry in fields(UploadRecord)}


class HeldRecord:
    """The record of one key, while this process works on it. ``found`` is what a dead one has left there.
    ``is_needed``: the upload that it is of may be in the bucket. Without a ``path`` it is written nowhere."""

    def __init__(self, path: Path | None, file: int, found: UploadRecord | None) -> None:
        self.found = found
        self.is_needed = found is not None
        self._path = path
        self._file = file

    def write(self, record: UploadRecord) -> None:
        """Remember ``record`` in place of what was there. Raises OSError."""
        if self._path is None:
            return
        content = json.dumps(asdict(record), separators=(",", ":")).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, content, 0)
        self.is_needed = True

    def end(self) -> None:
        """Let go. What is still needed stays for the next one to find."""
        if self._path is None:
            return
        if not self.is_needed:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


class UploadRecords:
    """The records in ``directory``, which is made when it is needed first. Blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def hold(self, bucket_url: str, key: str, *, create: bool = True) -> HeldRecord | None:
        """The record of a key, locked; None while another upload to it is under way here, and where there is
        none unless it is to be made. Raises OSError."""
        if create:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.sha256(f"{bucket_url}\0{key}".encode()).hexdigest()[:32]
        held = _hold(self._directory / f"{name}{_SUFFIX}", create=create)
        found = None if held is None else held.found
        if held is not None and found is not None and (found.bucket_url, found.key) != (bucket_url, key):
            # Two keys with one name do not happen by chance; somebody was here.
            held.found, held.is_needed = None, False
        return held

    def left_behind(self, bucket_url: str) -> Iterator[HeldRecord]:
        """The records of uploads in this bucket whose process has gone, locked, for the caller to end.
        Raises OSError."""
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                held = _hold(path, create=False)
            except OSError:
                # Nothing of ours, whatever its name.
                continue
            if held is None:
                continue
            if held.found is None or held.found.bucket_url != bucket_url:
                held.end()
                continue
            yield held


def _hold(path: Path, *, create: bool) -> HeldRecord | None:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        if _is_named(path, file):
            return HeldRecord(path, file, _decode(os.pread(file, _RECORD_BYTES_MAX + 1, 0)))
        # Its holder ended it between our opening and our locking.
        os.close(file)


def _is_named(path: Path, file: int) -> bool:
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file))


def _decode(content: bytes) -> UploadRecord | None:
    """None for what is no record: a crash may have torn it, and anybody may have put it there."""
    if not content or len(content) > _RECORD_BYTES_MAX:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.keys() != _KINDS.keys():
        return None
    # type() and not isinstance(): True is an int there.
    if any(type(found[name]) is not kind for name, kind in _KINDS.items()):
        return None
    record = UploadRecord(**found)
    return record if record.size_bytes > 0 and record.part_size_bytes > 0 else None
