"""What the documents say exists, exists: links between them, commands, options, make targets, the example."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bucketry.cli.main import cli

_ROOT = Path(__file__).parents[1]
_DOCUMENTS = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")


def _anchors(text: str) -> set[str]:
    """The names that headings can be linked by."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(_ROOT)))
def test_links_between_documents_resolve(document: Path) -> None:
    """Every relative link leads to a file, and its anchor to a heading."""
    for link in _LINK.findall(document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            assert anchor in _anchors(target.read_text()), f"{document.name} links to {link}"


def _bucketry_lines() -> list[tuple[str, str]]:
    """Each use of the program in a document: in blocks of code, and in the running text."""
    found: list[tuple[str, str]] = []
    for document in _DOCUMENTS:
        if document.name == "format.md":
            # It quotes what lies in objects, which may begin with our name.
            continue
        text = document.read_text()
        blocks = [body for _, body in _FENCE.findall(text)]
        lines = [line.strip().lstrip("#$ ") for body in blocks for line in body.splitlines()]
        lines += _CODE.findall(_FENCE.sub("", text))
        found += [(document.name, line) for line in lines if re.match(r"bucketry [a-z-]", line)]
    return found


@pytest.mark.parametrize(("document", "line"), sorted(set(_bucketry_lines())))
def test_commands_exist_with_their_options(document: str, line: str) -> None:
    """Every command and every long option that a document names is one of the program's."""
    context = click.Context(cli)
    known = {option for parameter in cli.params for option in parameter.opts}
    _, *words = shlex.split(line, comments=True)
    while words and words[0].startswith("-"):
        assert words.pop(0) in known, f"{document}: {line}"
    if not words or not re.fullmatch(r"[a-z]+", words[0]):
        # bucketry COMMAND --help: any of them.
        return
    command = cli.get_command(context, words.pop(0))
    assert command is not None, f"{document}: {line}"
    if isinstance(command, click.Group):
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            # bucketry files …: any of its commands.
            return
        command = command.get_command(context, words.pop(0))
        assert command is not None, f"{document}: {line}"
    options = {option for parameter in command.get_params(context) for option in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{document}: {line}"


def test_make_targets_exist() -> None:
    """Every `make x` in a document is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in _DOCUMENTS:
        named = re.findall(r"(?:`|^\s*\$ )make ([a-z][a-z-]*)", document.read_text(), re.MULTILINE)
        assert set(named) <= targets, document.name


def _run_twice(example: str, directory: Path) -> list[tuple[str, str]]:
    """What an example prints, to standard output and standard error, the first time and once more in the same
    place."""
    answers = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            env={**os.environ, "TMPDIR": str(directory)},
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        for _ in range(2)
    ]
    return [(answer.stdout, answer.stderr) for answer in answers]


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """The Python example does what it says, as it stands and as often as one likes."""
    blocks = _FENCE.findall((_ROOT / "README.md").read_text())
    (example,) = (body for kind, body in blocks if kind == "python")
    check = """
with bucketry.open(url) as disk:
    disk.seek(512 << 20)
    print(disk.read(5))
"""
    assert _run_twice(example + check, tmp_path) == [("b'hello'\n", "")] * 2


def test_the_example_of_the_page_on_files_runs(tmp_path: Path) -> None:
    """The first Python example does what its comments say, as it stands and as often as one likes."""
    blocks = _FENCE.findall((_ROOT / "docs" / "files.md").read_text())
    example = next(body for kind, body in blocks if kind == "python")
    assert _run_twice(example, tmp_path) == [("['a-0001'] True 18\nb'finished'\n", "")] * 2
    assert all(path.name.startswith("tmp") for path in tmp_path.iterdir())


def test_no_example_uses_a_place_that_others_share() -> None:
    """A second user, or a second run, would find it taken."""
    for document in _DOCUMENTS:
        for kind, body in _FENCE.findall(document.read_text()):
            if kind == "python":
                assert not re.search(r"['\"/]/(var/)?tmp\b", body), f"{document.name}: {body}"
