"""Figures as a file: replaced as a whole, so that a reader never sees half of one."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bucketry.core.exposition import render_prometheus


def write_snapshot(path: Path, statistics: Mapping[str, object]) -> None:
    """JSON, or Prometheus text where the name ends in ``.prom``. Raises OSError."""
    if path.suffix == ".prom":
        text = render_prometheus(statistics, "bucketry_files")
    else:
        text = json.dumps(statistics, indent=2, default=_plain) + "\n"
    # Not a fixed name: two sources that were given one file must not write into each other's half.
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        # mkstemp makes it private; figures are for whoever collects them.
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)
