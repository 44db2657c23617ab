"""Processes that share a cache directory, over real servers: one download, and what a kill leaves."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest

from bucketry.core.cache_map import BLOCK_BYTES
from bucketry.files.object_cache import ObjectCache
from bucketry.testing.s3_server import LineModel, S3Server, Stall, StallAt
from files.random_reader import known
from files.reading import content
from servers.s3 import REGION, Buckets
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

SIZE = 48 * 1024 * 1024 + 12345
KEY = "dir/large"


@dataclass
class Readers:
    """Processes of ``cold_reader``, all on one directory."""

    url: str
    endpoint: str
    access_id: str
    access_key: str
    directory: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, mode: str, threads: int) -> "subprocess.Popen[str]":
        """Ready, and waiting for its turn."""
        asked = {
            "url": self.url,
            "endpoint": self.endpoint,
            "access_id": self.access_id,
            "access_key": self.access_key,
            "directory": str(self.directory),
            "key": KEY,
            "mode": mode,
            "threads": threads,
        }
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("cold_reader.py")), json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def go(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    def result(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        output, _ = process.communicate()
        found: dict[str, Any] = json.loads(output)
        assert found["problems"] == []
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[S3Server, Readers]]:
    """Our own server, which counts what it sends."""
    with S3Server() as server:
        server.make_bucket("files")
        readers = Readers("s3://files", server.endpoint, "any", "key", tmp_path / "cache")
        try:
            yield server, readers
        finally:
            readers.close()


@pytest.fixture
def data() -> bytes:
    return content(SIZE)


def put(endpoint: str, access_id: str, access_key: str, bucket: str, data: bytes) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_id,
        aws_secret_access_key=access_key,
        region_name=REGION,
    )
    client.put_object(Bucket=bucket, Key=KEY, Body=data)


@pytest.mark.parametrize("mode", ["whole", "ranges"])
def test_two_processes_and_sixteen_threads_download_once(
    own: tuple[S3Server, Readers], data: bytes, mode: str
) -> None:
    """Two processes that open and read one cold object in sixteen threads each cause one download: the server
    sends its bytes once, whoever asked for which part."""
    server, readers = own
    put(server.endpoint, "any", "key", "files", data)
    # As far as another country, so that the processes meet.
    server.set_line(LineModel(latency_seconds=0.005))
    server.reset_ledger()
    processes = [readers.start(mode, 16) for _ in range(2)]
    for process in processes:
        readers.go(process)
    results = [readers.result(process) for process in processes]
    wanted = hashlib.sha256(data).hexdigest()
    assert [digest for result in results for digest in result["digests"]] == [wanted] * 32
    statistics = [result["statistics"] for result in results]
    assert sum(each["fetched_bytes"] for each in statistics) == SIZE
    ledger = server.snapshot()
    assert SIZE <= ledger.bytes_out < SIZE + 200_000  # headers, and answers without a body
    assert sum(each["corrupt"] + each["alien"] + each["local_errors"] for each in statistics) == 0
    assert (readers.directory / KEY).exists() == (mode == "whole")
    if mode == "whole":
        assert (readers.directory / KEY).read_bytes() == data


def test_two_processes_over_seaweedfs(seaweed: Seaweed, tmp_path: Path, data: bytes) -> None:
    """The same over a server that others made."""
    bucket = seaweed.make_bucket()
    Buckets(seaweed.endpoint, seaweed.access_key, seaweed.secret_key).client.put_object(
        Bucket=bucket, Key=KEY, Body=data
    )
    readers = Readers(
        f"s3://{bucket}", seaweed.endpoint, seaweed.access_key, seaweed.secret_key, tmp_path / "cache"
    )
    try:
        processes = [readers.start("whole", 16) for _ in range(2)]
        for process in processes:
            readers.go(process)
        results = [readers.result(process) for process in processes]
    finally:
        readers.close()
    wanted = hashlib.sha256(data).hexdigest()
    assert [digest for result in results for digest in result["digests"]] == [wanted] * 32
    assert sum(result["statistics"]["fetched_bytes"] for result in results) == SIZE


@pytest.mark.parametrize("mode", ["whole", "ranges"])
@pytest.mark.parametrize("answered", [0, 3, 9])
def test_a_kill_leaves_nothing_that_is_trusted(
    own: tuple[S3Server, Readers], data: bytes, mode: str, answered: int
) -> None:
    """A process that is killed while it downloads leaves no plain file; who reads after it, or waited for it,
    gets every byte right, and fetches only what was not there."""
    server, readers = own
    put(server.endpoint, "any", "key", "files", data)
    server.reset_ledger()
    server.plan(Stall(None, StallAt.BODY), operation="GetObject", skip=answered, times=None)
    killed, waiting = readers.start(mode, 1), readers.start(mode, 1)
    readers.go(killed)
    _wait_for_gets(server, answered + 1)
    readers.go(waiting)
    killed.kill()
    killed.communicate()
    assert not (readers.directory / KEY).exists()
    server.clear_faults()
    server.release_stalls()
    result = readers.result(waiting)
    assert result["digests"] == [hashlib.sha256(data).hexdigest()]
    assert result["statistics"]["fetched_bytes"] <= SIZE
    if answered == 9:
        assert result["statistics"]["fetched_bytes"] <= SIZE - 8 * BLOCK_BYTES
    if mode == "whole":
        assert (readers.directory / KEY).read_bytes() == data
    last = readers.start(mode, 1)
    readers.go(last)
    found = readers.result(last)
    assert found["digests"] == result["digests"]
    assert found["statistics"]["fetched_bytes"] == 0


def _wait_for_gets(server: S3Server, count: int) -> None:
    deadline = time.monotonic() + 60
    while server.snapshot().requests.get("GetObject", 0) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_processes_that_are_killed_under_pressure(tmp_path: Path) -> None:
    """Four processes read at random through a cache that is much too small, and are killed and started again,
    one after the other: none ever sees a wrong byte, and what is left is within the limit and sound."""
    sizes = {f"dir/{number}": 300_000 * (number + 1) for number in range(12)}
    limit_bytes = 8 << 20
    random = Random(1)
    with S3Server() as server:
        server.make_bucket("files")
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id="any",
            aws_secret_access_key="key",
            region_name=REGION,
        )
        for key, size_bytes in sizes.items():
            client.put_object(Bucket="files", Key=key, Body=known(key, size_bytes))

        def start(seed: int) -> "subprocess.Popen[str]":
            asked = {
                "url": "s3://files",
                "endpoint": server.endpoint,
                "directory": str(tmp_path / "cache"),
                "cache_bytes": limit_bytes,
                "sizes": sizes,
                "seed": seed,
            }
            program = [sys.executable, str(Path(__file__).with_name("random_reader.py")), json.dumps(asked)]
            return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        processes = [start(seed) for seed in range(4)]
        try:
            for round_number in range(24):
                victim = processes[round_number % 4]
                assert victim.stdout is not None
                # It is at work; then some moment of it.
                assert victim.stdout.read(1) == ".", victim.communicate()[1]
                time.sleep(random.random() * 0.05)
                victim.kill()
                _, problems = victim.communicate()
                assert victim.returncode == -9, problems
                processes[round_number % 4] = start(100 + round_number)
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        cache = ObjectCache(tmp_path / "cache", size_bytes=limit_bytes)
        with closing(cache):
            *_, report = cache.scrub()
            assert (report.bad_blocks, report.bad_files, report.problems) == (0, 0, [])
            used = cache.statistics()["used_bytes"]
        assert isinstance(used, int)
        assert 0 < used <= limit_bytes
        taken = sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").rglob("*.data"))
        # What the killed had stored and not noted is given back, but for less than a block of each object.
        assert taken <= limit_bytes + 12 * BLOCK_BYTES
        for path in (tmp_path / "cache" / "dir").glob("*"):
            assert path.read_bytes() == known(f"dir/{path.name}", sizes[f"dir/{path.name}"])
