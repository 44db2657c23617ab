"""What a storage source counts."""

import threading

from bucketry.errors import NotFound
from bucketry.files.statistics import FilesStatistics


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_an_operation_is_counted_and_timed() -> None:
    """Success and failure, bytes, durations."""
    clock = Clock()
    figures = FilesStatistics(now=clock)
    meter = figures.meter("flush")
    started = meter.now()
    clock.seconds += 2
    meter.succeeded(started, 100)
    meter.failed(meter.now(), NotFound)
    found = meter.statistics()
    assert (found["count"], found["succeeded"], found["failed"], found["bytes"]) == (2, 1, 1, 100)
    assert found["errors"] == {"NotFound": 1}
    latency = found["latency"]
    assert isinstance(latency, dict)
    assert latency["max_seconds"] == 2


def test_the_counters_of_both_generations() -> None:
    """Each counts what its name says."""
    figures = FilesStatistics(now=Clock())
    for operation, times in {
        "list": 1, "list_single": 2, "flush": 3, "exist": 4, "size": 5, "close": 6, "handle_size": 7,
        "read": 8,
    }.items():  # fmt: skip
        for _ in range(times):
            figures.meter(operation).succeeded(0.0, 10)
    figures.meter("flush").failed(0.0, NotFound)
    figures.count("handles_opened", 9)
    figures.count("objects_uploaded", 2)
    figures.count("writes_refused")
    assert figures.counters(11) == {
        "list_objects": 3, "put_objects": 4, "get_objects": 11, "object_exists": 9, "handle_ops": 13,
        "handle_opens": 9, "handle_closes": 6, "handle_reads": 8, "handle_read_bytes": 80,
        "object_writes": 2, "object_reads": 11, "ops": 37, "read_ops": 8, "write_ops": 1,
        "objects_uploaded": 2, "writes_refused": 1,
    }  # fmt: skip


def test_threads_lose_no_count() -> None:
    """However many count at once."""
    figures = FilesStatistics(now=Clock())

    def work() -> None:
        for _ in range(2000):
            figures.read.succeeded(0.0, 1)
            figures.count("x")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert figures.read.count == figures.read.size_bytes == figures.counters(0)["x"] == 16_000
