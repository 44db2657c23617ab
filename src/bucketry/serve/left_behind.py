"""What a serving process says when it goes before everything is in the bucket: what is where, and what the
next attach will do."""

from bucketry.core.units import format_size
from bucketry.disk.interface import Unsaved
from bucketry.errors import BucketryError


def gave_up(unsaved: Unsaved | None, kernel_holds: str | None) -> str:
    """After a second signal. ``unsaved`` None: it cannot be told; ``kernel_holds``: the mount point of a
    filesystem that could not be unmounted."""
    return "; ".join(filter(None, [f"gave up: {_where(unsaved)}", _kernel(kernel_holds)]))


def taken_over(error: BucketryError, unsaved: Unsaved | None, holder: str | None) -> str:
    """After the volume was lost to somebody else."""
    who = f" (in use by {holder})" if holder else ""
    if unsaved is None or not unsaved.size_bytes:
        where = "everything written here is in the bucket" if unsaved is not None else _UNKNOWN
    elif unsaved.journal is not None:
        where = (
            f"{format_size(unsaved.size_bytes)} written here did not reach the bucket. The journal in "
            f"{unsaved.journal} has them, but cannot be replayed over what the other one writes: "
            "see bucketry journal"
        )
    else:
        where = f"{format_size(unsaved.size_bytes)} written here did not reach the bucket and are lost"
    return f"{error}{who}; {where}"


_UNKNOWN = "what had not reached the bucket is lost, unless a journal has it"


def _where(unsaved: Unsaved | None) -> str:
    if unsaved is None:
        return _UNKNOWN
    if not unsaved.size_bytes:
        return (
            "everything that was written to the disk is in the bucket, only the volume was not given back: "
            "the next attach on this machine takes it at once, one elsewhere watches its lease for a minute"
        )
    size = format_size(unsaved.size_bytes)
    if unsaved.journal is not None:
        return (
            f"{size} are not in the bucket; the journal in {unsaved.journal} has all of it, and the next "
            "attach with the same --cache-dir brings it there"
        )
    return (
        f"{size} were not in the bucket and are lost; the bucket has everything up to the last flush that "
        "succeeded, and the next attach finds that"
    )


def _kernel(mount_point: str | None) -> str | None:
    if mount_point is None:
        return None
    return f"what the filesystem on {mount_point} held in the kernel's memory is lost too"
