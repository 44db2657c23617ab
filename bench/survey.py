"""What the survey of a large volume in a directory costs: time, processor time and memory.

    python -m bench.survey [--blocks 1000000] [--directory /dev/shm]

The volume's blocks are small files with the header of a block and no content; the survey does not read that.
Measured is one attachment with ``--memory 64M``, from its start until it knows which blocks are stored.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import machine
from bucketry.bucket.envelope import ETAG_BYTES, encode_header
from bucketry.bucket.interface import Attributes
from bucketry.layout.s3backer import CONTENT_TYPE

_BLOCK_BYTES = 4096
_BODY = b"x" * 16


def _run(environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "bucketry", *arguments]
    return subprocess.run(
        command, env=dict(environment), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _fill(directory: Path, count: int) -> None:
    attributes = Attributes(CONTENT_TYPE, None, {"bucketry-crc32c": "00000000"})
    content = encode_header(attributes, bytes(ETAG_BYTES), len(_BODY)) + _BODY
    for block in range(count):
        (directory / f"{block:08x}").write_bytes(content)


def _is_surveyed(statistics: object) -> bool:
    if isinstance(statistics, dict):
        return statistics.get("surveyed") is True or any(map(_is_surveyed, statistics.values()))
    return False


def _measure(directory: Path, count: int) -> dict[str, Any]:
    volume, mount_point, runtime = (directory / name for name in ("volume", "mnt", "run"))
    mount_point.mkdir()
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "BUCKETRY_RUNTIME_DIR": str(runtime)}
    url = f"file://{volume}"
    _run(environment, "create", url, "--size", str(count * _BLOCK_BYTES), "--block-size", str(_BLOCK_BYTES))
    _fill(volume, count)
    begin = time.monotonic()
    _run(environment, "attach", url, str(mount_point), "--memory", "64M")
    attached = time.monotonic()
    try:
        while not _is_surveyed(json.loads(_run(environment, "stats", str(mount_point), "--json"))):
            time.sleep(0.5)
        surveyed = time.monotonic()
        pid = json.loads(_run(environment, "info", str(mount_point), "--json"))["pid"]
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(times[11]) + int(times[12])
    finally:
        _run(environment, "umount", str(mount_point))
    return {
        "blocks": count,
        "attached_seconds": round(attached - begin, 2),
        "surveyed_seconds": round(surveyed - begin, 1),
        "processor_seconds": round(ticks / os.sysconf("SC_CLK_TCK"), 1),
        "peak_memory_mib": round(peak_kib / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, default=None, help="on which file system; a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        print(json.dumps({**_measure(Path(directory), arguments.blocks), "machine": machine()}, indent=2))


if __name__ == "__main__":
    main()
