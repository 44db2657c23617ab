"""The contract of uploads in parts as tests: what every bucket must do that has them, and say that has none.

Subclass it as ``BucketContract`` is, with the same fixtures.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar, TypeVar

import pytest

from bucketry.bucket.interface import Attributes, Bucket, ByteRange, IfAbsent, IfMatch, OpenUpload, Part
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    Closed,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unsupported,
    UploadGone,
)
from bucketry.testing.bucket_contract import (
    ODD_KEYS,
    REFUSED_KEYS,
    BucketFixtures,
    OpenBucket,
    all_entries,
    all_keys,
    opened,
)

_T = TypeVar("_T")

#: Competitors in a race.
_COMPETITORS = 8
#: The least that S3 takes.
PART_SIZE = 5 << 20
#: Where smaller parts are taken: tests need not be large.
_SMALL_PART_SIZE = 64 << 10


async def _all_of(pages: AsyncIterator[list[_T]]) -> list[_T]:
    return [item for page in [page async for page in pages] for item in page]


def _part_size(bucket: Bucket) -> int:
    return max(_SMALL_PART_SIZE, bucket.upload_limits.part_size_min_bytes)


class UploadContract(BucketFixtures):
    """See the module. Each test's first line is a sentence of the contract."""

    #: Answers to the begin of an upload get lost here: there may be uploads that nobody knows.
    may_leave_uploads: ClassVar[bool] = False
    #: SeaweedFS 4.48 and moto 5.2 look whether the key is free and make the object in two steps: of those who
    #: complete within the same milliseconds several are told that they did.
    completes_atomically: ClassVar[bool] = True

    async def _uploads(self, bucket: Bucket, known: Iterable[str] = (), prefix: str = "") -> list[OpenUpload]:
        """The open uploads; of those that may have been left, only the known ones."""
        ids = set(known)
        found = await _all_of(bucket.list_uploads(prefix=prefix))
        return [upload for upload in found if not self.may_leave_uploads or upload.upload_id in ids]

    async def test_upload_limits(self, bucket: Bucket) -> None:
        """A bucket says how large a put and a part may be; without parts every verb of uploads is
        Unsupported, in one line that says what to do."""
        limits = bucket.upload_limits
        assert limits.put_size_max_bytes >= 1 << 30
        if limits.parts_max:
            assert limits.parts_max >= 1000
            assert 1 <= limits.part_size_min_bytes <= PART_SIZE <= limits.part_size_max_bytes
            return
        for call in (
            lambda: bucket.create_upload("key", part_size_bytes=PART_SIZE),
            lambda: bucket.put_part("key", "id", 1, b"x"),
            lambda: bucket.complete_upload("key", "id", [Part(1, 1, "tag")]),
            lambda: bucket.abort_upload("key", "id"),
            lambda: _all_of(bucket.list_uploads()),
            lambda: _all_of(bucket.list_parts("key", "id")),
        ):
            with pytest.raises(Unsupported) as caught:
                await call()
            assert limits.why_no_parts in str(caught.value)
            assert "\n" not in str(caught.value)

    async def test_upload_of_parts(self, bucket: Bucket) -> None:
        """Parts put in any order make one object, with the attributes given at the begin; nobody sees it
        before."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        data = [b"1" * size, b"2" * size, b"the end"]
        attributes = Attributes("text/plain", "deflate", {"n": "1", "x": "y z"})
        upload_id = await bucket.create_upload("up/key", part_size_bytes=size, attributes=attributes)
        parts = {}
        for number in (3, 1, 2):
            parts[number] = await bucket.put_part("up/key", upload_id, number, data[number - 1])
            assert (parts[number].number, parts[number].size_bytes) == (number, len(data[number - 1]))
        with pytest.raises(NotFound):
            await bucket.head("up/key")
        assert await all_keys(bucket) == []
        etag = await bucket.complete_upload(
            "up/key", upload_id, [parts[1], parts[2], parts[3]], condition=IfAbsent()
        )
        found = await bucket.get("up/key")
        assert bytes(found.data) == b"".join(data)
        assert found.info.etag == etag == (await bucket.head("up/key")).etag
        assert found.info.size_bytes == sum(map(len, data))
        assert found.info.attributes.content_type == "text/plain"
        assert found.info.attributes.content_encoding == "deflate"
        assert dict(found.info.attributes.metadata) == {"n": "1", "x": "y z"}
        middle = await bucket.get("up/key", byte_range=ByteRange(size - 1, size + 1))
        assert bytes(middle.data) == b"12"
        assert [(e.key, e.size_bytes) for e in await all_entries(bucket)] == [
            ("up/key", found.info.size_bytes)
        ]
        assert await self._uploads(bucket, [upload_id]) == []

    async def test_parts_at_once(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Parts may be put at once and by several, and one part is enough for an object."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        for count in (1, 4):
            key = f"at once/{count}"
            upload_id = await bucket.create_upload(key, part_size_bytes=size)
            async with opened(open_bucket, count) as buckets:
                parts = await asyncio.gather(
                    *(
                        b.put_part(
                            key,
                            upload_id,
                            number,
                            memoryview(bytes([number])) if number == count else bytes([number]) * size,
                        )
                        for number, b in enumerate(buckets, 1)
                    )
                )
            await bucket.complete_upload(key, upload_id, parts)
            expected = b"".join(bytes([number]) * size for number in range(1, count)) + bytes([count])
            assert bytes((await bucket.get(key)).data) == expected

    async def test_part_is_replaced(self, bucket: Bucket) -> None:
        """A part that is put again takes the place of the first one."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        await bucket.put_part("key", upload_id, 1, b"first try")
        again = await bucket.put_part("key", upload_id, 1, b"second")
        # Where both are kept, none may be listed, but not the first.
        assert [p.size_bytes for p in await _all_of(bucket.list_parts("key", upload_id))] in ([6], [])
        await bucket.complete_upload("key", upload_id, [again])
        assert bytes((await bucket.get("key")).data) == b"second"

    async def test_lists_of_uploads_and_parts(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Open uploads are listed by the begin of their key, their parts by number with tag, size and, if
        at all, the right checksum; also by who opens the bucket later. So a stranger can go on with one."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        ids = {}
        for key in ("dir/a", "dir/b", "dir-c", "other"):
            ids[key] = await bucket.create_upload(key, part_size_bytes=size)
        second = await bucket.create_upload("dir/a", part_size_bytes=size)
        put = [await bucket.put_part("dir/a", second, number, b"%d" % number) for number in (2, 1)]
        async with opened(open_bucket, 1) as (again,):
            for prefix, keys in (
                ("dir/", ["dir/a", "dir/a", "dir/b"]),
                ("dir/a", ["dir/a", "dir/a"]),
                ("", ["dir-c", "dir/a", "dir/a", "dir/b", "other"]),
                ("x", []),
            ):
                found = await self._uploads(again, {*ids.values(), second}, prefix)
                assert sorted(upload.key for upload in found) == keys, prefix
                for upload in found:
                    assert upload.upload_id in (ids[upload.key], second)
            parts = await _all_of(again.list_parts("dir/a", second))
            assert [(p.number, p.size_bytes) for p in parts] == [(1, 1), (2, 1)]
            for part, known in zip(parts, reversed(put), strict=True):
                assert part.tag == known.tag
                assert part.crc32c in (None, known.crc32c)
            first = await again.put_part("dir/b", ids["dir/b"], 1, b"by another")
            await again.complete_upload("dir/b", ids["dir/b"], [first])
        assert bytes((await bucket.get("dir/b")).data) == b"by another"
        assert await _all_of(bucket.list_parts("other", ids["other"])) == []
        for key, upload_id in [*ids.items(), ("dir/a", second)]:
            await bucket.abort_upload(key, upload_id)
        assert await self._uploads(bucket, {*ids.values(), second}) == []

    async def test_uploads_have_times(self, bucket: Bucket) -> None:
        """An open upload says when it began, if at all, within minutes of our clock."""
        if not bucket.upload_limits.parts_max:
            return
        upload_id = await bucket.create_upload("key", part_size_bytes=_part_size(bucket))
        for upload in await self._uploads(bucket, [upload_id]):
            if upload.started is not None:
                assert abs(upload.started - datetime.now(UTC)) < timedelta(minutes=5)
        await bucket.abort_upload("key", upload_id)

    async def test_abort(self, bucket: Bucket) -> None:
        """An aborted upload is gone: no object, no part, UploadGone for who goes on; aborting is repeatable,
        and an object of the same key stays."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        await bucket.put("key", b"before")
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        part = await bucket.put_part("key", upload_id, 1, b"x")
        await bucket.abort_upload("key", upload_id)
        await bucket.abort_upload("key", upload_id)
        assert await self._uploads(bucket, [upload_id]) == []
        for call in (
            lambda: bucket.complete_upload("key", upload_id, [part]),
            lambda: _all_of(bucket.list_parts("key", upload_id)),
        ):
            with pytest.raises(UploadGone) as caught:
                await call()
            assert "key" in str(caught.value)
        assert bytes((await bucket.get("key")).data) == b"before"

    async def test_part_of_an_aborted_upload(self, bucket: Bucket) -> None:
        """A part of an upload that is gone is UploadGone, and makes nothing."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        await bucket.put_part("key", upload_id, 1, b"x")
        await bucket.abort_upload("key", upload_id)
        with pytest.raises(UploadGone):
            await bucket.put_part("key", upload_id, 2, b"x")
        assert await self._uploads(bucket, [upload_id]) == []

    async def test_completed_upload_is_gone(self, bucket: Bucket) -> None:
        """A completed upload is not listed, and aborting it leaves the object alone."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        part = await bucket.put_part("key", upload_id, 1, b"x")
        await bucket.complete_upload("key", upload_id, [part], condition=IfAbsent())
        assert await self._uploads(bucket, [upload_id]) == []
        await bucket.abort_upload("key", upload_id)
        assert bytes((await bucket.get("key")).data) == b"x"

    async def test_complete_if_absent(self, bucket: Bucket) -> None:
        """Completing with IfAbsent where an object is fails with AlreadyExists and changes nothing; the
        upload is still open, and can be completed when the object has gone."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        part = await bucket.put_part("key", upload_id, 1, b"second")
        etag = await bucket.put("key", b"first")
        with pytest.raises(AlreadyExists):
            await bucket.complete_upload("key", upload_id, [part], condition=IfAbsent())
        found = await bucket.get("key")
        assert (bytes(found.data), found.info.etag) == (b"first", etag)
        assert [u.upload_id for u in await self._uploads(bucket, [upload_id])] == [upload_id]
        await bucket.delete("key")
        await bucket.complete_upload("key", upload_id, [part], condition=IfAbsent())
        assert bytes((await bucket.get("key")).data) == b"second"

    async def test_complete_if_match(self, bucket: Bucket) -> None:
        """Completing with IfMatch replaces the object that was seen, no other; without a condition, any."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        for etag, expected in (("first", b"parts"), ("old", b"now"), (None, b"parts")):
            old = await bucket.put("key", b"then")
            now = await bucket.put("key", b"now")
            upload_id = await bucket.create_upload("key", part_size_bytes=size)
            part = await bucket.put_part("key", upload_id, 1, b"parts")
            condition = None if etag is None else IfMatch(old if etag == "old" else now)
            if expected == b"now":
                with pytest.raises(PreconditionFailed):
                    await bucket.complete_upload("key", upload_id, [part], condition=condition)
                await bucket.abort_upload("key", upload_id)
            else:
                await bucket.complete_upload("key", upload_id, [part], condition=condition)
            assert bytes((await bucket.get("key")).data) == expected

    async def test_one_of_many_completes(self, open_bucket: OpenBucket, bucket: Bucket) -> None:
        """Of many that complete uploads of one key with IfAbsent at once, one succeeds and stays."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)

        async def make(own: Bucket, letter: bytes) -> str:
            upload_id = await own.create_upload("race", part_size_bytes=size)
            part = await own.put_part("race", upload_id, 1, letter)
            try:
                return await own.complete_upload("race", upload_id, [part], condition=IfAbsent())
            finally:
                await own.abort_upload("race", upload_id)

        letters = [bytes([97 + index]) for index in range(_COMPETITORS)]
        async with opened(open_bucket, _COMPETITORS) as buckets:
            results = await asyncio.gather(*map(make, buckets, letters), return_exceptions=True)
        winners = [letter for letter, result in zip(letters, results, strict=True) if isinstance(result, str)]
        assert bytes((await bucket.get("race")).data) in winners
        assert len(winners) == 1 or not self.completes_atomically
        losers = [result for result in results if not isinstance(result, str)]
        assert all(isinstance(result, AlreadyExists) for result in losers), losers
        assert await self._uploads(bucket) == []

    async def test_wrong_parts(self, bucket: Bucket) -> None:
        """Parts with gaps, in another order, of two sizes, or none at all make no object; nor do parts that
        nobody put. The upload stays open."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        limits = bucket.upload_limits
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        one = await bucket.put_part("key", upload_id, 1, b"x" * size)
        two = await bucket.put_part("key", upload_id, 2, b"y")
        for parts in ([], [two], [two, one], [one, one], [replace(two, number=1), replace(one, number=2)]):
            with pytest.raises(Invalid):
                await bucket.complete_upload("key", upload_id, parts)
        for number, data in ((0, b"x"), (-1, b"x"), (limits.parts_max + 1, b"x"), (1, b"")):
            with pytest.raises(Invalid):
                await bucket.put_part("key", upload_id, number, data)
        for wrong in (0, limits.part_size_min_bytes - 1, limits.part_size_max_bytes + 1):
            with pytest.raises(Invalid):
                await bucket.create_upload("key", part_size_bytes=wrong)
        assert await all_keys(bucket) == []
        await bucket.complete_upload("key", upload_id, [one, two])
        assert (await bucket.head("key")).size_bytes == size + 1

    async def test_part_that_was_not_put(self, bucket: Bucket) -> None:
        """A part whose tag is not the one that the store gave makes no object."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        one = await bucket.put_part("key", upload_id, 1, b"x")
        with pytest.raises(Invalid):
            await bucket.complete_upload(
                "key", upload_id, [replace(one, tag='"00000000000000000000000000000000"', crc32c=0)]
            )
        assert await all_keys(bucket) == []
        await bucket.abort_upload("key", upload_id)

    async def test_uploads_and_refused_keys(self, bucket: Bucket) -> None:
        """Keys that are refused for puts are refused for uploads."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        for key in REFUSED_KEYS:
            with pytest.raises(Invalid):
                await bucket.create_upload(key, part_size_bytes=size)

    async def test_uploads_of_odd_keys(self, bucket: Bucket) -> None:
        """Keys of uploads are text, too, and come back from the listing as they are."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        for key in ODD_KEYS:
            upload_id = await bucket.create_upload(key, part_size_bytes=size)
            assert [u.key for u in await self._uploads(bucket, [upload_id], key)] == [key]
            part = await bucket.put_part(key, upload_id, 1, b"x")
            await bucket.complete_upload(key, upload_id, [part])
        assert sorted(await all_keys(bucket)) == sorted(ODD_KEYS)

    async def test_uploads_in_a_missing_bucket(self, open_missing_bucket: OpenBucket | None) -> None:
        """In a missing bucket no upload begins, and none is listed as absent."""
        if open_missing_bucket is None:
            return
        bucket = await open_missing_bucket()
        try:
            if bucket.upload_limits.parts_max:
                for call in (
                    lambda: bucket.create_upload("key", part_size_bytes=PART_SIZE),
                    lambda: _all_of(bucket.list_uploads()),
                ):
                    with pytest.raises(BucketNotFound):
                        await call()
        finally:
            await bucket.close()

    async def test_uploads_after_close(self, bucket: Bucket) -> None:
        """After close uploads are Closed, as everything is."""
        if not bucket.upload_limits.parts_max:
            return
        size = _part_size(bucket)
        upload_id = await bucket.create_upload("key", part_size_bytes=size)
        await bucket.abort_upload("key", upload_id)
        await bucket.close()
        for call in (
            lambda: bucket.create_upload("key", part_size_bytes=size),
            lambda: bucket.put_part("key", upload_id, 1, b"x"),
            lambda: bucket.abort_upload("key", upload_id),
            lambda: _all_of(bucket.list_uploads()),
        ):
            with pytest.raises(Closed):
                await call()
