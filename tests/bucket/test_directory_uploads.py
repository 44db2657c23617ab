"""Uploads in parts in a directory bucket: what lies there, and what crashes and strangers may leave."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.interface import Attributes, Bucket, IfAbsent, IfMatch, OpenUpload, Part
from bucketry.errors import AlreadyExists, BucketryError, Corrupt, Invalid, UploadGone

SIZE = 64 << 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def opened(root: Path) -> Bucket:
    return DirectoryBucket(root, threads_count_max=4)


async def uploads(bucket: Bucket) -> list[OpenUpload]:
    return [
        upload for upload_page in [page async for page in bucket.list_uploads()] for upload in upload_page
    ]


async def parts_of(bucket: Bucket, upload_id: str) -> list[Part]:
    return [
        part for part_page in [p async for p in bucket.list_parts("dir/key", upload_id)] for part in part_page
    ]


def upload_directory(root: Path) -> Path:
    (found,) = (root / ".bucketry/uploads").iterdir()
    return found


async def test_completing_copies_nothing(root: Path) -> None:
    """The file into which the parts were written becomes the object's; nothing of the upload stays."""
    bucket = opened(root)
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    parts = [await bucket.put_part("dir/key", upload_id, number, b"x" * SIZE) for number in (1, 2)]
    inode = (upload_directory(root) / "data").stat().st_ino
    await bucket.complete_upload("dir/key", upload_id, parts, condition=IfAbsent())
    assert (root / "dir/key").stat().st_ino == inode
    assert (root / "dir/key").stat().st_nlink == 1
    assert list((root / ".bucketry/uploads").iterdir()) == []
    await bucket.close()


async def test_unused_parts_are_cut_off(root: Path) -> None:
    """An object made of the first parts has nothing of later ones."""
    bucket = opened(root)
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    parts = [await bucket.put_part("dir/key", upload_id, number, b"x" * SIZE) for number in (1, 2, 3)]
    await bucket.complete_upload("dir/key", upload_id, parts[:2])
    assert (await bucket.head("dir/key")).size_bytes == 2 * SIZE
    assert len((await bucket.get("dir/key")).data) == 2 * SIZE
    await bucket.close()


@pytest.mark.parametrize("upload_id", ["", "..", "../../dir", "x" * 32, "0" * 32, "0" * 31, "é" * 32, "a/b"])
async def test_foreign_ids_lead_nowhere(root: Path, upload_id: str) -> None:
    """An id is a name for nothing but an upload of ours: others are gone, and aborting them does nothing."""
    bucket = opened(root)
    (root / "dir").mkdir()
    (root / "dir/upload").write_text(json.dumps({"key": "dir/key", "part_size": SIZE}))
    await bucket.put("other", b"x")
    for call in (
        lambda: bucket.put_part("dir/key", upload_id, 1, b"x"),
        lambda: bucket.complete_upload("dir/key", upload_id, [Part(1, 1, "t")]),
        lambda: parts_of(bucket, upload_id),
    ):
        with pytest.raises(UploadGone):
            await call()
    await bucket.abort_upload("dir/key", upload_id)
    assert (root / "dir/upload").exists()
    await bucket.close()


async def test_an_upload_belongs_to_its_key(root: Path) -> None:
    """With another key it is gone, and is not aborted."""
    bucket = opened(root)
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    with pytest.raises(UploadGone):
        await bucket.put_part("dir/other", upload_id, 1, b"x")
    await bucket.abort_upload("dir/other", upload_id)
    assert [upload.upload_id for upload in await uploads(bucket)] == [upload_id]
    await bucket.close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"size": "1", "crc32c": 1}', b'{"size": 1}', b"[1]", b"\xff"]
)
async def test_a_torn_part_is_no_part(root: Path, content: bytes) -> None:
    """What a crash left half written is not listed, makes no object, and can be put again."""
    bucket = opened(root)
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    part = await bucket.put_part("dir/key", upload_id, 1, b"hello")
    (upload_directory(root) / "00001").write_bytes(content)
    assert await parts_of(bucket, upload_id) == []
    with pytest.raises(Invalid, match="part 1 is not the one"):
        await bucket.complete_upload("dir/key", upload_id, [part])
    again = await bucket.put_part("dir/key", upload_id, 1, b"hello")
    assert again == part
    await bucket.complete_upload("dir/key", upload_id, [again])
    assert (await bucket.get("dir/key")).data == b"hello"
    await bucket.close()


async def test_a_damaged_record_is_no_upload(root: Path) -> None:
    """It is not listed; what it was of is gone."""
    bucket = opened(root)
    for content in (b"", b"{", b"[]", b'{"key": 1, "part_size": 1}', b'{"key": "k", "part_size": 0}'):
        upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
        (root / ".bucketry/uploads" / upload_id / "upload").write_bytes(content)
        assert await uploads(bucket) == []
        with pytest.raises(UploadGone):
            await bucket.put_part("dir/key", upload_id, 1, b"x")
        await bucket.abort_upload("dir/key", upload_id)
        assert list((root / ".bucketry/uploads").iterdir()) == []
    await bucket.close()


