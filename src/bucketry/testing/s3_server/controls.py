"""What a test can tell a running server, whether it runs in this process or in one of its own.

Each method is one command with arguments that JSON can hold; how it gets to the server is up to the class
below.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any, TypeAlias

from bucketry.testing.s3_server.child_settings import encode_credentials
from bucketry.testing.s3_server.exchange import Outage
from bucketry.testing.s3_server.faults import (
    NO_FAULTS,
    Fail,
    Fault,
    FaultRates,
    FlipBit,
    LoseAnswer,
    Reset,
    Rule,
    SlowBody,
    Stall,
    StallAt,
    Truncate,
)
from bucketry.testing.s3_server.ledger import Snapshot
from bucketry.testing.s3_server.line import NO_LINE, LineModel
from bucketry.testing.s3_server.signature import Credentials

#: Anything that JSON can hold.
Json: TypeAlias = Any

_FAULTS: Mapping[str, type[Fault]] = {
    kind.__name__: kind for kind in (Fail, LoseAnswer, Reset, Truncate, SlowBody, Stall, FlipBit)
}


class Controls(ABC):
    """Commands to a server. Each has taken effect when it returns; requests that are under way may still be
    as before."""

    @abstractmethod
    def command(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Send one command. Raises ValueError with the server's reason."""

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket, without a request; returns its name. Raises ValueError if there is one."""
        self.command("make_bucket", {"name": name})
        return name

    def clear(self) -> None:
        """Forget all buckets and objects."""
        self.command("clear", {})

    def plan(
        self,
        fault: Fault,
        *,
        operation: str | None = None,
        key: str | None = None,
        key_prefix: str = "",
        skip: int = 0,
        times: int | None = 1,
    ) -> None:
        """The next ``times`` requests that match, after the next ``skip`` of them, have this fault.

        ``operation`` is S3's name (``"PutObject"``), ``key`` a whole key; None matches all, ``times`` None is
        for ever. Raises ValueError for an operation that is not known.
        """
        rule = Rule(fault=fault, operation=operation, key=key, key_prefix=key_prefix, skip=skip, times=times)
        self.command("plan", encode_rule(rule))

    def set_fault_rates(self, rates: FaultRates = NO_FAULTS, *, seed: int = 0) -> None:
        """Faults by chance, repeatable by their seed."""
        self.command("set_fault_rates", {"rates": asdict(rates), "seed": seed})

    def clear_faults(self) -> None:
        """No planned faults and no rates any more."""
        self.command("clear_faults", {})

    def release_stalls(self) -> None:
        """Requests that stall now go on."""
        self.command("release_stalls", {})

    def begin_outage(self, kind: Outage = Outage.REFUSE) -> None:
        """The server is away. With REFUSE, connections are reset and new ones refused; with HANG, they are
        taken and never answered."""
        self.command("begin_outage", {"kind": kind.value})

    def end_outage(self) -> None:
        """The server is back, on the same port; connections that hung are reset."""
        self.command("end_outage", {})

    def set_line(self, line: LineModel = NO_LINE) -> None:
        """How long requests are on their way, and how many bytes pass."""
        self.command("set_line", asdict(line))

    def set_stale_lists(self, seconds: float = 0.0) -> None:
        """Listings do not show what changed in the last so many seconds; from now on."""
        self.command("set_stale_lists", {"seconds": seconds})

    def set_credentials(self, *credentials: Credentials) -> None:
        """From now on these keys are valid and no others; whoever signs with another one is told
        InvalidAccessKeyId."""
        self.command("set_credentials", {"credentials": encode_credentials(credentials)})

    def expire_credentials(self, access_id: str) -> None:
        """Whoever signs with this key is told ExpiredToken."""
        self.command("expire_credentials", {"access_id": access_id})

    def renew_credentials(self, access_id: str) -> None:
        """It is valid again."""
        self.command("renew_credentials", {"access_id": access_id})

    def snapshot(self) -> Snapshot:
        """The ledger's figures."""
        return Snapshot(**self.command("snapshot", {}))

    def reset_ledger(self) -> None:
        """Begin counting anew."""
        self.command("reset_ledger", {})


def encode_rule(rule: Rule) -> dict[str, Json]:
    """As JSON."""
    fields = asdict(rule)
    fault = {
        name: value.value if isinstance(value, Enum) else value for name, value in fields["fault"].items()
    }
    return {**fields, "fault": {"kind": type(rule.fault).__name__, **fault}}


def decode_rule(fields: Mapping[str, Json]) -> Rule:
    """Raises ValueError, TypeError or KeyError for what is none."""
    fault_fields = dict(fields["fault"])
    kind = _FAULTS[fault_fields.pop("kind")]
    if "at" in fault_fields:
        fault_fields["at"] = StallAt(fault_fields["at"])
    return Rule(**{**fields, "fault": kind(**fault_fields)})
