"""Simulated machines: processes that can stop between any two of their steps, for a while or for good.

A step is one callback of the event loop, which is what a program does between two awaits. Every callback
carries the context of the task that asked for it, and with it the process that it belongs to. While that
process is paused its callbacks are put aside, in their order; after a crash they are never run: nothing is
cleaned up, no ``finally`` sends anything. Callbacks of no process (the network, whoever directs the
simulation) always run.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple, Unpack
from weakref import WeakSet

from bucketry.core.lease import Holder
from bucketry.testing.virtual_time import VirtualTimeLoop

#: A process makes some five thousand in its life. Who asks again and again without time passing would not
#: end; this is found in some seconds.
STEPS_MAX = 50_000
#: Who runs in circles and is to end is told again after so many turns of the loop.
_TURNS_IN_CIRCLES = 100
#: When the clocks of all machines start; the time for people is this and the loop's.
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_running: ContextVar["Process | None"] = ContextVar("running", default=None)


def running() -> "Process | None":
    """The process that the current step belongs to."""
    return _running.get()


class SimulationLoop(VirtualTimeLoop):
    """Virtual time for several processes."""

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        process = _running.get() if context is None else context.get(_running)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        step = _Step(process, callback, args, context or copy_context())
        step.handle = super().call_soon(step, context=step.context)
        return step.handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        process = _running.get() if context is None else context.get(_running)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        step = _Step(process, callback, args, context or copy_context())
        handle = super().call_at(when, step, context=step.context)
        step.handle = handle
        return handle

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[_T]:
        task: asyncio.Task[_T] = super().create_task(coro, name=name, context=context)
        process = _running.get() if context is None else context.get(_running)
        if process is not None:
            process.tasks.add(task)
        return task

    def again(self, step: "_Step") -> None:
        """A step that was put aside is due."""
        super().call_soon(step, context=step.context)


class _Step:
    """A callback that is run when its process runs."""

    __slots__ = ("args", "callback", "context", "handle", "process")

    handle: asyncio.Handle

    def __init__(
        self, process: "Process", callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context

    def __call__(self) -> None:
        if self.process.may_run(self) and not self.handle.cancelled():
            self.callback(*self.args)


class SimulatedMachine:
    """A machine: its name, its clock for people, and what runs on it."""

    def __init__(self, name: str, loop: SimulationLoop) -> None:
        self.name = name
        self.loop = loop
        #: What its clock for people is ahead of the true time.
        self.clock_ahead = timedelta()
        self.boot = 1
        self._process_count = 0
        self.processes: list[Process] = []

    def start_process(self) -> "Process":
        self._process_count += 1
        process = Process(self, self._process_count)
        self.processes.append(process)
        return process

    def lose_power(self) -> None:
        """Every process crashes, and nobody will know afterwards which there were."""
        for process in self.processes:
            process.crash()
        self.processes.clear()
        self.boot += 1


class Process:
    """A process on a machine; also a ``disk.machine.Machine``, as its program sees it."""

    def __init__(self, machine: SimulatedMachine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.name = f"{machine.name}/{number}"
        self.steps = 0
        self._interrupt_at = -1
        self._interrupt: Callable[[], None] = self.crash
        #: What is told when it crashes.
        self.on_crash: Callable[[Process], None] | None = None
        self.has_crashed = False
        self.paused = False
        #: Set when it pauses, or stops.
        self.halted = asyncio.Event()
        #: When it last went on after a pause, by the loop's clock.
        self.resumed_at = 0.0
        #: Set when its program has ended, or it has crashed.
        self.stopped = asyncio.Event()
        self._aside: list[_Step] = []
        self._buried = False
        #: Those under way, and some that have ended.
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._context = copy_context()
        self._context.run(_running.set, self)
        self._boot = machine.boot

    def run(self, program: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start its program."""
        task = self.machine.loop.create_task(program, context=self._context, name=self.name)
        task.add_done_callback(lambda _: self._stop(), context=copy_context())
        return task

    def _stop(self) -> None:
        self.stopped.set()
        self.halted.set()

    def may_run(self, step: _Step) -> bool:
        """Called before each step; takes those that may not be run now."""
        if self._buried:
            return True
        if self.paused:
            self._aside.append(step)
            return False
        self.steps += 1
        if self.steps > STEPS_MAX:
            self.crash()
            self._aside.append(step)  # or its task could never be ended
            raise RuntimeError(f"{self.name} runs in circles: it has made {STEPS_MAX} steps")
        if self.steps == self._interrupt_at:
            self._interrupt()
        if self.has_crashed or self.paused:
            self._aside.append(step)
            return False
        return True

    def interrupt(self, steps: int, action: Callable[[], None]) -> None:
        """Crash or pause it before the step that comes after so many others."""
        self._interrupt_at = self.steps + 1 + steps
        self._interrupt = action

    def crash(self) -> None:
        """Stop for good."""
        if not self.stopped.is_set():
            self.has_crashed = True
            self._stop()
            if self.on_crash is not None:
                self.on_crash(self)

    def pause(self) -> None:
        self.paused = True
        self.halted.set()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.resumed_at = self.machine.loop.time()
            self._run_aside()

    @property
    def is_alive(self) -> bool:
        return not self.stopped.is_set()

    async def bury(self) -> None:
        """End what is left of a process that has crashed, when it can do no harm any more."""
        self._buried = True
        self.paused = False
        self._run_aside()
        while left := [task for task in self.tasks if not task.done()]:
            for task in left:
                task.cancel()
            # Again when it does not end: some clean up at length.
            if self.steps <= STEPS_MAX:
                await asyncio.wait(left, timeout=1.0)
                continue
            # No time may pass as long as it runs in circles, so that turns of the loop are counted.
            ending = asyncio.ensure_future(asyncio.wait(left, timeout=1.0))
            for _ in range(_TURNS_IN_CIRCLES):
                if ending.done():
                    break
                await asyncio.sleep(0)
            ending.cancel()
            await asyncio.wait([ending])

    def _run_aside(self) -> None:
        aside, self._aside = self._aside, []
        for step in aside:
            self.machine.loop.again(step)

    # -- as its program sees it ------------------------------------------------------------------------------

    def this_process(self, token: int) -> Holder:
        return Holder(
            host=self.machine.name,
            boot_id=f"{self.machine.name} {self._boot}",
            pid=self.number,
            start_time=self.number,
            token=token,
        )

    def has_ended(self, holder: Holder) -> bool:
        if holder.boot_id != f"{self.machine.name} {self._boot}":
            return False
        return not any(
            process.number == holder.pid and process.is_alive for process in self.machine.processes
        )

    def lives_here(self, holder: Holder) -> bool:
        return holder.boot_id == f"{self.machine.name} {self._boot}" and not self.has_ended(holder)

    def now(self) -> float:
        return self.machine.loop.time()

    def utc_now(self) -> datetime:
        return START + timedelta(seconds=self.now()) + self.machine.clock_ahead
