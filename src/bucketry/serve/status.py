"""Statistics as people and programs read them: text for the stats file, JSON for scripts."""

import json
from collections.abc import Iterator, Mapping

from bucketry.core.printable import printable

#: Values begin in this column, as in s3backer's stats file; longer names push theirs to the right.
_VALUE_COLUMN = 28


def flatten(statistics: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested names joined with ``_``, in the order given."""
    for name, value in statistics.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}_")
        else:
            yield prefix + name, value


def _format(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Three places suit ratios and rates; latencies of a few µs need more.
        return f"{value:.3f}" if value == 0 or abs(value) >= 1 else f"{value:.6f}"
    # A line is a line: nothing from a bucket's answer may begin another, or move a cursor.
    return printable(str(value))


def render_text(statistics: Mapping[str, object]) -> str:
    """One line ``name value`` for each figure, the values aligned."""
    rows = [(name, _format(value)) for name, value in flatten(statistics)]
    width = max([_VALUE_COLUMN, *(len(name) + 1 for name, _ in rows)])
    return "".join(f"{name:<{width}}{value}\n" for name, value in rows)


def render_json(statistics: Mapping[str, object]) -> str:
    """The same figures, nested as they were; what JSON does not know becomes text."""
    return json.dumps(statistics, indent=2, default=_as_json) + "\n"


def _as_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)
