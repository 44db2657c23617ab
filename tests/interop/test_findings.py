"""What is known to go wrong with s3backer, tried on both: here it goes well, and where Debian's s3backer has
the fault the same test shows it there.

The server is our own, for it can be told to hold a request, to refuse one, and to change its mind.
"""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from ctypes import CDLL, c_int, c_int64, get_errno
from dataclasses import dataclass, replace
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from bucketry.core.names import LEASE_NAME
from bucketry.testing.s3_server import Fail, S3Server, Stall, StallAt
from e2e.places import Place
from e2e.program import Program, wait_until
from interop.s3backer import S3backer, S3backerError

pytestmark = pytest.mark.system

BUCKET = "disk"
BLOCK = 4096
BLOCK_0, BLOCK_1 = f"{0:08x}", f"{1:08x}"
#: How s3backer is told of a new volume.
NEW = ("--size=1m", "--blockSize=4k")
NEW_HERE = ("1M", "--block-size=4K")
#: So long that nothing is uploaded but by a flush.
WRITES_ONLY_WHEN_TOLD = ("--blockCacheWriteDelay=600000",)
WRITES_ONLY_WHEN_TOLD_HERE = ("--write-delay=600",)
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10


@dataclass(frozen=True)
class _Signless:
    """The server as the tests of s3backer want it; nobody looks at its signatures."""

    endpoint: str
    access_key: str = "anybody"
    secret_key: str = "anything"

    def make_bucket(self) -> str:
        return BUCKET

    def access_file(self, path: Path) -> Path:
        path.touch(mode=0o600)
        path.write_text(f"{self.access_key}:{self.secret_key}\n")
        return path


@dataclass(frozen=True)
class World:
    """One empty bucket, both programs, and the server between them and it."""

    server: S3Server
    theirs: S3backer
    ours: Program
    place: Place
    directory: Path

    @property
    def _store(self) -> S3Store:
        return S3Store(
            BUCKET,
            endpoint=self.server.endpoint,
            client_options={"allow_http": True},
            skip_signature=True,
        )

    def block(self, key: str) -> bytes | None:
        """A block as it is stored, None when it is not."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None

    def request_count(self, operation: str) -> int:
        return self.server.snapshot().requests.get(operation, 0)

    def empty(self) -> None:
        """Before the other program has its turn."""
        self.server.clear()
        self.server.clear_faults()
        self.server.make_bucket(BUCKET)

    @property
    def disk(self) -> Path:
        return self.directory / "ours"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    program = Program(tmp_path)
    with S3Server() as server:
        server.make_bucket(BUCKET)
        place = Place(
            f"s3://{BUCKET}", ["--endpoint", server.endpoint, "--region", "us-east-1", "--anonymous"]
        )
        yield World(server, S3backer(_Signless(server.endpoint), tmp_path), program, place, tmp_path)
        server.clear_faults()
        server.release_stalls()
        program.clean_up()


def _fallocate(file: Path, mode: int, offset: int, length: int, *, flags: int = os.O_RDWR) -> int:
    """0, or the error's number."""
    fallocate = CDLL(None, use_errno=True).fallocate64
    fallocate.argtypes = (c_int, c_int, c_int64, c_int64)
    descriptor = os.open(file, flags)
    try:
        failed = fallocate(descriptor, mode | _KEEP_SIZE, offset, length) != 0
        return get_errno() if failed else 0
    finally:
        os.close(descriptor)


def test_fsync_is_durable(world: World) -> None:
    """When fsync returns the data is in the bucket; s3backer's returns at once and sends nothing."""
    with world.theirs.mounted(BUCKET, *NEW, *WRITES_ONLY_WHEN_TOLD) as file:
        descriptor = os.open(file, os.O_RDWR)
        os.pwrite(descriptor, b"x" * BLOCK, 0)
        os.fsync(descriptor)
        assert world.block(BLOCK_0) is None, "s3backer has mended this"
        os.close(descriptor)
    assert world.block(BLOCK_0) == b"x" * BLOCK

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk, *WRITES_ONLY_WHEN_TOLD_HERE) as file:
        descriptor = os.open(file, os.O_RDWR)
        os.pwrite(descriptor, b"x" * BLOCK, 0)
        assert world.block(BLOCK_0) is None
        os.fsync(descriptor)
        assert world.block(BLOCK_0) == b"x" * BLOCK
        os.close(descriptor)


