"""A bucket that has never answered: every command says so within seconds, with the cause and the endpoint."""

from functools import partial
from pathlib import Path

import pytest

from bucketry.cli import options
from bucketry.cli.main import run_command
from bucketry.settings import BucketSettings, RetrySettings
from servers.loopback import Answer, serve


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint at which nobody listens. For a bucket that has been heard of the commands would try for
    ever; the seconds for one that has not are none here."""
    retry = RetrySettings(budget_seconds=1e9, first_contact_seconds=0)
    monkeypatch.setattr(options, "BucketSettings", partial(BucketSettings, retry=retry))
    with serve(lambda _: Answer()) as server:
        pass
    return server.endpoint


@pytest.mark.parametrize(
    "command",
    [
        "create URL --size 1M",
        "info URL",
        "check URL",
        "resize URL 2M",
        "unlock URL --force",
        "erase URL --force",
        "export URL OUT",
        "import IN URL --force",
        "files ls URL",
        "files put IN URL",
        "files get URL name OUT",
        "files cat URL name",
        "files stat URL name",
        "files rm URL name",
    ],
)
def test_every_command_says_so(
    nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """One line, exit code 1, cause and endpoint."""
    (tmp_path / "in").write_bytes(bytes(1 << 20))
    words = {"URL": "s3://bucket/disk", "IN": str(tmp_path / "in"), "OUT": str(tmp_path / "out")}
    arguments = [words.get(word, word) for word in command.split()]
    assert run_command([*arguments, "--endpoint", nobody, "--anonymous"]) == 1
    told = capsys.readouterr().err
    assert f"connection refused (endpoint {nobody})" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
