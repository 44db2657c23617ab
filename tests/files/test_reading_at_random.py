"""Readers, faults, new versions, damage and eviction at random: whatever is read is right."""

import asyncio
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from bucketry.core.pieces import sum_pieces
from bucketry.errors import BucketryError
from bucketry.files.object_reader import ObjectReader
from bucketry.testing.faulty_bucket import FaultRates
from files.reading import BLOCK_BYTES, Place, Uploaded, content, flip

KEYS = ["a", "dir/b", "c"]
STEPS = 25
#: All of them take some ten seconds; the quick check has the first.
SEEDS = 40
#: Ten blocks and their maps: less than the objects have.
LIMIT_BYTES = 10 * BLOCK_BYTES + 4 * 12288


class World:
    """One directory, three readers as three processes have them, and somebody who puts new versions."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.random = Random(seed)
        #: What each key has ever been, by ETag.
        self.versions: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.reads = 0
        self.errors = 0

    async def put(self, key: str) -> None:
        data = content(self.random.choice([0, 100, BLOCK_BYTES, 5 * BLOCK_BYTES + 77]), self.random.random())
        rates, self.place.bucket.rates = self.place.bucket.rates, FaultRates()
        etag = await self.place.put(key, data)
        self.place.bucket.rates = rates
        self.versions[key][etag] = data

    async def read(self, reader: ObjectReader) -> None:
        """Open an object and read it here and there, in the meantime of everything else."""
        key = self.random.choice(KEYS)
        try:
            found = await reader.open(key, key)
        except BucketryError:
            self.errors += 1
            return
        wanted = self.versions[key][found.etag]
        assert found.size_bytes == len(wanted)
        for _ in range(self.random.randrange(8)):
            offset = self.random.randrange(len(wanted) + 1)
            length = min(self.random.choice([1, 5000, BLOCK_BYTES, 9 * BLOCK_BYTES]), len(wanted) - offset)
            buffer = memoryview(bytearray(length))
            try:
                if not found.read_nowait(offset, buffer):
                    await found.read(offset, buffer)
            except BucketryError:
                self.errors += 1
            else:
                assert buffer == wanted[offset : offset + length], f"{key} {offset} {length}"
                self.reads += 1
        found.close()

    def damage(self) -> None:
        """A wrong bit, a cut or a removal, in any file of the cache."""
        # Threads of the caches make room meanwhile: what is gone is passed over.
        walked = os.walk(self.place.directory)
        files = sorted(Path(at, name) for at, _, names in walked for name in names if name != "lock")
        if not files:
            return
        path = self.random.choice(files)
        with suppress(FileNotFoundError):
            self._damage(path, path.stat().st_size)

    def _damage(self, path: Path, size: int) -> None:
        what = self.random.randrange(4)
        if what == 0:
            path.unlink()
        elif what == 1:
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.truncate(self.random.randrange(size + 1))
        elif size:
            flip(path, self.random.randrange(size))


@pytest.mark.logs(".", required=False)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, SEEDS))]
)
async def test_whatever_is_read_is_right(tmp_path: Path, seed: int) -> None:
    """Under failing, short and damaged answers, new versions, damage to the cache, adoptions and constant
    eviction, a read is the bytes of its handle's version, or an error; and at the end all is as new."""
    async with Place(tmp_path / "cache") as place:
        world = World(place, seed)
        for key in KEYS:
            await world.put(key)
        place.bucket.rates = FaultRates(fail=0.05, lose_answer=0.02, truncate=0.03, flip_bit=0.03)
        modes = ["whole", "ranges", "auto"]
        readers = [
            place.reader(place.cache(LIMIT_BYTES), mode, whole_max_bytes=BLOCK_BYTES) for mode in modes
        ]
        for _ in range(STEPS):
            work = [world.read(world.random.choice(readers)) for _ in range(world.random.randrange(1, 6))]
            if world.random.random() < 0.3:
                work.append(world.put(world.random.choice(KEYS)))
            await asyncio.gather(*work)
            if world.random.random() < 0.3:
                world.damage()
            if world.random.random() < 0.2:
                key = world.random.choice(KEYS)
                info = await place.bucket._below.head(key)
                data = world.versions[key][info.etag]
                (tmp_path / "source").write_bytes(data)
                uploaded = Uploaded(info.etag, len(data), sum_pieces([data]))
                await world.random.choice(readers).adopt(key, key, tmp_path / "source", uploaded)
            if world.random.random() < 0.1:
                world.random.choice(readers).forget(key := world.random.choice(KEYS), key)
        assert world.reads > 50
        place.bucket.rates = FaultRates()
        for reader in readers:
            await reader.close()
        *_, report = place.cache(LIMIT_BYTES).scrub()
        assert report.problems == []
        last = place.reader(place.cache(LIMIT_BYTES), "ranges")
        for key in KEYS:
            info = await place.bucket.head(key)
            found = await last.open(key, key)
            buffer = memoryview(bytearray(found.size_bytes))
            await found.read(0, buffer)
            assert buffer == world.versions[key][info.etag]
            found.close()
        used = last.statistics()["used_bytes"]
        assert isinstance(used, int)
        assert used <= LIMIT_BYTES