def _close_while_it_is_uploaded(world: World, file: Path) -> bytes | None:
    """What is in the bucket when ``close`` returned, that was called while the upload was under way."""
    world.server.plan(Stall(seconds=2, at=StallAt.REQUEST), operation="PutObject", key=BLOCK_1)
    before = world.request_count("PutObject")
    descriptor = os.open(file, os.O_RDWR)
    os.pwrite(descriptor, b"y" * BLOCK, BLOCK)
    wait_until(lambda: world.request_count("PutObject") > before, "the upload has begun")
    os.close(descriptor)
    return world.block(BLOCK_1)


def test_a_flush_waits_for_uploads_under_way(world: World) -> None:
    """A block that is being uploaded when the flush comes is waited for; s3backer looks only for blocks
    whose upload has not begun."""
    with world.theirs.mounted(BUCKET, *NEW, "--blockCacheWriteDelay=0") as file:
        assert _close_while_it_is_uploaded(world, file) is None, "s3backer has mended this"

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk, "--write-delay=0") as file:
        assert _close_while_it_is_uploaded(world, file) == b"y" * BLOCK


def test_a_part_written_into_a_block_that_was_kept(world: World) -> None:
    """A block kept on local disk from the time before, changed by somebody else since: what is written into
    a part of it goes into the block as it is now. s3backer merges it into what it kept, and uploads that over
    the newer block."""
    kept = f"--blockCacheFile={world.directory / 'cache file'}"
    with world.theirs.mounted(BUCKET, *NEW, kept) as file:
        _write(file, b"1" * BLOCK)
    with world.theirs.mounted(BUCKET) as file:
        _write(file, b"2" * BLOCK)
    with world.theirs.mounted(BUCKET, kept) as file:
        _write(file, b"new")
    assert world.block(BLOCK_0) == b"new" + b"1" * (BLOCK - 3), "s3backer has mended this"

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    kept = f"--cache-dir={world.directory / 'cache'}"
    with world.ours.attached(world.place, world.disk, kept) as file:
        _write(file, b"1" * BLOCK)
    with world.ours.attached(world.place, world.disk) as file:
        _write(file, b"2" * BLOCK)
    with world.ours.attached(world.place, world.disk, kept) as file:
        _write(file, b"new")
    assert world.block(BLOCK_0) == b"new" + b"2" * (BLOCK - 3)


def test_zero_range_makes_zeros(world: World) -> None:
    """fallocate's ZERO_RANGE, which is what blkdiscard -z becomes on a loop device: s3backer says that it was
    done and leaves the old data."""
    data = b"d" * (4 * BLOCK)
    with world.theirs.mounted(BUCKET, *NEW) as file:
        _write(file, data)
        assert _fallocate(file, _ZERO_RANGE, BLOCK, BLOCK) == 0
        assert file.read_bytes()[: 4 * BLOCK] == data, "s3backer has mended this"

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk) as file:
        _write(file, data)
        assert _fallocate(file, _ZERO_RANGE, BLOCK, BLOCK) == 0
        assert file.read_bytes()[: 4 * BLOCK] == data[:BLOCK] + bytes(BLOCK) + data[2 * BLOCK :]
    assert world.block(BLOCK_1) is None


def test_read_only_means_holes_too(world: World) -> None:
    """Nobody, not even root, deletes a block through a read-only mount; s3backer lets root punch holes."""
    with world.theirs.mounted(BUCKET, *NEW) as file:
        _write(file, b"d" * (4 * BLOCK))
    with world.theirs.mounted(BUCKET, "--readOnly") as file:
        assert _fallocate(file, _PUNCH_HOLE, BLOCK, BLOCK) == 0
    assert world.block(BLOCK_1) is None, "s3backer has mended this"

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk) as file:
        _write(file, b"d" * (4 * BLOCK))
    with world.ours.attached(world.place, world.disk, "--read-only") as file:
        with pytest.raises(OSError) as caught:
            _fallocate(file, _PUNCH_HOLE, BLOCK, BLOCK)
        assert caught.value.errno in (errno.EROFS, errno.EACCES)
    assert world.block(BLOCK_1) == b"d" * BLOCK


