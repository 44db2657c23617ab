"""A local file becomes an object that is made once: durable when ``upload`` returns, or not there at all.

The file is read twice. First it is summed; its checksums (``core/pieces.py``) go into the object's metadata,
which a store wants before the bytes. Then it is sent, in one put or in parts side by side, and what is read
then must sum to the same: a file that somebody writes to is refused, and a mixture never becomes an object.

Create-if-absent, made idempotent: where an object is already, its content is compared; the same content is
success, another is AlreadyExists. So after a crash, a lost answer or a race of equals the file is just
uploaded again.

::

    sum ── small ──→ put if absent ─────────────────────────────────┐ conflict: compare, succeed or refuse
     └──── large ──→ look ─→ begin or resume ─→ parts ─→ look ─→ complete if absent ─→ look again

An upload in parts that does not come to its end is aborted; one whose process was killed is found by its
record (``upload_records.py``) or by its age (``sweep``), and resumed where the parts that are there have the
right checksums. When an object is complete, other uploads of its key are pointless and are aborted: whoever
works on one is told UploadGone, looks, and finds the object.

Some stores check the condition of a completion and make the object in two steps (SeaweedFS), or not at all.
There we look right before and right after; of two who complete different contents in the same moment both
may be told that they did. Then the second one's object stays, whole, and whoever looks later sees it.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c

from bucketry.bucket.conditions import find_out, find_out_beside, warn_once
from bucketry.bucket.interface import Attributes, Bucket, ByteRange, IfAbsent, ObjectInfo, Part
from bucketry.codec.offload import Offload
from bucketry.core.pieces import PIECES_METADATA, Pieces, PieceSummer, decode, encode
from bucketry.core.priority import Priority
from bucketry.core.upload_plan import UploadPlan, plan_upload
from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Corrupt,
    CredentialsRefused,
    Denied,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
    UploadGone,
)
from bucketry.files.local_file import SUM_CHUNK_BYTES, LocalFile
from bucketry.files.upload_records import HeldRecord, UploadRecord, UploadRecords
from bucketry.settings import UploadSettings

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

#: Somebody may end our upload, or remove the object that was in our way: we begin anew, so often.
_ATTEMPTS_MAX = 5
#: So large a file is put twice to see whether the store keeps conditions: that takes hardly longer than a
#: request without a body. For a larger one an object of no bytes beside it tells.
_PROBE_BYTES_MAX = 1 << 20
#: How long an upload that failed or was cancelled is waited for to be aborted. Its record stays otherwise.
_ABORT_SECONDS = 10.0
#: A part that was under way may arrive after the upload was aborted: then it is aborted again.
_ABORT_PAUSES_SECONDS = (0.05, 0.2, 0.5, 1.0)
#: Read of an object without checksums of ours, to compare it.
_COMPARE_BYTES = 8 << 20
#: An ETag of a part that is the MD5 of its bytes.
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What is in the bucket now. ``was_there``: it was before, with this content."""

    etag: str
    size_bytes: int
    pieces: Pieces
    was_there: bool


@dataclass(frozen=True, slots=True)
class _Summed:
    """The file as it was when it was summed. ``part_crcs``: of each part, in order; empty without parts."""

    plan: UploadPlan
    pieces: Pieces
    part_crcs: tuple[int, ...]
    attributes: Attributes

    @property
    def content(self) -> str:
        """What the object will be, for the record of its upload."""
        attributes = self.attributes
        kept = (
            attributes.content_type,
            attributes.content_encoding,
            sorted((name, value) for name, value in attributes.metadata.items()),
        )
        return hashlib.sha256(repr(kept).encode()).hexdigest()


async def _in_a_thread(work: Callable[[], _T], /) -> _T:
    return await asyncio.to_thread(work)


