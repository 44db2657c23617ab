"""What a machine knows of uploads that it has begun."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bucketry.files.upload_records import UploadRecord, UploadRecords

RECORD = UploadRecord("s3://bucket", "dir/key", "id-1", 100, 10, "what it will be")


def test_a_record_is_found_after_its_holder_has_gone(tmp_path: Path) -> None:
    """What was written and is still needed is there for the next one, and for nobody while it is held."""
    records = UploadRecords(tmp_path / "below" / "records")
    held = records.hold("s3://bucket", "dir/key")
    assert held is not None
    assert held.found is None
    held.write(RECORD)
    assert records.hold("s3://bucket", "dir/key") is None
    assert list(records.left_behind("s3://bucket")) == []
    held.end()
    again = records.hold("s3://bucket", "dir/key")
    assert again is not None
    assert again.found == RECORD
    again.is_needed = False
    again.end()
    assert list((tmp_path / "below" / "records").iterdir()) == []


def test_records_of_other_keys_and_buckets_are_apart(tmp_path: Path) -> None:
    """Each key of each bucket has a record of its own; those left behind are told by bucket."""
    records = UploadRecords(tmp_path)
    for url in ("s3://bucket", "s3://other"):
        held = records.hold(url, "dir/key")
        assert held is not None
        held.write(UploadRecord(url, "dir/key", f"id of {url}", 100, 10, ""))
        held.end()
    (left,) = records.left_behind("s3://other")
    assert left.found is not None
    assert left.found.upload_id == "id of s3://other"
    left.is_needed = False
    left.end()
    assert list(records.left_behind("s3://other")) == []
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"key": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * 40_000,
        json.dumps({**asdict(RECORD), "size_bytes": "100"}).encode(),
        json.dumps({**asdict(RECORD), "size_bytes": True}).encode(),
        json.dumps({**asdict(RECORD), "part_size_bytes": 0}).encode(),
        json.dumps({**asdict(RECORD), "more": 1}).encode(),
        json.dumps({**asdict(RECORD), "key": "another"}).encode(),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_damaged_record_is_none(content: bytes, tmp_path: Path) -> None:
    """Torn, foreign or absurd content counts as nothing, and is removed in the end."""
    records = UploadRecords(tmp_path)
    first = records.hold("s3://bucket", "dir/key")
    assert first is not None
    first.write(RECORD)
    first.end()
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    held = records.hold("s3://bucket", "dir/key")
    assert held is not None
    assert held.found is None
    held.end()
    assert not path.exists()


def test_a_link_in_place_of_a_record_is_not_followed(tmp_path: Path) -> None:
    """What it leads to is not touched."""
    records = UploadRecords(tmp_path / "records")
    held = records.hold("s3://bucket", "dir/key")
    assert held is not None
    held.write(RECORD)
    held.end()
    (path,) = (tmp_path / "records").iterdir()
    path.unlink()
    (tmp_path / "precious").write_text("precious")
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        records.hold("s3://bucket", "dir/key")
    assert list(records.left_behind("s3://bucket")) == []
    assert (tmp_path / "precious").read_text() == "precious"
