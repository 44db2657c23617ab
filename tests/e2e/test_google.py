"""A disk on Google's stand-in: created, filled, opened again, verified."""

import random

import pytest

import bucketry
from servers.gcs import Gcs

pytestmark = pytest.mark.system

_SIZE_BYTES = 64 << 20


def test_google_in_python(gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes at odd places, some megabytes zeroed, and every byte is there when the disk is opened again."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(gcs.credentials_file))
    url = f"gs://{gcs.make_bucket()}/some/disk"
    source = random.Random(1)
    expected = bytearray(_SIZE_BYTES)
    bucketry.create(url, _SIZE_BYTES, compression="zstd", endpoint=gcs.endpoint)
    with bucketry.open(url, "r+b", endpoint=gcs.endpoint) as disk:
        for _ in range(40):
            data = source.randbytes(source.randrange(1, 300_000))
            offset = source.randrange(_SIZE_BYTES - len(data))
            disk.seek(offset)
            assert disk.write(data) == len(data)
            expected[offset : offset + len(data)] = data
        disk.zero(1 << 20, 3 << 20)
        expected[1 << 20 : 4 << 20] = bytes(3 << 20)
    with bucketry.open(url, endpoint=gcs.endpoint) as disk:
        assert disk.read(_SIZE_BYTES) == expected
