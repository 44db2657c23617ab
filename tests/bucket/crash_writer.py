"""A process to be killed: it puts one object again and again, now with these data and attributes, now with
those."""

import asyncio
import sys

from bucketry.bucket.connect import connect
from bucketry.bucket.interface import Attributes
from bucketry.settings import BucketSettings

#: Long enough for a kill to hit the middle of it.
SIZE_BYTES = 200_000


async def put_for_ever(url: str) -> None:
    bucket = connect(BucketSettings(url=url))
    for index in range(1 << 60):
        letter = "ab"[index % 2]
        await bucket.put(
            "key", letter.encode() * SIZE_BYTES, attributes=Attributes(None, letter, {"letter": letter})
        )
        if index == 1:
            print("begun", flush=True)


if __name__ == "__main__":
    asyncio.run(put_for_ever(sys.argv[1]))
