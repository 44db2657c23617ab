"""Are these bytes all zero? Asked of every block that is uploaded, so it must run at memory speed."""

from functools import lru_cache

from bucketry.core.bytes_like import BytesLike


#: 64 lengths: whole blocks, and the page-multiples that filesystems write. A length outside costs one
#: allocation.
@lru_cache(maxsize=64)
def _zeros(length: int) -> bytearray:
    return bytearray(length)


def is_zero(data: BytesLike) -> bool:
    """Whether every byte of ``data`` is zero (true when it is empty).

    A bytearray compares with any buffer by memcmp (16 GB/s); comparing memoryviews goes byte by byte, and
    ``bytes.count`` reaches 2 GB/s.
    """
    length = len(data)
    return length == 0 or (data[0] == 0 and _zeros(length) == data)
