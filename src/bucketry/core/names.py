"""The names of a volume's objects below its prefix, in s3backer's spelling.

A block's name is its number in eight lower-case hexadecimal digits. With *hash prefix* eight digits of a
hash of the number and a hyphen come before it, which spreads neighbouring blocks over the name space of the
store. Any other name is not a block's; s3backer ignores it, and so do we.
"""

import re
from dataclasses import dataclass

#: Sorts after all block names (they begin with 0-9 or a-f), so that no listing of blocks passes through it.
SUPERBLOCK_NAME = "superblock.bucketry.json"
#: As the superblock's, after all blocks.
LEASE_NAME = "lease.bucketry.json"
#: Damaged blocks that were put aside are named ``damaged/NAME-TIME``.
KEPT_FOLDER = "damaged/"
MOUNT_TOKEN_NAME = "s3backer-mounted"  # noqa: S105 -- an object's name

_MASK = 0xFFFFFFFF
_NAME = re.compile(r"(?:([0-9a-f]{8})-)?([0-9a-f]{8})", re.ASCII)
_KEPT_NAME = re.compile(rf"{KEPT_FOLDER}((?:[0-9a-f]{{8}}-)?[0-9a-f]{{8}})-\d{{8}}T\d{{6}}Z", re.ASCII)


def block_hash(block: int) -> int:
    """s3backer's 32-bit hash of a block number: a bijection, so that names stay unique."""
    value = block
    for step in range(12, 0, -1):
        value = (((value >> 8) ^ value) * 0x6B + step) & _MASK
    return value


def kept_key(prefix: str, key: str, stamp: str) -> str:
    """The key that a damaged block's object is kept under; ``stamp`` is a UTC time like
    ``20261121T193800Z``."""
    return f"{prefix}{KEPT_FOLDER}{key.removeprefix(prefix)}-{stamp}"


@dataclass(frozen=True, slots=True)
class BlockNames:
    """Names of the blocks numbered below ``block_count``, all beginning with ``prefix`` as it is."""

    prefix: str
    block_count: int
    hash_prefix: bool

    def key(self, block: int) -> str:
        """The key of a block's object."""
        if self.hash_prefix:
            return f"{self.prefix}{block_hash(block):08x}-{block:08x}"
        return f"{self.prefix}{block:08x}"

    def parse(self, key: str) -> int | None:
        """The number of the block whose key this is; None for any other key."""
        if not key.startswith(self.prefix):
            return None
        match = _NAME.fullmatch(key, len(self.prefix))
        if match is None:
            return None
        found_hash, digits = match.groups()
        block = int(digits, 16)
        if block >= self.block_count or (found_hash is not None) != self.hash_prefix:
            return None
        if found_hash is not None and int(found_hash, 16) != block_hash(block):
            return None
        return block

    def is_kept(self, key: str) -> bool:
        """Whether ``kept_key`` made this key of a block's. Another volume may lie in that folder: its blocks
        do not end with a time."""
        match = _KEPT_NAME.fullmatch(key, len(self.prefix)) if key.startswith(self.prefix) else None
        return match is not None and self.parse(self.prefix + match[1]) is not None

    @property
    def lead_max(self) -> int:
        """The largest number that the first eight digits of a block's name can show."""
        return _MASK if self.hash_prefix else self.block_count - 1

    def lead(self, key: str) -> int:
        """What the first eight digits of a block's key show."""
        return int(key[len(self.prefix) : len(self.prefix) + 8], 16)

    def key_before(self, lead: int) -> str:
        """A key that sorts before every block's that leads with ``lead`` or more, and after all others'."""
        # A tilde sorts after the hyphen that goes on in a hashed name.
        return f"{self.prefix}{lead - 1:08x}~" if lead else ""
