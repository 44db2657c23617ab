"""The crc32c of two pieces of data together, from the crc32c of each.

A checksum is the remainder of a polynomial; to append data of some length is to multiply by a power of x and
to add the other remainder. So what was checked in small parts can be compared with a checksum of the whole,
without reading anything again.
"""

from functools import lru_cache

#: Castagnoli's polynomial with its bits reversed, as the checksum itself has them: bit 31 is x⁰.
_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31
_X = 1 << 30


def combine(first: int, second: int, second_length: int) -> int:
    """The crc32c of some data whose crc32c is ``first``, followed by ``second_length`` bytes whose crc32c is
    ``second``."""
    return _times(_power(8 * second_length), first) ^ second


def _times(a: int, b: int) -> int:
    """The product of two remainders."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


@lru_cache(maxsize=64)  # of the few lengths that parts have
def _power(exponent: int) -> int:
    """x to that power, as a remainder."""
    result, base = _ONE, _X
    while exponent:
        if exponent & 1:
            result = _times(result, base)
        base = _times(base, base)
        exponent >>= 1
    return result
