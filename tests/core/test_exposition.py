"""Nested statistics in Prometheus's text format."""

import re

from bucketry.core.exposition import render_prometheus
from bucketry.core.histogram import LatencyHistogram


def test_numbers_labels_and_summaries() -> None:
    """Names are joined; operations, errors, buckets and caches are labels; a latency is a summary; text is
    left out."""
    latency = LatencyHistogram()
    latency.add(0.5)
    text = render_prometheus(
        {
            "open": True,
            "directory": "/x",
            "nothing": None,
            "ratio": 0.25,
            "operations": {"get": {"count": 1, "errors": {"NotFound": 2}, "latency": latency.statistics()}},
            "buckets": {'s3://b/"p\\': {"metered": {"operations": {"put": {"count": 7}}}}},
        },
        "b",
    )
    assert text.splitlines() == [
        "# TYPE b_open untyped",
        "b_open 1",
        "# TYPE b_ratio untyped",
        "b_ratio 0.25",
        "# TYPE b_operations_count untyped",
        'b_operations_count{operation="get"} 1',
        "# TYPE b_operations_errors untyped",
        'b_operations_errors{operation="get",error="NotFound"} 2',
        "# TYPE b_operations_latency_seconds summary",
        'b_operations_latency_seconds{operation="get",quantile="0.5"} 0.5',
        'b_operations_latency_seconds{operation="get",quantile="0.9"} 0.5',
        'b_operations_latency_seconds{operation="get",quantile="0.99"} 0.5',
        'b_operations_latency_seconds{operation="get",quantile="1"} 0.5',
        'b_operations_latency_seconds_sum{operation="get"} 0.5',
        'b_operations_latency_seconds_count{operation="get"} 1',
        "# TYPE b_buckets_metered_operations_count untyped",
        'b_buckets_metered_operations_count{bucket="s3://b/\\"p\\\\",operation="put"} 7',
    ]


def test_every_line_is_in_the_format() -> None:
    """Whatever is measured."""
    text = render_prometheus(
        {"a b": {"c-d": float("inf"), "e": float("nan"), "f": -3}, "errors": {"x\ny": 1}}
    )
    label = r'\w+="([^"\\\n]|\\.)*"'
    line = re.compile(rf"(# TYPE \w+ \w+|\w+(\{{{label}(,{label})*\}})? (-?[0-9.e+-]+|NaN|[+-]Inf))")
    for found in text.splitlines():
        assert line.fullmatch(found), found
    assert "bucketry_a_b_c_d +Inf" in text
