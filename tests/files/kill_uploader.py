"""A process to be killed: uploads a file in parts of 5 MiB. Arguments: endpoint, bucket, access file, key,
file, directory of records."""

import asyncio
import sys
from pathlib import Path

from bucketry.bucket.stack import stacked
from bucketry.files.upload import upload
from bucketry.files.upload_records import UploadRecords
from bucketry.settings import BucketSettings, UploadSettings


async def main() -> None:
    endpoint, name, access_file, key, file, records = sys.argv[1:]
    bucket, _ = stacked(BucketSettings(url=f"s3://{name}", endpoint=endpoint, access_file=Path(access_file)))
    settings = UploadSettings(whole_max_bytes=1, part_size_bytes=5 << 20, memory_bytes=1)
    try:
        await upload(
            bucket,
            key,
            Path(file),
            settings=settings,
            records=UploadRecords(Path(records)),
            progress=lambda sent_bytes: print(sent_bytes, flush=True),
        )
    finally:
        await bucket.close()


asyncio.run(main())
