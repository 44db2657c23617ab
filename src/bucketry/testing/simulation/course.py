"""What happens in one simulation, drawn from its seed: the volume, the caches, the faults, the acts."""

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from random import Random

from bucketry.cache.journal import JOURNAL_BYTES_MIN
from bucketry.core.block_table import SLOT_BYTES
from bucketry.core.journal import HEAD_BYTES, SEGMENT_BYTES_MIN
from bucketry.settings import CacheSettings, LimitSettings, RetrySettings, VolumeFormat
from bucketry.testing.faulty_bucket import NO_FAULTS, FaultRates

BLOCK_SIZE_BYTES = 512
#: Bytes of a journal's segments, and for how many of them a small disk has room.
_SMALLEST = (JOURNAL_BYTES_MIN - HEAD_BYTES, 48 << 10)
_LARGER = (608 << 10, 288 << 10)


class Act(Enum):
    """What befalls a process while it has the volume."""

    CLOSE = "closes"
    KILL = "is killed"
    POWER = "loses power"
    SHORT_PAUSE = "stands still for some seconds"
    LONG_PAUSE = "stands still for longer than its lease"
    SHORT_CUT = "is cut off for less than its lease"
    LONG_CUT = "is cut off for longer than its lease"
    LEASE_CUT = "cannot renew its lease, and reaches the blocks"
    CLOCK = "has its clock set"
    FORCE = "is taken over by force"


