"""The bucket in a directory, beyond the contract: files of others, symbolic links, several processes, kills,
full disks."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bucketry.bucket.directory import PRIVATE_NAME, DirectoryBucket
from bucketry.bucket.envelope import MAGIC
from bucketry.bucket.interface import Attributes, ByteRange, IfAbsent, IfMatch
from bucketry.errors import (
    BucketNotFound,
    BucketryError,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
)
from bucketry.testing.bucket_contract import all_entries, all_keys, put_all

_WRITER = Path(__file__).with_name("crash_writer.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "bucket"
    path.mkdir()
    return path


@pytest.fixture
async def bucket(root: Path) -> AsyncIterator[DirectoryBucket]:
    bucket = DirectoryBucket(root, threads_count_max=8)
    yield bucket
    await bucket.close()


# Files of others.


async def test_plain_files(root: Path, bucket: DirectoryBucket) -> None:
    """Files that another program put there, such as s3backer's raw blocks, are objects without attributes."""
    (root / "00000001").write_bytes(b"raw block")
    (root / "sub").mkdir()
    (root / "sub/00000002").write_bytes(b"")
    found = await bucket.get("00000001")
    assert bytes(found.data) == b"raw block"
    assert found.info.attributes == Attributes()
    assert bytes((await bucket.get("00000001", byte_range=ByteRange(4, 9))).data) == b"block"
    assert [(e.key, e.size_bytes) for e in await all_entries(bucket)] == [
        ("00000001", 9),
        ("sub/00000002", 0),
    ]
    assert not (root / PRIVATE_NAME).exists()


async def test_replacing_a_plain_file(root: Path, bucket: DirectoryBucket) -> None:
    """A plain file has an ETag that a put can compare, and that changes when somebody replaces or writes the
    file."""
    (root / "key").write_bytes(b"one")
    first = (await bucket.head("key")).etag
    with (root / "key").open("r+b") as file:
        file.write(b"t")
    os.utime(root / "key", ns=(1, 1))
    second = (await bucket.head("key")).etag
    assert second != first
    with pytest.raises(PreconditionFailed):
        await bucket.put("key", b"x", condition=IfMatch(first))
    await bucket.put("key", b"ours", condition=IfMatch(second))
    assert bytes((await bucket.get("key")).data) == b"ours"


async def test_data_that_looks_like_an_envelope(root: Path, bucket: DirectoryBucket) -> None:
    """Data that begins as one of our files does, even a whole one, comes back as data."""
    await bucket.put("inner", b"x", attributes=Attributes(None, "deflate"))
    inner = (root / "inner").read_bytes()
    for data in (MAGIC, MAGIC + b"...", inner):
        await bucket.put("outer", data)
        found = await bucket.get("outer")
        assert bytes(found.data) == data
        assert found.info.attributes == Attributes()


async def test_damaged_file(root: Path, bucket: DirectoryBucket) -> None:
    """A file of ours that is cut short or has a damaged header is Corrupt, and named."""
    await bucket.put("key", b"x" * 10_000, attributes=Attributes(None, "deflate"))
    whole = (root / "key").read_bytes()
    for damaged in (whole[:-1], whole + b"x", whole[:30], whole[:8], whole[:20] + b"\xff" + whole[21:]):
        (root / "key").write_bytes(damaged)
        for byte_range in (None, ByteRange(0, 5), ByteRange(0, 0)):
            with pytest.raises(Corrupt, match="object key"):
                await bucket.get("key", byte_range=byte_range)
        assert await all_keys(bucket) == ["key"]


async def test_long_attributes(bucket: DirectoryBucket) -> None:
    """Attributes longer than the first read come back; more than any store takes is Invalid."""
    metadata = {"n": "v" * 10_000}
    await bucket.put("key", b"data", attributes=Attributes(metadata=metadata))
    assert dict((await bucket.head("key")).attributes.metadata) == metadata
    assert bytes((await bucket.get("key", byte_range=ByteRange(1, 3))).data) == b"at"
    with pytest.raises(Invalid, match="attributes"):
        await bucket.put("key", b"data", attributes=Attributes(metadata={"n": "v" * 100_000}))


# What must not be reached, and what must not be shown.


