"""Statistics as text and JSON."""

import json
from types import MappingProxyType

from bucketry.serve.status import render_json, render_text

FIGURES = MappingProxyType(
    {
        "device": MappingProxyType(
            {"size_bytes": 4096, "cache": {"hit_ratio": 0.25, "mean_seconds": 0.000012}}
        ),
        "state": "serving\nfast",
        "lease": None,
        "read_only": False,
        "rate": 12.5,
    }
)


def test_text_is_one_aligned_line_for_each_figure() -> None:
    """Nested names are joined, values begin in one column, and no value makes a line of its own."""
    assert render_text(FIGURES) == (
        "device_size_bytes           4096\n"
        "device_cache_hit_ratio      0.250000\n"
        "device_cache_mean_seconds   0.000012\n"
        "state                       serving\\nfast\n"
        "lease                       -\n"
        "read_only                   no\n"
        "rate                        12.500\n"
    )


def test_long_names_move_the_column() -> None:
    """The values stay aligned."""
    lines = render_text({"a" * 40: 1, "b": 2}).splitlines()
    assert [line.index(value) for line, value in zip(lines, "12", strict=True)] == [41, 41]


def test_nothing_is_no_text() -> None:
    """No figures, no lines."""
    assert render_text({}) == ""


def test_json_keeps_the_nesting() -> None:
    """What went in comes back."""
    assert json.loads(render_json(FIGURES)) == {
        "device": {"size_bytes": 4096, "cache": {"hit_ratio": 0.25, "mean_seconds": 0.000012}},
        "state": "serving\nfast",
        "lease": None,
        "read_only": False,
        "rate": 12.5,
    }
