"""Names of blocks: s3backer's vectors, and what is not a block's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.names import (
    MOUNT_TOKEN_NAME,
    SUPERBLOCK_NAME,
    BlockNames,
    block_hash,
    kept_key,
)

BLOCKS_MAX = (1 << 32) - 1

HASHES = {
    0: 0xC448B72C,
    1: 0xD211CAD9,
    2: 0x7183BAA1,
    3: 0x531C6CD5,
    0xFF: 0x6AD31A26,
    0x100: 0xE34E7A2C,
    0xFFFF: 0x5CAD6E8F,
    0xA445: 0x33C1894D,
    0xFFFFFFFF: 0x0F447858,
}


@pytest.mark.parametrize(("block", "expected"), HASHES.items())
def test_hashes_are_s3backers(block: int, expected: int) -> None:
    """The hash of a block number is what s3backer makes of it."""
    assert block_hash(block) == expected


def test_keys_are_prefix_hash_and_number() -> None:
    """The prefix is put before the name as it is; the hash comes with a hyphen."""
    assert BlockNames("", 4096, hash_prefix=False).key(0xA5) == "000000a5"
    assert BlockNames("disks/", 4096, hash_prefix=False).key(0) == "disks/00000000"
    assert BlockNames("raw-", 4096, hash_prefix=True).key(3) == "raw-531c6cd5-00000003"


@given(st.integers(0, BLOCKS_MAX - 1), st.booleans(), st.sampled_from(["", "a/b/", "x-"]))
def test_keys_are_parsed_back(block: int, hash_prefix: bool, prefix: str) -> None:
    """Every block's key parses to its number, and only under its own kind of name."""
    names = BlockNames(prefix, BLOCKS_MAX, hash_prefix)
    assert names.parse(names.key(block)) == block
    assert BlockNames(prefix, BLOCKS_MAX, not hash_prefix).parse(names.key(block)) is None


@pytest.mark.parametrize(
    "key",
    [
        "p/0000000", "p/000000000", "p/0000000A",
        "p/00000001 ", "p/00000001\n", "p/00000001.tmp", "p//00000001",
        "00000001", "q/00000001", "p/00000010", "p/0000000٣", "p/" + SUPERBLOCK_NAME, "p/" + MOUNT_TOKEN_NAME,
        "p/d211cad9-00000001", "p/",
    ],
)  # fmt: skip
def test_other_keys_are_not_blocks(key: str) -> None:
    """Anything but exactly eight lower-case digits of a number below the count is somebody else's object."""
    assert BlockNames("p/", 16, hash_prefix=False).parse(key) is None


@pytest.mark.parametrize(
    "key", ["00000001", "d211cad8-00000001", "D211CAD9-00000001", "d211cad9_00000001", "d211cad9-00000010"]
)
def test_other_keys_are_not_hashed_blocks(key: str) -> None:
    """With hash prefixes, the hash must be there and be the right one."""
    assert BlockNames("", 16, hash_prefix=True).parse(key) is None


@given(st.booleans(), st.integers(0, BLOCKS_MAX - 1), st.integers(0, BLOCKS_MAX - 1))
def test_a_listing_can_begin_anywhere(hash_prefix: bool, block: int, other: int) -> None:
    """The key before a lead sorts before all blocks that lead with it or more, and after all others."""
    names = BlockNames("p/", BLOCKS_MAX, hash_prefix)
    lead = names.lead(names.key(block))
    key = names.key(other)
    assert (key > names.key_before(lead)) == (names.lead(key) >= lead)
    assert key < names.key_before(names.lead_max + 1)


def test_the_superblock_sorts_after_all_blocks() -> None:
    """No listing of blocks passes through our other objects."""
    for hash_prefix in (False, True):
        end = BlockNames("p/", BLOCKS_MAX, hash_prefix).key_before(1 << 32)
        assert end < "p/" + MOUNT_TOKEN_NAME < "p/" + SUPERBLOCK_NAME


@pytest.mark.parametrize(("key", "hash_prefix"), [("p/0000002a", False), ("p/d0629fa5-0000002a", True)])
def test_what_is_put_aside_is_known_again(key: str, hash_prefix: bool) -> None:
    """And is nobody else's: not a volume's in that folder, nor one of another prefix, or other names."""
    names = BlockNames("p/", BLOCKS_MAX, hash_prefix)
    kept = kept_key("p/", key, "20261121T193800Z")
    assert kept == f"p/damaged/{key[2:]}-20261121T193800Z"
    assert names.is_kept(kept)
    assert not BlockNames("p/", BLOCKS_MAX, not hash_prefix).is_kept(kept)
    assert not names.is_kept(kept_key("p/", "p/00000000-0000002a", "20261121T193800Z"))
    for other in (kept[2:], f"p/damaged/{key[2:]}", kept + "x", kept.replace("damaged", "kept"), key):
        assert not names.is_kept(other)