async def test_symbolic_links(root: Path, bucket: DirectoryBucket, tmp_path: Path) -> None:
    """A symbolic link is not followed: neither to a file nor to a directory outside, for reading or for
    writing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside / "secret")
    (root / "dir").symlink_to(outside)
    for key in ("link", "dir/secret"):
        with pytest.raises(BucketryError):
            await bucket.get(key)
    with pytest.raises(BucketryError):
        await bucket.put("dir/new", b"x")
    await bucket.delete("dir/secret")
    assert await all_keys(bucket) == []
    # A put replaces the link itself.
    await bucket.put("link", b"ours")
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert bytes((await bucket.get("link")).data) == b"ours"


@pytest.mark.parametrize("key", [PRIVATE_NAME, f"{PRIVATE_NAME}/lock", f"{PRIVATE_NAME}/x/y"])
async def test_private_corner(bucket: DirectoryBucket, key: str) -> None:
    """Our own corner cannot be named and is never listed."""
    await bucket.put("key", b"x")
    with pytest.raises(Invalid, match="reserved"):
        await bucket.put(key, b"x")
    with pytest.raises(Invalid):
        await bucket.get(key)
    with pytest.raises(Invalid):
        await bucket.delete_many(["key", key])
    assert await all_keys(bucket) == ["key"]
    assert await all_keys(bucket, prefix=".") == []


async def test_strange_files_are_no_objects(root: Path, bucket: DirectoryBucket) -> None:
    """What no key can name, and what is no file, is not listed and harms nothing."""
    (root / "control\n").write_bytes(b"x")
    (root / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")
    os.mkfifo(root / "fifo")
    (root / "empty").mkdir()
    assert await all_keys(bucket) == []
    with pytest.raises(NotFound):
        await bucket.get("fifo")


# Names and directories.


async def test_object_and_begin_of_others(bucket: DirectoryBucket) -> None:
    """A key cannot be an object and the begin of others; both ways the message says so."""
    await bucket.put("a", b"x")
    with pytest.raises(Unsupported, match="begin of other keys"):
        await bucket.put("a/b", b"x")
    await bucket.put("c/d", b"x")
    with pytest.raises(Unsupported, match="begin of other keys"):
        await bucket.put("c", b"x")
    assert await all_keys(bucket) == ["a", "c/d"]


async def test_emptied_directories_go(root: Path, bucket: DirectoryBucket) -> None:
    """With its last object a sub-directory goes too; then its name is free."""
    await put_all(bucket, ["a/b/c", "a/b/d", "a/e"])
    await bucket.delete_many(["a/b/c", "a/b/d"])
    assert sorted(path.name for path in (root / "a").iterdir()) == ["e"]
    await bucket.delete("a/e")
    assert not (root / "a").exists()
    await bucket.put("a", b"x")


async def test_directories_come_and_go_under_load(bucket: DirectoryBucket) -> None:
    """Puts and deletes in one sub-directory, which comes and goes with them, do not disturb each other."""

    async def work(index: int) -> None:
        for _ in range(30):
            await bucket.put(f"x/y/{index}", b"x", condition=IfAbsent())
            await bucket.delete(f"x/y/{index}")

    await asyncio.gather(*(work(index) for index in range(8)))
    assert await all_keys(bucket) == []


async def test_too_long_a_name(bucket: DirectoryBucket) -> None:
    """A part longer than a file's name can be is Invalid."""
    with pytest.raises(Invalid, match="longer"):
        await bucket.put("n" * 300, b"x")


async def test_directory_that_goes_away(root: Path, bucket: DirectoryBucket, tmp_path: Path) -> None:
    """A directory that is removed is a missing bucket from then on, and a bucket again when it comes back."""
    await bucket.put("key", b"x")
    shutil.move(root, tmp_path / "elsewhere")
    with pytest.raises(BucketNotFound):
        await bucket.get("key")
    shutil.copytree(tmp_path / "elsewhere", root, ignore=shutil.ignore_patterns("*"))
    with pytest.raises(NotFound) as caught:
        await bucket.get("key")
    assert type(caught.value) is NotFound
    await bucket.put("key", b"x")


async def test_a_file_is_no_bucket(tmp_path: Path) -> None:
    """A file in the place of the directory is a missing bucket."""
    (tmp_path / "file").write_bytes(b"")
    bucket = DirectoryBucket(tmp_path / "file", threads_count_max=1)
    with pytest.raises(BucketNotFound):
        await bucket.get("key")
    await bucket.close()


# What the system can answer.


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, Unavailable),
        (errno.EDQUOT, Unavailable),
        (errno.EIO, Unavailable),
        (errno.EROFS, Denied),
        (errno.EACCES, Denied),
        (errno.EPERM, Denied),
        (errno.EMFILE, Unavailable),
    ],
)
async def test_system_errors(
    root: Path,
    bucket: DirectoryBucket,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[BucketryError],
) -> None:
    """What the system reports in the middle of a put is ours in one line; the old object and no other file
    stays."""
    await bucket.put("key", b"old")

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(error, match="object key") as caught:
            await bucket.put("key", b"new")
    assert type(caught.value) is error
    assert str(caught.value).isprintable()
    assert bytes((await bucket.get("key")).data) == b"old"
    assert [path.name for path in (root / PRIVATE_NAME).iterdir()] == ["lock"]


