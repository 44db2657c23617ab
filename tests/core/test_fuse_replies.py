"""FUSE replies put together."""

import struct

import pytest

from bucketry.core.fuse import protocol, replies
from bucketry.core.fuse.protocol import InitFlag
from bucketry.core.fuse.replies import Attributes, Entry
from bucketry.core.fuse.requests import Init
from bucketry.errors import Unsupported

EVERYTHING = (1 << 64) - 1


def _out(payload: bytes) -> tuple[int, ...]:
    return protocol.INIT_OUT.unpack(payload)


def test_an_error_is_negative_and_nothing_follows() -> None:
    """The kernel wants -errno."""
    assert replies.error(77, 5) == struct.pack("=IiQ", 16, -5, 77)


def test_what_matters_for_speed_is_negotiated() -> None:
    """Large requests, several at once, and nothing that was not asked for."""
    _, _, readahead, low, background, congestion, write, _, pages, _, high = _out(
        replies.negotiate(Init(7, 45, 131072, EVERYTHING))
    )
    flags = low | high << 32
    assert flags == replies.WANTED
    assert flags & InitFlag.ASYNC_DIO
    assert (readahead, background, congestion, write, pages) == (512 << 10, 64, 48, 1 << 20, 256)


def test_only_what_the_kernel_offers_is_taken() -> None:
    """Flags that an old kernel does not offer are not set, nor is the number of pages."""
    answer = _out(replies.negotiate(Init(7, 23, 131072, InitFlag.ASYNC_READ | InitFlag.BIG_WRITES)))
    assert answer[3] == InitFlag.ASYNC_READ | InitFlag.BIG_WRITES
    assert answer[8] == 0
    assert answer[10] == 0


def test_a_newer_major_version_is_answered_with_ours() -> None:
    """The kernel then asks again in it."""
    assert _out(replies.negotiate(Init(8, 1, 0, 0)))[:4] == (7, protocol.MINOR, 0, 0)


@pytest.mark.parametrize(("major", "minor"), [(6, 99), (7, 22), (0, 0)])
def test_kernels_before_3_15_are_refused(major: int, minor: int) -> None:
    """Their answer to INIT would be another."""
    with pytest.raises(Unsupported, match=rf"{major}\.{minor}"):
        replies.negotiate(Init(major, minor, 0, 0))


def test_attributes_count_blocks_of_512_bytes() -> None:
    """st_blocks is in units of 512 bytes whatever the block size, and rounded up."""
    attributes = Attributes(
        node=2, size_bytes=1 << 40, allocated_bytes=1025, block_size_bytes=131072, mode=0o100600,
        link_count=1, uid=1, gid=2, accessed_ns=3_000_000_004, modified_ns=5_000_000_006,
        changed_ns=7_000_000_008,
    )  # fmt: skip
    expected = (2, 1 << 40, 3, 3, 5, 7, 4, 6, 8, 0o100600, 1, 1, 2, 0, 131072, 0)
    assert protocol.ATTR.unpack(replies.attributes(attributes)[16:]) == expected
    assert protocol.ATTR.unpack(replies.entry(attributes, entry_valid_seconds=9)[40:]) == expected


def test_a_directory_comes_in_parts_that_fit() -> None:
    """Each part holds whole entries, and the offset of each leads to the next, whatever the size."""
    entries = [Entry(number, b"n" * number, 0o040755) for number in range(1, 20)]
    for size_max in (48, 64, 100, 4096):
        names: list[bytes] = []
        offset = 0
        while part := replies.directory(entries, offset=offset, size_max=size_max):
            assert len(part) <= size_max
            while part:
                node, offset, length, kind = protocol.DIRENT.unpack_from(part)
                names.append(part[24 : 24 + length])
                assert (node, kind) == (length, 4)
                part = part[24 + -(-length // 8) * 8 :]
        assert names == [entry.name for entry in entries]


def test_a_directory_ends() -> None:
    """Beyond its last entry there is nothing, however far."""
    entries = [Entry(1, b".", 0o040755)]
    assert replies.directory(entries, offset=1, size_max=4096) == b""
    assert replies.directory(entries, offset=2**64 - 1, size_max=4096) == b""
