"""The servers do what tests rely on."""

import socket

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError
from obstore.store import AzureStore, S3Store

from servers.azurite import Azurite
from servers.moto import Moto
from servers.proxy import Proxy
from servers.s3 import REGION, S3Server
from servers.seaweed import Seaweed

pytestmark = pytest.mark.system


def _s3(server: S3Server, bucket: str, endpoint: str | None = None) -> S3Store:
    return S3Store(
        bucket,
        endpoint=endpoint or server.endpoint,
        region=REGION,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def test_seaweed_keeps_objects_over_a_kill(seaweed: Seaweed) -> None:
    """What was put before the server was killed is there after it was started again, at the same address."""
    store = _s3(seaweed, seaweed.make_bucket())
    obstore.put(store, "key", b"value", use_multipart=False)
    seaweed.stop_process()
    try:
        with pytest.raises(Exception, match="error sending request"):
            obstore.get(store, "key")
    finally:
        seaweed.start_process()
    assert bytes(obstore.get(store, "key").bytes()) == b"value"


def test_seaweed_knows_who_asks_and_where(seaweed: Seaweed) -> None:
    """A wrong secret is refused, and a bucket that nobody made is absent."""
    bucket = seaweed.make_bucket()
    stranger = S3Store(
        bucket,
        endpoint=seaweed.endpoint,
        region=REGION,
        access_key_id=seaweed.access_key,
        secret_access_key="wrong",
        client_options={"allow_http": True},
    )
    with pytest.raises(PermissionDeniedError):
        obstore.put(stranger, "key", b"", use_multipart=False)
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        obstore.put(_s3(seaweed, "nobody-made-this"), "key", b"", use_multipart=False)


def test_moto_puts_if_absent(moto: Moto) -> None:
    """A second put-if-absent is refused."""
    store = _s3(moto, moto.make_bucket())
    obstore.put(store, "key", b"first", mode="create", use_multipart=False)
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"second", mode="create", use_multipart=False)


def test_azurite_keeps_attributes(azurite: Azurite) -> None:
    """Azure's emulator takes our credentials and gives back the attributes of an object."""
    store = AzureStore(
        azurite.make_container(),
        account_name=azurite.account,
        account_key=azurite.account_key,
        endpoint=azurite.endpoint,
        client_options={"allow_http": True},
    )
    obstore.put(
        store, "key", b"value", attributes={"Content-Encoding": "deflate", "note": "x"}, use_multipart=False
    )
    attributes = obstore.get(store, "key").attributes
    assert attributes["Content-Encoding"] == "deflate"
    assert attributes["note"] == "x"


def test_proxy_counts_refuses_and_serves_again(seaweed: Seaweed, seaweed_proxy: Proxy) -> None:
    """Requests pass through the proxy; while it refuses, they fail; when it accepts again, they succeed."""
    store = _s3(seaweed, seaweed.make_bucket(), seaweed_proxy.endpoint)
    obstore.put(store, "key", b"value", use_multipart=False)
    assert seaweed_proxy.connection_count == 1
    assert seaweed_proxy.sent_bytes > len(b"value")
    seaweed_proxy.refuse()
    assert seaweed_proxy.open_count == 0
    with pytest.raises(Exception, match="error sending request"):
        obstore.get(store, "key")
    seaweed_proxy.accept()
    assert bytes(obstore.get(store, "key").bytes()) == b"value"


def test_proxy_cuts_what_is_open() -> None:
    """A connection through the proxy is reset by a cut, and the next one is served."""
    with socket.create_server(("127.0.0.1", 0)) as target, Proxy(target.getsockname()[1]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"x")
            taken, _ = target.accept()
            with taken:
                assert taken.recv(1) == b"x"
                proxy.cut()
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"y")
            taken, _ = target.accept()
            with taken:
                assert taken.recv(1) == b"y"
