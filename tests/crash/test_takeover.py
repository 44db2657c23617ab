"""A process is stopped in the middle of its puts, another one takes the volume by force, it goes on: nothing
of the first reaches the bucket after the second's first write, and its next flush fails.

One round each; ``BUCKETRY_TAKEOVER_ROUNDS`` asks for more.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from bucketry.assemble import create_volume, open_disk
from bucketry.bucket import directory_lock
from bucketry.disk.interface import Device
from bucketry.errors import Unavailable
from bucketry.settings import VolumeFormat, VolumeSettings
from bucketry.testing.s3_server import LineModel, S3ServerProcess
from crash import takeover_writer
from crash.takeover_writer import BLOCK_BYTES, BLOCK_COUNT, bucket_settings, cache_settings, content
from e2e.places import S3Objects
from servers.s3 import write_access_file
from servers.seaweed import Seaweed

pytestmark = [
    pytest.mark.system,
    pytest.mark.hangs_after(1800),
    pytest.mark.logs("taking over the lease"),
    # Not where the stopped one kept a directory's lock, and was killed.
    pytest.mark.logs("taken over from", "trying again", required=False),
]

ROUNDS = int(os.environ.get("BUCKETRY_TAKEOVER_ROUNDS", "1"))
#: Of a lease: long enough for a busy machine to renew it in time.
LEASE_SECONDS = "6"
BLOCKS = range(BLOCK_COUNT)
#: Those that the second one writes.
OURS = range(0, BLOCK_COUNT, 2)

Where = dict[str, str | None]


@pytest.fixture(params=["file", "s3_server", "seaweed"])
def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], Where]]:
    """A place for each round."""
    if request.param == "file":

        def directory(index: int) -> Where:
            path = tmp_path / f"bucket{index}"
            path.mkdir()
            return {"url": f"file://{path}", "endpoint": None, "access_file": None}

        yield directory
    elif request.param == "seaweed":
        seaweed: Seaweed = request.getfixturevalue("seaweed")

        def on_seaweed(index: int) -> Where:
            place = S3Objects(seaweed).place(seaweed.access_file(tmp_path / f"access{index}"))
            return {
                "url": place.url,
                "endpoint": seaweed.endpoint,
                "access_file": str(tmp_path / f"access{index}"),
                "store": "seaweed",
            }

        yield on_seaweed
    else:
        with S3ServerProcess() as server:
            # Long enough that some are under way at any moment.
            server.set_line(LineModel(latency_seconds=0.1, jitter_seconds=0.1))
            # Everybody may sign here.
            access_file = write_access_file(tmp_path / "access", "anybody", "anything")

            def on_server(index: int) -> Where:
                server.make_bucket(f"bucket{index}")
                return {
                    "url": f"s3://bucket{index}",
                    "endpoint": server.endpoint,
                    "access_file": str(access_file),
                }

            yield on_server


@contextmanager
def writing(place: Where, directory: str | None) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes the disk."""
    command = [sys.executable, takeover_writer.__file__, json.dumps(place)]
    if directory is not None:
        command.append(directory)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the writer died"
    return line


async def read_all(disk: Device) -> dict[int, bytes]:
    return {block: bytes(await disk.read(block * BLOCK_BYTES, BLOCK_BYTES)) for block in BLOCKS}


async def take_over(place: Where, directory: str | None, former: "subprocess.Popen[str]") -> bool:
    """False: the former one was stopped with the directory's lock, so that nobody can change anything there;
    whoever tries is told which process it is."""
    try:
        await write_over(place, directory, former)
    except Unavailable as error:
        if f"held for 1 s by process {former.pid}" not in str(error):
            raise
        return False
    return True


async def write_over(place: Where, directory: str | None, former: "subprocess.Popen[str] | None") -> None:
    """``former`` goes on once we have written; None: it has been ended."""
    settings = bucket_settings(place)
    volume = VolumeSettings(force=True)
    async with open_disk(settings, volume, cache_settings(directory)) as disk:
        before = await read_all(disk)
        for block in OURS:
            await disk.write(block * BLOCK_BYTES, content("B", block))
        await disk.flush()
        if former is not None:
            former.send_signal(signal.SIGCONT)
            while (said := await asyncio.to_thread(next_line, former)).startswith("flushed"):
                pass  # it had been flushed when it was stopped, and was not said yet
            assert said.startswith("failed EIO"), said
            await asyncio.to_thread(former.wait)
        await disk.flush()
        assert await read_all(disk) == before | {block: content("B", block) for block in OURS}
    async with open_disk(settings, VolumeSettings(read_only=True), cache_settings(None)) as disk:
        check(await read_all(disk), before | {block: content("B", block) for block in OURS}, place)


def check(found: Mapping[int, bytes], expected: Mapping[int, bytes], place: Where) -> None:
    """Nothing of the first came after. A request that it had half sent when it was stopped is the exception
    that docs/semantics.md makes for stores that wait for the rest, as SeaweedFS does: such a block is one
    that the first wrote, whole."""
    late = {block: found[block] for block in expected if found[block] != expected[block]}
    assert not late or place.get("store") == "seaweed"
    for data in late.values():
        assert data[:1] == b"A"
        assert data == data[:16] * (BLOCK_BYTES // 16)


@pytest.mark.parametrize("has_journal", [False, True], ids=["bucket", "journal"])
def test_a_stopped_writer_that_goes_on_changes_nothing(
    request: pytest.FixtureRequest,
    make_place: Callable[[int], Where],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_journal: bool,
) -> None:
    """Wherever in its puts it was stopped, and for however long."""
    monkeypatch.setenv("BUCKETRY_LEASE_SECONDS", LEASE_SECONDS)
    monkeypatch.setattr(directory_lock, "_PATIENCE_SECONDS", 1.0)
    if has_journal:
        request.applymarker(pytest.mark.logs("giving up the journal"))
    for index in range(ROUNDS):
        random = Random(f"takeover {index}")
        place = make_place(index)
        settings = bucket_settings(place)
        volume = VolumeFormat(size_bytes=BLOCK_COUNT * BLOCK_BYTES, block_size_bytes=BLOCK_BYTES)
        asyncio.run(create_volume(settings, volume))
        directories = [str(tmp_path / f"cache {who} {index}") if has_journal else None for who in "AB"]
        with writing(place, directories[0]) as former:
            for _ in range(2):
                assert next_line(former).startswith("flushed")
            # A moment in its next puts.
            subprocess.run(["sleep", f"{random.uniform(0.0, 0.3):.3f}"], check=True)
            former.send_signal(signal.SIGSTOP)
            if not asyncio.run(take_over(place, directories[1], former)):
                # As whoever tries is told to.
                former.kill()
                former.wait()
                asyncio.run(write_over(place, directories[1], None))
