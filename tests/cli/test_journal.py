"""``bucketry journal`` over journals of real disks."""

import io
import json
import re
from pathlib import Path

import pytest

from bucketry.assemble import create_volume, open_disk
from bucketry.cli.main import run_command
from bucketry.errors import Mismatch
from bucketry.serve import event_loop
from bucketry.settings import BucketSettings, CacheSettings, VolumeFormat, VolumeSettings

BLOCK = 4096


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache directory with a journal of three epochs, copied while its disk was in use."""
    bucket = BucketSettings(url=f"file://{tmp_path}/bucket")
    directory = tmp_path / "cache"
    settings = CacheSettings(cache_dir=directory, durability="journal", write_delay_seconds=3600.0)

    async def use() -> None:
        await create_volume(bucket, VolumeFormat(size_bytes=64 * BLOCK, block_size_bytes=BLOCK))
        async with open_disk(bucket, VolumeSettings(), settings) as disk:
            for n in range(3):
                await disk.write(n * BLOCK, bytes([n + 1]) * BLOCK)
                await disk.flush()
            (tmp_path / "left" / "journal").mkdir(parents=True, mode=0o700)
            for file in (directory / "journal").iterdir():
                (tmp_path / "left" / "journal" / file.name).write_bytes(file.read_bytes())

    event_loop.run(use())
    return tmp_path / "left"


def test_it_tells_what_is_to_be_replayed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose it is, how much, in how many epochs; nothing is changed by looking."""
    before = {file.name: file.read_bytes() for file in (cache / "journal").iterdir() if file.name != "lock"}
    assert run_command(["journal", str(cache)]) == 0
    said = capsys.readouterr().out
    assert f"volume: file://{cache.parent}/bucket/ (256 KiB)" in said
    assert "to be replayed: 3 flushes, 12 KiB" in said
    assert before == {
        file.name: file.read_bytes() for file in (cache / "journal").iterdir() if file.name != "lock"
    }


def test_damage_in_the_middle_is_told_and_cut_when_wanted(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --repair: code 1, and what a repair would lose. With it, and a yes, the rest can be
    replayed."""
    segment = next(file for file in (cache / "journal").iterdir() if file.name.startswith("segment"))
    body = bytearray(segment.read_bytes())
    second = body.index(bytes([2]) * 100)
    body[second] ^= 0xFF
    segment.write_bytes(body)
    assert run_command(["journal", str(cache)]) == 1
    said = capsys.readouterr()
    assert "damage:" in said.out
    assert "--repair" in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run_command(["journal", str(cache), "--repair"]) == 1
    assert segment.read_bytes() == body
    assert run_command(["journal", str(cache), "--repair", "--force"]) == 0
    capsys.readouterr()
    assert run_command(["journal", str(cache)]) == 0
    assert "1 flushes" in capsys.readouterr().out


def test_a_journal_can_be_discarded(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --discard and a yes nothing of it is left."""
    assert run_command(["journal", str(cache), "--discard", "--force"]) == 0
    assert "discarded" in capsys.readouterr().out
    assert run_command(["journal", str(cache)]) == 3


def test_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without a journal is code 3 and one line."""
    assert run_command(["journal", str(tmp_path)]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_flushes_are_listed_with_their_times(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Number, time, offset and length of each; the same for programs."""
    assert run_command(["journal", str(cache), "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"flush 1, \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z, 1 changes", said[0])
    assert said[1] == "  offset 0: 4096 bytes"
    assert run_command(["journal", str(cache), "--list", "--json"]) == 0
    flushes = json.loads(capsys.readouterr().out)["flushes"]
    assert [each["number"] for each in flushes] == [1, 2, 3]
    assert flushes[2]["changes"] == [{"offset": 2 * BLOCK, "length": BLOCK, "zero": False}]


def test_what_it_holds_can_be_saved(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--export writes an image of the disk's size with what the journal has in its place, and overwrites only
    when told."""
    image = cache.parent / "image"
    assert run_command(["journal", str(cache), "--export", str(image)]) == 0
    assert image.read_bytes() == b"".join(bytes([n + 1]) * BLOCK for n in range(3)) + bytes(61 * BLOCK)
    assert run_command(["journal", str(cache), "--export", str(image)]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.logs("replayed 12 KiB")
def test_a_refused_journal_can_be_replayed_knowingly(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has had the volume since: the attach refuses and names this command, which asks, and then
    brings everything in."""
    url = f"file://{cache.parent}/bucket"
    bucket = BucketSettings(url=url)

    async def change() -> None:
        async with open_disk(bucket, VolumeSettings(), CacheSettings()) as disk:
            await disk.write(0, b"later" * 1000)

    async def attach() -> None:
        settings = CacheSettings(cache_dir=cache, durability="journal")
        async with open_disk(bucket, VolumeSettings(), settings):
            pass

    async def content() -> bytes:
        async with open_disk(bucket, VolumeSettings(read_only=True), CacheSettings()) as disk:
            return bytes(await disk.read(0, 3 * BLOCK))

    event_loop.run(change())
    with pytest.raises(
        Mismatch, match=r"somebody else has had the volume since.*bucketry journal .*--replay"
    ):
        event_loop.run(attach())
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run_command(["journal", str(cache), "--replay", url]) == 1
    assert event_loop.run(content())[:5] == b"later"
    assert run_command(["journal", str(cache), "--replay", url, "--force"]) == 0
    assert event_loop.run(content()) == b"".join(bytes([n + 1]) * BLOCK for n in range(3))
    assert "replayed: everything is in" in capsys.readouterr().out
    event_loop.run(attach())
