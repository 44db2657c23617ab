"""The journal over a directory in memory that loses power, lies about nothing, and fails when told to."""

import asyncio
import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from bucketry.cache.journal import JOURNAL_BYTES_MIN, Journal
from bucketry.cache.left_journal import JournalReport, RecoveredEpoch, discard, inspect, repair
from bucketry.codec.offload import inline
from bucketry.core.geometry import Extent
from bucketry.core.journal import (
    HEAD_BYTES,
    HEAD_COPY_BYTES,
    PAGE_BYTES,
    RECORD_BYTES,
    JournalIdentity,
    Kept,
    Passed,
)
from bucketry.errors import BucketryError, Closed, Corrupt, Invalid, Mismatch, Unavailable, Unsupported
from bucketry.layout.interface import Change, Write, Zero
from bucketry.testing.memory_files import MemoryFiles
from cache.journal_model import IDENTITY, MiniatureDisk, Moment, with_turns

OTHER_VOLUME = JournalIdentity("volume-b", "generation-1", IDENTITY.size_bytes, 4096)
LATER = JournalIdentity("volume-a", "generation-2", IDENTITY.size_bytes, 4096)


async def open_journal(
    files: MemoryFiles, identity: JournalIdentity = IDENTITY, size_bytes_max: int = JOURNAL_BYTES_MIN
) -> tuple[Journal, list[RecoveredEpoch]]:
    return await Journal.open(files, identity, size_bytes_max=size_bytes_max, offload=inline)


async def recover(files: MemoryFiles, identity: JournalIdentity = IDENTITY) -> dict[int, list[Change]]:
    """What would be replayed."""
    journal, recovered = await open_journal(files, identity)
    found = {epoch.number: [change async for change in epoch.changes()] for epoch in recovered}
    await journal.close(empty=False)
    return found


def data_of(epoch: int) -> list[Change]:
    return [Write(epoch * 10, bytes([epoch % 251]) * 100), Zero(Extent(epoch * 1000, 7))]


async def with_epochs(count: int, files: MemoryFiles | None = None) -> MemoryFiles:
    """A journal with some epochs, left as a crash leaves it."""
    files = files or MemoryFiles()
    journal, _ = await open_journal(files)
    for epoch in range(1, count + 1):
        assert await journal.append(epoch, data_of(epoch))
    return MemoryFiles.holding(files.contents())


def failing(operation: str, name: str, error: int) -> Callable[[str, str], None]:
    def fault(called: str, file: str) -> None:
        if called == operation and re.match(name, file):
            raise OSError(error, os.strerror(error))

    return fault


def figures(journal: Journal) -> Mapping[str, Any]:
    return journal.statistics()


