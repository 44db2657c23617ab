"""Replacement policies: each against a slow and obvious model of itself, and what all of them promise."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.eviction import Arc, ClockTwoQueue, Eviction, Lru, S3Fifo, Sieve, TwoQueue

Entry = tuple[int, int]


class Model:
    """Lists of (key, size), oldest first, searched from end to end."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Entry]] = {"new": [], "old": []}
        self.ghosts: list[Entry] = []
        self.uses: dict[int, int] = {}
        self.most = 0

    def held(self, *names: str) -> int:
        return sum(size for name in names or self.lists for _, size in self.lists[name])

    def ghost_limit(self) -> int:
        return 0

    def forget(self) -> None:
        while sum(size for _, size in self.ghosts) > self.ghost_limit():
            del self.ghosts[0]

    def take(self, entries: list[Entry], key: int) -> Entry | None:
        for entry in entries:
            if entry[0] == key:
                entries.remove(entry)
                return entry
        return None

    def add(self, key: int, size: int) -> None:
        came_back = self.take(self.ghosts, key) is not None
        self.lists["old" if came_back else "new"].append((key, size))
        self.uses[key] = 0
        self.most = max(self.most, self.held())

    def touch(self, key: int) -> None: ...

    def remove(self, key: int) -> None:
        for entries in self.lists.values():
            entry = self.take(entries, key)
            if entry is not None:
                self.ghosts.append(entry)
        self.forget()

    def evict_new(self) -> int:
        self.ghosts.append(self.lists["new"].pop(0))
        key = self.ghosts[-1][0]
        self.forget()
        return key

    def evict(self) -> int:
        raise NotImplementedError


class LruModel(Model):
    def touch(self, key: int) -> None:
        entry = self.take(self.lists["new"], key)
        assert entry is not None
        self.lists["new"].append(entry)

    def evict(self) -> int:
        return self.evict_new()


class TwoQueueModel(Model):
    def ghost_limit(self) -> int:
        return self.most // 2

    def touch(self, key: int) -> None:
        entry = self.take(self.lists["old"], key)
        if entry is not None:
            self.lists["old"].append(entry)

    def evict(self) -> int:
        if self.lists["new"] and (not self.lists["old"] or self.held("new") * 4 >= self.held()):
            return self.evict_new()
        return self.lists["old"].pop(0)[0]


class ClockTwoQueueModel(Model):
    def ghost_limit(self) -> int:
        return self.most

    def remove(self, key: int) -> None:
        if self.take(self.lists["new"], key) is None:
            super().remove(key)

    def touch(self, key: int) -> None:
        if any(key == old for old, _ in self.lists["old"]):
            self.uses[key] = min(3, self.uses[key] + 1)

    def evict(self) -> int:
        if self.lists["new"] and self.held("new") * 4 >= self.held():
            return self.evict_new()
        while True:
            key, size = self.lists["old"].pop(0)
            if self.uses[key] == 0:
                return key
            self.uses[key] -= 1
            self.lists["old"].append((key, size))


class S3FifoModel(Model):
    def ghost_limit(self) -> int:
        return self.most

    def touch(self, key: int) -> None:
        self.uses[key] = min(3, self.uses[key] + 1)

    def evict(self) -> int:
        new, old = self.lists["new"], self.lists["old"]
        while new and (not old or self.held("new") * 10 >= self.held()):
            if self.uses[new[0][0]] < 2:
                return self.evict_new()
            self.uses[new[0][0]] = 0
            old.append(new.pop(0))
        while True:
            key, size = old.pop(0)
            if self.uses[key] == 0:
                return key
            self.uses[key] -= 1
            old.append((key, size))


