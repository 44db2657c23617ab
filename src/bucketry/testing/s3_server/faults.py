"""What can go wrong, as data, and which request it happens to: planned one by one, or drawn from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from random import Random
from typing import TypeAlias

from bucketry.testing.s3_server.errors import CODES
from bucketry.testing.s3_server.routing import OPERATIONS


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is not from 0 to 1")


@dataclass(frozen=True, slots=True)
class Fail:
    """The answer is S3's error ``code`` (a key of ``errors.CODES``); the request is not applied, or it is,
    and the server says otherwise. ``late``: the status is 200 all the same, as S3's is when it finds out
    while it completes an upload in parts."""

    code: str = "InternalError"
    retry_after_seconds: int | None = None
    applied: bool = False
    late: bool = False

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"S3 has no error {self.code!r}")


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The request is applied; instead of an answer the connection ends."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset: before the request is applied (None), or after this share (0 to 1) of the
    answer's body."""

    after: float | None = None

    def __post_init__(self) -> None:
        if self.after is not None:
            _check_share("after", self.after)


@dataclass(frozen=True, slots=True)
class Truncate:
    """The connection ends in good order after this share (0 to 1) of the answer's body, though all of it was
    announced."""

    after: float = 0.5

    def __post_init__(self) -> None:
        _check_share("after", self.after)


@dataclass(frozen=True, slots=True)
class SlowBody:
    """The answer's body comes at this rate."""

    bytes_per_second: float

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0:
            raise ValueError(f"bytes_per_second {self.bytes_per_second} is not above 0")


class StallAt(Enum):
    """Where a request stops: before it is applied, before its answer, or after half of its answer's body."""

    REQUEST = "request"
    ANSWER = "answer"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing happens for so long, or until stalls are released (None: only then); then it goes on."""

    seconds: float | None = None
    at: StallAt = StallAt.ANSWER

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"seconds {self.seconds} is not 0 or more")


@dataclass(frozen=True, slots=True)
class FlipBit:
    """One bit of the answer's body is wrong. What is stored stays right."""


Fault: TypeAlias = Fail | LoseAnswer | Reset | Truncate | SlowBody | Stall | FlipBit


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """How often faults come by chance, each from 0 to 1: of all requests; damaged bodies of GetObject only,
    conflicts of conditional writes only."""

    fail: float = 0.0
    fail_applied: float = 0.0
    slow_down: float = 0.0
    lose_answer: float = 0.0
    reset: float = 0.0
    stall: float = 0.0
    conflict: float = 0.0
    truncate: float = 0.0
    flip_bit: float = 0.0
    slow_body: float = 0.0
    #: What a stall, a slow body and a SlowDown are like.
    stall_seconds: float = 1.0
    slow_body_bytes_per_second: float = 65536.0
    retry_after_seconds: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if not entry.name.endswith(("_seconds", "_per_second")):
                _check_share(entry.name, getattr(self, entry.name))


NO_FAULTS = FaultRates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The next ``times`` requests that match, after the next ``skip`` of them, have this fault. None matches
    all; ``times`` None means for ever."""

    fault: Fault
    operation: str | None = None
    key: str | None = None
    key_prefix: str = ""
    skip: int = 0
    times: int | None = 1

    def __post_init__(self) -> None:
        if self.operation is not None and self.operation not in OPERATIONS:
            raise ValueError(f"S3 has no operation {self.operation!r} here")
        if self.skip < 0 or (self.times is not None and self.times < 0):
            raise ValueError("skip and times are not below 0")

    def matches(self, operation: str, key: str) -> bool:
        return (
            self.operation in (None, operation)
            and self.key in (None, key)
            and key.startswith(self.key_prefix)
        )


@dataclass(slots=True)
class _Standing:
    rule: Rule
    seen_count: int = 0

    def is_used_up(self) -> bool:
        rule = self.rule
        return rule.times is not None and self.seen_count >= rule.skip + rule.times


class FaultPlan:
    """Decides the faults of each request. Requests draw in the order in which they arrive, each as often as
    every other: the same requests in the same order have the same faults."""

    def __init__(self) -> None:
        self._rules: list[_Standing] = []
        self._rates = NO_FAULTS
        self.random = Random(0)  # noqa: S311 - to be repeated, not to be secret

    @property
    def is_empty(self) -> bool:
        """No request has a fault."""
        return not self._rules and self._rates == NO_FAULTS

    def add(self, rule: Rule) -> None:
        self._rules.append(_Standing(rule))

    def set_rates(self, rates: FaultRates, seed: int) -> None:
        self._rates = rates
        self.random.seed(seed)

    def clear(self) -> None:
        """No faults any more."""
        self._rules.clear()
        self._rates = NO_FAULTS

    def decide(self, operation: str, key: str, *, is_conditional_write: bool) -> list[Fault]:
        """The faults of one request: at most one that was planned, that of the earliest rule, and what chance
        adds to it."""
        return [
            *self._planned(operation, key),
            *self._drawn(operation, is_conditional_write=is_conditional_write),
        ]

    def _planned(self, operation: str, key: str) -> list[Fault]:
        found: list[Fault] = []
        for standing in self._rules:
            rule = standing.rule
            if not rule.matches(operation, key):
                continue
            if standing.seen_count < rule.skip:
                standing.seen_count += 1
            elif not found:
                standing.seen_count += 1
                found.append(rule.fault)
        self._rules = [standing for standing in self._rules if not standing.is_used_up()]
        return found

    def _drawn(self, operation: str, *, is_conditional_write: bool) -> Iterator[Fault]:
        rates = self._rates
        if rates == NO_FAULTS:
            return
        # All are drawn whether they apply or not, so that one rate does not change what another one hits.
        draws = {
            name: self.random.random() < getattr(rates, name)
            for name in (
                "fail", "fail_applied", "slow_down", "lose_answer", "reset", "stall", "conflict", "truncate",
                "flip_bit", "slow_body",
            )
        }  # fmt: skip
        if draws["stall"]:
            yield Stall(rates.stall_seconds, StallAt.REQUEST)
        if draws["reset"]:
            yield Reset()
        if draws["fail"]:
            yield Fail("InternalError")
        if draws["slow_down"]:
            yield Fail("SlowDown", rates.retry_after_seconds)
        if draws["conflict"] and is_conditional_write:
            yield Fail("ConditionalRequestConflict")
        if draws["fail_applied"]:
            yield Fail("InternalError", applied=True)
        if draws["lose_answer"]:
            yield LoseAnswer()
        if operation == "GetObject":
            if draws["truncate"]:
                yield Truncate()
            if draws["flip_bit"]:
                yield FlipBit()
            if draws["slow_body"]:
                yield SlowBody(rates.slow_body_bytes_per_second)
