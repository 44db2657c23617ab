"""One run: a server, the peers in turns, a page."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import report
from bench.peers import Bucketry, DiskPeer, S3backer, Target
from bench.workloads import Measurement, measure_disk, measure_loop, payload
from servers.s3 import REGION
from servers.seaweed import Seaweed

_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs/benchmarks.md"
#: A cache for all that is written, more uploads at once than the server takes, and reading far ahead.
_TUNED = ["--blockCacheSize=4000", "--blockCacheThreads=50", "--readAhead=32", "--readAheadTrigger=1"]
_LOOP = "bare obstore loop"
#: Two rounds have no median, and a slow one would count for half.
_ROUNDS_MIN = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS_MIN, help="how often, at least %(default)s")
    parser.add_argument(
        "--peer", action="append", help="only this peer, without writing the page; repeatable"
    )
    arguments = parser.parse_args()
    if arguments.rounds < _ROUNDS_MIN:
        parser.error(f"at least {_ROUNDS_MIN} rounds")
    with tempfile.TemporaryDirectory(prefix="bucketry-bench-") as name:
        directory = Path(name)
        seaweed = Seaweed(directory / "seaweed")
        seaweed.start_process()
        try:
            return _run(seaweed, directory, arguments.rounds, arguments.peer)
        finally:
            seaweed.stop_process()


def _run(seaweed: Seaweed, directory: Path, rounds: int, chosen: list[str] | None) -> int:
    target = Target(
        endpoint=seaweed.endpoint,
        region=REGION,
        bucket=seaweed.make_bucket(),
        access_key=seaweed.access_key,
        secret_key=seaweed.secret_key,
        access_file=seaweed.access_file(directory / "access"),
    )
    log = directory / "s3backer.log"
    disks: list[DiskPeer] = [
        S3backer(target, "s3backer", [], log),
        S3backer(target, "s3backer tuned", _TUNED, log),
        Bucketry(target),
    ]
    names = [*(peer.name for peer in disks), _LOOP]
    if chosen:
        names = [name for name in names if name in chosen]
        disks = [peer for peer in disks if peer.name in chosen]
    data = payload()
    # The first puts into a bucket wait for the server to make room for it; nobody shall pay for that.
    list(measure_loop(target, "warm-up", data[: 16 << 20]))

    load_before = report.load()
    results: dict[str, dict[str, list[Measurement]]] = {}
    for round_number in range(rounds):
        # Everybody goes first once: whatever drifts, drifts for all.
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            prefix = f"{name.replace(' ', '-')}-{round_number}"
            for measurement in _measure(name, disks, target, prefix, directory / "mnt", data):
                results.setdefault(measurement.workload, {}).setdefault(name, []).append(measurement)
                print(
                    f"{round_number + 1}/{rounds} {name}: {measurement.workload}: {measurement.seconds:.6f} s"
                )
                sys.stdout.flush()
    if chosen:
        return 0

    description = {
        "machine": report.machine(),
        "load of the machine before the run": load_before,
        "versions": report.versions({peer.name: peer.version() for peer in disks}),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
    }
    text = report.table(
        results, names, Bucketry.name, [peer.name for peer in disks if peer.name != Bucketry.name]
    )
    print(text)
    notes = "\n".join(f"* {key}: {value}" for key, value in description.items())
    report.write_page(_PAGE, f"{text}\n\nMedians of {rounds} rounds.\n\n{notes}")
    print(f"written: {_PAGE}, {report.write_json(_HERE / 'results', results, description)}")
    return 0


def _measure(
    name: str, disks: list[DiskPeer], target: Target, prefix: str, directory: Path, data: bytes
) -> Iterator[Measurement]:
    if name == _LOOP:
        return measure_loop(target, prefix, data)
    (peer,) = (each for each in disks if each.name == name)
    return measure_disk(peer, prefix, directory, data)


if __name__ == "__main__":
    sys.exit(main())
