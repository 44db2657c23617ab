"""Machines on virtual time, for tests of who may write to a volume."""

import asyncio
from datetime import UTC, datetime, timedelta

from bucketry.bucket.fenced import Fence, FencedBucket
from bucketry.bucket.interface import Bucket
from bucketry.core.lease import Holder, Timing
from bucketry.disk.holding import Place

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Host:
    """A machine, and one process of ours on it. ``boot`` changes when it starts again; ``ended`` are its
    processes that are no more. Its clock is ``ahead``."""

    def __init__(
        self,
        name: str,
        *,
        pid: int = 1,
        boot: int = 1,
        ahead: timedelta = timedelta(),
        ended: set[int] | None = None,
        boot_id: str | None = None,
    ) -> None:
        self._name = name
        self._pid = pid
        self._boot_id = boot_id or f"{name}, boot {boot}"
        self._ahead = ahead
        self.ended = set[int]() if ended is None else ended

    def this_process(self, token: int) -> Holder:
        return Holder(
            host=self._name, boot_id=self._boot_id, pid=self._pid, start_time=self._pid, token=token
        )

    def has_ended(self, holder: Holder) -> bool:
        return holder.boot_id == self._boot_id and holder.pid in self.ended

    def lives_here(self, holder: Holder) -> bool:
        return holder.boot_id == self._boot_id and holder.pid not in self.ended

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def utc_now(self) -> datetime:
        return START + timedelta(seconds=self.now()) + self._ahead


def place_of(
    bucket: Bucket, host: Host, *, control: Bucket | None = None, timing: Timing | None = None
) -> Place:
    """The volume ``vol/`` in a bucket, as a host has it."""
    fence = Fence()
    return Place(
        FencedBucket(bucket, fence), control or bucket, fence, "vol/", "bucket/vol/", host, timing or Timing()
    )
