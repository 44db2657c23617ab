"""Which keys every store can keep: the intersection of what S3, Google, Azure, obstore and a directory allow.

A key outside of it is refused before a request is made, for some stores would silently keep it under another
name: ``a/`` as ``a``, ``/a`` as ``a``.
"""

import re

from bucketry.errors import Invalid

#: S3, Google and Azure agree on it, in bytes of UTF-8.
KEY_BYTES_MAX = 1024
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def key_flaw(key: str) -> str | None:
    """What is wrong with ``key``, as the end of a sentence that begins with it; None when nothing is."""
    if not key:
        return "is empty"
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if len(encoded) > KEY_BYTES_MAX:
        return f"is longer than {KEY_BYTES_MAX} bytes"
    if _CONTROL.search(key):
        return "has a control character"
    # The common case, a block's name, has neither slash nor dot.
    if "/" in key or key.startswith("."):
        for segment in key.split("/"):
            if not segment:
                return "has an empty part: a slash at its begin or end, or two in a row"
            if segment in (".", ".."):
                return f"has the part {segment!r}"
    return None


def check_key(key: str) -> None:
    """Raises Invalid where some store would refuse or change the key."""
    flaw = key_flaw(key)
    if flaw is not None:
        raise Invalid(f"object key {key[:100]!r} {flaw}")