# -- crashes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
async def test_after_a_power_cut_everything_promised_is_there(seed: int) -> None:
    """Whenever the power goes, also while the journal is being opened again, no cell is older than what a
    flush promised, newer than what was written, or a mixture; again and again over several lives."""
    random = Random(seed)
    files, moment = MemoryFiles(), Moment(0, {}, {}, {})
    for _ in range(3):
        disk = MiniatureDisk(files, random, moment)
        await disk.open()
        for _ in range(random.randint(1, 40)):
            await disk.step()
        count = len(files.history)
        for cut in [*random.sample(range(count + 1), min(count, 5)), count]:
            after = MiniatureDisk(files.at(cut).power_cut(random), random, moment_at(disk, cut))
            await after.open()
            await after.journal.close(empty=False)
        cut = random.randint(count // 2, count)
        await disk.journal.close(empty=False)
        files, moment = files.at(cut).power_cut(random), moment_at(disk, cut)


def moment_at(disk: MiniatureDisk, count: int) -> Moment:
    """What was true when the files had so many changes. What was promised just after does not count yet."""
    return [moment for moment in disk.moments if moment.count <= count][-1]


async def test_what_a_killed_process_left_is_made_durable_before_it_is_relied_on() -> None:
    """A commit that was written and not synced by a process that was killed survives a power cut after the
    next process has shown it to its user."""
    files = await with_epochs(1)
    journal, _ = await open_journal(files)
    assert await journal.append(2, data_of(2))
    await journal.close(empty=False)
    killed = files.at(
        1
        + max(
            at
            for at, (name, arguments) in enumerate(files.history)
            if name == "write" and str(arguments[0]).startswith("segment")
        )
    )
    assert [1] in [list(await recover(killed.power_cut(Random(seed)))) for seed in range(20)]
    assert list(await recover(killed)) == [1, 2]
    killed.is_closed = False
    for seed in range(20):
        assert list(await recover(killed.power_cut(Random(seed)))) == [1, 2]


async def test_replaying_is_exact() -> None:
    """Changes come back in their order, byte for byte, large ones in parts."""
    files = MemoryFiles()
    journal, recovered = await open_journal(files, size_bytes_max=1 << 20)
    assert recovered == []
    large = Random(1).randbytes(300_000)
    assert await journal.append(1, [Write(5, large), Zero(Extent(1, 1 << 40)), Write(6, b"x")])
    assert await journal.append(2, [])
    found = await recover(MemoryFiles.holding(files.contents()))
    *parts, zero, last = found[1]
    assert zero == Zero(Extent(1, 1 << 40))
    assert last == Write(6, b"x")
    at = 5
    for part in parts:
        assert isinstance(part, Write)
        assert part.data == large[at - 5 : at - 5 + len(part.data)]
        assert part.offset == at
        at += len(part.data)
    assert at == 300_005
    assert found[2] == []
    await journal.close(empty=False)


# -- damage --------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_no_damaged_byte_becomes_wrong_data() -> None:
    """Whichever byte of a journal is damaged: nothing happens, the last commit is cut off, or the journal is
    refused in one line."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    for epoch in range(1, 9):
        assert await journal.append(epoch, [*data_of(epoch), Write(9, bytes(3000 + epoch))])
    journal.note_drained(2)
    for epoch in range(9, 13):
        assert await journal.append(epoch, data_of(epoch))
    contents = files.contents()
    await journal.close(empty=False)
    whole = await recover(MemoryFiles.holding(contents))
    assert list(whole) == list(range(3, 13))
    cut = {number: changes for number, changes in whole.items() if number < 12}
    random = Random(0)
    outcomes = {"harmless": 0, "cut": 0, "refused": 0}
    refused_count = 0
    for name, content in contents.items():
        used = [at for at in range(len(content)) if content[at] or at % PAGE_BYTES < RECORD_BYTES]
        for at in [*used[:100], *random.sample(used, min(len(used), 100)), *range(0, len(content), 4099)]:
            damaged = bytearray(content)
            damaged[at] ^= random.randrange(1, 256)
            try:
                found = await recover(MemoryFiles.holding({**contents, name: bytes(damaged)}))
            except Corrupt as error:
                outcomes["refused"] += len(str(error).splitlines())
                refused_count += 1
                continue
            assert found in (whole, cut), f"byte {at} of {name}"
            outcomes["harmless" if found == whole else "cut"] += 1
    assert min(outcomes.values()) > 20, outcomes
    assert outcomes["refused"] == refused_count


async def damaged_in_the_middle() -> MemoryFiles:
    """Epochs 1 to 9, the fourth damaged."""
    contents = (await with_epochs(9)).contents()
    name = "segment-0001"
    content = bytearray(contents[name])
    content[2 * PAGE_BYTES + RECORD_BYTES] ^= 1
    return MemoryFiles.holding({**contents, name: bytes(content)})


async def test_a_damaged_middle_is_refused_until_it_is_repaired() -> None:
    """The refusal says in one line where and what would be lost; repairing cuts there, and says the same."""
    files = await damaged_in_the_middle()
    untouched = files.contents()
    with pytest.raises(Corrupt, match=r"segment-0001 at byte \d+ .* epochs 4 to 9, .*journal --repair"):
        await recover(files)
    files = MemoryFiles.holding(untouched)
    report = inspect(files)
    assert files.contents() == untouched
    assert isinstance(report, JournalReport)
    assert (report.first_epoch, report.last_epoch, report.epoch_count) == (1, 3, 3)
    assert (report.lost_first_epoch, report.lost_last_epoch) == (4, 9)
    assert repair(files) == report
    found = await recover(MemoryFiles.holding(files.contents()))
    assert found == {epoch: data_of(epoch) for epoch in (1, 2, 3)}
    after = inspect(MemoryFiles.holding(files.contents()))
    assert after is not None
    assert (after.damage, after.epoch_count) == ("", 3)


async def test_a_repaired_journal_goes_on() -> None:
    """After a repair the journal takes new epochs, and a crash finds the old and the new ones."""
    files = await damaged_in_the_middle()
    repair(files)
    journal, recovered = await open_journal(files)
    assert journal.next_epoch == 4
    for epoch in range(4, 12):
        assert await journal.append(epoch, data_of(epoch + 100))
    found = await recover(MemoryFiles.holding(files.contents()))
    assert found == {**{e: data_of(e) for e in (1, 2, 3)}, **{e: data_of(e + 100) for e in range(4, 12)}}
    assert [epoch.number for epoch in recovered] == [1, 2, 3]
    await journal.close(empty=False)


@pytest.mark.parametrize("name", ["segment-0000", "segment-0001", "segment-0002"])
@pytest.mark.parametrize("how", ["removed", "emptied", "truncated", "zeroed"])
async def test_what_happens_to_whole_files_is_noticed(name: str, how: str) -> None:
    """A segment that is gone or cut short is refused, the last one too, whatever is left of it."""
    contents = (await with_epochs(6)).contents()
    content = contents.pop(name)
    if how == "emptied":
        contents[name] = b""
    elif how == "truncated":
        contents[name] = content[: PAGE_BYTES + 50]
    elif how == "zeroed":
        contents[name] = bytes(len(content))
    with pytest.raises(Corrupt, match="is damaged in segment-000"):
        await recover(MemoryFiles.holding(contents))
    files = MemoryFiles.holding(contents)
    repair(files)
    kept = {"segment-0000": [], "segment-0001": [1, 2], "segment-0002": [1, 2, 3, 4]}
    assert list(await recover(files)) == kept[name]


async def test_a_foreign_file_is_refused_and_kept() -> None:
    """A file that has a segment's name and is none is named, and nothing is changed."""
    contents = (await with_epochs(3)).contents() | {"segment-0005": b"my diary"}
    files = MemoryFiles.holding(contents)
    with pytest.raises(Corrupt, match="segment-0005"):
        await recover(files)
    assert files.contents() == contents
    assert inspect_error(files) == "segment-0005"


def inspect_error(files: MemoryFiles) -> str:
    twin = MemoryFiles.holding(files.contents())
    with pytest.raises(Corrupt) as caught:
        inspect(twin)
    found = re.search(r"segment-\d+", str(caught.value))
    return found.group() if found else ""


@pytest.mark.parametrize(
    ("head", "error", "text"),
    [
        (None, Corrupt, "has lost its head"),
        (b"", Corrupt, "is damaged, or is none"),
        (b"#!/bin/sh", Corrupt, "is damaged, or is none"),
    ],
)
async def test_a_journal_without_its_head_is_refused(
    head: bytes | None, error: type[BucketryError], text: str
) -> None:
    """Without its head nothing of a journal can be read, and nothing is removed."""
    contents = (await with_epochs(3)).contents()
    del contents["head"]
    if head is not None:
        contents["head"] = head
    files = MemoryFiles.holding(contents)
    with pytest.raises(error, match=text):
        await recover(files)
    assert files.contents() == contents
    again = MemoryFiles.holding(contents)
    discard(again)
    assert again.contents() == {}
    assert inspect(again) is None


async def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of a newer program is named as such."""
    with monkeypatch.context() as patch:
        patch.setattr("bucketry.core.journal.HEAD_VERSION", 9)
        files = await with_epochs(2)
    with pytest.raises(Unsupported, match="the journal in memory has version 9"):
        await recover(files)


async def test_files_of_a_power_cut_during_creation_are_a_new_journal() -> None:
    """Whenever the power goes while a journal is made, the next attempt makes one."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    await journal.close(empty=False)
    for count in range(len(files.history) + 1):
        for seed in range(10):
            assert await recover(files.at(count).power_cut(Random(seed))) == {}


# -- whose journal it is -------------------------------------------------------------------------------------


async def test_the_journal_of_another_volume_is_not_replayed() -> None:
    """What belongs to another volume is refused, naming both, and stays."""
    files = await with_epochs(3)
    contents = files.contents()
    with pytest.raises(Mismatch, match=r"3 flushes \(300 B\) of volume-a .*, but this is volume-b"):
        await recover(files, OTHER_VOLUME)
    assert files.contents() == contents


async def test_a_journal_older_than_the_volume_is_not_replayed() -> None:
    """When somebody else has had the volume since, the journal is refused."""
    with pytest.raises(Mismatch, match=r"3 flushes .*somebody else has had the volume since.*--replay"):
        await recover(await with_epochs(3), LATER)


async def test_damage_in_the_journal_of_another_volume_is_told_after_whose_it_is() -> None:
    """Nobody is advised to repair what is not his."""
    with pytest.raises(Mismatch, match="and is damaged"):
        await recover(await damaged_in_the_middle(), OTHER_VOLUME)


async def test_an_empty_journal_is_taken_over() -> None:
    """A journal with nothing to replay is no reason to refuse another volume."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert await journal.append(1, data_of(1))
    await journal.close(empty=True)
    files = MemoryFiles.holding(files.contents())
    journal, recovered = await open_journal(files, OTHER_VOLUME)
    assert recovered == []
    assert journal.next_epoch == 2
    assert await journal.append(2, data_of(9))
    assert await recover(MemoryFiles.holding(files.contents()), OTHER_VOLUME) == {2: data_of(9)}
    await journal.close(empty=False)


async def test_while_the_generation_changes_both_are_accepted() -> None:
    """Between two labels a journal answers to either, afterwards to the last alone; nothing is lost by it."""
    files = await with_epochs(2)
    journal, _ = await open_journal(files)
    await journal.relabel(IDENTITY, LATER)
    between = files.contents()
    await journal.relabel(LATER)
    assert await journal.append(3, data_of(3))
    after = files.contents()
    await journal.close(empty=False)
    assert list(await recover(MemoryFiles.holding(between), IDENTITY)) == [1, 2]
    assert list(await recover(MemoryFiles.holding(between), LATER)) == [1, 2]
    assert list(await recover(MemoryFiles.holding(after), LATER)) == [1, 2, 3]
    with pytest.raises(Mismatch):
        await recover(MemoryFiles.holding(after), IDENTITY)


async def test_labels_change_in_one_step() -> None:
    """Whenever the power goes while a label changes, it is the old one or the new one, with all epochs."""
    files = await with_epochs(2)
    journal, _ = await open_journal(files)
    begin = len(files.history)
    await journal.relabel(LATER)
    for count in range(begin, len(files.history) + 1):
        for seed in range(10):
            found = []
            for identity in (IDENTITY, LATER):
                try:
                    found.append(list(await recover(files.at(count).power_cut(Random(seed)), identity)))
                except Mismatch:
                    pass
            assert found == [[1, 2]]
    await journal.close(empty=False)


# -- room ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_space_is_used_again() -> None:
    """Over thousands of epochs the files stay within their bound, nothing is refused while the bucket keeps
    up, and what is behind is found after a crash."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    random = Random(3)
    for epoch in range(1, 3001):
        assert await journal.append(epoch, [Write(epoch, random.randbytes(random.randint(1, 5000)))])
        if epoch % 3 == 0:
            journal.note_drained(epoch - random.randint(1, 4))
        assert sum(files.sizes().values()) <= JOURNAL_BYTES_MIN
        assert figures(journal)["used_bytes"] <= figures(journal)["size_bytes"] <= JOURNAL_BYTES_MIN
    journal.note_drained(2999)
    assert await journal.append(3001, [])
    assert figures(journal)["lag_epochs"] == 2
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [3000, 3001]
    await journal.close(empty=False)


async def fill(journal: Journal) -> int:
    """Append until one is refused; the number of that one."""
    epoch = journal.next_epoch
    while await journal.append(epoch, data_of(epoch)):
        epoch += 1
    return epoch


async def test_without_room_everything_is_refused_until_it_is_skipped() -> None:
    """From the first epoch without room on all are refused, also empty ones, until the last of them has been
    skipped; then older ones are not replayed, and later ones are taken."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    refused = await fill(journal)
    assert refused > 10
    assert not await journal.append(refused + 1, [])
    assert figures(journal)["state"] == "full"
    assert list(await recover(MemoryFiles.holding(files.contents()))) == list(range(1, refused))
    await journal.skip(refused)
    assert not await journal.append(refused + 2, data_of(1))
    await journal.skip(refused + 2)
    assert figures(journal)["state"] == "ready"
    assert await recover(MemoryFiles.holding(files.contents())) == {}
    assert await journal.append(refused + 3, data_of(2))
    found = await recover(MemoryFiles.holding(files.contents()))
    assert found == {refused + 3: data_of(2)}
    await journal.close(empty=False)


async def test_skipping_is_one_step() -> None:
    """Whenever the power goes while an epoch is skipped, all the older ones are there, or none."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    refused = await fill(journal)
    begin = len(files.history)
    await journal.skip(refused)
    outcomes = set()
    for count in range(begin, len(files.history) + 1):
        for seed in range(10):
            found = list(await recover(files.at(count).power_cut(Random(seed))))
            assert found in ([], list(range(1, refused)))
            outcomes.add((count == len(files.history), len(found)))
    assert outcomes == {(False, refused - 1), (False, 0), (True, 0)}
    await journal.close(empty=False)


async def test_a_full_journal_whose_epochs_are_in_the_bucket_has_room() -> None:
    """What was drained while nothing was appended is made use of before anything is refused."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    for _ in range(20):
        refused_at = figures(journal)["refused_epochs"]
        while figures(journal)["used_bytes"] < figures(journal)["size_bytes_max"] - HEAD_BYTES:
            assert await journal.append(journal.next_epoch, data_of(1))
        journal.note_drained(journal.next_epoch - 1)
        assert await journal.append(journal.next_epoch, [Write(0, bytes(8000))])
        assert figures(journal)["refused_epochs"] == refused_at == 0
        assert list(await recover(MemoryFiles.holding(files.contents()))) == [journal.next_epoch - 1]
    await journal.close(empty=False)


async def test_a_segment_is_used_again_only_when_it_is_known_not_to_be_needed() -> None:
    """Whatever of a commit reaches the disk that overwrites older epochs, the journal is never taken for
    damaged: that those were drained is durable before."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    while figures(journal)["used_bytes"] < figures(journal)["size_bytes_max"] - HEAD_BYTES:
        assert await journal.append(journal.next_epoch, [Write(0, bytes(3000)), *data_of(1)])
    last = journal.next_epoch - 1
    journal.note_drained(last - 2)
    begin = len(files.history)
    assert await journal.append(last + 1, [Write(0, b"y" * 30_000)])
    for count in range(begin, len(files.history) + 1):
        for seed in range(20):
            found = list(await recover(files.at(count).power_cut(Random(seed))))
            assert found[-1] >= last
            assert found == list(range(found[0], found[-1] + 1))
            assert found[0] <= last - 1
    await journal.close(empty=False)


async def test_what_a_torn_commit_told_is_kept() -> None:
    """That epochs were drained may be known from a commit that is cut off. It is written down before they are
    written over."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    for epoch in range(1, 7):
        assert await journal.append(epoch, [Write(0, bytes(7000))])
    before = files.contents()
    journal.note_drained(5)
    assert await journal.append(7, [Write(0, bytes(7000))])
    told = files.contents()["segment-0006"][:PAGE_BYTES]
    await journal.close(empty=False)
    torn = before | {"segment-0006": told.ljust(16 << 10, b"\0")}
    files = MemoryFiles.holding(torn)
    journal, recovered = await open_journal(files)
    assert [epoch.number for epoch in recovered] == [6]
    begin = len(files.history)
    assert await journal.append(7, [Write(0, b"y" * 30_000)])
    for count in range(begin, len(files.history) + 1):
        for seed in range(20):
            assert list(await recover(files.at(count).power_cut(Random(seed)))) in ([6], [6, 7])
    await journal.close(empty=False)


async def test_an_epoch_larger_than_the_journal_is_refused() -> None:
    """It goes to the bucket, and the next one into the journal."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert not await journal.append(1, [Write(0, bytes(JOURNAL_BYTES_MIN))])
    await journal.skip(1)
    assert await journal.append(2, data_of(2))
    assert await recover(MemoryFiles.holding(files.contents())) == {2: data_of(2)}
    await journal.close(empty=False)


@pytest.mark.parametrize("operation", ["allocate", "write", "sync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_no_room(operation: str, error: int) -> None:
    """A full disk refuses, whoever notices it first; nothing that was in the journal is lost, and when there
    is room again it goes on."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert await journal.append(1, data_of(1))
    files.fault = failing(operation, "segment", error)
    assert not await journal.append(2, [Write(0, bytes(9000))])
    assert 1 in await recover(MemoryFiles.holding(files.contents()))
    await journal.skip(2)
    assert await recover(MemoryFiles.holding(files.contents())) == {}
    files.fault = None
    assert await journal.append(3, data_of(3))
    assert await recover(MemoryFiles.holding(files.contents())) == {3: data_of(3)}
    await journal.close(empty=False)


async def test_a_disk_that_fills_up_loses_nothing() -> None:
    """However little space the disk has, what is acknowledged is there."""
    for capacity in range(HEAD_BYTES, JOURNAL_BYTES_MIN, 10_000):
        files = MemoryFiles(capacity_bytes=capacity)
        journal, _ = await open_journal(files)
        refused = await fill(journal)
        assert list(await recover(MemoryFiles.holding(files.contents()))) == list(range(1, refused))
        await journal.close(empty=False)


async def test_a_smaller_journal_takes_over_a_larger_one() -> None:
    """With another size the epochs are still there, and the files shrink when those are drained."""
    files = MemoryFiles()
    journal, _ = await open_journal(files, size_bytes_max=4 * JOURNAL_BYTES_MIN)
    for epoch in range(1, 60):
        assert await journal.append(epoch, [Write(0, bytes(4000))])
    journal.note_drained(50)
    await journal.close(empty=False)
    files = MemoryFiles.holding(files.contents())
    journal, recovered = await open_journal(files)
    epoch = recovered[-1].number
    for _ in range(40):
        journal.note_drained(epoch)
        epoch += 1
        assert await journal.append(epoch, [Write(0, bytes(4000))])
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [epoch]
    await journal.close(empty=True)
    files = MemoryFiles.holding(files.contents())
    journal, _ = await open_journal(files)
    assert sum(files.sizes().values()) <= JOURNAL_BYTES_MIN
    await journal.close(empty=False)


async def test_a_journal_of_no_size_is_refused() -> None:
    """A bound in which nothing fits is an error of whoever set it."""
    with pytest.raises(Invalid, match="at least"):
        await open_journal(MemoryFiles(), size_bytes_max=JOURNAL_BYTES_MIN - 1)


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["allocate", "write", "sync", "sync_directory"])
async def test_a_failing_disk_breaks_the_journal_for_good(operation: str) -> None:
    """After an error nothing is tried again, a sync above all: every append fails, and says so."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    files.fault = failing(operation, "segment|$", errno.EIO)
    with pytest.raises(Unavailable, match="the journal in memory: Input/output error"):
        await journal.append(1, data_of(1))
    files.fault = None
    count = len(files.history)
    with pytest.raises(Unavailable):
        await journal.append(2, data_of(2))
    assert len(files.history) == count
    assert (figures(journal)["state"], figures(journal)["last_error"] != "") == ("broken", True)
    await journal.close(empty=False)


async def test_a_broken_journal_can_still_be_forgotten() -> None:
    """When the head can be written, skipping makes the older epochs void; when not, that is an error each
    time, and the sync that failed is not repeated."""
    files = await with_epochs(2)
    journal, _ = await open_journal(files)
    files.fault = failing("sync", "segment", errno.EIO)
    with pytest.raises(Unavailable):
        await journal.append(3, data_of(3))
    await journal.skip(3)
    assert await recover(MemoryFiles.holding(files.contents())) == {}
    with pytest.raises(Unavailable):
        await journal.append(4, data_of(4))
    await journal.close(empty=False)

    files = await with_epochs(2)
    journal, _ = await open_journal(files)
    files.fault = failing("sync", "", errno.EIO)
    with pytest.raises(Unavailable):
        await journal.append(3, data_of(3))
    with pytest.raises(Unavailable):
        await journal.skip(3)
    files.fault = None
    with pytest.raises(Unavailable):
        await journal.skip(4)
    with pytest.raises(Unavailable):
        await journal.close(empty=True)
    assert files.is_closed


async def test_everybody_who_waits_hears_of_an_error() -> None:
    """When a commit fails, all appends in it fail, and those that came meanwhile."""
    files = MemoryFiles()
    journal, _ = await Journal.open(files, IDENTITY, size_bytes_max=JOURNAL_BYTES_MIN, offload=with_turns)
    files.fault = failing("write", "segment", errno.EIO)
    tasks = [asyncio.ensure_future(journal.append(epoch, data_of(epoch))) for epoch in range(1, 6)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    await journal.close(empty=False)


async def test_files_that_cannot_be_read_are_unavailable() -> None:
    """An error of the disk while a journal is opened is no damage, and the files are closed."""
    files = await with_epochs(2)
    files.fault = failing("read", "segment", errno.EIO)
    with pytest.raises(Unavailable, match="Input/output error"):
        await open_journal(files)
    assert files.is_closed


async def test_recovered_epochs_that_change_while_they_are_read_are_refused() -> None:
    """What was verified when the journal was opened is verified again when it is replayed."""
    files = await with_epochs(2)
    journal, recovered = await open_journal(files)
    files.write("segment-0000", PAGE_BYTES + RECORD_BYTES, [b"\xff"])
    with pytest.raises(Corrupt, match="changed while it was replayed"):
        _ = [change async for change in recovered[0].changes()]
    await journal.close(empty=False)


async def test_a_closed_journal_takes_nothing() -> None:
    """After close everything raises, and closing again is fine."""
    journal, _ = await open_journal(MemoryFiles())
    await journal.close(empty=True)
    await journal.close(empty=True)
    for call in (journal.append(1, []), journal.skip(1), journal.relabel(LATER)):
        with pytest.raises(Closed):
            await call
    assert figures(journal)["state"] == "closed"


# -- waiting together ----------------------------------------------------------------------------------------


async def test_appends_that_wait_together_share_a_sync() -> None:
    """While one commit is under way all others gather, and go with the next one, in their order."""
    files = MemoryFiles()
    journal, _ = await Journal.open(files, IDENTITY, size_bytes_max=1 << 20, offload=with_turns)
    assert await journal.append(1, data_of(1))
    before = sum(name == "sync" for name, _ in files.history)
    results = await asyncio.gather(*(journal.append(epoch, data_of(epoch)) for epoch in range(2, 17)))
    assert all(results)
    assert sum(name == "sync" for name, _ in files.history) - before <= 2
    assert list(await recover(MemoryFiles.holding(files.contents()))) == list(range(1, 17))
    assert figures(journal)["epochs"] == 16
    await journal.close(empty=False)


async def test_a_group_in_which_one_does_not_fit_is_taken_up_to_it() -> None:
    """Of appends that wait together those before the first without room succeed, the others are refused."""
    files = MemoryFiles()
    journal, _ = await Journal.open(files, IDENTITY, size_bytes_max=JOURNAL_BYTES_MIN, offload=with_turns)
    groups: list[list[Change]] = [data_of(1), data_of(2), [Write(0, bytes(JOURNAL_BYTES_MIN))], data_of(4)]
    results = await asyncio.gather(
        *(journal.append(epoch, changes) for epoch, changes in enumerate(groups, 1))
    )
    assert results == [True, True, False, False]
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [1, 2]
    await journal.close(empty=False)


async def test_whoever_stops_waiting_disturbs_nobody() -> None:
    """A cancelled append may be in the journal or not; a cancelled skip is finished; the others go on."""
    files = MemoryFiles()
    journal, _ = await Journal.open(files, IDENTITY, size_bytes_max=JOURNAL_BYTES_MIN, offload=with_turns)
    first = asyncio.ensure_future(journal.append(1, data_of(1)))
    second = asyncio.ensure_future(journal.append(2, data_of(2)))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert not await journal.append(3, [Write(0, bytes(JOURNAL_BYTES_MIN))])
    skip = asyncio.ensure_future(journal.skip(3))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    skip.cancel()
    assert (await asyncio.gather(skip, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    while figures(journal)["state"] == "full":
        await asyncio.sleep(0)
    assert await journal.append(4, data_of(4))
    assert await recover(MemoryFiles.holding(files.contents())) == {4: data_of(4)}
    await journal.close(empty=False)


async def test_an_epoch_without_changes_is_written_only_where_it_says_something() -> None:
    """With older epochs in the journal an empty one says that they are in the bucket; without, it is free."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    count = len(files.history)
    assert await journal.append(1, [])
    assert len(files.history) == count
    assert await journal.append(2, data_of(2))
    journal.note_drained(2)
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [2]
    assert await journal.append(3, [])
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [3]
    journal.note_drained(3)
    assert await journal.append(4, [])
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [4]
    await journal.close(empty=False)


async def test_what_is_drained_is_written_down_with_the_next_epoch() -> None:
    """An older epoch is not replayed once one is durable of which a part had gone to the bucket before."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert await journal.append(1, data_of(1))
    journal.note_drained(1)
    begin = len(files.history)
    assert await journal.append(2, data_of(2))
    for count in range(begin, len(files.history) + 1):
        for seed in range(20):
            found = list(await recover(files.at(count).power_cut(Random(seed))))
            assert found in ([1], [2], []), "never both: what 2 lacks would be as it was in 1"
            assert found == [2] or count < len(files.history)
    await journal.close(empty=False)


async def test_a_settled_journal_brings_nothing_back() -> None:
    """Until it is settled what was drained may be replayed; from then on it is not, whenever the power goes,
    and what was not drained still is."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert await journal.append(1, data_of(1))
    assert await journal.append(2, data_of(2))
    journal.note_drained(1)
    assert not journal.is_settled(Passed(1))
    begin = len(files.history)
    await journal.settle(Passed(1))
    assert journal.is_settled(Passed(1))
    assert not journal.is_settled(Passed(2))
    for count in range(begin, len(files.history) + 1):
        for seed in range(20):
            found = list(await recover(files.at(count).power_cut(Random(seed))))
            assert found == [2] or (found == [1, 2] and count < len(files.history))
    count = len(files.history)
    await journal.settle(Passed(1))
    assert len(files.history) == count, "it is settled already"
    journal.note_drained(2)
    await journal.settle(Passed(2))
    assert journal.is_settled(Passed(2))
    assert await recover(files.power_cut(Random(1))) == {}
    await journal.close(empty=False)


async def test_a_commit_settles_too() -> None:
    """What was noted before an epoch was appended needs no mark of its own."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert await journal.append(1, data_of(1))
    journal.note_drained(1)
    assert await journal.append(2, data_of(2))
    assert journal.is_settled(Passed(1))
    assert figures(journal)["marks"] == 0
    await journal.close(empty=False)


async def test_a_full_journal_is_settled_in_its_head() -> None:
    """Marks take no room from epochs for ever: where there is none left the head says it."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    refused = await fill(journal)
    for epoch in range(1, refused):
        journal.note_drained(epoch)
        await journal.settle(Passed(epoch))
        found = await recover(files.power_cut(Random(epoch)))
        assert list(found) == list(range(epoch + 1, refused))
    assert figures(journal)["marks"] == refused - 1
    await journal.close(empty=False)


async def test_a_journal_with_an_epoch_larger_than_all_its_segments_is_settled() -> None:
    """An epoch that fills every segment leaves no room for a mark at all."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    size = figures(journal)["size_bytes_max"]
    while not await journal.append(journal.next_epoch, [Write(0, bytes(size))]):
        await journal.skip(journal.next_epoch - 1)
        size -= 1000
    last = journal.next_epoch - 1
    journal.note_drained(last)
    for _ in range(3):
        await journal.settle(Passed(last))
    assert journal.is_settled(Passed(last))
    assert await recover(files.power_cut(Random(1))) == {}
    await journal.close(empty=False)


async def test_a_broken_journal_is_settled_if_the_disk_lets_it() -> None:
    """In the head, once the segments cannot be written; when that cannot be either, it is an error."""
    files = await with_epochs(2)
    journal, _ = await open_journal(files)
    files.fault = failing("sync", "segment", errno.EIO)
    journal.note_drained(1)
    await journal.settle(Passed(1))
    assert list(await recover(MemoryFiles.holding(files.contents()))) == [2]
    files.fault = failing("sync", "", errno.EIO)
    journal.note_drained(2)
    with pytest.raises(Unavailable):
        await journal.settle(Passed(2))
    assert not journal.is_settled(Passed(2))
    await journal.close(empty=False)
    with pytest.raises(Closed):
        await journal.settle(Passed(2))


async def test_what_is_kept_comes_back_and_nothing_beside_it() -> None:
    """Of epochs that were passed only what was kept is replayed, whenever the power goes; and nothing of it
    once it is in the bucket, though an older epoch is still needed for something else."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    blocks = [Kept(1, 0, 100), Kept(1, 100, 100)]
    first: list[Change] = [Write(0, b"a" * 300), Zero(Extent(0, 50)), Write(250, b"b" * 10)]
    assert await journal.append(1, first)
    both = Passed(1, frozenset(blocks))
    assert not journal.is_settled(both)
    begin = len(files.history)
    await journal.settle(both)
    assert journal.is_settled(both)
    of_both = {1: [Write(0, b"a" * 100), Write(100, b"a" * 100), Zero(Extent(0, 50))]}
    for count in range(begin, len(files.history) + 1):
        for seed in range(20):
            found = await recover(files.at(count).power_cut(Random(seed)))
            assert found == of_both or (found == {1: first} and count < len(files.history))
    # The first block reaches the bucket with newer bytes, and an epoch ends which has no need to tell them.
    assert await journal.append(2, [Write(100, b"c" * 100)])
    one = Passed(1, frozenset(blocks[1:]))
    assert not journal.is_settled(one)
    assert journal.brings_back(one)
    assert not journal.brings_back(both)
    await journal.settle(one)
    assert not journal.brings_back(one)
    left = {1: [Write(100, b"a" * 100)], 2: [Write(100, b"c" * 100)]}
    assert await recover(files.power_cut(Random(1))) == left
    # Numbers of epochs that the journal passed are used up, also those that it never had.
    await journal.settle(Passed(7, frozenset([Kept(2, 100, 100)])))
    await journal.close(empty=False)
    again, recovered = await open_journal(files.power_cut(Random(1)))
    assert again.next_epoch == 8
    assert [epoch.number for epoch in recovered] == [1, 2]
    # While they are replayed nothing else has to be said of them.
    assert again.is_settled(Passed(1, frozenset()))
    assert not again.brings_back(Passed(1, frozenset()))
    await again.close(empty=False)


async def test_too_much_is_kept() -> None:
    """It is an error, and no harm: the journal is used as before."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    assert await journal.append(1, data_of(1))
    kept = frozenset(Kept(1, block << 17, 1 << 17) for block in range(10_000))
    with pytest.raises(Unavailable, match="10000 blocks that cannot be read"):
        await journal.settle(Passed(1, kept))
    assert await journal.append(2, data_of(2))
    assert list(await recover(files.power_cut(Random(1)))) == [1, 2]
    await journal.close(empty=False)


async def test_statistics_say_what_the_bucket_lacks() -> None:
    """Epochs and bytes that are not in the bucket yet, commits with their latency, and the size of it all."""
    files = MemoryFiles()
    journal, _ = await open_journal(files)
    for epoch in range(1, 5):
        assert await journal.append(epoch, [Write(0, bytes(1000))])
    journal.note_drained(1)
    found = figures(journal)
    assert (found["lag_epochs"], found["lag_bytes"], found["oldest_epoch"]) == (3, 3000, 2)
    assert (found["epochs"], found["records"], found["commits"]) == (4, 8, 4)
    assert found["commit_latency"]["count"] == 4
    assert found["size_bytes"] == sum(files.sizes().values())
    files = MemoryFiles.holding(files.contents())
    await journal.close(empty=False)
    journal, _ = await open_journal(files)
    found = figures(journal)
    assert (found["lag_epochs"], found["lag_bytes"], found["oldest_epoch"]) == (4, 4000, 1)
    await journal.close(empty=False)


@pytest.mark.parametrize("offset", [0, HEAD_COPY_BYTES])
async def test_damage_to_the_head_brings_nothing_back(offset: int) -> None:
    """After a skip both copies of the head are new: damage to one does not revive older epochs."""
    files = await with_epochs(3)
    journal, _ = await open_journal(files)
    await journal.skip(4)
    files.write("head", offset + 40, [b"!"])
    assert await recover(MemoryFiles.holding(files.contents())) == {}
    await journal.close(empty=False)


async def test_a_head_of_several_sectors_is_replaced_in_one_step() -> None:
    """With names too long for one sector, a power cut leaves the old head or the new one."""
    old, new = (JournalIdentity("v" * 1500, f"{digit}" * 900, 1 << 20, 4096) for digit in (1, 2))
    files = MemoryFiles()
    journal, _ = await open_journal(files, old)
    assert await journal.append(1, data_of(1))
    begin = len(files.history)
    await journal.relabel(new)
    for count in range(begin, len(files.history) + 1):
        for seed in range(20):
            report = inspect(files.at(count).power_cut(Random(seed)))
            assert report is not None
            assert report.identities in ((old,), (new,))
            assert report.epoch_count == 1
    await journal.close(empty=False)


@pytest.mark.parametrize("offset", [0, HEAD_COPY_BYTES])
async def test_both_copies_of_the_head_are_kept_whole(offset: int) -> None:
    """A head of which one copy is damaged is healed before it is written again."""
    old, identity = (JournalIdentity("v" * 1500, f"{digit}" * 900, 1 << 20, 4096) for digit in (1, 2))
    files = MemoryFiles()
    journal, _ = await open_journal(files, old)
    assert await journal.append(1, data_of(1))
    await journal.relabel(old, identity)
    await journal.close(empty=False)
    contents = files.contents()
    head = bytearray(contents["head"])
    head[offset + 30] ^= 1
    files = MemoryFiles.holding({**contents, "head": bytes(head)})
    journal, _ = await open_journal(files, identity)
    for count in range(len(files.history) + 1):
        for seed in range(10):
            assert list(await recover(files.at(count).power_cut(Random(seed)), identity)) == [1]
    await journal.close(empty=False)


async def test_older_programs_can_go_on_with_an_emptied_journal() -> None:
    """The head has their version when nothing is to be replayed any more, and the new one before."""
    files = MemoryFiles()
    named = replace(IDENTITY, url="s3://bucket/volume/")
    journal, _ = await open_journal(files, named)
    assert await journal.append(1, data_of(1))
    assert files.contents()["head"][12:16] == b"\x02\0\0\0"
    await journal.close(empty=True)
    assert files.contents()["head"][12:16] == b"\x01\0\0\0"
    assert b"url" not in files.contents()["head"]
    assert await recover(MemoryFiles.holding(files.contents()), named) == {}
