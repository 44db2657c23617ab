"""What a lease says, who may take it, and when its holder must stop."""

import json
from dataclasses import replace

import pytest

from bucketry.core.journal import Kept, Passed
from bucketry.core.lease import (
    RATE_MARGIN,
    SAFE_SECONDS,
    SIZE_MAX,
    Holder,
    Lease,
    State,
    Timing,
    Turn,
    Watch,
    decode,
    encode,
    is_worth_waiting,
    timing,
    unsettled,
)
from bucketry.core.pending_journal import PendingJournal, pending_fields
from bucketry.errors import Corrupt, Invalid, Unsupported

OTHER = Holder(host="two", boot_id="b2 pid:[1]", pid=20, start_time=2000, token=8)
JOURNAL = PendingJournal(
    tenure="fedcba9876543210" * 2,
    host="two",
    directory="/var/cache/disk",
    epoch=17,
    drained=15,
    pending_bytes=3 << 20,
    as_of="2026-11-21T19:40:00Z",
    token=8,
)
LEASE = Lease(epoch=3, holder=OTHER, taken="2026-11-21T19:38:00Z", renewed="2026-11-21T19:40:00Z")


@pytest.mark.parametrize(
    "lease",
    [
        LEASE,
        Lease(epoch=1, holder=None, taken=LEASE.taken, renewed=LEASE.renewed),
        replace(LEASE, tenure="0123456789abcdef" * 2),
        replace(LEASE, tenure="0123456789abcdef" * 2, journal=JOURNAL),
        replace(LEASE, journal=replace(JOURNAL, directory="/ä" * 2000)),
        replace(LEASE, unsettled_seconds=61.234),
        replace(LEASE, passed=Passed(7)),
        replace(LEASE, passed=Passed(7, frozenset({Kept(3, 0, 512), Kept(5, 1024, 512)}))),
    ],
)
def test_what_is_encoded_is_decoded(lease: Lease) -> None:
    """A lease survives its object."""
    assert decode(encode(lease)) == lease


