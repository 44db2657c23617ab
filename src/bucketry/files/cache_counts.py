"""What has happened in the object cache of this process, counted.

Several threads count without a lock: under the interpreter's lock an increment is one step, and a figure that
misses one is still a figure.
"""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class CacheCounts:
    """Reads, blocks and bytes."""

    #: Reads that the cache answered, and those for which at least one block had to be fetched.
    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0
    miss_bytes: int = 0
    #: Blocks that came from the bucket, and what of them was kept.
    fetched_blocks: int = 0
    fetched_bytes: int = 0
    stored_blocks: int = 0
    stored_bytes: int = 0
    #: Blocks that were not kept: no room, or the local disk is full.
    not_stored_blocks: int = 0
    #: Files that a flush left here without a download.
    adopted: int = 0
    evicted_blocks: int = 0
    evicted_files: int = 0
    evicted_bytes: int = 0
    #: Cached data that did not have its checksum, and maps that are none. They were misses.
    corrupt: int = 0
    alien: int = 0
    #: Failures of the local disk. They were misses, or nothing was kept.
    local_errors: int = 0
    #: Blocks and opens that waited for another reader's request instead of making their own; those of other
    #: processes apart.
    single_flight_waits: int = 0
    single_flight_waits_elsewhere: int = 0
    #: Blocks fetched before they were asked for; those that were read later, and those that were not in time.
    ahead_blocks: int = 0
    ahead_used_blocks: int = 0
    ahead_wasted_blocks: int = 0
    #: Opens that the cache answered because the store could not be asked, and opens of objects that had
    #: changed.
    opens_unchecked: int = 0
    opens_changed: int = 0
    #: Data from the bucket that was not what was put there: short, or with another checksum.
    bad_fetches: int = 0

    def statistics(self) -> dict[str, int]:
        return asdict(self)
