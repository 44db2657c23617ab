"""Figures are found wherever they lie."""

from bucketry.serve.figures import dirty_bytes, find_figure


def test_a_figure_is_found_at_any_depth() -> None:
    """The outermost first, and nothing where none is."""
    statistics = {"a": {"b": {"x": 1}, "dirty_bytes": 5}, "text": "x"}
    assert find_figure(statistics, "x") == 1
    assert find_figure(statistics, "y") is None
    assert find_figure({"a": {"x": 1}, "x": 2}, "x") == 2
    assert dirty_bytes(statistics) == 5
    assert dirty_bytes({}) == 0
