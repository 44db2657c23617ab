"""An event loop whose clock jumps: when nothing is ready, it is the time of the next timer.

A minute of back-off takes no time, and the same program takes the same course every time it runs, as far as
the loop is concerned. When nothing is ready and no timer is set, nothing can ever happen again: that is a
Deadlock, reported with what every task waits for, instead of a test that hangs.

There are no sockets, pipes, processes or threads on virtual time: whatever waited for them would wait while
the clock runs away. Asking for them is an error.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from types import CodeType, FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack

#: 97 days. asyncio adds a nanosecond to the clock to find the timers that are due; a float of twice this
#: many seconds does not feel it, and the timers would never fire.
TIME_MAX_SECONDS = 1 << 23

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_P = ParamSpec("_P")


class DeadlockError(Exception):
    """Nothing is ready and no timer is set, or none that is due before the end of time: the tasks named
    wait for each other, or for nothing."""


class LeftTasksError(Exception):
    """The program ended and left the tasks named running."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at time 0 and jumps from timer to timer."""

    def __init__(self) -> None:
        self._virtual_seconds = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual_seconds

    def jump(self, seconds: float | None) -> None:
        """Go ``seconds`` ahead, the time to the next timer; None says that there is none."""
        if seconds is None:
            self._give_up("deadlock: nothing is ready, no timer is set")
        due_seconds = self._virtual_seconds + max(0.0, seconds)
        if due_seconds > TIME_MAX_SECONDS:
            self._give_up(f"virtual time ran past {TIME_MAX_SECONDS} s")
        self._virtual_seconds = due_seconds

    def _give_up(self, reason: str) -> NoReturn:
        raise DeadlockError(_describe(reason, asyncio.all_tasks(self)))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        raise RuntimeError(f"there are no threads on virtual time: {func!r}")


class _JumpingSelector(selectors.BaseSelector):
    """Waits by moving the loop's clock. Registers the loop's own wake-up pipe, and nothing else."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._keys:
            raise RuntimeError(f"there is no input and output on virtual time: {fileobj!r}")
        key = selectors.SelectorKey(
            fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data
        )
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


def run_virtual(program: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on virtual time, from time 0, and return what it returns.

    Raises what it raises; DeadlockError when it can't go on; LeftTasksError when it ends before the tasks
    that it started.
    """

    async def alone() -> _T:
        result = await program
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            raise LeftTasksError(_describe("tasks were left behind", left))
        return result

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(alone())


def on_virtual_time(test: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, _T]:
    """Decorator: an ``async def`` test that runs by ``run_virtual``. Fixtures and Hypothesis work as ever."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run_virtual(test(*args, **kwargs))

    return run


def _describe(what: str, tasks: set[asyncio.Task[Any]]) -> str:
    lines = sorted(f"  {task.get_name()}: {_waits_at(task)}" for task in tasks if not task.done())
    return "\n".join([what, *lines])


def _waits_at(task: asyncio.Task[Any]) -> str:
    """The innermost line of ours at which a task waits, and the coroutines on the way to it."""
    names: list[str] = []
    place = "not started"
    awaited: Any = task.get_coro()
    while awaited is not None:
        # Coroutines, generators and asynchronous generators call the same things by other names.
        frame = _first(awaited, FrameType, "cr_frame", "gi_frame", "ag_frame")
        code = _first(awaited, CodeType, "cr_code", "gi_code", "ag_code")
        if frame is None or code is None:
            break
        names.append(code.co_qualname)
        place = f"{code.co_filename}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return f"{' > '.join(names)} at {place}"


def _first(thing: object, kind: type[_T], *names: str) -> _T | None:
    for name in names:
        value = getattr(thing, name, None)
        if isinstance(value, kind):
            return value
    return None
