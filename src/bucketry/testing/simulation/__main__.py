"""The command line of the simulation."""

import argparse
import sys
import time
from collections import Counter

from bucketry.testing.simulation.course import draw
from bucketry.testing.simulation.run import simulate, simulate_many

#: The last lines of a failed course that are shown without being asked for all.
_LINES_SHOWN = 20


def main() -> int:
    """0 when every promise was kept, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m bucketry.testing.simulation", description="Simulate disks under faults, from seeds."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run one")
    what.add_argument("--seeds", type=_range, metavar="A..B", help="run many, both ends included")
    parser.add_argument("--jobs", type=int, help="processes for many (as many as processors)")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell the whole course of --seed")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _one(asked.seed, verbose=asked.verbose)
    return _many(asked.seeds, asked.jobs)


def _range(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def _one(seed: int, *, verbose: bool) -> int:
    if verbose:
        print(draw(seed))
    report = simulate(seed)
    print("\n".join(report.lines if verbose else report.lines[-_LINES_SHOWN:]))
    print(f"seed {seed}: {report.violation or 'every promise was kept'}")
    return 1 if report.violation else 0


def _many(seeds: range, jobs: int | None) -> int:
    began = time.monotonic()
    events: Counter[str] = Counter()
    failed = done = 0
    for report in simulate_many(seeds, jobs=jobs):
        done += 1
        events.update(report.events)
        if report.violation is not None:
            failed += 1
            print(f"seed {report.seed}: {report.violation}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{done} of {len(seeds)}, {failed} failed ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    for name, count in sorted(events.items()):
        print(f"{count:10,} {name}")
    print(f"{done} simulations in {time.monotonic() - began:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
