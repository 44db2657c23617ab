"""Names come back in order, however many there are, and take little memory meanwhile."""

import random
import tracemalloc

import pytest

from bucketry.bucket import sorted_names
from bucketry.bucket.sorted_names import SortedNames


@pytest.mark.parametrize("memory_bytes", [1 << 20, 1], ids=["memory", "file"])
@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 95, 1000])
def test_names_come_back_in_order(count: int, memory_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any length and script, as code points sort, whether they were put aside or not."""
    monkeypatch.setattr(sorted_names, "_RUN_COUNT", 10)
    monkeypatch.setattr(sorted_names, "_PACK_COUNT", 3)
    monkeypatch.setattr(sorted_names, "_MEMORY_MAX_BYTES", memory_bytes)
    prng = random.Random(count)
    names = {"".join(prng.choices("a-0.~ äπ日🙂\n", k=prng.randint(1, 9))) for _ in range(count)}
    shuffled = list(names)
    prng.shuffle(shuffled)
    found = SortedNames()
    for name in shuffled:
        found.add(name)
    assert list(found.ordered()) == sorted(names)
    found.close()


@pytest.mark.slow
def test_many_names_are_not_text_all_at_once() -> None:
    """Three hundred thousand, of 65 bytes each as text, fit into some of their own size."""
    numbers = list(range(300_000))
    random.Random(1).shuffle(numbers)
    found = SortedNames()
    tracemalloc.start()
    try:
        for number in numbers:
            found.add(f"{number:08x}")
        assert sum(1 for _ in found.ordered()) == len(numbers)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
        found.close()
