"""Trouble made on purpose: when it comes, of which kind, and that everything else passes."""

import pytest

from bucketry.bucket.injected import Injected
from bucketry.bucket.memory import MemoryBucket
from bucketry.bucket.retrying import Retrying
from bucketry.errors import Throttled, Unavailable
from bucketry.settings import FaultSettings, RetrySettings

CONTENT = bytes(range(200))


class Clock:
    """Remembers how long somebody slept instead of sleeping."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def injected(clock: Clock | None = None, **settings: object) -> Injected:
    store = MemoryBucket()
    await store.put("key", CONTENT)
    chosen = FaultSettings(**settings)  # type: ignore[arg-type]
    return Injected(store, chosen, sleep=(clock or Clock()).sleep)


async def test_every_so_many_requests_one_waits() -> None:
    """Half to one and a half times the delay, and nothing is different about its answer."""
    clock = Clock()
    bucket = await injected(clock, force_delay=3, delay_ms=100)
    for _ in range(7):
        assert (await bucket.get("key")).data == CONTENT
    assert len(clock.slept) == 2
    assert all(0.05 <= seconds <= 0.15 for seconds in clock.slept)
    assert len(set(clock.slept)) == 2


async def test_every_so_many_requests_one_fails() -> None:
    """After its own delay; what is not among the operations neither fails nor counts."""
    clock = Clock()
    bucket = await injected(clock, force_error=2, error_ms=30)
    await bucket.head("key")
    await bucket.get("key")
    with pytest.raises(Unavailable, match="put of new: failed on purpose"):
        await bucket.put("new", b"x")
    assert (await anext(bucket.list()))[0].key == "key"
    assert clock.slept == [0.03]
    assert bucket.statistics()["injected"] == {"requests": 2, "delays": 0, "faults": 1}


async def test_the_kinds_of_faults() -> None:
    """Throttled; applied with the answer lost; a body that is short; a body with one wrong bit."""
    with pytest.raises(Throttled):
        await (await injected(force_error=1, error_kind="throttle")).get("key")
    lossy = await injected(force_error=1, error_kind="lose_answer", operations=("put",))
    with pytest.raises(Unavailable, match="answer was lost"):
        await lossy.put("new", b"x")
    assert (await lossy.get("new")).data == b"x"
    short = (await (await injected(force_error=1, error_kind="truncate")).get("key")).data
    assert len(short) < len(CONTENT)
    assert CONTENT.startswith(bytes(short))
    wrong = (await (await injected(force_error=1, error_kind="flip_bit")).get("key")).data
    assert sum((a ^ b).bit_count() for a, b in zip(wrong, CONTENT, strict=True)) == 1


@pytest.mark.logs("trying again in")
async def test_below_the_retries_nobody_sees_them() -> None:
    """Attempts count: with every second one failing, all succeed."""
    below = await injected(force_error=2, operations=("get", "put", "head", "delete", "list"))
    bucket = Retrying(below, RetrySettings(), sleep=Clock().sleep)
    for _ in range(5):
        await bucket.put("a", b"x")
        assert (await bucket.get("a")).data == b"x"
        assert (await bucket.head("a")).size_bytes == 1
        assert [entry.key async for page in bucket.list() for entry in page] == ["a", "key"]
        await bucket.delete("a")


async def test_parts_of_uploads_are_puts() -> None:
    """Each of them, and the completion, may have a fault."""
    bucket = await injected(force_error=2, operations=("put",))
    upload_id = await bucket.create_upload("large", part_size_bytes=5 << 20)
    part = await bucket.put_part("large", upload_id, 1, b"x")
    with pytest.raises(Unavailable):
        await bucket.complete_upload("large", upload_id, [part])
    await bucket.complete_upload("large", upload_id, [part])
    assert (await bucket.get("large")).data == b"x"
