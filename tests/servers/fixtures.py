"""One server of each kind for each test worker, started when its first test asks for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from servers.azurite import Azurite
from servers.gcs import Gcs
from servers.ministack import Ministack
from servers.moto import Moto
from servers.process import ServerError
from servers.proxy import Proxy
from servers.rclone import Rclone
from servers.seaweed import Seaweed


class _Startable(Protocol):
    def start_process(self) -> None: ...
    def stop_process(self) -> None: ...


_ServerT = TypeVar("_ServerT", bound=_Startable)


def _serve(make: Callable[[Path], _ServerT], directory: Path) -> Iterator[_ServerT]:
    """A running server. A missing program fails the test: a silent skip would look like success."""
    try:
        server = make(directory)
        server.start_process()
    except ServerError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield server
    finally:
        server.stop_process()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """SeaweedFS. A test that stops it starts it again before it ends."""
    yield from _serve(Seaweed, tmp_path_factory.mktemp("seaweed"))


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """moto's S3 server."""
    yield from _serve(Moto, tmp_path_factory.mktemp("moto"))


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """MiniStack's S3."""
    yield from _serve(Ministack, tmp_path_factory.mktemp("ministack"))


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    """rclone's S3 server, which ignores conditions."""
    yield from _serve(Rclone, tmp_path_factory.mktemp("rclone"))


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure's emulator."""
    yield from _serve(Azurite, tmp_path_factory.mktemp("azurite"))


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    """Google's stand-in. Point GOOGLE_SERVICE_ACCOUNT to its ``credentials_file``."""
    yield from _serve(Gcs, tmp_path_factory.mktemp("gcs"))


@pytest.fixture
def seaweed_proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    """A way to SeaweedFS that can be cut: use ``seaweed_proxy.endpoint`` in place of ``seaweed.endpoint``."""
    with Proxy(seaweed.port) as proxy:
        yield proxy
