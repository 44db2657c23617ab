"""The way to a store, for messages: its endpoint, and the proxy that the environment puts before it. Nothing
secret of either."""

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass


def describe_way(endpoint: str, environment: Mapping[str, str]) -> str:
    """``endpoint URL``, and ``through the proxy URL`` where the environment names one for it."""
    shown = without_secrets(endpoint)
    proxy = _proxy(endpoint, environment)
    return (
        f"endpoint {shown}"
        if proxy is None
        else f"endpoint {shown} through the proxy {without_secrets(proxy)}"
    )


def is_amazons(way: str) -> bool:
    """Whether the endpoint in such a description is one of Amazon's S3."""
    host = urlsplit(way.split()[1]).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def direct_endpoint(way: str) -> str | None:
    """The endpoint in what ``describe_way`` says; None where the way leads through a proxy."""
    words = way.split()
    return words[1] if len(words) == 2 else None


def without_secrets(url: str) -> str:
    """A URL without user, password, query and fragment. What is no URL shows nothing."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "?", parts.port
    except ValueError:
        return "?"
    host = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "") + parts.path.rstrip("/")
    return "".join(c for c in shown if c.isprintable())


def _proxy(endpoint: str, environment: Mapping[str, str]) -> str | None:
    """As the bucket client and botocore choose it: a lower-case name comes before its upper-case one."""
    proxies = {
        name.lower()[: -len("_proxy")]: value
        for name, value in sorted(environment.items())
        if name.lower().endswith("_proxy") and value
    }
    parts = urlsplit(endpoint)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(parts.netloc, proxies):
        return None
    return proxy
