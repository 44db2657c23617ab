"""What a check finds in a volume, and what a layout brings to be checked by.

The driver in ``bucketry.disk.check`` knows no layout: it takes findings as they come and hands those that can
be put right back to where they came from.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Severity(Enum):
    """How bad it is."""

    #: Data cannot be read, or the volume cannot be opened.
    DAMAGE = "damage"
    #: Harmless, and can be put right.
    FLAW = "flaw"
    #: Good to know.
    NOTE = "note"


class Remedy(Enum):
    """What puts it right."""

    #: The object is not needed.
    DELETE = "delete"
    #: The volume's size is written where it is missing or wrong.
    REWRITE = "rewrite the size"
    #: Loses data, so only on request: the object is put aside, and the block is zero.
    ZERO = "put aside and zero"


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind`` is a word for programs; ``message`` a line for people."""

    severity: Severity
    kind: str
    message: str
    block: int | None = None
    key: str | None = None
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What was done about a finding, or why nothing was."""

    finding: Finding
    done: bool
    message: str


@dataclass(frozen=True, slots=True)
class Amount:
    """Stored blocks and the bytes of their objects."""

    blocks: int = 0
    size_bytes: int = 0


class LayoutCheck(Protocol):
    """A volume as a layout looks through it; nothing is changed but by ``repair``. Any method may raise what
    a Bucket raises."""

    @property
    def done(self) -> Amount:
        """How much has been looked at so far."""
        ...

    async def measure(self) -> Amount:
        """How much there is to look at."""
        ...

    def look(self) -> AsyncGenerator[Sequence[Finding], None]:
        """Look at everything, reading each stored block; yields after each object, mostly nothing."""
        ...

    async def repair(self, findings: Sequence[Finding]) -> Sequence[Action]:
        """Do what the findings' remedies say. Whoever calls holds the volume."""
        ...

    def figures(self) -> Mapping[str, int]:
        """Counts, by name, of what was looked at."""
        ...