async def test_damaged_data_is_corrupt(root: Path) -> None:
    """A file that does not begin with our header takes no part."""
    bucket = opened(root)
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    for content in (b"", b"something else", b"\x89Bkty\r\n\x1a" + bytes(100)):
        (upload_directory(root) / "data").write_bytes(content)
        with pytest.raises(Corrupt):
            await bucket.put_part("dir/key", upload_id, 1, b"x")
    await bucket.close()


async def test_a_crash_while_completing(root: Path) -> None:
    """Between the object's name and the end of the upload: the object is whole, nobody can write into it
    any more, the upload is still listed, and aborting it leaves the object alone."""
    bucket = opened(root)
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    part = await bucket.put_part("dir/key", upload_id, 1, b"hello")
    # As it is then: the record is set aside, and the object is a second name of the data.
    below = upload_directory(root)
    await bucket.complete_upload("dir/key", upload_id, [part])
    below.mkdir()
    os.link(root / "dir/key", below / "data")
    (below / "ending").write_text(json.dumps({"key": "dir/key", "part_size": SIZE}))
    assert [upload.upload_id for upload in await uploads(bucket)] == [upload_id]
    for call in (
        lambda: bucket.put_part("dir/key", upload_id, 1, b"other"),
        lambda: bucket.complete_upload("dir/key", upload_id, [part]),
    ):
        with pytest.raises(UploadGone):
            await call()
    await bucket.abort_upload("dir/key", upload_id)
    assert await uploads(bucket) == []
    assert (await bucket.get("dir/key")).data == b"hello"
    await bucket.close()


async def test_what_has_no_record_is_removed_when_it_is_old(root: Path) -> None:
    """A crash between making the place of an upload and its record; what is young is left alone, and so is
    what is not ours."""
    bucket = opened(root)
    await bucket.create_upload("dir/key", part_size_bytes=SIZE)
    old, young, foreign = (root / ".bucketry/uploads" / name for name in ("0" * 32, "1" * 32, "foreign"))
    for path in (old, young, foreign):
        path.mkdir()
        (path / "data").write_bytes(b"x")
    for path in (old, foreign):
        os.utime(path, (1, 1))
    await bucket.close()
    again = opened(root)
    await again.put("other", b"x")
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()
    assert len(await uploads(again)) == 1
    await again.close()


async def test_parts_that_come_late_never_reach_an_object(root: Path) -> None:
    """Parts are still being put while the upload is completed or aborted: they are in time, or gone; the
    object is what was completed."""
    bucket = opened(root)
    for turn in range(20):
        key = f"turn-{turn}"
        upload_id = await bucket.create_upload(key, part_size_bytes=SIZE, attributes=Attributes("a/b"))
        part = await bucket.put_part(key, upload_id, 1, b"a" * SIZE)

        async def end(
            key: str = key, upload_id: str = upload_id, part: Part = part, turn: int = turn
        ) -> None:
            if turn % 2:
                await bucket.complete_upload(key, upload_id, [part])
            else:
                await bucket.abort_upload(key, upload_id)

        late = [bucket.put_part(key, upload_id, 2 + index, b"b" * SIZE) for index in range(3)]
        outcomes = await asyncio.gather(*late[:1], end(), *late[1:], return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(isinstance(error, UploadGone) for error in errors), errors
        if turn % 2:
            assert bytes((await bucket.get(key)).data) == b"a" * SIZE
        assert list((root / ".bucketry/uploads").iterdir()) == []
    await bucket.close()


async def test_a_refused_completion_changes_nothing(root: Path) -> None:
    """However often and under whatever condition it is refused, the upload can be completed afterwards."""
    bucket = opened(root)
    etag = await bucket.put("dir/key", b"there")
    upload_id = await bucket.create_upload("dir/key", part_size_bytes=SIZE, attributes=Attributes("a/b"))
    parts = [await bucket.put_part("dir/key", upload_id, number, b"x" * SIZE) for number in (1, 2)]
    refusals: list[tuple[IfAbsent | IfMatch, type[BucketryError]]] = [(IfAbsent(), AlreadyExists)]
    for condition, error in refusals * 2:
        with pytest.raises(error):
            await bucket.complete_upload("dir/key", upload_id, parts, condition=condition)
    parts.append(await bucket.put_part("dir/key", upload_id, 3, b"the end"))
    await bucket.complete_upload("dir/key", upload_id, parts, condition=IfMatch(etag))
    found = await bucket.get("dir/key")
    assert bytes(found.data) == b"x" * 2 * SIZE + b"the end"
    assert found.info.attributes.content_type == "a/b"
    await bucket.close()
