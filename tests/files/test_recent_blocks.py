"""Blocks in memory, for want of a disk."""

from bucketry.files.recent_blocks import RecentBlocks


def test_the_last_ones_stay() -> None:
    """No more bytes than asked for are held; what was read lately stays longest."""
    recent, owner = RecentBlocks(10), object()
    for block in range(5):
        recent.put(owner, block, b"1234")
        assert recent.get(owner, 0) == b"1234"
    assert [block for block in range(5) if recent.get(owner, block)] == [0, 4]
    assert len(recent) == 2


def test_a_block_that_is_larger_than_all() -> None:
    """What does not fit at all is not held, nor counted."""
    recent, owner = RecentBlocks(10), object()
    recent.put(owner, 0, b"x" * 11)
    assert recent.get(owner, 0) is None
    recent.put(owner, 1, b"x" * 10)
    assert recent.get(owner, 1) == b"x" * 10


def test_a_block_that_comes_again() -> None:
    """The newest content counts, once."""
    recent, owner = RecentBlocks(10), object()
    for content in (b"12345", b"abcde", b"xyz"):
        recent.put(owner, 0, content)
    recent.put(owner, 1, b"1234567")
    assert (recent.get(owner, 0), recent.get(owner, 1)) == (b"xyz", b"1234567")


def test_owners() -> None:
    """Owners are told apart, and forgotten one by one."""
    recent, one, other = RecentBlocks(100), object(), object()
    recent.put(one, 0, b"one")
    recent.put(other, 0, b"other")
    recent.forget(one)
    assert (recent.get(one, 0), recent.get(other, 0)) == (None, b"other")
