"""Several requests at once."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing

import pytest

from bucketry.errors import Unavailable
from bucketry.layout.together import few_at_once, together


async def test_results_come_in_order() -> None:
    """Whoever finishes first."""

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await together(after(turns) for turns in (3, 1, 2)) == [3, 1, 2]
    assert await together([]) == []


async def test_an_error_waits_for_the_others() -> None:
    """When it is raised, nothing is under way any more."""
    finished = []

    async def fail() -> None:
        raise Unavailable("no")

    async def finish_later() -> None:
        await asyncio.sleep(0)
        finished.append(True)

    with pytest.raises(Unavailable):
        await together([fail(), finish_later()])
    assert finished


async def test_cancelling_cancels_all() -> None:
    """And waits until they have ended."""
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    task = asyncio.create_task(together([wait(), wait()]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(ended) == 2


class Work:
    """Numbers up to ``count``, each after a turn of the loop, and an account of what runs."""

    def __init__(self, count: int, *, fail_at: int | None = None) -> None:
        self._count = count
        self._fail_at = fail_at
        self.running = self.most = self.begun = 0
        self.is_closed = False

    async def all(self) -> AsyncGenerator[Coroutine[object, object, int], None]:
        try:
            for number in range(self._count):
                yield self._one(number)
        finally:
            self.is_closed = True

    async def _one(self, number: int) -> int:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if number == self._fail_at:
                raise Unavailable("no")
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        return number


@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
async def test_few_at_once_do_everything_with_a_limit(count: int) -> None:
    """Each result comes once; never more run than may, and as many as may."""
    work = Work(count)
    results = [number async for number in few_at_once(work.all(), 4)]
    assert sorted(results) == list(range(count))
    assert work.most == min(count, 4)


async def test_few_at_once_begin_no_more_than_is_taken() -> None:
    """Work is drawn as results are taken: a million of them are never there at once."""
    work = Work(1000)
    async with aclosing(few_at_once(work.all(), 4)) as results:
        await anext(results)
        await asyncio.sleep(0)
        assert work.begun <= 8
    assert (work.running, work.is_closed) == (0, True)


async def test_the_first_error_of_few_at_once_ends_the_rest() -> None:
    """It is raised when nothing is under way any more."""
    work = Work(50, fail_at=7)
    with pytest.raises(Unavailable):
        async for _ in few_at_once(work.all(), 4):
            pass
    assert (work.running, work.is_closed) == (0, True)