def test_a_lease_with_a_journal_is_refused_by_older_programs() -> None:
    """They would take the volume over without it. All other leases have the version that they know."""
    assert json.loads(encode(LEASE))["version"] == 1
    assert json.loads(encode(replace(LEASE, journal=JOURNAL)))["version"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something"}, {"holder": 5}, {"holder": {}},
        {"epoch": -1}, {"epoch": True}, {"epoch": None},
        {"taken": "today"}, {"renewed": "2026-13-01T00:00:00Z"}, {"taken": "2026-11-21T19:38:00Z\n"},
        {"duration_seconds": 0}, {"duration_seconds": 1e9}, {"duration_seconds": "60"},
        {"tenure": 7}, {"tenure": "x"}, {"tenure": "0" * 33}, {"journal": 7}, {"journal": {}},
        {"journal": pending_fields(JOURNAL) | {"epoch": -1}},
        {"journal": pending_fields(JOURNAL) | {"host": "a\nb"}},
        {"journal": pending_fields(JOURNAL) | {"directory": "/" * 5000}},
        {"journal": pending_fields(JOURNAL) | {"tenure": ""}},
        {"unsettled_seconds": -1}, {"unsettled_seconds": 0}, {"unsettled_seconds": 1e9},
        {"unsettled_seconds": "9"},
        {"passed": 7}, {"passed": {}}, {"passed": {"epoch": -1, "kept": []}},
        {"passed": {"epoch": 1.5, "kept": []}}, {"passed": {"epoch": 7, "kept": [[1, 2]]}},
        {"passed": {"epoch": 7, "kept": [[1, 2, "x"]]}}, {"passed": {"epoch": 7, "kept": [[[], 1, 2]]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_lease_is_corrupt_and_never_free(change: dict[str, object]) -> None:
    """Whatever is wrong with it, it is not taken for nobody's."""
    fields = json.loads(encode(LEASE)) | change
    with pytest.raises(Corrupt):
        decode(json.dumps(fields).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"{" * 2000, b" " * (SIZE_MAX + 1)])
def test_what_is_no_lease_is_corrupt(body: bytes) -> None:
    """Nor is any other object."""
    with pytest.raises(Corrupt):
        decode(body)


@pytest.mark.slow
def test_a_lease_says_no_more_than_can_be_read_back() -> None:
    """However many blocks a journal keeps changes for: it is refused before it is stored."""
    kept = [Kept(10**6, 10**12 + block, 1 << 20) for block in range(3000)]
    sizes = []
    with pytest.raises(Invalid, match="blocks that cannot be read are too many"):
        for count in range(1000, 3000, 7):
            body = encode(replace(LEASE, passed=Passed(7, frozenset(kept[:count]))))
            assert decode(body).epoch == LEASE.epoch
            sizes.append(len(body))
    assert SIZE_MAX - 1000 < max(sizes) <= SIZE_MAX


def test_a_newer_lease_is_unsupported() -> None:
    """A lease of a later version is left to later programs."""
    with pytest.raises(Unsupported):
        decode(json.dumps(json.loads(encode(LEASE)) | {"version": 3}).encode())


@pytest.mark.parametrize(
    ("found", "has_stopped", "expected"),
    [
        (None, True, 1000.0),
        (replace(LEASE, holder=None), True, 1000.0),
        (LEASE, True, 1000.0),
        (LEASE, False, 1000.0 + RATE_MARGIN * 60),
        (replace(LEASE, duration_seconds=600.0), False, 1000.0 + RATE_MARGIN * 600),
        # Whoever was before him may need longer than he does.
        (replace(LEASE, unsettled_seconds=300.0), False, 990.0 + RATE_MARGIN * 300),
        (replace(LEASE, unsettled_seconds=300.0), True, 990.0 + RATE_MARGIN * 300),
        (replace(LEASE, holder=None, unsettled_seconds=300.0), True, 990.0 + RATE_MARGIN * 300),
        (replace(LEASE, unsettled_seconds=1.0), True, 1000.0),
    ],
)
def test_how_long_former_holders_may_write(found: Lease | None, has_stopped: bool, expected: float) -> None:
    """A holder that may be alive: as long as his lease lasts, from when it was taken; those before him: as
    long as his lease says, from when it was seen."""
    turn = Turn(lease=found, etag=None, seen_at=990.0, has_stopped=has_stopped)
    assert turn.settled_at(1000.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("is_this_host", "lives_here", "was_renewed_lately", "expected"),
    [
        (False, False, False, True),
        (False, False, True, False),
        (True, False, True, True),
        (True, True, True, False),
        (True, True, False, False),
    ],
)
def test_whose_end_is_waited_for(
    is_this_host: bool, lives_here: bool, was_renewed_lately: bool, expected: bool
) -> None:
    """That of a host which has not renewed for long, and of this one before it started again; not that of a
    process which can be seen to live."""
    found = is_worth_waiting(
        is_this_host=is_this_host, lives_here=lives_here, was_renewed_lately=was_renewed_lately
    )
    assert found is expected


@pytest.mark.parametrize(
    ("request_seconds", "duration_seconds", "expected"),
    [
        (30.0, None, (60.0, 30.0, 10.0, 30.0)),
        (5.0, None, (60.0, 30.0, 10.0, 5.0)),
        (300.0, None, (330.0, 30.0, 10.0, 300.0)),
        (30.0, 6.0, (6.0, 3.0, 1.0, 3.0)),
        (1.0, 6.0, (6.0, 3.0, 1.0, 1.0)),
    ],
)
def test_a_request_ends_within_the_lease(
    request_seconds: float, duration_seconds: float | None, expected: tuple[float, ...]
) -> None:
    """However long one may take, and however short the lease is made."""
    made = timing(request_seconds, duration_seconds)
    parts = (made.duration_seconds, made.safe_seconds, made.renew_seconds, made.request_seconds)
    assert parts == expected


def test_a_lease_that_would_last_longer_than_a_day_is_refused() -> None:
    """Nobody could take it from a host that died; and a request that outlives its lease is no request."""
    with pytest.raises(Invalid):
        timing(86400.0)
    with pytest.raises(Invalid):
        Timing(request_seconds=31.0)
    with pytest.raises(Invalid):
        Timing(renew_seconds=30.0)


def test_what_is_left_is_rounded_up() -> None:
    """And is never less than nothing, nor more than can be read back."""
    assert [unsettled(each) for each in (-1.0, 0.0, 0.0001, 61.5, 1e9)] == [0.0, 0.0, 0.001, 61.5, 172800.0]


def test_the_holder_stops_in_time_and_goes_on_when_it_has_renewed() -> None:
    """Held until SAFE_SECONDS after the beginning of the last renewal that succeeded; lost for good."""
    watch = Watch(100.0)
    assert watch.state(100.0 + SAFE_SECONDS - 0.1) is State.HELD
    assert watch.state(100.0 + SAFE_SECONDS) is State.OVERDUE
    watch.note_renewed(120.0)
    watch.note_renewed(110.0)
    assert watch.state(120.0 + SAFE_SECONDS - 0.1) is State.HELD
    assert watch.overdue_seconds(125.0) == 5.0
    watch.note_lost()
    watch.note_renewed(130.0)
    assert watch.state(130.0) is State.LOST


def test_it_names_who_has_it() -> None:
    """For messages: process, host and times."""
    assert "process 20 on two since 2026-11-21T19:38:00Z" in str(LEASE)
