"""What holds for every command that a test runs in this process."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from bucketry.cli import main
from exit_codes import check_documented


@pytest.fixture(autouse=True)
def exit_codes_are_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command ends with a code that its --help names."""
    failed = main._failed

    def checked(error: BaseException, arguments: Sequence[str], meta: MutableMapping[str, Any]) -> int:
        code = failed(error, arguments, meta)
        check_documented(arguments, code)
        return code

    monkeypatch.setattr(main, "_failed", checked)
