"""A directory bucket that somebody else has come to own is not changed any more, whatever was under way."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bucketry.bucket import directory_lock
from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.fenced import Fence, Owner
from bucketry.bucket.interface import IfMatch, Part
from bucketry.core.names import LEASE_NAME
from bucketry.errors import Fenced, Unavailable

LEASE = "vol/" + LEASE_NAME
OURS, THEIRS = b"ours", b"theirs"


@pytest.fixture
def fence() -> Fence:
    return Fence()


@pytest.fixture
async def bucket(tmp_path: Path, fence: Fence) -> AsyncIterator[DirectoryBucket]:
    bucket = DirectoryBucket(tmp_path, threads_count_max=8, fence=fence)
    await bucket.put(LEASE, OURS)
    await bucket.put("vol/block", b"1")
    fence.guard_with(lambda: None, Owner(LEASE, lambda found: found == OURS))
    yield bucket
    await bucket.close()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[DirectoryBucket]:
    """The same directory as another process has it."""
    bucket = DirectoryBucket(tmp_path, threads_count_max=8)
    yield bucket
    await bucket.close()


def changes(
    bucket: DirectoryBucket, upload_id: str, part: Part, etag: str
) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: bucket.put("vol/block", b"2"),
        lambda: bucket.put("vol/block", b"2", condition=IfMatch(etag)),
        lambda: bucket.put("vol/new", b"2"),
        lambda: bucket.delete("vol/block"),
        lambda: bucket.delete_many(["vol/block"]),
        lambda: bucket.complete_upload("vol/up", upload_id, [part]),
    ]


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_nothing_of_somebody_elses_is_changed(
    bucket: DirectoryBucket, other: DirectoryBucket, is_deleted: bool
) -> None:
    """Once its owner is another, or unknown, every change is refused; the owner's own object may be put."""
    upload_id = await bucket.create_upload("vol/up", part_size_bytes=10)
    part = await bucket.put_part("vol/up", upload_id, 1, b"x")
    etag = (await bucket.head("vol/block")).etag
    await (other.delete(LEASE) if is_deleted else other.put(LEASE, THEIRS))
    for change in changes(bucket, upload_id, part, etag):
        with pytest.raises(Fenced, match="somebody else has taken"):
            await change()
    assert bytes((await bucket.get("vol/block")).data) == b"1"
    assert [entry.key async for page in bucket.list() for entry in page] == (
        ["vol/block"] if is_deleted else ["vol/block", LEASE]
    )
    await bucket.put(LEASE, OURS)
    await bucket.put("vol/block", b"2")
    assert bytes((await bucket.get("vol/block")).data) == b"2"


async def test_what_was_under_way_when_the_owner_changed_is_not_done(
    bucket: DirectoryBucket, other: DirectoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process stands still with its file complete and not yet named; it goes on when somebody else has
    taken the bucket and written there."""
    written, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def stand_still(file: int) -> None:
        fsync(file)
        if not written.is_set():
            written.set()
            go_on.wait()

    monkeypatch.setattr(os, "fsync", stand_still)
    put = asyncio.create_task(bucket.put("vol/block", b"late"))
    while not written.is_set():
        await asyncio.sleep(0.001)
    await other.put(LEASE, THEIRS)
    await other.put("vol/block", b"theirs")
    go_on.set()
    with pytest.raises(Fenced):
        await put
    assert bytes((await other.get("vol/block")).data) == b"theirs"


async def test_the_fence_is_asked_in_the_thread_that_changes(bucket: DirectoryBucket, fence: Fence) -> None:
    """A fence that has shut since the call was made keeps the change back."""
    main = threading.current_thread()

    def shut() -> None:
        assert threading.current_thread() is not main
        raise Fenced("too late")

    fence.guard_with(shut, fence.owner)
    for change in (bucket.put("vol/block", b"2"), bucket.delete("vol/block")):
        with pytest.raises(Fenced, match="too late"):
            await change
    assert bytes((await bucket.get("vol/block")).data) == b"1"


async def test_a_lock_that_is_kept_names_who_keeps_it(
    bucket: DirectoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process may keep the lock for ever: whoever waits for it hears which one, and what to do."""
    monkeypatch.setattr(directory_lock, "_PATIENCE_SECONDS", 0.05)
    program = "import fcntl, sys; fcntl.flock(sys.stdin, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with (
        (tmp_path / ".bucketry/lock").open("r+") as lock,
        subprocess.Popen(  # noqa: ASYNC220 - it starts in a moment
            [sys.executable, "-c", program + "; import time; time.sleep(600)"],
            stdin=lock,
            stdout=subprocess.PIPE,
        ) as keeper,
    ):
        try:
            assert keeper.stdout is not None
            keeper.stdout.readline()
            with pytest.raises(
                Unavailable, match=f"held for .* by process {keeper.pid}.* kill -9 {keeper.pid}"
            ):
                await bucket.put("vol/block", b"2")
        finally:
            keeper.kill()
    await bucket.put("vol/block", b"2")
