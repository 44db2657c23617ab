"""The order of the rooms: who may import whom, read from the source without running it.

A room imports only from rooms to its left; imports inside functions and for types count as well, since they
bind the rooms together just as much.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bucketry

SOURCE = Path(bucketry.__file__).parent
PACKAGE = "bucketry"

#: From left to right. Rooms in one line may not import each other.
ORDER = (
    ("errors",),
    ("errnos",),
    ("threads",),
    ("settings",),
    ("core",),
    ("bucket",),
    ("codec",),
    ("layout",),
    ("cache",),
    ("disk", "files"),
    ("serve",),
    ("assemble",),
    ("blocking",),
    (PACKAGE,),  # the package's own __init__: what `import bucketry` gives
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
#: The one name that every room may take from the package itself: it is a constant, and the file that
#: defines it imports nothing while it is being imported.
VERSION = f"{PACKAGE}.__version__"
#: Ships with the product but is no part of it: it may use what it tests, and no room may use it.
TESTING = "testing"
TESTING_RANK = RANK["disk"]

#: What core may use: modules that only compute. Clocks, randomness, threads, files, sockets and whatever
#: waits are not among them. One that does no more than that may be added.
# fmt: off
PURE = frozenset({
    "__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "contextlib", "dataclasses",
    "datetime", "enum", "errno", "functools", "hashlib", "heapq", "hmac", "itertools", "json", "math",
    "operator", "re", "string", "struct", "textwrap", "types", "typing", "zlib", "google_crc32c",
})
# fmt: on


def imports_of(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each thing imported."""
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.relative_to(SOURCE.parent).parent.parts
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join((*parents, *filter(None, [node.module])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def room_of(path: Path) -> str:
    """The room that a source file belongs to."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return PACKAGE if parts == ("__init__",) else parts[0]


def room_of_import(name: str) -> str | None:
    """The room that an imported name belongs to; None when it is none of ours."""
    package, _, rest = name.partition(".")
    if package != PACKAGE:
        return None
    room = rest.partition(".")[0]
    return room if room in RANK or room == TESTING else PACKAGE


def faults_of(source: str, path: Path) -> Iterator[str]:
    """One line for each import that is not allowed."""
    room = room_of(path)
    shown = path.relative_to(SOURCE.parent)
    if room not in RANK and room != TESTING:
        yield f"{shown}: {room!r} is no room that tests/test_layers.py knows; give it its place in ORDER"
        return
    for line, name in imports_of(source, path):
        target = room_of_import(name)
        where = f"{shown}:{line}: {name}"
        if name == VERSION:
            continue
        if target is None:
            top = name.partition(".")[0]
            if room == "core" and top not in PURE:
                yield f"{where}: core only decides and encodes, and {top} is not among the PURE modules"
        elif target == room:
            continue
        elif target == TESTING:
            yield f"{where}: {room} is part of the product and must not import the testing tools"
        elif room == TESTING:
            if RANK[target] > TESTING_RANK:
                yield f"{where}: testing may import up to disk and files, and {target} lies to the right"
        elif RANK[target] >= RANK[room]:
            yield f"{where}: {room} may import only from rooms to its left, and {target} is not"


def test_rooms_import_only_from_rooms_to_their_left() -> None:
    """No source file imports from a room that is not to its left, nor does core import what waits."""
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 10
    faults = [fault for path in paths for fault in faults_of(path.read_text(), path)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("bucket/a.py", "from bucketry.core.units import parse_size", None),
        ("bucket/a.py", "import asyncio", None),
        ("core/a.py", "from collections.abc import Mapping", None),
        ("core/a.py", "from bucketry.settings import Secret", None),
        ("core/a.py", "from . import units", None),
        ("testing/a.py", "import bucketry.disk.interface", None),
        ("cli/a.py", "import bucketry", None),
        ("core/a.py", "import math\nimport os.path", "core/a.py:2: os.path: core only decides"),
        ("core/a.py", "def f():\n    import time", "core/a.py:2: time: core only decides"),
        ("core/a.py", "import obstore", "core/a.py:1: obstore: core only decides"),
        ("core/a.py", "from ..bucket import memory", "core may import only from rooms to its left"),
        ("bucket/a.py", "from bucketry import layout", "and layout is not"),
        ("bucket/a.py", "import bucketry.cli.main", "and cli is not"),
        ("bucket/a.py", "from bucketry import open", "and bucketry is not"),
        ("files/a.py", "from bucketry.disk import interface", "and disk is not"),
        ("disk/a.py", "if TYPE_CHECKING:\n    from bucketry.serve import fuse", "disk/a.py:2"),
        ("serve/a.py", "from bucketry.testing import model", "must not import the testing tools"),
        ("__init__.py", "from bucketry import testing", "must not import the testing tools"),
        ("testing/a.py", "import bucketry.serve.fuse", "serve lies to the right"),
        ("utils.py", "", "'utils' is no room"),
    ],
)
def test_the_check_sees_what_it_should(file: str, source: str, expected: str | None) -> None:
    """Allowed imports pass, and each kind of forbidden one is named with its file and line."""
    faults = list(faults_of(source, SOURCE / file))
    if expected is None:
        assert faults == []
    else:
        assert len(faults) == 1
        assert expected in faults[0]
