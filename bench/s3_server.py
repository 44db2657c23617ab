"""How many requests per second our S3 server for tests answers, with SeaweedFS in the same run.

``PYTHONPATH=tests python -m bench.s3_server``: objects of 128 KiB, obstore's synchronous calls in 16 threads,
the servers in processes of their own. They take turns, and everybody goes first once.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import obstore
from obstore.store import S3Store

from bucketry.settings import Secret
from bucketry.testing.s3_server import Credentials, S3ServerProcess, ServiceSettings
from servers.seaweed import Seaweed

ROUNDS = 5
REQUESTS = 1500
THREADS = 16
#: What a disk's block is.
BODY = os.urandom(128 << 10)
KEY = Credentials("AKIDBENCH", Secret("not a secret: for the loopback interface"))

if TYPE_CHECKING:
    from obstore.store import S3Config

Figures: TypeAlias = dict[str, float]


@contextmanager
def own(settings: ServiceSettings) -> Iterator[S3Store]:
    with S3ServerProcess(settings) as server:
        server.make_bucket("bench")
        key = settings.credentials[0] if settings.credentials else None
        yield _client(server.endpoint, "bench", key)


@contextmanager
def seaweed(server: Seaweed) -> Iterator[S3Store]:
    key = Credentials(server.access_key, Secret(server.secret_key))
    yield _client(server.endpoint, server.make_bucket(), key)


def _client(endpoint: str, bucket: str, key: Credentials | None) -> S3Store:
    config: S3Config = {"endpoint": endpoint, "region": "us-east-1", "skip_signature": key is None}
    if key is not None:
        config |= {"access_key_id": key.access_id, "secret_access_key": key.secret.reveal_text()}
    return S3Store(
        bucket, config=config, client_options={"allow_http": True}, retry_config={"max_retries": 0}
    )


def measure(store: S3Store) -> Figures:
    """Requests per second by kind."""
    requests: dict[str, Callable[[int], object]] = {
        "put": lambda number: obstore.put(store, f"block/{number:08x}", BODY, use_multipart=False),
        "get": lambda number: obstore.get(store, f"block/{number:08x}").bytes(),
        "head": lambda number: obstore.head(store, f"block/{number:08x}"),
    }
    figures: Figures = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for name, request in requests.items():
            # Connections first.
            list(threads.map(request, range(THREADS)))
            begun = time.perf_counter()
            list(threads.map(request, range(REQUESTS)))
            figures[name] = REQUESTS / (time.perf_counter() - begun)
    return figures


def main() -> None:
    """Print the medians as a table of Markdown."""
    with tempfile.TemporaryDirectory() as directory:
        weed = Seaweed(Path(directory) / "seaweed")
        weed.start_process()
        try:
            _run(weed)
        finally:
            weed.stop_process()


def _run(weed: Seaweed) -> None:
    signed = (KEY,)
    peers: dict[str, Callable[[], AbstractContextManager[S3Store]]] = {
        "own, signed": lambda: own(ServiceSettings(credentials=signed)),
        'own, signed, `etags="fast"`': lambda: own(ServiceSettings(credentials=signed, etags="fast")),
        'own, open, `etags="fast"`': lambda: own(ServiceSettings(etags="fast")),
        "SeaweedFS, signed": lambda: seaweed(weed),
    }
    found: dict[str, list[Figures]] = {name: [] for name in peers}
    for number in range(ROUNDS):
        names = list(peers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with peers[name]() as store:
                found[name].append(measure(store))
    print("| | put/s | get/s | head/s |\n|---|---:|---:|---:|")
    for name, rounds in found.items():
        medians = (statistics.median(figures[kind] for figures in rounds) for kind in ("put", "get", "head"))
        print(f"| {name} | {' | '.join(f'{median:,.0f}' for median in medians)} |")


if __name__ == "__main__":
    main()
