"""A process that opens one object in many threads, reads all of it, and tells what it saw.

Arguments as JSON: url, endpoint, access_id, access_key, directory, key, mode, threads. It says "ready", waits
for a line on standard input, and prints one line of JSON at the end.
"""

import asyncio
import hashlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

from bucketry.bucket.stack import stacked
from bucketry.files.object_cache import ObjectCache
from bucketry.files.object_reader import ObjectReader
from bucketry.settings import BucketSettings, FilesSettings, Secret

_STEP_BYTES = 1 << 20


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    bucket, _ = stacked(
        BucketSettings(
            url=asked["url"],
            endpoint=asked["endpoint"],
            access_id=asked["access_id"],
            access_key=Secret(asked["access_key"]),
        )
    )
    cache = ObjectCache(Path(asked["directory"]), size_bytes=1 << 30)

    async def make() -> ObjectReader:
        return ObjectReader(bucket, cache, FilesSettings(mode=asked["mode"]))

    reader = run(make())
    print("ready", flush=True)
    sys.stdin.readline()
    digests: list[str] = []
    problems: list[str] = []

    def read() -> None:
        try:
            found = run(reader.open(asked["key"], asked["key"]))
            digest = hashlib.sha256()
            for offset in range(0, found.size_bytes, _STEP_BYTES):
                buffer = memoryview(bytearray(min(_STEP_BYTES, found.size_bytes - offset)))
                if not found.read_nowait(offset, buffer):
                    run(found.read(offset, buffer))
                digest.update(buffer)
            found.close()
            digests.append(digest.hexdigest())
        except BaseException as error:  # noqa: BLE001 - told to who started us
            problems.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(asked["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def end() -> None:
        await reader.close()
        await bucket.close()

    run(end())
    statistics = reader.statistics()
    cache.close()
    print(json.dumps({"digests": digests, "problems": problems, "statistics": statistics}), flush=True)
    loop.call_soon_threadsafe(loop.stop)


if __name__ == "__main__":
    main()
