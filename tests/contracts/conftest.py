"""What the contracts' tests share."""

from collections.abc import Iterator

import pytest

from bucketry.testing.s3_server import S3Server, ServiceSettings
from contracts.places import OWN_KEY


@pytest.fixture(scope="module")
def own_server() -> Iterator[S3Server]:
    """Our own server, which wants a key; a test clears it."""
    with S3Server(ServiceSettings(credentials=(OWN_KEY,))) as server:
        yield server
