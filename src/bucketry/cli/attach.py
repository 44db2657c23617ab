"""``bucketry attach`` and ``bucketry mount``: a disk served by a process of its own."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bucketry.bucket.location import parse_url
from bucketry.bucket.renewal import Shared
from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.options import (
    Connection,
    Face,
    Process,
    Volume,
    connection_options,
    face_options,
    process_options,
    volume_options,
)
from bucketry.cli.output import say
from bucketry.cli.parameters import directory_argument, url_argument
from bucketry.cli.reports import volume_report
from bucketry.cli.secrets import with_password
from bucketry.disk.interface import Device
from bucketry.errors import Invalid, WrongPassword
from bucketry.serve import event_loop, notices
from bucketry.serve.daemon import Announce, run_in_background
from bucketry.serve.logs import log_to_stderr, log_to_syslog, open_log_file
from bucketry.serve.loop_mount import MAKERS, LoopMountSettings, check_rights
from bucketry.serve.notify import notify
from bucketry.serve.runtime import Claim, check_mount_point, claim
from bucketry.serve.served_disk import Job, serve_disk
from bucketry.settings import BucketSettings, CacheSettings, FuseSettings, Secret, VolumeSettings

logger = logging.getLogger(__name__)

#: Whether the bucket can be reached is asked while somebody waits for ``umount``: not for the usual minute.
_PROBE_BUDGET_SECONDS = 10.0
#: What the rest of a start may take, when systemd is told that it takes longer: its own default limit.
_START_SECONDS = 90.0
_EXITS = [
    exits.OK,
    exits.FAILED,
    exits.USAGE,
    exits.NOT_FOUND,
    exits.DENIED,
    exits.BUSY,
    exits.UNFINISHED,
    exits.LOST,
    exits.INTERRUPTED,
]


@click.command(
    cls=Command,
    examples=["bucketry attach s3://bucket/disk /mnt/disk", "bucketry umount /mnt/disk"],
    exits=_EXITS,
)
@url_argument
@directory_argument
@process_options
@face_options
@volume_options
@connection_options
def attach(
    url: str, directory: Path, process: Process, face: Face, volume: Volume, connection: Connection
) -> None:
    """Show the disk at URL as the file DIR/file.

    Returns when the disk can be used; a process in the background serves it until bucketry umount DIR.
    DIR/stats holds figures about it.
    """
    _serve(url, directory, process, face.settings(), None, volume, connection)


@click.command(
    cls=Command,
    examples=[
        "bucketry mount s3://bucket/disk /mnt/data --mkfs ext4",
        "bucketry mount s3://bucket/disk /mnt/data -o noatime,discard",
    ],
    exits=_EXITS,
)
@url_argument
@directory_argument
@click.option("--mkfs", type=click.Choice(list(MAKERS)), help="Make this filesystem if the disk is new.")
@click.option("-o", "options", metavar="OPTIONS", help="Mount options, as for mount(8).")
@process_options
@volume_options
@connection_options
def mount(
    url: str,
    directory: Path,
    mkfs: str | None,
    options: str | None,
    process: Process,
    volume: Volume,
    connection: Connection,
) -> None:
    """Mount the filesystem on the disk at URL on DIR.

    The disk must be there; bucketry create makes one. Needs root, for the loop device. Returns when the
    filesystem is mounted; a process in the background serves the disk until bucketry umount DIR.
    """
    check_rights()
    loop = LoopMountSettings(
        mount_point=str(directory), mkfs=mkfs, options=options, read_only=process.read_only
    )
    _serve(url, directory, process, FuseSettings(), loop, volume, connection)


@dataclass(frozen=True, slots=True)
class _Start:
    """Everything that the serving process needs to begin."""

    job: Job
    bucket: BucketSettings
    volume: VolumeSettings
    cache: CacheSettings
    #: None: standard error. "syslog": there. Otherwise a file.
    log: str | None
    debug: bool

    def open_device(self) -> AbstractAsyncContextManager[Device]:
        # Imported only here: after the fork, since it brings the bucket client.
        from bucketry.assemble import open_disk

        return open_disk(self.bucket, self.volume, self.cache)

    async def describe(self) -> Mapping[str, object]:
        from bucketry.assemble import inspect_volume

        return volume_report(await inspect_volume(self._impatient_bucket(), self.volume))

    async def find_damaged(self) -> Sequence[int]:
        """The numbers of the blocks that are damaged in the bucket; reads everything that is stored."""
        from bucketry.assemble import check_volume
        from bucketry.disk.check import CheckReport
        from bucketry.layout.findings import Remedy

        found: list[int] = []
        async with aclosing(check_volume(self.bucket, replace(self.volume, read_only=True))) as steps:
            async for step in steps:
                if not isinstance(step, CheckReport):
                    found += [
                        finding.block
                        for finding in step.findings
                        if finding.remedy is Remedy.ZERO and finding.block is not None
                    ]
        return found

    async def probe(self) -> None:
        """Raises when the bucket cannot be reached now."""
        from bucketry.assemble import find_holding

        await find_holding(self._impatient_bucket())

    def reread(self) -> int:
        """Read credentials and configuration again; how much of them has changed."""
        assert isinstance(self.bucket.shared, Shared)
        return self.bucket.shared.reread()

    def _impatient_bucket(self) -> BucketSettings:
        return replace(self.bucket, retry=replace(self.bucket.retry, budget_seconds=_PROBE_BUDGET_SECONDS))

    def serve(self, taken: Claim, ready: Callable[[], None]) -> None:
        """Serve the disk until it is stopped. Raises what serve_disk raises."""
        if self.log == "syslog":
            log_to_syslog(debug=self.debug)
        else:
            log_to_stderr(debug=self.debug)
        event_loop.run(
            serve_disk(
                self.job,
                taken,
                self.open_device,
                self.describe,
                self.probe,
                self.reread,
                self.find_damaged,
                ready,
            )
        )


def _check_outside(mount_point: str, what: str, path: Path | None) -> None:
    """Raises Invalid when ``path`` is below the mount point: the mount would hide what the disk needs."""
    if path is not None and path.resolve().is_relative_to(Path(mount_point).resolve()):
        raise Invalid(f"{what} {path} is below {mount_point}, which the mount hides: take another place")


def _serve(
    url: str,
    directory: Path,
    process: Process,
    fuse: FuseSettings,
    loop: LoopMountSettings | None,
    volume: Volume,
    connection: Connection,
) -> None:
    bucket = connection.settings(url)
    bucket_directory = parse_url(url).directory
    mount_point = check_mount_point(directory)
    _check_outside(mount_point, "URL", bucket_directory)
    _check_outside(mount_point, "--cache-dir", process.cache().cache_dir)
    _check_outside(mount_point, "--log", None if process.log in (None, "syslog") else Path(str(process.log)))
    debug = bool(click.get_current_context().obj)

    def start(password: Secret | None) -> None:
        taken = claim(mount_point)
        try:
            log = process.log
            if log is None and not process.foreground:
                log = str(taken.files.log)
            elif log is not None and log != "syslog":
                log = str(Path(log).absolute())
            job = Job(
                url=url,
                mount_point=mount_point,
                fuse=replace(fuse, source=url),
                loop=None if loop is None else replace(loop, mount_point=mount_point),
                log=log or "standard error",
            )
            begin = _Start(
                job,
                replace(bucket, shared=Shared()),
                volume.settings(
                    password,
                    read_only=process.read_only,
                    force=process.force,
                    old_host_is_dead=process.old_host_is_dead,
                    wait_seconds=process.wait,
                ),
                process.cache(),
                log,
                debug,
            )
            if process.foreground:
                _serve_here(begin, taken)
            else:
                _serve_in_background(begin, taken, default_log=process.log is None)
        except BaseException:
            taken.forget()
            raise

    with_password(volume, start)


def _serve_here(begin: _Start, taken: Claim) -> None:
    if begin.log not in (None, "syslog"):
        assert begin.log is not None
        output = open_log_file(Path(begin.log))
        os.dup2(output, 2)
        os.close(output)
    notices.tell(_notify_waiting)
    begin.serve(taken, lambda: notify("READY=1"))
    taken.forget()


def _notify_waiting(line: str, seconds: float) -> None:
    """Tell systemd what is waited for, and that the start takes longer by so much."""
    extension = f"\nEXTEND_TIMEOUT_USEC={int((seconds + _START_SECONDS) * 1e6)}" if seconds else ""
    notify(f"STATUS={line}{extension}")


def _serve_in_background(begin: _Start, taken: Claim, *, default_log: bool) -> None:
    """Start the process that serves, and say where things are; raise what kept it from starting."""
    output = None
    if begin.log is not None and begin.log != "syslog":
        output = open_log_file(Path(begin.log), rotate=default_log)

    def body(announce: Announce) -> int:
        notices.tell(lambda line, _: announce({"notice": line}))
        try:
            begin.serve(taken, lambda: announce({"ready": True}))
        except BaseException as caught:
            error = exits.unwrap(caught)
            code = exits.exit_code(error)
            logger.critical("%s", exits.one_line(error), exc_info=error)
            announce(
                {
                    "ready": False,
                    "password": isinstance(error, WrongPassword),
                    "message": exits.one_line(error),
                    "exit_code": code,
                }
            )
            return code
        finally:
            taken.forget()
            logging.shutdown()
        return exits.OK

    report = run_in_background(body, output=output, say=lambda line: say(f"bucketry: {line}", err=True))
    if output is not None:
        os.close(output)
    if report is None:
        raise exits.Reported(
            f"the process that was to serve {begin.job.url} died; see {begin.job.log}", exits.FAILED
        )
    if not report["ready"]:
        message, code = str(report["message"]), int(str(report["exit_code"]))
        raise WrongPassword(message) if report["password"] else exits.Reported(message, code)
    taken.close()
    job = begin.job
    shown = f"{job.mount_point}/{job.fuse.file_name}" if job.loop is None else job.mount_point
    say(f"{job.url} is on {shown}; log: {job.log}")
