"""Where a bucket is, taken from a URL.

``s3://bucket/sub/dir`` means the bucket and the prefix ``sub/dir/``, as s3backer's ``bucket/sub/dir`` does.
Nothing is percent-decoded: a URL is read as it stands, as other S3 tools do.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from bucketry.bucket.keys import key_flaw
from bucketry.errors import Invalid

_FORMS = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///directory or memory://name"
#: Looser than AWS's rule for new buckets: old buckets and other servers have capitals, underscores and other
#: lengths.
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
#: Azure's own rule, with its three special containers.
_CONTAINER_NAME = re.compile(r"\$root|\$web|\$logs|(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
#: A scheme, and no or one slash where two belong.
_NEARLY = re.compile(r"(s3|gs|az|file|memory):/*([^/].*)")
_NAMES = {"s3": _BUCKET_NAME, "gs": _BUCKET_NAME, "az": _CONTAINER_NAME, "memory": _BUCKET_NAME}


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket and the prefix of the keys in it. ``dataclasses.replace`` it to give s3backer's raw
    ``--prefix``."""

    #: s3, gs, az, file or memory.
    scheme: str
    #: The container for az; the absolute path for file.
    bucket_name: str
    #: Put before every key as it stands; empty, or what the URL said with a slash at its end.
    prefix: str = ""
    #: Only for file.
    directory: Path | None = None

    @property
    def bucket_url(self) -> str:
        """The bucket without the prefix, for messages."""
        return f"{self.scheme}://{self.bucket_name}"

    @property
    def url(self) -> str:
        """The bucket and the prefix, for messages."""
        return f"{self.bucket_url}/{self.prefix}" if self.prefix else self.bucket_url


def looks_like_url(text: str) -> bool:
    """Whether ``text`` is meant to be a bucket URL: it has ``://``, or a scheme with fewer slashes."""
    return "://" in text or _NEARLY.match(text) is not None


def parse_url(url: str) -> Location:
    """What ``url`` says. Raises Invalid, with one line that names the flaw."""
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"bucket URL {_shown(url)} is not valid UTF-8") from error
    if not url.isprintable():
        raise Invalid(f"bucket URL {_shown(url)} has a control or invisible character")
    scheme, separator, rest = url.partition("://")
    if not separator:
        nearly = _NEARLY.match(url)
        if nearly is None or "@" in url:
            raise Invalid(f"{_shown(url)} is not a bucket URL: expected {_FORMS}")
        slashes = ":///" if nearly[1] == "file" else "://"
        raise Invalid(f"{_shown(url)} is not a bucket URL; did you mean {nearly[1]}{slashes}{nearly[2]}?")
    if "@" in rest.partition("/")[0]:
        raise Invalid(
            "a bucket URL has no user or password in it: give an access file, a profile or the environment"
        )
    for character in "?#":
        if character in rest:
            raise Invalid(
                f"bucket URL {_shown(url)} has a {character!r}: endpoint, region and the like are options"
            )
    if scheme == "file":
        return _parse_directory(url, rest)
    if scheme not in _NAMES:
        raise Invalid(f"bucket URL {_shown(url)} begins with an unknown scheme: expected {_FORMS}")

    bucket_name, _, path = rest.partition("/")
    if not bucket_name:
        raise Invalid(f"bucket URL {_shown(url)} names no bucket: expected {_FORMS}")
    if _NAMES[scheme].fullmatch(bucket_name) is None:
        raise Invalid(f"bucket URL {_shown(url)}: {bucket_name!r} is not a name for a bucket of {scheme}://")
    path = path.removesuffix("/")
    if not path:
        if rest.endswith("//"):
            raise Invalid(f"bucket URL {_shown(url)} has an empty prefix between slashes")
        return Location(scheme, bucket_name)
    flaw = key_flaw(path)
    if flaw is not None:
        raise Invalid(f"bucket URL {_shown(url)}: the prefix {flaw}")
    return Location(scheme, bucket_name, path + "/")


def _parse_directory(url: str, rest: str) -> Location:
    if not rest.startswith("/"):
        raise Invalid(
            f"bucket URL {_shown(url)} is not an absolute directory: it has three slashes, file:///directory"
        )
    directory = Path(rest)
    if directory == Path("/") or ".." in directory.parts:
        raise Invalid(f"bucket URL {_shown(url)} is not a directory of its own")
    return Location("file", str(directory), directory=directory)


def _shown(url: str) -> str:
    """The URL for a message; not where it may have a password in it."""
    return "with an @ in it" if "@" in url else repr(url)
