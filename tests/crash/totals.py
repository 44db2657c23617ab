"""What all the crashes of a run came to."""

from dataclasses import dataclass


@dataclass
class Totals:
    """``acknowledged``: fsyncs that had returned; ``checked``: sectors and files that were compared."""

    rounds: int = 0
    acknowledged: int = 0
    checked: int = 0
