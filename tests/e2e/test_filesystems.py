"""Real filesystems on disks in buckets: filled, unmounted, mounted cold, checked and compared."""

import subprocess
from pathlib import Path

import pytest

from e2e.places import Place, S3Objects
from e2e.program import Program, run_tool
from e2e.tree import Tree, differences, take_manifest

pytestmark = pytest.mark.system

#: For each filesystem the check of an unmounted disk, which changes nothing and fails when anything is wrong.
CHECKS = {
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n", "-f"),
    "btrfs": ("btrfs", "check", "--readonly"),
}


def _fill_and_compare(program: Program, place: Place, tree: Tree, directory: Path, filesystem: str) -> None:
    """The story of every test here: make, fill, unmount, check, mount cold, compare."""
    with program.mounted(place, directory, "--mkfs", filesystem):
        run_tool("cp", "-a", "--sparse=always", tree.path, directory)
    with program.attached(place, directory) as file:
        run_tool(*CHECKS[filesystem], file)
    with program.mounted(place, directory):
        found = take_manifest(directory / tree.path.name)
        assert differences(tree.manifest, found) == []
        if filesystem == "btrfs":
            # -B: wait for the end, and fail when it finds an error.
            assert "Error summary:    no errors found" in run_tool("btrfs", "scrub", "start", "-B", directory)


@pytest.mark.parametrize("filesystem", CHECKS)
def test_every_file_comes_back(
    filesystem: str, program: Program, place: Place, tree: Tree, tmp_path: Path
) -> None:
    """3,000 real files and odd ones, on S3: after a cold mount every one is as it was, and the filesystem
    is clean."""
    program.create(place, "2G")
    _fill_and_compare(program, place, tree, tmp_path / "disk", filesystem)


def test_every_file_comes_back_from_a_directory(program: Program, tree: Tree, tmp_path: Path) -> None:
    """The same on a bucket that is a local directory."""
    place = Place(f"file://{tmp_path}/bucket")
    program.create(place, "2G")
    _fill_and_compare(program, place, tree, tmp_path / "disk", "ext4")


def test_every_file_comes_back_encrypted_and_compressed(
    program: Program, place: Place, objects: S3Objects, tree: Tree, tmp_path: Path
) -> None:
    """The same, encrypted and compressed: every block is encrypted, and together they take less than half
    the space."""
    password = tmp_path / "password"
    password.write_text("correct horse battery staple\n")
    secret = Place(place.url, [*place.options, "--password-file", str(password)])
    program.create(secret, "2G", "--encrypt", "--compress", "zstd")
    _fill_and_compare(program, secret, tree, tmp_path / "disk", "ext4")
    blocks = objects.list_blocks()
    encodings = {objects.get(key)[1]["Content-Encoding"] for key in blocks}
    assert encodings == {"zstd, encrypt-AES-256-CBC", "encrypt-AES-256-CBC"}
    assert objects.size_bytes() < len(blocks) * (128 << 10) / 2


def test_by_hand(program: Program, place: Place, tree: Tree, tmp_path: Path) -> None:
    """What s3backer's users do: mkfs on the attached file, then mount it with the system's own programs."""
    program.create(place, "2G")
    target = tmp_path / "filesystem"
    target.mkdir()
    source = tree.path / "odd"
    for attempt in ("write", "read"):
        with program.attached(place, tmp_path / "disk") as file:
            if attempt == "write":
                run_tool("mkfs.ext4", "-q", file)
            run_tool("mount", "-o", "loop", file, target)
            try:
                if attempt == "write":
                    run_tool("cp", "-a", "--sparse=always", source, target)
                else:
                    assert differences(take_manifest(source), take_manifest(target / "odd")) == []
            finally:
                subprocess.run(["umount", target], check=True)
            run_tool(*CHECKS["ext4"], file)