async def upload(
    bucket: Bucket,
    key: str,
    source: Path | int,
    *,
    settings: UploadSettings | None = None,
    attributes: Attributes | None = None,
    records: UploadRecords | None = None,
    progress: Callable[[int], None] | None = None,
    priority: Priority = Priority.UPLOAD,
    offload: Offload = _in_a_thread,
) -> Uploaded:
    """Put the local file ``source`` (a path, or an open descriptor that stays the caller's) at ``key``, where
    nothing may be but the same content.

    Raises OSError for the local file, naming it (FileNotFoundError and nothing else says that it is absent);
    Busy when it was changed meanwhile; AlreadyExists when another content is there; Unavailable and Throttled
    when the bucket's budget of retries ended; BucketNotFound, Denied, Unsupported (too large for this store).
    After an error, or a cancellation, no object and no parts are left, unless the store cannot be reached.

    ``bucket`` is retrying and limited; memory is limited by ``settings``. ``records`` remembers uploads over
    the end of the process. ``progress`` is told how many bytes are in the bucket so far. ``offload`` runs
    what blocks.
    """
    wishes = UploadSettings() if settings is None else settings
    file = await _obtained(offload(lambda: LocalFile(source)), LocalFile.close)
    try:
        plan = plan_upload(
            file.size_bytes,
            **asdict(bucket.upload_limits),
            whole_max_bytes=wishes.whole_max_bytes,
            part_size_bytes=wishes.part_size_bytes,
            memory_bytes=wishes.memory_bytes,
        )
        if plan.part_size_bytes is None:
            work = _upload_whole(bucket, key, file, plan, attributes or Attributes(), priority, offload)
            uploaded = await work
            await _forget_left(bucket, key, records, priority, offload)
            if progress is not None:
                progress(uploaded.size_bytes)
            return uploaded
        return await _LargeUpload(
            bucket, key, file, plan, attributes or Attributes(), records, progress, priority, offload
        ).run()
    finally:
        file.close()


