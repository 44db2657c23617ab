"""What uploading a file costs: time, processor time and memory, against boto3's upload_file and bare loops.

    PYTHONPATH=tests python -m bench.upload [--rounds 3] [--mib 256] [--small 200]

Servers are our own in memory (in a process of its own; 20 ms away and 100 MB/s for each connection, as S3 is
to one machine) and SeaweedFS on the loopback interface. Each measurement is a process of its own; peers take
turns; shown are medians. Bucketry sums the file first, makes the object on condition that there is none, and
looks at it afterwards; the others just send.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from bench.report import load, machine
from bucketry.bucket.stack import stacked
from bucketry.files.upload import upload
from bucketry.settings import BucketSettings, Secret
from bucketry.testing.s3_server import Credentials, LineModel, S3ServerProcess, ServiceSettings
from servers.seaweed import Seaweed

_KEY = Credentials("AKIDBENCH", Secret("not a secret: for the loopback interface"))
_PART_BYTES = 16 << 20
_FAR = LineModel(latency_seconds=0.020, connection_bytes_per_second=100e6)


def _client(endpoint: str, access_id: str, secret: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_id,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
    )


def _bucketry(endpoint: str, access_id: str, secret: str, name: str, paths: list[Path]) -> Callable[[], None]:
    settings = BucketSettings(
        url=f"s3://{name}", endpoint=endpoint, access_id=access_id, access_key=Secret(secret)
    )

    # Connected before, as the others are.
    loop = asyncio.new_event_loop()
    bucket, _ = stacked(settings)

    async def connect() -> None:
        assert [page async for page in bucket.list_uploads()] == []

    async def run() -> None:
        for path in paths:
            await upload(bucket, path.name, path)
        await bucket.close()

    loop.run_until_complete(connect())
    return lambda: loop.run_until_complete(run())


def _upload_file(
    endpoint: str, access_id: str, secret: str, name: str, paths: list[Path]
) -> Callable[[], None]:
    client = _client(endpoint, access_id, secret)

    def run() -> None:
        for path in paths:
            client.upload_file(str(path), name, path.name)

    return run


def _bare_loop(
    endpoint: str, access_id: str, secret: str, name: str, paths: list[Path]
) -> Callable[[], None]:
    client = _client(endpoint, access_id, secret)

    def run() -> None:
        for path in paths:
            with path.open("rb") as file:
                if path.stat().st_size <= _PART_BYTES:
                    client.put_object(Bucket=name, Key=path.name, Body=file.read())
                    continue
                target = {"Bucket": name, "Key": path.name}
                upload_id = client.create_multipart_upload(**target)["UploadId"]
                parts: list[dict[str, object]] = []
                while data := file.read(_PART_BYTES):
                    number = len(parts) + 1
                    answer = client.upload_part(**target, UploadId=upload_id, PartNumber=number, Body=data)
                    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
                client.complete_multipart_upload(
                    **target, UploadId=upload_id, MultipartUpload={"Parts": parts}
                )

    return run


_PEERS = {"bucketry": _bucketry, "boto3 upload_file": _upload_file, "bare loop (boto3)": _bare_loop}


def _measure_here(peer: str, endpoint: str, access_id: str, secret: str, name: str, files: list[str]) -> None:
    """In the child: what one peer needs for the files, without what it needs to be imported and connected."""
    run = _PEERS[peer](endpoint, access_id, secret, name, [Path(file) for file in files])
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    started, cpu_started = time.perf_counter(), time.process_time()
    run()
    result = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "more_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before_bytes,
    }
    print(json.dumps(result))


def _measure(
    peer: str, endpoint: str, access_id: str, secret: str, name: str, files: list[Path]
) -> dict[str, float]:
    arguments = [peer, endpoint, access_id, secret, name, *map(str, files)]
    answer = subprocess.run(
        [sys.executable, "-m", "bench.upload", "--child", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def _compare(title: str, size_bytes: int, rounds: int, measure: Callable[[str], dict[str, float]]) -> None:
    results: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        peers = list(_PEERS)
        Random(number).shuffle(peers)
        for peer in peers:
            results[peer].append(measure(peer))
    print(f"\n{title}\n\n| | MB/s | of upload_file | CPU seconds | memory, MiB |\n|---|---:|---:|---:|---:|")
    middle = {
        peer: {field: statistics.median(each[field] for each in found) for field in found[0]}
        for peer, found in results.items()
    }
    yardstick = middle["boto3 upload_file"]["seconds"]
    for peer in _PEERS:
        figures = middle[peer]
        print(
            f"| {peer} | {size_bytes / figures['seconds'] / 1e6:,.0f} | "
            f"{yardstick / figures['seconds']:.2f} | {figures['cpu_seconds']:.2f} | "
            f"{figures['more_bytes'] / (1 << 20):,.0f} |"
        )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        peer, endpoint, access_id, secret, name, *paths = sys.argv[2:]
        _measure_here(peer, endpoint, access_id, secret, name, paths)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--small", type=int, default=200)
    chosen = parser.parse_args()
    print(machine(), load())
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        large = directory / "large"
        with large.open("wb") as file:
            for _ in range(chosen.mib):
                file.write(os.urandom(1 << 20))
        small = []
        for number in range(chosen.small):
            small.append(directory / f"small-{number:05}")
            small[-1].write_bytes(os.urandom(64 << 10))
        loads = {
            f"one file of {chosen.mib} MiB": ([large], chosen.mib << 20),
            f"{chosen.small} files of 64 KiB, one after the other": (small, chosen.small * (64 << 10)),
        }
        with S3ServerProcess(ServiceSettings(credentials=(_KEY,), etags="fast")) as server:
            server.set_line(_FAR)

            def on_own(peer: str, files: list[Path]) -> dict[str, float]:
                server.clear()
                name = server.make_bucket("bench")
                return _measure(peer, server.endpoint, _KEY.access_id, _KEY.secret.reveal_text(), name, files)

            for what, (files, size_bytes) in loads.items():
                _compare(
                    f"20 ms and 100 MB/s for each connection: {what}",
                    size_bytes,
                    chosen.rounds,
                    lambda peer, files=files: on_own(peer, files),  # type: ignore[misc]
                )
        seaweed = Seaweed(directory / "seaweed")
        seaweed.start_process()
        try:
            for what, (files, size_bytes) in loads.items():
                _compare(
                    f"SeaweedFS: {what}",
                    size_bytes,
                    chosen.rounds,
                    lambda peer, files=files: _measure(  # type: ignore[misc]
                        peer,
                        seaweed.endpoint,
                        seaweed.access_key,
                        seaweed.secret_key,
                        seaweed.make_bucket(),
                        files,
                    ),
                )
        finally:
            seaweed.stop_process()
    print(load())


if __name__ == "__main__":
    main()
