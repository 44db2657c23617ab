"""Which cached blocks of files go when the cache is full: those that were used once, and of these the oldest.

Several processes fill one cache and none of them sees all that is used, so that queues in memory would not
do. What there is are two times for each block: when it was filled, and when it was last used, the latter to
within USED_STEP_SECONDS. From them follows what 2Q knows: a block is *on probation* until it is used again
some while after it came. A scan of a large file fills the probation and sweeps only that, as long as
probation holds more than its share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: A use within this time of the last one is not written down: it costs a write. Uses so soon after the fill
#: are the same reader's.
USED_STEP_SECONDS = 60
#: Newcomers have a quarter of the cache before others go for them: the share of 2Q's authors.
PROBATION_SHARE = 0.25
#: What is in the way of the limit goes with so much more, as a share of the limit: looking for it means to
#: read all maps.
SLACK_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may go: a block of an entry, or with ``block`` None all of the entry."""

    entry: int
    block: int | None
    size_bytes: int
    used_seconds: int
    filled_seconds: int

    @property
    def on_probation(self) -> bool:
        return self.used_seconds - self.filled_seconds < USED_STEP_SECONDS


def was_used(used_seconds: int, now_seconds: int) -> bool:
    """Whether it is written down already that a block is in use now. A time to come is none."""
    return 0 <= now_seconds - used_seconds < USED_STEP_SECONDS


def target_bytes(size_bytes: int, needed_bytes: int) -> int:
    """Down to what a cache of at most ``size_bytes`` is emptied, for ``needed_bytes`` more."""
    return max(0, size_bytes - int(size_bytes * SLACK_SHARE) - needed_bytes)


def leave_in_order(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates in the order in which they should go; take as many as are needed."""
    probation: list[Candidate] = []
    proven: list[Candidate] = []
    for candidate in candidates:
        (probation if candidate.on_probation else proven).append(candidate)
    for queue in (probation, proven):
        queue.sort(key=lambda candidate: candidate.used_seconds, reverse=True)
    probation_bytes = sum(candidate.size_bytes for candidate in probation)
    left_bytes = probation_bytes + sum(candidate.size_bytes for candidate in proven)
    while probation or proven:
        from_probation = probation and (not proven or probation_bytes > PROBATION_SHARE * left_bytes)
        candidate = (probation if from_probation else proven).pop()
        left_bytes -= candidate.size_bytes
        if from_probation:
            probation_bytes -= candidate.size_bytes
        yield candidate
