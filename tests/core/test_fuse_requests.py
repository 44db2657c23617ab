"""FUSE requests taken apart."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.core.fuse import protocol, requests
from bucketry.core.fuse.protocol import InitFlag, SetattrFlag
from bucketry.errors import Invalid

PARSERS: list[Callable[[memoryview], object]] = [
    requests.parse_request,
    requests.parse_init,
    requests.parse_name,
    requests.parse_getattr,
    requests.parse_setattr,
    requests.parse_open,
    requests.parse_transfer,
    requests.parse_write,
    requests.parse_release,
    requests.parse_fsync,
    requests.parse_access,
    requests.parse_seek,
    requests.parse_fallocate,
]


def test_a_request_is_its_header_and_a_body() -> None:
    """The header comes off, the body stays in the buffer."""
    message = protocol.IN_HEADER.pack(43, 1, 99, 1, 0, 0, 0, 0, 0) + b"ab\0"
    request = requests.parse_request(memoryview(message))
    assert (request.opcode, request.unique, request.node) == (1, 99, 1)
    assert bytes(request.body) == b"ab\0"


@pytest.mark.parametrize("length", [0, 39, 42, 44, 2**32 - 1])
def test_a_length_that_is_not_the_messages_is_refused(length: int) -> None:
    """A header must say how long the message is."""
    message = protocol.IN_HEADER.pack(length, 1, 99, 1, 0, 0, 0, 0, 0) + b"ab\0"
    with pytest.raises(Invalid):
        requests.parse_request(memoryview(message))
    assert requests.find_unique(memoryview(message)) == 99


def test_the_unique_of_a_stump_is_found_if_it_is_there() -> None:
    """16 bytes are enough to answer to, 15 are not."""
    message = protocol.IN_HEADER.pack(40, 1, 2**63 + 5, 1, 0, 0, 0, 0, 0)
    assert requests.find_unique(memoryview(message[:16])) == 2**63 + 5
    assert requests.find_unique(memoryview(message[:15])) is None


@pytest.mark.parametrize("parse", PARSERS)
@given(body=st.binary(max_size=200))
def test_any_bytes_parse_or_are_invalid(parse: Callable[[memoryview], object], body: bytes) -> None:
    """Nothing but Invalid comes out of bytes from outside."""
    try:
        parse(memoryview(body))
    except Invalid:
        return


@pytest.mark.parametrize("parse", PARSERS)
def test_too_few_bytes_are_invalid(parse: Callable[[memoryview], object]) -> None:
    """No request has a body of three bytes without a zero."""
    with pytest.raises(Invalid):
        parse(memoryview(b"abc"))


def test_init_knows_the_high_flags_only_where_they_are_sent() -> None:
    """flags2 counts when INIT_EXT says that it is there."""
    low = struct.pack("=IIII", 7, 45, 65536, InitFlag.ASYNC_DIO | InitFlag.INIT_EXT)
    assert requests.parse_init(memoryview(low + struct.pack("=I44x", 16))).flags >> 32 == 16
    assert requests.parse_init(memoryview(low)).flags >> 32 == 0
    without = struct.pack("=IIIII", 7, 31, 65536, InitFlag.ASYNC_DIO, 16)
    assert requests.parse_init(memoryview(without)) == (7, 31, 65536, InitFlag.ASYNC_DIO)


def test_init_of_another_major_version_is_its_version() -> None:
    """The rest of the message may mean anything."""
    assert requests.parse_init(memoryview(struct.pack("=II", 8, 1))) == (8, 1, 0, 0)


@pytest.mark.parametrize("body", [b"", b"\0", b"name", b"a" * 256 + b"\0"])
def test_names_end_and_are_of_some_length(body: bytes) -> None:
    """A name is 1 to 255 bytes and a zero."""
    with pytest.raises(Invalid):
        requests.parse_name(memoryview(body))
    assert requests.parse_name(memoryview(b"a" * 255 + b"\0")) == b"a" * 255


def test_setattr_changes_what_is_valid() -> None:
    """Fields whose flag is not set are no change."""
    body = protocol.SETATTR_IN.pack(
        SetattrFlag.SIZE | SetattrFlag.MTIME | SetattrFlag.ATIME_NOW,
        0, 0, 4096, 0, 1, 2, 3, 4, 5, 6, 0o600, 0, 11, 12, 0,
    )  # fmt: skip
    assert requests.parse_setattr(memoryview(body)) == requests.Setattr(
        mode=None, uid=None, gid=None, size=4096, accessed_ns=requests.NOW, modified_ns=2_000_000_005
    )


@pytest.mark.parametrize("size", [0, 3, 5, 2**32 - 1])
def test_a_write_brings_as_many_bytes_as_it_says(size: int) -> None:
    """Data and size must agree."""
    body = protocol.TRANSFER.pack(1, 0, size, 0, 0, 0, 0) + b"data"
    with pytest.raises(Invalid):
        requests.parse_write(memoryview(body))


def test_a_handle_asks_only_if_it_says_so() -> None:
    """GETATTR's handle counts when its flag is set."""
    assert requests.parse_getattr(memoryview(struct.pack("=IIQ", 1, 0, 5))) == 5
    assert requests.parse_getattr(memoryview(struct.pack("=IIQ", 0, 0, 5))) is None