class SieveModel(Model):
    hand: int | None = None

    def touch(self, key: int) -> None:
        self.uses[key] = 1

    def remove(self, key: int) -> None:
        self.step_over(key)
        super().remove(key)

    def step_over(self, key: int) -> None:
        """The hand does not stay on what goes."""
        if self.hand == key:
            keys = [key for key, _ in self.lists["new"]]
            at = keys.index(key) + 1
            self.hand = keys[at] if at < len(keys) else None

    def evict(self) -> int:
        keys = [key for key, _ in self.lists["new"]]
        at = 0 if self.hand is None else keys.index(self.hand)
        while self.uses[keys[at]]:
            self.uses[keys[at]] = 0
            at = (at + 1) % len(keys)
        self.hand = keys[at]
        self.step_over(keys[at])
        return self.evict_new() if at == 0 else self.lists["new"].pop(at)[0]


class ArcModel(Model):
    def __init__(self) -> None:
        super().__init__()
        self.old_ghosts: list[Entry] = []
        self.target = 0
        self.from_old = False

    def add(self, key: int, size: int) -> None:
        ours, theirs = (sum(size for _, size in ghosts) for ghosts in (self.ghosts, self.old_ghosts))
        self.from_old = self.take(self.old_ghosts, key) is not None
        from_new = self.take(self.ghosts, key) is not None
        if from_new:
            self.target = min(self.target + size * max(1, theirs // ours), self.most)
        elif self.from_old:
            self.target = max(self.target - size * max(1, ours // theirs), 0)
        self.lists["old" if from_new or self.from_old else "new"].append((key, size))
        self.most = max(self.most, self.held())

    def touch(self, key: int) -> None:
        entry = self.take(self.lists["new"], key) or self.take(self.lists["old"], key)
        assert entry is not None
        self.lists["old"].append(entry)

    def remove(self, key: int) -> None:
        for name, ghosts in (("new", self.ghosts), ("old", self.old_ghosts)):
            entry = self.take(self.lists[name], key)
            if entry is not None:
                ghosts.append(entry)
        self.forget()

    def forget(self) -> None:
        while self.ghosts and self.held("new") + sum(size for _, size in self.ghosts) > self.most:
            del self.ghosts[0]
        while (
            self.old_ghosts
            and self.held() + sum(size for _, size in self.ghosts + self.old_ghosts) > 2 * self.most
        ):
            del self.old_ghosts[0]

    def evict(self) -> int:
        over = self.held("new") - self.target
        if self.lists["new"] and (not self.lists["old"] or over > 0 or (over == 0 and self.from_old)):
            return self.evict_new()
        self.old_ghosts.append(self.lists["old"].pop(0))
        key = self.old_ghosts[-1][0]
        self.forget()
        return key


PAIRS: list[tuple[Callable[[], Eviction], Callable[[], Model]]] = [
    (Lru, LruModel),
    (TwoQueue, TwoQueueModel),
    (ClockTwoQueue, ClockTwoQueueModel),
    (Arc, ArcModel),
    (S3Fifo, S3FifoModel),
    (Sieve, SieveModel),
]
#: Keeps what is in use when a scan comes by.
RESISTANT: list[Callable[[], Eviction]] = [TwoQueue, ClockTwoQueue, Arc, S3Fifo, Sieve]
EVERY = [make for make, _ in PAIRS]


@pytest.mark.parametrize(("make", "make_model"), PAIRS)
@given(data=st.data())
def test_policies_are_their_models(
    make: Callable[[], Eviction], make_model: Callable[[], Model], data: st.DataObject
) -> None:
    """Whatever comes, is used, removed and evicted, with whatever sizes, the victims are the model's."""
    policy, model = make(), make_model()
    prng = random.Random(data.draw(st.integers(0, 2**32)))
    capacity = data.draw(st.integers(1, 60))
    sizes_max = data.draw(st.sampled_from([1, 9]))
    sizes: dict[int, int] = {}
    for _ in range(data.draw(st.integers(0, 400))):
        key = prng.randrange(30)
        assert (key in policy) == (key in sizes)
        if key not in sizes:
            sizes[key] = prng.randint(1, sizes_max)
            policy.add(key, sizes[key])
            model.add(key, sizes[key])
            while policy.held_bytes > capacity:
                victim = policy.evict()
                assert victim == model.evict()
                del sizes[victim]
        elif prng.random() < 0.1:
            policy.remove(key)
            model.remove(key)
            del sizes[key]
        else:
            policy.touch(key)
            model.touch(key)
        assert len(policy) == len(sizes)
        assert policy.held_bytes == sum(sizes.values())


@pytest.mark.parametrize("make", EVERY)
def test_everything_can_be_evicted_once(make: Callable[[], Eviction]) -> None:
    """Victims are what is there, each once; after the last there is none."""
    policy = make()
    for key in range(20):
        policy.add(key, 3)
    for key in (3, 3, 3, 7, 11):
        policy.touch(key)
    policy.remove(5)
    assert sorted(policy.evict() for _ in range(19)) == [key for key in range(20) if key != 5]
    assert len(policy) == policy.held_bytes == 0
    with pytest.raises(LookupError):
        policy.evict()


def hits(policy: Eviction, keys: list[int], capacity: int) -> list[bool]:
    found = []
    for key in keys:
        found.append(key in policy)
        if key in policy:
            policy.touch(key)
        else:
            policy.add(key, 1)
            while policy.held_bytes > capacity:
                policy.evict()
    return found


@pytest.mark.parametrize("make", RESISTANT)
def test_a_scan_leaves_what_is_in_use(make: Callable[[], Eviction]) -> None:
    """A working set that was asked for a few times, then a scan of ten times the cache, then the working set
    once more: most of it is still there (of LRU's none)."""
    prng = random.Random(1)
    working = list(range(50))
    warm = [key for _ in range(30) for key in (*prng.sample(working, 50), *prng.sample(range(100, 900), 60))]
    keys = [*warm, *range(1000, 2000), *working]
    assert sum(hits(make(), keys, 100)[-50:]) >= 35
    assert sum(hits(Lru(), keys, 100)[-50:]) == 0


def test_a_scan_in_steps_leaves_what_is_in_use() -> None:
    """Blocks are larger than what a reader takes at a time, so one pass uses each several times in a row:
    that must not count as being in use. Clock 2Q knows; counting uses alone does not."""
    prng = random.Random(1)
    working = list(range(50))
    warm = [key for _ in range(30) for key in (*prng.sample(working, 50), *prng.sample(range(100, 900), 60))]
    keys = [*warm, *(key for key in range(1000, 2000) for _ in range(8)), *working]
    assert sum(hits(ClockTwoQueue(), keys, 100)[-50:]) >= 40
    assert sum(hits(Sieve(), keys, 100)[-50:]) <= 10


def test_part_of_a_loop_larger_than_the_cache_stays() -> None:
    """Reading the same again and again, twice what fits: a part of it is there every time."""
    keys = [position % 200 for position in range(20_000)]
    assert sum(hits(ClockTwoQueue(), keys, 100)[2000:]) >= 0.25 * 18_000
    assert not any(hits(Lru(), keys, 100))


def test_what_goes_for_another_reason_comes_back_as_it_was() -> None:
    """A block that is written leaves its policy and comes back when it is uploaded: in use if it was, and
    otherwise a newcomer, for a file that is written in pieces is not in use."""
    policy = ClockTwoQueue()
    hits(policy, [*range(8), 0], 4)
    assert 0 in policy
    policy.remove(0)
    policy.remove(7)
    policy.add(7, 1)
    policy.add(0, 1)
    policy.add(8, 1)
    assert [policy.evict() for _ in range(5)] == [5, 6, 7, 8, 0]


@pytest.mark.parametrize("make", EVERY)
def test_ghosts_are_bounded(make: Callable[[], Eviction]) -> None:
    """However many keys pass through, what is remembered does not grow with them."""
    policy = make()
    hits(policy, list(range(5000)), 50)
    remembered = sum(len(value) for queue in vars(policy).values() for value in [getattr(queue, "sizes", ())])
    assert remembered <= 50 + 51