async def test_full_disk(bucket: DirectoryBucket) -> None:
    """A disk that fills up in the middle of the data, which the system reports as a short write first, is
    Unavailable."""
    import resource
    import signal

    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with pytest.raises(Unavailable, match="File too large"):
            await bucket.put("key", b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert await all_keys(bucket) == []


async def test_what_must_be_synced(bucket: DirectoryBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put syncs the file before it gets its name, then the directory; a delete syncs the directory."""
    steps: list[str] = []

    def note(name: str) -> None:
        original = getattr(os, name)

        def noted(*args: object, **kwargs: object) -> object:
            steps.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, noted)

    for name in ("fsync", "rename", "link", "unlink"):
        note(name)
    await bucket.put("key", b"x")
    assert steps[:3] == ["fsync", "rename", "fsync"]
    steps.clear()
    await bucket.put("other", b"x", condition=IfAbsent())
    assert steps[:3] == ["fsync", "link", "fsync"]
    steps.clear()
    await bucket.delete_many(["key", "other"])
    assert steps == ["unlink", "unlink", "fsync"]


# Writers that die, and several processes.


async def test_stale_files_are_removed(root: Path, bucket: DirectoryBucket) -> None:
    """What a dead writer left is removed when it is old; a file that is young, or whose writer lives,
    stays."""
    import fcntl

    private = root / PRIVATE_NAME
    private.mkdir()
    for name in ("old", "old-but-locked", "young"):
        (private / name).write_bytes(b"x")
        if name != "young":
            long_ago = time.time() - 100_000
            os.utime(private / name, (long_ago, long_ago))
    with (private / "old-but-locked").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await bucket.put("key", b"x")
    assert sorted(path.name for path in private.iterdir()) == ["lock", "old-but-locked", "young"]
    assert await all_keys(bucket) == ["key"]


@contextmanager
def _writer(root: Path) -> Iterator[None]:
    """A process that puts all the time, until it is killed at the end."""
    with subprocess.Popen([sys.executable, str(_WRITER), f"file://{root}"], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begun\n"
            yield
        finally:
            writer.kill()


@pytest.mark.system
async def test_kill_pairs_nothing_wrong(root: Path, bucket: DirectoryBucket) -> None:
    """However a writer is killed, the object has the data and the attributes of one put, and is whole."""
    for round_index in range(12):
        with _writer(root):
            # Read while it writes, a different number of times, so that the kill hits another moment each
            # round.
            for _ in range(1 + 5 * round_index):
                await _check_pair(bucket)
        letter = await _check_pair(bucket)
        # The dead hold no lock.
        etag = (await bucket.head("key")).etag
        await bucket.put(
            "key", letter.encode() * 1000, attributes=Attributes(None, letter), condition=IfMatch(etag)
        )
    assert await all_keys(bucket) == ["key"]


async def _check_pair(bucket: DirectoryBucket) -> str:
    found = await bucket.get("key")
    (letter,) = set(bytes(found.data).decode())
    assert found.info.attributes.content_encoding == letter
    return letter


_COUNTER = """
import asyncio, sys
from bucketry.bucket.connect import connect
from bucketry.bucket.interface import IfMatch
from bucketry.errors import PreconditionFailed
from bucketry.settings import BucketSettings

async def count(url):
    bucket = connect(BucketSettings(url=url))
    done = 0
    while done < 100:
        found = await bucket.get("counter")
        value = str(int(bytes(found.data)) + 1).encode()
        try:
            await bucket.put("counter", value, condition=IfMatch(found.info.etag))
        except PreconditionFailed:
            continue
        done += 1
    await bucket.close()

asyncio.run(count(sys.argv[1]))
"""


@pytest.mark.system
async def test_processes_lose_no_update(root: Path, bucket: DirectoryBucket) -> None:
    """Processes that count in one object by IfMatch, while others put and delete, lose no count."""
    await bucket.put("counter", b"0")
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _COUNTER, f"file://{root}")
        for _ in range(3)
    ]
    waiting = asyncio.gather(*(process.wait() for process in processes))
    while not waiting.done():
        await bucket.put("other/key", b"x")
        await bucket.delete("other/key")
    assert await waiting == [0, 0, 0]
    assert int(bytes((await bucket.get("counter")).data)) == 300


_LIST_COUNT = 5_000


@pytest.mark.slow
async def test_long_listing(root: Path, bucket: DirectoryBucket) -> None:
    """A long listing comes in pages, and one that begins late or has a prefix opens only the files that it
    shows."""
    for index in range(_LIST_COUNT):
        (root / f"{index:08x}").touch()
    pages = [len(page) async for page in bucket.list()]
    assert pages == [1000] * (_LIST_COUNT // 1000)
    opened: list[object] = []
    original = os.open

    def noted(path: str, *args: int, **kwargs: int) -> int:
        opened.append(path)
        return original(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", noted)
        assert len(await all_keys(bucket, after=f"{_LIST_COUNT - 11:08x}")) == 10
        assert len(await all_keys(bucket, prefix="000010")) == 256
    # The directory itself is opened by each.
    assert len([path for path in opened if path != str(root)]) == 266
