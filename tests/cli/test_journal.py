"""``bucketry journal`` over journals of real disks."""

import io
from pathlib import Path

import pytest

from bucketry.assemble import create_volume, open_disk
from bucketry.cli.main import run_command
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
    assert "of: volume" in said
    assert "in 3 epochs" in said
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
    assert "in 1 epochs" in capsys.readouterr().out


def test_a_journal_can_be_discarded(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --discard and a yes nothing of it is left."""
    assert run_command(["journal", str(cache), "--discard", "--force"]) == 0
    assert "discarded" in capsys.readouterr().out
    assert run_command(["journal", str(cache)]) == 3


def test_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without a journal is code 3 and one line."""
    assert run_command(["journal", str(tmp_path)]) == 3
    assert capsys.readouterr().err.count("\n") == 1