def test_of_two_starters_of_theirs_both_win(world: World) -> None:
    """s3backer looks for a mount token and then puts its own: two that looked at the same time both have the
    volume mounted for writing."""
    with world.theirs.mounted(BUCKET, *NEW) as file:
        _write(file, b"d" * BLOCK)
    other = replace(world.theirs, directory=world.directory / "other")
    other.directory.mkdir()
    world.server.plan(Stall(at=StallAt.REQUEST), operation="PutObject", key="s3backer-mounted", times=2)
    letting = _release_stalls_after(world, "PutObject", 2)
    mount_second = _Mounting(other)
    second = threading.Thread(target=mount_second)
    second.start()
    try:
        with world.theirs.mounted(BUCKET) as file:
            mount_second.mounted.wait()
            assert mount_second.error is None, f"s3backer has mended this: {mount_second.error}"
            assert file.is_file()
    finally:
        mount_second.leave.set()
        letting.join()
        second.join()


def _release_stalls_after(world: World, operation: str, count: int) -> threading.Thread:
    """A thread that waits for so many more requests, and then lets go on what the server holds."""
    enough = world.request_count(operation) + count

    def wait_and_release() -> None:
        try:
            wait_until(lambda: world.request_count(operation) >= enough, f"{count} {operation} came")
        finally:
            world.server.release_stalls()

    thread = threading.Thread(target=wait_and_release)
    thread.start()
    return thread


class _Mounting:
    """Another s3backer, mounted until it is told to leave."""

    def __init__(self, theirs: S3backer) -> None:
        self._theirs = theirs
        self.mounted = threading.Event()
        self.leave = threading.Event()
        self.error: S3backerError | None = None

    def __call__(self) -> None:
        try:
            with self._theirs.mounted(BUCKET):
                self.mounted.set()
                self.leave.wait()
        except S3backerError as error:
            self.error = error
        finally:
            self.mounted.set()


def test_of_ten_starters_one_wins(world: World) -> None:
    """Ten processes attach one volume at once: one has it, nine are told that it is in use, and who has
    it."""
    world.ours.create(world.place, *NEW_HERE)
    directories = [world.directory / f"disk {number}" for number in range(10)]
    for directory in directories:
        directory.mkdir()
    # No lease is put before all have looked for one and found none.
    world.server.plan(Stall(at=StallAt.REQUEST), operation="PutObject", key=LEASE_NAME, times=10)
    letting = _release_stalls_after(world, "PutObject", 10)
    starters = [
        subprocess.Popen(
            [sys.executable, "-m", "bucketry", "attach", world.place.url, directory, *world.place.options],
            env=world.ours.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for directory in directories
    ]
    ended = [(starter.communicate(timeout=120), starter.returncode) for starter in starters]
    letting.join()
    codes = [code for _, code in ended]
    assert sorted(codes) == [0, *[5] * 9], ended
    winner = directories[codes.index(0)]
    for (_, complaints), code in ended:
        if code == 5:
            assert "in use" in complaints
            assert complaints.count("\n") == 1
    _write(winner / "file", b"the winner's")
    world.ours.run("umount", winner)
    stored = world.block(BLOCK_0)
    assert stored is not None
    assert stored.startswith(b"the winner's")


def test_a_size_needs_no_suffix(world: World) -> None:
    """``--size 1048576``, which s3backer from 2.0 on refuses (Debian's is older and takes it)."""
    with world.theirs.mounted(BUCKET, "--size=1048576", "--blockSize=4096") as file:
        assert file.stat().st_size == 1 << 20

    world.empty()
    world.ours.create(world.place, "1048576", "--block-size=4096")
    with world.ours.attached(world.place, world.disk) as file:
        assert file.stat().st_size == 1 << 20


def test_write_errors_surface(world: World) -> None:
    """The bucket refuses a block: fsync says so, the block is kept, and the next fsync after the bucket has
    changed its mind succeeds. s3backer says nothing to anybody."""

    def refuse() -> None:
        world.server.plan(Fail("AccessDenied"), operation="PutObject", key=BLOCK_0, times=None)

    with world.theirs.mounted(BUCKET, *NEW, "--maxRetryPause=200") as file:
        refuse()
        descriptor = os.open(file, os.O_RDWR)
        os.pwrite(descriptor, b"x" * BLOCK, 0)
        os.fsync(descriptor)  # returns, though there is nothing in the bucket
        assert world.block(BLOCK_0) is None
        world.server.clear_faults()
        os.close(descriptor)

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk) as file:
        refuse()
        descriptor = os.open(file, os.O_RDWR)
        os.pwrite(descriptor, b"x" * BLOCK, 0)
        with pytest.raises(OSError) as caught:
            os.fsync(descriptor)
        assert caught.value.errno == errno.EACCES, "what the store said"
        assert world.ours.json("stats", world.disk)["cache"]["dirty_bytes"] >= BLOCK
        world.server.clear_faults()
        os.fsync(descriptor)
        assert world.block(BLOCK_0) == b"x" * BLOCK
        os.close(descriptor)


