"""The classic quick start: a disk of 1 TiB in an empty bucket, in seconds and few requests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program, request_count, run_tool
from e2e.tree import Tree, differences, take_manifest

pytestmark = pytest.mark.system

#: 8,388,608 blocks of 128 KiB: whoever touches each of them is not done within a test.
SIZE = "1T"


@dataclass(slots=True)
class Step:
    """One line of the table. ``requests`` None: nobody was left to be asked."""

    name: str
    seconds: float
    requests: int | None
    objects: int


@dataclass(slots=True)
class Story:
    """Steps one after another, each measured; ``requests`` tells how many the serving process has made."""

    objects: S3Objects
    steps: list[Step] = field(default_factory=list)
    _counted: int = 0

    @contextmanager
    def step(self, name: str, requests: Callable[[], int] | None = None) -> Iterator[Step]:
        began = time.monotonic()
        step = Step(name, 0.0, None, 0)
        yield step
        step.seconds = time.monotonic() - began
        if requests is None:
            self._counted = 0
        else:
            total = requests()
            step.requests, self._counted = total - self._counted, total
        step.objects = len(self.objects.list_keys())
        self.steps.append(step)

    def show(self) -> None:
        print("\n\n| step | seconds | requests | objects in the bucket afterwards |\n|---|---|---|---|")
        for step in self.steps:
            requests = "" if step.requests is None else step.requests
            print(f"| {step.name} | {step.seconds:.1f} | {requests} | {step.objects} |")


def test_quick_start(program: Program, place: Place, objects: S3Objects, tree: Tree, tmp_path: Path) -> None:
    """Create, attach, mkfs.ext4, mount, copy, unmount, detach, and all of it again to read: the work is that
    of what is stored, not of 1 TiB."""
    disk, target = tmp_path / "disk", tmp_path / "filesystem"
    disk.mkdir()
    target.mkdir()
    file = disk / "file"
    story = Story(objects)

    def requests() -> int:
        return request_count(program.json("stats", disk))

    with story.step("`bucketry create`, 1 TiB") as create:
        program.create(place, SIZE)
    with story.step("`bucketry attach`", requests) as attach:
        program.run("attach", place.url, disk, *place.options)
    assert file.stat().st_size == 1 << 40
    with story.step("`mkfs.ext4`", requests) as mkfs:
        run_tool("mkfs.ext4", "-q", file)
    with story.step("`mount -o loop`", requests):
        run_tool("mount", "-o", "loop", file, target)
    try:
        with story.step(f"`cp -a` of {tree.file_count} files, `sync`", requests) as copy:
            run_tool("cp", "-a", "--sparse=always", tree.path, target)
            run_tool("sync", "-f", target)
    finally:
        with story.step("`umount`", requests):
            run_tool("umount", target)
    with story.step("`bucketry umount`"):
        program.run("umount", disk)
    with story.step("`bucketry mount`, a new process", requests) as mount:
        program.run("mount", place.url, disk, *place.options)
    with story.step("reading every file", requests) as read:
        found = take_manifest(disk / tree.path.name)
    with story.step("`bucketry umount`"):
        program.run("umount", disk)
    story.show()

    assert differences(tree.manifest, found) == []
    # Bounds with room: what is wrong by design is wrong by factors. ext4 on 1 TiB has some 640 blocks of
    # metadata that are not zero; the files take one object for each 128 KiB, and their metadata less.
    data_blocks = -(-_stored_bytes(tree) // (128 << 10))
    assert create.objects == 1
    assert attach.requests is not None
    # Two of them find out whether the store keeps the condition of a put, each kind of condition.
    assert attach.requests <= 11
    assert mkfs.requests is not None
    assert mkfs.objects <= 2000
    assert mkfs.requests <= 2 * mkfs.objects
    assert copy.requests is not None
    assert copy.objects - mkfs.objects <= 2 * data_blocks
    assert copy.requests <= 4 * data_blocks
    # Soon after mounting, ext4 reads its bitmaps in the background: when, is its own affair.
    assert mount.requests is not None
    assert read.requests is not None
    assert mount.requests + read.requests <= 2 * data_blocks + mkfs.objects


def _stored_bytes(tree: Tree) -> int:
    """What the files take on a disk, holes left out."""
    return sum(path.lstat().st_blocks * 512 for path in tree.path.rglob("*"))
