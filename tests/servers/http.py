"""One HTTP request to a server's management side, on the loopback interface."""

import http.client
from collections.abc import Mapping


def request(
    port: int, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def answers(port: int, path: str = "/") -> bool:
    """Whether somebody answers HTTP at all, whatever he says."""
    try:
        request(port, "GET", path)
    except OSError:
        return False
    return True
