"""Bucketry makes an object-store bucket behave like local storage: disks and write-once files.

``bucketry.open(url)`` gives a disk as a raw binary file object, ``bucketry.create`` makes one. Programs with
an event loop use ``bucketry.assemble.open_disk``.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bucketry.blocking import create as create
    from bucketry.blocking import open as open  # noqa: A004 - it is what builtins.open is, for disks


def __getattr__(name: str) -> Any:
    # Late: the command line must fork before it loads what starts threads, and show its help without loading
    # it at all.
    if name in ("create", "open"):
        from bucketry import blocking

        return getattr(blocking, name)
    raise AttributeError(f"module 'bucketry' has no attribute {name!r}")
