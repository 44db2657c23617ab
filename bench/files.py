"""What reading a file of a bucket costs: cached, cold at random, cold in order; against the bare client and a
local file, in one run.

    PYTHONPATH=tests python -m bench.files [--rounds 3] [--mib 128]

The server is our own in memory, in a process of its own, 0 and 20 ms away. Peers take turns; shown are
medians. Processor time is that of the reading process alone.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import obstore
from obstore.store import S3Store

from bench.report import load, machine
from bucketry.bucket.stack import stacked
from bucketry.core.pieces import PIECES_METADATA, encode, sum_pieces
from bucketry.files.object_cache import ObjectCache
from bucketry.files.object_reader import ObjectReader, OpenObject
from bucketry.settings import BucketSettings, FilesSettings, Secret
from bucketry.testing.s3_server import LineModel, S3ServerProcess, ServiceSettings

_BUCKET = "files"
_KEY = "file"
_FAR_SECONDS = 0.020
_STEP_BYTES = 1 << 20
_AT_ONCE = 16
#: Enough for a median of the machine's moods, little enough for a minute.
_CACHED_READS = 3000
_COLD_READS = 256

#: By part and peer, of each round: microseconds, and those of processor time.
Figures = dict[tuple[str, str], list[tuple[float, float]]]


class Bench:
    """A server with one object, a loop on a thread, and readers as programs have them."""

    def __init__(self, server: S3ServerProcess, directory: Path, size_bytes: int) -> None:
        self.figures: Figures = defaultdict(list)
        self._server = server
        self._directory = directory
        self._size_bytes = size_bytes
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._bucket, _ = stacked(
            BucketSettings(
                url=f"s3://{_BUCKET}", endpoint=server.endpoint, access_id="any", access_key=Secret("key")
            )
        )
        self._store = S3Store(
            _BUCKET,
            config={"endpoint": server.endpoint, "region": "us-east-1", "skip_signature": True},
            client_options={"allow_http": True, "timeout": timedelta(seconds=30)},
            retry_config={"max_retries": 0},
        )
        self._data = Random(0).randbytes(size_bytes)
        pieces = encode(sum_pieces([self._data]), size_bytes)
        obstore.put(self._store, _KEY, self._data, attributes={PIECES_METADATA: pieces}, use_multipart=False)
        (directory / "local").write_bytes(self._data)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self.run(self._bucket.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def with_reader(self, mode: str, work: Callable[[ObjectReader], None]) -> None:
        """``work`` with a reader on an empty cache."""
        self._number += 1
        cache = ObjectCache(self._directory / str(self._number), size_bytes=4 << 30)

        async def make() -> ObjectReader:
            return ObjectReader(self._bucket, cache, FilesSettings(mode=mode))

        reader = self.run(make())
        try:
            work(reader)
        finally:
            self.run(reader.close())
            cache.remove(reader.store, _KEY)
            cache.close()

    def read(self, opened: OpenObject, offset: int, buffer: memoryview) -> None:
        if not opened.read_nowait(offset, buffer):
            self.run(opened.read(offset, buffer))

    # -- the parts -------------------------------------------------------------------------------------------

    def cached(self) -> None:
        """One thread, random offsets, all of it in the page cache; processor time for each read."""

        def work(reader: ObjectReader) -> None:
            opened = self.run(reader.open(_KEY, _KEY))
            for name, length, count in (
                ("4 KiB", 4096, _CACHED_READS),
                ("32 KiB", 32768, _CACHED_READS),
                ("1 MiB", 1 << 20, _CACHED_READS // 20),
            ):
                random, pages = Random(1), (self._size_bytes - length) // 4096
                offsets = [random.randint(0, pages) * 4096 for _ in range(count)]
                buffer = memoryview(bytearray(length))
                with self._timed(f"cached read of {name}", "bucketry", count):
                    for offset in offsets:
                        if not opened.read_nowait(offset, buffer):
                            raise AssertionError("all of it is cached")
                file = os.open(self._directory / "local", os.O_RDONLY)
                with self._timed(f"cached read of {name}", "pread of a local file", count):
                    for offset in offsets:
                        os.preadv(file, [buffer], offset)
                os.close(file)
            opened.close()

        self.with_reader("whole", work)

    def cold_random(self, far: str, at_once: int) -> None:
        """4 KiB each, in as many threads; microseconds for each."""
        part = f"cold random read of 4 KiB, {far}, {at_once} at once"
        blocks = self._size_bytes // (128 << 10)
        chosen = Random(2).sample(range(1, blocks), min(blocks - 1, _COLD_READS if at_once > 1 else 64))
        offsets = [block * (128 << 10) + 8192 for block in chosen]

        def work(reader: ObjectReader) -> None:
            opened = self.run(reader.open(_KEY, _KEY))
            with ThreadPoolExecutor(at_once) as executor, self._timed(part, "bucketry", len(offsets)):
                list(executor.map(lambda at: self.read(opened, at, memoryview(bytearray(4096))), offsets))
            opened.close()

        self.with_reader("ranges", work)
        for name, length in (("bare obstore loop, 4 KiB", 4096), ("bare obstore loop, 128 KiB", 128 << 10)):
            with ThreadPoolExecutor(at_once) as executor, self._timed(part, name, len(offsets)):
                list(
                    executor.map(lambda at, length=length: self._get(at // length * length, length), offsets)
                )

    def cold_sequential(self, far: str) -> None:
        """All of it, once."""
        part = f"cold, all in order, each MiB, {far}"
        mib = self._size_bytes >> 20

        def whole(reader: ObjectReader) -> None:
            with self._timed(part, "bucketry, whole file on open", mib):
                opened = self.run(reader.open(_KEY, _KEY))
            opened.close()

        def ranges(reader: ObjectReader, step: int) -> None:
            buffer = memoryview(bytearray(step))
            with self._timed(part, f"bucketry, ranges, reads of {step >> 10} KiB", mib):
                opened = self.run(reader.open(_KEY, _KEY))
                for offset in range(0, self._size_bytes, step):
                    self.read(opened, offset, buffer)
            opened.close()

        self.with_reader("whole", whole)
        self.with_reader("ranges", lambda reader: ranges(reader, _STEP_BYTES))
        self.with_reader("ranges", lambda reader: ranges(reader, 32 << 10))
        with (
            ThreadPoolExecutor(_AT_ONCE) as executor,
            self._timed(part, "bare obstore loop, 1 MiB, 16 at once", mib),
        ):
            list(executor.map(lambda at: self._get(at, _STEP_BYTES), range(0, self._size_bytes, _STEP_BYTES)))

    def _get(self, start: int, length: int) -> int:
        return len(obstore.get_range(self._store, _KEY, start=start, length=length))

    @contextmanager
    def _timed(self, part: str, who: str, count: int) -> Iterator[None]:
        """Note how long each of ``count`` takes, and how much processor time of this process."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.figures[part, who].append((wall / count * 1e6, cpu / count * 1e6))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=128)
    arguments = parser.parse_args()
    before = load()
    settings = ServiceSettings(etags="fast")
    with (
        S3ServerProcess(settings) as server,
        tempfile.TemporaryDirectory(prefix="bucketry-bench-") as directory,
    ):
        server.make_bucket(_BUCKET)
        bench = Bench(server, Path(directory), arguments.mib << 20)
        try:
            for _ in range(arguments.rounds):
                bench.cached()
                for far, seconds in (("0 ms", 0.0), ("20 ms", _FAR_SECONDS)):
                    server.set_line(LineModel(latency_seconds=seconds))
                    bench.cold_random(far, 1)
                    bench.cold_random(far, _AT_ONCE)
                    bench.cold_sequential(far)
                server.set_line()
        finally:
            bench.close()
    print(f"{machine()}; load {before} before, {load()} after; {arguments.rounds} rounds\n")
    print("| | who | µs | µs of processor time |\n|---|---|---:|---:|")
    for (part, who), rounds in bench.figures.items():
        wall, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"| {part} | {who} | {wall:,.1f} | {cpu:,.1f} |")


if __name__ == "__main__":
    main()
