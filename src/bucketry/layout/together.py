"""Several requests at once, of which none is left under way."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, TypeVar, cast

T = TypeVar("T")
U = TypeVar("U")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of it at once; the first error is raised when nothing is under way any more.

    The rest is not cancelled: callers may reuse their buffers as soon as this returns.
    """
    coroutines = list(work)
    if len(coroutines) == 1:
        return [await coroutines[0]]  # the common case, a block, needs no task of its own
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """What two different requests give, both made at once. Of two errors the first one's is raised."""
    results = await together([first, second])
    return cast("tuple[T, U]", tuple(results))


async def few_at_once(
    work: AsyncGenerator[Coroutine[Any, Any, T], None], count_max: int
) -> AsyncGenerator[T, None]:
    """The results as they come, in no particular order, at most ``count_max`` being worked for at a time.

    After the first error, and when it is left early, what is under way is cancelled.
    """
    running: set[asyncio.Task[T]] = set()
    done: set[asyncio.Task[T]] = set()
    try:
        async with aclosing(work):
            more = True
            while more or running:
                while more and len(running) < count_max:
                    coroutine = await anext(work, None)
                    if coroutine is None:
                        more = False
                    else:
                        running.add(asyncio.ensure_future(coroutine))
                if running:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                while done:
                    yield done.pop().result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, *done, return_exceptions=True)
