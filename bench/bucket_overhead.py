"""What ObjectsBucket costs on top of the bare client: 128 KiB, 16 at once, in one run on one SeaweedFS.

    python bench/bucket_overhead.py

Both use the same client from as many threads; the difference in CPU time per request is what our layer costs.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.store import S3Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Bucket
from bucketry.settings import BucketSettings, LimitSettings, Secret
from servers.seaweed import Seaweed

SIZE_BYTES = 128 << 10
AT_ONCE = 16
COUNT = 1500
ROUNDS = 3


def _bare(server: Seaweed, bucket_name: str) -> tuple[Callable[[int], object], Callable[[int], object]]:
    store = S3Store(
        bucket_name,
        config={
            "endpoint": server.endpoint,
            "region": "us-east-1",
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
            "virtual_hosted_style_request": False,
        },
        client_options={"allow_http": True, "timeout": timedelta(seconds=30)},
        retry_config={"max_retries": 0},
    )
    data = bytes(SIZE_BYTES)

    def put(index: int) -> object:
        return obstore.put(store, f"{index % 256:08x}", data, use_multipart=False)

    def get(index: int) -> object:
        return memoryview(obstore.get(store, f"{index % 256:08x}").bytes())

    return put, get


def _time_bare(call: Callable[[int], object]) -> tuple[float, float]:
    """Wall and CPU seconds of COUNT calls."""
    with ThreadPoolExecutor(AT_ONCE) as executor:
        list(executor.map(call, range(AT_ONCE)))
        wall, cpu = time.perf_counter(), time.process_time()
        list(executor.map(call, range(COUNT)))
        return time.perf_counter() - wall, time.process_time() - cpu


async def _time_ours(bucket: Bucket, kind: str) -> tuple[float, float]:
    data = bytes(SIZE_BYTES)
    remaining = iter(range(COUNT))

    async def work() -> None:
        for index in remaining:
            if kind == "put":
                await bucket.put(f"{index % 256:08x}", data)
            else:
                await bucket.get(f"{index % 256:08x}")

    await asyncio.gather(*(bucket.put(f"{index:08x}", data) for index in range(AT_ONCE)))
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return time.perf_counter() - wall, time.process_time() - cpu


def _show(name: str, seconds: tuple[float, float]) -> None:
    wall, cpu = seconds
    print(f"{name:10} {COUNT / wall:7.0f} per second   {cpu / COUNT * 1e6:5.0f} µs of CPU each")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = Seaweed(Path(directory) / "weed")
        server.start_process()
        try:
            name = server.make_bucket()
            put, get = _bare(server, name)

            async def ours(kind: str) -> tuple[float, float]:
                bucket = connect(
                    BucketSettings(
                        url=f"s3://{name}",
                        endpoint=server.endpoint,
                        access_id=server.access_key,
                        access_key=Secret(server.secret_key),
                        limits=LimitSettings(requests_max=AT_ONCE),
                    )
                )
                try:
                    return await _time_ours(bucket, kind)
                finally:
                    await bucket.close()

            for _ in range(ROUNDS):
                _show("bare put", _time_bare(put))
                _show("our put", asyncio.run(ours("put")))
                _show("bare get", _time_bare(get))
                _show("our get", asyncio.run(ours("get")))
        finally:
            server.stop_process()


if __name__ == "__main__":
    main()
