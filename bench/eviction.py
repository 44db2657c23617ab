"""Hit rates of the replacement policies, and what they cost: ``make bench-eviction``.

Generated traces are repeatable, recorded ones (``bench/traces``) come from real programs. A request for the
block that was asked for just before hits under any policy and is left out.
"""

import random
import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from bench import traces
from bucketry.core.eviction import Arc, ClockTwoQueue, Eviction, Lru, S3Fifo, Sieve, TwoQueue

POLICIES: dict[str, Callable[[], Eviction]] = {
    "LRU": Lru,
    "2Q": TwoQueue,
    "ARC": Arc,
    "S3-FIFO": S3Fifo,
    "SIEVE": Sieve,
    "clock 2Q": ClockTwoQueue,
}
#: Of the blocks that a trace touches, how many fit.
CAPACITY_SHARES = (0.05, 0.1, 0.25, 0.5)
_LENGTH = 200_000
_KEYS = 10_000
#: 128 KiB is the default, 4 KiB s3backer's; both meet the same requests.
_BLOCK_PAGES = (32, 1)


def zipf(exponent: float, seed: int = 1) -> Iterator[int]:
    """Few blocks are asked for often, many seldom."""
    prng = random.Random(seed)
    weights = list(accumulate(1 / rank**exponent for rank in range(1, _KEYS + 1)))
    places = list(range(_KEYS))
    prng.shuffle(places)
    for _ in range(_LENGTH):
        yield places[bisect(weights, prng.random() * weights[-1])]


def scan_and_zipf() -> Iterator[int]:
    """A copy or a backup reads through everything else once, in pieces, while others work."""
    prng = random.Random(2)
    scanned = _KEYS
    for position, key in enumerate(zipf(1.0, 3)):
        yield key
        if position % 20_000 == 10_000:
            yield from range(scanned, scanned + 3000)
            scanned += 3000
        elif prng.random() < 0.1:
            yield scanned
            scanned += 1


def loop() -> Iterator[int]:
    """Reading the same file again and again, larger than the cache."""
    for position in range(_LENGTH):
        yield position % 2000


def metadata() -> Iterator[int]:
    """A filesystem at work: superblock and group descriptors, bitmaps, inode tables and directories by zipf,
    a journal written round and round, file contents read and written in runs, seldom again."""
    prng = random.Random(4)
    tables = list(zipf(1.1, 5))
    journal = content = 0
    for position in range(_LENGTH // 10):
        yield prng.randrange(4)
        yield 10 + prng.randrange(60)
        yield 100 + tables[position] // 5
        yield 100 + tables[-position] // 5
        yield 3000 + journal
        journal = (journal + 1) % 1000
        if prng.random() < 0.1:
            content = 5000 + prng.randrange(50_000)
        for _ in range(prng.randrange(1, 8)):
            yield content
            content += 1


GENERATED: dict[str, Callable[[], Iterator[int]]] = {
    "zipf 0.8": lambda: zipf(0.8),
    "zipf 1.0": lambda: zipf(1.0),
    "zipf 1.2": lambda: zipf(1.2),
    "scan + zipf": scan_and_zipf,
    "loop": loop,
    "metadata": metadata,
}


def recorded(name: str, block_pages: int) -> Iterator[int]:
    """The blocks of a recorded trace; zeroed ones leave the cache, and are left out."""
    for kind, first, count in traces.read(name):
        if kind != "z":
            yield from range(first // block_pages, (first + count - 1) // block_pages + 1)


def _all_traces() -> Iterator[tuple[str, list[int]]]:
    for name, make in GENERATED.items():
        yield name, _without_repeats(make())
    for pages in _BLOCK_PAGES:
        for name in traces.names():
            yield f"{name}, {pages * 4} KiB", _without_repeats(recorded(name, pages))
        everything = (key for name in traces.ORDER for key in recorded(name, pages))
        yield f"all in turn, {pages * 4} KiB", _without_repeats(everything)


def _without_repeats(keys: Iterable[int]) -> list[int]:
    kept: list[int] = []
    for key in keys:
        if not kept or kept[-1] != key:
            kept.append(key)
    return kept


def hit_rate(policy: Eviction, keys: list[int], capacity: int) -> float:
    """Which share of ``keys`` finds itself in a cache for ``capacity`` of them."""
    there: set[int] = set()
    hits = 0
    for key in keys:
        if key in there:
            hits += 1
            policy.touch(key)
            continue
        policy.add(key, 1)
        there.add(key)
        while policy.held_bytes > capacity:
            there.discard(policy.evict())
    return hits / len(keys)


def _cost_ns(make: Callable[[], Eviction]) -> tuple[float, float]:
    """Nanoseconds of one touch, and of one newcomer with its victim; the least of five."""
    count = 100_000
    touches, newcomers = [], []
    for _ in range(5):
        policy = make()
        for key in range(2000):
            policy.add(key, 1)
        keys = [key % 2000 for key in range(0, count * 7, 7)]
        touch = policy.touch
        start = time.perf_counter_ns()
        for key in keys:
            touch(key)
        touches.append((time.perf_counter_ns() - start) / count)
        start = time.perf_counter_ns()
        for key in range(2000, 2000 + count):
            policy.add(key, 1)
            policy.evict()
        newcomers.append((time.perf_counter_ns() - start) / count)
    return min(touches), min(newcomers)


def main() -> None:
    print(f"| trace | cache | {' | '.join(POLICIES)} |")
    print("|---|---|" + "---|" * len(POLICIES))
    sums = dict.fromkeys(POLICIES, 0.0)
    losses = dict.fromkeys(POLICIES, 0.0)
    row_count = 0
    for name, keys in _all_traces():
        distinct = len(set(keys))
        for share in CAPACITY_SHARES:
            capacity = max(4, int(distinct * share))
            rates = {policy: hit_rate(make(), keys, capacity) for policy, make in POLICIES.items()}
            best = max(rates.values())
            cells = [f"**{rate:.1%}**" if rate == best else f"{rate:.1%}" for rate in rates.values()]
            print(f"| {name} | {capacity} of {distinct} | {' | '.join(cells)} |")
            row_count += 1
            for policy, rate in rates.items():
                sums[policy] += rate
                losses[policy] = max(losses[policy], best - rate)
    print(f"| mean | | {' | '.join(f'{total / row_count:.1%}' for total in sums.values())} |")
    print(f"| furthest behind the best | | {' | '.join(f'{loss:.1%}' for loss in losses.values())} |")
    costs = [_cost_ns(make) for make in POLICIES.values()]
    print(f"| ns per use | | {' | '.join(f'{touch:.0f}' for touch, _ in costs)} |")
    print(f"| ns per newcomer and victim | | {' | '.join(f'{newcomer:.0f}' for _, newcomer in costs)} |")


if __name__ == "__main__":
    main()
