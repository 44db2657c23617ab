"""What tests of the whole program share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program
from e2e.tree import Tree, make_tree
from servers.seaweed import Seaweed


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The bucketry program; what a failed test leaves mounted is taken away."""
    program = Program(tmp_path)
    yield program
    program.clean_up()


@pytest.fixture
def objects(seaweed: Seaweed) -> S3Objects:
    """A new bucket on SeaweedFS."""
    return S3Objects(seaweed)


@pytest.fixture
def place(seaweed: Seaweed, objects: S3Objects, tmp_path: Path) -> Place:
    """A disk at the top of that bucket."""
    return objects.place(seaweed.access_file(tmp_path / "access"))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A real tree of at least 3,000 files."""
    return make_tree(tmp_path_factory.mktemp("tree") / "tree")
