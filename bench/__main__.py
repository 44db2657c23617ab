"""One run: servers, the peers in turns, a page."""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.peers import BLOCK_SIZE_BYTES, Bucketry, DiskPeer, S3backer, Target
from bench.report import Results
from bench.stages import STAGES, Stage, Turn
from bench.workloads import Measurement

_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs/benchmarks.md"
#: What s3backer caches when it is not told otherwise.
_DEFAULT_BLOCKS = 1000
#: All that its manual offers for speed: a cache for everything that is written, more uploads at once, reading
#: far ahead, knowing which blocks are empty, and requests of more than a page from the kernel.
_TUNED_BLOCKS = 4000
_TUNED = [
    "--blockCacheThreads=50",
    "--readAhead=32",
    "--readAheadTrigger=1",
    "--listBlocks",
    "-o",
    "big_writes",
]
_LOOP = "bare obstore loop"
#: Two rounds have no median, and a slow one would count for half.
_ROUNDS_MIN = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS_MIN, help="default: %(default)s")
    parser.add_argument("--only", action="append", choices=STAGES, help="only this part; repeatable")
    parser.add_argument("--peer", action="append", help="only this peer; repeatable")
    arguments = parser.parse_args()
    is_partial = bool(arguments.only or arguments.peer)
    if arguments.rounds < _ROUNDS_MIN and not is_partial:
        parser.error(f"at least {_ROUNDS_MIN} rounds")
    load_before = report.load()
    results: dict[str, Results] = {}
    peers: dict[str, DiskPeer] = {}
    with tempfile.TemporaryDirectory(prefix="bucketry-bench-") as name:
        for stage_name in arguments.only or STAGES:
            stage = STAGES[stage_name]
            found = _run(stage, Path(name) / stage_name, arguments.rounds, arguments.peer, peers)
            results.setdefault(stage.title, {}).update(found)
    text = report.table(
        results, [*peers, _LOOP], ours=Bucketry.name, limit=_LOOP,
        rivals=[name for name in peers if name != Bucketry.name],
    )  # fmt: skip
    print(text)
    if is_partial:
        return 0
    description = {
        "machine": report.machine(),
        "load of the machine": f"before the run {load_before}, after it {report.load()}",
        "versions": report.versions({peer.name: peer.version() for peer in peers.values()}),
        "command": f"PYTHONPATH=tests {shlex.join(['python', '-m', 'bench', *sys.argv[1:]])}",
    }
    notes = "\n".join(f"* {key}: {value}" for key, value in description.items())
    report.write_page(_PAGE, f"{text}\n\nMedians of {arguments.rounds} rounds.\n\n{notes}")
    print(f"written: {_PAGE}, {report.write_json(_HERE / 'results', results, description)}")
    return 0


def _run(
    stage: Stage, directory: Path, rounds: int, chosen: list[str] | None, peers: dict[str, DiskPeer]
) -> dict[str, dict[str, list[Measurement]]]:
    """Every peer's figures at one stage, by row; ``peers`` learns who took part."""
    directory.mkdir()
    place = stage.place(directory)
    try:
        disks = [disk for disk in _disks(place.target, directory, stage) if not chosen or disk.name in chosen]
        peers.update({disk.name: disk for disk in disks})
        by_name: dict[str, DiskPeer | None] = {disk.name: disk for disk in disks}
        if stage.has_loop and (not chosen or _LOOP in chosen):
            by_name[_LOOP] = None
        if stage.prepare is not None:
            stage.prepare(place, disks[-1])
        found: dict[str, dict[str, list[Measurement]]] = {}
        names = list(by_name)
        for number in range(rounds):
            # Everybody goes first once: whatever drifts, drifts for all.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                if stage.prepare is None:
                    place.clear()
                prefix = f"{name.replace(' ', '-')}-{number}"
                turn = Turn(place, by_name[name], prefix, directory / "mnt", stage.latency_seconds)
                for measurement in stage.run(turn):
                    found.setdefault(measurement.workload, {}).setdefault(name, []).append(measurement)
                    figure = report.cell([measurement])
                    print(f"{stage.title}: {number + 1}/{rounds} {name}: {measurement.workload}: {figure}")
                    sys.stdout.flush()
        return found
    finally:
        place.stop()


def _disks(target: Target, directory: Path, stage: Stage) -> list[DiskPeer]:
    log, size = directory / "s3backer.log", stage.block_size_bytes
    # As many bytes of larger blocks.
    default, tuned = (count * BLOCK_SIZE_BYTES // size for count in (_DEFAULT_BLOCKS, _TUNED_BLOCKS))
    return [
        S3backer(target, "s3backer", default, [], log, size),
        S3backer(target, "s3backer tuned", tuned, _TUNED, log, size),
        Bucketry(target, size),
    ]


if __name__ == "__main__":
    sys.exit(main())
