"""The zero map on local disk, from a clean end to the next beginning.

It is true only as long as nobody else has written to the volume: it is kept with the *generation* of the
attachment that kept it, and used only by who can say that this was the last one that wrote.
"""

import json
import logging
import os

from bucketry.cache.directory import CacheDirectory, write_whole
from bucketry.core.zero_map import ZeroMap
from bucketry.errors import Corrupt

_log = logging.getLogger(__name__)

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def save_zero_map(directory: CacheDirectory, zeros: ZeroMap, generation: str) -> None:
    """Keep the map for the next attachment: call it when everything is in the bucket and nobody writes any
    more. ``generation`` is what the bucket will say of this attachment as the last that wrote. Never fails:
    without the map the survey tells."""
    try:
        write_whole(directory.zeros, _label(directory, generation) + zeros.encode())
    except OSError as error:
        _log.warning("the zero map is not kept in %s: %s", directory.path, error)


def load_zero_map(directory: CacheDirectory, block_count: int, generation: str) -> ZeroMap | None:
    """The map that was kept, if it is whole and ``generation``, what the bucket says of the last attachment
    that wrote, is that of who kept it; else None. Never fails.

    It is removed: from now on it is true only in memory.
    """
    try:
        with os.fdopen(os.open(directory.zeros, _FLAGS), "rb") as file:
            content = file.read()
        directory.zeros.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("the zero map in %s is not used: %s", directory.path, error)
        return None
    label = _label(directory, generation)
    if not content.startswith(label):
        return None
    try:
        return ZeroMap.decode(content[len(label) :], block_count)
    except Corrupt as error:
        _log.debug("the zero map in %s is not used: %s", directory.path, error)
        return None


def _label(directory: CacheDirectory, generation: str) -> bytes:
    """One line; of another volume, version or generation it is another."""
    return json.dumps(["zeros", 1, directory.identity, generation]).encode() + b"\n"