async def sweep(
    bucket: Bucket,
    *,
    prefix: str = "",
    older_than_seconds: float,
    records: UploadRecords | None = None,
    offload: Offload = _in_a_thread,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Abort the uploads in parts below ``prefix`` that nobody will complete: those that records say a dead
    process left, and those that began longer ago than ``older_than_seconds`` by the store's clock (of which
    this one should not differ much). How many there were. An upload that is still alive begins anew."""
    if not bucket.upload_limits.parts_max:
        return 0
    aborted_count = 0
    if records is not None:
        with ExitStack() as stack:
            left = await _obtained(offload(lambda: list(records.left_behind(bucket.url))), _end_all)
            for held in left:
                stack.callback(held.end)
            for held in left:
                if held.found is not None and held.found.key.startswith(prefix):
                    await bucket.abort_upload(held.found.key, held.found.upload_id)
                    held.is_needed = False
                    aborted_count += 1
    stale = [
        (opened.key, opened.upload_id)
        async for page in bucket.list_uploads(prefix=prefix)
        for opened in page
        if opened.started is not None and (now() - opened.started).total_seconds() > older_than_seconds
    ]
    for key, upload_id in stale:
        await bucket.abort_upload(key, upload_id)
    return aborted_count + len(stale)


async def _upload_whole(
    bucket: Bucket,
    key: str,
    file: LocalFile,
    plan: UploadPlan,
    attributes: Attributes,
    priority: Priority,
    offload: Offload,
) -> Uploaded:
    data = await offload(lambda: file.read(0, plan.size_bytes))
    summed = await offload(lambda: _sum(file, plan, attributes, data))
    for _ in range(_ATTEMPTS_MAX):
        try:
            etag = await _put_where_absent(bucket, key, data, summed, priority)
        except AlreadyExists:
            pass
        else:
            if bucket.conditions.kept is not True:
                etag = await _etag_of_ours(bucket, key, etag, file, summed, offload)
            return Uploaded(etag, plan.size_bytes, summed.pieces, was_there=False)
        try:
            found = await _find_same(bucket, key, file, summed, offload)
        except CredentialsRefused:
            raise  # of keys that have ended, not of rights
        except Denied as error:
            raise AlreadyExists(f"{bucket.url}: object {key} exists, and may not be read") from error
        if found is not None:
            return found
        # It was removed meanwhile.
    raise Unavailable(f"{bucket.url}: object {key} comes and goes while it is uploaded")


async def _put_where_absent(
    bucket: Bucket, key: str, data: bytes, summed: _Summed, priority: Priority
) -> str:
    """Put the object, and return its ETag. Raises AlreadyExists.

    A store that keeps conditions says itself what is there. Where it does not, or nobody knows yet, that is
    looked at before; unless it surely does, the caller looks once more after."""
    conditions = bucket.conditions
    if conditions.kept is None and len(data) > _PROBE_BYTES_MAX:
        await find_out_beside(bucket, key, priority)
    if conditions.kept is not True:
        try:
            await _look(bucket, key)
        except _AbsentError:
            pass
        except CredentialsRefused:
            raise  # of keys that have ended, not of rights
        except Denied:
            # Who may only write cannot look, and relies on the condition.
            if conditions.kept is None:
                await find_out_beside(bucket, key, priority)
            if conditions.kept is False:
                raise
        else:
            raise AlreadyExists(f"{bucket.url}: object {key} exists")
    condition = IfAbsent() if conditions.kept is not False else None
    try:
        etag = await bucket.put(
            key, data, attributes=summed.attributes, condition=condition, priority=priority
        )
    except Unsupported:
        # Perhaps it is the condition that the store does not know. What it is else, the second put says.
        if condition is None:
            raise
        conditions.kept = False
        return await _put_where_absent(bucket, key, data, summed, priority)
    if conditions.kept is None and not conditions.is_tried:
        # Of many who put at once, one does.
        await find_out(bucket, key, data, summed.attributes, priority)
    if conditions.kept is False:
        _warn(bucket)
    return etag


async def _etag_of_ours(
    bucket: Bucket, key: str, etag: str, file: LocalFile, summed: _Summed, offload: Offload
) -> str:
    """For stores that do not keep conditions: what is there after our put or completion, which gave ``etag``,
    is ours or equal. Raises AlreadyExists otherwise."""
    try:
        if (await _look(bucket, key)).etag != etag:
            # Replaced, or a store that names an object otherwise once it is made.
            found = await _find_same(bucket, key, file, summed, offload)
            return etag if found is None else found.etag
    except _AbsentError:
        pass
    return etag


def _warn(bucket: Bucket) -> None:
    warn_once(
        bucket.conditions,
        "%s does not keep to the condition that a name is free (If-None-Match): bucketry looks before and "
        "after each put, but of two who put one name at the same moment both may be told that they did",
        bucket.url,
    )


async def _forget_left(
    bucket: Bucket, key: str, records: UploadRecords | None, priority: Priority, offload: Offload
) -> None:
    """A killed upload of an earlier, larger file of this name may have been left."""
    if records is None:
        return
    try:
        held = await _obtained(offload(lambda: records.hold(bucket.url, key, create=False)), _end_held)
    except OSError:
        return
    if held is None:
        return
    try:
        if held.found is not None:
            await bucket.abort_upload(key, held.found.upload_id, priority=priority)
        held.is_needed = False
    except BucketryError as error:
        _log.info("%s: parts of %s are left until they are swept up: %s", bucket.url, key, error)
    finally:
        held.end()


class _LargeUpload:
    """One file on its way in parts."""

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        file: LocalFile,
        plan: UploadPlan,
        attributes: Attributes,
        records: UploadRecords | None,
        progress: Callable[[int], None] | None,
        priority: Priority,
        offload: Offload,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._file = file
        self._plan = plan
        self._attributes = attributes
        self._records = records
        self._progress = progress
        self._priority = priority
        self._offload = offload

    async def run(self) -> Uploaded:
        async with self._held_record() as record:
            left = record.found
            plan = self._plan
            if left is not None and left.size_bytes == plan.size_bytes:
                # Parts that are there can be used only with their own size.
                plan = _with_part_size(plan, left.part_size_bytes, self._bucket)
            summed = await self._offload(lambda: _sum(self._file, plan, self._attributes))
            for _ in range(_ATTEMPTS_MAX):
                may_look = True
                try:
                    uploaded = await _find_same(self._bucket, self._key, self._file, summed, self._offload)
                except CredentialsRefused:
                    raise  # of keys that have ended, not of rights
                except Denied:
                    # S3 says so of what is absent to who may not list, and to who may only write. Whether we
                    # may do that comes out next.
                    uploaded, may_look = None, False
                if uploaded is None:
                    try:
                        uploaded = await self._try(summed, record, left)
                    except UploadGone as error:
                        record.is_needed = False
                        _log.info("%s: upload of %s begins anew: %s", self._bucket.url, self._key, error)
                    except AlreadyExists:
                        if not may_look:
                            raise
                        # Looked at in the next round.
                if uploaded is not None:
                    await self._abort_others(record)
                    return uploaded
                left = None
        raise Unavailable(f"{self._bucket.url}: upload of object {self._key} was ended again and again")

    async def _try(self, summed: _Summed, record: HeldRecord, left: UploadRecord | None) -> Uploaded:
        """One upload, from its begin or from where somebody left it, to its end."""
        parts: dict[int, Part] = {}
        if left is not None and (left.content, left.part_size_bytes) == (
            summed.content,
            summed.plan.part_size_bytes,
        ):
            upload_id = left.upload_id
            parts = await self._parts_there(summed, upload_id)
        else:
            if left is not None:
                await self._bucket.abort_upload(self._key, left.upload_id, priority=self._priority)
                record.is_needed = False
            upload_id = await self._begin(summed)
        try:
            await self._remember(record, summed, upload_id)
            await self._put_parts(summed, upload_id, parts)
            return await self._complete(summed, upload_id, [parts[number] for number in sorted(parts)])
        except UploadGone:
            raise
        except BaseException:
            record.is_needed = not await self._abort(upload_id)
            raise

    async def _begin(self, summed: _Summed) -> str:
        """A new upload's id. Who is cancelled meanwhile waits for it, to abort it."""
        assert summed.plan.part_size_bytes is not None
        begin = asyncio.ensure_future(
            self._bucket.create_upload(
                self._key,
                part_size_bytes=summed.plan.part_size_bytes,
                attributes=summed.attributes,
                priority=self._priority,
            )
        )
        try:
            return await asyncio.shield(begin)
        except asyncio.CancelledError:
            with suppress(BucketryError, TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    await self._abort(await begin)
            raise

    async def _parts_there(self, summed: _Summed, upload_id: str) -> dict[int, Part]:
        """The parts of an upload that was left, as far as they are the file's."""
        parts = {}
        async for page in self._bucket.list_parts(self._key, upload_id, priority=self._priority):
            for part in page:
                if await self._is_right(summed, part):
                    parts[part.number] = replace(part, crc32c=summed.part_crcs[part.number - 1])
        _log.info("%s: upload of %s goes on after %d parts", self._bucket.url, self._key, len(parts))
        self._report(parts)
        return parts

    async def _is_right(self, summed: _Summed, part: Part) -> bool:
        if not 1 <= part.number <= summed.plan.part_count:
            return False
        start, end = summed.plan.part_range(part.number)
        if part.size_bytes != end - start:
            return False
        if part.crc32c is not None:
            return part.crc32c == summed.part_crcs[part.number - 1]
        digest = _MD5.fullmatch(part.tag)
        if digest is None:
            return False

        def md5_of_part() -> str:
            return hashlib.md5(self._read_part(summed, part.number), usedforsecurity=False).hexdigest()

        return digest[1] == await self._offload(md5_of_part)

    async def _put_parts(self, summed: _Summed, upload_id: str, parts: dict[int, Part]) -> None:
        """Put all that are not in ``parts`` yet, some at a time, and add them there."""
        missing = iter([number for number in range(1, summed.plan.part_count + 1) if number not in parts])

        async def put_some() -> None:
            for number in missing:
                data = await self._offload(partial(self._read_part, summed, number))
                part = await self._bucket.put_part(
                    self._key, upload_id, number, data, priority=self._priority
                )
                del data  # before the next one is read: memory is counted in parts
                parts[number] = part
                self._report(parts)

        await _all_or_none(
            [put_some() for _ in range(min(summed.plan.parts_at_once, summed.plan.part_count))]
        )

    def _read_part(self, summed: _Summed, number: int) -> bytes:
        """A part of the file, as it was summed. Raises Busy otherwise."""
        start, end = summed.plan.part_range(number)
        data = self._file.read(start, end - start)
        if int(google_crc32c.value(data)) != summed.part_crcs[number - 1]:
            raise self._file.changed()
        return data

    async def _complete(self, summed: _Summed, upload_id: str, parts: list[Part]) -> Uploaded:
        await self._offload(self._file.check_unchanged)
        if self._bucket.conditions.kept is None:
            # Only to be able to say so: here it is looked before and after in any case.
            await find_out_beside(self._bucket, self._key, self._priority)
        if self._bucket.conditions.kept is False:
            _warn(self._bucket)
        # For stores that take no notice of the condition.
        try:
            await _look(self._bucket, self._key)
        except CredentialsRefused:
            raise  # of keys that have ended, not of rights
        except (_AbsentError, Denied):
            pass
        else:
            raise AlreadyExists(f"{self._bucket.url}: object {self._key} exists")
        etag = await self._bucket.complete_upload(
            self._key, upload_id, parts, condition=IfAbsent(), priority=self._priority
        )
        try:
            info = await _look(self._bucket, self._key)
        except _AbsentError:
            raise Unavailable(
                f"{self._bucket.url}: object {self._key} was removed as soon as it was uploaded"
            ) from None
        except CredentialsRefused:
            raise  # of keys that have ended, not of rights
        except Denied:
            # The store has confirmed the parts by their checksums; more we may not know.
            return Uploaded(etag, summed.plan.size_bytes, summed.pieces, was_there=False)
        if info.size_bytes == summed.plan.size_bytes and info.etag == etag:
            return Uploaded(etag, info.size_bytes, summed.pieces, was_there=False)
        if info.etag == etag:
            raise Corrupt(
                f"{self._bucket.url}: object {self._key} has {info.size_bytes} bytes after an upload of "
                f"{summed.plan.size_bytes}"
            )
        try:
            etag = await _etag_of_ours(self._bucket, self._key, etag, self._file, summed, self._offload)
        except AlreadyExists:
            _log.warning(
                "%s: object %s was replaced while it was made: this store does not keep to the condition of "
                "completions",
                self._bucket.url,
                self._key,
            )
            raise
        return Uploaded(etag, summed.plan.size_bytes, summed.pieces, was_there=False)

    async def _abort(self, upload_id: str) -> bool:
        """After a failure or a cancellation: leave no parts behind, but hold up nobody for long. Whether it
        is done."""
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                for pause_seconds in _ABORT_PAUSES_SECONDS:
                    await self._bucket.abort_upload(self._key, upload_id, priority=self._priority)
                    if await self._is_gone(upload_id):
                        return True
                    await asyncio.sleep(pause_seconds)
            reason = "they do not go away"
        except (BucketryError, TimeoutError) as error:
            reason = str(error) or "no answer"
        _log.warning(
            "%s: parts of %s are left until it is uploaded again, or swept up: %s",
            self._bucket.url,
            self._key,
            reason,
        )
        return False

    async def _is_gone(self, upload_id: str) -> bool:
        try:
            async for _ in self._bucket.list_parts(self._key, upload_id, priority=self._priority):
                return False
        except UploadGone:
            return True
        except CredentialsRefused:
            raise  # of keys that have ended, not of rights
        except Denied:
            # The abort itself succeeded; more we may not know.
            return True
        return False

    async def _abort_others(self, record: HeldRecord) -> None:
        """The object is there: whatever else is on its way to its key is left over, or comes too late."""
        try:
            if record.found is not None:
                await self._bucket.abort_upload(self._key, record.found.upload_id, priority=self._priority)
            record.is_needed = False
            others = [
                opened.upload_id
                async for page in self._bucket.list_uploads(prefix=self._key, priority=self._priority)
                for opened in page
                if opened.key == self._key
            ]
            for upload_id in others:
                await self._bucket.abort_upload(self._key, upload_id, priority=self._priority)
        except BucketryError as error:
            # Perhaps we may not list. The object is there all the same.
            _log.info("%s: other uploads of %s may be left: %s", self._bucket.url, self._key, error)

    def _report(self, parts: Mapping[int, Part]) -> None:
        if self._progress is not None:
            self._progress(sum(part.size_bytes for part in parts.values()))

    @asynccontextmanager
    async def _held_record(self) -> AsyncIterator[HeldRecord]:
        """The key's record. One that nobody finds where there are no records, or another upload to the key is
        under way on this machine."""
        records = self._records
        held = None
        if records is not None:
            try:
                held = await _obtained(
                    self._offload(lambda: records.hold(self._bucket.url, self._key)),
                    _end_held,
                )
            except OSError as error:
                _log.warning("uploads to %s are not remembered: %s", self._bucket.url, error)
        held = held or HeldRecord(None, -1, None)
        try:
            yield held
        finally:
            held.end()

    async def _remember(self, record: HeldRecord, summed: _Summed, upload_id: str) -> None:
        assert summed.plan.part_size_bytes is not None
        written = UploadRecord(
            self._bucket.url,
            self._key,
            upload_id,
            summed.plan.size_bytes,
            summed.plan.part_size_bytes,
            summed.content,
        )
        try:
            await self._offload(lambda: record.write(written))
        except OSError as error:
            _log.warning("the upload of %s is not remembered: %s", self._key, error)


class _AbsentError(Exception):
    """There is no such object; the bucket is there."""


async def _look(bucket: Bucket, key: str) -> ObjectInfo:
    try:
        return await bucket.head(key)
    except BucketNotFound:
        raise
    except NotFound:
        raise _AbsentError from None


async def _find_same(
    bucket: Bucket, key: str, file: LocalFile, summed: _Summed, offload: Offload
) -> Uploaded | None:
    """The object that is there with the file's content; None when none is there. Raises AlreadyExists when
    its content is another."""
    for _ in range(_ATTEMPTS_MAX):
        try:
            info = await _look(bucket, key)
            is_same = info.size_bytes == summed.plan.size_bytes and (
                await _has_content(bucket, info, file, summed, offload)
            )
        except _AbsentError:
            return None
        except PreconditionFailed:
            # Replaced while it was compared.
            continue
        if not is_same:
            raise AlreadyExists(f"{bucket.url}: object {key} exists with another content")
        return Uploaded(info.etag, info.size_bytes, summed.pieces, was_there=True)
    raise Unavailable(f"{bucket.url}: object {key} changes again and again")


async def _has_content(
    bucket: Bucket, info: ObjectInfo, file: LocalFile, summed: _Summed, offload: Offload
) -> bool:
    """Whether an object of the file's size has its bytes: by its checksums, or where it has none by reading
    it. Raises _AbsentError, PreconditionFailed when it is not that object any more."""
    text = info.attributes.metadata.get(PIECES_METADATA)
    if text is not None:
        try:
            return decode(text, info.size_bytes).digest == summed.pieces.digest
        except Corrupt as error:
            _log.warning("%s: object %s: %s; comparing its bytes", bucket.url, info.key, error)
    for start in range(0, info.size_bytes, _COMPARE_BYTES):
        end = min(start + _COMPARE_BYTES, info.size_bytes)
        try:
            found = await bucket.get(info.key, byte_range=ByteRange(start, end))
        except BucketNotFound:
            raise
        except NotFound:
            raise _AbsentError from None
        if found.info.etag != info.etag:
            raise PreconditionFailed(f"{bucket.url}: object {info.key} was replaced")
        if await offload(partial(file.read, start, end - start)) != found.data:
            return False
    return True


def _sum(file: LocalFile, plan: UploadPlan, attributes: Attributes, data: bytes | None = None) -> _Summed:
    """The checksums of a file, read here or given as ``data``. Raises Busy when it was changed meanwhile."""
    summer = PieceSummer(plan.size_bytes)
    part_crcs = []
    if data is not None:
        summer.feed(data)
    else:
        for number in range(1, plan.part_count + 1):
            offset, end = plan.part_range(number)
            crc32c = 0
            while offset < end:
                chunk = file.read(offset, min(SUM_CHUNK_BYTES, end - offset))
                summer.feed(chunk)
                crc32c = google_crc32c.extend(crc32c, chunk)
                offset += len(chunk)
            part_crcs.append(int(crc32c))
    file.check_unchanged()
    pieces = summer.finish()
    if pieces is None:
        raise file.changed()
    metadata = {**attributes.metadata, PIECES_METADATA: encode(pieces, plan.size_bytes)}
    return _Summed(plan, pieces, tuple(part_crcs), replace(attributes, metadata=metadata))


def _with_part_size(plan: UploadPlan, part_size_bytes: int, bucket: Bucket) -> UploadPlan:
    """The same plan with another size of parts, where the store takes that."""
    limits = bucket.upload_limits
    memory_bytes = plan.parts_at_once * (plan.part_size_bytes or 0)
    changed = UploadPlan(plan.size_bytes, part_size_bytes, max(1, memory_bytes // part_size_bytes))
    is_possible = (
        limits.part_size_min_bytes <= part_size_bytes <= limits.part_size_max_bytes
        and changed.part_count <= limits.parts_max
    )
    return changed if is_possible else plan


async def _obtained(work: Coroutine[Any, Any, _T], give_back: Callable[[_T], object]) -> _T:
    """What the work in a thread obtains. Who is cancelled meanwhile gives it back: the thread is not."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(
            lambda done: None if done.cancelled() or done.exception() else give_back(done.result())
        )
        raise


def _end_held(held: HeldRecord | None) -> None:
    if held is not None:
        held.end()


def _end_all(left: Iterable[HeldRecord]) -> None:
    for held in left:
        held.end()


async def _all_or_none(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do it all at once. When one fails the others are cancelled, and none is left when this ends."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
