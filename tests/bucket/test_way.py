"""Where requests go, for messages: endpoint and proxy, and nothing secret of either."""

import pytest

from bucketry.bucket.way import describe_way, without_secrets


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://one:1", "HTTPS_PROXY": "http://two:2"}, "http://two:2"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, "http://lower:2"),
        ({"ALL_PROXY": "socks5://all:1"}, "socks5://all:1"),
        ({"https_proxy": "user:geheim@proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy", "NO_PROXY": "other, .example.com"}, None),
        ({"https_proxy": "http://proxy", "no_proxy": "example.org"}, "http://proxy"),
        ({"https_proxy": ""}, None),
    ],
)
def test_the_proxy(environment: dict[str, str], proxy: str | None) -> None:
    """As the clients choose it; its password is not shown."""
    through = "" if proxy is None else f" through the proxy {proxy}"
    assert describe_way("https://store.example.com", environment) == (
        f"endpoint https://store.example.com{through}"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:geheim@host:1/path/?geheim#geheim", "http://host:1/path"),
        ("host:80", "http://host:80"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("http://[geheim", "?"),
        ("http://host:geheim", "?"),
        ("", "http://?"),
    ],
)
def test_without_secrets(url: str, shown: str) -> None:
    """User, password, query and fragment go; what is no URL is not shown at all."""
    assert without_secrets(url) == shown
