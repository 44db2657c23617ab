"""What was asked of the server, and what S3 would charge for it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_GIB = 1 << 30
#: S3 counts in powers of ten.
_GB = 10**9

#: What S3 bills as "PUT, COPY, POST, LIST"; deletes and aborts are free; the rest is "GET and all others".
_PUT_KIND = frozenset(
    {
        "PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
        "ListObjects", "ListObjectsV2", "ListParts", "ListMultipartUploads", "ListBuckets", "CreateBucket",
    }
)  # fmt: skip
_FREE = frozenset({"DeleteObject", "DeleteObjects", "DeleteBucket", "AbortMultipartUpload"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars. The defaults are S3 Standard's list prices in us-east-1, first tier, as of 2025."""

    per_1000_puts: float = 0.005
    per_1000_gets: float = 0.0004
    #: To the internet; within a region it is 0.
    per_gb_out: float = 0.09
    per_gb_month: float = 0.023


S3_STANDARD = Prices()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Figures since the start or the last reset. Bytes are those of bodies, as they went over the wire;
    a request that failed with 5xx, or was never applied, is not billed."""

    requests: Mapping[str, int] = field(default_factory=dict)
    billed: Mapping[str, int] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    #: Now, not since the reset; parts of unfinished uploads included.
    stored_bytes: int = 0
    objects_count: int = 0

    @property
    def requests_count(self) -> int:
        return sum(self.requests.values())

    def dollars(self, prices: Prices = S3_STANDARD) -> "Dollars":
        """What S3 would charge for it."""
        puts = sum(count for name, count in self.billed.items() if name in _PUT_KIND)
        gets = sum(
            count for name, count in self.billed.items() if name not in _PUT_KIND and name not in _FREE
        )
        return Dollars(
            puts=puts * prices.per_1000_puts / 1000,
            gets=gets * prices.per_1000_gets / 1000,
            traffic=self.bytes_out / _GB * prices.per_gb_out,
            storage_per_month=self.stored_bytes / _GB * prices.per_gb_month,
        )

    def per_gib(self, user_bytes: int, prices: Prices = S3_STANDARD) -> "PerGib":
        """What each GiB cost of the ``user_bytes`` (above 0) that somebody wrote or read meanwhile."""
        gib = user_bytes / _GIB
        dollars = self.dollars(prices)
        return PerGib(
            requests={name: count / gib for name, count in self.requests.items()},
            bytes_in=self.bytes_in / gib,
            bytes_out=self.bytes_out / gib,
            request_dollars=(dollars.puts + dollars.gets) / gib,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dollars:
    """A bill. Storage is what a month of the present state costs, and not in ``total``."""

    puts: float
    gets: float
    traffic: float
    storage_per_month: float

    @property
    def total(self) -> float:
        return self.puts + self.gets + self.traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class PerGib:
    """Figures for each GiB of a user's data."""

    requests: Mapping[str, float]
    bytes_in: float
    bytes_out: float
    request_dollars: float


class Ledger:
    """Counts. A request that could not be understood is counted as ``Unknown``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again at nothing."""
        self._requests: Counter[str] = Counter()
        self._billed: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._faults: Counter[str] = Counter()
        self._bytes_in = 0
        self._bytes_out = 0

    def arrived(self, operation: str, size_bytes: int) -> None:
        self._requests[operation] += 1
        self._bytes_in += size_bytes

    def answered(self, operation: str, status: int) -> None:
        """An answer was decided; whether it arrives is another matter."""
        self._statuses[status] += 1
        if status < 500:
            self._billed[operation] += 1

    def sent(self, size_bytes: int) -> None:
        self._bytes_out += size_bytes

    def fault(self, name: str) -> None:
        self._faults[name] += 1

    def snapshot(self, *, stored_bytes: int, objects_count: int) -> Snapshot:
        return Snapshot(
            requests=dict(self._requests),
            billed=dict(self._billed),
            statuses={str(status): count for status, count in self._statuses.items()},
            faults=dict(self._faults),
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            stored_bytes=stored_bytes,
            objects_count=objects_count,
        )
