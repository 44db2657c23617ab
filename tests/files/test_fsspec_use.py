"""pandas, pyarrow and DuckDB over the fsspec face: cold and cached, with the requests that it takes.

They are imported by those tests that use them: that takes seconds, and the quick check collects this file,
too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bucketry.files.fsspec_face import BucketryFileSystem
from bucketry.settings import Secret
from bucketry.testing.s3_server import Credentials, S3Server, ServiceSettings

pytestmark = pytest.mark.slow

KEY = Credentials("AKIDFSSPEC", Secret("geheim: for the loopback interface"))
ROWS = 200_000
FILE = "lake/orders.parquet"
URL = f"bucketry+s3://{FILE}"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Our own, because it counts requests; with one Parquet file of some MB in ten row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with S3Server(ServiceSettings(credentials=(KEY,))) as server:
        server.make_bucket("lake")
        table = pa.table(
            {
                "id": pa.array(range(ROWS)),
                "city": pa.array([["Aalen", "Bonn", "Celle", "Ulm"][n % 4] for n in range(ROWS)]),
                "cents": pa.array([n * 7919 % 10_007 for n in range(ROWS)]),
            }
        )
        writer = open_lake(server)
        with writer.open(FILE, "wb") as file:
            pq.write_table(table, file, row_group_size=ROWS // 10)
        writer.close()
        yield server


def options(server: S3Server, cache: Path | None = None, **more: object) -> dict[str, Any]:
    """As for s3fs, and where the cache is."""
    return {
        "key": KEY.access_id,
        "secret": KEY.secret.reveal_text(),
        "endpoint_url": server.endpoint,
        "cache_dir": None if cache is None else str(cache),
        **more,
    }


def open_lake(server: S3Server, cache: Path | None = None, **more: object) -> BucketryFileSystem:
    fs = fsspec.filesystem("bucketry+s3", skip_instance_cache=True, **options(server, cache, **more))
    assert isinstance(fs, BucketryFileSystem)
    return fs


@pytest.fixture
def close_all() -> Iterator[None]:
    """What pandas and fsspec have made by themselves, and keep."""
    yield
    for cls in (fsspec.get_filesystem_class(name) for name in ("bucketry", "bucketry+s3", "bucketry+memory")):
        for fs in list(cls._cache.values()):
            fs.close()


def gets(server: S3Server) -> int:
    return server.snapshot().requests.get("GetObject", 0)


def total(fs: BucketryFileSystem) -> dict[str, int]:
    """What DuckDB says of each city."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        found = connection.sql(
            f"SELECT city, sum(cents) FROM '{URL}' WHERE id < 40000 GROUP BY city"
        ).fetchall()
    return {city: int(cents) for city, cents in found}


def test_duckdb_cold_and_cached(server: S3Server, tmp_path: Path) -> None:
    """A query over a Parquet file fetches what it needs; the same again fetches nothing, nor does one after a
    restart with the same cache directory; the answers are those that plain Python gives."""
    wanted: dict[str, int] = {}
    for n in range(40_000):
        city = ["Aalen", "Bonn", "Celle", "Ulm"][n % 4]
        wanted[city] = wanted.get(city, 0) + n * 7919 % 10_007
    size_bytes = server.snapshot().stored_bytes
    fs = open_lake(server, tmp_path / "cache", mode="ranges", read_ahead_bytes=0)
    before, sent = gets(server), server.snapshot().bytes_out
    assert total(fs) == wanted
    cold = gets(server) - before
    assert 1 <= cold <= 8
    # Two row groups of ten, and the footer.
    assert server.snapshot().bytes_out - sent < size_bytes / 2
    assert total(fs) == wanted
    fs.close()
    again = open_lake(server, tmp_path / "cache", mode="ranges", read_ahead_bytes=0)
    assert total(again) == wanted
    assert gets(server) - before == cold
    again.close()


@pytest.mark.usefixtures("close_all")
def test_pandas(server: S3Server, tmp_path: Path) -> None:
    """Reads and writes Parquet and CSV by URL."""
    import pandas as pd

    how = options(server, tmp_path / "cache")
    frame = pd.read_parquet(URL, storage_options=how)
    assert (len(frame), frame["id"].sum()) == (ROWS, ROWS * (ROWS - 1) // 2)
    before = gets(server)
    assert pd.read_parquet(URL, columns=["cents"], storage_options=how)["cents"].max() == 10_006
    assert gets(server) == before
    frame.head(100).to_csv("bucketry+s3://lake/head.csv", index=False, storage_options=how)
    assert pd.read_csv("bucketry+s3://lake/head.csv", storage_options=how).equals(frame.head(100))
    with pytest.raises(FileExistsError):
        frame.head(99).to_csv("bucketry+s3://lake/head.csv", index=False, storage_options=how)


def test_pyarrow(server: S3Server) -> None:
    """A partitioned dataset is written and read back, filtered by its directories."""
    import pyarrow.dataset
    import pyarrow.parquet as pq

    fs = open_lake(server)
    table = pq.read_table(FILE, filesystem=fs)
    pyarrow.dataset.write_dataset(
        table.slice(0, 1000),
        "lake/by-city",
        filesystem=fs,
        format="parquet",
        partitioning=["city"],
        partitioning_flavor="hive",
    )
    assert sorted(fs.ls("lake/by-city", detail=False)) == [
        f"lake/by-city/city={city}" for city in ("Aalen", "Bonn", "Celle", "Ulm")
    ]
    dataset = pyarrow.dataset.dataset("lake/by-city", filesystem=fs, partitioning="hive")
    assert dataset.count_rows() == 1000
    assert dataset.count_rows(filter=pyarrow.dataset.field("city") == "Bonn") == 250
    fs.close()
