"""Who goes first when requests to the bucket must wait for each other."""

from enum import IntEnum


class Priority(IntEnum):
    """Smaller goes first. Somebody waits for a READ; an UPLOAD makes room; nobody waits for the others."""

    READ = 0
    UPLOAD = 1
    READ_AHEAD = 2
    BACKGROUND = 3