class Hand(Enum):
    """What becomes of the journal that a process has left, before the right one attaches again."""

    WITHOUT = "attaches without the journal's directory"
    BUCKET = "attaches with durability bucket"
    READER = "attaches read-only with the journal's directory"
    OTHER_MACHINE = "attaches on another machine"
    OLDER_COPY = "attaches with an older copy of the journal's directory"
    DAMAGED = "attaches with a journal that lacks a file"
    EMPTY = "attaches with an empty directory in the journal's place"
    FOREIGN = "attaches with the journal of another volume"
    COPIED_VOLUME = "attaches a copy of the volume with the journal"
    RESTORED = "attaches after the bucket was restored from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Who works on the disk: ``count`` tasks, each with so many operations and up to so long pauses between
    them. ``blocks_max``: the most that one operation covers. ``weights``: of the operations, see
    ``users``."""

    count: int
    operations: int
    pause_max_seconds: float
    blocks_max: int
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The local disk of every machine: ``capacity_bytes`` of it, how often it fails to write, and how long it
    takes. ``stays``: who comes next runs on the same machine, as a rule."""

    capacity_bytes: int | None
    fail: float
    delay_max_seconds: float
    stays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One simulation. ``successors``: for each act, whether somebody else tries to get the volume meanwhile.
    ``readers``: whether somebody attaches read-only meanwhile."""

    volume: VolumeFormat
    cache: CacheSettings
    limits: LimitSettings
    retry: RetrySettings
    rates: FaultRates
    users: Users
    acts: tuple[Act, ...]
    successors: tuple[bool, ...]
    readers: tuple[bool, ...]
    linger: bool
    #: None: a flush waits for the bucket.
    journal: Journal | None
    #: Whether the volume has no superblock, and what is asked for says what it is.
    is_s3backers: bool = False
    #: Clean blocks that each machine keeps on its local disk; None: there is no directory for that.
    kept_blocks: int | None = None
    #: Entries of one page of a listing.
    page_entries: int = 1000
    #: After each act; empty where a course has none at all.
    unusual_hands: tuple[Hand | None, ...] = ()

    @property
    def block_count(self) -> int:
        return self.volume.size_bytes // self.volume.block_size_bytes

    @property
    def hands(self) -> tuple[Hand | None, ...]:
        """What comes after each act, in place of the right process and before it."""
        return self.unusual_hands or (None,) * len(self.acts)

    @property
    def is_calm(self) -> bool:
        """Nothing happens that an operation may fail of."""
        rates = self.rates
        faults = (
            rates.fail + rates.throttle + rates.lose_answer + rates.truncate + rates.flip_bit + rates.stall
        )
        return faults == 0 and all(act in (Act.CLOSE, Act.SHORT_PAUSE, Act.CLOCK) for act in self.acts)


def draw(seed: int) -> Course:
    """The course of a seed."""
    random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
    block_count = random.choice([3, 6, 10, 16, 24, 40])
    one = BLOCK_SIZE_BYTES + SLOT_BYTES
    memory_blocks = random.choice([2, 4, 8, 16, 64])
    dirty_blocks = random.choice([1, memory_blocks // 2, memory_blocks])
    act_count = random.randint(1, 3)
    acts = tuple(random.choices(list(Act), weights=[3, 3, 2, 1, 2, 1, 2, 2, 1, 1], k=act_count))
    linger = random.random() < 0.05
    course = Course(
        volume=VolumeFormat(
            size_bytes=block_count * BLOCK_SIZE_BYTES,
            block_size_bytes=BLOCK_SIZE_BYTES,
            compression=random.choice(["none", "none", "deflate", "zstd"]),
            cipher="AES-128-CBC" if random.random() < 0.1 else None,
            block_hash_prefix=random.random() < 0.2,
        ),
        cache=CacheSettings(
            memory_bytes=memory_blocks * one,
            dirty_max_bytes=max(1, dirty_blocks) * one,
            write_delay_seconds=random.choice([0.0, 0.25, 2.0]),
            read_ahead_bytes=random.choice([0, 2, 8]) * BLOCK_SIZE_BYTES,
        ),
        limits=LimitSettings(requests_max=random.choice([2, 4, 16, 32])),
        retry=RetrySettings(budget_seconds=random.choice([4.0, 10.0, 60.0])),
        rates=_draw_rates(random, linger=linger),
        users=Users(
            count=random.randint(1, 4),
            operations=random.randint(6, 32),
            pause_max_seconds=random.choice([0.05, 0.5, 5.0]),
            blocks_max=random.choice([1, 3, 8]),
            weights=random.choice(
                [
                    (10, 2, 2, 6, 3, 1),
                    (10, 1, 1, 2, 6, 1),
                    (4, 4, 4, 8, 2, 2),
                    (10, 0, 0, 10, 1, 0),
                ]
            ),
        ),
        acts=acts,
        successors=tuple(random.random() < 0.5 for _ in acts),
        readers=tuple(random.random() < 0.2 for _ in acts),
        linger=linger,
        journal=None,
    )
    course = _with_journal(course, Random(f"journal {seed}"))  # noqa: S311
    course = _with_parts(course, Random(f"parts {seed}"))  # noqa: S311
    course = _with_more(course, Random(f"more {seed}"))  # noqa: S311
    course = _with_damage(course, Random(f"damage {seed}"))  # noqa: S311
    return _with_hands(course, Random(f"unusual {seed}"))  # noqa: S311


def _with_parts(course: Course, random: Random) -> Course:
    """The same course, at times with reads of parts of blocks."""
    if random.random() < 0.5:
        return course
    return replace(course, cache=replace(course.cache, parts_from_bytes=BLOCK_SIZE_BYTES))


def _with_journal(course: Course, random: Random) -> Course:
    """The same course, at times with a journal."""
    if random.random() < 0.6:
        return course
    segments_bytes, room_bytes = random.choice([_SMALLEST, _SMALLEST, _LARGER])
    journal_bytes = HEAD_BYTES + segments_bytes
    capacities = [None, None, None, HEAD_BYTES + room_bytes]
    course = replace(
        course,
        cache=replace(
            course.cache,
            durability="journal",
            # Named, and never looked at: the journal's files are simulated.
            cache_dir=Path("simulated"),
            journal_bytes=journal_bytes,
        ),
        journal=Journal(
            capacity_bytes=random.choice(capacities),
            fail=random.choice([0.0, 0.0, 0.0, 0.02]),
            delay_max_seconds=random.choice([0.0, 0.01, 1.0]),
        ),
    )
    return _with_crashes(course, random) if random.random() < 0.5 else course


def _with_crashes(course: Course, random: Random) -> Course:
    """The same with many flushes of few blocks and one crash after the other, so that replays are cut
    short, and what they find is of many epochs."""
    assert course.journal is not None
    acts = random.choices([Act.KILL, Act.POWER, Act.SHORT_CUT, Act.CLOSE], weights=[6, 3, 1, 1], k=4)
    return replace(
        course,
        acts=tuple(acts),
        successors=(False,) * len(acts),
        readers=course.readers[:1] + (False,) * (len(acts) - 1),
        users=replace(
            course.users, operations=random.randint(20, 60), blocks_max=2, weights=(10, 1, 1, 2, 8, 0)
        ),
        journal=replace(course.journal, stays=True),
    )


def _with_more(course: Course, random: Random) -> Course:
    """The same, at times on a volume of s3backer's, with listings of several pages, or with blocks kept on
    local disk from one process to the next."""
    is_s3backers = random.random() < 0.2
    page_entries = random.choice([1000, 1000, 1, 3, 7])
    kept_blocks = random.choice([None, None, 1, 4, 64])
    course = replace(course, is_s3backers=is_s3backers, page_entries=page_entries, kept_blocks=kept_blocks)
    if kept_blocks is None:
        return course
    is_exclusive = random.random() < 0.6
    if is_exclusive and random.random() < 0.4:
        # What is kept at a clean end is found when others have come in between, or not.
        acts = (Act.CLOSE,) * random.randint(2, 3)
        quiet = (False,) * len(acts)
        course = replace(course, acts=acts, successors=quiet, readers=quiet)
    return replace(
        course,
        cache=replace(
            course.cache,
            cache_size_bytes=kept_blocks * BLOCK_SIZE_BYTES,
            exclusive=is_exclusive,
        ),
    )


def _with_damage(course: Course, random: Random) -> Course:
    """The same, at times, where there is a journal, with so many bodies damaged on their way that blocks
    are set aside again and again, while the local disk has room for a few flushes at most."""
    if course.journal is None or random.random() < 0.8:
        return course
    course = _with_crashes(course, random)
    assert course.journal is not None
    return replace(
        course,
        rates=replace(course.rates, flip_bit=random.choice([0.3, 0.6])),
        journal=replace(
            course.journal,
            capacity_bytes=random.choice([None, HEAD_BYTES + SEGMENT_BYTES_MIN, HEAD_BYTES + (48 << 10)]),
        ),
    )


def _with_hands(course: Course, random: Random) -> Course:
    """The same, at times, where something is kept locally: what a process has left comes into unusual hands
    before the right one has it."""
    if course.journal is None and not course.cache.exclusive:
        return course
    if random.random() < 0.5 or Act.FORCE in course.acts:
        return course
    if course.journal is None:
        hands = random.choices([Hand.RESTORED, None], k=len(course.acts))
    else:
        hands = random.choices([*Hand, None], k=len(course.acts))
        if random.random() < 0.5:
            course = _with_crashes(course, random)
            hands = random.choices([*Hand], k=len(course.acts))
            if random.random() < 0.3:
                hand = random.choice([Hand.OLDER_COPY, Hand.DAMAGED])
                course, hands = _with_copies(course, hand), [hand] * len(course.acts)
    quiet = (False,) * len(course.acts)
    return replace(course, unusual_hands=tuple(hands), successors=quiet)


def _with_copies(course: Course, hand: Hand) -> Course:
    """The same on few blocks, each written again and again, and uploaded at once: what an older copy of the
    journal would bring back is newer in the bucket. Or not for a while: what a damaged one lacks is nowhere
    else."""
    return replace(
        course,
        volume=replace(course.volume, size_bytes=2 * BLOCK_SIZE_BYTES),
        cache=replace(course.cache, write_delay_seconds=0.0 if hand is Hand.OLDER_COPY else 60.0),
        rates=replace(NO_FAULTS, delay_max_seconds=0.02),
        acts=(Act.KILL,) * len(course.acts),
        users=replace(course.users, blocks_max=1, pause_max_seconds=0.5, weights=(10, 0, 0, 1, 5, 0)),
    )


def _draw_rates(random: Random, *, linger: bool) -> FaultRates:
    delay_max_seconds = random.choice([0.0, 0.02, 0.5, 5.0])
    if random.random() < 0.2 and not linger:
        return FaultRates(delay_max_seconds=delay_max_seconds)
    often = random.choice([0.01, 0.05, 0.15])
    return FaultRates(
        fail=random.choice([0.0, often]),
        throttle=random.choice([0.0, often]),
        lose_answer=random.choice([0.0, often]),
        # What is damaged once is read again: this often it is damaged again.
        truncate=random.choice([0.0, 0.0, 2 * often]),
        flip_bit=random.choice([0.0, 0.0, 2 * often]),
        delay_max_seconds=delay_max_seconds,
        stall=often if linger else random.choice([0.0, 0.02, 0.1]),
        stall_max_seconds=random.choice([10.0, 100.0]),
        stale_list=random.choice([0.0, 1.0]),
    )
