"""Nested statistics as Prometheus reads them: one line for each number, in its text format.

Names are joined with ``_``. What is inside of a mapping that LABELS names becomes a label instead: figures of
``operations`` → ``get`` are ``operations_…{operation="get"}``. A latency (see LatencyHistogram.statistics) is
a summary.
"""

import math
import re
from collections.abc import Iterator, Mapping

#: Mappings whose keys are values of a label, and its name.
LABELS: Mapping[str, str] = {
    "operations": "operation",
    "errors": "error",
    "buckets": "bucket",
    "caches": "cache",
}
_QUANTILES = {"p50_seconds": "0.5", "p90_seconds": "0.9", "p99_seconds": "0.99", "max_seconds": "1"}
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
_Labels = tuple[tuple[str, str], ...]


def render_prometheus(statistics: Mapping[str, object], prefix: str = "bucketry") -> str:
    """The numbers in ``statistics``; text and None in it are left out. Lines of one name are together, as
    the format asks."""
    families: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for name, labels, value in _samples(statistics, prefix, ()):
        if isinstance(value, Mapping):
            kinds[name] = "summary"
            lines = families.setdefault(name, [])
            lines += [
                _line(name, (*labels, ("quantile", quantile)), value[key])
                for key, quantile in _QUANTILES.items()
            ]
            lines.append(_line(f"{name}_sum", labels, value["total_seconds"]))
            lines.append(_line(f"{name}_count", labels, value["count"]))
        else:
            kinds[name] = "untyped"
            families.setdefault(name, []).append(_line(name, labels, value))
    return "".join(
        f"# TYPE {name} {kinds[name]}\n" + "".join(f"{line}\n" for line in lines)
        for name, lines in families.items()
    )


def _samples(value: object, name: str, labels: _Labels) -> Iterator[tuple[str, _Labels, object]]:
    if isinstance(value, Mapping):
        if value.keys() >= {"count", "total_seconds", *_QUANTILES}:
            yield f"{name}_seconds", labels, value
            return
        for key, below in value.items():
            label = LABELS.get(str(key))
            if label is not None and isinstance(below, Mapping):
                for which, figures in below.items():
                    yield from _samples(figures, f"{name}_{key}", (*labels, (label, str(which))))
            else:
                yield from _samples(below, f"{name}_{_NOT_IN_A_NAME.sub('_', str(key))}", labels)
    elif _is_number(value):
        yield name, labels, value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _line(name: str, labels: _Labels, value: object) -> str:
    assert isinstance(value, int | float)
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    number = str(int(value)) if isinstance(value, int) else _float(value)
    return f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _float(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)
