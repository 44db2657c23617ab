"""The rules of uploads in parts that all stores share, so that what passes in one passes in all.

They are S3's, and R2's stricter one: parts are numbered from 1 without a gap, and have one size, but for the
last, which may be smaller.
"""

from collections.abc import Sequence

from bucketry.bucket.interface import Part, UploadLimits
from bucketry.errors import Invalid

#: S3's: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
S3_LIMITS = UploadLimits(
    put_size_max_bytes=5 << 30,
    parts_max=10_000,
    part_size_min_bytes=5 << 20,
    part_size_max_bytes=5 << 30,
)


def check_part_size(limits: UploadLimits, part_size_bytes: int) -> None:
    """Raises Invalid unless parts may have this size."""
    if not limits.part_size_min_bytes <= part_size_bytes <= limits.part_size_max_bytes:
        raise Invalid(
            f"parts of {part_size_bytes} bytes: here they have from {limits.part_size_min_bytes} to "
            f"{limits.part_size_max_bytes}"
        )


def check_part(limits: UploadLimits, number: int, size_bytes: int) -> None:
    """Raises Invalid for what can be no part."""
    if not 1 <= number <= limits.parts_max:
        raise Invalid(f"part {number}: parts are numbered from 1 to {limits.parts_max}")
    if not 1 <= size_bytes <= limits.part_size_max_bytes:
        raise Invalid(f"part {number} of {size_bytes} bytes")


def check_parts(parts: Sequence[Part]) -> None:
    """Raises Invalid unless the parts can make an object."""
    if [part.number for part in parts] != list(range(1, len(parts) + 1)) or not parts:
        raise Invalid("the parts of an upload are numbered from 1 without a gap")
    size_bytes = parts[0].size_bytes
    if any(part.size_bytes != size_bytes for part in parts[:-1]) or parts[-1].size_bytes > size_bytes:
        raise Invalid("the parts of an upload have one size, but for the last, which may be smaller")
