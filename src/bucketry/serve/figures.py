"""Single figures out of the nested statistics of a disk."""

from collections.abc import Mapping


def find_figure(statistics: Mapping[str, object], name: str) -> int | None:
    """The integer called ``name``, at whatever depth; the first that is met. None when there is none."""
    value = statistics.get(name)
    if isinstance(value, int):
        return value
    for below in statistics.values():
        if isinstance(below, Mapping):
            found = find_figure(below, name)
            if found is not None:
                return found
    return None


def dirty_bytes(statistics: Mapping[str, object]) -> int:
    """How much was written to a disk and is not yet in its bucket."""
    return find_figure(statistics, "dirty_bytes") or 0