def test_a_zero_block_0_forgets_nothing(world: World) -> None:
    """Size and block size are still known when block 0 is zeros and so not stored; s3backer keeps them only
    there, and has to be told again."""
    data = bytes(BLOCK) + b"d" * BLOCK
    with world.theirs.mounted(BUCKET, *NEW) as file:
        _write(file, data)
    with pytest.raises(S3backerError, match="size"), world.theirs.mounted(BUCKET):
        pytest.fail("s3backer has mended this")

    world.empty()
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk) as file:
        _write(file, data)
    assert world.block(BLOCK_0) is None
    info = world.ours.json("info", world.place.url, *world.place.options)
    assert (info["size_bytes"], info["block_size_bytes"]) == (1 << 20, BLOCK)
    with world.ours.attached(world.place, world.disk) as file:
        assert file.read_bytes() == data.ljust(1 << 20, b"\0")


def test_other_names_of_ciphers(world: World) -> None:
    """OpenSSL knows ciphers by several names: one that is not the format's is refused before anything is
    written. s3backer takes it, and can never read what it wrote."""
    password = world.directory / "password"
    password.touch(mode=0o600)
    password.write_text("s3cret\n")
    secret = ("--encrypt=aes128", f"--passwordFile={password}")
    with world.theirs.mounted(BUCKET, *NEW, *secret) as file:
        _write(file, b"d" * BLOCK)
    with (
        world.theirs.mounted(BUCKET, *secret, "--maxRetryPause=200") as file,
        file.open("rb") as opened,
        pytest.raises(OSError),
    ):
        opened.read(BLOCK)

    world.empty()
    world.server.reset_ledger()
    options = ["--size=1M", "--encrypt=aes128", f"--password-file={password}", *world.place.options]
    refused = world.ours.run("create", world.place.url, *options, code=2)
    assert "AES-128-CBC" in refused.stderr
    assert world.request_count("PutObject") == 0


def test_bulk_delete_with_path_style(world: World) -> None:
    """Many blocks are deleted by few requests, at an endpoint whose address is a number: nothing asks for the
    bucket in the host's name."""
    world.ours.create(world.place, *NEW_HERE)
    with world.ours.attached(world.place, world.disk) as file:
        _write(file, b"d" * (1 << 20))
    world.server.reset_ledger()
    world.ours.run("erase", world.place.url, "--force", *world.place.options)
    snapshot = world.server.snapshot()
    assert snapshot.objects_count == 0
    deletions = snapshot.requests.get("DeleteObjects", 0) + snapshot.requests.get("DeleteObject", 0)
    assert deletions <= 4, "one for the blocks; superblock, token, lease"


def _write(file: Path, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.write(data)


@pytest.mark.parametrize("how", ["--force", "--reset-mounted-flag"])
def test_an_s3backer_that_takes_an_attached_volume_is_noticed(world: World, how: str) -> None:
    """Told to mount a volume that Bucketry has attached, or to forget that it is mounted, s3backer replaces
    or deletes the mount token: with the next renewal of its lease Bucketry stops writing."""
    world.ours.environment["BUCKETRY_LEASE_SECONDS"] = "6"
    world.ours.create(world.place, *NEW_HERE)
    world.disk.mkdir()
    world.ours.run("attach", world.place.url, world.disk, *world.place.options)
    file = world.disk / "file"
    _write(file, b"o" * BLOCK)
    if how == "--force":
        with world.theirs.mounted(BUCKET, *NEW, "--force") as theirs:
            wait_until(lambda: _fails_to_write(file), "it is noticed")
            _write(theirs, b"t" * BLOCK)
    else:
        world.theirs.run(BUCKET, how, *NEW)
        wait_until(lambda: _fails_to_write(file), "it is noticed")
    ended = world.ours.run("umount", world.disk, code=7)
    assert "mount token" in ended.stderr
    if how == "--force":
        assert world.block(BLOCK_0) == b"t" * BLOCK


def _fails_to_write(file: Path) -> bool:
    try:
        _write(file, b"l" * BLOCK)
    except OSError as error:
        return error.errno in (errno.EIO, errno.ENOTCONN)
    return False
