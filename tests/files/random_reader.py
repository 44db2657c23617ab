"""A process that reads known objects here and there through a small cache until it is killed.

Arguments as JSON: url, endpoint, directory, cache_bytes, sizes (of the objects by key), seed. It prints a dot
for each hundred reads, and ends at once when it sees a wrong byte.
"""

import asyncio
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from bucketry.bucket.stack import stacked
from bucketry.files.object_cache import ObjectCache
from bucketry.files.object_reader import ObjectReader
from bucketry.settings import BucketSettings, FilesSettings, Secret

WRONG = 3
_READERS = 4


def known(key: str, size_bytes: int) -> bytes:
    """What is in an object."""
    return Random(key).randbytes(size_bytes)


async def run(asked: dict[str, Any]) -> None:
    random = Random(asked["seed"])
    bucket, _ = stacked(
        BucketSettings(
            url=asked["url"], endpoint=asked["endpoint"], access_id="any", access_key=Secret("key")
        )
    )
    cache = ObjectCache(Path(asked["directory"]), size_bytes=asked["cache_bytes"])
    reader = ObjectReader(bucket, cache, FilesSettings(whole_max_bytes=1 << 20))
    contents = {key: known(key, size_bytes) for key, size_bytes in asked["sizes"].items()}
    count = 0

    async def work() -> None:
        nonlocal count
        while True:
            key = random.choice(list(contents))
            wanted = contents[key]
            opened = await reader.open(key, key)
            for _ in range(random.randrange(1, 20)):
                offset = random.randrange(len(wanted))
                length = min(random.choice([100, 4096, 300_000]), len(wanted) - offset)
                buffer = memoryview(bytearray(length))
                if not opened.read_nowait(offset, buffer):
                    await opened.read(offset, buffer)
                if buffer != wanted[offset : offset + length]:
                    print(f"{key}: wrong bytes at {offset}", file=sys.stderr)
                    sys.exit(WRONG)
                count += 1
                if not count % 100:
                    print(".", end="", flush=True)
            opened.close()

    await asyncio.gather(*(work() for _ in range(_READERS)))


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
