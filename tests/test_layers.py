"""Rooms import only from rooms to their left, and core imports nothing that waits or touches the world."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[1] / "src"
_PACKAGE = _SOURCE / "bucketry"
#: From left to right; rooms of one entry do not know each other.
_ROOMS: list[set[str]] = [
    {"errors", "settings"},
    {"core"},
    {"bucket"},
    {"codec"},
    {"layout"},
    {"cache"},
    {"disk", "files"},
    {"testing"},
    {"serve"},
    {"assemble"},
    {"cli"},
]
#: The package's own front door stands outside of the row.
_DOORS = {"__init__"}
_RANKS = {room: rank for rank, rooms in enumerate(_ROOMS) for room in rooms}
#: Modules of the standard library through which the world comes in.
_WORLD = {
    "asyncio", "concurrent", "datetime", "fcntl", "glob", "http", "io", "logging", "mmap", "multiprocessing",
    "os", "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip


def _modules() -> list[Path]:
    return sorted(_PACKAGE.rglob("*.py"))


def _room(module: Path) -> str:
    return module.relative_to(_PACKAGE).parts[0].removesuffix(".py")


def _imports(module: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that the module imports, within functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            # ``from bucketry import errors`` names the module in the second half.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("module", _modules(), ids=lambda path: str(path.relative_to(_PACKAGE)))
def test_a_module_imports_from_its_left(module: Path) -> None:
    """No import points to a room further right, nor across to a room of the same rank."""
    room = _room(module)
    if room in _DOORS:
        return
    assert room in _RANKS, f"{room} is no room of the architecture: docs/architecture.md"
    for line, name in _imports(module):
        parts = name.split(".")
        if parts[0] != "bucketry" or len(parts) < 2 or parts[1] == room:
            continue
        target = parts[1]
        # A name of the package itself (its version), not a room.
        if target not in _RANKS:
            assert target.startswith("__"), f"{module}:{line} imports {name}: say from which module"
            continue
        same = {room, target} <= _ROOMS[0]
        assert _RANKS[target] < _RANKS[room] or same, f"{module}:{line}: {room} must not import {target}"


@pytest.mark.parametrize(
    "module", [each for each in _modules() if _room(each) == "core"], ids=lambda path: path.stem
)
def test_core_imports_nothing_of_the_world(module: Path) -> None:
    """What decides and encodes is given the time, the dice and the bytes."""
    for line, name in _imports(module):
        assert name.split(".")[0] not in _WORLD, f"{module}:{line} imports {name}"
