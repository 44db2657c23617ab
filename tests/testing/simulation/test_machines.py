"""Processes that stop between two steps, for a while or for good."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bucketry.testing.simulation.machines import (
    STEPS_MAX,
    Process,
    SimulatedMachine,
    SimulationLoop,
    running,
)


def run(program: Callable[[SimulatedMachine], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulationLoop)
        await program(SimulatedMachine("ant", loop))

    with asyncio.Runner(loop_factory=SimulationLoop) as runner:
        runner.run(within())


async def tick(times: list[float], cleaned: list[str]) -> None:
    """Note the time every second, and the end when there is one."""
    try:
        while True:
            await asyncio.sleep(1.0)
            times.append(asyncio.get_running_loop().time())
    finally:
        cleaned.append("cleaned up")


def test_a_paused_process_goes_on_where_it_was() -> None:
    """Nothing of it runs meanwhile; what was due then runs at once when it goes on."""

    async def program(machine: SimulatedMachine) -> None:
        times: list[float] = []
        process = machine.start_process()
        process.run(tick(times, []))
        await asyncio.sleep(2.5)
        process.pause()
        await asyncio.sleep(10.0)
        assert times == [1.0, 2.0]
        process.resume()
        await asyncio.sleep(2.0)
        assert times == [1.0, 2.0, 12.5, 13.5]
        await process.bury()

    run(program)


def test_a_crashed_process_cleans_nothing_up() -> None:
    """Its ``finally`` blocks run only when it is buried."""

    async def program(machine: SimulatedMachine) -> None:
        times: list[float] = []
        cleaned: list[str] = []
        process = machine.start_process()
        process.run(tick(times, cleaned))
        await asyncio.sleep(2.5)
        process.crash()
        await asyncio.sleep(10.0)
        assert (times, cleaned) == ([1.0, 2.0], [])
        assert process.stopped.is_set()
        await process.bury()
        assert cleaned == ["cleaned up"]

    run(program)


@pytest.mark.parametrize("steps", range(5))
def test_it_can_be_stopped_before_any_step(steps: int) -> None:
    """After so many steps, each of them one turn of the loop."""

    async def program(machine: SimulatedMachine) -> None:
        made: list[int] = []

        async def count() -> None:
            for number in range(10):
                made.append(number)
                await asyncio.sleep(0)

        process = machine.start_process()
        process.interrupt(steps, process.crash)
        process.run(count())
        await asyncio.sleep(1.0)
        assert made == list(range(steps))
        await process.bury()

    run(program)


def test_who_runs_in_circles_is_found_and_can_be_ended() -> None:
    """Steps without end and without time are an error, and being told to end twice is enough."""

    async def program(machine: SimulatedMachine) -> None:
        told: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))

        async def circle() -> None:
            for _ in range(2):
                try:
                    while True:
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    continue

        process = machine.start_process()
        task = process.run(circle())
        await process.stopped.wait()
        assert told == [f"ant/1 runs in circles: it has made {STEPS_MAX} steps"]
        await process.bury()
        assert task.done()
        assert loop.time() == 0.0

    run(program)


def test_what_a_process_starts_belongs_to_it() -> None:
    """Its tasks and timers, and theirs; not who waits for it."""

    async def program(machine: SimulatedMachine) -> None:
        seen: list[Process | None] = []

        async def inner() -> None:
            seen.append(running())
            asyncio.get_running_loop().call_later(1.0, lambda: seen.append(running()))

        async def outer() -> None:
            await asyncio.create_task(inner())

        process = machine.start_process()
        await process.run(outer())
        await asyncio.sleep(2.0)
        assert seen == [process, process]
        assert running() is None

    run(program)


def test_who_has_ended_is_known_on_his_machine_only() -> None:
    """As long as the machine has its power."""

    async def program(machine: SimulatedMachine) -> None:
        first, second = machine.start_process(), machine.start_process()
        elsewhere = SimulatedMachine("bee", machine.loop).start_process()
        holder = first.this_process(1)
        assert not second.has_ended(holder)
        first.crash()
        assert second.has_ended(holder)
        assert not elsewhere.has_ended(holder)
        machine.lose_power()
        assert not machine.start_process().has_ended(holder)

    run(program)
