"""``bucketry check``: everything that is stored of a disk, read and verified."""

from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.info import find_serving
from bucketry.cli.options import Connection, Volume, connection_options, stored_volume_options
from bucketry.cli.output import JsonEntries, say, say_json
from bucketry.cli.parameters import json_option
from bucketry.cli.progress import Update, is_shown, progress
from bucketry.cli.secrets import with_password
from bucketry.core.units import format_size
from bucketry.serve import event_loop
from bucketry.serve.control_client import ControlClient
from bucketry.serve.runtime import files_of
from bucketry.settings import BucketSettings, Secret, VolumeSettings

if TYPE_CHECKING:
    from bucketry.disk.check import CheckReport, CheckStep, Repair
    from bucketry.layout.findings import Finding


@click.command(
    cls=Command,
    examples=["bucketry check s3://bucket/disk", "bucketry check s3://bucket/disk --repair"],
    exits=[
        exits.OK,
        exits.FAILED,
        exits.USAGE,
        exits.NOT_FOUND,
        exits.DENIED,
        exits.BUSY,
        exits.UNFINISHED,
        exits.LOST,
        exits.INTERRUPTED,
    ],
)
@click.argument("where", metavar="URL|DIR")
@click.option(
    "--repair",
    is_flag=True,
    help="Put right what loses nothing: delete blocks of zeros, also beyond the end, write the size "
    "where it is missing or wrong.",
)
@click.option(
    "--zero-damaged",
    is_flag=True,
    help="With --repair: put damaged blocks aside, below damaged/, and make them zero, so that a filesystem "
    "can go on.",
)
@json_option
@stored_volume_options
@connection_options
def check(
    where: str, repair: bool, zero_damaged: bool, as_json: bool, volume: Volume, connection: Connection
) -> None:
    """Read and verify every stored block of the disk at URL.

    Tells of damage (exit code 1), of flaws that --repair puts right, and of what is good to know. Without
    --repair nothing is changed, and the disk may be attached meanwhile; with it the disk must not be. Damaged
    blocks of a disk that is attached are made zero with --repair --zero-damaged DIR.
    """
    if zero_damaged and not repair:
        raise click.UsageError("--zero-damaged goes with --repair")
    if "://" not in where and Path(where).is_dir():
        if not zero_damaged:
            raise click.UsageError(
                f"an attached disk is checked by its URL; of {where} damaged blocks can be made zero, with "
                "--repair --zero-damaged"
            )
        _zero_damaged(Path(where), as_json=as_json)
        return
    url = where
    bucket = connection.settings(url)

    def run(password: Secret | None) -> "CheckReport":
        from bucketry.disk.check import Repair

        wanted = Repair(zero_damaged=zero_damaged) if repair else None
        settings = volume.settings(password)
        return event_loop.run(_check(bucket, settings, wanted, as_json=as_json))

    report = with_password(volume, run)
    if report.damage_count:
        raise exits.Reported(f"{url}: {report.damage_count} damaged", exits.FAILED)


def _zero_damaged(directory: Path, *, as_json: bool) -> None:
    """Have the process that serves ``directory`` do it: nobody else may write."""
    with (
        closing(
            ControlClient(files_of(find_serving(directory).mount_point).socket, "zero_damaged")
        ) as client,
        progress("checking"),
    ):
        answer = client.poll(None)
    assert answer is not None, "without a time it waits"
    lines, left_count = answer["lines"], answer["left_count"]
    assert isinstance(lines, list)
    if as_json:
        say_json({name: answer[name] for name in ("zeroed_count", "left_count", "lines")})
    else:
        for line in lines:
            say(str(line))
        say(f"{directory}: {answer['zeroed_count'] or 'no'} damaged blocks zeroed, {left_count} left")
    if left_count:
        raise exits.Reported(f"{directory}: {left_count} damaged", exits.FAILED)


async def _check(
    bucket: BucketSettings, settings: VolumeSettings, repair: "Repair | None", *, as_json: bool
) -> "CheckReport":
    from bucketry.assemble import check_volume
    from bucketry.disk.check import CheckReport

    writer = _JsonWriter() if as_json else _LineWriter(is_repair=repair is not None)
    report = None
    with progress("checking") as update:
        steps = check_volume(bucket, settings, repair=repair, measure=is_shown())
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, CheckReport):
                    report = step
                else:
                    writer.tell(step)
                    _show_progress(step, update)
    assert report is not None, "the report comes last"
    writer.end(report)
    return report


def _show_progress(step: "CheckStep", update: Update) -> None:
    done, total = step.done, step.total
    if total is None:
        update(done.size_bytes, None, f"{done.blocks} blocks")
    else:
        # A volume in use may have grown meanwhile.
        update(
            done.size_bytes, max(done.size_bytes, total.size_bytes), f"{done.blocks}/{total.blocks} blocks"
        )


class _LineWriter:
    """For people: a line for everything that is found or done, as it comes."""

    def __init__(self, *, is_repair: bool) -> None:
        self._is_repair = is_repair

    def tell(self, step: "CheckStep") -> None:
        for finding in step.findings:
            remedy = finding.remedy
            advice = f"; {_ADVICE[remedy.name]}" if remedy is not None and not self._is_repair else ""
            say(f"{finding.severity.value}: {finding.message}{advice}")
        for action in step.actions:
            say(action.message)

    def end(self, report: "CheckReport") -> None:
        figures = report.figures
        checked = f"{figures['blocks']} blocks, {format_size(figures['bytes'])} read"
        found = [
            f"{count} {what}"
            for what, count in (
                ("damaged", report.damage_count),
                ("flaws", report.flaw_count),
                ("repaired", report.repaired_count),
            )
            if count
        ]
        say(f"{report.url}: {checked}: {', '.join(found) or 'all is well'}")


#: What --repair would do, by the name of the remedy.
_ADVICE = {
    "DELETE": "--repair deletes it",
    "REWRITE": "--repair writes it",
    "ZERO": "--repair --zero-damaged puts it aside and makes the block zero",
}


class _JsonWriter:
    """For programs."""

    def __init__(self) -> None:
        self._entries = JsonEntries()

    def tell(self, step: "CheckStep") -> None:
        for finding in step.findings:
            self._entries.add({"entry": "finding", **_finding_fields(finding)})
        for action in step.actions:
            fields = {"entry": "action", "done": action.done, "message": action.message}
            self._entries.add({**fields, "block": action.finding.block, "key": action.finding.key})

    def end(self, report: "CheckReport") -> None:
        fields = {
            "url": report.url,
            "kind": report.kind,
            "damage": report.damage_count,
            "flaws": report.flaw_count,
            "repaired": report.repaired_count,
            "figures": dict(report.figures),
        }
        self._entries.end({"report": fields})


def _finding_fields(finding: "Finding") -> dict[str, object]:
    return {
        "severity": finding.severity.value,
        "kind": finding.kind,
        "message": finding.message,
        "block": finding.block,
        "key": finding.key,
        "remedy": None if finding.remedy is None else finding.remedy.value,
    }
