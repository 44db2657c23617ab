"""A process that appends to a journal until it is killed, and says on standard output what it may rely on."""

import asyncio
import sys
from pathlib import Path
from random import Random

from bucketry.cache.journal import Journal
from bucketry.cache.journal_files import DirectoryFiles
from bucketry.codec.offload import Threads
from bucketry.core.journal import JournalIdentity
from bucketry.layout.interface import Change, Write

IDENTITY = JournalIdentity("volume", "generation", 1 << 30, 4096)
SIZE_BYTES_MAX = 4 << 20
FLUSHERS = 4


def changes_of(epoch: int) -> list[Change]:
    """What an epoch consists of: a few writes, sometimes large ones."""
    random = Random(epoch)
    sizes = [random.choice([1, 512, 4096, 30_000]) for _ in range(random.randint(1, 4))]
    return [Write(random.randrange(1 << 29), random.randbytes(size)) for size in sizes]


async def write(directory: Path) -> None:
    threads = Threads(1)
    journal, recovered = await Journal.open(
        DirectoryFiles(directory), IDENTITY, size_bytes_max=SIZE_BYTES_MAX, offload=threads
    )
    if recovered:
        journal.note_drained(recovered[-1].number)
    next_epoch = journal.next_epoch

    async def flush() -> None:
        nonlocal next_epoch
        while True:
            epoch, next_epoch = next_epoch, next_epoch + 1
            is_in = await journal.append(epoch, changes_of(epoch))
            assert is_in, "the journal is large enough"
            # In one write, so that a line is whole or not there.
            sys.stdout.buffer.write(b"%d\n" % epoch)
            sys.stdout.buffer.flush()
            journal.note_drained(epoch - 20)

    await asyncio.gather(*(flush() for _ in range(FLUSHERS)))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
