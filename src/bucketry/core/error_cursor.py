"""How far one user of a disk has been told of writes that failed for good, as the kernel keeps for every open
file: each failure is told to each user once."""

from dataclasses import dataclass


@dataclass(slots=True)
class ErrorCursor:
    """``told`` counts the failures that this user knows of, or that others had been told before it came."""

    told: int = 0
