"""Uploads of one name by several at once, drawn from a seed: contents, faults, outages, impatient callers."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from bucketry.bucket.interface import Bucket, OpenUpload
from bucketry.bucket.memory import MemoryBucket, MemoryStore
from bucketry.bucket.retrying import Retrying
from bucketry.codec.offload import inline
from bucketry.codec.sealed_bucket import SealedBucket
from bucketry.errors import AlreadyExists, Unavailable
from bucketry.files.upload import sweep, upload
from bucketry.files.upload_records import UploadRecords
from bucketry.settings import RetrySettings, Secret, UploadSettings
from bucketry.testing.faulty_bucket import FaultRates, FaultyBucket
from bucketry.testing.virtual_time import run_virtual

PART = 64 << 10
SETTINGS = UploadSettings(whole_max_bytes=PART, part_size_bytes=PART, memory_bytes=3 * PART)
RETRY = RetrySettings(initial_pause_seconds=1, pause_max_seconds=10, budget_seconds=60)
KEY = "dir/key"

pytestmark = pytest.mark.logs(
    "trying again in", "are left until it is uploaded again", "comparing its bytes", required=False
)


@dataclass
class Course:
    """What a seed says: files of which sizes, how many writers of them, and whether they are encrypted."""

    seed: int
    directory: Path

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.store = MemoryStore()
        self.secret = Secret(bytes(32)) if self.random.random() < 0.3 else None
        self.records = UploadRecords(self.directory / "records")
        sizes = [self.random.choice([100, 2 * PART, 3 * PART + 5]) for _ in range(self.random.randint(1, 3))]
        self.contents = [self.random.randbytes(size) for size in sizes]
        for index, content in enumerate(self.contents):
            self.path(index).write_bytes(content)
        #: Which of the contents somebody was told to be in the bucket.
        self.won: set[int] = set()

    def path(self, index: int) -> Path:
        return self.directory / str(index)

    def sealed(self, bucket: Bucket) -> Bucket:
        return bucket if self.secret is None else SealedBucket(bucket, self.secret)

    def writer_bucket(self) -> tuple[FaultyBucket, Bucket]:
        draw = self.random.choice
        rates = FaultRates(
            fail=draw([0, 0.05, 0.2]),
            throttle=draw([0, 0.05]),
            lose_answer=draw([0, 0.05, 0.2]),
            delay_min_seconds=0.1,
            delay_max_seconds=3,
        )
        below = FaultyBucket(MemoryBucket(self.store), rates=rates, seed=self.random.getrandbits(32))
        retrying = Retrying(below, RETRY, random=Random(self.random.getrandbits(32)))
        return below, self.sealed(retrying)

    async def write(self) -> None:
        """One writer, who may meet an outage and may lose patience."""
        below, bucket = self.writer_bucket()
        index = self.random.randrange(len(self.contents))
        records = self.records if self.random.random() < 0.7 else None
        patience_seconds = self.random.random() * 20 if self.random.random() < 0.2 else None
        if self.random.random() < 0.2:
            loop = asyncio.get_running_loop()
            loop.call_later(self.random.random() * 20, setattr, below, "outage", True)
            loop.call_later(30 + self.random.random() * 80, setattr, below, "outage", False)
        await asyncio.sleep(self.random.random() * 10)
        try:
            async with asyncio.timeout(patience_seconds):
                await upload(
                    bucket, KEY, self.path(index), settings=SETTINGS, records=records, offload=inline
                )
        except (AlreadyExists, Unavailable, TimeoutError):
            return
        self.won.add(index)

    async def run(self) -> None:
        await asyncio.gather(*(self.write() for _ in range(self.random.choice([1, 2, 5]))))
        assert len(self.won) <= 1
        # Whatever is still on its way has arrived.
        await asyncio.sleep(200)
        bucket = self.sealed(MemoryBucket(self.store))
        if self.store.objects:
            content = bytes((await bucket.get(KEY)).data)
            index = self.contents.index(content)
            assert self.won <= {index}
            again = await upload(
                bucket, KEY, self.path(index), settings=SETTINGS, records=self.records, offload=inline
            )
            assert again.was_there
            if len(content) > PART:
                assert await _open_uploads(bucket) == []
        else:
            assert not self.won
        await sweep(bucket, older_than_seconds=-1, records=self.records, offload=inline)
        assert await _open_uploads(bucket) == []


async def _open_uploads(bucket: Bucket) -> list[OpenUpload]:
    return [opened for page in [page async for page in bucket.list_uploads()] for opened in page]


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(40, 1000), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_one_content_wins_and_nothing_is_left(seeds: range, tmp_path: Path) -> None:
    """Who was told that his file is in the bucket is right, and all who were told so had the same content;
    uploading it again succeeds, and then, or after a sweep, no part is left."""
    for seed in seeds:
        directory = tmp_path / str(seed)
        directory.mkdir()
        try:
            run_virtual(Course(seed, directory).run())
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
