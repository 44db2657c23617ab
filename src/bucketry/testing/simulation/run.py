"""Running simulations: one seed, or many on several processors."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from bucketry.testing.simulation.course import draw
from bucketry.testing.simulation.machines import SimulationLoop
from bucketry.testing.simulation.world import World

#: Seeds that a worker takes at once: some seconds' work.
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Report:
    """What one simulation saw. ``violation``: what was wrong, None when nothing was. ``events`` counts what
    happened, ``lines`` tell it in order."""

    seed: int
    violation: str | None
    events: Counter[str]
    lines: list[str]


def simulate(seed: int) -> Report:
    """Run the simulation of one seed. What the product logs meanwhile is dropped: the lines tell more."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with asyncio.Runner(loop_factory=SimulationLoop) as runner:
            return runner.run(_run(seed))
    finally:
        logging.disable(disabled)


async def _run(seed: int) -> Report:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulationLoop)
    world = World(seed, draw(seed), loop)
    violation = None
    try:
        await world.run()
    except Exception as error:  # noqa: BLE001 - any error is what the simulation is for
        violation = f"{type(error).__name__}: {error}"
    return Report(seed, violation, world.events, world.lines)


def simulate_many(seeds: Sequence[int], *, jobs: int | None = None) -> Iterator[Report]:
    """The reports of many seeds, as they come, the lines only of those that failed. ``jobs`` processes share
    the work; None: as many as there are processors."""
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    # A fresh interpreter for each: nothing that this process did before can show in what they see.
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_simulate_chunk, chunk) for chunk in chunks]):
            yield from done.result()


def _simulate_chunk(seeds: Sequence[int]) -> list[Report]:
    reports = [simulate(seed) for seed in seeds]
    return [
        report if report.violation else Report(report.seed, None, report.events, []) for report in reports
    ]
