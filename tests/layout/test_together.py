"""Several requests at once."""

import asyncio

import pytest

from bucketry.errors import Unavailable
from bucketry.layout.together import together


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
