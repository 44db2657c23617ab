"""The program of docs/wiredtiger.md runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bucketry.files.wiredtiger.options import known_options
from servers.s3 import Buckets
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system

_DOCUMENT = Path(__file__).parents[2] / "docs" / "wiredtiger.md"
#: Run there by somebody who has only this package and WiredTiger.
_ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}


def program(directory: Path) -> Path:
    """The first Python program of the document, in a file of its name."""
    text = _DOCUMENT.read_text()
    (code,) = re.findall(r"^```python\n(import shutil\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path = directory / "tiers.py"
    path.write_text(code)
    return path


def run(path: Path, build: Path, bucket: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(path), bucket],
        env={**_ENVIRONMENT, "PYTHONPATH": str(build), "HOME": str(path.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_program_runs_over_s3(release_build: Path, seaweed: Seaweed, tmp_path: Path) -> None:
    """With the server and the keys in the environment alone; in the end only the owner's marker is left."""
    bucket = seaweed.make_bucket()
    output = run(
        program(tmp_path),
        release_build,
        f"s3://{bucket}",
        AWS_ENDPOINT_URL=seaweed.endpoint,
        AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID=seaweed.access_key,
        AWS_SECRET_ACCESS_KEY=seaweed.secret_key,
    )
    assert output == f"100000 rows came back from s3://{bucket}\n"
    client = Buckets(seaweed.endpoint, seaweed.access_key, seaweed.secret_key).client
    (left,) = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert re.fullmatch("example-[0-9a-f]{8}/bucketry-owner", left["Key"])


def test_the_program_runs_over_a_directory(release_build: Path, tmp_path: Path) -> None:
    """The other bucket that the document names."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    output = run(program(tmp_path), release_build, f"file://{bucket}")
    assert output == f"100000 rows came back from file://{bucket}\n"


def test_every_option_is_in_the_document() -> None:
    """The table has all options, and no other."""
    section = _DOCUMENT.read_text().partition("### Options")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(known_options()) - {"name"}
